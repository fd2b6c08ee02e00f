"""The tables and lists of the page; each is "" where it would be empty."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnx_lsuv.lsuv import Change, LayerReport, Result, SkippedReport
from onnx_lsuv.report.layout import number, shape
from onnx_lsuv.report.markup import brief, code, escaped
from onnx_lsuv.report.training import HEAD, cells
from onnx_lsuv.report.verdict import groups

_NAMES = 8  # of the nodes left alone for one reason
_PLURALS = {"bias": "biases", "statistics": "statistics"}


@dataclass(frozen=True, slots=True)
class _Column:
    """A column: its head, its cells as HTML, and for numbers what to sort by ("": nothing)."""

    head: str
    cells: Sequence[str]
    kind: str = ""  # the class of its cells
    keys: Sequence[str] | None = None

    def cell(self, i: int) -> str:
        kind = f' class="{self.kind}"' if self.kind else ""
        key = f' data-v="{self.keys[i]}"' if self.keys is not None else ""
        return f"<td{kind}{key}>{self.cells[i]}</td>"


def layers(rows: Sequence[LayerReport], against: Sequence[LayerReport | None] | None, other: str) -> str:
    """Return the table of layers; a column in which no row has anything to say is left out.

    Args:
        rows: of the table.
        against: for each row that of the other result, if there is one.
        other: the other model's name.
    """
    if not rows:
        return ""
    mixed, several = len({row.dtype for row in rows}) > 1, len({row.target for row in rows}) > 1
    columns = [
        _numbers("#", [i + 1 for i in range(len(rows))], str),
        _Column("layer", [code(row.name) for row in rows]),
        _Column("graph", ["" if row.scope == "main" else code(row.scope) for row in rows]),
        _Column("op", [brief(row.op) for row in rows], "k"),
        _Column("weight", [code(row.weight) for row in rows]),
        _Column("through", [escaped(" > ".join(row.path)) for row in rows], "w"),
        _Column("shape", [shape(row.shape) for row in rows], "k"),
        _Column("type", [row.dtype if mixed else "" for row in rows], "k"),
        _Column("matrices", [_matrices(row) for row in rows], "k"),
        _numbers("std wanted", [row.target if several else None for row in rows]),
        _numbers("std drawn", [row.std_drawn for row in rows]),
        _numbers("scale", [row.scale for row in rows]),
        _numbers("mean now", [row.mean for row in rows]),
        _numbers("std now", [row.std for row in rows]),
    ]
    if against is not None:
        columns.append(_numbers(f"std of {code(other, 24)}", [None if row is None else row.std for row in against]))
    columns.append(_Column("status", [_status(row) for row in rows]))
    marks = [f' id="layer-{i + 1}"' + ("" if row.good else ' class="missed"') for i, row in enumerate(rows)]
    return _table("Layers", [each for each in columns if any(each.cells)], marks, sortable=True)


def left(rows: Sequence[SkippedReport]) -> str:
    """Return what was left alone, grouped by reason, each with its first names."""
    found = groups(rows)
    if not found:
        return ""
    return _table(
        "Left alone",
        [
            _Column("reason", [escaped(group[0].reason) for group in found], "k"),
            _Column("why", [escaped(group[0].detail) for group in found], "w"),
            _numbers("nodes", [len(group) for group in found], str),
            _Column("op", [brief(group[0].op) for group in found], "k"),
            _Column("names", [_some(group) for group in found], "w"),
        ],
    )


def trains(found: Sequence[Mapping[str, Any]]) -> str:
    """Return how each framework's importer takes the file."""
    if not found:
        return ""
    rows = [cells(each) for each in found]
    kinds = ("k", "n", "n", "k", "w")
    columns = [
        _Column(head, [escaped(row[i]) for row in rows], kind)
        for i, (head, kind) in enumerate(zip(HEAD, kinds, strict=True))
    ]
    return _table("What trains where", columns)


def stale(rows: Sequence[SkippedReport]) -> str:
    """Return the BatchNormalizations that keep their stored statistics."""
    return listed(f"{code(row.name)}: {escaped(row.detail)}" for row in rows)


def data(about: Mapping[str, Any]) -> str:
    """Return what the data are: the inputs with their moments, and where they came from."""
    inputs = about.get("inputs", {})
    if not inputs:
        return ""
    given = list(inputs.values())
    columns = [
        _Column("input", [code(name) for name in inputs]),
        _Column("type", [escaped(str(each["type"])) for each in given], "k"),
        _Column("shape of a batch", [shape(each["shape"]) for each in given], "k"),
        _numbers("batches", [each["batches"] for each in given], str),
        *(_numbers(name, [each.get(name) for each in given]) for name in ("mean", "std", "min", "max")),
    ]
    sources = [_source(each) for each in about.get("sources", ())]
    return _table("Inputs", columns) + (f'<div class="after">{listed(sources)}</div>' if sources else "")


def changes(rows: Sequence[Change]) -> str:
    """Return the tensors that changed, folded, a list for each role."""
    roles: dict[str, list[Change]] = {}
    for row in rows:
        roles.setdefault(row.role, []).append(row)
    parts = []
    for role, group in roles.items():
        items = "".join(f"<li>{_change(row)}</li>" for row in group)
        title = f"{len(group)} {escaped(_PLURALS.get(role, role + 's') if len(group) > 1 else role)}"
        parts.append(f'<details><summary>{title}</summary><ul class="tensors">{items}</ul></details>')
    return "\n".join(parts)


def made(result: Result, about: Mapping[str, Any]) -> str:
    """Return the files, the settings, the seconds and the versions."""
    facts: dict[str, str] = {}
    for role, file in about.get("files", {}).items():
        facts[role] = f'{code(str(file["path"]))}<span class="note">SHA-256 {code(str(file["sha256"]))}</span>'
    facts["std wanted"] = number(result.target_std)
    facts["tolerance"] = "default" if result.tolerance is None else f"{result.tolerance:g}"
    facts |= {key: _setting(value) for key, value in result.settings.items() if value not in ("", [], None)}
    facts["device"] = escaped(result.device)
    facts["seconds"] = ", ".join(f"{escaped(phase)} {seconds:.2f}" for phase, seconds in result.seconds.items())
    facts["versions"] = ", ".join(f"{escaped(k)} {escaped(str(v))}" for k, v in about.get("versions", {}).items())
    items = "".join(f"<dt>{escaped(k).replace('_', ' ')}</dt><dd>{v}</dd>" for k, v in facts.items() if v)
    return f'<dl class="made">{items}</dl>'


def listed(items: Iterable[str]) -> str:
    """Return a list of items that are HTML."""
    lines = "".join(f"<li>{item}</li>" for item in items)
    return f"<ul>{lines}</ul>" if lines else ""


def _table(label: str, columns: Sequence[_Column], marks: Sequence[str] = (), *, sortable: bool = False) -> str:
    """Return a table in a box that scrolls by itself; `marks` are the attributes of the rows."""
    heads = "".join(
        '<th scope="col"' + (' class="n"' if each.kind == "n" else "") + f">{each.head}</th>" for each in columns
    )
    lines = [
        f"<tr{marks[i] if marks else ''}>{''.join(each.cell(i) for each in columns)}</tr>"
        for i in range(len(columns[0].cells))
    ]
    kind = ' class="sortable"' if sortable else ""
    return (
        f'<div class="box" role="region" aria-label="{label}" tabindex="0"><table{kind}>'
        f"<thead><tr>{heads}</tr></thead>\n<tbody>\n" + "\n".join(lines) + "\n</tbody></table></div>"
    )


def _numbers(head: str, values: Sequence[float | None], shown: Any = number) -> _Column:
    """Return a column of numbers; NaN sorts with what is missing."""
    cells = ["" if value is None else escaped(shown(value)) for value in values]
    keys = ["" if value is None or math.isnan(value) else repr(value).replace("inf", "Infinity") for value in values]
    return _Column(head, cells, "n", keys)


def _matrices(row: LayerReport) -> str:
    one = f"{row.fan_out} &times; {row.fan_in}"
    return one if row.blocks == 1 else f"{row.blocks} of {one}"


def _status(row: LayerReport) -> str:
    note = f'<span class="note">{escaped(row.note)}</span>' if row.note else ""
    return f'<span class="{row.status}">{row.status}</span>{note}'


def _some(group: Sequence[SkippedReport]) -> str:
    more = f" and {len(group) - _NAMES} more" if len(group) > _NAMES else ""
    return ", ".join(code(row.name) for row in group[:_NAMES]) + more


def _source(source: Mapping[str, Any]) -> str:
    inputs = ", ".join(code(name) for name in source["inputs"])
    path = f" {code(str(source['path']))}" if "path" in source else ""
    files = f", {source['files']} files" if source.get("files", 1) > 1 else ""
    seed = f", seed {source['seed']}" if "seed" in source else ""
    return f"{inputs}: {escaped(source['kind'])}{path}{files}{seed}"


def _change(row: Change) -> str:
    scope = "" if row.scope == "main" else f" in {code(row.scope)}"
    return code(row.tensor) + scope + (" (became an initializer)" if row.became_initializer else "")


def _setting(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(code(str(each)) for each in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{code(str(k))} = {escaped(str(v))}" for k, v in value.items())
    return escaped(str(value))
