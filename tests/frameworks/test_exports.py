"""New networks as PyTorch exports them, in each of four ways: the command draws every layer and leaves none alone.

Needs the extra `train`. `python tests/frameworks/exports.py` takes more networks, and batch axes that are fixed.
"""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'onnx-lsuv[train]'")

import exports

# What PyTorch warns of is its own; a warning of onnx-lsuv would be an error in the other tests.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]
MODELS = ["resnet", "mobilenet", "unet", "vit, MultiheadAttention", "decoder, tied", "lstm", "gru"]
WAYS = ["dynamo", "dynamo, not optimised", "TorchScript, eval", "TorchScript, as README says"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("model", MODELS)
def test_every_layer_is_drawn(tmp_path: Path, model: str, way: str) -> None:
    row = exports.tried(model, way, tmp_path, free=True)
    assert not row.wrong, row.cells
