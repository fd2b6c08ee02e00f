"""What the analysis foretells is what was measured: `prove.py --table` trained each file through each importer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import variants

import onnx_lsuv
from onnx_lsuv.importers import IMPORTERS, forecast
from onnx_lsuv.portable import make_portable

MEASURED = json.loads((Path(__file__).parent / "measured.json").read_text())


def test_measured_with_the_versions_of_the_table() -> None:
    assert MEASURED["versions"] == {name: each.version for name, each in IMPORTERS.items()}


# Where less is expected of the portable form than it gives; more is never.
LESS = {
    "written-out opset 9": {"onnx2torch"},  # whether each product there has a bias is not looked at
    "dense sparse": set(IMPORTERS),  # a sparse tensor becomes a weight that is none yet
}


@pytest.mark.parametrize("name", variants.VARIANTS)
@pytest.mark.few(25)
def test_expected_of_the_portable_form(name: str) -> None:
    model = onnx_lsuv.from_proto(variants.VARIANTS[name]())
    pairs = zip(forecast(model), forecast(model, make_portable(model).model), strict=True)
    apart = {each.importer: real.portable.trainable - each.portable.trainable for each, real in pairs}
    assert all(less == 0 or (less > 0 and importer in LESS.get(name, ())) for importer, less in apart.items()), apart


@pytest.mark.parametrize("name", variants.VARIANTS)
@pytest.mark.few(25)
def test_foretold_as_measured(name: str) -> None:
    answers = forecast(onnx_lsuv.from_proto(variants.VARIANTS[name]()))
    assert {each.importer: each.as_is.trainable for each in answers} == MEASURED["trained"][name]
