"""The graphs that a message holds, and those inside them."""

from __future__ import annotations

from collections.abc import Iterator

from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto


def graphs_in(attribute: AttributeProto) -> list[GraphProto]:
    """Return the graphs that an attribute holds."""
    return [*([attribute.g] if attribute.type == AttributeProto.GRAPH else []), *attribute.graphs]


def graphs_of(node: NodeProto) -> Iterator[GraphProto]:
    """Yield the graphs among a node's attributes."""
    for attribute in node.attribute:
        yield from graphs_in(attribute)


def all_graphs(graph: GraphProto | FunctionProto) -> Iterator[GraphProto]:
    """Yield the graphs inside a graph or a function, and before them itself if it is a graph."""
    if isinstance(graph, GraphProto):
        yield graph
    for node in graph.node:
        for inner in graphs_of(node):
            yield from all_graphs(inner)


def all_names(graph: GraphProto) -> set[str]:
    """Return the names of all values in a graph and inside it."""
    taken: set[str] = set()
    for each in all_graphs(graph):
        taken.update(value.name for value in (*each.input, *each.output, *each.initializer))
        taken.update(sparse.values.name for sparse in each.sparse_initializer)
        for node in each.node:
            taken.update((*node.input, *node.output))
    return taken
