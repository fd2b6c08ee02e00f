"""How a constant expression grows with each of its constants.

An expression f is homogeneous of degree d in a constant c where f(t c) = t^d f(c). What has degree 1 can carry a
scale; what has degree 0, as v in g * v / |v|, is a mere direction.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field

from onnx_lsuv.operators import of
from onnx_lsuv.program.program import DEFAULT_DOMAINS, FLOAT_TYPES, Node, Program, number

Degrees = dict[str, float]


def degrees(program: Program, name: str, rounding: Collection[Node] = ()) -> Degrees | None:
    """Return the degree in which a constant expression grows with each of its constants.

    NaN stands for a constant in which it is not homogeneous; None for an expression that is not constant. Nodes of
    `rounding` grow as their first operand, since their steps and bounds are scaled with it.
    """
    try:
        return _Search(program, rounding).look(name)
    except RecursionError:
        return None


@dataclass(slots=True)
class _Search:
    program: Program
    rounding: Collection[Node]
    found: dict[str, Degrees | None] = field(default_factory=dict)  # several ways may lead over one value

    def look(self, name: str) -> Degrees | None:
        program, found = self.program, self.found
        if name not in found:
            if name in program.constants:
                found[name] = {name: 1.0} if program.constants[name].elem_type in FLOAT_TYPES else {}
            else:
                found[name] = self.computed(program.producers[name][0]) if name in program.producers else None
        return found[name]

    def computed(self, node: Node) -> Degrees | None:
        if node in self.rounding:
            return self.look(node.inputs[0])
        if node.domain not in DEFAULT_DOMAINS or node.bodies or of(node).random:
            return None
        given = [self.look(each) for each in node.inputs if each]
        parts = [part for part in given if part is not None]
        return _combined(self.program, node, parts) if parts and len(parts) == len(given) else None


def _combined(program: Program, node: Node, parts: list[Degrees]) -> Degrees:
    """Return the degrees of what a node computes from operands of some degrees."""
    names, first, operator = dict.fromkeys(each for part in parts for each in part), parts[0], of(node)
    if node.op_type in ("Mul", "MatMul"):
        return {n: sum(p.get(n, 0.0) for p in parts) for n in names}
    if node.op_type == "Div":
        return {n: first.get(n, 0.0) - parts[1].get(n, 0.0) for n in names}
    if operator.sums:
        # Terms grow together only in what all of them share to one degree.
        return {n: first.get(n, math.nan) if all(p.get(n) == first.get(n) for p in parts) else math.nan for n in names}
    degree = number(program.constants, node.inputs[1]) if node.op_type == "Pow" else operator.degree
    return {n: d * degree for n, d in first.items()} if degree is not None else dict.fromkeys(names, math.nan)
