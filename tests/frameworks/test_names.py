"""Six modules as PyTorch exports them, and back by --state-dict: what is found, and that the outputs are the file's.

Needs the extra `train`. `python tests/frameworks/names.py` sums it up for the page of importers.
"""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'onnx-lsuv[train]'")

import ml_dtypes
import names
import numpy as np
import torch

from onnx_lsuv import DataError
from onnx_lsuv.modules import read_reference

# What PyTorch warns of is its own; a warning of onnx-lsuv would be an error in the other tests.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]
DYNAMO, SCRIPT = "dynamo=True", "dynamo=False"
# Float tensors found, of norms that the exporter folded, and of parameters that it folded into other constants: the
# class token repeated for each sample, as the batch axis is fixed, and the part of the table of places that is used.
TABLE = {
    "mlp": {DYNAMO: (6, 0, 0), SCRIPT: (6, 0, 0)},
    "cnn": {DYNAMO: (5, 8, 0), SCRIPT: (5, 8, 0)},
    "resnet": {DYNAMO: (12, 40, 0), SCRIPT: (12, 40, 0)},
    "vit": {DYNAMO: (31, 0, 1), SCRIPT: (32, 0, 0)},
    "gpt, tied": {DYNAMO: (28, 0, 1), SCRIPT: (28, 0, 1)},
    "lstm": {DYNAMO: (18, 0, 0), SCRIPT: (18, 0, 0)},
}


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("way", [DYNAMO, SCRIPT])
@pytest.mark.parametrize("name", TABLE)
def test_default_exports(tmp_path: Path, name: str, way: str, train: bool) -> None:
    row = names.measured(names.MODULES[name], names.WAYS[way], tmp_path, train=train)
    assert (row.found, row.counts["norm folded"], row.counts["not there"]) == TABLE[name][way]
    assert row.state.good
    if name == "gpt, tied":  # the file has two tensors for one of the module, which stays the embedding
        assert any("--exclude" in note for note in row.state.notes)
    else:
        assert row.difference < 1e-5


@pytest.mark.parametrize("name", TABLE)
def test_as_the_page_says(tmp_path: Path, name: str) -> None:
    row = names.measured(names.MODULES[name], names.WAYS["dynamo=True, optimize=False"], tmp_path, train=True)
    assert row.found == sum(row.counts.values())
    assert row.difference < 1e-5


def test_files_of_pytorch(tmp_path: Path) -> None:
    """What torch.save writes, a checkpoint too; tied tensors are known as one there, and nothing is unpickled."""
    path = tmp_path / "net.pt"
    state = {"a.weight": torch.randn(4, 8), "half": torch.randn(6).to(torch.bfloat16), "steps": torch.tensor(3)}
    state["b.weight"] = state["a.weight"]
    for saved in (state, {"model": state, "epoch": 7, "optimizer": {"state": {}, "param_groups": []}}):
        torch.save(saved, path)
        found = read_reference(path)
        assert list(found.tensors) == list(state)
        assert found.same == {"b.weight": "a.weight"}
        for name, each in state.items():
            assert torch.equal(torch.from_numpy(found.read(name).astype(np.float32)), each.float())
        assert found.read("half").dtype == ml_dtypes.bfloat16
    for wrong in ({"a": state, "b": state}, torch.ones(3), {"net": torch.nn.Linear(2, 2)}):
        torch.save(wrong, path)
        with pytest.raises(DataError, match="the state dict"):
            read_reference(path)
