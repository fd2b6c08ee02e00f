"""Six modules as PyTorch exports them, and back by --state-dict: what is found, and that the outputs are the file's.

Needs the extra `train`. `python tests/frameworks/names.py` sums it up for the page of importers.
"""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'onnx-lsuv[train]'")

import names

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
