"""The calibration graph: one run of it gives what layer after layer would, for one batch and for several."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import oracle
import pytest
from conftest import Run
from onnx import ModelProto
from oracle import forward_moments, normal, parse

Lsuv = Callable[..., Run]
Array = np.ndarray
HEAD = '<ir_version: 10, opset_import: ["" : 17]>'


def old_tensors(seed: int = 5, dtype: Any = np.float32) -> dict[str, Array]:
    """Return the parameters of `residual` as training left them."""
    r = np.random.default_rng(seed)

    def of(*shape: int) -> Array:
        return r.standard_normal(shape).astype(dtype)

    norms = {}
    for i, c in (("1", 6), ("2", 6)):
        norms |= {f"s{i}": 1 + 0.1 * of(c), f"t{i}": 0.1 * of(c), f"m{i}": of(c), f"v{i}": abs(of(c)) + 0.5}
    return {
        "w1": of(6, 3, 3, 3),
        "b1": of(6),
        "w2": of(6, 2, 3, 3),
        "w3": of(6, 5, 2, 2),
        "b3": of(5),
        "w4": of(5, 7),
        "b4": of(7),
        **norms,
    }


def residual(name: str = "float", dtype: Any = np.float32) -> ModelProto:
    """Return conv, norm, grouped conv, residual add, norm, transposed conv, pooling, matmul: all kinds of layers."""
    return parse(
        f"""{HEAD} g ({name}[N,3,8,8] x) => ({name}[N,7] z) {{
        c1 = Conv<pads=[1,1,1,1]>(x, w1, b1)
        n1 = BatchNormalization(c1, s1, t1, m1, v1)
        r1 = Relu(n1)
        c2 = Conv<pads=[1,1,1,1],group=3>(r1, w2)
        a2 = Add(c2, r1)
        n2 = BatchNormalization<epsilon=0.001>(a2, s2, t2, m2, v2)
        h2 = Tanh(n2)
        c3 = ConvTranspose<strides=[2,2]>(h2, w3, b3)
        r3 = Relu(c3)
        p = GlobalAveragePool(r3)
        f = Flatten(p)
        k = MatMul(f, w4)
        z = Add(k, b4)
    }}""",
        {key: value.astype(dtype) for key, value in old_tensors().items()},
    )


LAYERS = ("c1", "c2", "c3", "z")


def check(run: Run, target: float = 1.0, tolerance: float = 0.005) -> None:
    """The float64 oracle finds the target variance at every layer, and the norms' statistics in the file."""
    found = forward_moments(run.after, run.batches, LAYERS)
    assert {n: m.var / target**2 for n, m in found.items()} == pytest.approx(dict.fromkeys(LAYERS, 1), abs=tolerance)
    assert [row.status for row in run.result.layers] == ["ok"] * len(LAYERS)
    assert run.changed == {"w1", "b1", "w2", "w3", "b3", "w4", "b4", "m1", "v1", "m2", "v2"}
    runs = [oracle.forward(run.after, batch) for batch in run.batches]
    for value, mean, var in (("c1", "m1", "v1"), ("a2", "m2", "v2")):
        channels = np.concatenate([np.moveaxis(one[value], 1, 0).reshape(6, -1) for one in runs], axis=1)
        loose = 1e-4 if tolerance < 0.01 else 2e-2
        np.testing.assert_allclose(run.weight(mean), channels.mean(1), rtol=loose, atol=loose * target)
        np.testing.assert_allclose(run.weight(var), channels.var(1), rtol=loose)


def test_one_batch(lsuv: Lsuv) -> None:
    check(lsuv(residual(), {"x": normal(24, 3, 8, 8)}))


def test_several_batches_of_different_sizes(lsuv: Lsuv) -> None:
    x = normal(29, 3, 8, 8) * np.linspace(0.2, 3, 29, dtype=np.float32).reshape(-1, 1, 1, 1)
    check(lsuv(residual(), [{"x": x[i : i + 8]} for i in range(0, 29, 8)]))


def test_half_precision(lsuv: Lsuv) -> None:
    check(lsuv(residual("float16", np.float16), {"x": normal(24, 3, 8, 8, dtype=np.float16)}), tolerance=0.02)


def scales(run: Run) -> list[float]:
    return [row.scale or 0.0 for row in run.result.layers]


def test_batches_pool_as_if_they_were_one(lsuv: Lsuv) -> None:
    x = normal(8, 3, 8, 8) + np.arange(8, dtype=np.float32).reshape(8, 1, 1, 1)
    one = lsuv(residual(), {"x": x})
    many = lsuv(residual(), [{"x": x[i : i + 1]} for i in range(8)])
    uneven = lsuv(residual(), [{"x": x[:3]}, {"x": x[3:6]}, {"x": x[6:]}])
    assert min(scales(one)) > 0
    assert scales(many) == pytest.approx(scales(one), rel=1e-4)
    assert scales(uneven) == pytest.approx(scales(one), rel=1e-4)
    for name in ("m1", "v1", "m2", "v2", "w4"):
        np.testing.assert_allclose(many.weight(name), one.weight(name), rtol=1e-3, atol=1e-5)
    check(many)


@pytest.mark.parametrize("mean", [30.0, 1000.0])
def test_data_far_from_zero(lsuv: Lsuv, mean: float) -> None:
    text = f"{HEAD} g (float[N,16,12,12] x) => (float y) {{ y = Conv(x, w) }}"
    model = parse(text, w=np.ones((6, 16, 3, 3), np.float32))
    run = lsuv(model, {"x": normal(16, 16, 12, 12) + np.float32(mean)})
    found = forward_moments(run.after, run.batches, ["y"])["y"]
    assert found.var == pytest.approx(1, abs=0.005)
    (row,) = run.result.layers
    assert row.status == "ok"
    assert row.mean == pytest.approx(found.mean, rel=1e-4)
    assert row.std == pytest.approx(np.sqrt(found.var), rel=2e-3)


@pytest.mark.parametrize("mean", [30.0, 1000.0])
def test_norm_of_data_far_from_zero(lsuv: Lsuv, mean: float) -> None:
    text = f"""{HEAD} g (float[N,4,20,20] x) => (float y) {{ n = BatchNormalization(x, s, t, m, v) y = Conv(n, w) }}"""
    ones, zeros = np.ones(4, np.float32), np.zeros(4, np.float32)
    model = parse(text, w=np.ones((6, 4, 3, 3), np.float32), s=ones, t=zeros, m=zeros, v=ones)
    x = normal(16, 4, 20, 20) * np.array([1, 2, 3, 4], np.float32).reshape(1, 4, 1, 1) + np.float32(mean)
    run = lsuv(model, {"x": x}, recalibrate=True)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(run.weight("m"), wide.mean((0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(run.weight("v"), wide.var((0, 2, 3)), rtol=2e-3)
    assert run.moments("y")[0].var == pytest.approx(1, abs=0.005)


@pytest.mark.parametrize("shape", [(64,), (1, 64), (3, 5, 7), (2, 3, 5, 7), (64, 4), (1, 4099), (33, 4097)])
def test_every_shape_of_output_is_measured(lsuv: Lsuv, shape: tuple[int, ...]) -> None:
    dims = ",".join(map(str, shape))
    wide = len(shape) == 1
    text = f"{HEAD} g (float[{dims}] x) => (float y) {{ y = MatMul(x, w) }}"
    w = np.ones((shape[-1],) if wide else (shape[-1], 5), np.float32)
    if wide:
        # One number only: no variance, and said so.
        run = lsuv(parse(text, w=w), {"x": normal(*shape)})
        assert run.result.layers[0].status == "degenerate"
        return
    run = lsuv(parse(text, w=w), {"x": 3 * normal(*shape) + 1})
    assert forward_moments(run.after, run.batches, ["y"])["y"].var == pytest.approx(1, abs=0.005)
    assert run.result.good


def test_large_output(lsuv: Lsuv) -> None:
    # One float32 sum over so many values would be off by more than the tolerance.
    text = f"{HEAD} g (float[N,1,512,512] x) => (float y) {{ y = Conv(x, w) }}"
    run = lsuv(parse(text, w=np.ones((8, 1, 1, 1), np.float32)), {"x": normal(4, 1, 512, 512) + 30})
    assert run.moments("y")[0].var == pytest.approx(1, abs=0.002)
    assert run.result.layers[0].std == pytest.approx(1, abs=1e-3)


def test_shared_running_statistics_stay(lsuv: Lsuv) -> None:
    text = f"""{HEAD} g (float[N,4] x) => (float y) {{
      h = MatMul(x, w) n = BatchNormalization(h, s, s, m, v) o = Mul(n, m) y = MatMul(o, u) }}"""
    ones, eye = np.ones(4, np.float32), np.eye(4, dtype=np.float32)
    # Of equal numbers an exporter would have merged two tensors, which are parted; these are one.
    model = parse(text, w=eye, u=eye, s=ones, m=np.arange(1, 5, dtype=np.float32) / 4, v=ones * 2)
    run = lsuv(model, {"x": normal(64, 4)})
    assert run.changed == {"w", "u"}
    assert [(row.name, row.reason) for row in run.result.kept_statistics] == [("n", "tied")]
    assert [m.var for m in run.moments("h", "y")] == pytest.approx([1, 1], abs=0.005)


def test_merged_mean_and_variance_stay(lsuv: Lsuv) -> None:
    text = f"""{HEAD} g (float[N,4] x) => (float y) {{
      n = BatchNormalization(x, s, s, s, s) y = MatMul(n, w) }}"""
    run = lsuv(parse(text, w=np.eye(4, dtype=np.float32), s=np.ones(4, np.float32)), {"x": normal(64, 4)})
    assert run.changed == {"w"}
    assert len(run.result.kept_statistics) == 1
    assert run.moments("y")[0].var == pytest.approx(1, abs=0.005)


def test_constant_channel_gets_a_positive_variance(lsuv: Lsuv) -> None:
    text = f"""{HEAD} g (float[N,2] x) => (float y) {{ n = BatchNormalization(x, s, t, m, v) y = MatMul(n, w) }}"""
    ones, zeros = np.ones(2, np.float32), np.zeros(2, np.float32)
    x = normal(64, 2)
    x[:, 1] = 0.1
    run = lsuv(
        parse(text, w=np.eye(2, dtype=np.float32), s=ones, t=zeros, m=ones * 3, v=ones * 3), {"x": x}, recalibrate=True
    )
    assert run.weight("v")[1] > 0
    assert run.weight("m")[1] == pytest.approx(0.1)
    assert run.moments("y")[0].var == pytest.approx(1, abs=0.005)


def conv_norm_gemm(opset: int, ir: int) -> ModelProto:
    """Return the same small net at any opset."""
    shaped = "f = Flatten(p)"
    spatial = "<spatial=1>" if opset < 9 else ""
    r = np.random.default_rng(0)
    listed = ", float[6,3,3,3] w, float[6] b, float[6] s, float[6] t, float[6] m, float[6] v, float[6,5] u, float[5] c"
    text = f"""<ir_version: {ir}, opset_import: ["" : {opset}]>
    g (float[N,3,8,8] x{listed if ir < 4 else ""}) => (float y) {{
      h = Conv<kernel_shape=[3,3],pads=[1,1,1,1]>(x, w, b) n = BatchNormalization{spatial}(h, s, t, m, v) r = Relu(n)
      p = GlobalAveragePool(r) {shaped} y = Gemm(f, u, c) }}"""
    shapes = {"w": (6, 3, 3, 3), "b": (6,), "s": (6,), "t": (6,), "m": (6,), "v": (6,), "u": (6, 5), "c": (5,)}
    return parse(text, {name: abs(r.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()})


def check_small(run: Run) -> None:
    found = forward_moments(run.after, run.batches, ["h", "y"])
    assert [m.var for m in found.values()] == pytest.approx([1, 1], abs=0.005)
    assert [row.status for row in run.result.layers] == ["ok", "ok"]
    h = [oracle.forward(run.after, batch)["h"] for batch in run.batches]
    np.testing.assert_allclose(run.weight("m"), np.concatenate(h).mean((0, 2, 3)), atol=1e-4)
    np.testing.assert_allclose(run.weight("v"), np.concatenate(h).var((0, 2, 3)), rtol=1e-4)
    assert run.changed == {"w", "b", "m", "v", "u", "c"}


@pytest.mark.parametrize("batches", [1, 3])
@pytest.mark.parametrize("opset", [7, 8, 9, 10, 11, 12, 13, 14, 15, 17, 18, 19, 21, 23, 24])
def test_opsets(lsuv: Lsuv, opset: int, batches: int) -> None:
    x = normal(24, 3, 8, 8)
    run = lsuv(conv_norm_gemm(opset, 8 if opset < 19 else 11), [{"x": part} for part in np.split(x, batches)])
    assert run.after.opset_import[0].version == opset
    check_small(run)


@pytest.mark.parametrize("ir", range(3, 15))
def test_ir_versions(lsuv: Lsuv, ir: int) -> None:
    run = lsuv(conv_norm_gemm(9, ir), {"x": normal(24, 3, 8, 8)})
    assert run.after.ir_version == ir
    check_small(run)


@pytest.mark.parametrize("opset", [7, 8, 9, 13])
def test_kept_terms_at_old_opsets(lsuv: Lsuv, opset: int) -> None:
    x = normal(48, 3, 8, 8)
    for batches in (1, 3):
        given = [{"x": part} for part in np.split(x, batches)]
        model = conv_norm_gemm(opset, 8)
        for name in ("b", "c"):
            (tensor,) = (t for t in model.graph.initializer if t.name == name)
            tensor.CopyFrom(oracle.numpy_helper.from_array(oracle.tensor_of(model, name) / 4, name))
        run = lsuv(model, given, keep_bias=True)
        assert run.changed == {"w", "m", "v", "u"}
        found = forward_moments(run.after, run.batches, ["h", "y"])
        assert [m.var for m in found.values()] == pytest.approx([1, 1], abs=0.005)


@pytest.mark.parametrize("batches", [1, 4])
def test_control_flow_over_batches(lsuv: Lsuv, batches: int) -> None:
    text = f"""{HEAD} g (float[N,8] x, bool c) => (float z) <int64 n = {{3}}, bool t = {{1}}> {{
      h = MatMul(x, w0)
      a = If<
        then_branch = q () => (float[N,8] p) {{ p1 = MatMul(h, w1) p2 = Relu(p1) p = MatMul(p2, w2) }},
        else_branch = e () => (float[N,8] q) {{ q = Identity(h) }}>(c)
      y = Loop<body = b (int64 i, bool g, float[N,8] s) => (bool d, float[N,8] r) {{
        d = Identity(g) l1 = MatMul(s, w3) l2 = Tanh(l1) l3 = MatMul(l2, w4) r = Add(l3, h) }}>(n, t, a)
      z = MatMul(y, w5) }}"""
    model = parse(text, {f"w{i}": normal(8, 8, seed=i) for i in range(6)})
    x = normal(32, 8) * np.linspace(0.5, 2, 32, dtype=np.float32)[:, None]
    given = [{"x": part, "c": np.array(True)} for part in np.split(x, batches)]
    run = lsuv(model, given)
    assert [row.status for row in run.result.layers] == ["ok"] * 6
    found = run.moments("h", "p1", "p", "l1", "l3", "z")
    assert [m.var for m in found] == pytest.approx([1] * 6, abs=0.005)


def test_branches_taken_by_some_batches(lsuv: Lsuv) -> None:
    text = f"""{HEAD} g (float[N,8] x, bool c) => (float z) {{
      a = If<
        then_branch = q () => (float[N,8] p) {{ p = MatMul(x, w1) }},
        else_branch = e () => (float[N,8] q) {{ q = MatMul(x, w2) }}>(c)
      z = MatMul(a, w3) }}"""
    model = parse(text, {f"w{i}": normal(8, 8, seed=i) for i in (1, 2, 3)})
    given: list[Mapping[str, Array]] = [
        {"x": (1 + i) * normal(16, 8, seed=i), "c": np.array(i % 2 == 0)} for i in range(4)
    ]
    run = lsuv(model, given)
    assert [row.status for row in run.result.layers] == ["ok"] * 3
    # `a` is p in some batches and q in others.
    even = oracle.measure(run.path, given[::2], ["a"])["a"]
    odd = oracle.measure(run.path, given[1::2], ["a"])["a"]
    assert [even.var, odd.var, run.moments("z")[0].var] == pytest.approx([1, 1, 1], abs=0.005)


def test_nothing_of_the_model_that_follows_the_last_layer_is_needed(lsuv: Lsuv) -> None:
    # A sequence output, as classifiers have, and an operator that would fail.
    text = f"""{HEAD} g (float[N,8] x) => (seq(float[N,8]) s, float b) {{
      y = MatMul(x, w) s = SequenceConstruct(y) b = Reshape(y, bad) }}"""
    model = parse(text, w=normal(8, 8), bad=np.array([7, 11, 13]))
    run = lsuv(model, {"x": normal(16, 8)})
    assert run.result.good


def test_norms_inside_scopes(lsuv: Lsuv) -> None:
    text = f"""{HEAD} g (float[N,8] x, bool c) => (float z) <int64 n = {{2}}, bool t = {{1}}> {{
      a = If<
        then_branch = q () => (float[N,8] p) {{ h = MatMul(x, w1) p = BatchNormalization(h, s, o, m1, v1) }},
        else_branch = e () => (float[N,8] q) {{ q = Identity(x) }}>(c)
      y = Loop<body = b (int64 i, bool g, float[N,8] r) => (bool d, float[N,8] k) {{
        d = Identity(g) j = MatMul(r, w2) f = BatchNormalization(j, s, o, m2, v2) k = Tanh(f) }}>(n, t, a)
      z = MatMul(y, w3) }}"""
    norms = {name: np.full(8, value, np.float32) for name, value in zip("so", (2, 1), strict=True)}
    norms |= {name: np.full(8, 3, np.float32) for name in ("m1", "v1", "m2", "v2")}
    model = parse(text, {f"w{i}": normal(8, 8, seed=i) for i in (1, 2, 3)} | norms)
    x = normal(36, 8) * np.linspace(0.5, 2, 36, dtype=np.float32)[:, None]
    for batches in (1, 3):
        run = lsuv(model, [{"x": part, "c": np.array(True)} for part in np.split(x, batches)])
        assert [row.status for row in run.result.layers] == ["ok"] * 3
        assert run.changed == {"w1", "w2", "w3", "m1", "v1", "m2", "v2"}
        h, j = np.concatenate(run.value("h")).reshape(-1, 8), np.concatenate(run.value("j")).reshape(-1, 8)
        for value, mean, var in ((h, "m1", "v1"), (j, "m2", "v2")):
            np.testing.assert_allclose(run.weight(mean), value.mean(0), atol=1e-4)
            np.testing.assert_allclose(run.weight(var), value.var(0), rtol=1e-3)
        assert [m.var for m in run.moments("h", "j", "z")] == pytest.approx([1] * 3, abs=0.005)


@pytest.mark.parametrize("origin", ["Constant", "ConstantOfShape"])
def test_statistics_and_biases_made_by_nodes(lsuv: Lsuv, origin: str) -> None:
    if origin == "Constant":
        made = " ".join(f"{n} = Constant<value = float[2] {{3,4}}>()" for n in ("m", "v", "b"))
    else:
        made = " ".join(f"{n} = ConstantOfShape<value = float[1] {{3}}>(two)" for n in ("m", "v", "b"))
    text = f"""{HEAD} g (float[N,3,5] x) => (float z) <int64[1] two = {{2}}> {{
      {made} h = Conv(x, w, b) z = BatchNormalization(h, s, s, m, v) }}"""
    run = lsuv(parse(text, w=normal(2, 3, 2), s=np.ones(2, np.float32)), {"x": normal(32, 3, 5)})
    assert run.changed == {"w", "b", "m", "v"}
    assert not run.weight("b").any()
    h = oracle.forward(run.after, run.batches[0])["h"]
    assert h.var() == pytest.approx(1, abs=0.005)
    np.testing.assert_allclose(run.weight("m"), h.mean((0, 2)), atol=1e-4)
    np.testing.assert_allclose(run.weight("v"), h.var((0, 2)), rtol=1e-3)


def test_first_use_differs_between_batches(lsuv: Lsuv) -> None:
    text = f"""{HEAD} g (float[N,8] x, bool c) => (float z) {{
      a = If<
        then_branch = q () => (float[N,8] p) {{ p = MatMul(x, w) }},
        else_branch = e () => (float[N,8] q) {{ q = Identity(x) }}>(c)
      z = MatMul(a, w) }}"""
    given = [{"x": (1 + i) * normal(16, 8, seed=i), "c": np.array(i == 1)} for i in range(3)]
    run = lsuv(parse(text, w=normal(8, 8)), given)
    # Either the branch decides wherever a batch takes it, or each batch's own first use; what is measured afterwards
    # must be what was scaled.
    branch = oracle.measure(run.path, given[1:2], ["p"])["p"]
    parts = [run.value("z")[0], oracle.values(run.path, given[1:2], ["a"])["a"][0], run.value("z")[2]]
    assert min(abs(m.var - 1) for m in (branch, oracle.pooled(parts))) < 0.005
    assert run.result.layers[0].std == pytest.approx(1, abs=0.0025)
    assert run.result.good


def test_loop_of_no_steps_in_some_batches(lsuv: Lsuv) -> None:
    text = f"""{HEAD} g (float[N,8] x, int64 n) => (float z) <bool t = {{1}}> {{
      y = Loop<body = b (int64 i, bool g, float[N,8] s) => (bool d, float[N,8] r) {{
        d = Identity(g) m = MatMul(s, w) r = Tanh(m) }}>(n, t, x)
      z = MatMul(y, u) }}"""
    given = [{"x": (1 + i) * normal(16, 8, seed=i), "n": np.array(i % 3)} for i in range(5)]
    run = lsuv(parse(text, w=normal(8, 8), u=normal(8, 8)), given)
    assert [row.status for row in run.result.layers] == ["ok", "ok"]
    reached = [batch for batch in given if batch["n"] > 0]
    assert oracle.measure(run.path, reached, ["m"])["m"].var == pytest.approx(1, abs=0.005)
    assert run.moments("z")[0].var == pytest.approx(1, abs=0.005)


@pytest.mark.parametrize("batches", [1, 3])
@pytest.mark.parametrize("target", [1.0, 0.5])
def test_kept_bias_inside_a_loop(lsuv: Lsuv, batches: int, target: float) -> None:
    text = f"""{HEAD} g (float[N,8] x) => (float z) <int64 n = {{2}}, bool t = {{1}}> {{
      z = Loop<body = b (int64 i, bool g, float[N,8] s) => (bool d, float[N,8] r) {{
        d = Identity(g) m = Gemm(s, w, c) r = Tanh(m) }}>(n, t, x) }}"""
    model = parse(text, w=normal(8, 8), c=0.2 * normal(8))
    run = lsuv(model, [{"x": x} for x in np.split(normal(36, 8), batches)], keep_bias=True, target_std=target)
    assert run.changed == {"w"}
    assert run.result.layers[0].status == "ok"
    assert run.moments("m")[0].var / target**2 == pytest.approx(1, abs=0.005)


def test_loop_inside_a_branch(lsuv: Lsuv) -> None:
    text = f"""{HEAD} g (float[N,8] x, bool c) => (float z) <int64 n = {{2}}, bool t = {{1}}> {{
      a = If<
        then_branch = q () => (float[N,8] p) {{
          p = Loop<body = b (int64 i, bool g, float[N,8] s) => (bool d, float[N,8] r) {{
            d = Identity(g) r = MatMul(s, w) }}>(n, t, x) }},
        else_branch = e () => (float[N,8] q) {{ q = Identity(x) }}>(c)
      z = MatMul(a, u) }}"""
    model = parse(text, w=normal(8, 8), u=normal(8, 8))
    for batches in (1, 3):
        given = [{"x": x, "c": np.array(True)} for x in np.split(5 * normal(36, 8), batches)]
        run = lsuv(model, given)
        assert [row.status for row in run.result.layers] == ["ok", "ok"]
        first = np.concatenate([batch["x"] for batch in given]).astype(np.float64) @ run.weight("w")
        assert first.var() == pytest.approx(1, abs=0.005)
        assert run.moments("z")[0].var == pytest.approx(1, abs=0.005)
