"""What operators make of values that are known before any data: the arithmetic of shapes.

A value is an array of Python numbers in which None stands for one that is not known. An array of None throughout, which
`unknown` makes of one number without taking memory, is a value of which the shape alone is known: so the shape of a
weight on its way through Transpose, Slice or Reshape comes out of the same functions. Division is C's for integers
(towards zero), as ONNX Runtime's kernels are. A float32 number is NumPy's; one step of arithmetic in double precision,
rounded, is that step in float32.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto
from onnx.numpy_helper import to_array

from onnx_lsuv.program.program import Node

Known = NDArray[Any]  # of objects
Given = Sequence[Known | None]  # an operand that is left out is None
LIMIT = 4096  # values that are computed; of larger ones the shape is followed alone


class Unfoldable(Exception):  # noqa: N818 - not an error: a value is not known
    """An operand that decides the shape of the result is not known."""


def unknown(shape: Sequence[int]) -> Known:
    """Return a value of which the shape is known alone."""
    return np.broadcast_to(np.array(None, object), tuple(shape))


def values(items: Sequence[Any], shape: Sequence[int] | None = None) -> Known:
    """Return numbers as a value."""
    result = np.empty(len(items), object)
    result[:] = list(items)
    return result if shape is None else result.reshape(tuple(shape))


def ints(given: Given, position: int, default: Sequence[int] | None = None) -> tuple[int, ...] | None:
    """Return an operand's values, all of which must be known; the default where it is left out."""
    value = given[position] if position < len(given) else None
    if value is None:
        return None if default is None else tuple(default)
    if value.size > LIMIT or any(number is None for number in value.reshape(-1)):
        raise Unfoldable
    return tuple(map(int, value.reshape(-1)))


def _first(given: Given) -> Known:
    if not given or given[0] is None:
        raise Unfoldable
    return given[0]


def _elementwise(act: Callable[..., Any], *, single: bool | None = None) -> Callable[[Node, Given], Known]:
    """Return what folds by a function of numbers; floats that it gives are `single`, or as what it is given."""

    def fold(node: Node, given: Given) -> Known:
        parts = [part for part in given if part is not None]
        shape = np.broadcast_shapes(*(part.shape for part in parts))
        if len(parts) < len(given) or not parts:
            raise Unfoldable
        if math.prod(shape) > LIMIT:
            return unknown(shape)
        rows = zip(*(np.broadcast_to(part, shape).reshape(-1) for part in parts), strict=True)
        return values([None if None in row else _number(act, row, single=single) for row in rows], shape)

    return fold


def _number(act: Callable[..., Any], row: Sequence[Any], *, single: bool | None = None) -> Any:
    try:
        number = act(*(float(each) if isinstance(each, np.float32) else each for each in row))
    except (ArithmeticError, ValueError):
        return None
    if isinstance(number, float):
        if single is None:
            single = any(isinstance(each, np.float32) for each in row)
        with np.errstate(over="ignore"):
            return np.float32(number) if single else number
    # What does not fit into 64 bits wraps in a kernel.
    return None if isinstance(number, int) and not -(2**63) <= number < 2**63 else number


def _divide(a: Any, b: Any) -> Any:
    if isinstance(a, float) or isinstance(b, float):
        return a / b
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def _modulo(node: Node, given: Given) -> Known:
    act = math.fmod if node.int_attribute("fmod", 0) else operator.mod
    kept = _elementwise(lambda a, b: type(a)(act(a, b)))
    return kept(node, given)


def _cast(node: Node, given: Given) -> Known:
    to = node.int_attribute("to", TensorProto.FLOAT)
    if to in (TensorProto.INT64, TensorProto.INT32):
        act: Callable[[Any], Any] = int
    elif to == TensorProto.BOOL:
        act = bool
    elif to in (TensorProto.FLOAT, TensorProto.DOUBLE):
        act = float
    else:
        return unknown(_first(given).shape)
    return _elementwise(act, single=to == TensorProto.FLOAT)(node, given[:1])


def _cast_like(node: Node, given: Given) -> Known:
    like = next((value for value in given[1].reshape(-1) if value is not None), None) if given[1] is not None else None
    if like is None or given[1] is None or given[1].size > LIMIT:
        return unknown(_first(given).shape)
    single = isinstance(like, np.float32)
    return _elementwise(float if single else type(like), single=single)(node, given[:1])


def _where(node: Node, given: Given) -> Known:
    if len(given) != 3 or any(part is None for part in given):
        raise Unfoldable
    shape = np.broadcast_shapes(*(part.shape for part in given if part is not None))
    if math.prod(shape) > LIMIT:
        return unknown(shape)
    rows = zip(*(np.broadcast_to(part, shape).reshape(-1) for part in given if part is not None), strict=True)
    return values([(a if c else b) if c is not None else (a if a == b else None) for c, a, b in rows], shape)


def _gather(node: Node, given: Given) -> Known:
    data, axis = _first(given), node.int_attribute("axis", 0)
    index = np.array(ints(given, 1), np.int64)
    where = given[1].shape if given[1] is not None else ()
    axis += data.ndim if axis < 0 else 0
    if data.size > LIMIT:
        # Only small values are computed, but an index beyond the data is none.
        return unknown((*data.shape[:axis], *where, *data.shape[axis + 1 :]))
    return np.asarray(data.take(index.reshape(where), axis), object)


def _slice(node: Node, given: Given) -> Known:
    data = _first(given)
    starts, ends = ints(given, 1, node.ints_attribute("starts")), ints(given, 2, node.ints_attribute("ends"))
    if starts is None or ends is None:
        raise Unfoldable
    axes = ints(given, 3, node.ints_attribute("axes") or range(len(starts))) or ()
    steps = ints(given, 4, (1,) * len(starts)) or ()
    return data[slice_index(data.shape, starts, ends, axes, steps)]


def slice_index(
    shape: Sequence[int], starts: Sequence[int], ends: Sequence[int], axes: Sequence[int], steps: Sequence[int]
) -> tuple[slice, ...]:
    """Return ONNX's bounds of a Slice as NumPy's."""
    cut = [slice(None)] * len(shape)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        # ONNX's "to the very start" for a negative step is an end below -length, which Python reads as None.
        stop = None if step < 0 and end < -shape[axis] else end
        cut[axis] = slice(start, stop, step)
    return tuple(cut)


def _concat(node: Node, given: Given) -> Known:
    parts = [part for part in given if part is not None]
    axis = node.int_attribute("axis", 1)
    if len(parts) < len(given):
        raise Unfoldable
    if sum(part.size for part in parts) <= LIMIT:
        return np.concatenate(parts, axis)
    ranks = {len(part.shape) for part in parts}
    if len(ranks) > 1 or not -min(ranks) <= axis < min(ranks):
        raise Unfoldable
    shape = list(parts[0].shape)
    shape[axis] = sum(part.shape[axis] for part in parts)
    return unknown(shape)


def _reshape(node: Node, given: Given) -> Known:
    data = _first(given)
    target = ints(given, 1, node.ints_attribute("shape"))
    if target is None:
        raise Unfoldable
    return data.reshape(reshape_target(node, data.shape, target))


def reshape_target(node: Node, shape: Sequence[int], target: Sequence[int]) -> tuple[int, ...]:
    """Return a Reshape's target with the zeros that copy a length filled in."""
    if node.int_attribute("allowzero", 0):
        return tuple(target)
    return tuple(shape[i] if d == 0 and i < len(shape) else d for i, d in enumerate(target))


def _flatten(node: Node, given: Given) -> Known:
    data, axis = _first(given), node.int_attribute("axis", 1)
    axis += data.ndim if axis < 0 else 0
    return data.reshape(math.prod(data.shape[:axis]), math.prod(data.shape[axis:]))


def _expand(node: Node, given: Given) -> Known:
    data, target = _first(given), ints(given, 1)
    return np.broadcast_to(data, np.broadcast_shapes(data.shape, target or ()))


def _tile(node: Node, given: Given) -> Known:
    data, repeats = _first(given), ints(given, 1) or ()
    shape = [length * times for length, times in zip(data.shape, repeats, strict=True)]
    return np.tile(data, repeats) if math.prod(shape) <= LIMIT else unknown(shape)


def _range(node: Node, given: Given) -> Known:
    numbers = [part.reshape(-1)[0] if part is not None else None for part in given[:3]]
    start, limit, step = (number if type(number) is int else 0 for number in numbers)
    if not step or any(type(number) is not int for number in numbers):
        raise Unfoldable
    found = range(start, limit, step)
    return values(found) if len(found) <= LIMIT else unknown((len(found),))


def _filled(node: Node, given: Given) -> Known:
    shape = ints(given, 0) or ()
    attribute = node.attributes.get("value")
    fill: Any = np.float32(0)
    if attribute is not None:
        fill = None
        if attribute.t.data_type in (TensorProto.INT64, TensorProto.INT32):
            fill = int(to_array(attribute.t).reshape(-1)[0])
    return np.broadcast_to(np.array(fill, object), shape)


def _reduce(act: Callable[[list[Any]], Any]) -> Callable[[Node, Given], Known]:
    def fold(node: Node, given: Given) -> Known:
        data = _first(given)
        axes = ints(given, 1, node.ints_attribute("axes") or ())
        if not axes:
            if node.int_attribute("noop_with_empty_axes", 0):
                return data
            axes = tuple(range(data.ndim))
        axes = tuple(axis % data.ndim for axis in axes)
        others = [i for i in range(data.ndim) if i not in axes]
        keep = node.int_attribute("keepdims", 1)
        shape = [(1 if i in axes else n) for i, n in enumerate(data.shape) if keep or i not in axes]
        if data.size > LIMIT:
            return unknown(shape)
        rows = data.transpose([*others, *axes]).reshape(math.prod(data.shape[i] for i in others), -1).tolist()
        return values([None if None in row else _number(lambda *v: act(list(v)), row) for row in rows], shape)

    return fold


def _squeeze(node: Node, given: Given) -> Known:
    axes = ints(given, 1, node.ints_attribute("axes"))
    return _first(given).squeeze(axes)


def _unsqueeze(node: Node, given: Given) -> Known:
    return np.expand_dims(_first(given), ints(given, 1, node.ints_attribute("axes")) or ())


def _same(node: Node, given: Given) -> Known:
    return _first(given)


def _transpose(node: Node, given: Given) -> Known:
    return _first(given).transpose(node.ints_attribute("perm"))


def split(node: Node, given: Given) -> list[Known]:
    """Return the parts that a Split makes."""
    data, axis = _first(given), node.int_attribute("axis", 0)
    sizes = split_sizes(node, data.shape[axis], ints(given, 1, node.ints_attribute("split")))
    return list(np.split(data, np.cumsum(sizes)[:-1], axis))


def split_sizes(node: Node, length: int, sizes: Sequence[int] | None) -> tuple[int, ...]:
    """Return the lengths of a Split's parts."""
    if sizes is not None:
        return tuple(sizes)
    # Equal parts, the last one smaller where the length does not divide (opset 18).
    parts = node.int_attribute("num_outputs", len(node.outputs))
    part = -(-length // parts)
    return (part,) * (parts - 1) + (length - part * (parts - 1),)


FOLDS: dict[str, Callable[[Node, Given], Known]] = {
    "Abs": _elementwise(abs),
    "Add": _elementwise(operator.add),
    "And": _elementwise(lambda a, b: a and b),
    "Cast": _cast,
    "CastLike": _cast_like,
    "Ceil": _elementwise(lambda a: float(math.ceil(a))),
    "Concat": _concat,
    "ConstantOfShape": _filled,
    "Div": _elementwise(_divide),
    "Equal": _elementwise(operator.eq),
    "Expand": _expand,
    "Flatten": _flatten,
    "Floor": _elementwise(lambda a: float(math.floor(a))),
    "Gather": _gather,
    "Greater": _elementwise(operator.gt),
    "GreaterOrEqual": _elementwise(operator.ge),
    "Identity": _same,
    "Less": _elementwise(operator.lt),
    "LessOrEqual": _elementwise(operator.le),
    "Max": _elementwise(max),
    "Min": _elementwise(min),
    "Mod": _modulo,
    "Mul": _elementwise(operator.mul),
    "Neg": _elementwise(operator.neg),
    "Not": _elementwise(operator.not_),
    "Or": _elementwise(lambda a, b: a or b),
    "Range": _range,
    "ReduceMax": _reduce(max),
    "ReduceMin": _reduce(min),
    "ReduceProd": _reduce(math.prod),
    "ReduceSum": _reduce(sum),
    "Reshape": _reshape,
    "Round": _elementwise(lambda a: float(round(a))),
    "Slice": _slice,
    "Sqrt": _elementwise(math.sqrt),
    "Squeeze": _squeeze,
    "Sub": _elementwise(operator.sub),
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}
