"""A result as text for a terminal or a log: a table of layers, what was left alone, a summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnx_lsuv.errors import clean
from onnx_lsuv.lsuv import LayerReport, Result, SkippedReport
from onnx_lsuv.report.layout import Column, number, painted, shape, table, wrapped
from onnx_lsuv.report.training import sentences
from onnx_lsuv.report.verdict import groups, told

CAUSES = 10  # lines that say why a layer is as it is, unless every one is asked for
PAINT = {"ok": "green", "not-reached": "yellow", "off": "red", "degenerate": "red"}


@dataclass(frozen=True, slots=True)
class _Page:
    """How wide lines may be, and what they may hold."""

    width: int
    color: bool
    encoding: str
    wrap: bool

    def name(self, given: str) -> str:
        """Return a name from the file with everything escaped that could hide, move the cursor or not be shown."""
        return clean(given).encode(self.encoding, "backslashreplace").decode(self.encoding)

    def block(self, lines: Sequence[str]) -> str:
        """Return sentences below each other, broken to the width where that is wanted."""
        return "\n".join(wrapped(line, self.width if self.wrap else None) for line in lines)


def text(
    result: Result,
    width: int = 100,
    *,
    color: bool = False,
    encoding: str = "utf-8",
    wrap: bool = False,
    verbose: bool = False,
    other: Result | None = None,
    trains: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Return the table of layers, what was left alone, and a summary.

    Args:
        result: what to show.
        width: in columns of a terminal; names are shortened and columns left out to keep to it.
        color: paint the statuses.
        encoding: characters that it lacks are escaped before anything is aligned.
        wrap: break sentences to the width too.
        verbose: name every node that was left alone, and the data.
        other: another model measured on the same data, whose std is shown beside.
        trains: what trains where, as for `training.sentences`.
    """
    page = _Page(width, color, encoding, wrap)
    parts = []
    if result.layers:
        parts.append(table(_columns(page, result, other), width, color=color))
    if other is not None:
        parts.append(_only_there(page, result, other))
    parts += [_causes(page, result.layers, verbose), _left(page, result.skipped, every=verbose), _stale(page, result)]
    parts.append(page.block([f"note: {page.name(note)}" for note in result.notes]))
    parts.append(page.block(list(map(page.name, sentences(trains)))))
    parts += [_data(page, result)] if verbose else []
    return "\n\n".join([*filter(None, parts), page.block(summary(result).splitlines())])


def plan(
    result: Result,
    width: int = 100,
    *,
    encoding: str = "utf-8",
    wrap: bool = False,
    verbose: bool = False,
    trains: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Return what would be done with every node that has a weight: its matrices, and why; arguments as for `text`."""
    page = _Page(width, False, encoding, wrap)
    parts = []
    if result.layers:
        rows = result.layers
        columns = [
            Column("layer", [page.name(row.name) for row in rows], least=12),
            Column("op", [page.name(row.op) for row in rows], drop=3),
            Column("weight", [page.name(row.weight) for row in rows], least=10, drop=5),
            Column("shape", [shape(row.shape) for row in rows], drop=4),
            Column("matrices", [f"{row.blocks} x ({row.fan_out}, {row.fan_in})" for row in rows], drop=2),
            Column("status", [row.status for row in rows]),
        ]
        if any(row.path for row in rows):
            chain = Column("through", [page.name(" > ".join(row.path)) or "-" for row in rows], least=8, drop=6)
            columns.insert(3, chain)
        if verbose:
            columns.insert(3, Column("type", [row.dtype for row in rows], drop=7))
            if any(row.scope != "main" for row in rows):
                columns.insert(1, Column("graph", [page.name(row.scope) for row in rows], least=8, drop=8))
        parts.append(table(columns, width))
        fates: dict[str, list[str]] = {}
        for row in rows:
            fates.setdefault(row.note, []).append(page.name(row.name))
        lines = [f"  {page.name(note)}: {len(names)} ({_some(names, verbose)})" for note, names in fates.items()]
        parts.append(page.block(["what would happen:", *lines]))
    parts += [_left(page, result.skipped, every=True), _stale(page, result)]
    parts.append(page.block([f"note: {page.name(note)}" for note in result.notes]))
    parts.append(page.block(list(map(page.name, sentences(trains)))))
    return "\n\n".join([*filter(None, parts), page.block(summary(result).splitlines())])


def _some(names: Sequence[str], every: bool) -> str:
    return ", ".join(names) if every or len(names) <= 4 else f"{', '.join(names[:3])}, and {len(names) - 3} more"


def _columns(page: _Page, result: Result, other: Result | None) -> list[Column]:
    rows = result.layers
    drawn = []
    if any(row.std_drawn is not None for row in rows):
        drawn.append(Column("std drawn", [number(row.std_drawn) for row in rows], ">", drop=4))
    if any(row.scale is not None for row in rows):
        drawn.append(Column("scale", [number(row.scale) for row in rows], ">", drop=3))
    if len({row.target for row in rows}) > 1:
        drawn.append(Column("target", [number(row.target) for row in rows], ">", drop=4))
    there = [] if other is None else [Column("std other", beside(result, other), ">", drop=2)]
    return [
        Column("layer", [page.name(row.name) for row in rows], least=12),
        Column("op", [page.name(row.op) for row in rows], drop=5),
        Column("weight", [page.name(row.weight) for row in rows], least=10, drop=7),
        Column("shape", [shape(row.shape) for row in rows], drop=6),
        *drawn,
        Column("std now", [number(row.std) for row in rows], ">", drop=1),
        *there,
        Column("status", [row.status for row in rows], paint=PAINT),
    ]


def beside(result: Result, other: Result) -> list[str]:
    """Return each layer's std in another result: by name, or by place where the two share no name."""
    stds = {row.name: row.std for row in other.layers}
    if not any(row.name in stds for row in result.layers):
        stds = {mine.name: row.std for mine, row in zip(result.layers, other.layers, strict=False)}
    return [number(stds.get(row.name)) for row in result.layers]


def _only_there(page: _Page, result: Result, other: Result) -> str:
    here = {row.name for row in result.layers}
    if not any(row.name in here for row in other.layers):
        return ""
    names = [page.name(row.name) for row in other.layers if row.name not in here]
    return page.block([f"only in the other model: {_some(names, False)}"]) if names else ""


def _causes(page: _Page, layers: Sequence[LayerReport], every: bool) -> str:
    lines = []
    for row in layers:
        if row.good and row.status != "not-reached":
            continue
        lines.append((row.status, f"{row.status}: {page.name(row.name)}: {page.name(told(row))}"))
    shown = lines if every or len(lines) <= CAUSES else lines[: CAUSES - 1]
    parts = []
    for status, line in shown:
        whole = page.block([line])
        parts.append(painted(status, PAINT.get(status)) + whole[len(status) :] if page.color else whole)
    return "\n".join([*parts, *([f"and {len(lines) - len(shown)} more"] if len(shown) < len(lines) else [])])


def _left(page: _Page, left: Sequence[SkippedReport], *, every: bool) -> str:
    if not left:
        return ""
    lines = ["left alone:"]
    for rows in groups(left):
        names = _some([page.name(row.name) for row in rows], every)
        lines.append(
            f"  {rows[0].reason}: {len(rows)} x {page.name(rows[0].op)} ({names}): {page.name(rows[0].detail)}"
        )
    return page.block(lines)


def _stale(page: _Page, result: Result) -> str:
    return page.block(
        [f"statistics kept: {page.name(row.name)}: {page.name(row.detail)}" for row in result.kept_statistics]
    )


def _data(page: _Page, result: Result) -> str:
    lines = []
    for name, given in result.data.get("inputs", {}).items():
        moments = ", ".join(f"{key} {number(given[key])}" for key in ("mean", "std", "min", "max") if key in given)
        lines.append(f"input {page.name(name)}: {given['type']} {given['shape']}{', ' * bool(moments)}{moments}")
    return page.block(lines)


def summary(result: Result) -> str:
    """Return the verdict in one line, and the seconds of each phase."""
    counts = Counter(row.status for row in result.layers)
    states = ", ".join(f"{n} {status}" for status, n in counts.items())
    stds = [row.std for row in result.layers if row.std is not None and row.status in ("ok", "off")]
    spread = f"; std {min(stds):.4f} to {max(stds):.4f}" if stds else ""
    extra = []
    statistics = sum(c.role == "statistics" for c in result.changes) // 2
    if statistics:
        extra.append(f"statistics of {_count(statistics, 'BatchNormalization')} set")
    biases = sum(c.role == "bias" for c in result.changes)
    if biases:
        to = "centre its layer" if biases == 1 else "centre their layers"
        aim = f"set to {to if result.settings.center else 'zero'}"
        extra.append(f"{_count(biases, 'bias', 'biases')} {aim}")
    moved = sum(c.became_initializer for c in result.changes)
    if moved:
        extra.append(f"{_count(moved, 'constant became an initializer', 'constants became initializers')}")
    times = ", ".join(f"{phase} {seconds:.2f} s" for phase, seconds in result.seconds.items())
    samples, batches = result.data.get("samples"), result.data.get("batches")
    ran = f"{_count(samples, 'sample')} in {_count(batches, 'batch', 'batches')} " if batches else ""
    return "\n".join(
        line
        for line in (
            f"{_count(len(result.layers), 'layer')}{': ' * bool(states)}{states}{spread}",
            "; ".join(extra),
            f"{ran}on {result.device}; {times}" if times else "",
        )
        if line
    )


def _count(n: Any, one: str, many: str | None = None) -> str:
    return f"{'no' if n is None else n} {one if n == 1 else many or one + 's'}"
