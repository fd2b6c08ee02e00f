"""Where an operand's values come from: one constant, seen through operators that only move values.

A weight reaches its layer from an initializer, a Constant or a ConstantOfShape, perhaps through Transpose,
Reshape, Slice, Split, Concat of slices and the like. Each of these is here a NumPy function that gives a *view* of
its input wherever NumPy can; the whole way composes into one function from the constant's array to the operand's.
New values are written back through that view, or, where NumPy had to copy, by running the same function over
`arange(size)` and scattering by the result. So no operator needs an inverse of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from onnx_lsuv.layers.program import DEFAULT_DOMAINS, Node, Program, integers

Array = NDArray[Any]
View = Callable[[Array], Array]

FLOAT_TYPES = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16})
RANDOM_OPS = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}
)


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """One constant and the way from its array to the operand's."""

    constant: str
    view: View
    path: tuple[str, ...]  # operators on the way, from the constant on
    elem_type: int  # of the operand, after any Cast
    shape: tuple[int, ...]  # of the operand
    partial: bool  # some operator takes only a part of the constant


@dataclass(frozen=True, slots=True)
class Untraceable:
    """Why an operand has no source."""

    reason: str  # "dynamic", "computed", "quantised", "random" or "sparse"
    detail: str


class _Stop(Exception):  # noqa: N818 - not an error: it ends a search
    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason)
        self.found = Untraceable(reason, detail)


def trace(program: Program, name: str) -> Source | Untraceable:
    """Follow an operand back to its constant.

    Returns:
        The source, or the reason why there is none.
    """
    try:
        return _trace(program, name)
    except _Stop as stop:
        return stop.found


def _trace(program: Program, name: str) -> Source:
    constant = program.constants.get(name)
    if constant is not None:
        if any(d < 0 for d in constant.dims):
            raise _Stop("computed", f"the tensor {constant.label!r} has a negative dimension")
        return Source(name, _identity, (), constant.elem_type, constant.dims, partial=False)
    if name in program.sparse:
        raise _Stop("sparse", "the weight is a sparse initializer: give the model with dense ones")
    if name not in program.producers:
        raise _Stop("dynamic", "the weight is an input of its graph, known only at run time")
    node, output = program.producers[name]
    if node.domain in DEFAULT_DOMAINS and node.op_type in RANDOM_OPS:
        raise _Stop("random", f"the weight is drawn at run time by {node.op}")
    if node.op_type in ("DequantizeLinear", "DynamicQuantizeLinear") or "Quant" in node.op_type:
        raise _Stop("quantised", f"the weight comes out of {node.op}: give the float model")
    step = _OPERATORS.get(node.op_type) if node.domain in DEFAULT_DOMAINS else None
    if step is None:
        if _is_constant(program, node):
            raise _Stop("computed", f"the weight is computed from constants by {node.op}")
        raise _Stop("dynamic", f"the weight is computed from the data by {node.op}")
    return step(program, node, output)


def _is_constant(program: Program, node: Node) -> bool:
    """Say whether a node depends on constants alone."""
    todo, seen = [node], set()
    while todo:
        current = todo.pop()
        for name in current.inputs:
            if not name or name in program.constants or name in seen:
                continue
            seen.add(name)
            if name not in program.producers:
                return False
            todo.append(program.producers[name][0])
        if current.bodies:
            return False
    return True


def _identity(array: Array) -> Array:
    return array


def _extend(source: Source, node: Node, view: View, *, partial: bool = False, elem_type: int | None = None) -> Source:
    before = source.view

    def composed(array: Array) -> Array:
        return view(before(array))

    try:
        shape = tuple(view(_phantom(source.shape)).shape)
    except (ValueError, IndexError) as error:
        raise _Stop("computed", f"the weight's way through {node.op} {node.label!r} does not fit its shape") from error
    return Source(
        source.constant,
        composed,
        (*source.path, node.op_type),
        source.elem_type if elem_type is None else elem_type,
        shape,
        source.partial or partial,
    )


def _phantom(shape: Sequence[int]) -> Array:
    """Return an array of a shape that takes no memory."""
    return np.broadcast_to(np.zeros((), np.bool_), tuple(shape))


def _ints(program: Program, node: Node, position: int, attribute: str | None = None) -> tuple[int, ...] | None:
    """Return a list of integers that newer opsets give as an input and older ones as an attribute; None if absent."""
    if len(node.inputs) > position and node.inputs[position]:
        name = node.inputs[position]
        values = integers(program.constants, name)
        if values is None:
            raise _Stop("computed", f"the {attribute or 'shape'} of {node.op} {node.label!r} is computed at run time")
        return values
    return node.ints_attribute(attribute) if attribute else None


def _pass(program: Program, node: Node, output: int) -> Source:
    return _extend(_trace(program, node.inputs[0]), node, _identity)


def _cast(program: Program, node: Node, output: int) -> Source:
    source = _trace(program, node.inputs[0])
    to = node.int_attribute("to", TensorProto.FLOAT)
    if to not in FLOAT_TYPES or source.elem_type not in FLOAT_TYPES:
        raise _Stop("quantised", f"the weight is cast from or to a type that is not floating point by {node.label!r}")
    return _extend(source, node, _identity, elem_type=to)


def _transpose(program: Program, node: Node, output: int) -> Source:
    perm = node.ints_attribute("perm")
    return _extend(_trace(program, node.inputs[0]), node, lambda a: a.transpose(perm))


def _reshape(program: Program, node: Node, output: int) -> Source:
    source = _trace(program, node.inputs[0])
    target = _ints(program, node, 1, "shape")
    if target is None:
        raise _Stop("computed", f"Reshape {node.label!r} has no shape")
    if not node.int_attribute("allowzero", 0):
        target = tuple(source.shape[i] if d == 0 and i < len(source.shape) else d for i, d in enumerate(target))
    return _extend(source, node, lambda a: a.reshape(target))


def _flatten(program: Program, node: Node, output: int) -> Source:
    source = _trace(program, node.inputs[0])
    axis = node.int_attribute("axis", 1)
    axis += len(source.shape) if axis < 0 else 0
    rows = int(np.prod(source.shape[:axis], dtype=np.int64))
    columns = int(np.prod(source.shape[axis:], dtype=np.int64))
    return _extend(source, node, lambda a: a.reshape(rows, columns))


def _squeeze(program: Program, node: Node, output: int) -> Source:
    axes = _ints(program, node, 1, "axes")
    return _extend(_trace(program, node.inputs[0]), node, lambda a: a.squeeze(axes))


def _unsqueeze(program: Program, node: Node, output: int) -> Source:
    axes = _ints(program, node, 1, "axes") or ()
    return _extend(_trace(program, node.inputs[0]), node, lambda a: np.expand_dims(a, axes))


def _slice(program: Program, node: Node, output: int) -> Source:
    source = _trace(program, node.inputs[0])
    starts, ends = _ints(program, node, 1, "starts"), _ints(program, node, 2, "ends")
    if starts is None or ends is None:
        raise _Stop("computed", f"Slice {node.label!r} has no bounds")
    axes = _ints(program, node, 3, "axes") or tuple(range(len(starts)))
    steps = _ints(program, node, 4) or (1,) * len(starts)
    cut = [slice(None)] * len(source.shape)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        # ONNX's "to the very start" for a negative step is an end below -length, which Python reads as None.
        stop = None if step < 0 and end < -source.shape[axis] else end
        cut[axis] = slice(start, stop, step)
    index = tuple(cut)
    return _extend(source, node, lambda a: a[index], partial=True)


def _split(program: Program, node: Node, output: int) -> Source:
    source = _trace(program, node.inputs[0])
    axis = node.int_attribute("axis", 0)
    length = source.shape[axis]
    sizes = _ints(program, node, 1, "split")
    if sizes is None:
        # Equal parts, the last one smaller where the length does not divide (opset 18).
        parts = node.int_attribute("num_outputs", len(node.outputs))
        part = -(-length // parts)
        sizes = (part,) * (parts - 1) + (length - part * (parts - 1),)
    start = sum(sizes[:output])
    cut = [slice(None)] * len(source.shape)
    cut[axis] = slice(start, start + sizes[output])
    index = tuple(cut)
    return _extend(source, node, lambda a: a[index], partial=True)


def _concat(program: Program, node: Node, output: int) -> Source:
    parts = [_trace(program, name) for name in node.inputs]
    if len({p.constant for p in parts}) != 1 or len({p.elem_type for p in parts}) != 1:
        raise _Stop("computed", f"the weight is put together from several constants by {node.op}")
    axis = node.int_attribute("axis", 1)
    try:
        shape = np.concatenate([_phantom(p.shape) for p in parts], axis).shape
    except ValueError as error:
        raise _Stop("computed", f"the parts that {node.label!r} joins do not fit") from error
    path = next((p.path for p in parts if p.path), ())
    return Source(
        parts[0].constant,
        lambda a: np.concatenate([p.view(a) for p in parts], axis),
        (*path, node.op_type),
        parts[0].elem_type,
        tuple(shape),
        partial=True,
    )


_OPERATORS: dict[str, Callable[[Program, Node, int], Source]] = {
    "Identity": _pass,
    "Cast": _cast,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Slice": _slice,
    "Split": _split,
    "Concat": _concat,
}

# Operators that hand on a constant's values when they read it as this operand (Concat: any operand).
CARRIERS = frozenset(_OPERATORS)
# Operators that read only the shape.
SHAPE_READERS = frozenset({"Shape", "Size"})


def region(source: Source, size: int, dims: Sequence[int]) -> str:
    """Return which values of the constant the operand reads: "" for all, else a digest of the sorted positions.

    Two operands with equal regions are one weight, whatever the order in which they see it.
    """
    if not source.partial:
        return ""
    positions = np.unique(source.view(np.arange(size, dtype=np.int64).reshape(dims)))
    if positions.size == size:
        return ""
    return f"{positions[0]}:{positions[-1] + 1}:" + sha256(positions.tobytes()).hexdigest()[:16]


def overlap(one: Source, other: Source, size: int, dims: Sequence[int]) -> bool:
    """Say whether two operands read some of the same values of their one constant."""
    index = np.arange(size, dtype=np.int64).reshape(dims)
    marks = np.zeros(size, np.bool_)
    marks[one.view(index).reshape(-1)] = True
    return bool(marks[other.view(index).reshape(-1)].any())


def scatter(base: Array, source: Source, values: Array) -> None:
    """Write an operand's new values into the constant's array, in place.

    Args:
        base: the constant's array, writable and C-contiguous.
        source: the way from it to the operand.
        values: shape `source.shape`; cast to the array's type.
    """
    seen = source.view(base)
    if np.may_share_memory(seen, base):
        seen[...] = values
        return
    index = source.view(np.arange(base.size, dtype=np.int64).reshape(base.shape))
    base.reshape(-1)[index] = values
