"""How a constant expression grows with each of its constants.

An expression f is homogeneous of degree d in a constant c where f(t c) = t^d f(c). What has degree 1 can carry a
scale; what has degree 0, as v in g * v / |v|, is a mere direction.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from onnx_lsuv.operators import of
from onnx_lsuv.program.program import DEFAULT_DOMAINS, FLOAT_TYPES, Node, Program, number

Degrees = dict[str, float]


def degrees(program: Program, name: str, rounding: Collection[Node] = ()) -> Degrees | None:
    """Return the degree in which a constant expression grows with each of its constants.

    NaN stands for a constant in which it is not homogeneous; None for an expression that is not constant. Nodes of
    `rounding` grow as their first operand, since their steps and bounds are scaled with it.
    """
    try:
        return _degrees(program, name, rounding, {})
    except RecursionError:
        return None


def _degrees(
    program: Program, name: str, rounding: Collection[Node], found: dict[str, Degrees | None]
) -> Degrees | None:
    """Look a value up; `found` has those that several ways lead over."""
    if name not in found:
        if name in program.constants:
            found[name] = {name: 1.0} if program.constants[name].elem_type in FLOAT_TYPES else {}
        elif name in program.producers:
            found[name] = _computed(program, program.producers[name][0], rounding, found)
        else:
            found[name] = None
    return found[name]


def _computed(
    program: Program, node: Node, rounding: Collection[Node], found: dict[str, Degrees | None]
) -> Degrees | None:
    if node in rounding:
        return _degrees(program, node.inputs[0], rounding, found)
    if node.domain not in DEFAULT_DOMAINS or node.bodies or of(node).random:
        return None
    operator = of(node)
    given = [_degrees(program, each, rounding, found) for each in node.inputs if each]
    parts = [part for part in given if part is not None]
    if not parts or len(parts) < len(given):
        return None
    names = dict.fromkeys(each for part in parts for each in part)
    first = parts[0]

    def scaled(by: float) -> Degrees:
        return {n: d * by for n, d in first.items()}

    match node.op_type:
        case "Mul" | "MatMul":
            return {n: sum(p.get(n, 0.0) for p in parts) for n in names}
        case "Div":
            return {n: first.get(n, 0.0) - parts[1].get(n, 0.0) for n in names}
        case "Pow":
            exponent = number(program.constants, node.inputs[1])
            if exponent is not None:
                return scaled(exponent)
        case _ if operator.sums:
            # Terms grow together only in what all of them share to one degree.
            return {
                n: first.get(n, math.nan) if all(p.get(n) == first.get(n) for p in parts) else math.nan for n in names
            }
        case _ if operator.degree is not None:
            return scaled(operator.degree)
    return dict.fromkeys(names, math.nan)
