"""Operators that only move values, as NumPy functions that give a view of their input wherever NumPy can."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from onnx_lsuv.operators import of
from onnx_lsuv.program.folding import FOLDS, Unfoldable, split
from onnx_lsuv.program.program import FLOAT_TYPES, Node, Program
from onnx_lsuv.program.static_integers import folded, known_integers

Array = NDArray[Any]
View = Callable[[Mapping[str, Array]], Array]


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """Constants and the way from their arrays to the operand's."""

    constants: tuple[str, ...]
    view: View
    path: tuple[str, ...]  # operators on the way, from the constant on
    elem_type: int  # of the operand, after any Cast
    shape: tuple[int, ...]  # of the operand
    partial: bool  # some operator takes only a part of the constant
    quantiser_steps: tuple[QuantiserStep, ...] = ()  # to be scaled with the weight
    computed: bool = False  # other constants multiply or divide it on the way
    scaled_constant: str | None = None  # the constant to scale, where it is not the one to draw
    rounding: tuple[Node, ...] = ()  # operators on the way that round it or cut it off, whatever its scale is

    @property
    def constant(self) -> str:
        """The only constant, or the first."""
        return self.constants[0]

    @property
    def size(self) -> int:
        """The number of values of the operand."""
        return math.prod(self.shape)

    @property
    def touched(self) -> tuple[str, ...]:
        """The constants that change with the operand."""
        steps = (each.operand.constant for each in self.quantiser_steps)
        return tuple(dict.fromkeys((*self.constants, *filter(None, [self.scaled_constant]), *steps)))

    def see(self, array: Array) -> Array:
        """Return the operand for the array of the only constant."""
        return self.view({self.constant: array})


@dataclass(frozen=True, slots=True, eq=False)
class FixedTerm:
    """The other term of a weight that is a sum of constants, as in low-rank adaptation: W + B A.

    What it contributes to the layer's output stays, like a bias.
    """

    drawn: str  # the term that is drawn
    other: str
    moves: tuple[Node, ...]  # operators between the sum and the layer, in order


@dataclass(frozen=True, slots=True, eq=False)
class QuantiserStep:
    """A constant that is scaled with a weight: the step of what rounds it, or a bound of what cuts it off.

    See `quantisers`.
    """

    node: Node  # the DequantizeLinear or Clip that it belongs to
    name: str  # what the node reads
    operand: Source  # the way from it there
    value: str  # what is rounded or cut off
    view: View  # that, as far as it is the weight alone
    computed: bool  # other constants multiply or divide the weight on the way there
    reach: Array  # how many steps there are on both sides of zero; -1 for a lower bound, 1 for an upper one
    axis: int
    block: int
    scaled: bool = True  # False where the weight's scale is carried by a constant that comes in later


class Untraceable(Exception):  # noqa: N818 - not an error: it ends a search
    """Why an operand has no source."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason  # "dynamic", "computed", "quantised", "random" or "sparse"
        self.detail = detail


def extend(
    source: Source,
    node: Node,
    move: Callable[[Array], Array] | None = None,
    *,
    partial: bool = False,
    computed: bool = False,
    elem_type: int = 0,
) -> Source:
    """Return a source one operator further on; raises what NumPy does where the operator does not fit the shape."""
    result = replace(
        source,
        path=(*source.path, node.op_type),
        elem_type=elem_type or source.elem_type,
        partial=source.partial or partial,
        computed=source.computed or computed,
    )
    if move is None:
        return result
    return replace(result, view=lambda arrays: move(source.view(arrays)), shape=move(phantom(source.shape)).shape)


def phantom(shape: Sequence[int]) -> Array:
    """Return an array of a shape that takes no memory."""
    return np.broadcast_to(np.zeros((), np.bool_), tuple(shape))


def _ints(program: Program, node: Node, position: int) -> tuple[int, ...]:
    """Return an operand that is a list of integers."""
    name = node.inputs[position]
    if name in program.constants and len(program.constants[name].dims) > 1 and node.op != "Gather":
        raise Untraceable("computed", f"what {node.op} {node.label!r} takes of the weight is no list of numbers")
    values = known_integers(program, name)
    if values is None or None in values:
        raise Untraceable("computed", f"what {node.op} {node.label!r} takes of the weight is known only at run time")
    return tuple(v for v in values if v is not None)


def _fold(program: Program, node: Node, output: int, source: Source) -> Source:
    """Move values as shapes are folded: for these operators the same functions take arrays of any type."""
    rest = [np.array(_ints(program, node, i)) if node.inputs[i] else None for i in range(1, len(node.inputs))]

    def move(array: Array) -> Array:
        given = [array, *rest]
        return split(node, given)[output] if node.op == "Split" else FOLDS[node.op](node, given)

    try:
        return extend(source, node, move, partial=of(node).move == "takes")
    except Unfoldable:
        raise Untraceable("computed", f"{node.op} {node.label!r} does not say what it takes of the weight") from None


def _cast(program: Program, node: Node, output: int, source: Source) -> Source:
    to = node.attributes.integer("to", TensorProto.FLOAT)
    if to not in FLOAT_TYPES or source.elem_type not in FLOAT_TYPES:
        raise Untraceable(
            "quantised", f"the weight is cast from or to a type that is not floating point by {node.label!r}"
        )
    return extend(source, node, elem_type=to)


def _expand(program: Program, node: Node, output: int, source: Source) -> Source:
    shape = np.broadcast_shapes(source.shape, _ints(program, node, 1))
    if math.prod(shape) != source.size:
        raise Untraceable("computed", f"{node.op} {node.label!r} repeats the weight")
    return extend(source, node, lambda a: a.reshape(shape))


def _gather(program: Program, node: Node, output: int, source: Source) -> Source:
    values, where = _ints(program, node, 1), folded(program, node.inputs[1])
    axis = node.attributes.integer("axis", 0)
    index = np.asarray(values, np.int64).reshape(where.shape if where is not None else (-1,))
    if len(np.unique(index % max(source.shape[axis], 1))) < index.size:
        raise Untraceable("computed", f"{node.op} {node.label!r} takes a part of the weight more than once")
    return extend(source, node, lambda a: np.take(a, index, axis), partial=True)


def join(node: Node, parts: Sequence[Source]) -> Source:
    """Return the source of a Concat."""
    if len({p.elem_type for p in parts}) != 1:
        raise Untraceable("computed", f"the weight is put together from several types by {node.op}")
    axis = node.attributes.integer("axis", 1)
    # Of the result, which may be large, the shape alone is made: from parts that have no length along the axis.
    thin = [phantom(p.shape)[np.index_exp[:] * (axis % len(p.shape)) + np.index_exp[:0]] for p in parts]
    shape = list(np.concatenate(thin, axis).shape)
    shape[axis] = sum(p.shape[axis] for p in parts)
    return Source(
        tuple(dict.fromkeys(name for p in parts for name in p.constants)),
        lambda arrays: np.concatenate([p.view(arrays) for p in parts], axis),
        (*next((p.path for p in parts if p.path), ()), node.op_type),
        parts[0].elem_type,
        tuple(shape),
        partial=True,
        quantiser_steps=tuple(each for p in parts for each in p.quantiser_steps),
        computed=any(p.computed for p in parts),
        rounding=tuple(each for p in parts for each in p.rounding),
    )


# How an operator moves the values of its first operand, to its output of some position.
MOVES: dict[str, Callable[[Program, Node, int, Source], Source]] = {
    **dict.fromkeys(("Identity", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split"), _fold),
    "Cast": _cast,
    "Expand": _expand,
    "Gather": _gather,
}
