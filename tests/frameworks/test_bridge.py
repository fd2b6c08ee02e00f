"""Modules initialised in place by `onnx_lsuv.torch.initialize_`: their outputs are the file's in a plain session.

Needs the extra `train`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'onnx-lsuv[train]'")

import exports
import names
import torch
from torch import Tensor, nn

import onnx_lsuv
import onnx_lsuv.torch
from onnx_lsuv import ModelError, UsageError

# What PyTorch warns of is its own; a warning of onnx-lsuv would be an error in the other tests.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]
MODULES = {**names.MODULES, **{name: exports.MODELS[name] for name in ("mobilenet", "unet", "decoder", "gru", "vit")}}


def ran(result: onnx_lsuv.Result, folder: Path, **given: Any) -> Any:
    """Return the outputs of the file by a plain session."""
    onnx_lsuv.save(result.model, folder / "m.onnx", force=True)
    session = onnxruntime.InferenceSession(str(folder / "m.onnx"), providers=["CPUExecutionProvider"])
    return session.run(None, {name: each.numpy() for name, each in given.items()})[0]


@pytest.mark.parametrize("name", MODULES)
def test_the_module_computes_what_the_file_does(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    net = MODULES[name]
    module, data = net.make().train(), exports.samples(net, 8)
    before = {key: (each, each.detach().clone()) for key, each in module.named_parameters()}
    result = onnx_lsuv.torch.initialize_(module, data, seed=1)
    assert result.good
    assert len(result.layers) == net.layers
    assert module.training
    with torch.no_grad():
        reached = module.eval()(data).numpy()
    expected = ran(result, tmp_path, **{result.model.proto.graph.input[0].name: data})
    np.testing.assert_allclose(reached, expected, rtol=0, atol=1e-5 * expected.std())
    assert all(each is before[key][0] for key, each in module.named_parameters()), "a parameter is another object"
    changed = {key for key, (each, old) in before.items() if not torch.equal(each.detach(), old)}
    assert {row.weight for row in result.layers if row.weight in before} <= changed


class Two(nn.Module):
    """Parts in a mode of their own, weight normalisation, a buffer that is not stored, and two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
        self.frozen, self.norm, self.out = nn.Linear(8, 8), nn.BatchNorm1d(8).eval(), nn.Linear(8, 4)
        self.register_buffer("shift", torch.ones(8), persistent=False)
        self.frozen.requires_grad_(False)

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        x = torch.tanh(self.second(torch.relu(self.first(x)))) + self.shift
        return self.out(torch.relu(self.norm(self.frozen(x)))) * scale


@pytest.mark.parametrize("named", [False, True])
def test_arguments_modes_and_settings(tmp_path: Path, named: bool) -> None:
    torch.manual_seed(0)
    module = Two().train()
    module.norm.eval()
    modes = [each.training for each in module.modules()]
    x, scale = torch.randn(64, 6), torch.rand(64, 1) + 0.5
    frozen = module.frozen.weight.detach().clone()
    batch = {"scale": scale, "x": x} if named else (x, scale)
    result = onnx_lsuv.torch.initialize_(module, batch, seed=1, exclude=["frozen.*"], target={"out.*": 0.5})
    assert [each.training for each in module.modules()] == modes
    assert torch.equal(module.frozen.weight, frozen)
    assert not module.frozen.weight.requires_grad
    with torch.no_grad():
        hidden = module.first(x)
        reached = module.eval()(x, scale).numpy()
    assert abs(hidden.std().item() - 1) < 0.01
    np.testing.assert_allclose(reached, ran(result, tmp_path, x=x, scale=scale), rtol=0, atol=1e-5)


def test_half_precision_stays_half() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8)).to(torch.bfloat16)
    data = torch.randn(256, 16, dtype=torch.bfloat16)
    assert onnx_lsuv.torch.initialize_(module, data).good
    assert {each.dtype for each in module.parameters()} == {torch.bfloat16}
    assert abs(module(data).float().std().item() - 1) < 0.02


def test_tied_parameters_stay_tied() -> None:
    torch.manual_seed(0)
    net = names.MODULES["gpt, tied"]
    module = net.make()
    onnx_lsuv.torch.initialize_(module, exports.samples(net, 8))
    assert module.head.weight is module.words.weight


def test_what_cannot_be_exported_leaves_the_module_as_it_was() -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) if x.sum().item() > 0 else x

    module = Reads().train()
    before = module.layer.weight.detach().clone()
    with pytest.raises(ModelError, match="cannot export Reads"):
        onnx_lsuv.torch.initialize_(module, torch.randn(8, 4))
    assert module.training
    assert torch.equal(module.layer.weight, before)
    with pytest.raises(UsageError, match="a tensor, a tuple"):
        onnx_lsuv.torch.initialize_(module, [torch.randn(8, 4)])


def test_a_large_module_goes_through_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for limit in (onnx_lsuv.torch.LARGE, 0):
        monkeypatch.setattr(onnx_lsuv.torch, "LARGE", limit)
        torch.manual_seed(0)
        module, data = names.perceptron(), torch.randn(64, 16)
        result = onnx_lsuv.torch.initialize_(module, data, seed=1)
        found.append((module.state_dict(), ran(result, tmp_path, **{result.model.proto.graph.input[0].name: data})))
    for name, each in found[0][0].items():
        assert torch.equal(each, found[1][0][name])
    np.testing.assert_array_equal(found[0][1], found[1][1])
