"""Means far from zero: what is measured agrees with float64 NumPy to 1e-4, in every layout.

A weight that is the identity lets through what comes in, so that mean and std of every channel are as wanted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import Run
from numpy.typing import NDArray
from onnx import ModelProto
from oracle import normal, parse

import onnx_lsuv

Array = NDArray[Any]
Lsuv = Callable[..., Run]
MEANS = [0.5, 7.5, 30.0, 1000.0]  # in stds
KINDS = {np.float32: "float", np.float16: "float16", np.float64: "double"}


def identity(channels: int, *kernel: int) -> Array:
    return np.eye(channels, dtype=np.float32).reshape(channels, channels, *kernel)


def data(shape: tuple[int, ...], mean: float, count: int = 1, axis: int = 1) -> list[dict[str, Array]]:
    """Return batches whose channels have means of one sign or the other, which differ a little from batch to batch."""
    channels = shape[axis]
    sides = np.where(np.arange(channels) % 3, mean, -mean).reshape(
        [channels if i == axis else 1 for i in range(len(shape))]
    )
    return [{"x": (normal(*shape, seed=i) + sides + 0.5 * i).astype(np.float32)} for i in range(count)]


def each_channel(values: Array, axis: int = 1) -> tuple[Array, Array]:
    wide = np.moveaxis(np.asarray(values, np.float64), axis, 0).reshape(values.shape[axis], -1)
    return wide.mean(1), wide.var(1)


# ------------------------------------------------------------------------------------------------ BatchNormalization

CONV = "a = Conv(x, w) y = BatchNormalization(a, s, t, m, v) r = Relu(y) z = Conv(r, w)"
PLAIN = "y = BatchNormalization(x, s, t, m, v) r = Relu(y) z = Conv(r, w)"
DENSE = "y = BatchNormalization(x, s, t, m, v) z = Gemm(y, w)"
# name: graph, shape of a batch, number of batches
NORMS: dict[str, tuple[str, tuple[int, ...], int]] = {
    "in blocks": (CONV, (4, 16, 40, 41), 1),
    "in blocks, of few values": (CONV, (8, 16, 14, 14), 1),
    "in blocks, of few values each": (CONV, (32, 32, 7, 7), 1),
    "in blocks that are not full": (CONV, (8, 20, 28, 28), 1),
    "in blocks, places that only long groups divide": (CONV, (2, 16, 1, 4093), 1),
    "in blocks, several batches": (CONV, (4, 20, 28, 28), 3),
    "channels that fit no block": (CONV, (8, 18, 28, 28), 1),
    "plain": (PLAIN, (4, 16, 40, 41), 1),
    "plain, several batches": (PLAIN, (4, 16, 28, 28), 3),
    "two axes": (DENSE, (4096, 20), 1),
    "three axes": (PLAIN, (16, 20, 600), 1),
    "three axes that only long groups divide": (PLAIN, (32, 20, 1021), 1),
    "five axes": (PLAIN, (4, 16, 6, 20, 20), 1),
}  # fmt: skip


def norm_model(text: str, shape: tuple[int, ...], kind: Any = np.float32) -> ModelProto:
    channels, one = shape[1], [1] * (len(shape) - 2)
    tensors = {"w": identity(channels, *one), "s": np.ones(channels), "t": np.zeros(channels)}
    tensors |= {"m": np.zeros(channels), "v": np.ones(channels)}
    dims = ",".join(map(str, ["N", *shape[1:]]))
    head = f'<ir_version: 8, opset_import: ["" : 17]> g ({KINDS[kind]}[{dims}] x) => ({KINDS[kind]} z)'
    return parse(f"{head} {{ {text} }}", {name: array.astype(kind) for name, array in tensors.items()})


@pytest.mark.parametrize("mean", [*MEANS, 20.0])
@pytest.mark.parametrize("name", NORMS)
@pytest.mark.few(20)
def test_statistics_of_a_norm(lsuv: Lsuv, name: str, mean: float) -> None:
    text, shape, count = NORMS[name]
    batches = data(shape, mean, count)
    run = lsuv(norm_model(text, shape), batches, init="keep", recalibrate=True)
    # What comes in is the data, times the factor that the layer before got.
    factor = run.weight("w")[0, 0].item() if text == CONV and len(run.result.layers) == 1 else 1
    before = np.concatenate([batch["x"] for batch in batches]).astype(np.float64)
    if text == CONV:
        before /= before.std()
    means, variances = each_channel(before * factor)
    assert run.weight("v") == pytest.approx(variances, rel=1e-4)
    assert run.weight("m") == pytest.approx(means, rel=2e-7, abs=1e-5 * np.sqrt(variances.min()))


def test_statistics_of_a_norm_in_half_precision(lsuv: Lsuv) -> None:
    shape = (8, 20, 28, 28)
    batches = [{"x": (normal(*shape, seed=i) * 4 + 1000).astype(np.float16)} for i in range(2)]
    run = lsuv(norm_model(PLAIN, shape, np.float16), batches, init="keep", recalibrate=True)
    means, variances = each_channel(np.concatenate([batch["x"] for batch in batches]))
    # Half a unit in the last place of what is stored.
    assert run.weight("v") == pytest.approx(variances, rel=5e-4)
    assert run.weight("m") == pytest.approx(means, rel=5e-4)


def test_a_mean_that_is_large_only_after_another(lsuv: Lsuv) -> None:
    """Without a right first variance nothing after it can be seen to be far from zero."""
    text = """a = Conv(x, w) b = BatchNormalization(a, s, t, m, v) c = Conv(b, u)
        d = BatchNormalization(c, s2, t2, m2, v2) z = Conv(d, w3)"""
    shape = (8, 16, 28, 28)
    tensors = {name: identity(16, 1, 1) for name in ("w", "u", "w3")}
    for end in ("", "2"):
        tensors |= {f"{n}{end}": np.full(16, n in "sv", np.float32) for n in "stmv"}
    tensors["t"] += 500
    head = '<ir_version: 8, opset_import: ["" : 17]> g (float[N,16,28,28] x) => (float z)'
    batches = data(shape, 20000.0)
    run = lsuv(parse(f"{head} {{ {text} }}", tensors), batches, init="keep")
    means, variances = each_channel(run.value("c")[0])
    assert run.weight("v2") == pytest.approx(variances, rel=1e-3)
    assert run.weight("m2") == pytest.approx(means, rel=1e-6)


# ------------------------------------------------------------------------------------------------------------ layers

# name: graph, weights, shape of a batch, number of batches
LAYERS: dict[str, tuple[str, dict[str, Array], tuple[int, ...], int]] = {
    "in blocks": ("y = Conv(x, w)", {"w": identity(16, 1, 1)}, (8, 16, 28, 28), 1),
    "in blocks that are not full": ("y = Conv(x, w)", {"w": identity(20, 1, 1)}, (8, 20, 28, 28), 1),
    "in blocks, several batches": ("y = Conv(x, w)", {"w": identity(20, 1, 1)}, (8, 20, 28, 28), 3),
    "channels that fit no block": ("y = Conv(x, w)", {"w": identity(18, 1, 1)}, (8, 18, 28, 28), 1),
    "three axes": ("y = Conv(x, w)", {"w": identity(16, 1)}, (8, 16, 600), 1),
    "five axes": ("y = Conv(x, w)", {"w": identity(16, 1, 1, 1)}, (4, 16, 6, 20, 20), 1),
    "transposed": ("y = ConvTranspose(x, w)", {"w": identity(16, 1, 1)}, (8, 16, 28, 28), 1),
    "rows": ("y = MatMul(x, w)", {"w": identity(64)}, (16, 64, 64), 1),
    "rows, several batches": ("y = MatMul(x, w)", {"w": identity(64)}, (16, 64, 64), 2),
    "rows, a few": ("y = Gemm(x, w)", {"w": identity(64)}, (64, 64), 1),
    "rows, many": ("y = Gemm(x, w)", {"w": identity(64)}, (4096, 64), 1),
}


@pytest.mark.parametrize("mean", MEANS[1:])
@pytest.mark.parametrize("name", LAYERS)
def test_layers(lsuv: Lsuv, name: str, mean: float) -> None:
    text, tensors, shape, count = LAYERS[name]
    dims = ",".join(map(str, ["N", *shape[1:]]))
    model = parse(f'<ir_version: 8, opset_import: ["" : 17]> g (float[{dims}] x) => (float y) {{ {text} }}', tensors)
    batches = [{"x": normal(*shape, seed=i) + np.float32(mean)} for i in range(count)]
    run = lsuv(model, batches, init="keep")
    (row,) = run.result.layers
    std = np.concatenate([batch["x"] for batch in batches]).astype(np.float64).std()
    assert row.scale == pytest.approx(1 / std, rel=5e-5)
    (found,) = run.moments("y")
    assert row.std == pytest.approx(np.sqrt(found.var), rel=5e-5)
    assert row.status == "ok"


# In every scope: a branch, a loop; the layer's output is `k`, all iterations of which are alike.
SCOPES = {
    "a branch": """k = If (c) <then_branch = t () => (float[16,64,64] p) { p = MatMul(x, w) },
        else_branch = e () => (float[16,64,64] q) { q = Identity(x) }> y = Tanh(k)""",
    "a loop": """l, k = Loop (n, c, o) <body = b (int64 i, bool go, float before) =>
        (bool go2, float after, float[16,64,64] each)
        { go2 = Identity(go) each = MatMul(x, w) after = ReduceMean<keepdims=0>(each) }> y = Tanh(l)""",
}


@pytest.mark.parametrize("mean", MEANS[1:])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("opset", [8, 17])
@pytest.mark.parametrize("scope", SCOPES)
def test_layers_in(lsuv: Lsuv, scope: str, opset: int, count: int, mean: float) -> None:
    head = f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[16,64,64] x, bool c) => (float y)'
    tensors = {"w": identity(64), "n": np.array(3), "o": np.array(0, np.float32)}
    if scope == "a branch":
        tensors = {"w": tensors["w"]}
    batches = [{"x": normal(16, 64, 64, seed=i) + np.float32(mean), "c": np.array(True)} for i in range(count)]
    run = lsuv(parse(f"{head} {{ {SCOPES[scope]} }}", tensors), batches, init="keep")
    std = np.concatenate([batch["x"] for batch in batches]).astype(np.float64).std()
    (row,) = run.result.layers
    assert row.scale == pytest.approx(1 / std, rel=5e-5)
    assert row.std == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize("mean", MEANS[1:])
@pytest.mark.parametrize("count", [1, 3])
def test_a_bias_that_stays(lsuv: Lsuv, mean: float, count: int) -> None:
    text = "y = Conv(x, w, b)"
    head = '<ir_version: 8, opset_import: ["" : 17]> g (float[N,20,28,28] x) => (float y)'
    bias = np.full(20, mean, np.float32) + 0.1 * normal(20)
    model = parse(f"{head} {{ {text} }}", w=identity(20, 1, 1), b=bias.astype(np.float32))
    batches = [{"x": 3 * normal(8, 20, 28, 28, seed=i)} for i in range(count)]
    run = lsuv(model, batches, init="keep", keep_bias=True)
    z = np.concatenate([batch["x"] for batch in batches]).astype(np.float64)
    scale = run.result.layers[0].scale or 0
    assert (scale * z + bias.reshape(1, -1, 1, 1)).var() == pytest.approx(1, rel=2e-4)


@pytest.mark.parametrize("mean", MEANS[1:])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("name", ["in blocks that are not full", "rows"])
def test_centred(lsuv: Lsuv, name: str, mean: float, count: int) -> None:
    text, tensors, shape, _ = LAYERS[name]
    axis, channels = (-1, 64) if name == "rows" else (1, 20)
    text = "h = MatMul(x, w) y = Add(h, b)" if name == "rows" else "y = Conv(x, w, b)"
    dims = ",".join(map(str, ["N", *shape[1:]]))
    head = f'<ir_version: 8, opset_import: ["" : 17]> g (float[{dims}] x) => (float y)'
    model = parse(f"{head} {{ {text} }}", tensors, b=np.ones(channels, np.float32))
    batches = data(shape, mean, count, axis % len(shape))
    run = lsuv(model, batches, init="keep", center=True)
    means, variances = each_channel(np.concatenate([batch["x"] for batch in batches]), axis)
    scale = 1 / np.sqrt(variances.mean())
    assert run.result.layers[0].scale == pytest.approx(scale, rel=5e-5)
    assert run.weight("b") == pytest.approx(-scale * means, rel=1e-6)


# -------------------------------------------------------------------------------------------------------------- cost


@pytest.mark.parametrize(("mean", "runs"), [(2.0, 1), (15.0, 1), (1000.0, 2)])
def test_only_a_large_mean_is_measured_again(mean: float, runs: int) -> None:
    """Rounding errors average out over many groups, so that 15 stds are not yet too many for them."""
    batches = data((8, 16, 28, 28), mean)
    seen: list[tuple[str, int, int]] = []
    model = onnx_lsuv.from_proto(norm_model(CONV, (8, 16, 28, 28)))
    onnx_lsuv.initialize(model, batches, init="keep", progress=lambda *step: seen.append(step))
    assert sum(phase == "calibrate" and done == total for phase, done, total in seen) == runs


def test_few_values_are_exact_at_once() -> None:
    seen: list[tuple[str, int, int]] = []
    model = onnx_lsuv.from_proto(norm_model(CONV, (2, 16, 8, 8)))
    onnx_lsuv.initialize(model, data((2, 16, 8, 8), 1000.0), progress=lambda *step: seen.append(step))
    assert sum(phase == "calibrate" and done == total for phase, done, total in seen) == 1


def test_a_constant_term_that_stays_is_not_measured_again() -> None:
    head = '<ir_version: 8, opset_import: ["" : 17]> g (float[N,20,28,28] x) => (float y)'
    model = parse(f"{head} {{ y = Conv(x, w, b) }}", w=identity(20, 1, 1), b=np.full(20, 2, np.float32))
    seen: list[tuple[str, int, int]] = []
    batch = {"x": normal(8, 20, 28, 28)}
    onnx_lsuv.initialize(onnx_lsuv.from_proto(model), batch, keep_bias=True, progress=lambda *s: seen.append(s))
    assert sum(phase == "calibrate" and done == total for phase, done, total in seen) == 1
