"""A result as text and as JSON: strings only, nothing is printed or written here."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from onnx_lsuv.errors import clean
from onnx_lsuv.lsuv import LayerReport, LeftReport, Result

SCHEMA = 1


def shortened(text: str, width: int) -> str:
    """Return a name cut in the middle to a width, as its ends tell it apart."""
    if len(text) <= width:
        return text
    if width < 4:
        return text[:width]
    head = (width - 2) // 2
    return f"{text[:head]}..{text[len(text) - (width - 2 - head) :]}"


def number(value: float | None) -> str:
    """Return a number with four significant digits, in a width that lines up."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return str(value)
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.4f}" if abs(value) < 1000 else f"{value:.1f}"
    return f"{value:.2e}"


def shape(dims: Sequence[int] | None) -> str:
    """Return a shape as 64x3x7x7."""
    return "-" if dims is None else "x".join(map(str, dims)) or "scalar"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], right: str, width: int, flexible: int) -> str:
    """Return aligned columns.

    Args:
        header: the columns' names.
        rows: cells, already cleaned.
        right: for each column "<" or ">".
        width: of the whole line.
        flexible: the first so many columns are shortened to fit.
    """
    cells = [list(header), *(list(row) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    while sum(widths) + 2 * (len(widths) - 1) > width:
        widest = max(range(flexible), key=widths.__getitem__)
        if widths[widest] <= 6:
            break
        widths[widest] -= 1
    lines = []
    for row in cells:
        parts = [f"{shortened(cell, w):{align}{w}}" for cell, w, align in zip(row, widths, right, strict=True)]
        lines.append("  ".join(parts).rstrip())
    return "\n".join(lines)


def text(result: Result, width: int = 100) -> str:
    """Return the table of layers, what was left alone, and a summary."""
    parts = []
    measured_only = not result.settings.get("init")
    if result.layers:
        header = ["layer", "op", "weight", "shape", "std drawn", "scale", "std now", "status"]
        rows = [
            [
                clean(row.name),
                row.op,
                clean(row.weight),
                shape(row.shape),
                number(row.std_drawn),
                number(row.scale),
                number(row.std),
                row.status,
            ]
            for row in result.layers
        ]
        aligned = "<<<<>>><"
        if measured_only:
            rows = [row[:4] + row[6:] for row in rows]
            header, aligned = header[:4] + header[6:], "<<<<><"
        parts.append(table(header, rows, aligned, width, 4 if width < 80 else 3))
    parts += [block for block in (_causes(result.layers), _left(result.left), _stale(result)) if block]
    parts += [f"note: {clean(note)}" for note in result.notes]
    parts.append(summary(result))
    return "\n\n".join(parts)


def _causes(layers: Sequence[LayerReport]) -> str:
    lines = []
    for row in layers:
        if row.good and row.status != "not-reached":
            continue
        found = f"std {number(row.std)}, wanted {number(row.target)}" if row.status == "off" else ""
        lines.append(f"{row.status}: {clean(row.name)}: {'; '.join(p for p in (found, clean(row.note)) if p)}")
    return "\n".join(lines)


def _left(left: Sequence[LeftReport]) -> str:
    if not left:
        return ""
    groups: dict[tuple[str, str], list[LeftReport]] = {}
    for row in left:
        groups.setdefault((row.reason, row.detail), []).append(row)
    lines = ["left alone:"]
    for (reason, detail), rows in groups.items():
        names = ", ".join(clean(row.name) for row in rows[:3]) + (
            f", and {len(rows) - 3} more" if len(rows) > 3 else ""
        )
        lines.append(f"  {reason}: {len(rows)} x {rows[0].op} ({names}): {clean(detail)}")
    return "\n".join(lines)


def _stale(result: Result) -> str:
    return "\n".join(f"statistics kept: {clean(row.name)}: {clean(row.detail)}" for row in result.stale)


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
    zeroed = sum(c.role == "bias" for c in result.changes)
    if zeroed:
        extra.append(f"{_count(zeroed, 'bias', 'biases')} set to zero")
    moved = sum(c.became_initializer for c in result.changes)
    if moved:
        extra.append(f"{_count(moved, 'constant became an initializer', 'constants became initializers')}")
    times = ", ".join(f"{phase} {seconds:.2f} s" for phase, seconds in result.seconds.items())
    samples, batches = result.data.get("samples"), result.data.get("batches")
    return "\n".join(
        line
        for line in (
            f"{_count(len(result.layers), 'layer')}: {states}{spread}",
            "; ".join(extra),
            times
            and f"{_count(samples, 'sample')} in {_count(batches, 'batch', 'batches')} on {result.device}; {times}",
        )
        if line
    )


def _count(n: Any, one: str, many: str | None = None) -> str:
    return f"{'no' if n is None else n} {one if n == 1 else many or one + 's'}"


def as_json(result: Result, about: Mapping[str, Any]) -> str:
    """Return the result as JSON; `about` adds what only the caller knows: versions, files, digests."""
    document = {
        "schema": SCHEMA,
        "good": result.good,
        "target_std": result.target_std,
        "tolerance": result.tolerance,
        "settings": dict(result.settings),
        "device": result.device,
        **about,
        "data": dict(result.data),
        "seconds": {k: round(v, 6) for k, v in result.seconds.items()},
        "layers": [_record(row) for row in result.layers],
        "left": [_record(row) for row in result.left],
        "statistics_kept": [_record(row) for row in result.stale],
        "changes": [_record(row) for row in result.changes],
        "notes": list(result.notes),
    }
    return json.dumps(document, indent=2, ensure_ascii=True, allow_nan=False) + "\n"


def _record(row: Any) -> dict[str, Any]:
    values = {name: getattr(row, name) for name in row.__dataclass_fields__}
    # JSON has no word for infinity or NaN.
    return {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
