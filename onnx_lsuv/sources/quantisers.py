"""What rounds or cuts off a weight on its way to its layer, as in quantisation-aware training.

    q = saturate(round(w / step) + zero)        QuantizeLinear
    w' = (q - zero) * step                      DequantizeLinear

With w and step scaled alike q stays, so w' is scaled exactly. A step serves the whole tensor, one index of an axis, or
`block_size` neighbours along it; the axis is one of the tensor that is rounded, not of what the layer sees. q goes from
low to high, the range of its type or what a Clip leaves of it, so that both signs of w' reach

    reach * step,    reach = min(high - zero, zero - low)

and the step starts at the largest |w| that it serves, divided by the reach. The bounds of a Clip before that are scaled
with the weight likewise and start at -max |w| and max |w|. (ONNX operator specifications.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
from onnx import TensorProto, helper

from onnx_lsuv.operators import MICROSOFT, of
from onnx_lsuv.program.program import FLOAT_TYPES, Node, Program, number, stored
from onnx_lsuv.sources.degrees import degrees
from onnx_lsuv.sources.moves import MOVES, Array, QuantiserStep, Source, Untraceable, extend

Follow = Callable[[str], Source]

_BETWEEN = MOVES.keys() - {"Cast"} | {"Clip"}
_BITS = 16  # of the widest type that weights are rounded to
_UNBOUNDED = 1e4  # no weight comes near a bound as large as this


def is_quantiser(node: Node, op_type: str) -> bool:
    """Say whether a node is a QuantizeLinear or DequantizeLinear of ONNX or of ONNX Runtime's own operators."""
    return node.op_type == op_type and node.domain in ("", MICROSOFT)


class _Unlike(Exception):  # noqa: N818 - as Untraceable
    """What rounds a weight does not scale with it."""


def rounded(program: Program, node: Node, follow: Follow) -> Source:
    """Follow a weight through a DequantizeLinear and the QuantizeLinear before it.

    Args:
        program: where the node stands.
        node: the DequantizeLinear.
        follow: returns the source of an operand or raises Untraceable.
    """
    try:
        return _rounded(program, node, follow)
    except _Unlike as error:
        raise Untraceable("quantised", f"the weight comes out of {node.op}: give the float model") from error


def _rounded(program: Program, node: Node, follow: Follow) -> Source:
    between: list[tuple[Node, int]] = []  # on the way of the integers
    before, output = _maker(program, node)
    while not is_quantiser(before, "QuantizeLinear"):
        if before.op not in _BETWEEN:
            raise _Unlike
        between.insert(0, (before, output))
        before, output = _maker(program, before)
    source = follow(before.inputs[0])
    zero, elem_type = _zero(program, before)
    low, high = _range(elem_type)
    moved, probe = source, Source(("",), lambda arrays: arrays[""], (), TensorProto.FLOAT, source.shape, partial=False)
    for move, at in between:
        if move.op == "Clip":
            low, high = _narrowed(program, move, low, high)
        else:
            moved, probe = (MOVES[move.op](program, move, at, each) for each in (moved, probe))
    reach = np.minimum(high - zero, zero - low)
    if not (reach > 0).all():
        raise Untraceable(
            "quantised", f"the zero point of {node.op} {node.label!r} leaves no room for one of the signs"
        )
    steps: list[QuantiserStep] = []
    elem_type = source.elem_type
    # A step that is computed from the weight, as max |w| / 127, follows it by itself.
    growth = degrees(program, before.inputs[1]) or {}
    if before.inputs[1] != node.inputs[1] or any(growth.get(each) != 1.0 for each in source.constants):
        first, last = (_step(program, n, s, reach, follow) for n, s in ((before, source), (node, moved)))
        if not _agree(program, first, last, source, moved, probe):
            raise _Unlike
        steps = [replace(first, node=node), *([last] if first.operand.constants != last.operand.constants else [])]
        elem_type = last.operand.elem_type
    other, _ = _zero(program, node)
    if (zero.ndim and other.ndim and zero.size != other.size) or not (zero == other).all():
        raise _Unlike
    clips = [move for move, _ in between if move.op == "Clip"]
    return replace(
        extend(moved, node, elem_type=node.attributes.integer("output_dtype", 0) or elem_type),
        quantiser_steps=(*moved.quantiser_steps, *steps),
        rounding=(*moved.rounding, before, *clips, node),
    )


def bounded(program: Program, node: Node, follow: Follow) -> Source:
    """Follow a weight through a Clip whose bounds are constants of their own."""
    stop = "computed", f"the bounds of Clip {node.label!r} cannot follow the weight's scale"
    source = follow(node.inputs[0])
    if node.attributes:
        raise Untraceable(*stop)
    found = []
    for name, sign in zip(node.inputs[1:], (-1.0, 1.0), strict=False):
        if not name:
            continue
        operand = follow(name)
        if operand.size != 1 or operand.computed or operand.quantiser_steps:
            raise Untraceable(*stop)
        bound = sign * float(stored(program, operand.constant).reshape(-1)[0])
        if bound <= 0:
            raise Untraceable("computed", f"Clip {node.label!r} cuts off one sign of the weight")
        if bound < _UNBOUNDED:
            found.append(
                QuantiserStep(node, name, operand, node.inputs[0], source.view, source.computed, np.asarray(sign), 0, 0)
            )
    return replace(
        extend(source, node), quantiser_steps=(*source.quantiser_steps, *found), rounding=(*source.rounding, node)
    )


def starting_value(step: QuantiserStep, weight: Array) -> Array:
    """Return the value at which a step or a bound starts, in the shape of its operand.

    Args:
        step: what to set.
        weight: what is rounded or cut off.
    """
    operand = step.operand
    top, bottom = (_reduced(ufunc, weight, step) for ufunc in (np.maximum, np.minimum))
    peak = np.maximum(np.asarray(top, np.float64), -np.asarray(bottom, np.float64)).reshape(operand.shape)
    value = np.where(peak > 0, peak, np.abs(step.reach)) / step.reach
    # Below the least normal number a step would be rounded itself.
    least = float(_limits(operand.elem_type).smallest_normal)
    return np.where(np.abs(value) < least, np.copysign(least, value), value)


def _reduced(ufunc: np.ufunc, weight: Array, step: QuantiserStep) -> Any:
    if step.block:
        starts = np.arange(0, weight.shape[step.axis], step.block)
        return ufunc.reduceat(weight, starts, step.axis)
    if step.operand.size == 1:
        return ufunc.reduce(weight, None)
    return ufunc.reduce(weight, tuple(i for i in range(weight.ndim) if i != step.axis))


def _maker(program: Program, node: Node) -> tuple[Node, int]:
    """Return the node that makes a node's first operand, and which of its outputs that is."""
    if node.inputs[0] not in program.producers:
        raise _Unlike
    return program.producers[node.inputs[0]]


def _zero(program: Program, node: Node) -> tuple[Array, int]:
    """Return a quantiser's zero point, of shape () where there is one, and the type of its integers."""
    name, elem_type = node.inputs[2] if len(node.inputs) > 2 else "", 0
    while name in program.producers:
        maker, _ = program.producers[name]
        if of(maker).move not in ("keeps", "casts", "reshapes"):
            raise _Unlike
        if maker.op_type == "Cast":
            elem_type = elem_type or maker.attributes.integer("to", 0)
        name = maker.inputs[0]
    if not name:
        return np.zeros(()), node.attributes.integer("output_dtype", 0) or TensorProto.UINT8
    if name not in program.constants:
        raise _Unlike
    zero = stored(program, name).astype(np.float64).reshape(-1)
    return zero if zero.size != 1 else zero[0], elem_type or program.constants[name].elem_type


def _range(elem_type: int) -> tuple[float, float]:
    """Return the least and the greatest number of a type that weights are rounded to."""
    found = _limits(elem_type)
    if found.bits > _BITS:
        raise _Unlike
    return float(found.min), float(found.max)


def _limits(elem_type: int) -> Any:
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(elem_type))
    limits: Callable[[Any], Any] = ml_dtypes.iinfo if "int" in dtype.name else ml_dtypes.finfo
    return limits(dtype)


def _narrowed(program: Program, clip: Node, low: float, high: float) -> tuple[float, float]:
    """Return what a Clip leaves of a range."""
    bounds = [low, high]
    for i, name in enumerate(clip.inputs[1:]):
        if name:
            bound = number(program.constants, name)
            if bound is None:
                raise _Unlike
            bounds[i] = (max, min)[i](bounds[i], bound)
    return bounds[0], bounds[1]


def _step(program: Program, node: Node, source: Source, reach: Array, follow: Follow) -> QuantiserStep:
    """Return the step of a QuantizeLinear or DequantizeLinear whose first operand has a source."""
    try:
        operand = follow(node.inputs[1])
    except Untraceable as error:
        raise _Unlike from error
    axis, block = node.attributes.integer("axis", 1), node.attributes.integer("block_size", 0)
    axis += len(source.shape) if axis < 0 else 0
    types = {operand.elem_type, *(program.constants[name].elem_type for name in operand.constants)}
    growth = degrees(program, node.inputs[1]) or {}
    followed = len(operand.constants) == 1 and not operand.quantiser_steps and growth.get(operand.constant) == 1.0
    if not followed or not types <= FLOAT_TYPES or (reach.ndim and reach.size != operand.size):
        raise _Unlike
    reach = reach.reshape(operand.shape) if reach.ndim else reach
    step = QuantiserStep(
        node, node.inputs[1], operand, node.inputs[0], source.view, source.computed, reach, axis, block
    )
    _places(step, source.shape)
    return step


def _places(step: QuantiserStep, shape: Sequence[int]) -> Array:
    """Return which step serves each value of a shape; raise _Unlike if they do not fit."""
    steps, axis, block = step.operand.shape, step.axis, step.block
    index = np.arange(step.operand.size).reshape(steps)
    if block:
        if block < 0 or axis >= len(shape) or steps != (*shape[:axis], -(-shape[axis] // block), *shape[axis + 1 :]):
            raise _Unlike
        return np.repeat(index, block, axis).take(np.arange(shape[axis]), axis)
    if index.size == 1:
        return np.broadcast_to(index.reshape(()), shape)
    if axis >= len(shape) or steps != (shape[axis],):
        raise _Unlike
    return np.broadcast_to(index.reshape([-1 if i == axis else 1 for i in range(len(shape))]), shape)


def _agree(
    program: Program, first: QuantiserStep, last: QuantiserStep, source: Source, moved: Source, probe: Source
) -> bool:
    """Say whether each value of a weight is divided and multiplied by the same step."""
    one, other = first.operand, last.operand
    if one.constants != other.constants:
        values, others = (each.see(stored(program, each.constant)).reshape(-1) for each in (one, other))
        if not np.array_equal(values, others):
            return False
    if first.name != last.name and (one.computed or other.computed):
        return False
    if source is moved and (one.shape, first.axis, first.block) == (other.shape, last.axis, last.block):
        return True
    return bool(np.array_equal(probe.see(_places(first, source.shape)), _places(last, moved.shape)))
