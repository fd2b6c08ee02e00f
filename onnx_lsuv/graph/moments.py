"""Count, mean and variance as nodes of a graph, and turned into a scale (as arrays: see `pooling`).

A record is a float64 matrix (4, C), flat in the graph, whose rows are count, mean, population variance, and which of a
weight's uses was measured. C is the number of channels for a BatchNormalization; 1 for a layer; 3 for a layer with an
additive term b that stays, for z, b and z + b, from which Cov(z, b) = (Var(z + b) - Var(z) - Var(b)) / 2; when only
measuring, 2 for such a layer, for z and z + b. The first column decides between uses, the last is the output. A count
of 0 says: not reached.

Reduction has two levels. Groups of some 32 to 4096 values are reduced in float32, then the groups in float64, and
var = E[x^2] - E[x]^2 is taken in float64: one float32 reduction over 25 million values is off by 0.3%.

That difference loses what E[x]^2 has more than var. Where this is too much for some channel of a record, all is run
again (`lsuv.execute`) and the value measured about c, its mean rounded to float32, in one pass more. The error grows
with the root of a group's length, and falls with that of their number, as their rounding errors average out:

    E[x]^2 > LARGE sqrt(groups / length) var

    y = x - c,    E[x] = c + E[y],    var = E[y^2] - E[y]^2

    scale       s = t / sqrt(Var z), or with a term that stays the positive root of
                s^2 Var(z) + 2 s Cov(z, b) + Var(b) = t^2
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import TensorProto

from onnx_lsuv.graph.blocked import padded
from onnx_lsuv.graph.builder import GraphBuilder
from onnx_lsuv.graph.groups import GROUP_MIN, Dims, Groups, groups_of
from onnx_lsuv.graph.pooling import COUNT, HUGE, MEAN, NOISE, SCALE_MAX, TINY, VAR

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


def moments(
    builder: GraphBuilder,
    value: str,
    elem_type: int,
    groups: Groups,
    channels: int = 1,
    size: int | None = None,
    stored: int | None = None,
    shifted: bool = False,
    less: Callable[[str], str] | None = None,
) -> Moments:
    """Write the nodes that measure a value. Half precision is summed in float32.

    Args:
        builder: where to write.
        value: what to measure; with several channels they stand on its axis 1.
        elem_type: its element type.
        groups: how many neighbouring values are reduced in float32.
        channels: how many there are.
        size: the number of values, where it is known.
        stored: the number of values in memory, where some are zeros that do not count.
        shifted: measure about the mean.
        less: writes the value less a number, where it has such zeros: they stay.
    """
    x, group, row = value, groups.length, groups.row
    if elem_type == TensorProto.DOUBLE or (size is not None and size <= SMALL):
        group = None
    if elem_type != TensorProto.DOUBLE and group is None:
        x = builder.cast(x, TensorProto.DOUBLE)
    elif elem_type not in (TensorProto.FLOAT, TensorProto.DOUBLE):
        x = builder.cast(x, TensorProto.FLOAT)
    if size is not None:
        count = builder.book.filled(size // channels, channels, dtype=np.float64)
    else:
        each = builder.book.filled(channels, channels, dtype=np.float64)
        count = builder.op("Div", builder.cast(builder.op("Size", value), TensorProto.DOUBLE), each)
    shape = (0, channels, -1) if channels > 1 else (-1,)
    outer, keep = ((0, 2), False) if channels > 1 else ((0,), True)
    share = 1.0 if stored is None or size is None else stored / size
    if group is None:
        x = builder.reshape(x, *shape)
        first = builder.reduce("ReduceMean", x, outer, keep=keep)
        second = builder.reduce("ReduceMean", builder.op("Mul", x, x), outer, keep=keep)
        return _central(builder, count, _times(builder, first, share), _times(builder, second, share))

    def over(op_type: str, x: str, factor: float) -> str:
        parts = builder.reduce(op_type, x, (len(shape),))
        return _over_groups(builder, parts, outer, factor, keep=keep)

    grouped = builder.reshape(x, *shape, group)
    first = over("ReduceMean", grouped, share)
    if shifted:
        number = builder.cast(first, TensorProto.FLOAT)
        if less is not None:
            grouped = builder.reshape(less(number), *shape, group)
        else:
            grouped = builder.op("Sub", grouped, builder.reshape(number, channels, 1, 1) if channels > 1 else number)
        first = over("ReduceMean", grouped, share)
        second = over("ReduceSumSquare", grouped, share / group)
        return _central(builder, count, first, second, number)
    if row is None or not builder.book.rows:
        second = over("ReduceSumSquare", grouped, share / group)
    else:
        # ONNX Runtime takes a third of the time for this that it takes for ReduceSumSquare.
        rows = builder.reshape(x, *shape, 1, row)
        squares = builder.op("FusedMatMul", rows, rows, domain="com.microsoft", transB=1)
        second = _over_groups(builder, squares, (*outer, len(shape), len(shape) + 1), share / row)
    longest = group if row is None or not builder.book.rows else max(group, row)
    several = 1 if size is None else size // (channels * longest)
    return replace(_central(builder, count, first, second), rough=_large(longest, several))


def _large(length: int, number: int) -> float:
    """Return how many variances a squared mean may have, for a number of groups of float32 sums."""
    return LARGE * math.sqrt(min(max(number, 1), MANY) / max(length, SHORT))


def _over_groups(
    builder: GraphBuilder, parts: str, axes: Sequence[int], factor: float = 1.0, *, keep: bool = False
) -> str:
    """Reduce what float32 gave for each group in float64, and multiply it."""
    mean = builder.reduce("ReduceMean", builder.cast(parts, TensorProto.DOUBLE), axes, keep=keep)
    return _times(builder, mean, factor)


def _times(builder: GraphBuilder, value: str, factor: float) -> str:
    return value if factor == 1 else builder.op("Mul", value, builder.double(factor))


def _central(builder: GraphBuilder, count: str, first: str, second: str, number: str | None = None) -> Moments:
    """Turn E[x] and E[x^2] into moments; with a float32 number those of x - number."""
    square = builder.op("Mul", first, first)
    var = builder.op("Sub", second, square)
    if number is not None:
        return Moments(count, builder.op("Add", first, builder.cast(number, TensorProto.DOUBLE)), var)
    return Moments(count, first, var, square)


def channel_moments(
    builder: GraphBuilder,
    value: str,
    elem_type: int,
    channels: int,
    dims: Dims | None,
    size: int | None,
    *,
    shifted: bool = False,
) -> Moments:
    """Write the nodes that measure each channel of a value by itself; arguments as for `moments` and `groups_of`."""
    # Groups lie within one sample and one channel.
    groups = groups_of(dims, leading=0 if channels == 1 else 2)
    return moments(builder, value, elem_type, groups, channels, size, shifted=shifted)


def moments_in_blocks(
    builder: GraphBuilder, value: str, image: tuple[int, int, int, int], block: int, *, shifted: bool = False
) -> Moments | None:
    """Write the nodes that measure each channel of a float32 image in blocks (see `blocked`).

    Returns None where its places have no divisor to group them by.
    """
    n, c, places = image[0], image[1], image[2] * image[3]
    columns = padded(c, block) // block
    group = groups_of((places,)).length or (places if places < GROUP_MIN else None)
    if group is None:
        return None
    number, rough, outer = None, None, (0, 2)
    if n * c * places <= SMALL:
        x = builder.cast(builder.reshape(value, n, columns, places, block), TensorProto.DOUBLE)
        first, second = (builder.reduce("ReduceMean", each, outer) for each in (x, builder.op("Mul", x, x)))
    else:
        grouped = builder.reshape(value, n, columns, places // group, group, block)
        first = _over_groups(builder, builder.reduce("ReduceMean", grouped, (3,)), outer)
        if shifted:
            number = builder.cast(first, TensorProto.FLOAT)
            grouped = builder.op("Sub", grouped, builder.reshape(number, columns, 1, 1, block))
            first = _over_groups(builder, builder.reduce("ReduceMean", grouped, (3,)), outer)
        second = _over_groups(builder, builder.reduce("ReduceSumSquare", grouped, (3,)), outer, 1 / group)
        rough = None if shifted else _large(group, n * places // group)
    rows = [builder.reshape(each, columns * block) for each in (first, second, number) if each is not None]
    if columns * block > c:
        rows = [builder.op("Gather", each, builder.ints(*range(c)), axis=0) for each in rows]
    count = builder.book.filled(n * places, c, dtype=np.float64)
    return replace(_central(builder, count, *rows), rough=rough)


def over_channels(builder: GraphBuilder, found: Moments, size: int) -> Moments:
    """Write the nodes that turn the moments of channels, of equally many values, into those of all values."""
    count = builder.book.constant([size], np.float64)
    mean, var = (builder.reduce("ReduceMean", row, (0,), keep=True) for row in (found.mean, found.var))
    between = builder.reduce("ReduceMean", found.square or builder.op("Mul", found.mean, found.mean), (0,), keep=True)
    return replace(_central(builder, count, mean, builder.op("Add", var, between)), rough=found.rough)


def joined(builder: GraphBuilder, parts: Sequence[Moments]) -> Moments:
    """Put the moments of several values side by side."""
    rows = [[p.count for p in parts], [p.mean for p in parts], [p.var for p in parts]]
    count, mean, var = (builder.op("Concat", *row, axis=0) for row in rows)
    return Moments(count, mean, var, rough=min((p.rough for p in parts if p.rough is not None), default=None))


def to_record(builder: GraphBuilder, found: Moments, use: int, channels: int) -> str:
    """Write a record: counts, means, variances and the use one after the other, (4 * channels,)."""
    uses = builder.book.filled(use, channels, dtype=np.float64)
    return builder.op("Concat", found.count, found.mean, found.var, uses, axis=0)


def from_record(builder: GraphBuilder, record: str, channels: int) -> Moments:
    """Take a record apart."""
    rows = (builder.ints(*range(row * channels, (row + 1) * channels)) for row in (COUNT, MEAN, VAR))
    count, mean, var = (builder.op("Gather", record, row, axis=0) for row in rows)
    return Moments(count, mean, var)


def first_usable(builder: GraphBuilder, before: str, own: str, channels: int, *, layer: bool) -> str:
    """Return the earlier record where it was reached, else the own.

    For a layer the own counts too where it has a variance to scale by, and the earlier one has none.
    """
    earlier = from_record(builder, before, channels)
    good = is_reached(builder, earlier, channels)
    if layer:
        # A loop's state starts at zero, as a recurrent net's: its first iteration may say nothing.
        first, second = (
            is_usable(builder, _pick(builder, found.mean, 0, channels), _pick(builder, found.var, 0, channels))
            for found in (earlier, from_record(builder, own, channels))
        )
        good = builder.op("And", good, builder.op("Or", first, builder.op("Not", second)))
    return builder.select(good, before, own)


def is_reached(builder: GraphBuilder, found: Moments, channels: int) -> str:
    """Write the node that says whether the data reached a record."""
    return builder.op("Greater", _pick(builder, found.count, 0, channels), builder.book.constant([0.0], np.float64))


def _pick(builder: GraphBuilder, row: str, column: int, columns: int) -> str:
    return row if columns == 1 else builder.op("Gather", row, builder.ints(column), axis=0)


def is_usable(builder: GraphBuilder, mean: str, var: str, square: str | None = None) -> str:
    """Write the nodes that say whether a variance is one to scale by; `square` is that of the mean, if it is there."""
    floor = builder.op("Mul", square or builder.op("Mul", mean, mean), builder.double(NOISE))
    floor = builder.op("Add", floor, builder.double(TINY))
    return builder.op("And", builder.op("Greater", var, floor), builder.op("Less", var, builder.double(HUGE)))


def scale(
    builder: GraphBuilder, found: Moments, target: float, *, with_term: bool, elem_type: int, scalar: bool
) -> str:
    """Write the nodes that turn moments into a scale of an element type; it is 1 where there is none.

    The scale has the shape (1,), or () with `scalar`, as an output of rank 0 needs it.
    """
    one, zero = builder.book.constant([1.0], np.float64), builder.book.constant([0.0], np.float64)
    columns = 3 if with_term else 1
    mean, var = _pick(builder, found.mean, 0, columns), _pick(builder, found.var, 0, columns)
    good = is_usable(builder, mean, var, found.square if columns == 1 else None)
    if with_term:
        var_b, var_sum = _pick(builder, found.var, 1, columns), _pick(builder, found.var, 2, columns)
        cov = builder.op("Mul", builder.op("Sub", builder.op("Sub", var_sum, var), var_b), builder.double(0.5))
        rest = builder.op("Mul", var, builder.op("Sub", builder.double(target**2), var_b))
        inner = builder.op("Add", builder.op("Mul", cov, cov), rest)
        result = builder.op("Div", builder.op("Sub", builder.op("Sqrt", inner), cov), var)
        positive = builder.op(
            "And", builder.op("Greater", result, zero), builder.op("Less", result, builder.double(SCALE_MAX))
        )
        good = builder.op("And", builder.op("And", good, builder.op("Greater", inner, zero)), positive)
    else:
        result = builder.op("Div", builder.double(target), builder.op("Sqrt", var))
    # Where the variance is no good the result is not either; the choice is made after it.
    chosen = builder.select(good, result, one)
    return builder.cast(builder.reshape(chosen) if scalar else chosen, elem_type)
