"""Flax's modules in one call: their outputs are the file's in a plain session. Needs flax and jax2onnx."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from oracle import normal

pytest.importorskip("jax2onnx", reason="jax2onnx is not installed: pip install flax jax2onnx")

import jax
from flax import linen as nn
from flax import nnx

import onnx_lsuv
import onnx_lsuv.flax

# What they warn of is theirs; a warning of onnx-lsuv would be an error in the other tests.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]


class Dense(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.Dense(3)(nn.relu(nn.Dense(8)(x)))


class Convolved(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.Conv(5, (3, 3))(nn.relu(nn.Conv(12, (3, 3), feature_group_count=3)(x)))


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x: Any, train: bool) -> Any:
        for _ in range(11):  # paths do not sort as they are called
            x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Conv(6, (3, 3), use_bias=False)(x)))
        return nn.Dense(4)(x.reshape((x.shape[0], -1)))


class Attends(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        y = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(num_heads=3)(y, y)
        return nn.Dense(8)(nn.gelu(nn.Dense(16)(nn.LayerNorm()(x))))


class Embeds(nn.Module):
    @nn.compact
    def __call__(self, words: Any) -> Any:
        return nn.Dense(5)(nn.relu(nn.Dense(8)(nn.Embed(20, 8)(words))))


WORDS = np.random.default_rng(0).integers(0, 20, (16, 6)).astype(np.int32)
CASES = {
    "dense": (Dense(), (normal(64, 6),), 2),
    "conv": (Convolved(), (normal(8, 8, 8, 3),), 2),
    "batch norm": (Normed(), (normal(8, 8, 8, 6), False), 12),
    "attention": (Attends(), (normal(16, 6, 12),), 6),
    "embed": (Embeds(), (WORDS,), 2),
}


def ran(result: onnx_lsuv.Result, folder: Path, data: Any) -> Any:
    onnx_lsuv.save(result.model, folder / "m.onnx", force=True)
    session = onnxruntime.InferenceSession(str(folder / "m.onnx"), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: data})[0]


@pytest.mark.parametrize("name", CASES)
def test_linen_computes_what_the_file_does(tmp_path: Path, name: str) -> None:
    module, batch, layers = CASES[name]
    variables = module.init(jax.random.key(0), *batch)
    new, result = onnx_lsuv.flax.initialize(module, variables, batch, seed=1)
    assert result.good
    assert len(result.layers) == layers
    assert jax.tree.structure(new) == jax.tree.structure(variables)
    expected = ran(result, tmp_path, batch[0])
    np.testing.assert_allclose(module.apply(new, *batch), expected, rtol=0, atol=1e-5 * max(1, expected.std()))
    assert all(row.weight.startswith("params/") for row in result.layers)


def test_nnx_in_place_stays_in_its_mode(tmp_path: Path) -> None:
    class Net(nnx.Module):
        def __init__(self) -> None:
            rngs = nnx.Rngs(0)
            self.conv, self.norm = nnx.Conv(3, 8, (3, 3), rngs=rngs), nnx.BatchNorm(8, rngs=rngs)
            self.drop, self.out = nnx.Dropout(0.5, rngs=rngs), nnx.Linear(512, 4, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return self.out(self.drop(nnx.relu(self.norm(self.conv(x)))).reshape((len(x), -1)))

    net, data = Net(), normal(16, 8, 8, 3)
    result = onnx_lsuv.flax.initialize_(net, data, seed=1)
    assert result.good
    assert {row.weight for row in result.layers} == {"conv/kernel", "out/kernel"}
    assert not net.drop.deterministic
    net.eval()
    np.testing.assert_allclose(net(data), ran(result, tmp_path, data), rtol=0, atol=1e-5)


def test_what_cannot_be_exported_is_said_in_a_sentence() -> None:
    with pytest.raises(onnx_lsuv.ModelError, match="cannot export Dense"):
        onnx_lsuv.flax.initialize(Dense(), {}, normal(8, 6))
