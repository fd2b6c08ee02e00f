"""`measure(beside=True)`: sums of residual streams and the outputs of what was left alone, against other rulers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import oracle
import pytest
from onnx import ModelProto, TensorProto, helper
from oracle import normal, parse

import onnx_lsuv
from onnx_lsuv.graph import stages
from onnx_lsuv.lsuv import Result

HEAD = '<ir_version: 10, opset_import: ["" : 17, "other" : 1]>'
Batch = Mapping[str, Any]


def stream(*, offset: float = 0.0) -> ModelProto:
    """Two streams, of three branches and, behind a projection, of two; each branch a matrix, a Relu and a matrix."""
    nodes, weights, x, width = [], {"offset": np.float32(offset)}, "x", 16

    def op(kind: str, *inputs: str, output: str) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], output))
        return output

    def layer(value: str, name: str) -> str:
        weights[f"{name}.w"] = normal(width if name.startswith(("a", "p")) else 8, 8 if name[0] in "bp" else 16)
        return op("MatMul", value, f"{name}.w", output=name)

    x = op("Add", x, "offset", output="moved")
    for i in range(3):
        x = op("Add", x, layer(op("Relu", layer(x, f"a{i}.1"), output=f"ra{i}"), f"a{i}.2"), output=f"sum{i}")
    x = layer(x, "p")
    for i in range(2):
        x = op("Add", x, layer(op("Relu", layer(x, f"b{i}.1"), output=f"rb{i}"), f"b{i}.2"), output=f"last{i}")
    float32 = TensorProto.FLOAT
    given, made = (
        helper.make_tensor_value_info("x", float32, ["n", 16]),
        helper.make_tensor_value_info(x, float32, None),
    )
    initializers = [onnx_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", [given], [made], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def onnx_array(value: Any, name: str) -> TensorProto:
    return helper.make_tensor(name, TensorProto.FLOAT, np.shape(value), np.asarray(value, np.float32).ravel())


def initialised(model: ModelProto, batches: Sequence[Batch], **settings: Any) -> tuple[ModelProto, Result]:
    """Return the model that was saved, and the verified result with what is beside."""
    done = onnx_lsuv.initialize(onnx_lsuv.from_proto(model), batches, **settings)
    saved = onnx_lsuv.to_proto(done.model)
    return saved, onnx_lsuv.measure(onnx_lsuv.from_proto(saved), batches, like=done, beside=True)


@pytest.mark.parametrize("offset", [0.0, 300.0])
@pytest.mark.parametrize("sizes", [(64,), (7, 40, 17)])
def test_sums_of_streams_as_float64_has_them(offset: float, sizes: Sequence[int]) -> None:
    batches = [{"x": normal(n, 16, seed=n) * (1 + i)} for i, n in enumerate(sizes)]
    saved, result = initialised(stream(offset=offset), batches)
    names = ["sum0", "sum1", "sum2", "last0", "last1"]
    assert [(row.name, row.op, row.stream, row.place) for row in result.sums] == [
        (name, "Add", 1 + (i > 2), [2, 4, 6, 9, 11][i]) for i, name in enumerate(names)
    ]
    wanted = oracle.forward_moments(saved, batches, names)
    for row in result.sums:
        assert row.mean == pytest.approx(wanted[row.name].mean, rel=1e-4, abs=1e-4)
        assert row.std == pytest.approx(np.sqrt(wanted[row.name].var), rel=1e-4)


@pytest.mark.parametrize("followed", [True, False])
def test_a_sum_in_one_node_with_its_normalisation(followed: bool) -> None:
    """It has its place in its stream; the last one has none where no layer depends on it, as it may not run."""
    blocks = " ".join(
        f"a{i} = MatMul(n{i - 1}, u{i}) r{i} = Relu(a{i}) b{i} = MatMul(r{i}, v{i}) "
        f"n{i}, m{i}, d{i}, s{i} = com.microsoft.SkipLayerNormalization(b{i}, {f's{i - 1}' if i else 'n-1'}, g)"
        for i in range(3)
    ).replace("n-1", "x0")
    text = '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]> g (float[N,16] x) => (float y) {'
    end = "y = MatMul(n2, w)" if followed else "y = Identity(n2)"
    weights = {f"{name}{i}": normal(16, 16, seed=i) for i in range(3) for name in "uv"}
    weights |= {"g": np.ones(16, np.float32), "e": normal(16, 16, seed=7)} | ({"w": normal(16, 4)} if followed else {})
    model = parse(f"{text} x0 = MatMul(x, e) {blocks} {end} }}", **weights)
    for node in model.graph.node:
        node.name = node.output[0]
    batch = {"x": normal(64, 16)}
    _, result = initialised(model, [batch])
    # ONNX does not know of what type they are, so nothing is said of their size.
    assert [(row.name, row.std) for row in result.sums] == [(f"n{i}", None) for i in range(2 + followed)]


def left_alone() -> ModelProto:
    """Return a model with a node left alone for each of several reasons, one of them behind the last layer."""
    text = f"""{HEAD} g (float[N,8] x, bool c) => (float p, float t, float i, float s) {{
      e = Gather (table, k) h = MatMul(x, w) y = Relu(h) a = MatMul(y, kept) d = DequantizeLinear(code, step)
      q = MatMul(a, d) b = MatMul(q, u) n = Reshape(b, three) m = Transpose <perm = [0, 2, 1]> (n) s = MatMul(n, m)
      z = MatMul(b, v) t = MatMul(z, table) f = If (c) <then_branch = then () => (float o) {{ o = MatMul(z, kept2) }},
        else_branch = other () => (float r) {{ r = Identity(z) }}> i = Add(f, e) p = MatMul(z, odd) }}"""
    weights = {name: normal(8, 8, seed=i) for i, name in enumerate(("w", "kept", "u", "v", "table", "kept2", "odd"))}
    integers = {"three": np.array([-1, 2, 4], np.int64), "k": np.array([0], np.int64)}
    codes = {"code": normal(8, 8, seed=9).round().astype(np.int8), "step": np.float32(0.5)}
    return parse(text, **weights, **integers, **codes)


def test_what_is_left_alone_as_a_plain_session_has_it() -> None:
    batches = [{"x": normal(n, 8, seed=n), "c": np.array(True)} for n in (31, 8)]
    saved, result = initialised(left_alone(), batches, exclude=["kept*", "odd"])
    rows = {row.name: row for row in result.skipped}
    reasons = {"a": "excluded", "q": "quantised", "s": "dynamic", "t": "tied", "p": "excluded"}
    assert {name: rows[name].reason for name in reasons} == reasons
    wanted = oracle.measure(saved, batches, list(reasons))
    for name in reasons:
        assert rows[name].mean == pytest.approx(wanted[name].mean, rel=1e-4, abs=1e-6)
        assert rows[name].std == pytest.approx(np.sqrt(wanted[name].var), rel=1e-5)
    inside = next(row for row in result.skipped if row.name not in reasons)
    assert (inside.reason, inside.std) == ("excluded", None)
    assert not result.sums


@pytest.mark.cpu
def test_nothing_else_changes_and_nothing_comes_unasked() -> None:
    batches = [{"x": normal(20, 16)}, {"x": normal(30, 16, seed=1)}]
    saved, result = initialised(stream(), batches, exclude=["a0*"])
    model = onnx_lsuv.from_proto(saved)
    unasked = onnx_lsuv.measure(model, batches, exclude=["a0*"])
    assert [(row.name, row.std) for row in unasked.skipped] == [("a0.1", None), ("a0.2", None)]
    assert not unasked.sums
    asked = onnx_lsuv.measure(model, batches, exclude=["a0*"], beside=True)
    assert asked.layers == unasked.layers
    assert (asked.sums, asked.skipped) == (result.sums, result.skipped)
    # A branch of layers that were left alone is one all the same.
    assert [(row.stream, row.place) for row in asked.sums] == [(1, 0), (1, 2), (1, 4), (2, 7), (2, 9)]


def test_codes_have_no_std_and_what_may_not_run_is_not_asked_for() -> None:
    text = f"""{HEAD} g (float[N,8] x) => (float z, int32 o) {{
      k, step, zero = DynamicQuantizeLinear(x) o = MatMulInteger(k, code) h = MatMul(x, w)
      z = other.QLinearHead(h) }}"""
    model = parse(text, w=normal(8, 8), code=np.ones((8, 8), np.int8))
    batch = {"x": normal(16, 8)}
    result = onnx_lsuv.measure(onnx_lsuv.from_proto(model), batch, beside=True)
    assert {row.op: row.std for row in result.skipped} == {"MatMulInteger": None, "other.QLinearHead": None}


@pytest.mark.parametrize("sizes", [(20,), (20, 7)])
def test_what_is_large_is_not_made_for_a_report_alone(monkeypatch: pytest.MonkeyPatch, sizes: Sequence[int]) -> None:
    text = f"{HEAD} g (float[N,8] x) => (float z) {{ k = MatMul(x, wide) h = MatMul(k, w) z = MatMul(h, head) }}"
    model = parse(text, wide=normal(8, 99), w=normal(99, 8), head=normal(8, 50))
    given = [{"x": normal(n, 8)} for n in sizes]

    def measured(most: int) -> dict[str, bool]:
        monkeypatch.setattr(stages, "LARGEST", most)
        result = onnx_lsuv.measure(onnx_lsuv.from_proto(model), given, include=["h"], beside=True)
        return {row.name: row.std is not None for row in result.skipped}

    assert measured(1000) == {"k": True, "z": True}
    assert measured(999) == {"k": True, "z": False}
