"""Count, mean and variance: as nodes of a graph, pooled over batches, and turned into a scale.

A record is a float64 matrix (3, C) whose rows are count, mean and population variance. C is the number of channels
for a BatchNormalization; 1 for a layer; 3 for a layer with an additive term b that stays, for z, b and z + b, from
which Cov(z, b) = (Var(z + b) - Var(z) - Var(b)) / 2. A count of 0 says: not reached.

Reduction has two levels. Groups of some 32 to 4096 values are reduced in float32, then the groups in float64, and
var = E[x^2] - E[x]^2 is taken in float64: one float32 reduction over 25 million values is off by 0.3%.

    pooled      n = sum n_i,  m = sum n_i m_i / n,  v = sum n_i (v_i + (m_i - m)^2) / n            (Chan et al. 1979)
    scale       s = t / sqrt(Var z), or with a term that stays the positive root of
                s^2 Var(z) + 2 s Cov(z, b) + Var(b) = t^2
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from onnx_lsuv.graph.sheet import Sheet

Record = NDArray[np.float64]
Dims = Sequence[int | None]

COUNT, MEAN, VAR = 0, 1, 2
GROUP_MIN, GROUP_MAX = 32, 4096
# A variance below this part of the squared mean is rounding noise of float32, not variance.
NOISE = 1e-7
HUGE = 1e60


@lru_cache(maxsize=4096)
def _divisor(length: int) -> int | None:
    """Return the largest divisor within the bounds of a group."""
    return next((g for g in range(min(GROUP_MAX, length), GROUP_MIN - 1, -1) if length % g == 0), None)


def group_length(dims: Dims | None, *, leading: int = 0) -> int | None:
    """Return how many neighbouring values form a group, or None where everything goes in float64 at once.

    Args:
        dims: the value's shape as far as it is known.
        leading: how many leading axes must not be merged (batch and channel for a BatchNormalization).
    """
    if dims is None:
        return None
    length = 1
    for dim in reversed(dims[leading:]):
        if not dim:
            break
        length *= dim
    return _divisor(length)


def moments(sheet: Sheet, value: str, elem_type: int, group: int | None, channels: int = 1) -> str:
    """Write the nodes that measure a value; return the name of its record (3, channels).

    With several channels they stand on axis 1. Half precision is summed in float32.
    """
    x = value
    if elem_type == TensorProto.DOUBLE:
        group = None
    elif group is None:
        x = sheet.cast(x, TensorProto.DOUBLE)
    elif elem_type != TensorProto.FLOAT:
        x = sheet.cast(x, TensorProto.FLOAT)
    x = sheet.reshape(x, *((0, channels, -1) if channels > 1 else (-1, 1, 1)), group or 1)
    if group is None:
        first = sheet.reduce("ReduceMean", x, (0, 2, 3))
        second = sheet.reduce("ReduceMean", sheet.op("Mul", x, x), (0, 2, 3))
    else:
        sums = (sheet.reduce("ReduceMean", x, (3,)), sheet.reduce("ReduceSumSquare", x, (3,)))
        first, second = (sheet.reduce("ReduceMean", sheet.cast(s, TensorProto.DOUBLE), (0, 2)) for s in sums)
        second = sheet.op("Div", second, sheet.double(group))
    variance = sheet.op("Sub", second, sheet.op("Mul", first, first))
    count = sheet.cast(sheet.op("Size", value), TensorProto.DOUBLE)
    count = sheet.op("Div", count, sheet.book.constant(np.full(channels, channels), np.float64))
    return sheet.op("Concat", *(sheet.reshape(v, 1, channels) for v in (count, first, variance)), axis=0)


def joined(sheet: Sheet, records: Sequence[str]) -> str:
    """Put records of one channel side by side."""
    return sheet.op("Concat", *records, axis=1)


def first_usable(sheet: Sheet, before: str, own: str, *, layer: bool) -> str:
    """Return the earlier record where it was reached, for a layer also with a variance to scale by; else the own."""
    good = sheet.op("Greater", _pick(sheet, sheet.row(before, COUNT), 0), sheet.book.constant([0.0], np.float64))
    if layer:
        # A loop's state starts at zero, as a recurrent net's: its first iteration may say nothing.
        good = sheet.op("And", good, _is_usable(sheet, before))
    return sheet.select(good, before, own)


def _pick(sheet: Sheet, row: str, column: int) -> str:
    return sheet.op("Gather", row, sheet.ints(column), axis=0)


def _is_usable(sheet: Sheet, record: str) -> str:
    mean, var = (_pick(sheet, sheet.row(record, row), 0) for row in (MEAN, VAR))
    floor = sheet.op("Mul", sheet.op("Mul", mean, mean), sheet.double(NOISE))
    return sheet.op("And", sheet.op("Greater", var, floor), sheet.op("Less", var, sheet.double(HUGE)))


def scale(sheet: Sheet, record: str, target: float, *, with_term: bool, elem_type: int) -> str:
    """Write the nodes that turn a record into a scalar scale of an element type; 1 where there is none."""
    one, zero = sheet.book.constant([1.0], np.float64), sheet.book.constant([0.0], np.float64)

    variances = sheet.row(record, VAR)
    var = _pick(sheet, variances, 0)
    good = _is_usable(sheet, record)
    # Keep Sqrt and Div away from what is not good.
    safe = sheet.select(good, var, one)
    if with_term:
        var_b, var_sum = _pick(sheet, variances, 1), _pick(sheet, variances, 2)
        cov = sheet.op("Mul", sheet.op("Sub", sheet.op("Sub", var_sum, var), var_b), sheet.double(0.5))
        rest = sheet.op("Mul", safe, sheet.op("Sub", sheet.double(target**2), var_b))
        inner = sheet.op("Add", sheet.op("Mul", cov, cov), rest)
        real = sheet.op("Greater", inner, zero)
        root = sheet.op("Sqrt", sheet.select(real, inner, one))
        result = sheet.op("Div", sheet.op("Sub", root, cov), safe)
        positive = sheet.op("And", sheet.op("Greater", result, zero), sheet.op("Less", result, sheet.double(HUGE)))
        good = sheet.op("And", sheet.op("And", good, real), positive)
    else:
        result = sheet.op("Div", sheet.double(target), sheet.op("Sqrt", safe))
    return sheet.cast(sheet.reshape(sheet.select(good, result, one)), elem_type)


def scale_of(record: Record, target: float) -> float | None:
    """Return the scale that a record gives, by the same rule as `scale`; None where there is none."""
    mean, var = float(record[MEAN, 0]), float(record[VAR, 0])
    if not NOISE * mean * mean < var < HUGE:
        return None
    if record.shape[1] == 1:
        return target / math.sqrt(var)
    var_b, var_sum = float(record[VAR, 1]), float(record[VAR, 2])
    cov = (var_sum - var - var_b) / 2
    inner = cov * cov + var * (target**2 - var_b)
    if not inner > 0:
        return None
    result = (math.sqrt(inner) - cov) / var
    return result if 0 < result < HUGE else None


def pooled(records: Sequence[NDArray[Any]]) -> Record:
    """Return the record of all batches together; a record with count 0 adds nothing."""
    reached = [r for r in records if r[COUNT, 0] > 0]
    if not reached:
        return np.zeros_like(records[0], dtype=np.float64)
    if len(reached) == 1:
        return np.asarray(reached[0], np.float64)
    stack = np.stack(reached).astype(np.float64)
    count, mean, var = stack[:, COUNT], stack[:, MEAN], stack[:, VAR]
    total = count.sum(0)
    centre = (count * mean).sum(0) / total
    spread = (count * (var + (mean - centre) ** 2)).sum(0) / total
    return np.stack([total, centre, spread])
