"""What shape inference finds out about the values of a program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import onnx
from onnx import AttributeProto, NodeProto, TensorProto, TypeProto, ValueInfoProto, helper

from onnx_lsuv.graph.builder import Value
from onnx_lsuv.graph.groups import Dims
from onnx_lsuv.graph.models import add_constants, model_of
from onnx_lsuv.graph.nodes import neutral_nodes, proto_of
from onnx_lsuv.model import is_hollow
from onnx_lsuv.program import Body, Program, tensor_type


def infer(program: Program, shapes: Mapping[str, tuple[int, Sequence[int]]]) -> dict[str, Value]:
    """Return what shape inference finds out about the values of a program for inputs of given shapes."""
    inputs = []
    for value in program.body.inputs:
        known = shapes.get(value.name)
        inputs.append(ValueInfoProto(name=value.name, type=tensor_type(*known)) if known else value)
    graph = helper.make_graph(_protos(program, program.body), "program", inputs, list(program.body.outputs))
    small = set()
    for name, constant in program.constants.items():
        if constant.node is not None or (constant.tensor is not None and not is_hollow(constant.tensor)):
            small.add(name)
        else:
            graph.input.append(ValueInfoProto(name=name, type=tensor_type(constant.elem_type, constant.dims)))
    add_constants(graph, program, small)
    del graph.output[:]
    model = model_of(program, graph)
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:
        inferred = model
    found: dict[str, Value] = {}
    _collect(inferred.graph, found)
    return found


def with_rank(kind: TypeProto, value: Value | None) -> TypeProto:
    """Return a tensor's type with the rank that was inferred: loops must know it of what goes in and out."""
    if value is None or value.dims is None or not kind.HasField("tensor_type"):
        return kind
    return tensor_type(kind.tensor_type.elem_type, [None] * len(value.dims))


def _protos(program: Program, body: Body) -> list[NodeProto]:
    # As they run: inference refuses a BatchNormalization in training form that is short of outputs which nothing reads.
    close = partial(_body_proto, program)
    return [proto_of(each, close) for node in body.nodes for each in neutral_nodes(node)]


def _body_proto(program: Program, body: Body) -> onnx.GraphProto:
    """Return a scope that has the integers that it reads in itself: inference does not look for a shape outside."""
    nodes = _protos(program, body)
    own: dict[str, NodeProto] = {}
    here = next((value.name for value in body.outputs), "")
    for node in nodes:
        for i, name in enumerate(node.input):
            constant = program.constants.get(name)
            if constant is None or constant.elem_type != TensorProto.INT64 or constant.tensor is None:
                continue
            if not is_hollow(constant.tensor):
                node.input[i] = f"{name} in {here}"
                own[name] = helper.make_node("Constant", [], [node.input[i]], value=constant.tensor)
    return helper.make_graph([*own.values(), *nodes], "body", list(body.inputs), list(body.outputs))


def _collect(graph: onnx.GraphProto, found: dict[str, Value]) -> None:
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.HasField("tensor_type"):
            found[value.name] = Value(value.type.tensor_type.elem_type, _dims(value.type))
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                _collect(attribute.g, found)


def _dims(kind: TypeProto) -> tuple[int | None, ...] | None:
    if not kind.tensor_type.HasField("shape"):
        return None
    dims: Dims = [d.dim_value if d.HasField("dim_value") else None for d in kind.tensor_type.shape.dim]
    return tuple(dims)
