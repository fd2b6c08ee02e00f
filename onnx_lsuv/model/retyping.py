"""Let floats of other types be float32: the places in protobuf that name an element type.

    ValueInfoProto.type         of a tensor, or of what a sequence, an optional value, a map or a sparse tensor holds
    an attribute that is a type `Optional`'s
    an integer attribute        that stands for a type, by its name: `to` of Cast, `dtype` of RandomNormal, EyeLike, ...
    TensorProto.data_type       with the values themselves

What names no type (CastLike, ConstantOfShape without a value, EyeLike without `dtype`) follows its operands.
"""

from __future__ import annotations

from collections.abc import Set

import numpy as np
from onnx import AttributeProto, ModelProto, TensorProto, TypeProto, numpy_helper

from onnx_lsuv.model.graphs import all_graphs, graphs_in
from onnx_lsuv.model.loading import is_hollow
from onnx_lsuv.model.values import nodes, tensors

# Integer attributes that stand for an element type.
TYPE_ATTRIBUTES = frozenset({
    "to", "dtype", "output_dtype", "output_datatype", "stash_type", "softmax_precision", "precision",
})  # fmt: skip


def in_float32(proto: ModelProto, others: Set[int]) -> None:
    """Let all that is of some other float types be float32, in place; a hollow tensor keeps its type.

    Args:
        proto: a model of its own, which nothing else holds.
        others: the element types that are to go.
    """
    for _, tensor in list(tensors(proto)):
        if tensor.data_type in others and not is_hollow(tensor):
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    retype(proto, others)


def retype(proto: ModelProto, others: Set[int]) -> None:
    """Let what a model declares of its values, and the types that attributes name, be float32, in place."""
    kinds = [value.type for function in proto.functions for value in function.value_info]
    for root in (proto.graph, *proto.functions):
        kinds += [v.type for graph in all_graphs(root) for v in (*graph.input, *graph.output, *graph.value_info)]
    for kind in kinds:
        _retype(kind, others)
    for _, node in nodes(proto):
        for attribute in node.attribute:
            if attribute.type == AttributeProto.INT and attribute.name in TYPE_ATTRIBUTES and attribute.i in others:
                attribute.i = TensorProto.FLOAT
            elif attribute.type == AttributeProto.TYPE_PROTO:
                _retype(attribute.tp, others)


def names_type(attribute: AttributeProto, elem_type: int) -> bool:
    """Say whether an attribute, or a graph in it, makes values of a type out of others."""
    if attribute.type == AttributeProto.INT:
        return attribute.name in TYPE_ATTRIBUTES and attribute.i == elem_type
    if attribute.type == AttributeProto.TENSOR:
        return attribute.t.data_type == elem_type
    return any(
        any(tensor.data_type == elem_type for tensor in graph.initializer)
        or any(names_type(inner, elem_type) for node in graph.node for inner in node.attribute)
        for graph in graphs_in(attribute)
    )


def _retype(kind: TypeProto, others: Set[int]) -> None:
    """Let a type, or the type of what it holds, be float32."""
    match kind.WhichOneof("value"):
        case "tensor_type" | "sparse_tensor_type" as name:
            held = getattr(kind, name)
            held.elem_type = TensorProto.FLOAT if held.elem_type in others else held.elem_type
        case "sequence_type" | "optional_type" as name:
            _retype(getattr(kind, name).elem_type, others)
        case "map_type":
            _retype(kind.map_type.value_type, others)
