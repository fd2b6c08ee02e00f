"""Walks over a model's skeleton, and what it says that importers, and the rewriting for them, ask about."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator

from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto

from onnx_lsuv.model import all_graphs, graphs_of, nodes, tensors
from onnx_lsuv.program.program import DEFAULT_DOMAINS, FLOAT_TYPES

INTEGERS = frozenset({TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL})
# Operators of these domains are defined for float32 wherever they are for another float.
FLOAT32_DOMAINS = DEFAULT_DOMAINS | {"ai.onnx.ml", "com.microsoft"}
# The IR versions that all importers read: with 4 initializers need not be listed; 10 is the last of ONNX Runtime 1.19.
IR_MIN, IR_MAX = 4, 10
OTHER_FLOATS = FLOAT_TYPES - {TensorProto.FLOAT}


def stored_nodes(graph: GraphProto | FunctionProto) -> Iterator[NodeProto]:
    """Yield the nodes of a graph as the file has them, and of the graphs inside it."""
    for node in graph.node:
        yield node
        for inner in graphs_of(node):
            yield from stored_nodes(inner)


def all_nodes(proto: ModelProto) -> Iterator[NodeProto]:
    """Yield every node of a model: in graphs, in what belongs to training, and in functions."""
    return (node for _, node in nodes(proto))


def uses_newer(proto: ModelProto) -> bool:
    """Say whether a file uses what came after `IR_MAX`."""
    newer = TensorProto.FLOAT4E2M1  # element types that IR 10 does not have yet begin here
    if proto.configuration or any(node.device_configurations for node in all_nodes(proto)):
        return True
    values = [v for g in all_graphs(proto.graph) for v in (*g.input, *g.output, *g.value_info)]
    return any(tensor.data_type >= newer for _, tensor in tensors(proto)) or any(
        value.type.tensor_type.elem_type >= newer for value in values
    )


def floats_of(proto: ModelProto) -> set[int]:
    """Return the element types of a model's inputs, outputs and tensors of several values."""
    found = {tensor.data_type for _, tensor in tensors(proto) if math.prod(tensor.dims) > 1}
    return found | {value.type.tensor_type.elem_type for value in (*proto.graph.input, *proto.graph.output)}


def in_inference_form(node: NodeProto, read: Container[str], fixed: Container[str]) -> bool | None:
    """Put a BatchNormalization or Dropout in the form that importers expect: inference, one output.

    Args:
        node: is changed.
        read: the values that anything reads.
        fixed: initializers; whether to train may also be an input of the graph, and that stays.

    Returns:
        Whether it changed; None where it cannot, as something reads its statistics.
    """
    before = len(node.attribute), len(node.input), len(node.output)
    optional = list(filter(None, node.output[1:]))  # an output may be left out by an empty name, as an input may
    if node.domain in DEFAULT_DOMAINS and node.op_type == "BatchNormalization":
        mode = [at for at, each in enumerate(node.attribute) if each.name == "training_mode"]
        if any(name in read for name in optional):
            return None
        for at in reversed(mode):
            del node.attribute[at]
        del node.output[1:]
    elif node.domain in DEFAULT_DOMAINS and node.op_type == "Dropout":
        if not any(name in read for name in optional):
            del node.output[1:]
        if len(node.input) > 2 and (not node.input[2] or node.input[2] in fixed):
            del node.input[2:]
        while len(node.input) > 1 and not node.input[-1]:
            del node.input[-1]
    return (len(node.attribute), len(node.input), len(node.output)) != before
