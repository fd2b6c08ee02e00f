"""A program, or a part of it, as a model that ONNX Runtime or shape inference reads; and what inference finds out."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from functools import partial

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto, helper, numpy_helper

from onnx_lsuv.graph.blocked import DOMAIN
from onnx_lsuv.graph.builder import Value, neutral_nodes, proto_of
from onnx_lsuv.model import Array, graphs_of, is_hollow, names_type, unused
from onnx_lsuv.operators import Attributes, of
from onnx_lsuv.program import Body, Constant, Node, Program, tensor_type
from onnx_lsuv.sources.moves import Source
from onnx_lsuv.sources.tracing import trace

# The IR versions that ONNX Runtime 1.24 to 1.31 reads; a file of a later one is calibrated at the last of these.
IR_MIN, IR_MAX = 7, 13
_MOST = 200  # values from which an index is computed quickly


def model_of(program: Program, graph: GraphProto) -> ModelProto:
    """Return a graph as a model of a program's opsets."""
    model = ModelProto(ir_version=max(IR_MIN, min(IR_MAX, program.model.proto.ir_version)))
    model.graph.CopyFrom(graph)
    added = {node.domain for node in graph.node} & {DOMAIN, "com.microsoft"}
    for domain, version in {**dict.fromkeys(sorted(added), 1), **program.opsets}.items():
        model.opset_import.add(domain=domain, version=version)
    return model


def add_constants(graph: GraphProto, program: Program, names: Set[str]) -> None:
    """Put constants of a program into a graph, before its nodes."""
    made: list[NodeProto] = []
    there = {tensor.name for tensor in graph.initializer}
    for name in sorted(names):
        constant = program.constants[name]
        if constant.node is not None:
            made.append(constant.node)
            found = program.constants.get(constant.node.input[0])  # the shape of a ConstantOfShape
            if found is None or found.name in names:
                continue
            constant = found
        if constant.name not in there:
            there.add(constant.name)
            assert constant.tensor is not None
            copy = graph.initializer.add()
            copy.CopyFrom(constant.tensor)
            copy.name = constant.name
    if made:
        nodes = [*made, *graph.node]
        del graph.node[:]
        graph.node.extend(nodes)


def input_of(constant: Constant) -> ValueInfoProto:
    """Return a constant as an input of a model."""
    return ValueInfoProto(name=constant.name, type=tensor_type(constant.elem_type, constant.dims))


# --------------------------------------------------------------------------------------------------- shape inference


def infer(program: Program, shapes: Mapping[str, tuple[int, Sequence[int]]]) -> dict[str, Value]:
    """Return what shape inference finds out about the values of a program for inputs of given shapes."""
    inputs = []
    for value in program.body.inputs:
        known = shapes.get(value.name)
        inputs.append(ValueInfoProto(name=value.name, type=tensor_type(*known)) if known else value)
    small = {name for name, constant in program.constants.items() if constant.node is not None or _has_values(constant)}
    inputs += [input_of(constant) for name, constant in program.constants.items() if name not in small]
    graph = helper.make_graph(_protos(program, program.body), "program", inputs, [])
    add_constants(graph, program, small)
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


def _has_values(constant: Constant) -> bool:
    return constant.tensor is not None and not is_hollow(constant.tensor)


def _protos(program: Program, body: Body) -> list[NodeProto]:
    # As they run: inference refuses a BatchNormalization in training form that is short of outputs which nothing reads.
    close = partial(_body_proto, program)
    return [proto_of(each, close) for node in body.nodes for each in neutral_nodes(node)]


def _body_proto(program: Program, body: Body) -> GraphProto:
    """Return a scope that has the integers that it reads in itself: inference does not look for a shape outside."""
    nodes = _protos(program, body)
    own: dict[str, NodeProto] = {}
    here = next((value.name for value in body.outputs), "")
    for node in nodes:
        for i, name in enumerate(node.input):
            constant = program.constants.get(name)
            if constant is not None and constant.elem_type == TensorProto.INT64 and _has_values(constant):
                node.input[i] = f"{name} in {here}"
                own[name] = helper.make_node("Constant", [], [node.input[i]], value=constant.tensor)
    return helper.make_graph([*own.values(), *nodes], "body", list(body.inputs), list(body.outputs))


def _collect(graph: GraphProto, found: dict[str, Value]) -> None:
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        if value.type.HasField("tensor_type"):
            dims = tuple(d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim)
            found[value.name] = Value(kind.elem_type, dims if kind.HasField("shape") else None)
    for node in graph.node:
        for scope in scopes_of(node):
            _collect(scope, found)


def scopes_of(node: NodeProto) -> Sequence[GraphProto]:
    """Return the graphs inside a node."""
    none = not node.domain and not of(node).scopes  # nearly all: to look at attributes takes longer
    return () if none else tuple(graphs_of(node))


# ---------------------------------------------------------------------------------------------------------- bfloat16

# ONNX Runtime's CPU provider can cast to and from bfloat16, and little else; CUDA lacks operators, and before opset 22
# ONNX itself has no convolution of this type. So a calibration graph is computed in float32, which has the same range:
# each bfloat16 number is one of float32, so nothing that the file stores changes its value, and only the rounding
# between the nodes is left out. The file keeps its types; new values are rounded to them.
BFLOAT16 = frozenset({TensorProto.BFLOAT16})


def has_bfloat16(program: Program) -> bool:
    """Say whether some value of a program is of this type: an input, a constant, or what a node makes of others."""
    return (
        any(value.type.tensor_type.elem_type in BFLOAT16 for value in program.body.inputs)
        or any(constant.elem_type in BFLOAT16 for constant in program.constants.values())
        or any(names_type(a, TensorProto.BFLOAT16) for node in program.walk() for a in node.attributes.values())
    )


def widened(array: Array, elem_type: int) -> tuple[Array, int]:
    """Return an array and its element type as a graph that is computed in float32 takes them."""
    if elem_type in BFLOAT16:
        return np.asarray(array, np.float32), int(TensorProto.FLOAT)
    return array, elem_type


# ------------------------------------------------------------------------------------ a value computed from constants


def expression(program: Program, name: str, exact: Collection[Node] = ()) -> tuple[bytes, tuple[str, ...], str]:
    """Return a model that computes a value from constants, those that are its inputs, and its output in float64.

    Args:
        program: where the value stands.
        name: the value; what it is computed from are constants alone.
        exact: nodes whose first operand is to go on as it is.
    """
    seen: set[str] = set()
    found = list(_behind(program, name, exact, seen))
    constants = [each for each in found if isinstance(each, Constant)]
    output = unused(name, seen)
    protos = [proto_of(each) for each in found if isinstance(each, Node)]
    protos.append(helper.make_node("Cast", [name], [output], to=TensorProto.DOUBLE))
    inputs = [input_of(constant) for constant in constants]
    graph = helper.make_graph(protos, "expression", inputs, [ValueInfoProto(name=output)])
    return bytes(model_of(program, graph).SerializeToString()), tuple(c.name for c in constants), output


def lookups(program: Program) -> tuple[bytes, tuple[str, ...], tuple[str, ...], tuple[str, ...]] | None:
    """Return a model that looks up what the program looks up in constant tables, which are zeros there.

    Only by indices that are quick to compute from its inputs: without layers, scopes or chance.

    Returns:
        The model, its inputs that are constants and those that are the program's, its outputs; None: there are none.
    """
    seen: set[str] = set()
    found: list[Node | Constant] = []
    tables: dict[str, TensorProto] = {}
    for node in program.body.nodes:
        table = (
            trace(program, node.inputs[0]) if node.op == "Gather" and node.inputs[1] not in program.constants else None
        )
        if isinstance(table, Source) and table.shape and _is_quick(program, node.inputs[1]):
            length = table.shape[node.attributes.integer("axis", 0)]
            name = f"table of {length}"
            tables[name] = numpy_helper.from_array(np.zeros(length, np.int8), name)
            found += _behind(program, node.inputs[1], (), seen)
            output = f"{node.outputs[0]} from a {name}"  # the node itself may be behind another index
            found.append(replace(node, inputs=(name, node.inputs[1]), outputs=(output,), attributes=Attributes()))
    if not found:
        return None
    constants = [each for each in found if isinstance(each, Constant)]
    nodes = [each for each in found if isinstance(each, Node)]
    given = [value for value in program.body.inputs if any(value.name in node.inputs for node in nodes)]
    outputs = [node.outputs[0] for node in nodes if node.inputs[0] in tables]
    inputs = [*map(input_of, constants), *given]
    ends = [ValueInfoProto(name=name) for name in outputs]
    graph = helper.make_graph(list(map(proto_of, nodes)), "lookups", inputs, ends, list(tables.values()))
    model = bytes(model_of(program, graph).SerializeToString())
    return model, tuple(c.name for c in constants), tuple(value.name for value in given), tuple(outputs)


def _is_quick(program: Program, value: str) -> bool:
    todo, seen = [value], {value}
    while todo:
        name = todo.pop()
        if name in program.constants or name not in program.producers:
            continue
        node, _ = program.producers[name]
        row = of(node)
        if node.op != node.op_type or row.weights or row.scopes or row.random or len(seen) > _MOST:
            return False
        new = {each for each in node.inputs if each} - seen
        seen |= new
        todo += new
    return True


def _behind(program: Program, value: str, exact: Collection[Node], seen: set[str]) -> Iterator[Node | Constant]:
    """Yield what a value is made of, each once and after what it reads itself."""
    if value in seen:
        return
    seen.add(value)
    if value in program.constants:
        yield program.constants[value]
        return
    if value not in program.producers:  # an input
        return
    node, _ = program.producers[value]
    seen.update(node.outputs)
    if node in exact:
        node = replace(node, op_type="Identity", domain="", inputs=node.inputs[:1], attributes=Attributes())
    for each in filter(None, node.inputs):
        yield from _behind(program, each, exact, seen)
    yield node
