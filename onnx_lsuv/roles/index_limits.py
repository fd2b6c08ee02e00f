"""How large the integers of an input may be, as the tables tell that they look up."""

from __future__ import annotations

from onnx_lsuv.operators import WHOLE, of
from onnx_lsuv.program.program import Node, Program
from onnx_lsuv.sources.moves import Source
from onnx_lsuv.sources.tracing import trace

# Integers are handed on without being changed.
_MOVES = WHOLE | {"casts", "takes", "picks", "repeats", "joins"}


def limits_of(program: Program) -> dict[str, int]:
    """Return, for each graph input that indexes a table, one more than the largest index that every table holds."""

    def passes(node: Node, position: int) -> bool:
        move = of(node).move
        return (move in _MOVES or node.op in ("If", "Loop")) and (position == 0 or move == "joins")

    limits: dict[str, int] = {}
    for name in (value.name for value in program.body.inputs):
        for node, position in program.readers(name, passes):
            if node is not None and node.op == "Gather" and position == 1:
                table = trace(program, node.inputs[0])
                if isinstance(table, Source) and table.shape:
                    length = table.shape[node.attributes.integer("axis", 0)]
                    limits[name] = min(length, limits.get(name, length))
    return limits
