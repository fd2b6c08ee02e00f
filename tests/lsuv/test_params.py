"""The names of what is trained and what is frozen: initializers of the saved file, and training of just these works."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, numpy_helper
from oracle import all_float_tensors, normal, parse

import onnx_lsuv
from onnx_lsuv.errors import OutputError, UsageError
from onnx_lsuv.lsuv.params import params_of

HEAD = '<ir_version: 10, opset_import: ["" : 17]>'
NET = f"""{HEAD} g (float[N,1,6,6] x, int64[N] i) => (float y) {{
  b = Conv(x, blur) a = Conv(b, w1, b1) n = BatchNormalization(a, s1, t1, m1, v1) p = PRelu(n, slope)
  g = GlobalAveragePool(p) f = Reshape(g, shape) z = MatMul(f, w3) zb = Add(z, b3) h = Gather(table, i) k = Add(zb, h)
  l = LayerNormalization(k, s2, t2) c = Clip(l, low, high) y = MatMul(c, w4) }}"""
BLUR = np.outer([1, 2, 1], [1, 2, 1]).astype(np.float32)[None, None] / 16
TENSORS = {
    **{"blur": BLUR, "w1": normal(8, 1, 3, 3), "w3": normal(8, 16), "w4": normal(16, 4), "table": normal(20, 16)},
    **{name: normal(8, seed=i) for i, name in enumerate(("b1", "s1", "t1", "m1"))},
    **{"v1": normal(8) ** 2 + 1, "slope": np.full((8, 1, 1), 0.25, np.float32), "b3": normal(16)},
    **{"s2": np.ones(16, np.float32), "t2": np.zeros(16, np.float32)},
    **{"low": np.float32(-3), "high": np.float32(3), "shape": np.int64([-1, 8])},
}
DATA = {"x": normal(64, 1, 6, 6), "i": np.arange(64, dtype=np.int64) % 20}
ROLES = {
    "embedding": {"table"},
    "weight": {"w1", "w3", "w4"},
    "bias": {"b1", "b3"},
    "scale": {"s1", "s2"},
    "shift": {"t1", "t2"},
    "slope": {"slope"},
    "statistics": {"m1", "v1"},
    "fixed": {"blur"},
}
FROZEN = {"m1", "v1", "blur"}


def check(params: Mapping[str, Any], model: ModelProto, settings: set[str]) -> None:
    """Every name is that of one float initializer, in one list; all are there but mere settings."""
    floats = {t.name for t in model.graph.initializer if numpy_helper.to_array(t).dtype.kind not in "iubO"}
    trained, frozen = params["requires_grad"], params["frozen_params"]
    assert len({*trained, *frozen}) == len(trained) + len(frozen)
    assert {*trained, *frozen} == floats - settings
    assert sorted(name for names in params["roles"].values() for name in names) == sorted([*trained, *frozen])


@pytest.mark.parametrize("choices", [{}, {"fresh": True}, {"keep_bias": True, "exclude": ["w1", "n"]}], ids=str)
def test_names_are_those_of_the_saved_file(tmp_path: Path, choices: dict[str, Any]) -> None:
    result = onnx_lsuv.initialize(onnx_lsuv.from_proto(parse(NET, TENSORS)), DATA, **choices)
    onnx_lsuv.save(result.model, tmp_path / "m.onnx")
    path = onnx_lsuv.save_params(result, tmp_path / "p.json")
    params = json.loads(path.read_text())
    assert list(params) == ["requires_grad", "frozen_params", "roles", "not_initializers"]
    assert {role: set(names) for role, names in params["roles"].items()} == ROLES
    assert set(params["frozen_params"]) == FROZEN
    assert params["not_initializers"] == []
    check(params, onnx.load(tmp_path / "m.onnx"), {"low", "high"})
    # A model is as good as a result, and so is the file.
    for same in (result.model, onnx_lsuv.load(tmp_path / "m.onnx"), onnx_lsuv.plan(result.model)):
        assert params_of(same) == params


def test_names_of_the_portable_form(tmp_path: Path) -> None:
    result = onnx_lsuv.initialize(onnx_lsuv.from_proto(parse(NET, TENSORS)), DATA)
    form = onnx_lsuv.make_portable(result)
    onnx_lsuv.save(form.model, tmp_path / "m.onnx")
    params = json.loads(onnx_lsuv.save_params(form.model, tmp_path / "p.json").read_text())
    check(params, onnx.load(tmp_path / "m.onnx"), {"low", "high"})
    assert set(params["frozen_params"]) == FROZEN
    assert {"w1", "w3", "w4", "table", "slope"} <= set(params["requires_grad"])


def test_what_is_no_initializer_is_named_apart(tmp_path: Path) -> None:
    text = f"""{HEAD} g (float[N,2] x) => (float y) {{ w = Constant<value = float[2,2] {{1.0, 2.0, 3.0, 5.0}}>()
      s = Constant<value = float[2] {{1.5, 2.3}}>() c = Constant<value = float[2] {{0.0, 0.0}}>()
      a = MatMul(x, w) t = Identity(s) l = LayerNormalization(a, t, z) k = LayerNormalization(l, t, c)
      y = MatMul(k, v) }}"""
    model = onnx_lsuv.from_proto(parse(text, z=normal(2), v=normal(2, 2)))
    before = params_of(model)
    assert before["requires_grad"] == ["v", "z"]
    assert before["not_initializers"] == ["w", "s"]
    result = onnx_lsuv.initialize(model, {"x": normal(64, 2)})
    onnx_lsuv.save(result.model, tmp_path / "m.onnx")
    params = params_of(result)
    # A Constant that gets new values becomes an initializer when it is saved.
    assert {*params["requires_grad"]} == {"w", "v", "z"}
    assert params["not_initializers"] == ["s"]
    check(params, onnx.load(tmp_path / "m.onnx"), set())


def test_training_what_is_named_lowers_the_loss(tmp_path: Path) -> None:
    """Some steps down the slope by finite differences: each tensor that is named has one, and the others stay."""
    result = onnx_lsuv.initialize(onnx_lsuv.from_proto(parse(NET, TENSORS)), DATA)
    model = onnx.load_from_string(onnx_lsuv.to_bytes(result.model))
    params = params_of(result)
    values = {name: array.astype(np.float32) for name, array in all_float_tensors(model).items()}
    for tensor in model.graph.initializer:
        if tensor.name in params["requires_grad"]:
            shape = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            model.graph.input.append(shape)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    target = normal(64, 4, seed=9)

    def loss(changed: Mapping[str, Any]) -> float:
        (y,) = session.run(None, {**DATA, **changed})
        return float(((y - target) ** 2).mean(dtype=np.float64))

    random = np.random.default_rng(0)
    trained = {name: values[name] for name in params["requires_grad"]}
    first = loss(trained)
    met = set()
    for _ in range(12):
        for name, value in list(trained.items()):
            way = random.normal(size=value.shape)
            way = (way / np.sqrt((way**2).sum()) / 50).astype(np.float32)
            rise = loss({**trained, name: value + way}) - loss({**trained, name: value - way})
            met |= {name} if abs(rise) > 1e-6 else set()
            trained[name] = value - np.float32(250 * rise) * way
    assert met == set(trained)
    assert loss(trained) < 0.9 * first


def test_what_cannot_be_written(tmp_path: Path) -> None:
    model = onnx_lsuv.from_proto(parse(NET, TENSORS))
    with pytest.raises(UsageError, match=r"written as \.json, but 'p\.txt' ends otherwise"):
        onnx_lsuv.save_params(model, "p.txt")
    path = onnx_lsuv.save_params(model, tmp_path / "p.json")
    with pytest.raises(OutputError, match="exists"):
        onnx_lsuv.save_params(model, path)
    onnx_lsuv.save_params(model, path, force=True)
    with pytest.raises(UsageError):
        onnx_lsuv.save_params(tmp_path / "m.onnx", path)  # type: ignore[arg-type]
    with pytest.raises(OutputError, match="make it first"):
        onnx_lsuv.save_params(model, tmp_path / "none" / "p.json")
    assert [each.name for each in tmp_path.iterdir()] == ["p.json"]
