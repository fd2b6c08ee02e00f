"""Layers in the body of a SequenceMap: in the file it stays one, in the calibration graph it is a Loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import oracle
import pytest
from conftest import Run
from onnx import ModelProto, TensorProto, helper, numpy_helper
from oracle import normal

import onnx_lsuv

Lsuv = Callable[..., Run]
Array = np.ndarray[Any, Any]
node = helper.make_node


def value(name: str, *shape: Any, elem_type: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, elem_type, shape)


def closed(nodes: list[onnx.NodeProto], inputs: list[Any], outputs: list[Any], **tensors: Array) -> ModelProto:
    kept = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, kept)
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def mapped(*, second: str | None = None) -> ModelProto:
    """A layer on each of two tensors, with a tensor for all or a second sequence beside it; a layer after it."""
    body_nodes = [node("Gemm", ["e", "w", "b"], ["h"], name="inside"), node("Relu", ["h"], ["r"])]
    formals = [value("e", "K", 6)]
    if second:
        body_nodes.append(node("Add", ["r", "o"], ["eo"]))
        formals.append(value("o", *(["K", 8] if second == "u" else [8])))
    else:
        body_nodes.append(node("Identity", ["r"], ["eo"]))
    body = helper.make_graph(body_nodes, "each", formals, [value("eo", "K", 8)])
    nodes = [
        node("SequenceConstruct", ["x", "x2"], ["s"]),
        node("SequenceConstruct", ["p", "p2"], ["u"]),
        node("SequenceMap", ["s", *([second] if second else [])], ["t"], body=body, name="map"),
        node("ConcatFromSequence", ["t"], ["c"], axis=0),
        node("MatMul", ["c", "v"], ["y"], name="after"),
    ]
    inputs = [value("x", "N", 6), value("x2", "M", 6), value("p", "N", 8), value("p2", "M", 8), value("shift", 8)]
    return closed(nodes, inputs, [value("y", None, 3)], w=normal(6, 8), b=normal(8), v=normal(8, 3))


def data(seed: int = 0) -> dict[str, Array]:
    return {
        "x": normal(40, 6, seed=seed),
        "x2": 3 * normal(10, 6, seed=seed),
        "p": normal(40, 8, seed=seed),
        "p2": normal(10, 8, seed=seed),
        "shift": np.arange(8, dtype=np.float32),
    }


@pytest.mark.parametrize("batches", [1, 3])
@pytest.mark.parametrize("second", [None, "shift", "u"])
def test_a_layer_in_the_body_is_scaled(lsuv: Lsuv, second: str | None, batches: int) -> None:
    given = [data(i) for i in range(batches)]
    run = lsuv(mapped(second=second), given)
    assert {row.name: row.status for row in run.result.layers} == {"map.body/inside": "ok", "after": "ok"}
    assert run.reasons() == {}
    # As in any loop it is the first element that decides.
    w, b, v = run.weight("w"), run.weight("b"), run.weight("v")
    assert not b.any()
    first = [batch["x"] @ w for batch in given]
    assert oracle.pooled(first).var == pytest.approx(1, abs=1e-4)
    outputs = []
    for batch in given:
        for one, other in (("x", "p"), ("x2", "p2")):
            more = {None: np.zeros(8), "shift": batch["shift"], "u": batch[other]}[second]
            outputs.append((np.maximum(batch[one] @ w, 0) + more) @ v)
    assert oracle.pooled(outputs).var == pytest.approx(1, abs=1e-4)
    assert [n.op_type for n in run.after.graph.node] == [n.op_type for n in run.before.graph.node]


def test_two_outputs_of_other_types_and_a_body_within_a_branch(lsuv: Lsuv) -> None:
    body = helper.make_graph(
        [node("MatMul", ["e", "w"], ["h"], name="inside"), node("Shape", ["h"], ["n"])],
        "each",
        [value("e", "K", 6)],
        [value("h", "K", 8), value("n", 2, elem_type=TensorProto.INT64)],
    )
    then = helper.make_graph(
        [
            node("SplitToSequence", ["x", "five"], ["s"], axis=0),
            node("SequenceMap", ["s"], ["t", "k"], body=body, name="map"),
            node("SequenceAt", ["k", "zero"], ["first"]),
            node("ConcatFromSequence", ["t"], ["c"], axis=0),
            node("Expand", ["c", "first_"], ["d"]),
        ],
        "then",
        [],
        [value("d", None, 8)],
    )
    then.node.insert(4, node("Slice", ["first", "one", "two", "zeros"], ["first_"]))
    other = helper.make_graph([node("MatMul", ["x", "w"], ["z"], name="other")], "else", [], [value("z", None, 8)])
    numbers = {"five": np.array(5), "zero": np.array(0), "zeros": np.array([0]), "one": np.array([1])}
    model = closed(
        [node("If", ["yes"], ["y"], name="if", then_branch=then, else_branch=other)],
        [value("x", 20, 6), value("yes", elem_type=TensorProto.BOOL)],
        [value("y", None, 8)],
        w=normal(6, 8),
        two=np.array([2]),
        **numbers,
    )
    x = normal(20, 6)
    run = lsuv(model, {"x": x, "yes": np.array(True)})
    assert run.reasons() == {}
    assert (x[:5] @ run.weight("w")).var() == pytest.approx(1, abs=1e-4)


def test_an_optional_of_nothing() -> None:
    kind = helper.make_optional_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, [6]))
    nodes = [node("Optional", [], ["o"], type=kind), node("OptionalHasElement", ["o"], ["has"])]
    model = closed(
        [*nodes, node("MatMul", ["x", "w"], ["y"], name="layer")],
        [value("x", "N", 6)],
        [value("y", "N", 8), value("has", elem_type=TensorProto.BOOL)],
        w=normal(6, 8),
    )
    assert [layer.node.label for layer in onnx_lsuv.plan(onnx_lsuv.from_proto(model)).plan.layers] == ["layer"]


def test_a_layer_in_a_graph_that_stays_closed_is_named() -> None:
    body = helper.make_graph([node("MatMul", ["e", "w"], ["h"])], "each", [value("e", "K", 6)], [value("h", "K", 8)])
    model = closed(
        [node("Apply", ["x"], ["y"], domain="acme", body=body, name="apply")],
        [value("x", "N", 6)],
        [value("y", "N", 8)],
        w=normal(6, 8),
    )
    model.opset_import.append(helper.make_opsetid("acme", 1))
    (left,) = onnx_lsuv.plan(onnx_lsuv.from_proto(model)).plan.skipped
    assert (left.node.label, left.reason) == ("apply", "operator")
