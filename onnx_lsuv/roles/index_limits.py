"""How large the integers of an input may be, as the tables tell that they look up."""

from __future__ import annotations

from onnx_lsuv.program.program import DEFAULT_DOMAINS, Program
from onnx_lsuv.sources.moves import Source
from onnx_lsuv.sources.tracing import trace

# Operators that hand integers on without changing them.
_MOVES = frozenset({"Cast", "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split"})
_MOVES |= {"Expand", "Tile", "Concat", "Gather", "If", "Loop"}


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
                if node.domain not in DEFAULT_DOMAINS:
                    continue
                if node.op_type == "Gather" and position == 1:
                    table = trace(program, node.inputs[0])
                    if isinstance(table, Source) and table.shape:
                        length = table.shape[node.int_attribute("axis", 0)]
                        high[value.name] = min(length, high.get(value.name, length))
                elif node.op_type in _MOVES and (position == 0 or node.op_type == "Concat"):
                    todo += [output for output in node.outputs if output]
    return high
