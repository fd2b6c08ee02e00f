"""Last layers that read averages of what a BatchNormalization gives: which they are, and that their std is a tenth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from commands import call
from onnx import ModelProto, TensorProto
from oracle import normal, parse

import onnx_lsuv

POOLED = "p = GlobalAveragePool(n) f = Flatten(p)"
BATCH = {"x": normal(64, 4, 6, 6)}


def net(middle: str = POOLED, end: str = "y = MatMul(f, u)", channels: int = 4, **tensors: Any) -> ModelProto:
    """Return a convolution, Relu, BatchNormalization, and what is given; nodes are named by what they give."""
    text = f"""<ir_version: 10, opset_import: ["" : 17]> g (float[N,4,6,6] x) => (float y) {{
      a = Conv<pads=[1,1,1,1]>(x, w) b = Relu(a) n = BatchNormalization(b, s, t, m, v) {middle} {end} }}"""
    zeros, ones = np.zeros(channels, np.float32), np.ones(channels, np.float32)
    norm = {"s": ones, "t": zeros, "m": zeros, "v": ones}
    given = norm | {"w": normal(channels, 4, 3, 3), "u": normal(channels, 3)} | tensors
    model = parse(text, {name: value for name, value in given.items() if f" {name}" in text or f"({name}" in text})
    for node in model.graph.node:
        node.name = node.output[0]
    return model


def std(saved: ModelProto, name: str = "y") -> float:
    """Return the std of a value of a saved file, by a plain session and in float64."""
    if all(output.name != name for output in saved.graph.output):
        saved.graph.output.append(onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    session = ort.InferenceSession(saved.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run([name], BATCH)
    return float(np.asarray(found, np.float64).std())


def saved(result: onnx_lsuv.Result) -> ModelProto:
    return ModelProto.FromString(onnx_lsuv.to_bytes(result.model))


@pytest.mark.parametrize(
    ("choices", "wanted"),
    [
        ({}, 0.1),
        ({"target_std": 3.0}, 0.3),
        ({"init": "keep", "keep_bias": True}, 0.1),
        ({"residual": "off"}, 1.0),
        ({"target": {"y": 1}}, 1.0),
        ({"target": {"y": 0.7}}, 0.7),
        ({"init": {"y": "zero"}}, 0.0),
    ],
    ids=str,
)
def test_the_std_that_it_gets(choices: dict[str, Any], wanted: float) -> None:
    result = onnx_lsuv.initialize(onnx_lsuv.from_proto(net()), BATCH, **choices)
    assert std(saved(result)) == pytest.approx(wanted, rel=0.003)
    assert std(saved(result), "a") == pytest.approx(choices.get("target_std", 1), rel=0.003)
    assert [row.target for row in result.layers] == [choices.get("target_std", 1), pytest.approx(wanted)]
    told = [note for note in result.notes if "averages" in note]
    assert len(told) == (wanted in (0.1, 0.3))
    assert onnx_lsuv.measure(result.model, BATCH, like=result).good
    again = {name: choices[name] for name in ("target", "target_std", "residual") if name in choices}
    again |= {"target": {"y": 0}} if not wanted else {}
    assert onnx_lsuv.measure(result.model, BATCH, **again).good
    if told:
        assert "1 of 2 layers reads averages of what a BatchNormalization gives ('y')" in told[0]
        # What the note says gives it the usual std.
        usual = choices.get("target_std", 1.0)
        assert f"target={{'y': {usual}}} or residual='off' gives it all" in told[0]


def test_as_drawn_and_as_the_identity() -> None:
    drawn = onnx_lsuv.initialize(onnx_lsuv.from_proto(net()), BATCH, rescale=False)
    same = onnx_lsuv.initialize(onnx_lsuv.from_proto(net()), BATCH, init={"y": "identity"})
    assert [row.target for row in drawn.layers] == [1.0, 1.0]
    assert [row.scale for row in same.layers][1:] == [None]
    assert not any("averages" in note for note in (*drawn.notes, *same.notes))


@pytest.mark.parametrize(
    ("middle", "end"),
    [
        ("p = ReduceMean<axes=[2, 3], keepdims=0>(n) f = Identity(p)", "y = MatMul(f, u)"),
        ("p = AveragePool<kernel_shape=[6, 6]>(n) f = Flatten(p)", "y = Gemm(f, u, c)"),
        ("f = GlobalAveragePool(n)", "c1 = Conv(f, k) y = Flatten(c1)"),
        ("q = Dropout(n) p = GlobalAveragePool(q) f = Flatten(p)", "z = MatMul(f, u) o = Add(z, c) y = Softmax(o)"),
        (POOLED, "z = MatMul(f, u) y = LogSoftmax(z)"),
        (POOLED, "z = MatMul(f, u) y = Sigmoid(z)"),
    ],
)
def test_its_forms(middle: str, end: str) -> None:
    model = net(middle, end, c=normal(3), k=normal(3, 4, 1, 1))
    assert [row.target for row in onnx_lsuv.plan(onnx_lsuv.from_proto(model)).layers] == [1, 0.1]
    result = onnx_lsuv.initialize(onnx_lsuv.from_proto(model), BATCH)
    logits = {"c1", "o", "z"} & {node.output[0] for node in model.graph.node}
    assert std(saved(result), "o" if "o" in logits else next(iter(logits), "y")) == pytest.approx(0.1, rel=0.003)


@pytest.mark.parametrize(
    ("middle", "end"),
    [
        ("p = GlobalMaxPool(n) f = Flatten(p)", "y = MatMul(f, u)"),
        ("r = Relu(n) p = GlobalAveragePool(r) f = Flatten(p)", "y = MatMul(f, u)"),
        ("f = Flatten(n)", "y = MatMul(f, big)"),
        ("p = AveragePool<kernel_shape=[3, 3], strides=[3, 3]>(n) f = Flatten(p)", "y = MatMul(f, big)"),
        (POOLED, "z = MatMul(f, u) r = Relu(z) y = MatMul(r, u2)"),
        (POOLED, "z = MatMul(f, u) y = LayerNormalization(z, c)"),
        # A squeeze-and-excitation's first layer is none, although no other layer may be taken.
        ("p = GlobalAveragePool(n)", "z = Conv(p, k) g = Sigmoid(z) h = Mul(n, g) f = Flatten(h) y = MatMul(f, big)"),
    ],
)
def test_what_is_none(middle: str, end: str) -> None:
    width = 16 if "strides" in middle else 144
    given = {"big": normal(width, 3), "u2": normal(3, 3), "c": np.ones(3, np.float32), "k": normal(4, 4, 1, 1)}
    model = onnx_lsuv.from_proto(net(middle, end, **given))
    layers = onnx_lsuv.plan(model).layers
    assert len(layers) >= 2
    assert {row.target for row in layers} == {1.0}
    if "k" in end:
        assert [row.target for row in onnx_lsuv.plan(model, include=["z"]).layers] == [1.0]


@pytest.mark.parametrize(("first", "wanted"), [("Average", 0.1), ("Max", 1.0)])
def test_a_weight_used_twice(first: str, wanted: float) -> None:
    """Its first use decides its scale, as it does of every weight."""
    other = {"Average": "Max", "Max": "Average"}[first]
    two = f"q = Global{first}Pool(n) e = Flatten(q) k = MatMul(e, u) y = MatMul(f, u)"
    model = net(f"p = Global{other}Pool(n) f = Flatten(p)", two)
    model.graph.output.append(onnx.helper.make_tensor_value_info("k", TensorProto.FLOAT, None))
    result = onnx_lsuv.initialize(onnx_lsuv.from_proto(model), BATCH)
    assert [(row.name, row.status, row.target) for row in result.layers[1:]] == [
        ("k", "scaled", wanted),
        ("y", "shared", wanted),
    ]
    assert std(saved(result), "k") == pytest.approx(wanted, rel=0.003)


def test_one_that_has_the_usual_std() -> None:
    """As an earlier version left it, or as it was asked for."""
    off = onnx_lsuv.initialize(onnx_lsuv.from_proto(net()), BATCH, residual="off")
    found = onnx_lsuv.measure(off.model, BATCH)
    assert [row.name for row in found.layers if row.status == "off"] == ["y"]
    (note,) = (note for note in found.notes if "averages" in note)
    assert note == (
        "'y': reads averages of what a BatchNormalization gives, with the usual std; give target={'y': 1.0} or "
        "residual='off' where the model was initialised so"
    )
    assert onnx_lsuv.measure(off.model, BATCH, target={"y": 1}).good
    # An earlier report says more than the rule.
    before = onnx_lsuv.measure(off.model, BATCH, residual="off")
    assert onnx_lsuv.measure(off.model, BATCH, baseline=before).good
    assert onnx_lsuv.measure(off.model, BATCH, baseline={"a": 1, "y": 1}).notes == before.notes
    assert not any("averages" in note for note in onnx_lsuv.measure(onnx_lsuv.from_proto(net()), BATCH).notes)


def test_the_command(tmp_path: Path) -> None:
    model, data, out, report = (tmp_path / name for name in ("m.onnx", "x.npy", "out.onnx", "r.json"))
    onnx.save(net(), model)
    np.save(data, BATCH["x"])
    planned = call(str(model), "--dry-run")
    assert "scaled to std 0.1" in planned.stdout
    found = call(str(model), "--data", str(data), "-o", str(out), "--report", str(report))
    for ran in (planned, found):
        assert "--target y=1 or --residual off gives it all" in " ".join((ran.stdout + ran.stderr).split())
    assert [row["target"] for row in json.loads(report.read_text())["layers"]] == [1.0, 0.1]
    assert std(onnx.load(out)) == pytest.approx(0.1, rel=0.003)
    call(str(out), "--data", str(data), "--check")
    call(str(out), "--data", str(data), "--check", "--residual", "off", status=1)


@pytest.mark.parametrize(
    ("middle", "end"),
    [
        ("p = AveragePool<kernel_shape=[2,2],strides=[2,2]>(n)", "y = Conv(p, k)"),
        ("p = AveragePool<kernel_shape=[3,3],pads=[1,1,1,1]>(n)", "y = Conv(p, k)"),
        ("p = ReduceMean<axes=[2],keepdims=0>(n) f = Transpose<perm=[0,2,1]>(p)", "y = MatMul(f, u)"),
        ("p = ReduceMean<axes=[1],keepdims=0>(n) f = Flatten(p)", "y = MatMul(f, wide)"),
    ],
)
def test_averages_that_leave_places_are_none(middle: str, end: str) -> None:
    model = net(middle, end, k=normal(3, 4, 1, 1), wide=normal(36, 3))
    result = onnx_lsuv.initialize(onnx_lsuv.from_proto(model), BATCH)
    assert [row.target for row in result.layers] == [1, 1]


@pytest.mark.parametrize(
    "middle",
    [
        "p = AveragePool<kernel_shape=[6,6]>(n) f = Flatten(p)",
        "f = ReduceMean<axes=[2,3],keepdims=0>(n)",
        "p = ReduceMean<axes=[-1,-2]>(n) f = Flatten(p)",
    ],
)
def test_averages_over_all_places(middle: str) -> None:
    result = onnx_lsuv.initialize(onnx_lsuv.from_proto(net(middle)), BATCH)
    assert [row.target for row in result.layers] == [1, 0.1]
