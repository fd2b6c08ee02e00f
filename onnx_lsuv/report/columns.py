"""The columns of every table, once for all formats.

A table is a list of rows, each the values by key. A format picks columns, in its own order, and tells a value by its
kind: a "name" from the file, "names", a "scope" ("main" for the model's own graph), a short "word", a "text", a "chain"
of operators, "dims", "matrices" (how many, rows, columns), a "number", a "count", a "share" ("3 of 4", "0.5 to 2"), or
an "outcome" (a layer, whose status and note are told).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from onnx_lsuv.lsuv import LayerReport, Result
from onnx_lsuv.lsuv.notes import FAINT

MANY = 0.1  # dead units, or saturated values: from there on worth a column
RIGHT = frozenset({"number", "count", "share"})  # kinds that are aligned so
MEASURED = "measured {when}; newer versions may differ"  # what trains where


def _something(values: Sequence[Any]) -> bool:
    return any(value is not None and value != () for value in values)


def _several(values: Sequence[Any]) -> bool:
    return len(set(values)) > 1


def _faint(shares: Sequence[Any]) -> bool:
    return any(share is not None and share < FAINT for share in shares)


def _many(shares: Sequence[Any]) -> bool:
    return any(share is not None and share > MANY for share in shares)


def _elsewhere(scopes: Sequence[Any]) -> bool:
    return set(scopes) != {"main"}


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table."""

    key: str
    heading: str
    kind: str
    shown: Callable[[Sequence[Any]], bool] = _something  # whether these values are worth a column
    short: str = ""  # the heading where room is dear
    least: int = 0  # in a terminal, where room is lacking: it may be shortened to so many characters; 0: never
    drop: int = 0  # and the highest number goes first; 0: never


# The fields of a layer, in the order of JSON and CSV.
FIELDS = (
    Column("name", "layer", "name", least=12),
    Column("op", "op", "word", drop=8),
    Column("weight", "weight", "name", least=10, drop=10),
    Column("scope", "graph", "scope", _elsewhere, least=8, drop=13),
    Column("path", "through", "chain", least=8, drop=11),
    Column("shape", "shape", "dims", drop=9),
    Column("dtype", "type", "word", _several, drop=12),
    Column("blocks", "blocks", "count"),
    Column("fan_out", "fan out", "count"),
    Column("fan_in", "fan in", "count"),
    Column("init", "init", "word"),
    Column("target", "std wanted", "number", _several, short="target", drop=6),
    Column("status", "status", "word"),
    Column("std_drawn", "std drawn", "number", drop=7),
    Column("scale", "scale", "number", drop=5),
    Column("mean", "mean now", "number"),
    Column("std", "std now", "number", drop=1),
    Column("signal", "signal share", "number", _faint, short="signal", drop=4),
    Column("dead", "dead units", "number", _many, short="dead", drop=14),
    Column("saturated", "saturated", "number", _many, drop=15),
    Column("std_before", "std before", "number"),
    Column("note", "note", "text"),
)
STD_OTHER = Column("std_other", "std other", "number", drop=2)
_MADE = (
    Column("place", "#", "count"),
    Column("matrices", "matrices", "matrices", drop=3),
    Column("outcome", "status", "outcome"),
)
LAYERS = (*FIELDS, STD_OTHER, *_MADE)
# Nodes that were left alone for one reason.
SKIPPED = (
    Column("reason", "reason", "word"),
    Column("detail", "why", "text"),
    Column("nodes", "nodes", "count"),
    Column("op", "op", "word"),
    Column("std", "std of output", "share"),
    Column("names", "names", "names"),
)
SUMS = (
    Column("name", "sum", "name"),
    Column("place", "after layer", "count"),
    Column("std", "std", "number"),
    Column("mean", "mean", "number"),
    Column("stream", "stream", "count", _several),
    Column("op", "op", "word", _several),
)
ROLES = (
    Column("tensor", "tensor", "name", least=12),
    Column("scope", "graph", "scope", _elsewhere, least=8, drop=4),
    Column("dims", "shape", "dims", drop=3),
    Column("role", "role", "word"),
    Column("evidence", "told by", "word", drop=2),
    Column("fate", "what happens", "word"),
)
TRAINS = (
    Column("importer", f"importer, {MEASURED.format(when='then')}", "text"),
    Column("as_is", "as is", "share"),
    Column("portable", "--portable", "share"),
    Column("framework", "framework", "word"),
    Column("told", "what blocks, or is worth knowing", "text"),
)
INPUTS = (
    Column("input", "input", "name"),
    Column("type", "type", "word"),
    Column("shape", "shape of a batch", "dims"),
    Column("batches", "batches", "count"),
    *(Column(moment, moment, "number", bool) for moment in ("mean", "std", "min", "max")),
)
Filled = list[tuple[Column, list[Any]]]


def filled(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]], keys: str = "", always: str = "") -> Filled:
    """Return the columns of these keys in their order, or all, each with its values.

    A column that says nothing is left out, unless its key is in `always`.
    """
    by_key = {column.key: column for column in columns}
    found = [(by_key[key], [row.get(key) for row in rows]) for key in keys.split() or by_key]
    return [(column, values) for column, values in found if column.key in always.split() or column.shown(values)]


def layers_of(result: Result, other: Result | None, keys: str, always: str = "") -> Filled:
    """Return the columns of the table of layers; arguments as for `filled`."""
    return filled(LAYERS, rows_of(result, other), keys, always)


def rows_of(result: Result, other: Result | None = None) -> list[dict[str, Any]]:
    """Return the rows of the table of layers, each with the std of its counterpart in the other result."""
    there = aligned(result.layers, other.layers if other is not None else ())
    return [
        {column.key: getattr(layer, column.key) for column in FIELDS}
        | {"std_other": match and match.std, "place": i + 1, "outcome": layer}
        | {"matrices": (layer.blocks, layer.fan_out, layer.fan_in)}
        for i, (layer, match) in enumerate(zip(result.layers, there, strict=True))
    ]


def aligned(rows: Sequence[LayerReport], others: Sequence[LayerReport]) -> list[LayerReport | None]:
    """Return for each row the other result's row of that name; where no name is shared, that of the same place."""
    by_name = {row.name: row for row in others}
    found = [by_name.get(row.name) for row in rows]
    return found if any(found) else [*others[: len(rows)], *[None] * (len(rows) - len(others))]


def number(value: float | None) -> str:
    """Return a number with four significant digits, in a width that lines up."""
    if value is None:
        return "-"
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.4f}" if abs(value) < 1000 else f"{value:.1f}"
    return f"{value:.2e}"


def shape(dims: Sequence[int] | None) -> str:
    """Return a shape as 64x3x7x7."""
    return "-" if dims is None else "x".join(map(str, dims)) or "scalar"


_TOLD: dict[str, Callable[[Any], str]] = {
    "chain": lambda path: " > ".join(path) or "-",
    "dims": shape,
    "matrices": lambda value: "{} x ({}, {})".format(*value),
    "number": number,
    "outcome": attrgetter("status"),
}


def plain(kind: str, value: Any) -> str:
    """Return a value as plain text, "-" for none: what a format does that has no way of its own for this kind."""
    return "-" if value is None else _TOLD.get(kind, str)(value)
