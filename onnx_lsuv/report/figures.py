"""The figures of the page as inline SVG.

Places are in percent of the figure, so it fills any width; sizes of marks and text are in pixels, so they stay legible.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from onnx_lsuv.errors import clean
from onnx_lsuv.lsuv import LayerReport, SumReport
from onnx_lsuv.report.axes import LogAxis, count_ticks, log_axis
from onnx_lsuv.report.columns import number, shape
from onnx_lsuv.report.layout import shortened
from onnx_lsuv.report.sections import escaped

DIAMOND = '<path class="diamond" d="M0-5 5 0 0 5-5 0Z"/>'
_TELL = 46  # characters of a name that fit a phone
_BINS = 24
_WIDTHS = (0.05, 0.1, 0.2, 0.5, 1.0)  # of a bin, in decades


@dataclass(frozen=True, slots=True)
class Series:
    """One std, or share of signal, for each layer, None where there is none."""

    mark: str  # the class that draws it: "before", "drawn", "now", "other" or "signal"
    name: str
    values: Sequence[float | None]


def profile(rows: Sequence[LayerReport], series: Sequence[Series], sums: Sequence[SumReport] = ()) -> str:
    """Return the std of each layer, on a log axis, through the depth of the net, and of residual sums in between.

    Each layer is a link to its row in the table, `#layer-N`; pointed at or focused, it tells its numbers.
    """
    values = [*(value for each in series for value in each.values), *(row.std for row in sums)]
    shown = [value for value in values if value is not None and _drawable(value)]
    axis = log_axis(map(math.log10, [*shown, *(row.target for row in rows if row.target)]))
    n = len(rows)
    parts = [f'<svg class="profile {_size(n)[0]}" role="group" aria-label="std of each layer\'s output">']
    for place, label in axis.ticks(8):
        y = _percent(100 - place)
        parts.append(f'<line class="grid" x2="100%" y1="{y}" y2="{y}"/><text class="y" x="-10" y="{y}">{label}</text>')
    for i in count_ticks(n, 10):
        parts.append(f'<text class="x" x="{_percent(100 * (i - 0.5) / n)}" y="100%">{i}</text>')
    paths = [f'<path class="target" d="{_steps([_y(axis, row.target) for row in rows])}"/>']
    paths += [f'<path class="{each.mark}" d="{_path([_y(axis, v) for v in each.values])}"/>' for each in series]
    paths += [f'<path class="sum" d="{_ways(axis, n, sums)}"/>'] if sums else []
    parts.append(f'<svg viewBox="0 0 1000 1000" preserveAspectRatio="none">{"".join(paths)}</svg><g class="marks">')
    for i, row in enumerate(rows):
        parts.append(_layer(axis, i, n, row, {each.mark: each.values[i] for each in series if each.mark != "signal"}))
    parts += ['</g><g class="sums" aria-hidden="true">', *_sums(axis, n, sums)]
    spans = '<tspan x="0">Point at a layer, or tab to it.</tspan><tspan x="0" dy="15">A click leads to its row.</tspan>'
    parts.append(f'</g><text class="hint" y="-54">{spans}</text></svg>')
    return "\n".join(parts)


def histogram(values: Iterable[float | None]) -> str:
    """Return how many values above 0 there are in each bin of a log axis; "" where there is none."""
    kept = sorted(value for value in values if value is not None and _drawable(value))
    if not kept:
        return ""
    low, high = math.log10(kept[0]), math.log10(kept[-1])
    width = next((w for w in _WIDTHS if (high - low) / w < _BINS - 1), math.ceil((high - low) / (_BINS - 2)))
    counts = Counter(math.floor(math.log10(value) / width) for value in kept)
    axis = log_axis(k * width for k in (min(counts), max(counts) + 1))
    span, most = axis.high - axis.low, max(counts.values())
    parts = ['<svg class="histogram" role="img" aria-label="histogram of scales">']
    for place, count in sorted(counts.items()):
        x, top = 100 * (place * width - axis.low) / span, 100 - 100 * count / most
        ends = " to ".join(f"{10 ** min(k * width, 308.0):.3g}" for k in (place, place + 1))
        parts.append(
            f'<g><rect x="{_percent(x)}" y="{_percent(top)}" width="{_percent(100 * width / span)}"'
            f' height="{_percent(100 - top)}"><title>{ends}: {count}</title></rect>'
            f'<text class="count" x="{_percent(x + 50 * width / span)}" y="{_percent(top)}">{count}</text></g>'
        )
    parts.append('<line class="base" x2="100%" y1="100%" y2="100%"/>')
    parts += [f'<text class="x" x="{_percent(x)}" y="100%">{label}</text>' for x, label in axis.ticks(7)]
    return "\n".join([*parts, "</svg>"])


def _layer(axis: LogAxis, i: int, n: int, row: LayerReport, stds: Mapping[str, float | None]) -> str:
    """Return the marks of a layer, their hit area, and what they tell."""
    marks = {mark: y for mark, std in stds.items() if (y := _y(axis, std)) is not None}
    x = _percent(100 * (i + 0.5) / n)
    parts = [f'<rect x="{_percent(100 * i / n)}" width="{_percent(100 / n)}" height="100%"/>']
    if "drawn" in marks and "now" in marks:
        ends = f'y1="{_percent(marks["drawn"])}" y2="{_percent(marks["now"])}"'
        parts.append(f'<line class="stem" x1="{x}" x2="{x}" {ends}/>')
    radius = _size(n)[1] + (0 if row.good else 1.5)
    parts += [f'<circle class="{mark}" cx="{x}" cy="{_percent(y)}" r="{radius:g}"/>' for mark, y in marks.items()]
    if not marks or (not row.good and "now" not in marks):
        mark = '<path class="tick" d="M0 0V-6"/>' if row.good else '<path class="cross" d="M-5 -11 5 -1M-5 -1 5 -11"/>'
        parts.append(f'<svg x="{x}" y="100%">{mark}</svg>')
    numbers = [f"std {number(std)} {mark}" for mark, std in stds.items() if std is not None]
    if row.scale is not None:
        numbers.insert(1, f"scale {number(row.scale)}")
    if row.signal is not None:
        numbers.append(f"signal {number(row.signal)}")
    lines = [
        f"{i + 1}  {shortened(clean(row.name), _TELL)}",
        shortened(f"{clean(row.op)} {shape(row.shape)}, {row.status}", _TELL + 6),
        ", ".join(numbers) or "no std",
    ]
    spans = "".join(f'<tspan x="0" dy="{15 if k else 0}">{escaped(line)} </tspan>' for k, line in enumerate(lines))
    parts.append(f'<text class="tell" y="-54">{spans}</text>')
    state = "" if row.good else ' class="missed"'
    return f'<a href="#layer-{i + 1}"{state}>{"".join(parts)}</a>'


def _sums(axis: LogAxis, n: int, sums: Sequence[SumReport]) -> Iterator[str]:
    """Yield the mark of each sum, which tells its numbers; the table has them too."""
    for row in sums:
        if (y := _y(axis, row.std)) is not None:
            told = f"{escaped(row.name)}: std {number(row.std)}, mean {number(row.mean)}"
            x = _percent(100 * row.place / n)
            yield f'<svg x="{x}" y="{_percent(y)}"><g><title>{told}</title>{DIAMOND}</g></svg>'


def _ways(axis: LogAxis, n: int, sums: Sequence[SumReport]) -> str:
    """Return a line from sum to sum of each stream, in the units of `_path`."""
    steps, pens = [], dict[int, tuple[float, float]]()
    for row in sums:
        if (y := _y(axis, row.std)) is not None:
            at = 1000 * row.place / n, 10 * y
            if row.stream in pens:
                steps.append("M{:.1f} {:.1f}L{:.1f} {:.1f}".format(*pens[row.stream], *at))
            pens[row.stream] = at
    return "".join(steps)


def _drawable(value: float) -> bool:
    return math.isfinite(value) and value > 0


def _y(axis: LogAxis, value: float | None) -> float | None:
    """Return the distance from the top, in percent; None for what has no place on a log axis."""
    return 100 - axis.at(value) if value is not None and _drawable(value) else None


def _path(places: Sequence[float | None]) -> str:
    """Return a line through places in percent, in units of a tenth, broken where one is missing."""
    steps, pen = [], "M"
    for i, y in enumerate(places):
        if y is not None:
            steps.append(f"{pen}{1000 * (i + 0.5) / len(places):.1f} {10 * y:.1f}")
        pen = "M" if y is None else "L"
    return "".join(steps)


def _steps(places: Sequence[float | None]) -> str:
    """Return a level line over each run of equal places, none over None, in the units of `_path`."""
    steps, end = [], 0
    for y, run in groupby(places):
        start, end = end, end + len(list(run))
        if y is not None:
            steps.append(f"M{1000 * start / len(places):.1f} {10 * y:.1f}H{1000 * end / len(places):.1f}")
    return "".join(steps)


def _percent(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".") + "%"


def _size(n: int) -> tuple[str, float]:
    """Return the class of a picture of n layers, and the radius of its marks."""
    return ("few", 4) if n <= 60 else ("some", 2.5) if n <= 200 else ("many", 1.6)
