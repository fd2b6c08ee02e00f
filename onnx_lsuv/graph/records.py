"""The record that decides at a use of a weight, or of a BatchNormalization's statistics."""

from __future__ import annotations

from collections.abc import Callable

from onnx_lsuv.graph.moments import Moments, first_usable, from_record, to_record
from onnx_lsuv.graph.sheet import Sheet
from onnx_lsuv.graph.state import Kept, Rewriter


def merge(
    rw: Rewriter, sheet: Sheet, records: dict[str, Kept], key: str, own: Callable[[], Moments], width: int, *, top: bool
) -> Moments:
    """Return the moments that decide at this use, measuring only where no earlier use surely did."""
    before = records.get(key)
    if before is not None and before.certain:
        return from_record(sheet, before.name, width)
    found = own()
    record = to_record(sheet, found)
    cut = top and rw.staged and rw.rescale
    if cut:
        rw.cuts[record] = key
    if top and not rw.rescale:
        rw.uses.setdefault(key, []).append(record)
    elif before is not None:
        record = first_usable(sheet, before.name, record, width, layer=key in rw.plan.weights)
    # A first use may say nothing (a recurrent net's zero state), so a layer's later uses are asked too.
    records[key] = Kept(record, certain=key not in rw.plan.weights)
    return from_record(sheet, record, width) if cut or before is not None else found
