"""Operators that only move values, as NumPy functions that give a view of their input wherever NumPy can."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from onnx_lsuv.program.folding import reshape_target, slice_index, split_sizes
from onnx_lsuv.program.program import FLOAT_TYPES, Node, Program
from onnx_lsuv.program.static_integers import folded, lengths

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


@dataclass(frozen=True, slots=True)
class Untraceable:
    """Why an operand has no source."""

    reason: str  # "dynamic", "computed", "quantised", "random" or "sparse"
    detail: str


class Stop(Exception):  # noqa: N818 - not an error: it ends a search
    """An operand cannot be followed further."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason)
        self.found = Untraceable(reason, detail)


def unchanged(array: Array) -> Array:
    """Move nothing."""
    return array


def extend(
    source: Source, node: Node, move: Callable[[Array], Array], *, partial: bool = False, elem_type: int | None = None
) -> Source:
    """Return a source one operator further on; raises what NumPy does where the operator does not fit the shape."""
    return Source(
        source.constants,
        lambda arrays: move(source.view(arrays)),
        (*source.path, node.op_type),
        source.elem_type if elem_type is None else elem_type,
        tuple(move(phantom(source.shape)).shape),
        source.partial or partial,
        source.quantiser_steps,
        source.computed,
        rounding=source.rounding,
    )


def phantom(shape: Sequence[int]) -> Array:
    """Return an array of a shape that takes no memory."""
    return np.broadcast_to(np.zeros((), np.bool_), tuple(shape))


def _ints(program: Program, node: Node, position: int, attribute: str | None = None) -> tuple[int, ...] | None:
    """Return a list of integers that newer opsets give as an input and older ones as an attribute; None if absent."""
    if len(node.inputs) > position and node.inputs[position]:
        name = node.inputs[position]
        if name in program.constants and len(program.constants[name].dims) > 1 and node.op != "Gather":
            raise Stop("computed", f"what {node.op} {node.label!r} takes of the weight is no list of numbers")
        values = lengths(program, name)
        if values is None or None in values:
            raise Stop("computed", f"what {node.op} {node.label!r} takes of the weight is known only at run time")
        return tuple(v for v in values if v is not None)
    return node.ints_attribute(attribute) if attribute else None


def _pass(program: Program, node: Node, output: int, sources: Sequence[Source]) -> Source:
    return extend(sources[0], node, unchanged)


def _cast(program: Program, node: Node, output: int, sources: Sequence[Source]) -> Source:
    source = sources[0]
    to = node.int_attribute("to", TensorProto.FLOAT)
    if to not in FLOAT_TYPES or source.elem_type not in FLOAT_TYPES:
        raise Stop("quantised", f"the weight is cast from or to a type that is not floating point by {node.label!r}")
    return extend(source, node, unchanged, elem_type=to)


def _transpose(program: Program, node: Node, output: int, sources: Sequence[Source]) -> Source:
    perm = node.ints_attribute("perm")
    return extend(sources[0], node, lambda a: a.transpose(perm))


def _reshape(program: Program, node: Node, output: int, sources: Sequence[Source]) -> Source:
    source = sources[0]
    target = _ints(program, node, 1, "shape")
    if target is None:
        raise Stop("computed", f"Reshape {node.label!r} has no shape")
    target = reshape_target(node, source.shape, target)
    return extend(source, node, lambda a: a.reshape(target))


def _flatten(program: Program, node: Node, output: int, sources: Sequence[Source]) -> Source:
    source = sources[0]
    axis = node.int_attribute("axis", 1)
    axis += len(source.shape) if axis < 0 else 0
    rows = int(np.prod(source.shape[:axis], dtype=np.int64))
    columns = int(np.prod(source.shape[axis:], dtype=np.int64))
    return extend(source, node, lambda a: a.reshape(rows, columns))


def _squeeze(program: Program, node: Node, output: int, sources: Sequence[Source]) -> Source:
    axes = _ints(program, node, 1, "axes")
    return extend(sources[0], node, lambda a: a.squeeze(axes))


def _unsqueeze(program: Program, node: Node, output: int, sources: Sequence[Source]) -> Source:
    axes = _ints(program, node, 1, "axes") or ()
    return extend(sources[0], node, lambda a: np.expand_dims(a, axes))


def _expand(program: Program, node: Node, output: int, sources: Sequence[Source]) -> Source:
    source = sources[0]
    shape = np.broadcast_shapes(source.shape, _ints(program, node, 1) or ())
    if math.prod(shape) != source.size:
        raise Stop("computed", f"{node.op} {node.label!r} repeats the weight")
    return extend(source, node, lambda a: a.reshape(shape))


def _slice(program: Program, node: Node, output: int, sources: Sequence[Source]) -> Source:
    source = sources[0]
    starts, ends = _ints(program, node, 1, "starts"), _ints(program, node, 2, "ends")
    if starts is None or ends is None:
        raise Stop("computed", f"Slice {node.label!r} has no bounds")
    axes = _ints(program, node, 3, "axes") or tuple(range(len(starts)))
    steps = _ints(program, node, 4) or (1,) * len(starts)
    index = slice_index(source.shape, starts, ends, axes, steps)
    return extend(source, node, lambda a: a[index], partial=True)


def _split(program: Program, node: Node, output: int, sources: Sequence[Source]) -> Source:
    source = sources[0]
    axis = node.int_attribute("axis", 0)
    sizes = split_sizes(node, source.shape[axis], _ints(program, node, 1, "split"))
    start = sum(sizes[:output])
    cut = [slice(None)] * len(source.shape)
    cut[axis] = slice(start, start + sizes[output])
    index = tuple(cut)
    return extend(source, node, lambda a: a[index], partial=True)


def _gather(program: Program, node: Node, output: int, sources: Sequence[Source]) -> Source:
    values, where = _ints(program, node, 1) or (), folded(program, node.inputs[1])
    axis = node.int_attribute("axis", 0)
    index = np.asarray(values, np.int64).reshape(where.shape if where is not None else (-1,))
    if len(np.unique(index % max(sources[0].shape[axis], 1))) < index.size:
        raise Stop("computed", f"{node.op} {node.label!r} takes a part of the weight more than once")
    return extend(sources[0], node, lambda a: np.take(a, index, axis), partial=True)


def _concat(program: Program, node: Node, output: int, sources: Sequence[Source]) -> Source:
    parts = sources
    if len({p.elem_type for p in parts}) != 1:
        raise Stop("computed", f"the weight is put together from several types by {node.op}")
    axis = node.int_attribute("axis", 1)
    shape = _joined([p.shape for p in parts], axis)
    path = next((p.path for p in parts if p.path), ())
    return Source(
        tuple(dict.fromkeys(name for p in parts for name in p.constants)),
        lambda arrays: np.concatenate([p.view(arrays) for p in parts], axis),
        (*path, node.op_type),
        parts[0].elem_type,
        shape,
        partial=True,
        quantiser_steps=tuple(each for p in parts for each in p.quantiser_steps),
        computed=any(p.computed for p in parts),
        rounding=tuple(node for p in parts for node in p.rounding),
    )


def _joined(shapes: Sequence[tuple[int, ...]], axis: int) -> tuple[int, ...]:
    """Return the shape of a Concat without making it, which may be large; raise ValueError where parts do not fit."""
    thin = [phantom(shape)[np.index_exp[:] * (axis % len(shape)) + np.index_exp[:0]] for shape in shapes]
    result = list(np.concatenate(thin, axis).shape)
    result[axis] = sum(shape[axis] for shape in shapes)
    return tuple(result)


OPERATORS: dict[str, Callable[[Program, Node, int, Sequence[Source]], Source]] = {
    "Identity": _pass,
    "Cast": _cast,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Expand": _expand,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Slice": _slice,
    "Split": _split,
    "Concat": _concat,
    "Gather": _gather,
}

# Operators that hand on a constant's values when they read it as this operand (Concat: any operand).
# An Expand does so by its shape, which only constants tell for sure.
MOVES = frozenset(OPERATORS) - {"Expand"}
