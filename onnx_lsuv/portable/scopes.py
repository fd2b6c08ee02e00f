"""Who reads and makes what: names in the main graph, and names that the graphs inside its nodes take from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from onnx import AttributeProto, GraphProto, NodeProto

from onnx_lsuv.model import graphs_in
from onnx_lsuv.program.program import DEFAULT_DOMAINS
from onnx_lsuv.program.protos import free_names


@dataclass(slots=True)
class Uses:
    """The readers of the main graph's values."""

    readers: dict[str, list[tuple[NodeProto, int]]] = field(default_factory=dict)  # nodes of the main graph itself
    makers: dict[str, NodeProto] = field(default_factory=dict)
    captured: set[str] = field(default_factory=set)  # names that graphs inside nodes read
    outputs: set[str] = field(default_factory=set)

    def only(self, name: str) -> tuple[NodeProto, int] | None:
        """Return the one reader of a value, where nothing else reads it."""
        readers = self.readers.get(name, [])
        return readers[0] if len(readers) == 1 and not self.held(name) else None

    def held(self, name: str) -> bool:
        """Say whether a value is read elsewhere than by nodes of the main graph."""
        return name in self.captured or name in self.outputs


def uses_of(graph: GraphProto) -> Uses:
    """Return who reads what in the main graph."""
    uses = Uses(outputs={value.name for value in graph.output})
    for node in graph.node:
        for position, name in enumerate(node.input):
            if name:
                uses.readers.setdefault(name, []).append((node, position))
        for name in node.output:
            if name:
                uses.makers[name] = node
        for inner in graphs_of(node):
            uses.captured.update(free_names(inner))
    return uses


def graphs_of(node: NodeProto) -> Iterator[GraphProto]:
    """Yield the graphs among a node's attributes."""
    for attribute in node.attribute:
        yield from graphs_in(attribute)


def all_graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """Yield a graph and those inside it."""
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


def is_op(node: NodeProto, *op_types: str) -> bool:
    """Say whether a node is one of these operators of ONNX's own set."""
    return node.domain in DEFAULT_DOMAINS and node.op_type in op_types


def attribute_of(node: NodeProto, name: str) -> AttributeProto | None:
    """Return an attribute of a node."""
    return next((attribute for attribute in node.attribute if attribute.name == name), None)


def drop_attributes(node: NodeProto, *names: str) -> None:
    """Take attributes off a node."""
    kept = [attribute for attribute in node.attribute if attribute.name not in names]
    del node.attribute[:]
    node.attribute.extend(kept)


def label_of(node: NodeProto) -> str:
    """Return what steps call a node: its name, or the first value that it makes."""
    return node.name or next((name for name in node.output if name), node.op_type)


def remove_nodes(graph: GraphProto, gone: Sequence[NodeProto]) -> None:
    """Take nodes out of a graph."""
    marks = set(map(id, gone))
    for index in reversed(range(len(graph.node))):
        if id(graph.node[index]) in marks:
            del graph.node[index]
