"""The record that decides at a use of a weight, or of a BatchNormalization's statistics."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import TensorProto

from onnx_lsuv.graph.builder import GraphBuilder
from onnx_lsuv.graph.moments import Moments, first_usable, from_record, is_reached, to_record
from onnx_lsuv.graph.pooling import COUNT, ROWS, Rough
from onnx_lsuv.graph.state import Kept, Rewriter

# So many executions of a layer in a loop are kept apart (see `control`).
TRAIL = 64


def empty_trail(builder: GraphBuilder, width: int) -> str | None:
    """Return a trail without records; None where the opset cannot choose value by value."""
    return builder.book.constant(np.zeros((TRAIL, ROWS * width)), np.float64) if builder.book.opset >= 9 else None


def _appended(builder: GraphBuilder, trail: str, record: str) -> str:
    """Return a trail with a record in the first of its rows that has a count of 0, if there is one."""
    counts = builder.op("Gather", trail, builder.book.constant(COUNT, np.int64), axis=1)
    filled = builder.cast(builder.op("Greater", counts, builder.double(0)), TensorProto.INT64)
    place = builder.op("Equal", builder.ints(*range(TRAIL)), builder.reduce("ReduceSum", filled, (0,), keep=True))
    return builder.op("Where", builder.reshape(place, -1, 1), record, trail)


def merge(
    rw: Rewriter,
    builder: GraphBuilder,
    records: dict[str, Kept],
    key: str,
    own: Callable[[], Moments],
    width: int,
    *,
    use: int,
    top: bool,
) -> Moments:
    """Return the moments that decide at this use, measuring only where no earlier use surely did.

    Args:
        rw: the rewriting.
        builder: where to write.
        records: those of the scope, which take this one up.
        key: of the weight or the norm.
        own: writes the measuring of this use.
        width: columns of the record.
        use: which of the weight's layers this is.
        top: in the main graph.
    """
    before = records.get(key)
    if before is not None and before.certain:
        return from_record(builder, _pooled_or(rw, builder, key, before.name, width), width)
    found = own()
    if found.rough is not None:
        # A term that stays may be constant; what it adds is seen in the sum.
        with_term = width == 3 and key in rw.plan.weights and key not in rw.centred
        least = min(found.rough, rw.rough[key].large) if key in rw.rough else found.rough
        rw.rough[key] = Rough(slice(None, None, 2 if with_term else None), least)
    record = to_record(builder, found, use, width)
    trail = before.trail if before is not None else None
    if trail is not None:
        trail = _appended(builder, trail, record)
    cut = top and rw.staged and rw.rescale
    if cut:
        rw.cuts[record] = key
    if top and not rw.rescale:
        rw.uses.setdefault(key, []).append(record)
    elif before is not None:
        record = first_usable(builder, before.name, record, width, layer=key in rw.plan.weights)
    # A first use may say nothing (a recurrent net's zero state), so a layer's later uses are asked too.
    records[key] = Kept(record, certain=key not in rw.plan.weights, trail=trail)
    if not (cut or before is not None):
        return found
    return from_record(builder, _pooled_or(rw, builder, key, record, width), width)


def _pooled_or(rw: Rewriter, builder: GraphBuilder, key: str, record: str, width: int) -> str:
    """Return the pooled record of the run before, where there is one and it was reached; else a record of this run."""
    if key not in rw.given:
        return record
    pooled = rw.given[key]
    return builder.select(is_reached(builder, from_record(builder, pooled, width), width), pooled, record)
