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
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto
from onnx.numpy_helper import to_array

from onnx_lsuv.program.program import Node

Known = NDArray[Any]  # of objects
Given = Sequence[Known | None]  # an operand that is left out is None
Fold = Callable[[Node, Given], Known]
LIMIT = 4096  # values that are computed; of larger ones the shape is followed alone
_CASTS: dict[int, Callable[[Any], Any]] = {
    TensorProto.INT64: int,
    TensorProto.INT32: int,
    TensorProto.BOOL: bool,
    TensorProto.FLOAT: float,
    TensorProto.DOUBLE: float,
}


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


def _optional_ints(given: Given, position: int, default: Sequence[int] | None = None) -> tuple[int, ...] | None:
    """Return an operand's values, all of which must be known; the default where it is left out."""
    value = given[position] if position < len(given) else None
    if value is None:
        return None if default is None else tuple(default)
    if value.size > LIMIT or any(number is None for number in value.reshape(-1)):
        raise Unfoldable
    return tuple(map(int, value.reshape(-1)))


def _ints(given: Given, position: int, default: Sequence[int] | None = None) -> tuple[int, ...]:
    """Return an operand's values, which must be there or have a default."""
    found = _optional_ints(given, position, default)
    if found is None:
        raise Unfoldable
    return found


def _first(given: Given) -> Known:
    return _all(given[:1])[0]


def _all(given: Given) -> list[Known]:
    """Return operands of which all must be known, at least one of them."""
    found = [each for each in given if each is not None]
    if len(found) < len(given) or not found:
        raise Unfoldable
    return found


def _each(act: Callable[..., Any], given: Given) -> Known:
    """Return what a function makes of the numbers that broadcasting brings together."""
    parts = _all(given)
    shape = np.broadcast_shapes(*(part.shape for part in parts))
    if math.prod(shape) > LIMIT:
        return unknown(shape)
    made: Known = np.frompyfunc(act, len(parts), 1)(*map(np.atleast_1d, parts))
    return made.reshape(shape)


def _number(act: Callable[..., Any], single: bool | None, *row: Any) -> Any:
    """Return what a function makes of numbers; None where one is not known, or there is no result.

    A float is `single`, or where that is open as what it is made of.
    """
    if None in row:
        return None
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


def _elementwise(act: Callable[..., Any], *, single: bool | None = None) -> Fold:
    return lambda node, given: _each(partial(_number, act, single), given)


def _divide(a: Any, b: Any) -> Any:
    if isinstance(a, float) or isinstance(b, float):
        return a / b
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def _modulo(node: Node, given: Given) -> Known:
    act = math.fmod if node.attributes.integer("fmod", 0) else operator.mod
    return _elementwise(lambda a, b: type(a)(act(a, b)))(node, given)


def _cast(node: Node, given: Given) -> Known:
    to = node.attributes.integer("to", TensorProto.FLOAT)
    if to not in _CASTS:
        return unknown(_first(given).shape)
    return _elementwise(_CASTS[to], single=to == TensorProto.FLOAT)(node, given[:1])


def _cast_like(node: Node, given: Given) -> Known:
    like = None if given[1] is None else next((value for value in given[1].reshape(-1) if value is not None), None)
    if like is None or given[1] is None or given[1].size > LIMIT:
        return unknown(_first(given).shape)
    single = isinstance(like, np.float32)
    return _elementwise(float if single else type(like), single=single)(node, given[:1])


def _choose(condition: Any, one: Any, other: Any) -> Any:
    if condition is None:
        return one if one == other else None
    return one if condition else other


def _range(node: Node, given: Given) -> Known:
    numbers = [part.reshape(-1)[0] if part is not None else None for part in given[:3]]
    start, limit, step = (number if type(number) is int else 0 for number in numbers)
    if not step or any(type(number) is not int for number in numbers):
        raise Unfoldable
    found = range(start, limit, step)
    return values(found) if len(found) <= LIMIT else unknown((len(found),))


def _filled(node: Node, given: Given) -> Known:
    fill: Any = np.float32(0)
    if "value" in node.attributes:
        tensor = node.attributes["value"].t
        integral = tensor.data_type in (TensorProto.INT64, TensorProto.INT32)
        fill = int(to_array(tensor).reshape(-1)[0]) if integral else None
    return np.broadcast_to(np.array(fill, object), _ints(given, 0, ()))


def _reduced(act: Callable[[Sequence[Any]], Any]) -> Fold:
    def fold(node: Node, given: Given) -> Known:
        data = _first(given)
        axes = _ints(given, 1, node.attributes.integers("axes") or ())
        if not axes and node.attributes.integer("noop_with_empty_axes", 0):
            return data
        axes = tuple(axis % data.ndim for axis in axes) or tuple(range(data.ndim))
        kept = [1 if i in axes else n for i, n in enumerate(data.shape)]
        shape = kept if node.attributes.integer("keepdims", 1) else [n for i, n in enumerate(kept) if i not in axes]
        if data.size > LIMIT:
            return unknown(shape)
        rows = np.moveaxis(data, axes, range(-len(axes), 0)).reshape(math.prod(kept), -1).tolist()
        return values([_number(lambda *row: act(row), None, *row) for row in rows], shape)

    return fold


def _gather(node: Node, given: Given) -> Known:
    data, axis, where = _first(given), node.attributes.integer("axis", 0), _all(given)[1]
    index = np.array(_ints(given, 1), np.int64).reshape(where.shape)
    axis += data.ndim if axis < 0 else 0
    if data.size > LIMIT:
        # Only small values are computed, but an index beyond the data is none.
        return unknown((*data.shape[:axis], *where.shape, *data.shape[axis + 1 :]))
    return np.asarray(data.take(index, axis), object)


def _slice(node: Node, given: Given) -> Known:
    data = _first(given)
    starts = _ints(given, 1, node.attributes.integers("starts"))
    ends = _ints(given, 2, node.attributes.integers("ends"))
    axes = _ints(given, 3, node.attributes.integers("axes") or range(len(starts)))
    steps = _ints(given, 4, (1,) * len(starts))
    cut = [slice(None)] * data.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        # ONNX's "to the very start" for a negative step is an end below -length, which Python reads as None.
        cut[axis] = slice(start, None if step < 0 and end < -data.shape[axis] else end, step)
    return data[tuple(cut)]


def _concat(node: Node, given: Given) -> Known:
    parts, axis = _all(given), node.attributes.integer("axis", 1)
    if sum(part.size for part in parts) <= LIMIT:
        return np.concatenate(parts, axis)
    ranks = {part.ndim for part in parts}
    if len(ranks) > 1 or not -min(ranks) <= axis < min(ranks):
        raise Unfoldable
    shape = list(parts[0].shape)
    shape[axis] = sum(part.shape[axis] for part in parts)
    return unknown(shape)


def _reshape(node: Node, given: Given) -> Known:
    data, target = _first(given), _ints(given, 1, node.attributes.integers("shape"))
    if not node.attributes.integer("allowzero", 0):
        # A zero copies a length.
        target = tuple(data.shape[i] if d == 0 and i < data.ndim else d for i, d in enumerate(target))
    return data.reshape(target)


def _flatten(node: Node, given: Given) -> Known:
    data, axis = _first(given), node.attributes.integer("axis", 1)
    axis += data.ndim if axis < 0 else 0
    return data.reshape(math.prod(data.shape[:axis]), math.prod(data.shape[axis:]))


def _expand(node: Node, given: Given) -> Known:
    data = _first(given)
    return np.broadcast_to(data, np.broadcast_shapes(data.shape, _ints(given, 1, ())))


def _tile(node: Node, given: Given) -> Known:
    data, repeats = _first(given), _ints(given, 1, ())
    shape = [length * times for length, times in zip(data.shape, repeats, strict=True)]
    return np.tile(data, repeats) if math.prod(shape) <= LIMIT else unknown(shape)


def split(node: Node, given: Given) -> list[Known]:
    """Return the parts that a Split makes."""
    data, axis = _first(given), node.attributes.integer("axis", 0)
    sizes = _optional_ints(given, 1, node.attributes.integers("split"))
    if sizes is None:
        # Equal parts, the last one smaller where the length does not divide (opset 18).
        parts, length = node.attributes.integer("num_outputs", len(node.outputs)), data.shape[axis]
        part = -(-length // parts)
        sizes = (part,) * (parts - 1) + (length - part * (parts - 1),)
    return list(np.split(data, np.cumsum(sizes)[:-1], axis))


# By operator, as a function of numbers that are known.
_NUMBERS: dict[str, Callable[..., Any]] = {
    "Abs": abs, "Add": operator.add, "And": lambda a, b: a and b, "Ceil": lambda a: float(math.ceil(a)),
    "Div": _divide, "Equal": operator.eq, "Floor": lambda a: float(math.floor(a)), "Greater": operator.gt,
    "GreaterOrEqual": operator.ge, "Less": operator.lt, "LessOrEqual": operator.le, "Max": max, "Min": min,
    "Mul": operator.mul, "Neg": operator.neg, "Not": operator.not_, "Or": lambda a, b: a or b,
    "Round": lambda a: float(round(a)), "Sqrt": math.sqrt, "Sub": operator.sub,
}  # fmt: skip
FOLDS: dict[str, Fold] = {
    **{op: _elementwise(act) for op, act in _NUMBERS.items()},
    "Cast": _cast,
    "CastLike": _cast_like,
    "Concat": _concat,
    "ConstantOfShape": _filled,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Identity": lambda node, given: _first(given),
    "Mod": _modulo,
    "Range": _range,
    "ReduceMax": _reduced(max),
    "ReduceMin": _reduced(min),
    "ReduceProd": _reduced(math.prod),
    "ReduceSum": _reduced(sum),
    "Reshape": _reshape,
    "Slice": _slice,
    "Squeeze": lambda node, given: _first(given).squeeze(_optional_ints(given, 1, node.attributes.integers("axes"))),
    "Tile": _tile,
    "Transpose": lambda node, given: _first(given).transpose(node.attributes.integers("perm")),
    "Unsqueeze": lambda node, given: np.expand_dims(
        _first(given), _ints(given, 1, node.attributes.integers("axes") or ())
    ),
    "Where": lambda node, given: _each(_choose, given),
}
