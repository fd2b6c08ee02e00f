"""Shares of dead units and of saturated values are what float64 NumPy finds in the values of a plain session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import oracle
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper
from oracle import normal, parse
from random_graphs import random_case

import onnx_lsuv
from onnx_lsuv import LayerReport
from onnx_lsuv.errors import LsuvError

Array = NDArray[Any]
Batches = Sequence[Mapping[str, Array]]
# By operator: the bounds of its operand beyond which it is at an end; None where it gives nothing below the first.
ENDS = {"Relu": (None, np.inf), "Tanh": (-np.arctanh(0.99), np.arctanh(0.99)), "Sigmoid": (-np.log(99), np.log(99))}


def model_of(text: str, opset: int = 17, kind: type[Any] = np.float32, **tensors: Array) -> ModelProto:
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> g {text}')
    for name in dict.fromkeys(n for node in model.graph.node for n in node.input):
        if name[:1] in "wb" and name[1:2].isdigit() and name not in tensors:
            shape = map(int, name[1:].partition("_")[0].split("x"))
            tensors[name] = normal(*shape, seed=len(tensors)).astype(kind)
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(a), name) for name, a in tensors.items())
    return model


def batches_of(*shape: int, sizes: Sequence[int] = (6,), kind: type[Any] = np.float32) -> list[dict[str, Array]]:
    return [{"x": normal(n, *shape, seed=i).astype(kind)} for i, n in enumerate(sizes)]


def rows(model: ModelProto, batches: Batches) -> tuple[LayerReport, ...]:
    return onnx_lsuv.measure(onnx_lsuv.from_proto(model), list(batches)).layers


def operand(model: ModelProto, batches: Batches, name: str, axis: int) -> Array:
    """Return all that an activation is given, as (unit, value)."""
    parts = (np.moveaxis(np.asarray(each, np.float64), axis, 0) for each in oracle.values(model, batches, [name])[name])
    return np.concatenate([part.reshape(len(part), -1) for part in parts], 1)


def silenced(found: Array, low: float = 0.0) -> float:
    return float((found.max(1) <= low).mean())


def at_an_end(found: Array, low: float, high: float) -> float:
    return float(((found < low) | (found > high)).mean())


@pytest.mark.few(3)
@pytest.mark.parametrize("start", range(0, 200, 5))
def test_random_graphs(start: int) -> None:
    """What directly follows a layer of the main graph is measured, and nothing else is made up."""
    for seed in range(start, start + 5):
        case = random_case(seed)
        try:
            found = {row.name: row for row in rows(case.model, case.batches)}
        except LsuvError:
            continue
        names = {label: name for label, name in oracle.layer_values(case.model).items() if "/" not in label}
        told = set()
        for node in case.model.graph.node:
            for label, value in names.items():
                row = found.get(label)
                if node.op_type not in ENDS or node.input[0] != value or row is None or row.std is None:
                    continue
                axis = 1 if row.op in ("Conv", "ConvTranspose", "FusedConv") else -1
                if row.op not in ("Conv", "ConvTranspose", "Gemm", "MatMul") or (axis < 0 and row.path):
                    continue
                given, (low, high) = operand(case.model, case.batches, value, axis), ENDS[node.op_type]
                if low is None and row.dead is not None:
                    told.add(label)
                    assert row.dead == silenced(given), (seed, row)
                if low is not None and row.saturated is not None:
                    told.add(label)
                    assert row.saturated == pytest.approx(at_an_end(given, low, high), abs=1e-6), (seed, row)


NETS = {
    "a convolution": ("y = Conv(x, w8x3x3x3, b8) z = Relu(y)", "y", 1),
    "a norm between": ("c = Conv(x, w8x3x3x3) y = BatchNormalization(c, s, t, m, v) z = Relu(y)", "y", 1),
    "a sum of branches": ("c = Conv(x, w8x3x1x1) d = Conv(x, w8x3x1x1_2, b8) y = Add(c, d) z = Relu(y)", "y", 1),
    "features": ("t = Transpose<perm = [0, 2, 3, 1]>(x) y = MatMul(t, w3x8) z = Relu(y)", "y", -1),
    "a bias after it": (
        "t = Transpose<perm = [0, 2, 3, 1]>(x) p = MatMul(t, w3x8) y = Add(p, b8) z = Relu(y)", "y", -1
    ),
    "a weight on the left": ("f = Flatten(x) t = Transpose(f) y = MatMul(w9x108, t) z = Relu(y)", "y", 0),
}  # fmt: skip


@pytest.mark.parametrize("sizes", [(3,), (2, 2), (3, 1), (1, 1, 1)])
@pytest.mark.parametrize("net", NETS)
def test_units_that_give_nothing(net: str, sizes: Sequence[int]) -> None:
    text, name, axis = NETS[net]
    norm = {"s": normal(8), "t": normal(8, seed=1) - 2, "m": normal(8, seed=2), "v": normal(8, seed=3) ** 2 + 1}
    used = {key: value.astype(np.float32) for key, value in norm.items() if "BatchNormalization" in text}
    model = model_of(f"(float[N,3,6,6] x) => (float z) {{ {text} }}", **used)
    biases = [each for each in model.graph.initializer if each.name in ("b8", "t")]
    for each in biases:  # so that some units are dead
        each.CopyFrom(numpy_helper.from_array(np.float32([-30, 0, 0, -25, 0, 0, 0, -40]), each.name))
    batches = batches_of(3, 6, 6, sizes=sizes)
    row = [each for each in rows(model, batches) if each.dead is not None][-1]
    given = operand(model, batches, name, axis)
    assert row.dead == silenced(given)
    assert row.saturated is None
    assert row.dead >= (0.25 if biases else 0)


ACTIVATIONS = {
    "Tanh(y)": (None, -np.arctanh(0.99), np.arctanh(0.99)),
    "Sigmoid(y)": (None, -np.log(99), np.log(99)),
    "HardSigmoid(y)": (None, -2.5, 2.5),
    "HardSigmoid<alpha = 0.5, beta = 0.25>(y)": (None, -0.5, 1.5),
    "Softsign(y)": (None, -99, 99),
    "Clip(y, low, high)": (None, -1.0, 2.0),
    "Clip(y, , high)": (None, -np.inf, 2.0),
    "Clip(y, nought, high)": (0.0, -np.inf, 2.0),
    "Clip(y, nought)": (0.0, None, None),
    "HardSwish(y)": (-3.0, None, None),
    "Elu(y)": (-np.log(100), None, None),
    "ThresholdedRelu<alpha = 2.0>(y)": (2.0, None, None),
    "LeakyRelu(y)": (None, None, None),
}
LIMITS = {"low": np.float32(-1), "high": np.float32(2), "nought": np.float32(0)}


@pytest.mark.parametrize(
    ("activation", "kind"),
    [*((each, "float") for each in ACTIVATIONS), *((f"{each}(y)", "double") for each in ("Tanh", "Sigmoid"))]
    + [(each, "float16") for each in ("Tanh(y)", "Clip(y, low, high)", "Elu(y)")],
)
def test_activations(activation: str, kind: str) -> None:
    dtype = {"float": np.float32, "double": np.float64, "float16": np.float16}[kind]
    dead, low, high = ACTIVATIONS[activation]
    limits = {name: value.astype(dtype) for name, value in LIMITS.items() if name in activation}
    bias = np.linspace(-14, 8, 40).astype(dtype)
    model = model_of(
        f"({kind}[N,8] x) => ({kind} z) {{ y = Gemm(x, w8x40, b) z = {activation} }}", kind=dtype, b=bias, **limits
    )
    batches = batches_of(8, sizes=(40, 30), kind=dtype)
    (row,) = rows(model, batches)
    given = operand(model, batches, "y", -1)
    assert row.dead == (None if dead is None else silenced(given, dead))
    if low is None:
        assert row.saturated is None
    else:
        # ONNX Runtime leaves out the rounding to half precision.
        assert row.saturated == pytest.approx(at_an_end(given, low, high), abs=1e-3 if kind == "float16" else 1e-6)
        assert row.saturated > 0 or high > 50


@pytest.mark.parametrize(
    "text",
    [
        "y = MatMul(x, w8x8) s = Sigmoid(y) z = Mul(y, s)",  # which has no end above
        "y = MatMul(x, w8x8) t = Transpose(y) z = Relu(t)",  # no longer units along that axis
        "y = MatMul(x, w8x8) p = MatMul(y, w8x8_2) z = Relu(p)",  # of the first, nothing but a layer follows
        "y = MatMul(x, w8x8) z = Softmax(y)",
    ],
)
def test_what_is_no_activation_of_a_layer(text: str) -> None:
    row = rows(model_of(f"(float[N,8] x) => (float z) {{ {text} }}"), batches_of(8))[0]
    assert (row.dead, row.saturated) == (None, None)


@pytest.mark.parametrize("opset", [9, 17])
def test_of_much_some_is_counted(opset: int) -> None:
    """One of so many rows of units; before opset 10 the first ones."""
    text = "(float[N,5,64] x) => (float z) { t = Transpose<perm = [1, 0, 2]>(x) y = MatMul(t, w64x64) z = Tanh(y) }"
    model, batches = model_of(text, opset), batches_of(5, 64, sizes=(600, 500))
    (row,) = rows(model, batches)
    whole = oracle.values(model, batches, ["y"])["y"]
    some = [each[:, ::16] if opset > 9 else each[:, :38] for each in whole]
    assert {each.size for each in some} != {each.size for each in whole}
    ends = [at_an_end(np.asarray(each, np.float64), *ENDS["Tanh"]) for each in some]
    assert row.saturated == pytest.approx(np.average(ends, weights=[each.size for each in some]), abs=1e-6)
    of_all = np.concatenate([np.ravel(each) for each in whole])
    assert row.saturated == pytest.approx(at_an_end(of_all, *ENDS["Tanh"]), abs=0.02)


@pytest.mark.parametrize("channels", [2, 24])
def test_of_much_some_samples_tell_a_dead_unit(channels: int) -> None:
    values = {"b": np.full(channels, -50, np.float32), "low": np.float32(0), "high": np.float32(6)}
    text = f"(float[N,3,16,16] x) => (float z) {{ y = Conv(x, w{channels}x3x1x1, b) z = Clip(y, low, high) }}"
    model = model_of(text, **values)
    (batch,) = batches_of(3, 16, 16, sizes=(128,))
    batch["x"][0] *= 100
    for number, dead in ((128, True), (32, False)):
        some = {"x": batch["x"][:number]}
        (row,) = rows(model, [some])
        assert row.dead == silenced(operand(model, [{"x": some["x"][4::8]} if dead else some], "y", 1))
        assert (row.dead == 1) == dead


@pytest.mark.parametrize("opset", [7, 11, 13, 18, 22])
def test_every_opset(opset: int) -> None:
    model = model_of(
        "(float[N,8] x) => (float z) { y = MatMul(x, w8x8) r = Relu(y) p = MatMul(r, w8x9) z = Tanh(p) }", opset
    )
    batches = batches_of(8, sizes=(5, 4))
    first, second = rows(model, batches)
    assert first.dead == silenced(operand(model, batches, "y", -1))
    assert second.saturated == pytest.approx(at_an_end(operand(model, batches, "p", -1), *ENDS["Tanh"]), abs=1e-6)


def test_after_initialising_and_where_nothing_is_measured() -> None:
    model = onnx_lsuv.from_proto(model_of("(float[N,8] x) => (float z) { y = MatMul(x, w8x80) z = Relu(y) }"))
    (batch,) = batches_of(8, sizes=(2,))
    made = onnx_lsuv.initialize(model, batch)
    assert (made.layers[0].dead, onnx_lsuv.plan(model).layers[0].dead) == (None, None)
    (row,) = onnx_lsuv.measure(made.model, batch, like=made).layers
    saved = onnx.load_from_string(onnx_lsuv.to_bytes(made.model))
    assert row.dead == silenced(operand(saved, [batch], "y", -1))
    assert row.dead > 0


@pytest.mark.parametrize("act", ["Relu", "Tanh"])
def test_axes_without_a_length_are_looked_at_whole(act: str) -> None:
    images = [np.abs(normal(n, 8, 96, 96, seed=n)) for n in (32, 20)]
    for each in images:
        each[:, :, :40] = 0.001 * each[:, :, :40] - 0.01
    text = f"""<ir_version: 8, opset_import: ["" : 17]> g (float[N,8,H,W] x) => (float y)
        {{ a = Conv(x, w) r = {act}(a) y = Conv(r, u) }}"""
    model = parse(text, w=normal(16, 8, 1, 1), u=normal(4, 16, 1, 1))
    batches = [{"x": each.astype(np.float32)} for each in images]
    row = onnx_lsuv.measure(onnx_lsuv.from_proto(model), batches).layers[0]
    found = oracle.values(model, batches, ["a"])["a"]
    if act == "Relu":
        assert row.dead == np.mean(np.max([each.max((0, 2, 3)) for each in found], 0) <= 0)
    else:
        share = np.mean([np.mean(np.abs(each) > np.arctanh(0.99)) for each in found for _ in each])
        assert row.saturated == pytest.approx(share, rel=0.05)
