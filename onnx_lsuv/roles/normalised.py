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

_UP = 6  # operators between a mean of squares and its root: an epsilon, a Cast, a Clip, a division


def is_norm_scale(program: Program, mul: Node, position: int) -> bool:
    """Say whether an operand of a Mul scales something normalised, or what normalises."""
    other = mul.inputs[1 - position]
    return _is_normalised(program, other) or _is_inverse_root(program, other)


def is_norm_bias(program: Program, node: Node, position: int) -> bool:
    """Say whether an operand of an Add or Sub is added to something normalised, scaled or not."""
    other = _producer(program, node.inputs[1 - position])
    if other is None:
        return False
    if node.op_type == "Add":
        return _is_normal(program, other) or (
            other.op == "Mul" and any(_is_normalised(program, name) for name in other.inputs)
        )
    return position == 0 and other.op == "Mul" and any(_is_gain(program, name) for name in other.inputs)


def _producer(program: Program, name: str) -> Node | None:
    """Return the node that makes a value, before operators that only move it."""
    while name in program.producers:
        node, _ = program.producers[name]
        if of(node).move not in WHOLE | {"casts"}:
            return node
        name = node.inputs[0]
    return None


def _is_normalised(program: Program, name: str) -> bool:
    node = _producer(program, name)
    return node is not None and _is_normal(program, node)


def _is_normal(program: Program, node: Node) -> bool:
    if of(node).norm:
        return True
    if node.op == "Div":
        return node.inputs[0] not in program.constants and _is_root(program, node.inputs[1])
    return node.op == "Mul" and any(_is_gain(program, name) for name in node.inputs)


def _is_gain(program: Program, name: str) -> bool:
    """Say whether a value is one over a root, perhaps times a constant."""
    if _is_inverse_root(program, name):
        return True
    node = _producer(program, name)
    if node is None or node.op != "Mul" or not any(each in program.constants for each in node.inputs):
        return False
    return any(_is_inverse_root(program, each) for each in node.inputs)


def _is_inverse_root(program: Program, name: str) -> bool:
    node = _producer(program, name)
    if node is None:
        return False
    if node.op == "Reciprocal":
        return _is_root(program, node.inputs[0])
    if node.op == "Div":
        return node.inputs[0] in program.constants and _is_root(program, node.inputs[1])
    return node.op == "Pow" and number(program.constants, node.inputs[1]) == -0.5 and _has_mean(program, node.inputs[0])


def _is_root(program: Program, name: str) -> bool:
    node = _producer(program, name)
    if node is None or not (
        node.op == "Sqrt" or (node.op == "Pow" and number(program.constants, node.inputs[1]) == 0.5)
    ):
        return False
    return _has_mean(program, node.inputs[0])


def _has_mean(program: Program, name: str) -> bool:
    """Say whether a value comes from a reduction, a few operators back."""
    todo = [name]
    for _ in range(_UP):
        makers = [program.producers[each][0] for each in todo if each in program.producers]
        if any(node.domain in DEFAULT_DOMAINS and node.op_type.startswith("Reduce") for node in makers):
            return True
        todo = [each for node in makers for each in node.inputs]
    return False
