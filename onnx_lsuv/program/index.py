"""What is known of a body as a whole once it is expanded."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import replace

from onnx_lsuv.operators import of
from onnx_lsuv.program.program import Body, Constant, Node, walk


def makers_of(body: Body) -> dict[str, tuple[Node, int]]:
    """Return the node that makes each value, and as which output."""
    return {name: (node, i) for node in walk(body) for i, name in enumerate(node.outputs)}


def readers_of(body: Body) -> dict[str, tuple[tuple[Node, int], ...]]:
    """Return the nodes of any scope that read each value, and as which operand."""
    readers: dict[str, list[tuple[Node, int]]] = {}
    for node in walk(body):
        for i, name in enumerate(node.inputs):
            if name:
                readers.setdefault(name, []).append((node, i))
    return {name: tuple(places) for name, places in readers.items()}


def exits_of(body: Body) -> frozenset[str]:
    """Return the values that leave a scope as one of its outputs."""
    bodies = [body, *(inner for node in walk(body) for inner in node.bodies.values())]
    return frozenset(value.name for each in bodies for value in each.outputs)


def nodes_in_scans(body: Body) -> frozenset[Node]:
    """Return the nodes that stand inside a Scan."""
    scans = [node for node in walk(body) if node.op == "Scan"]
    return frozenset(node for scan in scans for inner in scan.bodies.values() for node in walk(inner))


def static_nodes(body: Body, constants: Mapping[str, Constant]) -> frozenset[Node]:
    """Return the nodes of all scopes that depend on constants alone."""
    found: set[Node] = set()
    fixed = set(constants)
    for node in walk(body):
        if not of(node).random and not node.bodies and all(not name or name in fixed for name in node.inputs):
            found.add(node)
            fixed.update(node.outputs)
    return frozenset(found)


def trimmed(body: Body) -> Body:
    """Drop the optional outputs that nothing reads, as the mask of a Dropout."""
    read = exits_of(body).union(*(node.inputs for node in walk(body)))
    return _trimmed(body, read - {""})  # an input that is left out reads no output that is left out


def _trimmed(body: Body, read: Container[str]) -> Body:
    nodes = []
    for node in body.nodes:
        outputs = node.outputs
        if node.op in ("Dropout", "BatchNormalization"):
            while len(outputs) > 1 and outputs[-1] not in read:
                outputs = outputs[:-1]
        nodes.append(replace(node, outputs=outputs, bodies={k: _trimmed(b, read) for k, b in node.bodies.items()}))
    return replace(body, nodes=tuple(nodes))
