"""Nodes that are written as one: which, and that the layers behind them get their std, by a plain session and NumPy."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import pytest
from conftest import Run
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper
from oracle import normal, parse

import onnx_lsuv
from onnx_lsuv.graph import build

Array = NDArray[Any]
Lsuv = Callable[..., Run]

NUMBERS = {
    "root": np.array(np.sqrt(2), np.float32),
    "inverse": np.array(np.sqrt(0.5), np.float32),
    "one": np.array([1], np.float32),
    "half": np.array(0.5, np.float32),
    "two": np.array([2], np.float32),
    "third": np.array(1 / 3, np.float32),
    "eighth": np.array([0.125], np.float32),
}
BEFORE = {"division": "d = Div(a, root)", "product": "d = Mul(inverse, a)"}
AFTER = {
    "value first": "m = Mul(a, p) g = Mul(m, half)",
    "half first": "m = Mul(p, half) g = Mul(a, m)",
    "half of the value": "m = Mul(half, a) g = Mul(m, p)",
    "division by two": "m = Mul(p, a) g = Div(m, two)",
}
GELU = "a0 = MatMul(x, w) a = Add(a0, b) {} e = Erf(d) p = Add(one, e) {} y = MatMul(g, u)"
PRODUCT = """q = MatMul(x, w) k = MatMul(x, v) t = Transpose<perm=[0, 2, 1]>(k) {}
    z = Softmax(s) c = MatMul(z, q) y = MatMul(c, u)"""


def model(text: str, kind: str = "float") -> ModelProto:
    head = f'<ir_version: 8, opset_import: ["" : 13]> g ({kind}[N,6,16] x) => ({kind} y)'
    tensors = {"w": normal(16, 32), "v": normal(16, 32, seed=1), "u": normal(32, 8, seed=2), "b": normal(32) / 9}
    dtype, words = {"float": np.float32, "double": np.float64}[kind], set(re.findall(r"\w+", text))
    used = {name: array.astype(dtype) for name, array in {**tensors, **NUMBERS}.items() if name in words}
    return parse(f"{head} {{ {text} }}", used)


def written(proto: ModelProto, **options: Any) -> list[str]:
    """Return the operators of a model's calibration graph."""
    plan = onnx_lsuv.plan(onnx_lsuv.from_proto(proto), residual="off").plan
    kind = proto.graph.input[0].type.tensor_type.elem_type
    targets = dict.fromkeys(plan.weights, 1.0)
    stages = build(plan, {"x": (kind, (4, 6, 16))}, rescale=True, staged=False, targets=targets, **options).stages
    return [node.op_type for stage in stages for node in stage.nodes]


def batch() -> dict[str, Array]:
    return {"x": normal(32, 6, 16, seed=5)}


def output(initialised: onnx_lsuv.Model) -> Array:
    """Return what a plain session of the saved bytes gives."""
    session = onnxruntime.InferenceSession(onnx_lsuv.to_bytes(initialised), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["y"], batch())[0], np.float64)


@pytest.mark.parametrize("after", AFTER)
@pytest.mark.parametrize("before", BEFORE)
def test_a_gelu_of_five_nodes_is_written_as_one(lsuv: Lsuv, before: str, after: str) -> None:
    proto = model(GELU.format(BEFORE[before], AFTER[after]))
    operators = written(proto)
    assert operators.count("Gelu") == 1
    assert "Erf" not in operators
    run = lsuv(proto, [batch()])
    assert [m.var for m in run.moments("a", "y")] == pytest.approx([1, 1], rel=2e-6)


@pytest.mark.parametrize(
    "text",
    {
        "another number": GELU.format("d = Div(a, two)", AFTER["value first"]),
        "a negative one": GELU.format("c = Neg(root) d = Div(a, c)", AFTER["value first"]),
        "not the half": GELU.format(BEFORE["division"], "m = Mul(a, p) g = Mul(m, third)"),
        "another value": GELU.format(BEFORE["division"], "m = Mul(a0, p) g = Mul(m, half)"),
        "read elsewhere": GELU.format(BEFORE["division"], "m = Mul(a, p) h = Mul(m, half) g = Add(h, e)"),
        "squared": GELU.format(BEFORE["division"], "m = Mul(p, p) g = Mul(m, half)"),
        "no product": GELU.format(BEFORE["division"], "m = Mul(a, p) g = Relu(m)"),
    }.items(),
    ids=lambda item: item[0],
)
def test_what_is_no_gelu_stays_as_it_is(lsuv: Lsuv, text: tuple[str, str]) -> None:
    proto = model(text[1])
    operators = written(proto)
    assert operators.count("Erf") == 1
    assert "Gelu" not in operators
    assert [m.var for m in lsuv(proto, [batch()]).moments("a", "y")] == pytest.approx([1, 1], rel=2e-6)


def test_a_gelu_of_another_type_stays_as_it_is() -> None:
    assert "Gelu" not in written(model(GELU.format(BEFORE["division"], AFTER["value first"]), "double"))


@pytest.mark.parametrize("options", [{}, {"fresh": True}, {"init": "keep"}])
def test_numbers_of_a_gelu_behind_a_norm_are_no_scales(options: dict[str, Any]) -> None:
    text = "h = LayerNormalization(x, s, t) d = Mul(inverse, h) e = Erf(d) p = Add(e, one) "
    proto = model(text + "m = Mul(half, h) g = Mul(m, p) y = MatMul(g, w)")
    gain = np.linspace(0.5, 1.7, 16, dtype=np.float32)
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for array, name in ((gain, "s"), (gain, "t")))
    proto.opset_import[0].version = 17
    result = onnx_lsuv.initialize(onnx_lsuv.from_proto(proto), batch(), **options)
    assert result.weights()["half"] == np.float32(0.5)
    assert output(result.model).var() == pytest.approx(1, rel=2e-6)


@pytest.mark.parametrize("options", [{}, {"init": "keep"}])
def test_a_number_that_the_run_sets_stays_a_node_of_its_own(options: dict[str, Any]) -> None:
    # The weight is what a GELU makes of an initializer, which its last number scales.
    text = "d = Div(w, root) e = Erf(d) p = Add(e, one) m = Mul(w, p) g = Mul(m, half) y = MatMul(x, g)"
    result = onnx_lsuv.initialize(onnx_lsuv.from_proto(model(text)), batch(), **options)
    assert output(result.model).var() == pytest.approx(1, rel=2e-6)
    (row,) = onnx_lsuv.measure(result.model, batch()).layers
    assert row.std == pytest.approx(1, rel=1e-6)


def test_a_node_that_is_no_operator_is_still_refused() -> None:
    proto = model(GELU.format(BEFORE["division"], AFTER["value first"]))
    node = next(node for node in proto.graph.node if node.output[0] == "p")
    node.attribute.append(helper.make_attribute("axis", 1))
    with pytest.raises(onnx_lsuv.ModelError):
        onnx_lsuv.measure(onnx_lsuv.from_proto(proto), batch())


def test_what_is_verified_runs_as_it_is_written() -> None:
    assert "Gelu" not in written(model(GELU.format(BEFORE["division"], AFTER["value first"])), as_written=True)


def test_what_is_asked_for_inside_is_measured(lsuv: Lsuv) -> None:
    proto = model(GELU.format(BEFORE["division"], AFTER["value first"]))
    proto.graph.output.append(helper.make_tensor_value_info("m", TensorProto.FLOAT, None))
    assert "Gelu" not in written(proto)
    proto = model(GELU.format(BEFORE["division"], AFTER["value first"]))
    assert "Gelu" not in written(proto, beside={"e"})
    assert "Gelu" in written(proto, beside={"g"})


@pytest.mark.parametrize("scaled", ["Mul(eighth, r)", "Div(r, two)"])
def test_a_product_of_two_values_takes_the_number_behind_it(lsuv: Lsuv, scaled: str) -> None:
    proto = model(PRODUCT.format(f"r = MatMul(q, t) s = {scaled}"))
    assert written(proto).count("FusedMatMul") == 1
    run = lsuv(proto, [batch()])
    assert [m.var for m in run.moments("q", "k", "y")] == pytest.approx([1, 1, 1], rel=2e-6)
