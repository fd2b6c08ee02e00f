"""Centred biases: every channel has mean 0 and the layer the std wanted, by float64 NumPy on the saved file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import oracle
import pytest
from commands import call, fill
from oracle import normal, parse

import onnx_lsuv
from onnx_lsuv.errors import UsageError

Lsuv = Callable[..., Any]
HEAD = '<ir_version: 8, opset_import: ["" : 17]>'
NET = """
    c1 = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)   r1 = Relu(c1)
    c2 = Conv <group = 2> (r1, w2)   a2 = Add(c2, b2)   r2 = Tanh(a2)
    c3 = ConvTranspose <strides = [2, 2]> (r2, w3, b3)   r3 = Relu(c3)   f = Flatten(r3)
    c4 = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (f, w4, b4)   r4 = Relu(c4)
    c5 = MatMul(r4, w5)   a5 = Add(b5, c5)   s5 = Relu(a5)
    c6 = Gemm(s5, w6, b6)
"""
ENDS = {"c1": 1, "a2": 1, "c3": 1, "c4": -1, "a5": -1, "c6": -1}
SHAPES = {
    "w1": (4, 3, 3, 3), "b1": (4,), "w2": (6, 2, 3, 3), "b2": (6, 1, 1), "w3": (6, 5, 2, 2), "b3": (5,),
    "w4": (7, 320), "b4": (1, 7), "w5": (7, 3), "b5": (3,), "w6": (3, 1), "b6": (1,),
}  # fmt: skip


def net() -> onnx.ModelProto:
    text = f"{HEAD} g (float[N,3,6,6] x) => (float c6) {{ {NET} }}"
    tensors = {name: 0.3 * normal(*shape, seed=i) for i, (name, shape) in enumerate(SHAPES.items())}
    return parse(text, tensors)


def data(batches: int) -> list[dict[str, Any]]:
    return [{"x": part + 0.7} for part in np.split(normal(32, 3, 6, 6), batches)]


@pytest.mark.parametrize("batches", [1, 4])
@pytest.mark.parametrize("target", [1.0, 0.4])
def test_channels_have_mean_zero_and_the_layer_the_std(lsuv: Lsuv, batches: int, target: float) -> None:
    run = lsuv(net(), data(batches), center=True, target_std=target)
    assert [row.status for row in run.result.layers] == ["ok"] * 6
    assert not any("not centred" in note for note in run.result.notes)
    assert run.result.settings.center
    assert run.changed == set(SHAPES)
    values = [oracle.forward(run.after, batch) for batch in run.batches]
    for name, axis in ENDS.items():
        whole = np.concatenate([value[name] for value in values])
        means = whole.mean(tuple(i for i in range(whole.ndim) if i != axis % whole.ndim))
        assert np.abs(means).max() < 1e-5 * target, name
        assert whole.var() == pytest.approx(target**2, rel=0.005), name


def test_the_scale_is_that_of_lsuv_layer_by_layer(lsuv: Lsuv) -> None:
    """Mishkin & Matas's loop in float64, with fastai's mean: std over all values about the channels' means."""
    run = lsuv(net(), data(1), center=True)
    state = {name: run.weight(name) for name in SHAPES}
    scales = {f"w{i + 1}": row.scale for i, row in enumerate(run.result.layers)}
    for (name, axis), i in zip(ENDS.items(), range(1, 7), strict=True):
        state[f"w{i}"] = state[f"w{i}"] / scales[f"w{i}"]
        state[f"b{i}"] = 0 * state[f"b{i}"]
        model = onnx.ModelProto()
        model.CopyFrom(run.after)
        for tensor in model.graph.initializer:
            # Earlier layers are as saved, so what comes in is what came in at their turn.
            tensor.CopyFrom(onnx.numpy_helper.from_array(state[tensor.name], tensor.name))
        z = oracle.forward(model, run.batches[0])[name]
        others = tuple(k for k in range(z.ndim) if k != axis % z.ndim)
        scale = 1 / np.sqrt(z.var(others).mean())
        assert scales[f"w{i}"] == pytest.approx(scale, rel=1e-4)
        beta = 2 if name == "c4" else 1
        assert run.weight(f"b{i}").ravel() == pytest.approx(-scale * z.mean(others) / beta, rel=1e-3, abs=1e-5)
        state[f"w{i}"], state[f"b{i}"] = run.weight(f"w{i}"), run.weight(f"b{i}")


def test_layers_without_a_bias_of_their_own_are_named(lsuv: Lsuv) -> None:
    text = f"""{HEAD} g (float[N,4] x) => (float z) {{
        a = Gemm(x, w1)   b = Gemm(a, w2, shared)   c = Gemm(b, w3, shared)   d = Gemm(c, w4, every)
        e = Gemm(d, twice, b5)   f = Gemm(e, twice, b6)   z = Gemm(f, w7, b7) }}"""
    tensors = {name: normal(4, 4, seed=i) for i, name in enumerate(("w1", "w2", "w3", "w4", "twice", "w7"))}
    biases = {name: normal(4) for name in ("shared", "b5", "b6", "b7")} | {"every": normal(1)}
    run = lsuv(parse(text, {**tensors, **biases}), {"x": normal(64, 4) + 1}, center=True)
    (note,) = (note for note in run.result.notes if note.startswith("not centred"))
    assert [f"'{name}'" in note for name in "abcd"] == [True] * 4
    assert note.endswith("'e' and 1 more")
    assert np.flatnonzero([run.weight(name).any() for name in biases]).tolist() == [3]
    z = np.concatenate([np.asarray(value, np.float64) for value in run.value("z")])
    assert np.abs(z.mean(0)).max() < 1e-5
    assert {row.status for row in run.result.layers} <= {"ok", "shared"}


def test_layers_in_branches_are_scaled_and_not_centred(lsuv: Lsuv) -> None:
    text = f"""{HEAD} g (float[N,4] x, bool c) => (float z) {{
        y = If (c) <then_branch = t () => (float p) {{ p = Gemm(x, w, b) }},
                    else_branch = e () => (float q) {{ q = Identity(x) }}>
        z = Gemm(y, u, v) }}"""
    model = parse(text, w=normal(4, 4), b=normal(4), u=normal(4, 4), v=normal(4))
    run = lsuv(model, {"x": normal(64, 4) + 1, "c": np.array(True)}, center=True)
    (note,) = (note for note in run.result.notes if note.startswith("not centred"))
    assert note.endswith(": 'y.then_branch/p'")
    assert not run.weight("b").any()
    assert np.abs(np.concatenate(run.value("z")).mean(0)).max() < 1e-5
    assert [row.status for row in run.result.layers] == ["ok", "ok"]


def test_a_layer_without_variance_keeps_a_bias_of_zero(lsuv: Lsuv) -> None:
    text = f"{HEAD} g (float[N,4] x) => (float z) {{ y = Gemm(x, w, b) z = Gemm(x, u, v) }}"
    model = parse(text, w=normal(4, 4), b=normal(4), u=normal(4, 4), v=normal(4))
    run = lsuv(model, {"x": np.ones((8, 4), np.float32)}, center=True)
    assert [row.status for row in run.result.layers] == ["degenerate"] * 2
    assert not run.weight("b").any()
    assert not run.weight("v").any()


@pytest.mark.parametrize("given", [{"keep_bias": True}, {"rescale": False}])
def test_what_contradicts_it_is_refused(given: dict[str, bool]) -> None:
    model = onnx_lsuv.from_proto(net())
    with pytest.raises(UsageError, match="sets biases by the scaled weights"):
        onnx_lsuv.initialize(model, data(1), center=True, **given)


@pytest.mark.parametrize("more", [[], ["--portable"], ["--fresh"], ["--init", "keep"]])
def test_the_command_centres(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str]) -> None:
    monkeypatch.chdir(fill(tmp_path))
    call("m.onnx", "-d", "x.npy", "--center", "-o", "o.onnx", *more)
    before, after = onnx.load("m.onnx"), onnx.load("o.onnx")
    assert oracle.all_float_tensors(before).keys() == oracle.all_float_tensors(after).keys()
    batch = [{"x": np.load("x.npy")}]
    (values,) = oracle.values("o.onnx", batch, ["y"])["y"]
    assert np.abs(values.mean(0)).max() < 1e-5
    assert values.var() == pytest.approx(1, rel=0.005)
