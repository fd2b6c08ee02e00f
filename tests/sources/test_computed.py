"""Weights that other constants are computed with: weight normalisation, masks, and what their report says.

What a layer sees of its weight comes from a plain ONNX Runtime session over the saved file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import oracle
import pytest
from commands import call
from conftest import Run
from oracle import blocks_of, normal, orthonormality, parse

from onnx_lsuv.orthonormal import equal_rows

Lsuv = Callable[..., Run]
Array = np.ndarray[Any, Any]


def model(nodes: str, x: str = "float[N,16]", opset: int = 17, **tensors: Any) -> onnx.ModelProto:
    head = f'<ir_version: 8, opset_import: ["" : {opset}]>'
    return parse(f"{head} g ({x} x) => (float y) {{ {nodes} }}", {k: np.asarray(v) for k, v in tensors.items()})


def seen(run: Run, value: str = "w") -> Array:
    """Return what a layer sees of its weight."""
    return np.asarray(run.value(value)[0], np.float64)


NORM = "n = ReduceL2<axes={axes}, keepdims=1>(v) d = Div(v, n) w = Mul(d, g)"
# How exporters write v / |v| * g.
WAYS = {
    "norm": NORM,
    "gain over norm": "n = ReduceL2<axes={axes}, keepdims=1>(v) d = Div(g, n) w = Mul(v, d)",
    "mean square": "s = Mul(v, v) t = ReduceMean<axes={axes}, keepdims=1>(s) n = Sqrt(t) d = Div(v, n) w = Mul(g, d)",
    "reciprocal": "n = ReduceL2<axes={axes}, keepdims=1>(v) i = Reciprocal(n) d = Mul(v, i) w = Mul(d, g)",
}
LAYERS = {
    # the layer; the data; v; axes that are summed; whether rows of the layer's matrix have gains of their own
    "wide": ("y = Gemm<transB=1>(x, w)", (200, 16), (10, 16), [1], True),
    "tall": ("y = Gemm<transB=1>(x, w)", (200, 16), (40, 16), [1], True),
    "nearly square": ("y = MatMul(x, w)", (200, 16), (16, 17), [0], True),
    "of inputs": ("y = MatMul(x, w)", (200, 16), (16, 10), [1], False),
    "of inputs, tall": ("y = MatMul(x, w)", (200, 16), (16, 40), [1], False),
    "convolution": ("y = Conv(x, w)", (64, 4, 6, 6), (12, 4, 3, 3), [1, 2, 3], True),
    "convolution, tall": ("y = Conv(x, w)", (64, 4, 6, 6), (50, 4, 3, 3), [1, 2, 3], True),
    "grouped, tall": ("y = Conv<group=2>(x, w)", (64, 4, 6), (24, 2, 3), [1, 2], True),
    "transposed, of inputs": ("y = ConvTranspose(x, w)", (64, 4, 6), (4, 9, 3), [1, 2], False),
    "of places": ("y = Conv(x, w)", (64, 4, 6), (7, 4, 3), [0, 1], False),
    "of kernels": ("y = Conv(x, w)", (64, 4, 6), (7, 4, 3), [2], False),
    "one for all": ("y = Gemm<transB=1>(x, w)", (200, 16), (40, 16), [0, 1], False),
}


@pytest.mark.parametrize("case", LAYERS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.few(12)
def test_weight_normalisation(lsuv: Lsuv, way: str, case: str) -> None:
    layer, data, shape, axes, of_rows = LAYERS[case]
    sizes = [1 if i in axes else d for i, d in enumerate(shape)]
    x = f"float[{','.join(['N', *map(str, data[1:])])}]"
    runs = []
    for seed in range(2):
        g = np.exp(normal(*sizes, seed=seed))
        source = model(f"{WAYS[way].format(axes=axes)} {layer}", x, v=normal(*shape, seed=seed), g=g)
        run = lsuv(source, {"x": normal(*data)})
        assert [(row.status, row.init, row.note) for row in run.result.layers] == [("ok", "orthonormal", "")]
        assert run.moments("y")[0].var == pytest.approx(1, abs=0.005)
        op = layer[4:].split("(")[0].split("<")[0]
        blocks = blocks_of(op, seen(run), group=2 if "group" in layer else 1, trans="transB" in layer)
        assert orthonormality(blocks) < 1e-4
        if of_rows:
            norms = np.linalg.norm(blocks, axis=2)
            assert np.ptp(norms) < 1e-4 * norms.max()
        if case != "of kernels":
            assert np.ptp(run.weight("g")) == 0
        runs.append(run)
    # Nothing is left of the gains that were there.
    np.testing.assert_allclose(seen(runs[0]), seen(runs[1]), atol=1e-6)
    assert runs[0].weight("g").tobytes() == runs[1].weight("g").tobytes()


@pytest.mark.parametrize("opset", [9, 13, 18])
def test_keep_keeps_the_gains(lsuv: Lsuv, opset: int) -> None:
    nodes = NORM.format(axes=[1]) if opset < 18 else "n = ReduceL2(v, one) d = Div(v, n) w = Mul(d, g)"
    tensors = {"one": np.array([1])} if opset == 18 else {}
    source = model(
        f"{nodes} t = Transpose(w) y = MatMul(x, t)", opset=opset, v=normal(10, 16), g=normal(10, 1), **tensors
    )
    run = lsuv(source, {"x": normal(200, 16)}, init="keep")
    assert run.changed == {"g"}
    assert np.ptp(run.weight("g") / run.old("g")) < 1e-6
    assert run.result.good
    run = lsuv(source, {"x": normal(200, 16)})
    assert run.changed == {"g", "v"}
    assert np.ptp(run.weight("g")) == 0


@pytest.mark.parametrize("opset", [11, 22])
def test_normalised_by_an_operator(lsuv: Lsuv, opset: int) -> None:
    # It is an operator since opset 1, of a positive axis or a negative one.
    nodes = "d = LpNormalization<axis=-1, p=2>(v) w = Mul(d, g) y = Gemm<transB=1>(x, w, b)"
    g = np.exp(normal(40, 1))
    run = lsuv(model(nodes, opset=opset, v=normal(40, 16), g=g, b=np.zeros(40, np.float32)), {"x": normal(200, 16)})
    assert (run.row("y").status, run.row("y").init) == ("ok", "orthonormal")
    assert run.moments("y")[0].var == pytest.approx(1, abs=0.005)
    assert orthonormality(blocks_of("Gemm", seen(run), trans=True)) < 1e-4
    assert np.ptp(run.weight("g")) == 0


@pytest.mark.parametrize("salt", ["1", "2", *(pytest.param(salt, marks=pytest.mark.slow) for salt in "34")])
def test_of_two_numbers_the_same_one_carries_the_scale(tmp_path: Path, salt: str) -> None:
    # A 1 that is divided by the norm is no parameter, wherever it stands and whatever Python's hashes are.
    nodes = "n = ReduceL2<axes=[1]>(v) i = Div(one, n) d = Mul(v, i) w = Mul(d, g) y = Gemm<transB=1>(x, w)"
    source = tmp_path / "m.onnx"
    onnx.save(model(nodes, v=normal(10, 16), g=np.float32(2), one=np.float32(1)), source)
    np.save(tmp_path / "x.npy", normal(64, 16))
    line = [sys.executable, "-m", "onnx_lsuv", str(source), "-d", str(tmp_path / "x.npy"), "-q"]
    subprocess.run(line, check=True, env={**os.environ, "PYTHONHASHSEED": salt}, timeout=100)
    changed = oracle.changed_tensors(onnx.load(source), onnx.load(tmp_path / "m.lsuv.onnx"))
    assert changed == {"v", "g"}


@pytest.mark.parametrize(("init", "variance"), [("he", 2 / 160), ("xavier", 2 / 280)])
def test_normal_draws_are_what_the_layer_sees(lsuv: Lsuv, init: str, variance: float) -> None:
    source = model(f"{NORM.format(axes=[0])} y = MatMul(x, w)", "float[N,160]", v=normal(160, 120), g=normal(1, 120))
    run = lsuv(source, {"x": normal(8, 160)}, init=init, rescale=False)
    w = seen(run)
    np.testing.assert_allclose(w, run.weight("v"), atol=1e-6)
    assert (w**2).mean() == pytest.approx(variance, rel=0.05)
    assert run.row("y").init == init
    scaled = lsuv(source, {"x": normal(8, 160)}, init=init)
    assert scaled.moments("y")[0].var == pytest.approx(1, abs=0.005)
    assert np.ptp(seen(scaled) / w) < 1e-3


def test_a_weight_that_is_masked_is_not_called_orthonormal(lsuv: Lsuv) -> None:
    mask = (normal(16, 10) > 0).astype(np.float32)
    run = lsuv(model("w = Mul(v, mask) y = MatMul(x, w)", v=normal(16, 10), mask=mask), {"x": normal(200, 16)})
    (row,) = run.result.layers
    assert (row.status, row.init) == ("ok", "altered")
    assert row.note == "drawn orthonormal, then changed by 'mask', kept as it was"
    assert orthonormality(blocks_of("MatMul", seen(run))) > 0.1
    whole = lsuv(model("w = Mul(v, k) y = MatMul(x, w)", v=normal(16, 10), k=np.float32(3)), {"x": normal(200, 16)})
    assert (whole.row("y").init, whole.row("y").note) == ("orthonormal", "")


def test_a_gain_by_its_logarithm_is_kept_and_named(lsuv: Lsuv) -> None:
    nodes = "n = ReduceL2<axes=[1], keepdims=1>(v) d = Div(v, n) e = Exp(g) w0 = Mul(d, e)"
    tensors = {"v": normal(10, 16), "g": normal(10, 1), "u": normal(10, 4)}
    run = lsuv(model(f"{nodes} a = Gemm<transB=1>(x, w0) y = MatMul(a, u)", **tensors), {"x": normal(200, 16)})
    assert run.changed == {"u"}
    assert [(row.name, row.reason) for row in run.result.skipped] == [("a", "computed")]
    assert "proportional" in run.result.skipped[0].detail
    # A factor carries the scale of what there is.
    source = model(f"{nodes} w = Mul(w0, k) y = Gemm<transB=1>(x, w)", v=tensors["v"], g=tensors["g"], k=np.float32(2))
    run = lsuv(source, {"x": normal(200, 16)})
    assert run.changed == {"v", "k"}
    assert (run.row("y").status, run.row("y").init) == ("ok", "altered")
    assert "'g'" in run.row("y").note
    norms = np.linalg.norm(seen(run), axis=1) / np.exp(run.weight("g")[:, 0])
    assert np.ptp(norms) < 1e-5 * norms.max()


def test_a_standardised_weight_is_not_called_orthonormal(lsuv: Lsuv) -> None:
    nodes = """m = ReduceMean<axes=[1], keepdims=1>(v) c = Sub(v, m) q = Mul(c, c)
        s = ReduceMean<axes=[1], keepdims=1>(q) r = Sqrt(s) n = Div(c, r) w = Mul(n, g) y = Gemm<transB=1>(x, w)"""
    run = lsuv(model(nodes, v=normal(10, 16), g=np.exp(normal(10, 1))), {"x": normal(200, 16)})
    assert (run.row("y").status, run.row("y").init) == ("ok", "altered")
    assert np.ptp(run.weight("g")) == 0
    norms = np.linalg.norm(seen(run), axis=1)
    assert np.ptp(norms) < 1e-5 * norms.max()


def test_normalised_weights_in_half_precision(lsuv: Lsuv) -> None:
    source = model(f"{NORM.format(axes=[1])} y = Gemm<transB=1>(x, w)", "float16[N,16]", 13,
                   v=normal(40, 16).astype(np.float16), g=normal(40, 1).astype(np.float16))  # fmt: skip
    source.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    run = lsuv(source, {"x": normal(200, 16).astype(np.float16)})
    assert (run.row("y").status, run.row("y").init) == ("ok", "orthonormal")
    assert np.ptp(run.weight("g")) == 0
    assert orthonormality(blocks_of("Gemm", seen(run), trans=True)) < 0.02


@pytest.mark.parametrize("shape", [(40, 16), (17, 16), (1000, 3), (5, 1), (16, 16), (1, 7)])
def test_rows_of_one_length(shape: tuple[int, int]) -> None:
    q = np.linalg.qr(normal(*shape).astype(np.float64))[0]
    found = equal_rows(q)
    squares = (found**2).sum(1)
    np.testing.assert_allclose(squares, q.shape[1] / shape[0], rtol=1e-10)
    np.testing.assert_allclose(found.T @ found, np.eye(q.shape[1]), atol=1e-12)


def test_what_the_command_says_of_a_masked_weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mask = (normal(16, 10) > 0).astype(np.float32)
    onnx.save(model("w = Mul(v, mask) y = MatMul(x, w)", v=normal(16, 10), mask=mask), "m.onnx")
    np.save("x.npy", normal(64, 16))
    assert "drawn (orthonormal) before other constants multiply it" in call("m.onnx", "--dry-run").stdout
    assert "'y'" in next(
        line for line in call("m.onnx", "-d", "x.npy").stdout.splitlines() if "not orthonormal" in line
    )
    call("m.onnx", "-d", "x.npy", "--report", "r.json", "--force")
    report = json.loads(Path("r.json").read_text(encoding="utf-8"))
    assert [(row["init"], row["status"]) for row in report["layers"]] == [("altered", "ok")]
