"""What stands before a layer and after it, through operators that hand values on as they are."""

from __future__ import annotations

from collections.abc import Iterator

from onnx_lsuv.layers import Layer
from onnx_lsuv.lsuv.streams import moves
from onnx_lsuv.operators import of
from onnx_lsuv.program import Node, Program
from onnx_lsuv.program.static_integers import axes_of, shape_of


def readers(program: Program, name: str) -> Iterator[tuple[Node | None, int]]:
    """Yield who reads a value, through operators that move it; None for a graph's output."""
    todo, seen = [name], {name}
    while todo:
        at = todo.pop()
        if at in program.exits:
            yield None, 0
        for node, position in program.consumers.get(at, ()):
            if moves(node) and position == 0:
                new = [output for output in node.outputs if output and output not in seen]
                seen.update(new)
                todo += new
            elif node.op_type != "Shape":
                yield node, position


def feeds_norms_alone(program: Program, layer: Layer) -> bool:
    """Say whether all that reads a layer normalises it."""
    found = list(readers(program, layer.end.outputs[0]))
    return bool(found) and all(node and of(node).norm == "own" and position == 0 for node, position in found)


def reads_even_averages(program: Program, layer: Layer) -> bool:
    """Say whether a last layer reads averages of what a BatchNormalization gives, over all places of each channel."""
    if layer.position > 1 or not _is_last(program, layer.end.outputs[0]):
        return False
    name, averaged = layer.node.inputs[1 - layer.position], False
    while name in program.producers:
        node, _ = program.producers[name]
        if of(node).averages:
            if not _leaves_no_place(program, node):
                return False
            averaged = True
        elif node.op == "BatchNormalization":
            scale = program.constants.get(node.inputs[1])
            return averaged and scale is not None and scale.dims == (layer.matrix.fan_in,)
        elif not moves(node):
            return False
        name = node.inputs[0]
    return False


def _leaves_no_place(program: Program, node: Node) -> bool:
    """Say whether an average is over all places, and not over channels."""
    if node.op == "GlobalAveragePool":
        return True
    before, after = (shape_of(program, name) for name in (node.inputs[0], node.outputs[0]))
    if before is None or after is None:
        return False
    if node.op == "ReduceMean" and {1, 1 - len(before)} & {*(axes_of(program, node) or ())}:
        return False
    return len(after) == 2 or all(dim == 1 for dim in after[2:])


def _is_last(program: Program, name: str) -> bool:
    """Say whether a value is an output of the graph, or the logits of one."""
    return any(
        node is None
        or ((of(node).gate or node.op == "LogSoftmax") and any(not end for end, _ in readers(program, node.outputs[0])))
        for node, _ in readers(program, name)
    )


def feeds_gate(program: Program, layer: Layer) -> bool:
    """Say whether a layer feeds a gate: numbers from 0 to 1 that multiply something else."""
    for node, _ in readers(program, layer.end.outputs[0]):
        if node is None or not of(node).gate:
            continue
        for product, position in readers(program, node.outputs[0]):
            if product is None or not of(product).products:
                continue
            # x * sigmoid(x) is an activation of its own, no gate.
            others = [name for i, name in enumerate(product.inputs) if i != position]
            if others != [node.inputs[0]] and not all(name in program.constants for name in others):
                return True
    return False
