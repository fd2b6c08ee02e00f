"""Keras 3 and Flax there and back by --state-dict: exporters lose their names, and axes are in another order.

Keras runs with the backend of PyTorch; each needs its packages beside PyTorch: keras, or flax and jax2onnx.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from commands import invoke
from oracle import normal

os.environ.setdefault("KERAS_BACKEND", "torch")
# What they warn of is theirs; a warning of onnx-lsuv would be an error in the other tests.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]


def there_and_back(data: Any) -> tuple[dict[str, Any], Any]:
    """Initialise net.onnx by the command; return what came back for net.npz, and the new file's outputs."""
    np.save("x.npy", data)
    ran = invoke(["net.onnx", "-d", "x.npy", "--state-dict", "net.npz", "--device", "cpu", "--center"])
    assert ran.status == 0, ran.stderr
    session = onnxruntime.InferenceSession("net.lsuv.onnx", providers=["CPUExecutionProvider"])
    with np.load("net.lsuv.npz") as new:
        return dict(new), session.run(None, {session.get_inputs()[0].name: data})[0]


def test_keras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="PyTorch, whose exporter Keras calls, is not installed")
    keras = pytest.importorskip("keras", reason="Keras is not installed: pip install keras")
    monkeypatch.chdir(tmp_path)
    keras.utils.set_random_seed(0)
    layers = keras.layers
    parts = [layers.Conv2D(8, 3, padding="same"), layers.BatchNormalization(), layers.ReLU(), layers.DepthwiseConv2D(3)]
    parts += [layers.Conv2D(8, 1, activation="relu"), layers.Reshape((3, 96)), layers.LSTM(12), layers.Dense(5)]
    net = keras.Sequential([keras.Input((8, 8, 3)), *parts])
    data = normal(16, 8, 8, 3)
    net(data)
    net.export("net.onnx", format="onnx", verbose=False)
    old = {each.path: keras.ops.convert_to_numpy(each) for each in net.weights}
    np.savez("net.npz", **old)
    new, expected = there_and_back(data)
    lacking = set(old) - set(new)
    assert all("batch_normalization" in name for name in lacking)
    for each in net.weights:
        if each.path in new:
            each.assign(new[each.path])
    reached = keras.ops.convert_to_numpy(net(data, training=False))
    np.testing.assert_allclose(reached, expected, rtol=0, atol=1e-5)


def test_flax(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jax2onnx = pytest.importorskip("jax2onnx", reason="jax2onnx is not installed: pip install flax jax2onnx")
    nn = pytest.importorskip("flax.linen")
    import jax  # noqa: PLC0415 - not everybody has it
    from flax.traverse_util import flatten_dict, unflatten_dict  # noqa: PLC0415

    monkeypatch.chdir(tmp_path)

    class Net(nn.Module):  # type: ignore[misc,name-defined]
        @nn.compact
        def __call__(self, x: Any) -> Any:
            x = nn.relu(nn.BatchNorm(use_running_average=True)(nn.Conv(16, (3, 3))(x)))
            x = nn.relu(nn.Conv(8, (3, 3))(x))
            return nn.Dense(5)(nn.relu(nn.Dense(12)(x.reshape((x.shape[0], -1)))))

    net, data = Net(), normal(16, 8, 8, 3)
    variables = net.init(jax.random.key(0), data)
    onnx.save(jax2onnx.to_onnx(lambda x: net.apply(variables, x), [("B", 8, 8, 3)]), "net.onnx")
    flat = flatten_dict(variables, sep="/")
    np.savez("net.npz", **{name: np.asarray(each) for name, each in flat.items()})
    new, expected = there_and_back(data)
    assert set(new) == set(flat)
    reached = net.apply(unflatten_dict({**flat, **new}, sep="/"), data)
    np.testing.assert_allclose(reached, expected, rtol=0, atol=1e-5)


def test_keras_in_place(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="PyTorch, whose exporter Keras calls, is not installed")
    keras = pytest.importorskip("keras", reason="Keras is not installed: pip install keras")
    import onnx_lsuv.keras  # noqa: PLC0415 - not everybody has it

    keras.utils.set_random_seed(0)
    layers, data, more = keras.layers, normal(16, 8, 8, 3), normal(16, 4)
    image, other = keras.Input((8, 8, 3), name="image"), keras.Input((4,), name="other")
    x = layers.Conv2D(8, 3, activation="relu")(image)
    x = layers.Flatten()(layers.Conv2D(16, 3, strides=2)(layers.BatchNormalization()(x)))
    net = keras.Model([image, other], layers.Dense(5)(layers.Concatenate()([x, layers.Dense(12)(other)])))
    for batch in ([data, more], {"image": data, "other": more}):
        result = onnx_lsuv.keras.initialize_(net, batch, seed=1)
        assert result.good
        assert len(result.layers) == 4
        onnx_lsuv.save(result.model, tmp_path / "net.onnx", force=True)
        session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
        feed = dict(zip((each.name for each in session.get_inputs()), (data, more), strict=True))
        reached = keras.ops.convert_to_numpy(net([data, more], training=False))
        np.testing.assert_allclose(reached, session.run(None, feed)[0], rtol=0, atol=1e-5)
    with pytest.raises(onnx_lsuv.ModelError, match="cannot export"):
        onnx_lsuv.keras.initialize_(net, data)
