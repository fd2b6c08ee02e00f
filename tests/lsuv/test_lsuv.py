"""The procedure as a whole: targets, kept biases, seeds, threads, degenerate layers, chance, odd models."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import oracle
import pytest
from conftest import Run
from onnx import ModelProto
from oracle import blocks_of, forward_moments, normal, orthonormality, parse

import onnx_lsuv
from onnx_lsuv import DataError, UsageError
from onnx_lsuv.lsuv import applying

Lsuv = Callable[..., Run]
HEAD = '<ir_version: 10, opset_import: ["" : 17]>'


def mlp(width: int = 16, depth: int = 3, bias: float = 0.0) -> ModelProto:
    """Return layers y1, y2, ... of weights w1, w2, ... and biases b1, b2, ..., ReLUs between them."""
    nodes, tensors, last = [], {}, "x"
    for i in range(1, depth + 1):
        nodes.append(f"y{i} = Gemm({last}, w{i}, b{i}) r{i} = Relu(y{i})")
        tensors |= {f"w{i}": normal(width, width, seed=i), f"b{i}": bias * normal(width, seed=i)}
        last = f"r{i}"
    return parse(f"{HEAD} g (float[N,{width}] x) => (float {last}) {{ {' '.join(nodes)} }}", tensors)


YS = ["y1", "y2", "y3"]


@pytest.mark.parametrize(("allowed", "kept"), [(7, 4), (6, 3), (4, 1), (3, 0), (1, 0)])
def test_of_the_memory_allowed_goes_what_drawing_takes(tmp_path: Path, allowed: int, kept: int) -> None:
    """Drawing a weight, its cast and the next draw take as much as three of them."""

    def is_mapped(array: Any) -> bool:
        return array is not None and (isinstance(array, np.memmap) or is_mapped(getattr(array, "base", None)))

    model, batch = onnx_lsuv.from_proto(mlp(64, 4)), {"x": normal(8, 64)}
    found = onnx_lsuv.initialize(model, batch, memory=allowed * 64 * 64 * 4, scratch=tmp_path)
    arrays = [array for array in found.model.values.values() if array.ndim == 2]
    assert len(arrays) == 4
    assert sum(not is_mapped(array) for array in arrays) == kept


@pytest.mark.parametrize("target", [0.1, 1.0, 2.5])
def test_target(lsuv: Lsuv, target: float) -> None:
    run = lsuv(mlp(), {"x": normal(64, 16)}, target_std=target)
    found = forward_moments(run.after, run.batches, YS)
    assert [m.var / target**2 for m in found.values()] == pytest.approx([1] * 3, abs=0.005)
    assert [row.status for row in run.result.layers] == ["ok"] * 3
    assert {row.target for row in run.result.layers} == {target}
    assert run.result.good


def test_measure_in_memory_is_of_the_new_values() -> None:
    batch = {"x": normal(64, 16)}
    result = onnx_lsuv.initialize(onnx_lsuv.from_proto(mlp()), [batch])
    found = onnx_lsuv.measure(result.model, [batch], like=result)
    assert [row.std for row in found.layers] == pytest.approx([1] * 3, abs=0.0025)
    assert found.good


def test_measure_agrees_with_the_oracle_on_untouched_weights() -> None:
    batches = [{"x": normal(n, 16, seed=n)} for n in (20, 20, 3)]
    model = mlp(bias=0.5)
    result = onnx_lsuv.measure(onnx_lsuv.from_proto(model), batches)
    found = forward_moments(model, batches, YS)
    assert [row.std for row in result.layers] == pytest.approx([math.sqrt(m.var) for m in found.values()], rel=1e-5)
    assert [row.mean for row in result.layers] == pytest.approx([m.mean for m in found.values()], rel=1e-3, abs=1e-5)
    assert [row.status for row in result.layers] == ["off"] * 3
    assert not result.good
    assert result.changes == ()


def test_keep_only_rescales(lsuv: Lsuv) -> None:
    run = lsuv(mlp(), {"x": normal(64, 16)}, init="keep")
    for i, row in enumerate(run.result.layers, 1):
        assert row.init == "keep"
        assert row.scale is not None
        np.testing.assert_allclose(run.weight(f"w{i}"), run.old(f"w{i}") * row.scale, rtol=1e-5)
    found = forward_moments(run.after, run.batches, YS)
    assert [m.var for m in found.values()] == pytest.approx([1] * 3, abs=0.005)


def test_delta_puts_the_matrix_at_the_centre(lsuv: Lsuv) -> None:
    text = f"{HEAD} g (float[N,4,8,8] x) => (float z) {{ y = Conv<pads=[1,1,1,1]>(x, w) z = Conv(y, u) }}"
    run = lsuv(parse(text, w=normal(6, 4, 3, 3), u=normal(2, 6, 3, 3)), {"x": normal(16, 4, 8, 8)}, init="delta")
    w = run.weight("w")
    assert orthonormality(w[None, :, :, 1, 1]) < 1e-3
    w[:, :, 1, 1] = 0
    assert not w.any()
    # Where the channels shrink a delta cannot keep all that comes in; that layer is drawn as usual.
    assert [row.init for row in run.result.layers] == ["delta", "orthonormal"]
    assert orthonormality(blocks_of("Conv", run.weight("u"))) < 1e-3
    assert [m.var for m in run.moments("y", "z")] == pytest.approx([1, 1], abs=0.005)


# --------------------------------------------------------------------------------------------------------- kept biases


@pytest.mark.parametrize("batches", [1, 4])
def test_keep_bias_by_the_closed_form(lsuv: Lsuv, batches: int) -> None:
    given = [{"x": part + 0.5} for part in np.split(normal(64, 16), batches)]
    run = lsuv(mlp(bias=0.5), given, keep_bias=True)
    assert run.changed == {"w1", "w2", "w3"}
    found = forward_moments(run.after, given, YS)
    assert [m.var for m in found.values()] == pytest.approx([1] * 3, abs=0.005)
    assert [row.status for row in run.result.layers] == ["ok"] * 3
    # And the scale is the root of the quadratic in the drawn weight's own moments.
    z = given[0]["x"].astype(np.float64) @ (run.weight("w1") / run.result.layers[0].scale)
    if batches == 1:
        b = np.broadcast_to(run.weight("b1"), z.shape)
        cov = float(((z - z.mean()) * (b - b.mean())).mean())
        expected = (-cov + math.sqrt(cov**2 + z.var() * (1 - b.var()))) / z.var()
        assert run.result.layers[0].scale == pytest.approx(expected, rel=1e-3)


def test_keep_bias_that_alone_is_too_much(lsuv: Lsuv) -> None:
    run = lsuv(mlp(depth=2, bias=3.0), {"x": normal(64, 16)}, keep_bias=True)
    assert [row.status for row in run.result.layers] == ["degenerate", "degenerate"]
    assert re.search(r"std of \d", run.result.layers[0].note)
    assert not run.result.good
    for name in ("w1", "w2"):
        assert np.isfinite(run.weight(name)).all()
        assert orthonormality(blocks_of("Gemm", run.weight(name))) < 1e-3


def test_keep_bias_in_a_following_add(lsuv: Lsuv) -> None:
    text = f"{HEAD} g (float[N,4,6] x) => (float y) {{ m = MatMul(x, w) y = Add(b, m) }}"
    run = lsuv(parse(text, w=normal(6, 5), b=0.4 * normal(5)), {"x": normal(16, 4, 6)}, keep_bias=True)
    assert run.changed == {"w"}
    assert run.moments("y")[0].var == pytest.approx(1, abs=0.005)
    assert run.result.layers[0].std == pytest.approx(1, abs=0.0025)


# ------------------------------------------------------------------------------------------------------ seeds, threads


def test_seed(lsuv: Lsuv) -> None:
    batch = {"x": normal(64, 16)}
    one, same, other = (lsuv(mlp(), batch, seed=s) for s in (1, 1, 2))
    assert one.path.read_bytes() == same.path.read_bytes()
    assert np.abs(one.weight("w1") - other.weight("w1")).max() > 0.1
    # Layers of one shape are drawn apart.
    assert np.abs(one.weight("w1") - one.weight("w2")).max() > 0.1


def direction(w: np.ndarray) -> np.ndarray:
    return w / np.linalg.norm(w)


def test_excluding_a_layer_leaves_the_other_draws(lsuv: Lsuv) -> None:
    batch = {"x": normal(64, 16)}
    full, part = lsuv(mlp(), batch), lsuv(mlp(), batch, exclude=["w2"])
    assert part.changed == full.changed - {"w2", "b2"}
    for name in ("w1", "w3"):
        np.testing.assert_allclose(direction(part.weight(name)), direction(full.weight(name)), rtol=1e-4, atol=1e-7)
    assert [m.var for m in part.moments("y1", "y3")] == pytest.approx([1, 1], abs=0.005)
    np.testing.assert_array_equal(part.weight("w2"), part.old("w2"))


@pytest.mark.parametrize("seed", range(5))
def test_threads_do_not_change_a_byte(lsuv: Lsuv, seed: int) -> None:
    text = f"""{HEAD} g (float[N,8,20,20] x) => (float z) {{
      c = Conv(x, w) n = BatchNormalization(c, s, t, m, v) r = Relu(n) f = Flatten(r)
      y = Gemm(f, u) z = MatMul(y, q) }}"""
    ones = np.ones(64, np.float32)
    model = parse(
        text, w=normal(64, 8, 5, 5), u=normal(64 * 16 * 16, 96), q=normal(96, 700), s=ones, t=ones, m=ones, v=ones
    )
    batch = {"x": normal(16, 8, 20, 20)}
    one, two = (lsuv(model, batch, threads=n, seed=seed) for n in (1, 2))
    assert [row.scale for row in one.result.layers] == pytest.approx([row.scale for row in two.result.layers], rel=1e-5)
    assert one.path.read_bytes() == two.path.read_bytes()


# ---------------------------------------------------------------------------------------------------------- degenerate


def finite_and_orthonormal(run: Run, *names: str) -> None:
    for name in names:
        assert np.isfinite(run.weight(name)).all()
        assert orthonormality(blocks_of("Gemm", run.weight(name))) < 1e-3


def test_zero_batch(lsuv: Lsuv) -> None:
    run = lsuv(mlp(), {"x": np.zeros((8, 16), np.float32)})
    assert [row.status for row in run.result.layers] == ["degenerate"] * 3
    assert all(row.note for row in run.result.layers)
    assert not run.result.good
    finite_and_orthonormal(run, "w1", "w2", "w3")


def test_constant_batch_is_not_scaled_by_rounding_noise(lsuv: Lsuv) -> None:
    # A single output of a constant input has no variance but what float32 makes of it.
    model = parse(f"{HEAD} g (float[N,16] x) => (float y) {{ y = MatMul(x, w) }}", w=normal(16, 1))
    run = lsuv(model, {"x": np.full((64, 16), 1.7, np.float32)})
    assert run.result.layers[0].status == "degenerate"
    assert np.linalg.norm(run.weight("w")) == pytest.approx(1, rel=1e-4)


def test_dead_layer_does_not_spoil_those_after_it(lsuv: Lsuv) -> None:
    text = f"""{HEAD} g (float[N,16] x) => (float y) {{
      a = MatMul(x, w1) n = Abs(a) d = Neg(n) r = Relu(d) b = MatMul(r, w2) s = Add(b, x) y = MatMul(s, w3) }}"""
    run = lsuv(parse(text, {f"w{i}": normal(16, 16, seed=i) for i in (1, 2, 3)}), {"x": normal(64, 16)})
    assert [row.status for row in run.result.layers] == ["ok", "degenerate", "ok"]
    assert [m.var for m in run.moments("a", "y")] == pytest.approx([1, 1], abs=0.005)
    finite_and_orthonormal(run, "w1", "w2", "w3")
    assert not run.result.good


def test_no_infinity_is_written(lsuv: Lsuv) -> None:
    text = f"{HEAD} g (float[N,16] x) => (float y) {{ a = MatMul(x, w1) b = Div(a, z) y = MatMul(b, w2) }}"
    model = parse(text, w1=normal(16, 16), w2=normal(16, 16), z=np.zeros(1, np.float32))
    with np.errstate(all="ignore"):
        run = lsuv(model, {"x": normal(64, 16)})
    assert [row.status for row in run.result.layers] == ["ok", "degenerate"]
    assert "finite" in run.result.layers[1].note
    finite_and_orthonormal(run, "w1", "w2")


@pytest.mark.cpu  # which computes it in float32: on CUDA it overflows, and is named
def test_values_near_the_limit_of_half_precision(lsuv: Lsuv) -> None:
    text = f"{HEAD} g (float16[N,16] x) => (float16 y) {{ y = MatMul(x, w) }}"
    model = parse(text, w=normal(16, 16, dtype=np.float16))
    x = np.clip(normal(64, 16) * 20000, -65000, 65000).astype(np.float16)
    run = lsuv(model, {"x": x})
    assert run.result.good
    # The weight is subnormal in places, so its rounding counts.
    assert run.moments("y")[0].var == pytest.approx(1, abs=0.02)


def test_one_sample_with_one_output(lsuv: Lsuv) -> None:
    text = f"{HEAD} g (float[N,16] x) => (float y) {{ a = MatMul(x, w1) y = MatMul(a, w2) }}"
    model = parse(text, w1=normal(16, 16), w2=normal(16, 1))
    run = lsuv(model, {"x": normal(1, 16)})
    assert [row.status for row in run.result.layers] == ["ok", "degenerate"]
    assert "single value" in run.result.layers[1].note
    assert "more than one sample" in run.result.layers[1].note
    many = lsuv(model, [{"x": normal(1, 16, seed=i)} for i in range(8)])
    assert many.result.good
    assert [m.var for m in many.moments("a", "y")] == pytest.approx([1, 1], abs=0.005)


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_data_of_any_size(lsuv: Lsuv, scale: float) -> None:
    run = lsuv(mlp(), {"x": normal(64, 16) * np.float32(scale)})
    assert [m.var for m in forward_moments(run.after, run.batches, YS).values()] == pytest.approx([1] * 3, abs=0.005)
    assert run.result.good


# ---------------------------------------------------------------------------------------------------- several targets


def test_target_by_pattern(lsuv: Lsuv) -> None:
    run = lsuv(mlp(), {"x": normal(64, 16)}, target_std=0.5, target={"y*": 2.0, "w3": 0.1})
    found = forward_moments(run.after, run.batches, YS)
    wanted = [2.0, 2.0, 0.1]
    assert [math.sqrt(m.var) for m in found.values()] == pytest.approx(wanted, rel=0.0025)
    assert [row.target for row in run.result.layers] == wanted
    assert [row.status for row in run.result.layers] == ["ok"] * 3
    assert run.result.target_std == 0.5
    assert run.result.settings.targets == (("y*", 2.0), ("w3", 0.1))


def test_of_several_targets_the_last_one_counts(lsuv: Lsuv) -> None:
    batch = {"x": normal(64, 16)}
    assert [r.target for r in lsuv(mlp(), batch, target=[("y2", 3.0), ("y?", 0.5)]).result.layers] == [0.5, 0.5, 0.5]
    assert [r.target for r in lsuv(mlp(), batch, target=[("y?", 0.5), ("y2", 3.0)]).result.layers] == [0.5, 3.0, 0.5]


@pytest.mark.parametrize("batches", [1, 3])
def test_target_with_a_bias_that_stays(lsuv: Lsuv, batches: int) -> None:
    given = [{"x": part} for part in np.split(normal(66, 16), batches)]
    run = lsuv(mlp(bias=0.2), given, keep_bias=True, target={"y2": 1.7})
    found = forward_moments(run.after, run.batches, YS)
    assert [math.sqrt(m.var) for m in found.values()] == pytest.approx([1, 1.7, 1], rel=0.0025)


def test_measure_takes_targets() -> None:
    batch = {"x": normal(64, 16)}
    model = onnx_lsuv.initialize(onnx_lsuv.from_proto(mlp()), batch, target={"y3": 0.1}).model
    plain = onnx_lsuv.measure(model, batch)
    assert [row.status for row in plain.layers] == ["ok", "ok", "off"]
    aimed = onnx_lsuv.measure(model, batch, target={"w3": 0.1})
    assert [row.status for row in aimed.layers] == ["ok"] * 3
    assert [row.target for row in aimed.layers] == [1, 1, 0.1]


def tied() -> ModelProto:
    text = f"""{HEAD} g (float[N,16] x) => (float z) {{
      a = MatMul(x, w) r = Relu(a) b = MatMul(r, w) z = MatMul(b, u) }}"""
    return parse(text, w=normal(16, 16), u=normal(16, 16))


def test_the_first_use_of_a_shared_weight_decides_its_target(lsuv: Lsuv) -> None:
    run = lsuv(tied(), {"x": normal(64, 16)}, target={"a": 2.0, "*": 0.5, "a*": 2.0})
    assert [row.target for row in run.result.layers] == [2.0, 2.0, 0.5]
    assert [row.status for row in run.result.layers] == ["ok", "shared", "ok"]
    assert "0.5 has no effect: 'a' decides" in run.row("b").note
    assert [math.sqrt(m.var) for m in run.moments("a", "z")] == pytest.approx([2, 0.5], rel=0.0025)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ({"y1": 1e-10}, r"target for 'y1' must be .* from 1e-09 to 1e\+09, or 0 for a weight of zero"),
        ({"y1": math.nan}, "from 1e-09"),
        ({"y1": 1e300}, "from 1e-09"),
        ({"y11": 0.5}, r"'y11' matches .* no layer or weight \(did you mean 'y1'\?\)"),
        ({"w": 0.5}, r"'w' matches .* no layer or weight \(did you mean '\*w\*'\?\)"),  # weights are called w1, w2
    ],
)
def test_targets_that_are_wrong(lsuv: Lsuv, target: dict[str, float], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        lsuv(mlp(), {"x": normal(8, 16)}, target=target)


def test_a_pattern_for_what_is_left_alone(lsuv: Lsuv) -> None:
    for pattern in ("y1", "w1"):
        words = f"the pattern '{pattern}' matches no layer, but 'y1', which is left alone: excluded by the user"
        with pytest.raises(UsageError, match=words):
            lsuv(mlp(), {"x": normal(8, 16)}, exclude=["y1"], target={pattern: 0.5})
    text = f"{HEAD} g (float[N,16] x) => (float z) {{ y = MatMul(x, w) t = Transpose(y) z = MatMul(y, t) }}"
    with pytest.raises(UsageError, match="'z' matches no layer, but 'z', which is left alone: the weight is computed"):
        lsuv(parse(text, w=normal(16, 16)), {"x": normal(8, 16)}, include=["z"])


def test_a_target_without_effect_is_an_error(lsuv: Lsuv) -> None:
    with pytest.raises(UsageError, match=r"an earlier use of the same weight .* give the target to 'a'"):
        lsuv(tied(), {"x": normal(8, 16)}, target={"b": 0.5})
    lstm = f"""{HEAD} g (float[T,N,4] x) => (float z) {{
      y, h = GRU<hidden_size = 4>(x, w, r) s = Squeeze(h, zero) z = MatMul(s, u) }}"""
    model = parse(lstm, w=normal(1, 12, 4), r=normal(1, 12, 4), u=normal(4, 4), zero=np.array([0]))
    with pytest.raises(UsageError, match=r"GRU .* is not rescaled"):
        lsuv(model, {"x": normal(3, 8, 4)}, target={"r": 0.5})
    with pytest.raises(UsageError, match="rescale=False scales nothing"):
        lsuv(mlp(), {"x": normal(8, 16)}, target={"y1": 0.5}, rescale=False)


# ------------------------------------------------------------------------------------------------------- not rescaled


@pytest.mark.parametrize(
    ("init", "std"), [("he", math.sqrt(2 / 256)), ("xavier", math.sqrt(2 / 320)), ("orthonormal", None)]
)
def test_draws_only(lsuv: Lsuv, init: str, std: float | None) -> None:
    text = f"{HEAD} g (float[N,256] x) => (float z) {{ y = Gemm(x, w, b) z = Relu(y) }}"
    model = parse(text, w=normal(256, 64), b=normal(64))
    x = normal(64, 256)
    run = lsuv(model, {"x": x}, init=init, rescale=False)
    (row,) = run.result.layers
    assert (row.status, row.scale, row.std_drawn) == ("drawn", None, None)
    assert row.note == "not rescaled, as asked"
    assert row.init == init
    assert run.result.good
    assert row.std == pytest.approx((x.astype(np.float64) @ run.weight("w")).std(), rel=1e-5)
    if std is None:
        assert orthonormality(blocks_of("Gemm", run.weight("w"))) < 1e-5
        np.testing.assert_allclose(np.linalg.norm(run.weight("w"), axis=0), 1, atol=1e-5)
    else:
        assert run.weight("w").std() == pytest.approx(std, rel=0.03)
    assert not run.weight("b").any()


# Fans as PyTorch and Keras count them, the kernel's places on both sides; of a group, its own channels. PyTorch's
# `kaiming_normal_` takes dims[1] of a ConvTranspose for its inputs, which are dims[0].
CONVOLUTIONS = {
    # node, weight, fan_in, fan_out
    "conv": ("Conv(x, w)", (96, 48, 3, 3), 48 * 9, 96 * 9),
    "grouped": ("Conv<group=4>(x, w)", (160, 24, 3, 5), 24 * 15, 40 * 15),
    "depthwise": ("Conv<group=900>(x, w)", (900, 1, 5, 5), 25, 25),
    "1-d": ("Conv(x, w)", (150, 40, 7), 40 * 7, 150 * 7),
    "transposed": ("ConvTranspose(x, w)", (96, 48, 3, 3), 96 * 9, 48 * 9),
    "transposed grouped": ("ConvTranspose<group=4>(x, w)", (160, 64, 2, 3), 40 * 6, 64 * 6),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
@pytest.mark.parametrize("init", ["he", "xavier"])
def test_variance_of_a_drawn_convolution(init: str, case: str) -> None:
    node, shape, fan_in, fan_out = CONVOLUTIONS[case]
    given = ",".join(["N", "C", "9", "9"][: len(shape)])
    model = parse(f"{HEAD} g (float[{given}] x) => (float y) {{ y = {node} }}", w=normal(*shape))
    result = onnx_lsuv.initialize(onnx_lsuv.from_proto(model), None, init=init, rescale=False)
    w = oracle.tensor_of(onnx.load_from_string(onnx_lsuv.to_bytes(result.model)), "w").astype(np.float64)
    expected = 2 / fan_in if init == "he" else 2 / (fan_in + fan_out)
    # The mean of n squares of normal numbers is off by sqrt(2 / n), here by 0.7% to 0.9%.
    assert (w**2).mean() == pytest.approx(expected, rel=0.035)


def test_draws_are_those_that_are_rescaled(lsuv: Lsuv) -> None:
    batch = {"x": normal(64, 16)}
    drawn, scaled = lsuv(mlp(), batch, rescale=False, seed=4), lsuv(mlp(), batch, seed=4)
    for i, row in enumerate(scaled.result.layers, 1):
        assert row.scale is not None
        np.testing.assert_allclose(drawn.weight(f"w{i}") * row.scale, scaled.weight(f"w{i}"), rtol=1e-6)


def test_without_rescaling_no_data_are_needed() -> None:
    result = onnx_lsuv.initialize(onnx_lsuv.from_proto(mlp()), None, init="he", rescale=False)
    assert [row.status for row in result.layers] == ["drawn"] * 3
    assert result.data == {}
    assert "calibrate" not in result.seconds
    given = onnx_lsuv.initialize(onnx_lsuv.from_proto(mlp()), {"x": normal(4, 16)}, init="he", rescale=False)
    assert onnx_lsuv.to_bytes(result.model) == onnx_lsuv.to_bytes(given.model)
    with pytest.raises(DataError, match="has to run on data"):
        onnx_lsuv.initialize(onnx_lsuv.from_proto(mlp()), None)


def normed() -> ModelProto:
    text = f"""{HEAD} g (float[N,4,6,6] x) => (float z) {{
      a = Conv<pads=[1,1,1,1]>(x, w, c) n = BatchNormalization(a, s, t, m, v) r = Relu(n)
      b = Conv(r, u) z = BatchNormalization(b, s2, t2, m2, v2) }}"""
    norm = {"s": normal(8) ** 2, "t": normal(8), "m": normal(8), "v": normal(8) ** 2 + 1}
    more = {f"{name}2": array[:5] for name, array in norm.items()}
    return parse(text, {"w": normal(8, 4, 3, 3), "c": normal(8), "u": normal(5, 8, 3, 3), **norm, **more})


@pytest.mark.parametrize("batches", [1, 4])
@pytest.mark.parametrize("init", ["he", "keep"])
def test_norms_are_calibrated_without_rescaling(lsuv: Lsuv, init: str, batches: int) -> None:
    given = [{"x": 3 * part + 1} for part in np.split(normal(64, 4, 6, 6), batches)]
    run = lsuv(normed(), given, init=init, rescale=False)
    values = {name: np.concatenate(run.value(name)).astype(np.float64) for name in ("a", "b")}
    for name, end in (("a", ""), ("b", "2")):
        np.testing.assert_allclose(run.weight(f"m{end}"), values[name].mean((0, 2, 3)), atol=1e-4, rtol=1e-4)
        np.testing.assert_allclose(run.weight(f"v{end}"), values[name].var((0, 2, 3)), rtol=1e-3)
    kept = {"c", "m", "v", "m2", "v2"}
    assert {c.tensor for c in run.result.changes} == (kept if init == "keep" else kept | {"w", "u"})
    if init == "he":
        assert run.weight("u").std() == pytest.approx(math.sqrt(2 / 72), rel=0.1)
    with pytest.raises(DataError, match="has to run on data"):
        onnx_lsuv.initialize(onnx_lsuv.from_proto(normed()), None, rescale=False)


def test_weight_normalisation_without_rescaling(lsuv: Lsuv) -> None:
    text = f"""{HEAD} g (float[N,8] x) => (float y) {{
      n = ReduceL2<axes=[0], keepdims=1>(v) d = Div(v, n) w = Mul(d, k) y = MatMul(x, w) }}"""
    model = parse(text, v=normal(8, 6), k=normal(1, 6))
    run = lsuv(model, {"x": normal(64, 8)}, rescale=False)
    assert run.changed == {"v", "k"}
    assert np.ptp(run.weight("k")) == 0
    np.testing.assert_allclose(run.weight("k"), 1, rtol=1e-6)
    # As drawn is what the layer sees: of a normal draw that takes the lengths of its rows.
    run = lsuv(model, {"x": normal(64, 8)}, rescale=False, init="he")
    np.testing.assert_allclose(run.weight("k"), np.linalg.norm(run.weight("v"), axis=0, keepdims=True), rtol=1e-5)


# -------------------------------------------------------------------------------------------------------------- chance


@pytest.mark.parametrize("batches", [1, 3])
def test_dropout_in_training_mode(lsuv: Lsuv, batches: int) -> None:
    text = f"""{HEAD} g (float[N,16] x) => (float y) <float ratio = {{0.5}}, bool train = {{1}}> {{
      a = MatMul(x, w1) d, mask = Dropout(a, ratio, train) e = Dropout(d, ratio, train) y = MatMul(e, w2) }}"""
    model = parse(text, w1=normal(16, 16), w2=normal(16, 16))
    given = [{"x": part} for part in np.split(normal(63, 16), batches)]
    run = lsuv(model, given)
    assert run.result.good
    assert any("Dropout" in note for note in run.result.notes)
    plain = parse(
        f"{HEAD} g (float[N,16] x) => (float y) {{ a = MatMul(x, w1) y = MatMul(a, w2) }}",
        w1=run.weight("w1"),
        w2=run.weight("w2"),
    )
    assert [m.var for m in forward_moments(plain, given, ["a", "y"]).values()] == pytest.approx([1, 1], abs=0.005)
    assert run.after.graph.node[1].op_type == "Dropout"
    again = lsuv(model, given)
    assert again.path.read_bytes() == run.path.read_bytes()


@pytest.mark.parametrize("batches", [1, 2])
def test_random_nodes_have_a_fixed_seed(lsuv: Lsuv, batches: int) -> None:
    text = f"""{HEAD} g (float[32,16] x) => (float y) {{
      z = RandomNormalLike<scale=3.0>(x) a = Add(x, z) b = MatMul(a, w1) y = MatMul(b, w2) }}"""
    model = parse(text, w1=normal(16, 16), w2=normal(16, 16))
    given = [{"x": normal(32, 16, seed=i)} for i in range(batches)]
    run, again = lsuv(model, given), lsuv(model, given)
    assert run.path.read_bytes() == again.path.read_bytes()
    assert run.result.good
    assert any("RandomNormalLike" in note for note in run.result.notes)
    # A pure oracle cannot draw the same noise, but the scale of x + z is known: about sqrt(10).
    assert np.linalg.norm(run.weight("w1")) == pytest.approx(math.sqrt(16 / 10), rel=0.1)


@pytest.mark.parametrize("sizes", [[2, 9, 2], [5, 5, 3, 5], [1, 16]])
def test_batches_of_several_sizes(lsuv: Lsuv, sizes: list[int]) -> None:
    given = [{"x": normal(n, 16, seed=n) * (i + 1)} for i, n in enumerate(sizes)]
    run = lsuv(mlp(), given)
    assert [m.var for m in run.moments(*YS)] == pytest.approx([1] * 3, abs=0.005)
    assert [row.std for row in run.result.layers] == pytest.approx([1] * 3, abs=0.0025)


@pytest.mark.parametrize("seed", [1, 5])
def test_noise_is_the_same_while_measuring_whatever_the_seed_of_the_draw(lsuv: Lsuv, seed: int) -> None:
    text = f"""{HEAD} g (float[N,4] x) => (float y) {{
      z = RandomNormalLike<scale=9.0>(x) a = Add(x, z) y = MatMul(a, w) }}"""
    run = lsuv(parse(text, w=normal(4, 4)), {"x": normal(3, 4)}, seed=seed)
    assert [row.status for row in run.result.layers] == ["ok"]
    loaded = onnx_lsuv.load(run.path)
    assert onnx_lsuv.measure(loaded, {"x": normal(3, 4)}).good


def test_norm_in_training_form(lsuv: Lsuv) -> None:
    text = """<ir_version: 10, opset_import: ["" : 15]> g (float[N,4] x) => (float y, float p, float q) {
      h = MatMul(x, w) n, p, q = BatchNormalization<training_mode=1>(h, s, t, m, v) y = MatMul(n, u) }"""
    ones, zeros = np.ones(4, np.float32), np.zeros(4, np.float32)
    model = parse(text, w=normal(4, 4), u=normal(4, 4), s=ones, t=zeros, m=zeros, v=ones)
    x = 2 * normal(64, 4) + 1
    run = lsuv(model, {"x": x})
    h = x.astype(np.float64) @ run.weight("w")
    assert h.var() == pytest.approx(1, abs=0.005)
    np.testing.assert_allclose(run.weight("m"), h.mean(0), atol=1e-4)
    np.testing.assert_allclose(run.weight("v"), h.var(0), rtol=1e-3)
    assert run.moments("y")[0].var == pytest.approx(1, abs=0.005)


# ---------------------------------------------------------------------------------------------------------- odd models


def test_callers_model_is_left_alone() -> None:
    model = mlp(bias=1.0)
    before = model.SerializeToString()
    batch = {"x": normal(64, 16)}
    kept = batch["x"].copy()
    loaded = onnx_lsuv.from_proto(model)
    result = onnx_lsuv.initialize(loaded, batch)
    assert model.SerializeToString() == before
    assert onnx_lsuv.to_bytes(loaded) == before
    np.testing.assert_array_equal(batch["x"], kept)
    assert oracle.changed_tensors(model, onnx.load_from_string(onnx_lsuv.to_bytes(result.model))) == {
        f"{k}{i}" for k in "wb" for i in (1, 2, 3)
    }


@pytest.mark.parametrize(
    "odd", ["a/b:0", "名前", "with space", "__lsuv1", "x", "w.2", 'quo"te', "tab\there", "%s{0}\\"]
)
def test_odd_names(lsuv: Lsuv, odd: str) -> None:
    model = parse(
        f"{HEAD} g (float[N,16] x_) => (float y_) {{ y_ = MatMul(x_, w_) z_ = MatMul(y_, v_) }}",
        w_=normal(16, 16),
        v_=normal(16, 16),
    )
    names = {"x_": "in" if odd == "x" else "x", "y_": odd, "w_": odd + ".2", "z_": odd + " -> z", "v_": odd + "_w"}
    for node in model.graph.node:
        node.input[:] = [names[n] for n in node.input]
        node.output[:] = [names[n] for n in node.output]
        node.name = "n"  # both alike, which ONNX allows
    for thing in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        thing.name = names[thing.name]
    run = lsuv(model, {names["x_"]: normal(64, 16)})
    assert run.changed == {names["w_"], names["v_"]}
    assert [m.var for m in run.moments(names["y_"], names["z_"])] == pytest.approx([1, 1], abs=0.005)
    assert len({row.name for row in run.result.layers}) == 2


def test_scalar_and_integer_inputs(lsuv: Lsuv) -> None:
    text = f"""{HEAD} g (float[N,16] x, float k, int64[N] i) => (float z) {{
      s = Mul(x, k) y = MatMul(s, w) e = Gather(table, i) a = Add(y, e) z = MatMul(a, u) }}"""
    model = parse(text, w=normal(16, 16), u=normal(16, 16), table=normal(5, 16))
    batch = {"x": normal(64, 16), "k": np.array(7, np.float32), "i": np.arange(64) % 5}
    run = lsuv(model, batch)
    assert [m.var for m in run.moments("y", "z")] == pytest.approx([1, 1], abs=0.005)
    several = lsuv(model, [{"x": b, "k": batch["k"], "i": batch["i"][:16]} for b in np.split(batch["x"], 4)])
    assert [m.var for m in several.moments("y", "z")] == pytest.approx([1, 1], abs=0.005)


def test_index_outside_the_table_is_a_data_error(lsuv: Lsuv) -> None:
    text = f"{HEAD} g (int64[N] i) => (float y) {{ e = Gather(table, i) y = MatMul(e, w) }}"
    model = parse(text, w=normal(16, 16), table=normal(5, 16))
    with pytest.raises(DataError, match="outside a table"):
        lsuv(model, {"i": np.array([0, 5])})


def test_model_without_inputs(lsuv: Lsuv) -> None:
    text = f"{HEAD} g () => (float y) {{ x = RandomNormal<shape=[64,16],seed=3.0>() y = MatMul(x, w) }}"
    run = lsuv(parse(text, w=normal(16, 16)), {})
    assert run.result.good
    assert run.moments("y")[0].var == pytest.approx(1, abs=0.005)


def test_external_data(tmp_path: Path) -> None:
    model = mlp(width=32)
    onnx.save(model, str(tmp_path / "m.onnx"), save_as_external_data=True, location="m.data", size_threshold=0)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    batch = {"x": normal(64, 32)}
    result = onnx_lsuv.initialize(onnx_lsuv.load(tmp_path / "m.onnx"), batch)
    (tmp_path / "out").mkdir()
    target = tmp_path / "out" / "n.onnx"
    onnx_lsuv.save(result.model, target)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == before
    found = oracle.measure(target, [batch], YS)
    assert [m.var for m in found.values()] == pytest.approx([1] * 3, abs=0.005)
    assert onnx_lsuv.measure(onnx_lsuv.load(target), batch, like=result).good


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"init": "magic"}, "magic"),
        ({"target_std": 0.0}, "from 1e-09"),
        ({"target_std": float("nan")}, "from 1e-09"),
        ({"exclude": ["nothing-like-it"]}, "nothing-like-it"),
        ({"include": ["w1", "q*"]}, "q\\*"),
    ],
)
def test_usage(lsuv: Lsuv, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        lsuv(mlp(), {"x": normal(8, 16)}, **options)


def test_progress_and_seconds() -> None:
    seen: dict[str, list[tuple[int, int]]] = {}
    batch = {"x": normal(8, 16)}

    def progress(phase: str, done: int, total: int) -> None:
        seen.setdefault(phase, []).append((done, total))

    result = onnx_lsuv.initialize(onnx_lsuv.from_proto(mlp()), [batch, batch], progress=progress)
    assert set(seen) == {"draw", "calibrate"}
    for steps in seen.values():
        totals = {total for _, total in steps}
        assert len(totals) == 1
        assert [done for done, _ in steps] == list(range(1, totals.pop() + 1))
    assert list(result.seconds) == ["load", "draw", "calibrate"]
    assert all(value >= 0 for value in result.seconds.values())


def test_the_file_as_it_came_is_measured_by_the_same_ruler() -> None:
    """`measure_before` says what float64 says of the original file, biases included, and changes nothing else."""
    model, data = mlp(bias=5.0), {"x": normal(64, 16, seed=9)}
    result = onnx_lsuv.initialize(onnx_lsuv.from_proto(model), data)
    before = onnx_lsuv.measure_before(result, data)
    wanted, value = [], data["x"].astype(np.float64)
    for i in range(1, 4):
        value = value @ oracle.tensor_of(model, f"w{i}") + oracle.tensor_of(model, f"b{i}")
        wanted.append(value.std())
        value = np.maximum(value, 0)
    assert [row.std_before for row in before.layers] == pytest.approx(wanted, rel=1e-4)
    assert [replace(row, std_before=None) for row in before.layers] == list(result.layers)
    verified = onnx_lsuv.measure(result.model, data, like=before)
    assert [row.std_before for row in verified.layers] == [row.std_before for row in before.layers]
    assert all(row.status == "ok" for row in verified.layers)


@pytest.mark.parametrize("threads", [1, 2])
def test_large_half_precision_is_scaled_in_pieces(threads: int) -> None:
    """In several threads as in one; what leaves the range becomes infinite without a warning."""
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float16[N,16] x) => (float16 y) { y = MatMul(x, w) }'
    weight = normal(16, 1 << 19).astype(np.float16)
    weight[:, 0] = 60000
    assert weight.size > applying.PIECE
    batch = {"x": np.full((2, 16), 1e-5, np.float16)}
    result = onnx_lsuv.initialize(onnx_lsuv.from_proto(parse(text, w=weight)), batch, init="keep", threads=threads)
    (row,) = result.layers
    (after,) = onnx.load_from_string(onnx_lsuv.to_bytes(result.model)).graph.initializer
    with np.errstate(over="ignore"):
        wanted = (weight * np.float32(row.scale or 0)).astype(np.float16)
    assert np.isinf(wanted).any()
    assert np.array_equal(onnx.numpy_helper.to_array(after), wanted)
