"""scikit-learn there and back, by the recipe of the page; needs skl2onnx: pip install skl2onnx."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from commands import invoke
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier, MLPRegressor

import onnx_lsuv

skl2onnx = pytest.importorskip("skl2onnx", reason="skl2onnx is not installed: pip install skl2onnx")
PAGE = Path(__file__).parents[2] / "onnx_lsuv" / "importers" / "README.md"
# What skl2onnx warns of is its own; a warning of onnx-lsuv would be an error in the other tests.
pytestmark = pytest.mark.filterwarnings("ignore")


def test_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    images, y = load_digits(return_X_y=True)
    x = (images / 8 - 1).astype(np.float32)
    np.save("x.npy", x[:512])
    net = MLPClassifier((32, 16), random_state=0)
    text = PAGE.read_text(encoding="utf-8")
    recipe = re.findall(r"<!-- recipe: sklearn -->\n```python\n(.*?)```", text, re.DOTALL)[0]
    before, command, after = re.split(r"^# onnx-lsuv (.*)\n", recipe, flags=re.MULTILINE)
    names = {"np": np, "onnx": onnx, "skl2onnx": skl2onnx, "net": net, "x": x, "y": y}
    exec(before, names)
    ran = invoke([*command.split(), "--device", "cpu"])
    assert ran.status == 0, ran.stderr
    exec(after, names)
    session = onnxruntime.InferenceSession("net.lsuv.onnx", providers=["CPUExecutionProvider"])
    expected = session.run(None, {session.get_inputs()[0].name: x})[1]
    reached = net.predict_proba(x)
    np.testing.assert_allclose(reached, [[row[i] for i in range(10)] for row in expected], rtol=0, atol=1e-5)
    losses = [net.partial_fit(x, y).loss_ for _ in range(3)]
    assert losses == sorted(losses, reverse=True)


def test_a_bias_of_one_value_is_found_beside_its_weight() -> None:
    images, y = load_digits(return_X_y=True)
    x = (images / 8 - 1).astype(np.float32)
    net = MLPRegressor(hidden_layer_sizes=(32,), random_state=0).partial_fit(x[:64], y[:64])
    result = onnx_lsuv.initialize(onnx_lsuv.from_proto(skl2onnx.to_onnx(net, x[:1])), x[:256], device="cpu")
    own = {f"coefs_.{i}": each for i, each in enumerate(net.coefs_)}
    own |= {f"intercepts_.{i}": each for i, each in enumerate(net.intercepts_)}
    assert set(onnx_lsuv.state_dict(result, own).tensors) == set(own)
