"""Graphs as exporters write them, each cut down to the few nodes that matter.

What a layer's scale is decided by is measured by a plain ONNX Runtime session and NumPy in float64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, ValueInfoProto, helper, numpy_helper

import onnx_lsuv
from onnx_lsuv import ModelError, Result

Array = np.ndarray[Any, Any]
Batch = Mapping[str, Array]


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def model(text: str, *, opset: int = 17, ir: int = 8, **tensors: Array) -> ModelProto:
    result = onnx.parser.parse_model(f'<ir_version: {ir}, opset_import: ["" : {opset}]>\n{text}')
    result.graph.initializer.extend(numpy_helper.from_array(np.array(a), name) for name, a in tensors.items())
    return result


def initialised(source: ModelProto, batches: Sequence[Batch]) -> tuple[Result, ModelProto]:
    result = onnx_lsuv.initialize(onnx_lsuv.from_proto(source), batches, seed=0)
    return onnx_lsuv.measure(result.model, batches, like=result), onnx.load_from_string(
        onnx_lsuv.to_bytes(result.model)
    )


def variance(saved: ModelProto, batches: Sequence[Batch], value: str) -> float:
    """Return the variance of a value of the main graph over all batches."""
    del saved.graph.output[:]
    saved.graph.output.append(ValueInfoProto(name=value))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(saved.SerializeToString(), options, providers=["CPUExecutionProvider"])
    parts = [np.asarray(session.run(None, dict(batch))[0], np.float64).reshape(-1) for batch in batches]
    return float(np.concatenate(parts).var())


def expect(source: ModelProto, batches: Sequence[Batch], weights: Sequence[str], *values: str) -> Result:
    """Expect exactly these weights to be drawn, and unit variance of these values."""
    result, saved = initialised(source, batches)
    assert result.good, [(row.name, row.status, row.note) for row in result.layers if not row.good]
    assert sorted({row.weight for row in result.layers}) == sorted(weights), result.skipped
    for value in values:
        assert variance(saved, batches, value) == pytest.approx(1, abs=0.005), value
    return result


X = [{"x": normal(8, 6)}]
TWO = [{"x": normal(5, 6)}, {"x": normal(3, 6, seed=1)}]
STEPS = """ a = MatMul(x, W)  h1 = MatMul(z, R)  s1 = Add(a, h1)  t = Tanh(s1)  h2 = MatMul(t, R)  s2 = Add(a, h2)
            y = Tanh(s2) }"""


@pytest.mark.parametrize("batches", [X, TWO], ids=["one", "several"])
def test_unrolled_recurrence_is_scaled_by_the_first_step_that_varies(batches: list[Batch]) -> None:
    # What torch's dynamo exporter makes of nn.RNN, and every exporter of nn.LSTMCell: the first state is zero.
    source = model("g (float[N,6] x) => (float[N,6] y) { z = Sub(x, x)" + STEPS, W=normal(6, 6), R=normal(6, 6, seed=1))
    expect(source, batches, ["W", "R"], "a", "h2")


def test_unrolled_recurrence_with_a_constant_first_state() -> None:
    zero = np.zeros((8, 6), np.float32)
    text = "g (float[8,6] x) => (float[8,6] y) {" + STEPS
    expect(model(text, W=normal(6, 6), R=normal(6, 6, seed=1), z=zero), X, ["W", "R"], "a", "h2")


def test_dropout_with_an_unused_mask_is_an_identity() -> None:
    # torch's TorchScript exporter in training mode names the mask always.
    text = """g (float[N,6] x) => (float[N,4] y) {
        a = MatMul(x, W)  d, m = Dropout(a, p, t)  b = MatMul(d, V)  e = Add(b, d)  f, m2 = Dropout(e, p, t)
        y = MatMul(f, U) }"""
    tensors = {"p": np.float32(0.5), "t": np.array(True)}
    source = model(text, W=normal(6, 6), V=normal(6, 6, seed=1), U=normal(6, 4), **tensors)
    result, _ = initialised(source, TWO)
    assert result.good, [(row.name, row.std) for row in result.layers]
    assert any("Dropout" in note for note in result.notes)


@pytest.mark.parametrize("batches", [X, TWO], ids=["one", "several"])
def test_weight_carried_unchanged_through_a_loop(batches: list[Batch]) -> None:
    # jax2onnx hands the constants of lax.scan and lax.while_loop in as states.
    text = """g (float[N,6] x) => (float[N,4] y) {
        wo, v, ms = Loop<body = b (int64 i, bool c, float[6,6] w, float[N,6] s)
                => (bool co, float[6,6] wout, float[N,6] so, float[N,6] m) {
            m = MatMul(s, w)  so = Tanh(m)  co = Identity(c)  wout = Identity(w) }>(n, t, W, x)
        y = MatMul(v, U)  first = Gather(ms, zero) }"""
    tensors = {"n": np.array(3), "t": np.array(True), "zero": np.array(0)}
    expect(model(text, W=normal(6, 6), U=normal(6, 4), **tensors), batches, ["W", "U"], "first", "y")


def test_weights_of_both_directions_joined() -> None:
    # torch's TorchScript exporter without constant folding, and older versions of it.
    text = """g (float[T,N,6] x) => (float[T,2,N,3] y) {
        a = Unsqueeze<axes=[0]>(Wf)  b = Unsqueeze<axes=[0]>(Wb)  w = Concat<axis=0>(a, b)
        c = Unsqueeze<axes=[0]>(Rf)  d = Unsqueeze<axes=[0]>(Rb)  r = Concat<axis=0>(c, d)
        y = LSTM<hidden_size=3, direction="bidirectional">(x, w, r) }"""
    names = {"Wf": normal(12, 6), "Wb": normal(12, 6), "Rf": normal(12, 3), "Rb": normal(12, 3)}
    result, saved = initialised(model(text, opset=11, **names), [{"x": normal(5, 8, 6)}])
    assert {change.tensor for change in result.changes} == set(names)
    for tensor in saved.graph.initializer:
        for gate in np.split(numpy_helper.to_array(tensor), 4):
            assert np.allclose(gate @ gate.T, np.eye(3), atol=1e-5)


@pytest.mark.parametrize(
    "bounds",
    [
        "s = Shape(W)  n = Gather<axis=0>(s, i)  h = Div(n, two)",
        "s = Shape(x)  h = Slice(s, last, end, i)  n = Mul(h, two)",
    ],
    ids=["of the weight", "of the data"],
)
def test_slices_whose_bounds_are_known_shapes(bounds: str) -> None:
    # `chunk` of a weight; key and value of nn.MultiheadAttention with another source (the embedding's width is taken
    # from the query's declared shape): TorchScript exporter, constants folded or not.
    text = f"""g (float[N,6] x) => (float[N,6] y) {{
        {bounds}  w0 = Slice(W, i, h, i)  w1 = Slice(W, h, n, i)  t0 = Transpose(w0)  t1 = Transpose(w1)
        a = MatMul(x, t0)  b = MatMul(a, t1)  y = Relu(b) }}"""
    numbers = {"i": np.array([0]), "two": np.array([2]), "last": np.array([-1]), "end": np.array([2**63 - 1])}
    expect(model(text, W=normal(12, 6), **numbers), X, ["W"], "a", "b")


def test_weights_joined_for_one_product() -> None:
    # `cat([q, k, v])` as the weight of one layer.
    text = """g (float[N,6] x) => (float[N,12] y) { w = Concat<axis=1>(Q, K)  y = MatMul(x, w) }"""
    result = expect(model(text, Q=normal(6, 6), K=normal(6, 6, seed=1)), X, ["Q + K"], "y")
    assert {change.tensor for change in result.changes} == {"Q", "K"}


def test_branch_that_returns_a_constant() -> None:
    text = """g (float[N,6] x, bool c) => (float y) {
        a = If<then_branch = t () => (float p) { p = MatMul(x, W) }, else_branch = e () => (float V) { }>(c)
        y = MatMul(a, U) }"""
    source = model(text, W=normal(6, 6), V=normal(8, 6), U=normal(6, 6, seed=1))
    branch = source.graph.node[0].attribute[1].g
    branch.initializer.extend(t for t in source.graph.initializer if t.name == "V")
    del source.graph.initializer[[t.name for t in source.graph.initializer].index("V")]
    for taken in (True, False):
        result, _ = initialised(source, [{**X[0], "c": np.array(taken)}])
        assert result.good
        assert [row.status for row in result.layers] == (["ok", "ok"] if taken else ["not-reached", "ok"])


@pytest.mark.parametrize("batches", [X, TWO], ids=["one", "several"])
def test_an_optional_value_and_a_sequence_that_outlast_a_layer(batches: list[Batch]) -> None:
    text = """g (float[N,6] x) => (float y) {
        o = Optional(x)  q = SequenceConstruct(x, x)
        a = MatMul(x, W)  s = ReduceMax<keepdims=0>(a)  c = Greater(s, low)
        b = If<then_branch = t () => (float[N,6] p) {
                 p1 = OptionalGetElement(o)  p2 = SequenceAt(q, i)  p3 = Add(p1, p2)  p = Add(p3, a) },
               else_branch = e () => (float[N,6] r) { r = Identity(a) }>(c)
        y = MatMul(b, U) }"""
    tensors = {"W": normal(6, 6), "U": normal(6, 6, seed=1), "low": np.float32(-1), "i": np.array(0)}
    expect(model(text, opset=18, **tensors), batches, ["W", "U"], "a", "y")


def test_stacked_weights_taken_by_gather() -> None:
    # `self.weight[i]`, by the TorchScript exporter.
    text = """g (float[N,6] x) => (float[N,6] y) {
        w0 = Gather<axis=0>(W, i0)  w1 = Gather<axis=0>(W, i1)  a = MatMul(x, w0)  r = Relu(a)
        b = MatMul(r, w1)  y = Relu(b) }"""
    expect(model(text, W=normal(2, 6, 6), i0=np.array(0), i1=np.array(1)), X, ["W"], "a", "b")


def test_split_weight_taken_from_a_sequence() -> None:
    text = """g (float[N,6] x) => (float[N,6] y) {
        s = SplitToSequence<axis=1>(W, sp)  w0 = SequenceAt(s, i0)  w1 = SequenceAt(s, i1)
        a = MatMul(x, w0)  b = MatMul(a, w1)  y = Relu(b) }"""
    source = model(text, W=normal(6, 12), sp=np.array([6, 6]), i0=np.array(0), i1=np.array(1))
    expect(source, X, ["W"], "a", "b")


def test_standardised_weight_is_scaled_by_its_gain() -> None:
    text = """g (float[N,4,5] x) => (float[N,4,3] y) {
        m = ReduceMean<axes=[1,2], keepdims=1>(W)  c = Sub(W, m)  q = Mul(c, c)
        v = ReduceMean<axes=[1,2], keepdims=1>(q)  ve = Add(v, eps)  s = Sqrt(ve)  n = Div(c, s)  w = Mul(n, g)
        y = Conv(x, w) }"""
    source = model(text, W=normal(4, 4, 3), eps=np.float32(1e-5), g=np.ones((4, 1, 1), np.float32))
    result = expect(source, [{"x": normal(8, 4, 5)}], ["W"], "y")
    assert {change.tensor for change in result.changes} == {"W", "g"}


def test_a_gain_is_not_taken_for_a_weight() -> None:
    # w = g * (A B): of these the vector g is the only one that can be followed, and no matrix to draw.
    text = """g (float[N,6] x) => (float[N,6] y) {
        p = MatMul(A, B)  w = Mul(g, p)  y0 = MatMul(x, w)  y = MatMul(y0, U) }"""
    source = model(text, A=normal(6, 2), B=normal(2, 6), g=normal(6, 1), U=normal(6, 6))
    result, _ = initialised(source, X)
    assert {change.tensor for change in result.changes} == {"U"}
    assert {row.reason for row in result.skipped} <= {"computed", "constant"}


@pytest.mark.parametrize("batches", [1, 2])
def test_scan_of_opset_8(batches: int) -> None:
    # Its states have the batch axis in front, in the node but not in the body.
    def info(name: str, *shape: int | str) -> ValueInfoProto:
        return helper.make_tensor_value_info(name, 1, shape)

    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["xi", "W"], ["a"]),
            helper.make_node("MatMul", ["s", "R"], ["b"]),
            helper.make_node("Add", ["a", "b"], ["c"]),
            helper.make_node("Tanh", ["c"], ["so"]),
            helper.make_node("Identity", ["a"], ["ao"]),
        ],
        "body",
        [info("s", 1, 6), info("xi", 1, 6)],
        [info("so", 1, 6), info("ao", 1, 6)],
    )
    node = helper.make_node("Scan", ["", "s0", "x"], ["sf", "ys"], body=body, num_scan_inputs=1)
    weights = [numpy_helper.from_array(normal(6, 6, seed=i), name) for i, name in enumerate("WR")]
    graph = helper.make_graph(
        [node], "g", [info("s0", "N", 1, 6), info("x", "N", 4, 1, 6)], [info("ys", "N", 4, 1, 6)], weights
    )
    source = helper.make_model(graph, ir_version=4, opset_imports=[helper.make_opsetid("", 8)])
    data = [{"s0": np.zeros((4, 1, 6), np.float32), "x": normal(4, 4, 1, 6, seed=i)} for i in range(batches)]
    # Each sequence starts anew, so no one use decides: the weights are drawn, and the report says why no more.
    result, _ = initialised(source, data)
    assert result.good
    assert {(row.weight, row.status) for row in result.layers} == {("W", "drawn"), ("R", "drawn")}
    assert all("Scan of opset 8" in row.note for row in result.layers)


def test_training_norm_whose_running_mean_is_used() -> None:
    text = """g (float[N,4,5] x) => (float[N,4,5] y, float[4] mean) {
        a = Conv<pads=[1,1]>(x, W)  b, m, v = BatchNormalization<training_mode=1>(a, s, z, mu, va)
        mean = Identity(m)  u = Unsqueeze(m, one)  c = Add(b, u)  y = MatMul(c, U) }"""
    ones, zeros = np.ones(4, np.float32), np.zeros(4, np.float32)
    tensors = {"s": ones, "z": zeros, "mu": normal(4), "va": ones * 2, "one": np.array([1])}
    source = model(text, opset=15, W=normal(4, 4, 3), U=normal(5, 5), **tensors)
    result, _ = initialised(source, [{"x": normal(8, 4, 5)}])
    assert result.good
    assert {row.weight for row in result.layers} == {"W", "U"}


def test_network_fed_by_noise_alone() -> None:
    text = """g () => (float[8,4] y) { n = RandomNormal<shape=[8,6], seed=1.0>()  a = MatMul(n, W)  r = Relu(a)
        y = MatMul(r, U) }"""
    expect(model(text, W=normal(6, 6), U=normal(6, 4)), [{}], ["W", "U"])


def test_two_rounded_weights_with_one_step() -> None:
    # Quantisation-aware training with a constant step: the exporter stores the number once.
    text = """g (float[N,6] x) => (float[N,6] y) {
        p = QuantizeLinear(W, s, z)  w = DequantizeLinear(p, s, z)  a = MatMul(x, w)
        q = QuantizeLinear(U, s, z)  u = DequantizeLinear(q, s, z)  y = MatMul(a, u) }"""
    source = model(text, opset=13, W=normal(6, 6), U=normal(6, 6, seed=1), s=np.float32(0.02), z=np.int8(0))
    # One step cannot follow two scales.
    with pytest.raises(ModelError, match="DequantizeLinear"):
        initialised(source, X)
