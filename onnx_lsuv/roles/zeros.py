"""Which scales of zero may stay: those at the end of a residual branch, as it is often started, where the sum lives."""

from __future__ import annotations

from collections.abc import Set

from onnx_lsuv.operators import WHOLE, of
from onnx_lsuv.program.program import Node, Program

_MOVES = WHOLE | {"casts", "drops"}


def living_zeros(program: Program, zeros: Set[str]) -> Set[str]:
    """Return those of some scales of zero that leave each sum of data an operand that is not zero.

    Where all operands of a sum end in one of them, none of these stays.
    """
    kept = set(zeros)
    while dead := _dead(program, kept):
        kept -= dead
    return kept


def _dead(program: Program, zeros: Set[str]) -> set[str]:
    """Return the scales that make the first whole sum zero; none where every sum lives."""
    zero = {name: {name} for name in zeros}  # what makes a value zero
    for node in program.walk():
        counting = _counting(program, node)
        found = [zero[name] for name in counting if name in zero]
        if found and (node.op != "Add" or len(found) == len(counting)):
            zero[node.outputs[0]] = set().union(*found)
            if node.op == "Add" and len(found) > 1:
                return zero[node.outputs[0]]
    return set()


def _counting(program: Program, node: Node) -> list[str]:
    """Return the operands whose zeros go through a node: all of an Add that are no biases, any of a product."""
    operator = of(node)
    if node.op == "Add":
        return [name for name in node.inputs if name not in program.constants]
    if node.op == "Mul":
        return list(node.inputs)
    if operator.norm:
        return [node.inputs[at] for at, role in operator.roles.items() if role == "scale" and at < len(node.inputs)]
    return list(node.inputs[:1]) if operator.move in _MOVES or operator.windows else []
