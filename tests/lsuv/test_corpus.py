"""Models of other projects and exporters, each as its entry in the manifest says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import oracle
import pytest
from corpus import ABSENT, CORPUS, ENTRIES, SEEDS, batches_of, named

import onnx_lsuv
from onnx_lsuv import DeviceError, LayerReport, ModelError, Result

HALF = ("float16", "bfloat16")

if not ENTRIES:
    pytest.skip(ABSENT, allow_module_level=True)


def run(entry: dict[str, Any], folder: Path) -> tuple[Result, Path, list[dict[str, np.ndarray]]]:
    """Initialise, save and measure a model of the corpus."""
    batches = batches_of(entry)
    result = onnx_lsuv.initialize(onnx_lsuv.load(CORPUS / entry["file"]), batches, seed=SEEDS.get(entry["file"], 0))
    target = folder / Path(entry["file"]).name
    onnx_lsuv.save(result.model, target)
    return onnx_lsuv.measure(onnx_lsuv.load(target), batches, like=result), target, batches


def decides_with(row: LayerReport, other: LayerReport) -> bool:
    """Say whether another use of a layer's weight, in the other branch of an If, is the first one for some batches."""
    mine, theirs = row.name.partition(".then_branch/"), other.name.partition(".else_branch/")
    return (
        row.weight == other.weight
        and other.status == "shared"
        and bool(mine[1] and theirs[1])
        and (mine[0] == theirs[0])
    )


def test_every_entry_is_a_case() -> None:
    assert {e["expect"] for e in ENTRIES} == {"init", "partial", "refuse", "none", "error"}
    assert all((CORPUS / e["file"]).is_file() for e in ENTRIES)
    assert len(named("init")) > 50


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("entry", named("init", "partial"))
def test_initialised(entry: dict[str, Any], tmp_path: Path, record: Callable[[str, Result], None]) -> None:
    digest = onnx_lsuv.model.digest(CORPUS / entry["file"])
    result, target, batches = run(entry, tmp_path)
    record(entry["file"], result)
    assert onnx_lsuv.model.digest(CORPUS / entry["file"]) == digest

    wrong = [(row.name, row.status, row.std, row.note) for row in result.layers if not row.good]
    assert not wrong, f"layers that missed: {wrong}"
    assert result.good
    assert result.layers
    if entry["expect"] == "init" or entry["file"] in SEEDS:
        seen = len(result.layers) + sum(row.weight is not None for row in result.skipped)
        assert seen >= entry["weighted_nodes"], "fewer layers than the manifest counts"
        assert not {row.reason for row in result.skipped} - {"dynamic", "tied", "empty", "fixed"}
    else:
        assert result.skipped or any(row.status in ("not-reached", "shared") for row in result.layers)

    before, after = onnx.load(str(CORPUS / entry["file"])), onnx.load(str(target))
    for old, new in zip(before.graph.initializer, after.graph.initializer, strict=False):
        if old.name == new.name and old.data_location == old.EXTERNAL:
            pytest.fail("external data was not read")
    changed = oracle.changed_tensors(before, after, result.changes)
    reported = {change.tensor for change in result.changes}
    assert changed <= reported, f"changed without a word: {sorted(changed - reported)[:5]}"
    weights = {row.weight for row in result.layers}
    assert weights <= reported
    assert weights <= changed, f"not drawn: {sorted(weights - changed)[:5]}"

    ok = [row for row in result.layers if row.status == "ok"]
    where = oracle.values_of_layers(after, [(row.name, row.op.rpartition(".")[2]) for row in result.layers])
    places = {
        row.name: [where[j] for j, other in enumerate(result.layers) if i == j or decides_with(row, other)]
        for i, row in enumerate(result.layers)
        if row.status == "ok"
    }
    parts = oracle.values(target, batches, list(dict.fromkeys(value for names in places.values() for value in names)))
    # Only what the gates bound is not scaled; without a scaled layer there must be such a one.
    assert ok or all(row.status == "drawn" for row in result.layers)
    misses = {}
    for row in ok:
        moments = oracle.pooled([part for value in places[row.name] for part in parts[value]])
        tolerance = 0.02 if row.dtype in HALF else 0.005
        if not abs(moments.var / row.target**2 - 1) <= tolerance:
            misses[row.name] = (places[row.name], moments.var, row.std)
    assert not misses, f"the independent measurement disagrees: {misses}"

    blocks = oracle.operand_blocks(after)
    for row in result.layers:
        if row.name in blocks and not row.path and row.status in ("ok", "not-reached") and not row.note:
            assert blocks[row.name].shape == (row.blocks, row.fan_out, row.fan_in)
            worst = oracle.orthonormality(blocks[row.name])
            assert worst < (2e-2 if row.dtype in HALF else 1e-3), (row.name, worst)
    tensors = oracle.all_float_tensors(after)
    for row in result.layers:
        if row.status == "drawn" and row.weight in tensors and not row.path:
            gates = tensors[row.weight].reshape(-1, row.fan_out, row.fan_in)
            if row.op in ("LSTM", "GRU", "RNN"):
                assert len(gates) == row.blocks
                assert oracle.orthonormality(gates) < 1e-3, row.name
    assert all(np.isfinite(array).all() for name, array in tensors.items() if name in changed)


# All of its external data is missing: an architecture without weights (tests/architecture).
BARE = "handmade__external_missing_file_model/model"


@pytest.mark.parametrize("entry", [each for each in named("refuse", "none", "error") if each.id != BARE])
def test_refused(entry: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises((ModelError, DeviceError)) as caught:
        run(entry, tmp_path)
    sentence = str(caught.value)
    assert len(sentence) > 30
    assert "\n" not in sentence
    if entry["expect"] == "none":
        assert "nothing to initialise" in sentence
    assert not list(tmp_path.iterdir())
