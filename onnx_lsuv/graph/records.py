"""Records: the moments that decide at a use of a weight, in the graph and, when they came out of it, as arrays.

A record is a float64 matrix (ROWS, C), flat in the graph, whose rows are count, mean, population variance, and which
of a weight's uses was measured. C is the number of channels for a BatchNormalization or a layer that is centred; 1 for
other layers; 3 for a layer with an additive term b that stays, for z, b and z + b, from which
Cov(z, b) = (Var(z + b) - Var(z) - Var(b)) / 2; when only measuring, 2 for such a layer, for z and z + b. The first
column decides between uses, the last is the output. A count of 0 says: not reached.

    scale       s = t / sqrt(Var z), or with a term that stays the positive root of
                s^2 Var(z) + 2 s Cov(z, b) + Var(b) = t^2
    pooled      n = sum n_i,  m = sum n_i m_i / n,  v = sum n_i (v_i + (m_i - m)^2) / n            (Chan et al. 1979)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lsuv.graph.builder import ScopeBuilder
from onnx_lsuv.graph.moments import Moments

Record = NDArray[np.float64]
Told = Callable[[NDArray[Any]], NDArray[Any]]  # what is made of a value on the host, a vector

COUNT, MEAN, VAR, USE = range(4)
ROWS = 4
# Rows more on the host, when measuring: the share of signal, of dead units, of saturated values; NaN where not known.
SIGNAL, DEAD, SATURATED = range(ROWS, ROWS + 3)
# A variance below this part of the squared mean is rounding noise of float32, not variance.
NOISE = 1e-7
# Stds of 1e-28 to 1e30: beyond, the scale to any target leaves the range of float32, and the weight with it.
TINY, HUGE = 1e-56, 1e60
SCALE_MAX = 1e37
CHUNK = 1 << 15


@dataclass(frozen=True, slots=True)
class Part:
    """A target that is measured: a part of the std of a value of the main graph, a residual stream."""

    stream: str
    part: float


@dataclass(frozen=True, slots=True)
class Rough:
    """What is asked of a record that was measured by float32 sums about 0."""

    columns: slice  # of the record
    large: float  # how many variances the square of their means may have

    def is_far(self, record: Record) -> bool:
        """Say whether the mean of some column is too large, or its variance told so by -inf (see `pointwise`)."""
        mean, var = record[MEAN, self.columns], record[VAR, self.columns]
        return bool(((mean * mean > self.large * np.maximum(var, 0)) | np.isneginf(var)).any())


# ------------------------------------------------------------------------------------------------------ in the graph


def to_record(scope: ScopeBuilder, found: Moments, use: int, channels: int) -> str:
    """Write a record, its rows one after the other."""
    return scope.op(
        "Concat", found.count, found.mean, found.var, scope.graph.filled(use, channels, dtype=np.float64), axis=0
    )


def from_record(scope: ScopeBuilder, record: str, channels: int) -> Moments:
    """Take a record apart."""
    rows = (scope.ints(*range(row * channels, (row + 1) * channels)) for row in (COUNT, MEAN, VAR))
    count, mean, var = (scope.op("Gather", record, row, axis=0) for row in rows)
    return Moments(count, mean, var)


def first_usable(scope: ScopeBuilder, before: str, own: str, channels: int, *, layer: bool) -> str:
    """Return the earlier record where it was reached, else the own.

    For a layer the own counts too where it has a variance to scale by, and the earlier one has none.
    """
    earlier = from_record(scope, before, channels)
    good = _is_reached(scope, earlier, channels)
    if layer:
        # A loop's state starts at zero, as a recurrent net's: its first iteration may say nothing.
        first, second = (
            is_usable(scope, _pick(scope, found.mean, 0, channels), _pick(scope, found.var, 0, channels))
            for found in (earlier, from_record(scope, own, channels))
        )
        good = scope.op("And", good, scope.op("Or", first, scope.op("Not", second)))
    return scope.select(good, before, own)


def reached_or(scope: ScopeBuilder, record: str, other: str, channels: int) -> str:
    """Return a record where the data reached it, else another."""
    return scope.select(_is_reached(scope, from_record(scope, record, channels), channels), record, other)


def _is_reached(scope: ScopeBuilder, found: Moments, channels: int) -> str:
    return scope.op("Greater", _pick(scope, found.count, 0, channels), scope.double([0.0]))


def _pick(scope: ScopeBuilder, row: str, column: int, columns: int) -> str:
    return row if columns == 1 else scope.op("Gather", row, scope.ints(column), axis=0)


def is_usable(scope: ScopeBuilder, mean: str, var: str, square: str | None = None) -> str:
    """Write the nodes that say whether a variance is one to scale by; `square` is that of the mean, if it is there."""
    floor = scope.op("Mul", square or scope.op("Mul", mean, mean), scope.double(NOISE))
    floor = scope.op("Add", floor, scope.double(TINY))
    return scope.op("And", scope.op("Greater", var, floor), scope.op("Less", var, scope.double(HUGE)))


def part_of(scope: ScopeBuilder, stream: Moments, part: float) -> str:
    """Write the nodes that give a part of a stream's std as a target; of 1 where the stream has no std."""
    good = is_usable(scope, stream.mean, stream.var, stream.square)
    return scope.op("Mul", scope.op("Sqrt", scope.select(good, stream.var, scope.double([1.0]))), scope.double(part))


def scale(
    scope: ScopeBuilder, found: Moments, target: float | str, *, with_term: bool, elem_type: int, scalar: bool
) -> str:
    """Write the nodes that turn moments into a scale of an element type; it is 1 where there is none.

    The scale has the shape (1,), or () with `scalar`, as an output of rank 0 needs it.
    """
    one, zero = scope.double([1.0]), scope.double([0.0])
    columns = 3 if with_term else 1
    mean, var = _pick(scope, found.mean, 0, columns), _pick(scope, found.var, 0, columns)
    good = is_usable(scope, mean, var, found.square if columns == 1 else None)
    if with_term:
        var_b, var_sum = _pick(scope, found.var, 1, columns), _pick(scope, found.var, 2, columns)
        square = scope.op("Mul", target, target) if isinstance(target, str) else scope.double(target**2)
        cov = scope.op("Mul", scope.op("Sub", scope.op("Sub", var_sum, var), var_b), scope.double(0.5))
        rest = scope.op("Mul", var, scope.op("Sub", square, var_b))
        inner = scope.op("Add", scope.op("Mul", cov, cov), rest)
        result = scope.op("Div", scope.op("Sub", scope.op("Sqrt", inner), cov), var)
        positive, finite = scope.op("Greater", result, zero), scope.op("Less", result, scope.double(SCALE_MAX))
        within = scope.op("And", positive, finite)
        good = scope.op("And", scope.op("And", good, scope.op("Greater", inner, zero)), within)
    else:
        wanted = target if isinstance(target, str) else scope.double(target)
        result = scope.op("Div", wanted, scope.op("Sqrt", var))
    # Where the variance is no good the result is not either; the choice is made after it.
    chosen = scope.select(good, result, one)
    return scope.cast(scope.reshape(chosen) if scalar else chosen, elem_type)


# --------------------------------------------------------------------------------------------------------- as arrays


def std_of(record: Record | None) -> float | None:
    """Return the std of a record by the same rule as `part_of`; None where there is none."""
    scale = None if record is None or not record[COUNT, 0] else scale_of(record, 1.0)
    return None if scale is None else 1 / scale


def scale_of(record: Record, target: float) -> float | None:
    """Return the scale that a record gives, by the same rule as `scale`; None where there is none."""
    mean, var = float(record[MEAN, 0]), float(record[VAR, 0])
    if not NOISE * mean * mean + TINY < var < HUGE:
        return None
    if record.shape[1] == 1:
        return target / math.sqrt(var)
    var_b, var_sum = float(record[VAR, 1]), float(record[VAR, 2])
    cov = (var_sum - var - var_b) / 2
    inner = cov * cov + var * (target**2 - var_b)
    if not inner > 0:
        return None
    result = (math.sqrt(inner) - cov) / var
    return result if 0 < result < SCALE_MAX else None


def pooled(records: Sequence[NDArray[Any]]) -> Record:
    """Return the record of all batches together; a record with count 0 adds nothing."""
    reached = [r for r in records if r[COUNT, 0] > 0]
    if not reached:
        return np.zeros_like(records[0], dtype=np.float64)
    if len(reached) == 1:
        return np.asarray(reached[0], np.float64)
    count, mean, var, use = np.stack(reached, axis=1).astype(np.float64)
    total = count.sum(0)
    centre = (count * mean).sum(0) / total
    spread = (count * (var + (mean - centre) ** 2)).sum(0) / total
    return np.stack([total, centre, spread, use.min(0)])


def executions(arrays: Sequence[NDArray[Any]]) -> list[Record]:
    """Return the records of a use's executions over all batches.

    Args:
        arrays: for each batch one record, flat, or a list (n, ROWS, C) of those of the first executions and, at the
            end, the first usable of all.
    """
    lists = [array if array.ndim == 3 else array.reshape(1, ROWS, -1) for array in arrays]
    return [pooled(records) for records in zip(*lists, strict=True)]


def first_usable_of(records: Sequence[Record]) -> Record:
    """Return the first record with a variance to scale by; else the first that was reached; else the first."""
    reached = [record for record in records if record[COUNT, 0] > 0]
    usable = (record for record in reached if scale_of(record[:, :1], 1.0) is not None)
    return next(usable, reached[0] if reached else records[0])


def with_shares(record: Record, *shares: float) -> Record:
    """Return a record with the rows SIGNAL, DEAD and SATURATED."""
    return np.vstack([record, *(np.full(record.shape[1], share) for share in shares)])


def signal(record: Record, sums: NDArray[np.float64] | None, *, single: bool) -> float:
    """Return the share of the variance of a record's last column that depends on the sample (see `shares`), or NaN.

    Args:
        record: of all batches.
        sums: over all samples at each position, or with `single` their record; None where they are not known.
    """
    share, count, var = math.nan, float(record[COUNT, -1]), float(record[VAR, -1])
    if sums is not None and 0 < var < math.inf:
        positions = float(sums.reshape(ROWS, 1)[COUNT, 0]) if single else sums.size
        between = float(sums.reshape(ROWS, 1)[VAR, 0]) if single else _variance(sums)
        samples = count / positions
        if samples > 1:
            share = min(max(1 - between / samples**2 / var, 0.0), 1.0)
    return share


def record_of(values: NDArray[Any]) -> Record:
    """Return the record of some values, without their mean."""
    return np.array([values.size, 0, _variance(values.reshape(-1)), 0], np.float64)


def _variance(values: NDArray[np.float64]) -> float:
    """Return a variance, taken some values at a time, which stay in the cache."""
    with np.errstate(invalid="ignore", over="ignore"):  # of values that are not finite
        mean, chunks = values.mean(dtype=np.float64), range(0, values.size, CHUNK)
        about = (np.subtract(values[at : at + CHUNK], mean, dtype=np.float64) for at in chunks)
        return sum(float(each @ each) for each in about) / values.size


def within_channels(record: Record) -> Record:
    """Return the record of an output about its channels' means, from that of its channels (see `moments.within`)."""
    mean, var = record[MEAN], record[VAR]
    return np.array([[record[COUNT, 0]], [np.sqrt(np.mean(mean * mean))], [np.mean(var)], [record[USE, 0]]])
