"""Count, mean and variance as nodes of a graph.

Reduction has two levels. Groups of some 32 to 4096 neighbouring values are reduced in float32, then the groups in
float64, and var = E[x^2] - E[x]^2 is taken in float64: one float32 reduction over 25 million values is off by 0.3%.

That difference loses what E[x]^2 has more than var. Where this is too much for some channel of a record, all is run
again (`lsuv.execute`) and the value measured about c, its mean rounded to float32, in one pass more. The error grows
with the root of a group's length, and falls with that of their number, as their rounding errors average out:

    E[x]^2 > LARGE sqrt(groups / length) var

    y = x - c,    E[x] = c + E[y],    var = E[y^2] - E[y]^2

The moments of several channels of equally many values give those of all values,

    E[x] = E_c[m_c],    var = E_c[v_c + m_c^2] - E[x]^2

and those about the channels' means: a variance of E_c[v_c], which is what a centred layer is scaled by.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from onnx import TensorProto

from onnx_lsuv.graph.blocked import padded, sums_by_lanes
from onnx_lsuv.graph.builder import ScopeBuilder

Dims = Sequence[int | None]
Second = tuple[str, str, str]  # the mean (C), the covariance (C, C) and E[x^2] (C) of an image's channels

GROUP_MIN, GROUP_MAX = 32, 4096
# Short groups let the rounding of their sums average out.
GROUP_GOOD = 256
# A row's product with itself is summed side by side in many registers, so that it can be longer.
ROW_MIN, ROW_GOOD = 512, 2048
# A lane's values are added one by one, which for equal ones is wrong by the same amount everywhere.
LANE_GOOD = 64
# So few values have too few groups for that, and go in float64 at once.
SMALL = 1 << 15
# A mean of 8 stds for one group of 256 values: of a thousand channels the worst variance is seen to be off by 6e-5.
# Shorter groups are no better, and beyond 64 of them nothing is relied on.
LARGE = 1024.0
SHORT, MANY = 256, 64


@dataclass(frozen=True, slots=True)
class Moments:
    """Names of the rows of a record, each a float64 vector of one value a channel."""

    count: str
    mean: str
    var: str
    square: str | None = None  # of the mean, where it is there
    rough: float | None = None  # float32 sums about 0: not good enough for a squared mean of so many variances


def size_of(dims: Dims | None) -> int | None:
    """Return the number of values of a shape, where all of it is known."""
    return None if dims is None or None in dims else math.prod(d for d in dims if d is not None)


def groups_of(dims: Dims | None) -> tuple[int | None, int | None]:
    """Return how many of the last values of a shape are reduced in float32, and those of a row whose squares are.

    It is None where no number is good: then everything goes in float64 at once, and no squares are summed by rows.
    """
    length = 1
    for dim in reversed(dims or ()):
        if not dim:
            break
        length *= dim
    return _divisor(length, GROUP_MIN, GROUP_GOOD, GROUP_MAX), _divisor(length, ROW_MIN, ROW_GOOD, ROW_GOOD)


@lru_cache(maxsize=4096)
def _divisor(length: int, least: int, good: int, most: int) -> int | None:
    """Return the largest divisor up to a good length, or the smallest beyond it; None where none is within bounds."""
    lengths = (*range(good, least - 1, -1), *range(good + 1, most + 1))
    return next((g for g in lengths if length % g == 0), None)


def _lane(size: int, block: int) -> int | None:
    """Return how many values of a lane are summed in float32 (see `sums_by_lanes`); None where none is good."""
    return None if block == 1 or size % block else _divisor(size // block, GROUP_MIN, LANE_GOOD, GROUP_GOOD)


def moments(
    scope: ScopeBuilder,
    value: str,
    elem_type: int,
    dims: Dims | None,
    channels: int = 1,
    *,
    size: int | None = None,
    shifted: bool | Callable[[str], str] = False,
    found: tuple[str, int] | None = None,
) -> Moments:
    """Write the nodes that measure a value, whose channels stand on axis 1. Half precision is summed in float32.

    Where its shape does not tell how many values count, `size` does: the others are zero, and stay so in what `shifted`
    writes, the value less a number. With `shifted` it is measured about the mean. What was `found` beside, its mean and
    the length of the float32 sums that it is of, saves a pass.
    """
    held = size_of(dims)
    size = held if size is None else size
    share = held / size if held and size else 1.0
    # Groups lie within one sample and one channel.
    x, (group, row) = value, groups_of(dims and dims[0 if channels == 1 else 2 :])
    if elem_type == TensorProto.DOUBLE or (size is not None and size <= SMALL):
        group = None
    if group is None and elem_type != TensorProto.DOUBLE:
        x = scope.cast(x, TensorProto.DOUBLE)
    elif elem_type not in (TensorProto.FLOAT, TensorProto.DOUBLE):
        x = scope.cast(x, TensorProto.FLOAT)
    if size is not None:
        count = scope.graph.filled(size // channels, channels, dtype=np.float64)
    else:
        each = scope.graph.filled(channels, channels, dtype=np.float64)
        count = scope.op("Div", scope.cast(scope.op("Size", value), TensorProto.DOUBLE), each)
    shape, outer = ((0, channels, -1), (0, 2)) if channels > 1 else ((-1,), (0,))
    keep = channels == 1
    if group is None:
        x = scope.reshape(x, *shape)
        first = scope.reduce("ReduceMean", x, outer, keep=keep)
        second = scope.reduce("ReduceMean", scope.op("Mul", x, x), outer, keep=keep)
        return _central(scope, count, times(scope, first, share), times(scope, second, share))

    def over(op_type: str, x: str, factor: float) -> str:
        return _over_groups(scope, scope.reduce(op_type, x, (len(shape),)), outer, factor, keep=keep)

    if shifted:
        grouped = scope.reshape(x, *shape, group)
        number = mean = scope.cast(over("ReduceMean", grouped, share), TensorProto.FLOAT)
        if channels > 1:
            mean = scope.reshape(number, channels, 1, 1)
        grouped = scope.reshape(shifted(mean), *shape, group) if callable(shifted) else scope.op("Sub", grouped, mean)
        first = over("ReduceMean", grouped, share)
        return _central(scope, count, first, over("ReduceSumSquare", grouped, share / group), number)
    first, length = found or ("", 0)
    if channels == 1 and held and (lane := _lane(held, scope.graph.block)):
        means, squares = sums_by_lanes(scope, x, held // lane, lane)
        first = first or _over_groups(scope, means, (1, 2, 3), share)
        second, group = _over_groups(scope, squares, (1, 2, 3), share / lane), lane
    else:
        grouped = scope.reshape(x, *shape, group)
        first = first or over("ReduceMean", grouped, share)
        if row is None or scope.graph.block == 1:
            second = over("ReduceSumSquare", grouped, share / group)
        else:
            second, group = _squares_by_rows(scope, x, (*shape, 1, row), outer, share), max(group, row)
    group = max(group, length)
    several = 1 if size is None else size // (channels * group)
    return replace(_central(scope, count, first, second), rough=_large(group, several))


def _squares_by_rows(scope: ScopeBuilder, x: str, shape: Sequence[int], outer: Sequence[int], share: float) -> str:
    """Write the mean square of rows; ONNX Runtime takes a third of the time of ReduceSumSquare for their products."""
    rows = scope.reshape(x, *shape)
    squares = scope.op("FusedMatMul", rows, rows, domain="com.microsoft", transB=1)
    return _over_groups(scope, squares, (*outer, len(shape) - 2, len(shape) - 1), share / shape[-1])


def moments_in_blocks(
    scope: ScopeBuilder, value: str, image: tuple[int, int, int, int], block: int, *, shifted: bool = False
) -> Moments | None:
    """Write the nodes that measure each channel of a float32 image in blocks (see `blocked`).

    Returns None where its places have no divisor to group them by.
    """
    n, c, places = image[0], image[1], image[2] * image[3]
    columns = padded(c, block) // block
    group = _divisor(places, GROUP_MIN, LANE_GOOD, GROUP_MAX) or (places if places < GROUP_MIN else None)
    if group is None:
        return None
    number, rough, outer = None, None, (0, 2)
    if n * c * places <= SMALL:
        x = scope.cast(scope.reshape(value, n, columns, places, block), TensorProto.DOUBLE)
        first, second = (scope.reduce("ReduceMean", each, outer) for each in (x, scope.op("Mul", x, x)))
    else:

        def by_channel(x: str) -> tuple[str, str]:
            made = sums_by_lanes(scope, x, n * columns * places // group * block, group)
            first, second = (scope.reshape(each, n, columns, places // group, block) for each in made)
            return _over_groups(scope, first, outer), _over_groups(scope, second, outer, 1 / group)

        first, second = by_channel(value)
        if shifted:
            number = scope.cast(first, TensorProto.FLOAT)
            grouped = scope.reshape(value, n, columns, places, block)
            first, second = by_channel(scope.op("Sub", grouped, scope.reshape(number, columns, 1, block)))
        rough = None if shifted else _large(group, n * places // group)
    rows = [scope.reshape(each, columns * block) for each in (first, second, number) if each is not None]
    if columns * block > c:
        rows = [scope.op("Gather", each, scope.ints(*range(c)), axis=0) for each in rows]
    count = scope.graph.filled(n * places, c, dtype=np.float64)
    return replace(_central(scope, count, *rows), rough=rough)


def over_channels(scope: ScopeBuilder, found: Moments, size: int) -> Moments:
    """Write the nodes that turn the moments of channels, of equally many values, into those of all values."""
    mean, var = (scope.reduce("ReduceMean", row, (0,), keep=True) for row in (found.mean, found.var))
    between = scope.reduce("ReduceMean", found.square or scope.op("Mul", found.mean, found.mean), (0,), keep=True)
    second = scope.op("Add", var, between)
    return replace(_central(scope, scope.double([size]), mean, second), rough=found.rough)


def within(scope: ScopeBuilder, found: Moments) -> Moments:
    """Write the nodes that turn the moments of channels into those of the output about its channels' means."""
    square = scope.reduce("ReduceMean", scope.op("Mul", found.mean, found.mean), (0,), keep=True)
    return Moments(found.count, scope.op("Sqrt", square), scope.reduce("ReduceMean", found.var, (0,), keep=True))


def joined(scope: ScopeBuilder, parts: Sequence[Moments]) -> Moments:
    """Put the moments of several values side by side."""
    rows = [[p.count for p in parts], [p.mean for p in parts], [p.var for p in parts]]
    count, mean, var = (scope.op("Concat", *row, axis=0) for row in rows)
    return Moments(count, mean, var, rough=min((p.rough for p in parts if p.rough is not None), default=None))


def _large(length: int, number: int) -> float:
    """Return how many variances a squared mean may have, for a number of groups of float32 sums."""
    return LARGE * math.sqrt(min(max(number, 1), MANY) / max(length, SHORT))


def _over_groups(
    scope: ScopeBuilder, parts: str, axes: Sequence[int], factor: float = 1.0, *, keep: bool = False
) -> str:
    """Reduce what float32 gave for each group in float64, and multiply it."""
    mean = scope.reduce("ReduceMean", scope.cast(parts, TensorProto.DOUBLE), axes, keep=keep)
    return times(scope, mean, factor)


def mean_of(scope: ScopeBuilder, value: str, elem_type: int, size: int) -> str:
    """Write the nodes that give the mean of so many values, as `moments` does."""
    group = groups_of((size,))[0] if size > SMALL and elem_type == TensorProto.FLOAT else None
    if group is None:
        return scope.reduce("ReduceMean", scope.reshape(scope.cast(value, TensorProto.DOUBLE), -1), (0,), keep=True)
    means = scope.reduce("ReduceMean", scope.reshape(value, -1, group), (1,))
    return _over_groups(scope, means, (0,), keep=True)


def times(scope: ScopeBuilder, value: str, factor: float) -> str:
    """Multiply a value of float64 by a number."""
    return value if factor == 1 else scope.op("Mul", value, scope.double(factor))


def _central(scope: ScopeBuilder, count: str, first: str, second: str, number: str | None = None) -> Moments:
    """Turn E[x] and E[x^2] into moments; with a float32 number those of x - number."""
    square = scope.op("Mul", first, first)
    var = scope.op("Sub", second, square)
    if number is not None:
        return Moments(count, scope.op("Add", first, scope.cast(number, TensorProto.DOUBLE)), var)
    return Moments(count, first, var, square)
