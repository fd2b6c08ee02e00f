"""What a result says in words: the verdict, what missed and by how much, what was left alone and why."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from onnx_lsuv.lsuv import LayerReport, Result, SkippedReport
from onnx_lsuv.report.layout import number


def verdict(result: Result) -> str:
    """Return the verdict in one sentence that holds no name from the file."""
    n, states = len(result.layers), Counter(row.status for row in result.layers)
    layers = f"{n} layer{'s' * (n != 1)}"
    missed = sum(not row.good for row in result.layers)
    if missed:
        return f"{missed} of {layers} missed the std wanted."
    if not n:
        return "No layer was found."
    if states["found"] == n:
        return f"{layers} found; nothing was run."
    if states["ok"] == n:
        return f"All {layers} have the std wanted." if n > 1 else "The one layer has the std wanted."
    rest = ", ".join(f"{count} {status}" for status, count in states.items() if status != "ok")
    if states["ok"]:
        return f"{states['ok']} of {layers} have the std wanted; {rest}."
    return f"{layers}: {rest}; none was measured again."


def misses(result: Result) -> list[LayerReport]:
    """Return the layers that count against the exit status, those furthest from their target first."""
    return sorted((row for row in result.layers if not row.good), key=_distance, reverse=True)


def _distance(row: LayerReport) -> float:
    """Return by what factor a layer is off, as the size of its logarithm; infinity where it has no usable std."""
    usable = row.std is not None and math.isfinite(row.std) and row.std > 0
    return abs(math.log(row.std / row.target)) if usable and row.std else math.inf


def told(row: LayerReport) -> str:
    """Return what is to be said about a layer beside its status: the std found and wanted, and the cause."""
    found = f"std {number(row.std)}, wanted {number(row.target)}" if row.status == "off" else ""
    return "; ".join(part for part in (found, row.note) if part)


def groups(left: Sequence[SkippedReport]) -> list[list[SkippedReport]]:
    """Return the nodes left alone, those with the same reason, detail and operator together."""
    found: dict[tuple[str, str, str], list[SkippedReport]] = {}
    for row in left:
        found.setdefault((row.reason, row.detail, row.op), []).append(row)
    return list(found.values())
