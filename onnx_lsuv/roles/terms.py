"""What stands beside a layer's product: biases, and the running statistics of norms.

A bias is set to zero only where everything that reads it uses it as a bias; running statistics are written only where
nothing else reads them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from onnx_lsuv.errors import ModelError
from onnx_lsuv.layers.plan import Addend, Layer, Norm, Skipped
from onnx_lsuv.operators import WHOLE, bias_position, of
from onnx_lsuv.program.program import FLOAT_TYPES, Body, Constant, Node, Program
from onnx_lsuv.program.protos import MODEL_FUNCTIONS
from onnx_lsuv.sources.moves import Source
from onnx_lsuv.sources.tracing import is_constant, trace

# Each value of an operand, or of a part of it, is handed on once.
_MOVES = WHOLE | {"casts", "takes", "joins"}


def writable(constant: Constant) -> bool:
    """Say whether the file has a tensor of this constant's own that could hold new values."""
    return constant.site is not None and not (
        constant.origin == "ConstantOfShape" and constant.site[0][0] == MODEL_FUNCTIONS
    )


def uses(program: Program, name: str) -> Iterator[tuple[Node | None, int]]:
    """Yield who reads a constant in the end, through nodes that depend on constants alone.

    None stands for an output of an inner scope.
    """
    todo: list[str | tuple[Node | None, int]] = [name]
    seen: set[str] = set()
    outputs = {v.name for v in program.body.outputs}
    while todo:
        at = todo.pop()
        if not isinstance(at, str):
            yield at
            continue
        if at in seen:
            continue
        seen.add(at)
        below: list[str | tuple[Node | None, int]] = [(None, 0)] if at in program.exits and at not in outputs else []
        for node, position in program.consumers.get(at, ()):
            operator = of(node)
            if operator.reads_shape:
                continue
            moved = operator.move in _MOVES and (position == 0 or operator.move == "joins")
            if (moved or is_constant(program, node)) and not operator.weights:
                below += [output for output in node.outputs if output]
            else:
                below.append((node, position))
        todo += reversed(below)


def bias_of(program: Program, node: Node, weight: int) -> tuple[Node, Addend | None, tuple[str, ...]]:
    """Return the node at which a layer ends, its additive term, and the constants that hold the term if any do."""
    bias = bias_position(node, weight)
    if bias is not None:
        if node.op_type == "Gemm" and node.float_attribute("beta", 1.0) == 0.0:
            return node, None, ()
        return node, Addend(node, bias), _holders(program, node.inputs[bias])
    readers = program.consumers.get(node.outputs[0], ()) if not of(node).unscaled else ()
    if len(readers) != 1 or node.outputs[0] in program.exits:
        return node, None, ()
    after, position = readers[0]
    if after.op != "Add" or (after.scope != node.scope and not _together(program.body, node, after)):
        return node, None, ()
    other = after.inputs[1 - position]
    source = trace(program, other, several=True)
    if not isinstance(source, Source) or sum(d != 1 for d in source.shape) > 1:
        return node, None, ()
    return after, Addend(after, 1 - position), _holders(program, other)


def _together(body: Body, one: Node, other: Node) -> bool:
    """Say whether two nodes run together: in one body, be it through different function calls."""
    if one in body.nodes or other in body.nodes:
        return one in body.nodes and other in body.nodes
    return any(_together(inner, one, other) for node in body.nodes for inner in node.bodies.values())


def settle_biases(
    program: Program, layers: list[Layer], *, keep_bias: bool
) -> tuple[list[Layer], tuple[str, ...], tuple[tuple[Source, int], ...]]:
    """Decide which biases become zero.

    Returns:
        The layers, with an addend only where one stays; the constants that become zero; and for each LSTM among them
        its bias operand and hidden size.
    """
    places = {(layer.addend.node, layer.addend.position) for layer in layers if layer.addend}
    zeroed: dict[str, None] = {}
    forget: dict[Node, tuple[Source, int]] = {}
    settled = []
    for layer in layers:
        free = layer.bias and all(use in places for name in layer.bias for use in uses(program, name))
        if not keep_bias and free:
            zeroed |= dict.fromkeys(layer.bias)
            if layer.node.op_type == "LSTM" and layer.addend is not None:
                operand = trace(program, layer.node.inputs[layer.addend.position], several=True)
                # A bias of 1 that is rounded would need a step of its own.
                if isinstance(operand, Source) and not operand.rounding and _has_gates(operand):
                    forget[layer.node] = operand, operand.shape[1] // 8
        settled.append(replace(layer, addend=None) if free and not keep_bias else layer)
    return settled, tuple(zeroed), tuple(forget.values())


def _has_gates(bias: Source) -> bool:
    return len(bias.shape) == 2 and not bias.shape[1] % 8


def _holders(program: Program, name: str) -> tuple[str, ...]:
    """Return the constants that an operand is made of by moving alone, if all can be written; else none."""
    source = trace(program, name, several=True)
    # What rounds a term, or bounds it, leaves zero as it is.
    if not isinstance(source, Source) or source.computed or source.elem_type not in FLOAT_TYPES:
        return ()
    constants = [program.constants[each] for each in source.constants]
    if all(writable(c) and c.elem_type in FLOAT_TYPES for c in constants):
        return source.constants
    return ()


def find_norms(program: Program) -> tuple[tuple[Norm, ...], tuple[Skipped, ...]]:
    """Return the BatchNormalizations whose statistics can be written, and those that keep the stored ones."""
    found: list[Norm] = []
    kept: list[Skipped] = []
    for node in program.walk():
        if node.op != "BatchNormalization":
            continue
        _check_channels(program, node)
        mean, var = (_whole(program, node.inputs[i]) for i in (3, 4))
        if node.int_attribute("spatial", 1) == 0:
            kept.append(Skipped(node, None, None, "type", "statistics of each position (spatial=0) are not calibrated"))
        elif node in program.old_scans:
            kept.append(Skipped(node, None, None, "operator", "it stands in a Scan of opset 8"))
        elif mean is None or var is None or mean == var:
            kept.append(Skipped(node, None, None, "computed", "the statistics are not two constants of their own"))
        else:
            found.append(Norm(node, mean, var))
    norms = []
    for norm in found:
        mates = {(n.node, i) for n in found if (n.mean, n.var) == (norm.mean, norm.var) for i in (3, 4)}
        if all(use in mates for name in (norm.mean, norm.var) for use in uses(program, name)):
            norms.append(norm)
        else:
            label = program.constants[norm.mean].label
            detail = "something else reads the running mean or variance too, so the stored values stay"
            kept.append(Skipped(norm.node, label, None, "tied", detail))
    return tuple(norms), tuple(kept)


def _check_channels(program: Program, node: Node) -> None:
    """Raise ModelError where the constants of a BatchNormalization differ in their number of channels."""
    constants = [program.constants[name] for name in node.inputs[1:] if name in program.constants]
    if len({constant.dims for constant in constants}) > 1:
        found = ", ".join(f"{constant.label!r} {list(constant.dims)}" for constant in constants)
        raise ModelError(
            f"The scale, bias, mean and variance of the BatchNormalization {node.label!r} should have the same dims, "
            f"but they are {found}: the model is broken; export it again."
        )


def _whole(program: Program, name: str) -> str | None:
    """Return the one constant that an operand is, wholly."""
    source = trace(program, name)
    if isinstance(source, Source) and not source.partial and not source.rounding and _holders(program, name):
        return source.constant
    return None
