"""Norms that exporters write out, and the scale and bias that follow them.

    x - mean(x) over the axes, divided by sqrt(mean of its squares + epsilon), * gamma, + beta     (PyTorch, LayerNorm)
    x * reciprocal(sqrt(mean(x^2) + epsilon)) * gamma                                              (RMSNorm)
    x * (rsqrt(var + epsilon) * gamma) + (beta - mean * (rsqrt(var + epsilon) * gamma))            (TensorFlow)

A norm operator without parameters of its own, as the InstanceNormalization that PyTorch writes for a GroupNorm, may be
followed by them too.
"""

from __future__ import annotations

from onnx_lsuv.operators import WHOLE, of
from onnx_lsuv.program.program import DEFAULT_DOMAINS, Node, Program, number

_PASS = WHOLE | {"casts"}
_UP = 6  # operators between a mean of squares and its root: an epsilon, a Cast, a Clip, a division


def is_norm_scale(program: Program, mul: Node, position: int) -> bool:
    """Say whether an operand of a Mul scales something normalised, or what normalises."""
    other = _maker(program, mul.inputs[1 - position])
    return _is_normal(program, other) or _is_inverse_root(program, other)


def is_norm_bias(program: Program, node: Node, position: int) -> bool:
    """Say whether an operand of an Add or Sub is added to something normalised, scaled or not."""
    other = _maker(program, node.inputs[1 - position])
    factors = _operands(program, other, "Mul")
    if node.op_type == "Add":
        return _is_normal(program, other) or any(_is_normal(program, factor) for factor in factors)
    return position == 0 and any(_is_gain(program, factor) for factor in factors)


def _maker(program: Program, name: str) -> Node | None:
    """Return the node that makes a value, before operators that only move it."""
    return next((node for node in program.makers(name) if of(node).move not in _PASS), None)


def _operands(program: Program, node: Node | None, op: str) -> list[Node | None]:
    """Return what makes the operands of a node of this kind; none of any other node."""
    return [_maker(program, name) for name in node.inputs] if node is not None and node.op == op else []


def _is_normal(program: Program, node: Node | None) -> bool:
    """Say whether a node normalises: x / root, or x times one over it."""
    if node is None or of(node).norm:
        return node is not None
    if node.op == "Div":
        return node.inputs[0] not in program.constants and _is_root(program, _maker(program, node.inputs[1]))
    return any(_is_gain(program, factor) for factor in _operands(program, node, "Mul"))


def _is_gain(program: Program, node: Node | None) -> bool:
    """Say whether a node makes one over a root, perhaps times a constant."""
    if _is_inverse_root(program, node):
        return True
    scaled = node is not None and any(name in program.constants for name in node.inputs)
    return scaled and any(_is_inverse_root(program, factor) for factor in _operands(program, node, "Mul"))


def _is_inverse_root(program: Program, node: Node | None) -> bool:
    if node is None:
        return False
    if node.op == "Reciprocal" or (node.op == "Div" and node.inputs[0] in program.constants):
        return _is_root(program, _maker(program, node.inputs[-1]))
    return _is_power(program, node, -0.5) and _has_mean(program, node.inputs[0])


def _is_root(program: Program, node: Node | None) -> bool:
    root = node is not None and (node.op == "Sqrt" or _is_power(program, node, 0.5))
    return node is not None and root and _has_mean(program, node.inputs[0])


def _is_power(program: Program, node: Node, exponent: float) -> bool:
    return node.op == "Pow" and number(program.constants, node.inputs[1]) == exponent


def _has_mean(program: Program, name: str) -> bool:
    """Say whether a value comes from a reduction, a few operators back."""
    todo = [name]
    for _ in range(_UP):
        makers = [program.producers[each][0] for each in todo if each in program.producers]
        if any(node.domain in DEFAULT_DOMAINS and node.op_type.startswith("Reduce") for node in makers):
            return True
        todo = [each for node in makers for each in node.inputs]
    return False
