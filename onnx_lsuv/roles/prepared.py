"""Which inputs a graph prepares itself: (x - mean) / std, x / 255, a norm, before any layer reads them.

From the input on, through operators that move values or bound them, every way has to meet an operator that shifts or
scales by constants, or by what was reduced from the values themselves, or a norm. A table that is added or multiplied,
such as a position embedding or a mask, prepares nothing; a mean image that is taken off does.
"""

from __future__ import annotations

from onnx_lsuv.operators import of
from onnx_lsuv.program.program import DEFAULT_DOMAINS, Node, Program
from onnx_lsuv.program.static_integers import folded

_SCALING = frozenset({"Add", "Sub", "Mul", "Div"})


def prepared_inputs(program: Program) -> frozenset[str]:
    """Return the inputs that are shifted or scaled by the graph before anything else reads them."""
    return frozenset(value.name for value in program.body.inputs if _is_prepared(program, value.name))


def _is_prepared(program: Program, name: str) -> bool:
    todo, seen, met = [name], {name}, False
    while todo:
        at = todo.pop()
        if at in program.exits and at != name:
            return False
        for node, position in program.consumers.get(at, ()):
            plain = node.domain in DEFAULT_DOMAINS
            if plain and (of(node).reads_shape or node.op_type.startswith("Reduce")):
                continue
            if of(node).norm or (plain and node.op_type in _SCALING and _is_scaling(program, node, position)):
                met = True
            elif of(node).move and (position == 0 or of(node).move == "joins"):
                new = [output for output in node.outputs if output and output not in seen]
                seen.update(new)
                todo += new
            else:
                return False
    return met


def _is_scaling(program: Program, node: Node, position: int) -> bool:
    """Say whether the other operand of a sum or product is constant, a vector where a table is added, or reduced."""
    other = node.inputs[1 - position]
    if node.op_type == "Div" and position == 1:
        return False
    maker = program.producers[other][0] if other in program.producers else None
    if other in program.constants or maker in program.static:
        if node.op_type in ("Sub", "Div"):
            return True
        value = folded(program, other)
        # With shapes unknown, it is a vector for all that is known.
        return value is None or sum(length != 1 for length in value.shape) <= 1
    return maker is not None and (maker.op_type.startswith("Reduce") or maker.op_type == "Sqrt")
