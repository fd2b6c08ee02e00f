"""bfloat16 on the CPU: computed in float32, stored in bfloat16. The oracle is NumPy in float64 on the saved numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from commands import invoke
from onnx import ModelProto, TensorProto, helper, numpy_helper
from oracle import parse

import onnx_lsuv

Array = np.ndarray[Any, Any]
BF16 = ml_dtypes.bfloat16
NOTE = "computed in float32"
TOLERANCE = 0.02  # on the variance, as for half precision


def rounded(*shape: int, scale: float = 1.0, seed: int = 0) -> Array:
    return (scale * np.random.default_rng([seed, *shape]).normal(size=shape)).astype(BF16)


def weights_of(model: ModelProto) -> dict[str, Array]:
    """Return all tensors that the main graph holds, in float64."""
    found = {t.name: t for t in model.graph.initializer}
    found |= {n.output[0]: n.attribute[0].t for n in model.graph.node if n.op_type == "Constant"}
    return {name: np.asarray(numpy_helper.to_array(t), np.float64) for name, t in found.items()}


def run(model: ModelProto, batches: Any, **options: Any) -> tuple[onnx_lsuv.Result, ModelProto]:
    """Initialise a model, save it in memory and measure it; the model comes back as the file holds it."""
    loaded = onnx_lsuv.from_proto(model)
    result = onnx_lsuv.initialize(loaded, batches, **options)
    saved = onnx_lsuv.to_bytes(result.model)
    measured = onnx_lsuv.measure(onnx_lsuv.from_proto(onnx.load_from_string(saved)), batches, like=result)
    return measured, onnx.load_from_string(saved)


def relu(a: Array) -> Array:
    return np.maximum(a, 0)


def plain() -> ModelProto:
    text = """<ir_version: 9, opset_import: ["" : 17]>
        g (bfloat16[N,24] x) => (bfloat16[N,8] y) { h = Gemm(x, w, b) r = Relu(h) y = MatMul(r, v) }"""
    return parse(text, w=rounded(24, 32), b=rounded(32), v=rounded(32, 8))


def plain_values(model: ModelProto, x: Array) -> dict[str, Array]:
    t = weights_of(model)
    h = x @ t["w"] + t["b"]
    return {"h": h, "y": relu(h) @ t["v"]}


def mixed() -> ModelProto:
    """float32 in and out, bfloat16 between; a Constant node, a ConstantOfShape, and nodes that name or follow types."""
    text = """<ir_version: 9, opset_import: ["" : 17]>
        g (float[N,24] x) => (float[N,8] y)
        {
            half = Cast <to = 16> (x)
            h = MatMul(half, w)
            b = ConstantOfShape <value = bfloat16[1] {16128}> (length)
            s = Add(h, b)
            n = LayerNormalization <axis = -1, stash_type = 16> (s, gain)
            like = CastLike(ones, n)
            m = Mul(n, like)
            eye = EyeLike <dtype = 16> (square)
            e = MatMul(m, eye)
            k = MatMul(e, v)
            f = Cast <to = 1> (k)
            r = Relu(f)
            y = MatMul(r, u)
        }"""
    model = parse(
        text,
        w=rounded(24, 32),
        length=np.array([32]),
        gain=np.ones(32, BF16),
        ones=np.ones(32, np.float32),
        square=np.zeros((32, 32), np.int64),
        u=np.asarray(rounded(16, 8), np.float32),
    )
    constant = helper.make_node("Constant", [], ["v"], value=numpy_helper.from_array(rounded(32, 16), "v"))
    model.graph.node.insert(0, constant)
    return model


def mixed_values(model: ModelProto, x: Array) -> dict[str, Array]:
    t = weights_of(model)
    h = x @ t["w"]
    s = h + t.get("b", 0.5)
    centred = s - s.mean(-1, keepdims=True)
    n = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    k = n @ t["v"]
    return {"k": k, "y": relu(k) @ t["u"]}


def branches() -> ModelProto:
    """Layers in an If, a Loop over a bfloat16 state and a function's body."""
    text = """<ir_version: 9, opset_import: ["" : 17, "local" : 1]>
        g (bfloat16[N,16] x) => (bfloat16[N,16] y)
        {
            zero = Constant <value = bfloat16 {0}> ()
            total = ReduceSum <keepdims = 0> (x)
            size = Abs(total)
            yes = GreaterOrEqual(size, zero)
            a = If (yes) <
                then_branch = one () => (bfloat16[N,16] p) { p = MatMul(x, w) },
                else_branch = two () => (bfloat16[N,16] q) { q = Identity(x) }
            >
            b = Loop (trips, yes, a) <
                body = each (int64 i, bool go, bfloat16[N,16] state) => (bool on, bfloat16[N,16] next)
                {
                    on = Identity(go)
                    c = MatMul(state, v)
                    next = Tanh(c)
                }
            >
            y = local.dense(b)
        }
        <domain: "local", opset_import: ["" : 17]>
        dense (t) => (z) { k = Constant <value_float = 1.0> () l = CastLike(k, t) m = MatMul(t, t2) z = Mul(m, l) }"""
    text = text.replace("dense (t) => (z)", "dense (t, t2) => (z)").replace("local.dense(b)", "local.dense(b, u)")
    return parse(text, w=rounded(16, 16), v=rounded(16, 16), u=rounded(16, 16), trips=np.array(3))


def branches_values(model: ModelProto, x: Array) -> dict[str, Array]:
    t = weights_of(model)
    p = x @ t["w"]
    c = p @ t["v"]
    state = np.tanh(c)
    for _ in range(2):
        state = np.tanh(state @ t["v"])
    return {"p": p, "c": c, "m": state @ t["u"]}


MODELS: list[tuple[Callable[[], ModelProto], Callable[[ModelProto, Array], dict[str, Array]]]] = [
    (plain, plain_values),
    (mixed, mixed_values),
    (branches, branches_values),
]


@pytest.mark.parametrize(("make", "values"), MODELS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("batches", [1, 3])
def test_computed_in_float32_and_stored_in_bfloat16(make: Any, values: Any, batches: int) -> None:
    model = make()
    width = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    data = [{"x": np.asarray(rounded(40, width, seed=i), np.float32)} for i in range(batches)]
    result, saved = run(model, data)
    assert {row.status for row in result.layers} == {"ok"}, result.layers
    assert any(NOTE in note for note in result.notes)
    found = [values(saved, np.asarray(batch["x"], np.float64)) for batch in data]
    for name in found[0]:
        var = np.concatenate([one[name] for one in found]).var()
        assert abs(var - 1) <= TOLERANCE, (name, var)
    stored = {t.name: t.data_type for t in (*model.graph.initializer, *saved.graph.initializer)}
    assert all(stored[row.weight] == TensorProto.BFLOAT16 for row in result.layers if row.dtype == "bfloat16")
    types = [v.type.tensor_type.elem_type for v in (*saved.graph.input, *saved.graph.output)]
    assert types == [v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)]


def test_measuring_is_numpys(tmp_path: Path) -> None:
    model = plain()
    x = rounded(50, 24)
    measured = onnx_lsuv.measure(onnx_lsuv.from_proto(model), {"x": x})
    for row, name in zip(measured.layers, ("h", "y"), strict=True):
        std = plain_values(model, np.asarray(x, np.float64))[name].std()
        assert row.std == pytest.approx(std, rel=1e-5)
    assert any(NOTE in note for note in measured.notes)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, BF16])
def test_data_of_any_float_type(dtype: Any) -> None:
    x = rounded(64, 24)
    result, _ = run(plain(), {"x": x.astype(dtype)})
    expected, _ = run(plain(), {"x": x})
    assert [row.std for row in result.layers] == [row.std for row in expected.layers]


def test_weights_too_large_for_the_skeleton() -> None:
    text = """<ir_version: 9, opset_import: ["" : 17]>
        g (bfloat16[N,128] x) => (bfloat16[N,96] y) { y = MatMul(x, w) }"""
    data = {"x": rounded(64, 128)}
    result, saved = run(parse(text, w=rounded(128, 96)), data)
    (row,) = result.layers
    y = np.asarray(data["x"], np.float64) @ weights_of(saved)["w"]
    assert row.status == "ok"
    assert y.var() == pytest.approx(1, abs=TOLERANCE)
    assert row.std == pytest.approx(y.std(), rel=1e-5)


def test_norms_of_bfloat16() -> None:
    text = """<ir_version: 9, opset_import: ["" : 17]>
        g (bfloat16[N,3,8,8] x) => (bfloat16[N,4,6,6] y)
        { c = Conv(x, w) y = BatchNormalization(c, scale, shift, mean, var) }"""
    ones, zeros = np.ones(4, BF16), np.zeros(4, BF16)
    model = parse(text, w=rounded(4, 3, 3, 3), scale=ones, shift=zeros, mean=zeros, var=ones)
    _, saved = run(model, {"x": rounded(32, 3, 8, 8) + BF16(2)})
    t, x = weights_of(saved), np.asarray(rounded(32, 3, 8, 8) + BF16(2), np.float64)
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))
    c = np.einsum("nchwij,ocij->nohw", windows, t["w"])
    assert np.allclose(t["mean"], c.mean((0, 2, 3)), rtol=0.01, atol=0.01)
    assert np.allclose(t["var"], c.var((0, 2, 3)), rtol=0.01)


def test_command_line(tmp_path: Path) -> None:
    source, target = tmp_path / "m.onnx", tmp_path / "o.onnx"
    onnx.save(plain(), str(source))
    done = invoke([str(source), "--random", "-o", str(target)])
    assert done.status == 0, done.stderr
    assert NOTE in done.stdout
    assert invoke([str(target), "--random", "--check"]).status == 0
    assert invoke([str(source), "--dry-run"]).status == 0
    wide = tmp_path / "p.onnx"
    made = invoke([str(source), "--random", "--portable", "-o", str(wide)])
    assert made.status == 0, made.stderr
    assert {t.data_type for t in onnx.load(str(wide)).graph.initializer} == {TensorProto.FLOAT}


def test_a_model_without_bfloat16_gets_no_such_note() -> None:
    text = """<ir_version: 9, opset_import: ["" : 17]>
        g (float[N,24] x) => (float[N,8] y) { y = MatMul(x, w) }"""
    model = parse(text, w=np.asarray(rounded(24, 8), np.float32))
    result, _ = run(model, {"x": np.asarray(rounded(9, 24), np.float32)})
    assert not any(NOTE in note for note in result.notes)


def test_float32_behind_rounded_weights_has_their_tolerance() -> None:
    """Of four numbers that are rounded to 8 bits each, the variance is off by up to a percent; so is what follows."""
    text = """<ir_version: 9, opset_import: ["" : 17]>
        g (float[N,3] x) => (float[N,2] y)
        {
            c = Cast <to = 1> (w) h = MatMul(x, c) r = Tanh(h)
            d = Cast <to = 1> (v) k = MatMul(r, d) t = Tanh(k)
            y = MatMul(t, u)
        }"""
    model = parse(text, w=rounded(3, 2), v=rounded(2, 2), u=np.asarray(rounded(2, 2), np.float32))
    off = 0.0
    for seed in range(40):
        result, _ = run(model, {"x": np.random.default_rng(seed).normal(size=(40, 3)).astype(np.float32)}, seed=seed)
        assert [row.status for row in result.layers] == ["ok"] * 3
        off = max(off, *(abs(row.std**2 - 1) for row in result.layers if row.std))
    assert 0.005 < off < TOLERANCE
