"""Weights that are rounded on their way to a layer, as quantisation-aware training leaves them.

The steps are held against NumPy, the outputs and what layers see of their weights against a plain ONNX Runtime session.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
import quantised_graphs
from conftest import Run
from oracle import blocks_of, normal, orthonormality, parse

import onnx_lsuv

Lsuv = Callable[..., Run]
Array = np.ndarray[Any, Any]

ROUNDED = "q = QuantizeLinear{a}(w, s, z) dq = DequantizeLinear{a}(q, s, z)"


def model(nodes: str, opset: int = 21, x: str = "float[N,20]", **tensors: Any) -> onnx.ModelProto:
    head = f'<ir_version: 10, opset_import: ["" : {opset}, "com.microsoft" : 1]>'
    return parse(f"{head} g ({x} x) => (float y) {{ {nodes} }}", {k: np.asarray(v) for k, v in tensors.items()})


def seen(run: Run, value: str) -> Array:
    """Return what a layer sees of its weight."""
    return np.asarray(run.value(value)[0], np.float64)


def is_drawn(run: Run, output: str = "y") -> None:
    """Expect the one layer to be drawn and to have unit variance."""
    assert [row.status for row in run.result.layers] == ["ok"], (run.result.layers, run.result.skipped)
    assert run.moments(output)[0].var == pytest.approx(1, abs=0.005)


X = {"x": normal(64, 20)}


@pytest.mark.parametrize("batches", [1, 3])
@pytest.mark.parametrize("seeds", range(4))
@pytest.mark.few(3)
def test_random_graphs(tmp_path: Path, batches: int, seeds: int) -> None:
    for seed in range(seeds * 12 + (batches == 3) * 6, seeds * 12 + (batches == 3) * 6 + 6):
        found = quantised_graphs.case(1000 + seed, batches=batches)
        source, target = tmp_path / f"{seed}.onnx", tmp_path / f"{seed}.lsuv.onnx"
        source.write_bytes(found.model.SerializeToString())
        result = onnx_lsuv.initialize(onnx_lsuv.load(source), found.batches)
        onnx_lsuv.save(result.model, target)
        result = onnx_lsuv.measure(onnx_lsuv.load(target), found.batches, like=result)
        about = quantised_graphs.describe(found)
        assert result.good, about
        assert len(result.layers) >= len(found.layers), about
        assert not quantised_graphs.faults(found, target), about
        assert max(quantised_graphs.orthonormality(found, target)) < (2e-2 if found.half else 1e-4), about


# (type, zero point) -> the numbers on the shorter side of it
REACHES = {
    ("int8", 0): 127,
    ("int8", -100): 28,
    ("uint8", 128): 127,
    ("uint8", 3): 3,
    ("uint8", 250): 5,
    ("int4", 0): 7,
    ("uint4", 7): 7,
    ("int16", 0): 32767,
    ("uint16", 40000): 25535,
    ("float8_e4m3fn", 0): 448,
    ("float8_e4m3fnuz", 0): 240,
    ("float8_e5m2", 0): 57344,
    ("float8_e5m2fnuz", 0): 57344,
}


@pytest.mark.parametrize(("kind", "zero"), REACHES)
def test_the_step_is_that_of_the_type_and_its_zero_point(lsuv: Lsuv, kind: str, zero: int) -> None:
    dtype = np.dtype(getattr(ml_dtypes, kind, None) or kind)
    nodes = ROUNDED.format(a="") + " y = MatMul(x, dq)"
    run = lsuv(model(nodes, w=normal(20, 12), s=np.float32(0.02), z=np.asarray(zero, dtype)), X)
    is_drawn(run)
    w = run.weight("w")
    assert run.weight("s") == pytest.approx(np.abs(w).max() / REACHES[kind, zero], rel=1e-5)
    assert orthonormality(blocks_of("MatMul", w)) < 1e-5
    if REACHES[kind, zero] > 100 and "e5m2" not in kind:
        assert orthonormality(blocks_of("MatMul", seen(run, "dq"))) < 0.05
    assert {c.tensor: c.role for c in run.result.changes} == {"w": "weight", "s": "step"}


@pytest.mark.parametrize("axis", [0, 1, -1, -2])
@pytest.mark.parametrize("turned", [False, True])
def test_the_axis_is_the_quantisers_own(lsuv: Lsuv, axis: int, turned: bool) -> None:
    # PyTorch writes a quantised Linear on three axes as QuantizeLinear, DequantizeLinear, Transpose, MatMul.
    w = normal(12, 20) if turned else normal(20, 12)
    n = w.shape[axis]
    end = "k = Transpose(dq) y = MatMul(x, k)" if turned else "y = MatMul(x, dq)"
    tensors = {"s": np.full(n, 0.02, np.float32), "z": np.zeros(n, np.int8)}
    run = lsuv(model(f"{ROUNDED.format(a=f'<axis={axis}>')} {end}", 17, w=w, **tensors), X)
    is_drawn(run)
    peak = np.abs(run.weight("w")).max(1 - axis % 2)
    np.testing.assert_allclose(run.weight("s"), peak / 127, rtol=1e-5)
    assert orthonormality(blocks_of("MatMul", seen(run, "k" if turned else "dq"))) < 0.03


@pytest.mark.parametrize(("axis", "block"), [(0, 4), (0, 7), (1, 5), (-1, 12), (-2, 20)])
def test_blocks(lsuv: Lsuv, axis: int, block: int) -> None:
    nodes = f"""q = QuantizeLinear<axis={axis}, block_size={block}, output_dtype=22>(w, s)
        dq = DequantizeLinear<axis={axis}, block_size={block}>(q, s) y = MatMul(x, dq)"""
    shape = [20, 12]
    shape[axis] = -(-shape[axis] // block)
    run = lsuv(model(nodes, w=normal(20, 12), s=np.full(shape, 0.02, np.float32)), X)
    is_drawn(run)
    w = np.moveaxis(np.abs(run.weight("w")), axis, 0)
    peaks = np.stack([w[i : i + block].max(0) for i in range(0, len(w), block)])
    np.testing.assert_allclose(np.moveaxis(run.weight("s"), axis, 0), peaks / 7, rtol=1e-5)


@pytest.mark.parametrize("opset", [10, 11, 13, 17, 19, 21, 23, 24])
@pytest.mark.parametrize("init", ["orthonormal", "he", "keep"])
def test_opsets(lsuv: Lsuv, opset: int, init: str) -> None:
    nodes = ROUNDED.format(a="") + " y = MatMul(x, dq)"
    step = np.float32(0.02)
    run = lsuv(model(nodes, opset, w=normal(20, 12), s=step, z=np.uint8(120)), X, init=init)
    is_drawn(run)
    if init == "keep":
        factor = float(run.weight("s").item() / run.old("s").item())
        np.testing.assert_allclose(run.weight("w") / run.old("w"), factor, rtol=1e-6)
    else:
        assert run.weight("s") == pytest.approx(np.abs(run.weight("w")).max() / 120, rel=1e-5)


def test_quantisers_of_com_microsoft(lsuv: Lsuv) -> None:
    nodes = """q = com.microsoft.QuantizeLinear<axis=0>(w, s, z) dq = com.microsoft.DequantizeLinear<axis=0>(q, s, z)
        y = Gemm<transB=1>(x, dq)"""
    tensors = {"s": np.full(12, 0.02, np.float32), "z": np.arange(12).astype(np.uint16) + 30000}
    run = lsuv(model(nodes, 17, w=normal(12, 20), **tensors), X)
    is_drawn(run)
    np.testing.assert_allclose(run.weight("s"), np.abs(run.weight("w")).max(1) / run.old("z"), rtol=1e-5)


def test_integers_that_a_clip_narrows(lsuv: Lsuv) -> None:
    # What PyTorch writes for quant_min = -15, quant_max = 15.
    nodes = "q = QuantizeLinear(w, s, z) c = Clip(q, low, high) dq = DequantizeLinear(c, s, z) y = MatMul(x, dq)"
    tensors = {"s": np.float32(1), "z": np.int8(0), "low": np.int8(-15), "high": np.int8(15)}
    run = lsuv(model(nodes, w=normal(20, 12), **tensors), X)
    is_drawn(run)
    assert run.weight("s") == pytest.approx(np.abs(run.weight("w")).max() / 15, rel=1e-5)


def test_bounds_before_the_quantiser_follow_the_weight(lsuv: Lsuv) -> None:
    nodes = f"c = Clip(w, low, high) {ROUNDED.format(a='').replace('(w', '(c')} y = MatMul(x, dq)"
    tensors = {"s": np.float32(1), "z": np.int8(0), "low": np.float32(-0.01), "high": np.float32(0.01)}
    run = lsuv(model(nodes, w=normal(20, 12), **tensors), X)
    is_drawn(run)
    peak = np.abs(run.weight("w")).max()
    assert [run.weight("low"), run.weight("high")] == pytest.approx([-peak, peak], rel=1e-6)
    assert {c.tensor for c in run.result.changes} == {"w", "s", "low", "high"}


def test_integers_that_are_moved(lsuv: Lsuv) -> None:
    nodes = """q = QuantizeLinear<axis=0>(w, s, z) t = Transpose(q) dq = DequantizeLinear<axis=1>(t, s, z)
        y = MatMul(x, dq)"""
    tensors = {"s": np.full(12, 0.02, np.float32), "z": np.zeros(12, np.int8)}
    run = lsuv(model(nodes, w=normal(12, 20), **tensors), X)
    is_drawn(run)
    np.testing.assert_allclose(run.weight("s"), np.abs(run.weight("w")).max(1) / 127, rtol=1e-5)


def test_half_precision(lsuv: Lsuv) -> None:
    # A step for 16 bits would be no normal number of half precision.
    source = model(ROUNDED.format(a="") + " y = MatMul(x, dq)", x="float16[N,64]", w=normal(64, 48).astype(np.float16),
                   s=np.float16(1), z=np.int16(0))  # fmt: skip
    source.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    run = lsuv(source, {"x": normal(256, 64).astype(np.float16)})
    assert run.result.good
    assert run.moments("y")[0].var == pytest.approx(1, abs=0.01)
    assert orthonormality(blocks_of("MatMul", seen(run, "dq"))) < 5e-3


@pytest.mark.parametrize("copies", [False, True])
def test_one_rounded_weight_of_several_layers(lsuv: Lsuv, copies: bool) -> None:
    # A module called twice is written with one quantiser, or with one for each call that reads the same step.
    again = "p = QuantizeLinear(w, s, z) du = DequantizeLinear(p, s, z)" if copies else "du = Identity(dq)"
    nodes = f"{ROUNDED.format(a='')} {again} a = MatMul(x, dq) r = Relu(a) y = MatMul(r, du)"
    run = lsuv(model(nodes, w=normal(20, 20), s=np.float32(0.02), z=np.int8(0)), X)
    assert [row.status for row in run.result.layers] == ["ok", "shared"]
    assert run.moments("a")[0].var == pytest.approx(1, abs=0.005)
    assert run.weight("s") == pytest.approx(np.abs(run.weight("w")).max() / 127, rel=1e-5)


def test_one_weight_rounded_in_two_ways(lsuv: Lsuv) -> None:
    nodes = f"""{ROUNDED.format(a="")} p = QuantizeLinear<axis=0>(w, t, v) du = DequantizeLinear<axis=0>(p, t, v)
        a = MatMul(x, dq) y = MatMul(a, du)"""
    tensors = {"t": np.ones(20, np.float32), "v": np.full(20, 8, ml_dtypes.uint4)}
    run = lsuv(model(nodes, w=normal(20, 20), s=np.float32(0.02), z=np.int8(0), **tensors), X)
    assert [row.status for row in run.result.layers] == ["ok", "shared"]
    w = np.abs(run.weight("w"))
    assert run.weight("s") == pytest.approx(w.max() / 127, rel=1e-5)
    np.testing.assert_allclose(run.weight("t"), w.max(1) / 7, rtol=1e-5)


def test_a_step_that_is_computed_from_the_weight(lsuv: Lsuv) -> None:
    nodes = f"b = Abs(w) m = ReduceMax<keepdims=0>(b) s = Div(m, n) {ROUNDED.format(a='')} y = MatMul(x, dq)"
    run = lsuv(model(nodes, w=normal(20, 12), n=np.float32(127), z=np.int8(0)), X)
    is_drawn(run)
    assert run.changed == {"w"}


def test_a_step_that_is_computed_from_a_range(lsuv: Lsuv) -> None:
    # A learned clipping range: the step is alpha / 127.
    nodes = f"s = Div(alpha, n) {ROUNDED.format(a='<axis=1>')} y = MatMul(x, dq)"
    tensors = {"alpha": np.ones(12, np.float32), "n": np.float32(127), "z": np.zeros(12, np.int8)}
    run = lsuv(model(nodes, w=normal(20, 12), **tensors), X)
    is_drawn(run)
    np.testing.assert_allclose(run.weight("alpha"), np.abs(run.weight("w")).max(0), rtol=1e-5)
    assert {c.tensor: c.role for c in run.result.changes} == {"w": "weight", "alpha": "step"}


def test_statistics_and_centres_are_not_rounded(lsuv: Lsuv) -> None:
    nodes = f"""{ROUNDED.format(a="")} p = QuantizeLinear(b, t, z) k = DequantizeLinear(p, t, z) m = Gemm(x, dq, k)
        v2 = Clip(v, low, high) y = BatchNormalization(m, one, nil, mu, v2)"""
    tensors = {"s": np.float32(0.02), "t": np.float32(0.1), "z": np.int8(0), "low": np.float32(1e-3), "b": normal(12)}
    tensors |= {"high": np.float32(2), "one": np.ones(12), "nil": np.zeros(12), "mu": np.zeros(12), "v": np.ones(12)}
    tensors = {k: np.asarray(a, np.float32) if k in ("one", "nil", "mu", "v") else a for k, a in tensors.items()}
    run = lsuv(model(nodes, w=normal(20, 12), **tensors), X, center=True)
    assert [row.status for row in run.result.layers] == ["ok"]
    assert run.moments("m")[0].var == pytest.approx(1, abs=0.005)
    assert not run.weight("b").any()
    assert "v" not in run.changed
    assert run.result.kept_statistics


def test_a_masked_weight_is_rounded(lsuv: Lsuv) -> None:
    nodes = f"m = Mul(w, mask) {ROUNDED.format(a='').replace('(w', '(m')} y = MatMul(x, dq)"
    mask = (normal(20, 12) > 0).astype(np.float32)
    run = lsuv(model(nodes, w=normal(20, 12), mask=mask, s=np.float32(1), z=np.int8(0)), X)
    is_drawn(run)
    assert run.weight("s") == pytest.approx(np.abs(run.weight("w") * mask).max() / 127, rel=1e-5)
    assert (run.row("y").init, "'mask'" in run.row("y").note) == ("altered", True)


def test_a_normalised_weight_is_rounded(lsuv: Lsuv) -> None:
    nodes = f"""n = ReduceL2<keepdims=1>(v, one) d = Div(v, n) w = Mul(d, g) {ROUNDED.format(a="<axis=0>")}
        y = Gemm<transB=1>(x, dq)"""
    tensors = {"s": np.full(12, 0.1, np.float32), "z": np.zeros(12, np.int8), "one": np.array([1])}
    run = lsuv(model(nodes, v=normal(12, 20), g=normal(12, 1), **tensors), X)
    is_drawn(run)
    w = run.weight("g") * run.weight("v") / np.linalg.norm(run.weight("v"), axis=1, keepdims=True)
    np.testing.assert_allclose(run.weight("s"), np.abs(w).max(1) / 127, rtol=1e-5)
    assert orthonormality(blocks_of("Gemm", seen(run, "dq"), trans=True)) < 0.03


def test_a_rounded_bias_becomes_zero(lsuv: Lsuv) -> None:
    nodes = f"""{ROUNDED.format(a="")} p = QuantizeLinear(b, t, z) k = DequantizeLinear(p, t, z)
        y = Gemm(x, dq, k)"""
    tensors = {"s": np.float32(0.02), "t": np.float32(0.1), "z": np.int8(3)}
    run = lsuv(model(nodes, w=normal(20, 12), b=normal(12) + 2, **tensors), X)
    is_drawn(run)
    assert not run.weight("b").any()
    assert not run.value("k")[0].any()
    assert "t" not in run.changed


@pytest.mark.parametrize("batches", [1, 2])
def test_inner_graphs_functions_and_constants(lsuv: Lsuv, batches: int) -> None:
    text = """<ir_version: 10, opset_import: ["" : 21, "f" : 1]> g (float[N,8] x, bool c) => (float y) {
      s = Constant<value = float {0.02}>() z = Constant<value = int8 {0}>()
      a = If<
        then_branch = t () => (float[N,8] p) { q = QuantizeLinear(w, s, z) d = DequantizeLinear(q, s, z)
          p = MatMul(x, d) },
        else_branch = e () => (float[N,8] r) { q2 = QuantizeLinear(w, s, z) d2 = DequantizeLinear(q2, s, z)
          k = MatMul(x, d2) r = Relu(k) }>(c)
      h = Relu(a) y = f.Dense(h, u, o) }
      <domain: "f", opset_import: ["" : 21]> Dense (x, w, zero) => (y) {
        step = Constant<value = float[6] {1, 1, 1, 1, 1, 1}>()
        q = QuantizeLinear<axis = 0>(w, step, zero) d = DequantizeLinear<axis = 0>(q, step, zero)
        y = Gemm<transB = 1>(x, d) }"""
    source = parse(text, w=normal(8, 8), u=normal(6, 8), o=np.full(6, 100, np.uint8))
    given = [{"x": part, "c": np.array(True)} for part in np.split(normal(64, 8), batches)]
    run = lsuv(source, given)
    assert [row.status for row in run.result.layers] == ["ok", "shared", "ok"]
    assert [m.var for m in run.moments("a", "y")] == pytest.approx([1, 1], abs=0.005)
    assert run.weight("s") == pytest.approx(np.abs(run.weight("w")).max() / 127, rel=1e-5)
    step = onnx.numpy_helper.to_array(run.after.functions[0].node[0].attribute[0].t)
    np.testing.assert_allclose(step, np.abs(run.weight("u")).max(1) / 100, rtol=1e-5)


def test_parts_of_one_weight_that_are_rounded_each(lsuv: Lsuv) -> None:
    nodes = """a, b = Split<axis=1, num_outputs=2>(w) q = QuantizeLinear(a, s, z) d = DequantizeLinear(q, s, z)
        p = QuantizeLinear(b, t, z) e = DequantizeLinear(p, t, z) k = MatMul(x, d) l = MatMul(x, e) y = Add(k, l)"""
    tensors = {"s": np.float32(1), "t": np.float32(1), "z": np.int8(0)}
    run = lsuv(model(nodes, w=normal(20, 24), **tensors), X)
    assert [row.status for row in run.result.layers] == ["ok", "ok"]
    assert [m.var for m in run.moments("k", "l")] == pytest.approx([1, 1], abs=0.005)
    halves = np.split(run.weight("w"), 2, axis=1)
    for name, half in zip("st", halves, strict=True):
        assert run.weight(name) == pytest.approx(np.abs(half).max() / 127, rel=1e-5)


def test_a_rounded_weight_in_a_loop(lsuv: Lsuv) -> None:
    text = f"""<ir_version: 10, opset_import: ["" : 21]> g (float[N,8] x, int64 n, bool t) => (float y) {{
      y, ms = Loop<body = b (int64 i, bool c, float[N,8] h) => (bool co, float[N,8] ho, float[N,8] m) {{
        {ROUNDED.format(a="<axis=0>")} m = MatMul(h, dq) ho = Tanh(m) co = Identity(c) }}>(n, t, x)
      first = Gather(ms, zero) }}"""
    tensors = {"w": normal(8, 8), "s": np.ones(8, np.float32), "z": np.zeros(8, ml_dtypes.int4), "zero": np.array(0)}
    run = lsuv(parse(text, tensors), {"x": normal(64, 8), "n": np.array(3), "t": np.array(True)})
    assert [row.status for row in run.result.layers] == ["ok"]
    assert run.moments("first")[0].var == pytest.approx(1, abs=0.005)
    np.testing.assert_allclose(run.weight("s"), np.abs(run.weight("w")).max(1) / 7, rtol=1e-5)


LEFT = {
    "parts behind the quantiser": (
        "q = QuantizeLinear(v, s, z) d = DequantizeLinear(q, s, z) bad, o2 = Split<axis=1, num_outputs=2>(d) "
        "e = MatMul(x, o2)",
        "cannot follow two scales",
    ),
    "one step for two weights": (
        "q = QuantizeLinear(v, s, z) bad = DequantizeLinear(q, s, z) p = QuantizeLinear(u, s, z) "
        "d = DequantizeLinear(p, s, z) e = MatMul(x, d)",
        "cannot follow two scales",
    ),
    "steps that differ": ("q = QuantizeLinear(v, s, z) bad = DequantizeLinear(q, t, z)", "give the float model"),
    "zero points that differ": ("q = QuantizeLinear(v, s, z) bad = DequantizeLinear(q, s, o)", "give the float model"),
    "axes that differ": (
        "q = QuantizeLinear<axis=0>(v, c, z8) bad = DequantizeLinear<axis=1>(q, c, z8)",
        "give the float model",
    ),
    "no room for a sign": ("q = QuantizeLinear(v, s) bad = DequantizeLinear(q, s)", "no room for one of the signs"),
    "a step that the data have too": (
        "j = QuantizeLinear(x, s, z) k = DequantizeLinear(j, s, z) q = QuantizeLinear(v, s, z) "
        "bad = DequantizeLinear(q, s, z)",
        "cannot follow two scales",
    ),
}


@pytest.mark.parametrize("case", LEFT)
def test_left_alone(lsuv: Lsuv, case: str) -> None:
    nodes, detail = LEFT[case]
    tensors = {"s": np.float32(0.02), "t": np.float32(0.03), "z": np.int8(0), "o": np.int8(1)}
    tensors |= {"c": np.full(20, 0.1, np.float32), "z8": np.zeros(20, np.int8)}
    tensors |= {"v": normal(20, 20), "u": normal(20, 20), "w": normal(20, 20)}
    end = "a = MatMul(x, bad) f = Relu(a) y = MatMul(x, w)"
    run = lsuv(model(f"{nodes} {end}", **{k: v for k, v in tensors.items() if k != "u" or "(u" in nodes}), X)
    assert run.changed == {"w"}
    assert set(run.reasons().items()) <= {("a", "quantised"), ("e", "quantised")}
    assert {row.name for row in run.result.skipped} >= {"a"}
    assert all(detail in row.detail for row in run.result.skipped)


@pytest.mark.parametrize("kind", ["int4", "uint4", "float8_e4m3fn", "float8_e5m2"])
def test_stored_numbers_of_a_byte_and_less(lsuv: Lsuv, kind: str) -> None:
    # A large quantised weight is bound like any other, whatever is done with it.
    held = (normal(20, 600) * 2).astype(getattr(ml_dtypes, kind))
    source = model(
        "k = DequantizeLinear(v, s) a = MatMul(x, k) y = MatMul(a, w)", v=held, s=np.float32(0.1), w=normal(600, 8)
    )
    run = lsuv(source, [{"x": normal(64, 20)}, {"x": normal(64, 20, seed=1)}])
    is_drawn(run)
    for part, given in zip(run.value("a"), run.batches, strict=True):
        expected = given["x"].astype(np.float64) @ (held.astype(np.float64) * 0.1)
        np.testing.assert_allclose(part, expected, atol=1e-3)


def test_blocks_behind_a_transpose(lsuv: Lsuv) -> None:
    # ONNX Runtime's TransposeOptimizer moves the Transpose and leaves the steps as they are.
    nodes = """k = Transpose(w) q = QuantizeLinear<axis=0, block_size=3, output_dtype=5>(k, s)
        dq = DequantizeLinear<axis=0, block_size=3>(q, s) t = Transpose(dq) y = MatMul(x, t)"""
    run = lsuv(model(nodes, w=normal(20, 9), s=np.full((3, 20), 0.02, np.float32)), X)
    is_drawn(run)
