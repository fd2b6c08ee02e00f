"""How large the integers of an input may be, as the tables tell that they look up."""

from __future__ import annotations

from onnx_lsuv.operators import WHOLE, of
from onnx_lsuv.program.program import DEFAULT_DOMAINS, Program
from onnx_lsuv.sources.moves import Source
from onnx_lsuv.sources.tracing import trace

# Integers are handed on without being changed.
_MOVES = WHOLE | {"casts", "takes", "picks", "repeats", "joins"}


def vocabulary(program: Program) -> dict[str, int]:
    """Return, for each graph input that indexes a table, one more than the largest index that every table holds."""
    high: dict[str, int] = {}
    for value in program.body.inputs:
        todo, seen = [value.name], set()
        while todo:
            name = todo.pop()
            if name in seen:
                continue
            seen.add(name)
            for node, position in program.consumers.get(name, ()):
                move = of(node).move
                if node.domain not in DEFAULT_DOMAINS:
                    continue
                if node.op_type == "Gather" and position == 1:
                    table = trace(program, node.inputs[0])
                    if isinstance(table, Source) and table.shape:
                        length = table.shape[node.int_attribute("axis", 0)]
                        high[value.name] = min(length, high.get(value.name, length))
                elif (move in _MOVES or node.op in ("If", "Loop")) and (position == 0 or move == "joins"):
                    todo += [output for output in node.outputs if output]
    return high
