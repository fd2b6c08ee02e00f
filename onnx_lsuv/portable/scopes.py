"""Who reads and makes what: names in the main graph, and names that the graphs inside its nodes take from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableSequence, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, helper

from onnx_lsuv.importers.shapes import permutation
from onnx_lsuv.model import graphs_of
from onnx_lsuv.program.program import DEFAULT_DOMAINS
from onnx_lsuv.program.protos import free_names

T = TypeVar("T")


@dataclass(slots=True)
class Uses:
    """The values of the main graph, as they were when this was made."""

    tensors: Mapping[str, TensorProto]  # its dense initializers
    outputs: set[str]
    readers: dict[str, list[tuple[NodeProto, int]]] = field(default_factory=dict)  # nodes of the main graph itself
    makers: dict[str, NodeProto] = field(default_factory=dict)
    captured: set[str] = field(default_factory=set)  # names that graphs inside nodes read

    def only(self, name: str) -> tuple[NodeProto, int] | None:
        """Return the one reader of a value, where nothing else reads it."""
        readers = self.readers.get(name, [])
        return readers[0] if len(readers) == 1 and self.is_open(name) else None

    def is_open(self, name: str) -> bool:
        """Say whether a value is read by nodes of the main graph alone."""
        return name not in self.captured and name not in self.outputs

    def operand(self, node: NodeProto, position: int) -> TensorProto | None:
        """Return the float32 initializer that a node reads there, if it does."""
        tensor = self.tensors.get(node.input[position]) if position < len(node.input) else None
        return tensor if tensor is not None and tensor.data_type == TensorProto.FLOAT else None

    def maker(self, name: str, *op_types: str) -> NodeProto | None:
        """Return the node that makes a value, if it is one of these operators."""
        node = self.makers.get(name)
        return node if node is not None and is_op(node, *op_types) else None


def uses_of(graph: GraphProto) -> Uses:
    """Return who reads what in the main graph."""
    uses = Uses({tensor.name: tensor for tensor in graph.initializer}, {value.name for value in graph.output})
    for node in graph.node:
        for position, name in enumerate(node.input):
            uses.readers.setdefault(name, []).append((node, position))
        uses.makers.update(dict.fromkeys(node.output, node))
        for inner in graphs_of(node):
            uses.captured.update(free_names(inner))
    uses.readers.pop("", None)
    uses.makers.pop("", None)
    return uses


def read_names(graph: GraphProto) -> set[str]:
    """Return the names that something in a graph, or in the graphs inside it, reads."""
    read = {value.name for value in graph.output}
    for node in graph.node:
        read.update(node.input)
        for inner in graphs_of(node):
            read.update(free_names(inner))
    return read


def is_op(node: NodeProto, *op_types: str) -> bool:
    """Say whether a node is one of these operators of ONNX's own set."""
    return node.domain in DEFAULT_DOMAINS and node.op_type in op_types


def attribute_of(node: NodeProto, name: str) -> AttributeProto | None:
    """Return an attribute of a node."""
    return next((attribute for attribute in node.attribute if attribute.name == name), None)


def number(node: NodeProto, name: str, default: float) -> float:
    """Return an attribute that is a number."""
    attribute = attribute_of(node, name)
    if attribute is None:
        return default
    return float(attribute.f if attribute.type == AttributeProto.FLOAT else attribute.i)


def turn_of(node: NodeProto, rank: int) -> tuple[int, ...]:
    """Return the order of axes that a Transpose makes."""
    perm = attribute_of(node, "perm")
    return permutation(perm and perm.ints, rank)


def set_attributes(node: NodeProto, **values: float) -> None:
    """Give attributes of a node other values, behind those that it keeps."""
    drop(node.attribute, lambda attribute: attribute.name in values)
    node.attribute.extend(helper.make_attribute(name, value) for name, value in values.items())


def label_of(node: NodeProto) -> str:
    """Return what steps call a node: its name, or the first value that it makes."""
    return node.name or next((name for name in node.output if name), node.op_type)


def drop(items: MutableSequence[T], is_gone: Callable[[T], bool]) -> list[T]:
    """Take items out of a repeated field; return them, the last one first."""
    found = [(index, item) for index, item in enumerate(items) if is_gone(item)]
    for index, _ in reversed(found):
        del items[index]
    return [item for _, item in reversed(found)]


def remove_nodes(graph: GraphProto, gone: Sequence[NodeProto]) -> None:
    """Take nodes out of a graph."""
    marks = set(map(id, gone))
    drop(graph.node, lambda node: id(node) in marks)
