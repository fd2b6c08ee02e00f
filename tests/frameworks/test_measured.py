"""What the analysis foretells is what was measured: `prove.py --table` trained each file through each importer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import variants

import onnx_lsuv
from onnx_lsuv.importers.forecast import trains
from onnx_lsuv.importers.table import IMPORTERS

MEASURED = json.loads((Path(__file__).parent / "measured.json").read_text())


def test_measured_with_the_versions_of_the_table() -> None:
    assert MEASURED["versions"] == {name: each.version for name, each in IMPORTERS.items()}


@pytest.mark.parametrize("name", variants.VARIANTS)
def test_foretold_as_measured(name: str) -> None:
    answers = trains(onnx_lsuv.plan(onnx_lsuv.from_proto(variants.VARIANTS[name]())).plan)
    assert {each.importer: each.as_is.trainable for each in answers} == MEASURED["trained"][name]
