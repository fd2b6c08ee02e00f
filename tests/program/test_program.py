"""Who makes and who reads a value, in all scopes, and what a constant's node or a graph's protobuf says."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from oracle import normal, parse

import onnx_lsuv
from onnx_lsuv.program import Node, Program, expand
from onnx_lsuv.program.protos import free_names, tensor_of

TEXT = """<ir_version: 10, opset_import: ["" : 21]> g (float[N,4] x, bool c) => (float y, float t) {
  t = Transpose(w) v = Identity(t) s = Shape(v) h = MatMul(x, v)
  y = If(c) <then_branch = a () => (float p) { u = Identity(v) p = Add(h, u) },
             else_branch = b () => (float q) { q = Identity(v) }> }"""


@pytest.fixture
def program() -> Program:
    return expand(onnx_lsuv.from_proto(parse(TEXT, w=normal(4, 4))))


def moves(node: Node, position: int) -> bool:
    return node.op in ("Transpose", "Identity") and position == 0


def test_readers_are_those_at_the_end_of_what_moves_a_value(program: Program) -> None:
    found = [(node and node.op, position) for node, position in program.readers("w", moves)]
    # What reads the shape alone, and what leaves the main graph, is none; what leaves a branch is.
    assert sorted(found, key=str) == [("Add", 1), ("MatMul", 1), (None, 0)]


def test_readers_are_followed_once_however_many_ways_lead_to_them() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]> g (float[N,4] x) => (float y) {
      a = Identity(w) b = Identity(a) c = Concat<axis = 0>(a, b) y = MatMul(x, c) }"""
    program = expand(onnx_lsuv.from_proto(parse(text, w=normal(2, 4))))
    found = list(program.readers("w", lambda node, position: node.op in ("Identity", "Concat")))
    assert [(node.op if node else "", position) for node, position in found] == [("MatMul", 1)]


def test_makers_go_back_along_first_operands(program: Program) -> None:
    (name,) = (node.outputs[0] for node in program.walk() if node.op == "Add")
    assert [node.op for node in program.makers(name)] == ["Add", "MatMul"]
    assert [node.op for node in program.makers("v")] == ["Identity", "Transpose"]
    assert not list(program.makers("w"))


def test_a_node_beside_another_stands_in_its_scope(program: Program) -> None:
    add = next(node for node in program.walk() if node.op == "Add")
    made = add.beside("LeakyRelu", add.outputs, "z", alpha=0.5)
    assert (made.scope, made.label, made.op) == (add.scope, f"{add.label}.LeakyRelu", "LeakyRelu")
    assert (made.inputs, made.outputs, made.attributes.real("alpha", 0.0)) == (add.outputs, ("z",), 0.5)


@pytest.mark.parametrize(
    ("name", "value", "elem_type"),
    [
        ("value", numpy_helper.from_array(np.eye(2)), TensorProto.DOUBLE),
        ("value_float", 1.5, TensorProto.FLOAT),
        ("value_floats", [1.5, 2.0], TensorProto.FLOAT),
        ("value_int", 3, TensorProto.INT64),
        ("value_ints", [3, 4, 5], TensorProto.INT64),
        ("value_string", "a", TensorProto.STRING),
        ("value_strings", ["a", "b"], TensorProto.STRING),
    ],
)
def test_what_a_constant_node_holds(name: str, value: object, elem_type: int) -> None:
    node = helper.make_node("Constant", [], ["c"], **{name: value})
    tensor = tensor_of(node.attribute[0])
    assert tensor is not None
    assert tensor.data_type == elem_type
    model = helper.make_model(
        helper.make_graph([node], "g", [], [helper.make_tensor_value_info("c", elem_type, None)]),
        opset_imports=[helper.make_opsetid("", 17)],
    )
    (wanted,) = ReferenceEvaluator(model).run(None, {})
    found = numpy_helper.to_array(tensor)
    assert found.shape == np.shape(wanted)
    if elem_type != TensorProto.STRING:
        np.testing.assert_array_equal(found, wanted)


def test_free_names_are_those_that_no_graph_on_the_way_has() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]> g (float[4] x, bool c) => (float y) {
      y = If(c) <then_branch = a () => (float p) { u = Relu(x) p = If(c) <
                   then_branch = d () => (float r) { r = Add(u, k) }, else_branch = e () => (float o) { o = Neg(u) }> },
                 else_branch = b () => (float x) { }> }"""
    (node,) = onnx.parser.parse_model(text).graph.node
    assert {a.name: set(free_names(a.g)) for a in node.attribute} == {
        "then_branch": {"x", "c", "k"},
        "else_branch": {"x"},
    }


def test_an_output_that_is_left_out_is_read_by_no_input_that_is_left_out() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]> g (float[N,4] x, bool c) => (float y) {
      m = Clip(x, , k) d, e = Dropout(m)
      y = If(c) <then_branch = a () => (float p) { p = Dropout(d) },
                 else_branch = b () => (float q) { q = Neg(d) }> }"""
    model = parse(text, k=np.array(1.0, np.float32))
    dropout, branches = model.graph.node[1:]
    dropout.output[1] = ""
    branches.attribute[0].g.node[0].output.append("")
    nodes = expand(onnx_lsuv.from_proto(model)).walk()
    assert [node.outputs for node in nodes if node.op == "Dropout"] == [("d",), ("p",)]
