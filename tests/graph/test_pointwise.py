"""Convolutions of one tap, whose moments are told from what they read: against float64 NumPy, and what they become."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import Run
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper
from oracle import normal, parse

import onnx_lsuv
from onnx_lsuv.graph import build, pointwise
from onnx_lsuv.graph.blocked import DOMAIN

Array = NDArray[Any]
Lsuv = Callable[..., Run]


def norm(channels: int, name: str) -> dict[str, Array]:
    """Return gain, bias, mean and variance of a BatchNormalization."""
    gain = np.linspace(0.5, 1.5, channels, dtype=np.float32)
    return {f"{name}s": gain, f"{name}t": gain - 1, f"{name}m": gain, f"{name}v": gain}


def model(text: str, channels: int = 16, side: int = 32, **tensors: Array) -> ModelProto:
    head = f'<ir_version: 8, opset_import: ["" : 17]> g (float[N,{channels},{side},{side}] x) => (float y)'
    return parse(f"{head} {{ {text} }}", tensors)


def images(channels: int = 16, count: int = 1, n: int = 8) -> list[dict[str, Array]]:
    """Return batches of images whose channels are alike in part, and have means of their own."""
    mixed = normal(channels, channels, seed=9).astype(np.float64) + 1.5
    return [
        {"x": np.einsum("kc,nchw->nkhw", mixed, normal(n, channels, 32, 32, seed=i) + 0.2 + i).astype(np.float32)}
        for i in range(count)
    ]


def times(weight: Array, x: Array) -> Array:
    """Return what a convolution of one tap gives, in float64."""
    return np.einsum("mc,nchw->nmhw", weight.reshape(weight.shape[:2]).astype(np.float64), x.astype(np.float64))


def calibrations(proto: ModelProto, batch: dict[str, Array]) -> int:
    """Return how often a model is run over one batch to calibrate it as it is."""
    runs: list[tuple[str, int, int]] = []
    onnx_lsuv.initialize(onnx_lsuv.from_proto(proto), batch, init="keep", progress=lambda *step: runs.append(step))
    return len(runs)


def together(batches: list[dict[str, Array]]) -> Array:
    return np.concatenate([batch["x"] for batch in batches])


@pytest.fixture(autouse=True)
def few(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let few values do, where the graph's size is not what is tested."""
    if "lsuv" in request.fixturenames:
        monkeypatch.setattr(pointwise, "LEAST", 1)


BLOCK = "a = Conv(x, w) b = BatchNormalization(a, ns, nt, nm, nv) c = Clip(b, low, high) y = Conv(c, u)"
LIMITS = {"low": np.array(0, np.float32), "high": np.array(6, np.float32)}
# Channels that are one block, several, and not whole ones.
WIDTHS = [(16, 64), (32, 64), (24, 144), (20, 68)]


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(("c", "m"), WIDTHS)
def test_a_norm_and_the_layer_before_it(lsuv: Lsuv, c: int, m: int, count: int) -> None:
    tensors = {"w": normal(m, c, 1, 1), "u": normal(4, m, 1, 1, seed=1), **norm(m, "n"), **LIMITS}
    batches = images(c, count)
    run = lsuv(model(BLOCK, c, **tensors), batches)
    z = times(run.weight("w"), together(batches))
    assert z.std() == pytest.approx(1, rel=2e-6)
    assert run.weight("nm") == pytest.approx(z.mean((0, 2, 3)), rel=1e-5, abs=1e-6)
    assert run.weight("nv") == pytest.approx(z.var((0, 2, 3)), rel=2e-5)
    gain = tensors["ns"].reshape(-1, 1, 1) / np.sqrt(z.var((0, 2, 3), keepdims=True) + 1e-5)
    after = np.clip(gain * (z - z.mean((0, 2, 3), keepdims=True)) + tensors["nt"].reshape(-1, 1, 1), 0, 6)
    assert times(run.weight("u"), after).std() == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(("c", "m"), WIDTHS)
def test_layers_alone(lsuv: Lsuv, c: int, m: int, count: int) -> None:
    """Two of them read one value, a third their sum."""
    text = "a = Conv(x, w) b = Relu(a) d = Conv(x, v) e = Add(d, b) f = Relu(e) y = Conv(f, u)"
    tensors = {"w": normal(m, c, 1, 1), "v": normal(m, c, 1, 1, seed=2), "u": normal(4, m, 1, 1, seed=1)}
    batches = images(c, count)
    run = lsuv(model(text, c, **tensors), batches, residual="off")
    x = together(batches)
    first, second = (times(run.weight(name), x) for name in "wv")
    assert first.std() == pytest.approx(1, rel=2e-6)
    assert second.std() == pytest.approx(1, rel=2e-6)
    third = times(run.weight("u"), np.maximum(np.maximum(first, 0) + second, 0))
    assert third.std() == pytest.approx(1, rel=1e-5)


def test_the_number_of_threads_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pointwise, "LEAST", 1)
    tensors = {"w": normal(144, 24, 1, 1), "u": normal(4, 144, 1, 1, seed=1), **norm(144, "n"), **LIMITS}
    loaded, batches = onnx_lsuv.from_proto(model(BLOCK, 24, **tensors)), images(24)
    one, two = (onnx_lsuv.initialize(loaded, batches, threads=threads) for threads in (1, 2))
    assert onnx_lsuv.to_bytes(one.model) == onnx_lsuv.to_bytes(two.model)


@pytest.mark.parametrize("mean", [5.0, 40.0, 1000.0])
def test_a_variance_that_is_small_beside_its_terms_is_measured(lsuv: Lsuv, mean: float) -> None:
    """Channels that nearly cancel, and a mean of so many stds."""
    rng = np.random.default_rng(0)
    common, own = rng.normal(size=(8, 1, 32, 32)), rng.normal(size=(8, 16, 32, 32))
    batch = {"x": (mean * (1 + common) + own).astype(np.float32)}
    weight = normal(64, 16, 1, 1)
    weight[:, 1] = -weight[:, 0]
    weight[:, 2:] *= 0.01
    tensors = {"w": weight, "u": normal(4, 64, 1, 1, seed=1), **norm(64, "n"), **LIMITS}
    run = lsuv(model(BLOCK, **tensors), batch, init="keep")
    z = times(run.weight("w"), batch["x"])
    assert z.std() == pytest.approx(1, rel=1e-5 * max(1, mean / 100))
    assert run.weight("nv") == pytest.approx(z.var((0, 2, 3)), rel=1e-4)
    assert calibrations(model(BLOCK, **tensors), batch) == (1 if mean < 10 else 2)


@pytest.mark.parametrize("count", [1, 2])
def test_of_several_uses_the_first_decides(lsuv: Lsuv, count: int) -> None:
    """Also where its variance is small beside its terms, and that of the next is not."""
    weight = normal(16, 16, 1, 1)
    weight -= weight.mean(1, keepdims=True)
    tensors = {"w": weight, "u": normal(4, 16, 1, 1)}
    batches = [{"x": normal(4, 16, 32, 32, seed=i) + 100} for i in range(count)]
    run = lsuv(
        model("a = Conv(x, w) b = Relu(a) c = Conv(b, w) d = Relu(c) y = Conv(d, u)", **tensors), batches, init="keep"
    )
    assert [row.status for row in run.result.layers] == ["ok", "shared", "ok"]
    assert times(run.weight("w"), together(batches)).std() == pytest.approx(1, rel=1e-4)


def test_of_several_norms_the_first_by_name_decides(lsuv: Lsuv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pointwise, "WORTH", 1000)
    text = """z = Conv(x, w) zn = BatchNormalization(z, ns, nt, nm, nv) r = Relu(x) a = Conv(r, v)
        an = BatchNormalization(a, ns, nt, nm, nv) d = Add(zn, an) y = Conv(d, u)"""
    tensors = {"w": normal(32, 16, 1, 1), "v": normal(32, 16, 1, 1, seed=1), "u": normal(4, 32, 1, 1)}
    (batch,) = images()
    run = lsuv(model(text, **tensors, **norm(32, "n")), batch)
    decides = times(run.weight("v"), np.maximum(batch["x"], 0))
    assert run.weight("nm") == pytest.approx(decides.mean((0, 2, 3)), rel=1e-4, abs=1e-5)


def test_a_filter_of_zeros_is_not_measured_again() -> None:
    weight = normal(64, 16, 1, 1)
    weight[3] = 0
    tensors = {"w": weight, "u": normal(4, 64, 1, 1), **norm(64, "n"), **LIMITS}
    assert calibrations(model(BLOCK, **tensors), {"x": normal(32, 16, 32, 32)}) == 1


# ------------------------------------------------------------------------------------------- what the graph looks like


def nodes(text: str, n: int = 32, side: int = 32, **tensors: Array) -> list[NodeProto]:
    """Return the nodes of the calibration graph of one batch of so many images."""
    plan = onnx_lsuv.plan(onnx_lsuv.from_proto(model(text, side=side, **tensors)), residual="off").plan
    shapes, targets = {"x": (1, (n, 16, side, side))}, dict.fromkeys(plan.weights, 1.0)
    stages = build(plan, shapes, rescale=True, staged=False, targets=targets, block=16).stages
    return [node for stage in stages for node in stage.nodes]


def test_an_output_is_written_once_and_not_measured() -> None:
    text = f"{BLOCK.replace('y =', 'd =')} e = Conv(d, v) f = BatchNormalization(e, ms, mt, mm, mv) g = Add(f, c)"
    text += " h = Relu(g) y = Conv(h, u2)"
    weights = {"w": (64, 16), "u": (16, 64), "v": (64, 16), "u2": (4, 64)}
    tensors = {name: normal(*shape, 1, 1) for name, shape in weights.items()}
    graph = nodes(text, **tensors, **norm(64, "n"), **norm(64, "m"), **LIMITS)
    found = [{a.name: helper.get_attribute_value(a) for a in node.attribute} for node in graph]
    layers = [
        (node, own)
        for node, own in zip(graph, found, strict=True)
        if (node.domain, node.op_type) == (DOMAIN, "Conv") and own.get("kernel_shape", [1])[0] == 1
    ]
    assert [len(node.input) for node, _ in layers] == [3, 2, 4, 2]
    assert [own.get("activation") for _, own in layers] == [b"Clip", None, b"Relu", None]
    images = {node.output[0] for node, _ in layers if len(node.input) > 2}
    readers = [node.op_type for node in graph for name in node.input if name in images]
    assert sorted(readers) == ["Conv", "Conv", "Conv"]  # the next layers, and the sum


def test_an_output_of_a_wide_input_is_measured() -> None:
    weights = {"w": normal(192, 16, 1, 1), "v": normal(4, 192, 1, 1), "u": normal(4, 4, 1, 1)}
    graph = nodes("a = Conv(x, w) b = Relu(a) c = Conv(b, v) d = Relu(c) y = Conv(d, u)", **weights)
    products = [node for node in graph if node.op_type == "FusedMatMul" and len(set(node.input)) == 1]
    assert len(products) == 1
    assert any(node.op_type == "Relu" for node in graph)


def test_few_values_are_measured() -> None:
    tensors = {"w": normal(64, 16, 1, 1), "u": normal(4, 64, 1, 1)}
    graph = nodes("a = Conv(x, w) b = Relu(a) y = Conv(b, u)", n=1, **tensors)
    assert not any(node.op_type == "FusedMatMul" for node in graph)


def test_places_that_only_short_groups_divide_are_not_cut() -> None:
    """A product for each place would be C times as large as the image."""
    tensors = {"w": normal(64, 16, 1, 1), "u": normal(4, 64, 1, 1)}
    graph = nodes("a = Conv(x, w) y = Conv(a, u)", n=2, side=257, **tensors)
    products = [node for node in graph if node.op_type == "FusedMatMul"]
    assert products
    assert all(a.name == "transB" for node in products for a in node.attribute)
