"""New networks as PyTorch exports them, in each of four ways: the command draws every layer and leaves none alone.

Needs the extra `train`. `python tests/frameworks/exports.py` takes more networks, and batch axes that are fixed.
"""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'onnx-lsuv[train]'")

import exports
import names
import torch

import onnx_lsuv

# What PyTorch warns of is its own; a warning of onnx-lsuv would be an error in the other tests.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]
MODELS = ["resnet", "mobilenet", "unet", "vit, MultiheadAttention", "decoder, tied", "lstm", "gru"]
WAYS = ["dynamo", "dynamo, not optimised", "TorchScript, eval", "TorchScript, as README says"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("model", MODELS)
def test_every_layer_is_drawn(tmp_path: Path, model: str, way: str) -> None:
    row = exports.tried(model, way, tmp_path, free=True)
    assert not row.wrong, row.cells


@pytest.mark.parametrize("model", ["vit", "resnet"])
def test_another_export_helps_as_foretold(tmp_path: Path, model: str) -> None:
    net = names.MODULES.get(model, exports.MODELS[model])
    module, data, path = net.make().eval(), exports.samples(net, 4), tmp_path / "m.onnx"
    torch.onnx.export(module, (data,), path, dynamo=True, verbose=False)
    before = onnx_lsuv.forecast(onnx_lsuv.load(path), importer=("onnx2torch", "onnxruntime-training"))
    assert before[0].portable.trainable == 0
    for each in before:
        if each.export:
            torch.onnx.export(module, (data,), path, **eval(f"dict({each.export})"))
            (after,) = onnx_lsuv.forecast(onnx_lsuv.load(path), importer=each.importer)
            assert after.portable.trainable == after.portable.weights > 0
        else:
            assert each.portable.trainable == each.portable.weights
