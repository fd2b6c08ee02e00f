"""The table of importers: made as `prove.py --measure` makes it, and each of its rules shown by what was measured."""

from __future__ import annotations

import enum
import json
import re
import sys
import types
from dataclasses import replace
from typing import Any

import prove
import pytest
import registered
import variants
from onnx import defs
from train import IMPORTERS as TRAINED

import onnx_lsuv
from onnx_lsuv.importers import IMPORTERS, Importer, reading
from onnx_lsuv.importers.forms import Form
from onnx_lsuv.importers.traits import Traits, traits

MEASURED = json.loads((prove.HERE / "measured.json").read_text())
# Rules that no file of `variants.py` shows: they were read in the package's source, or tried apart.
READ = {
    "onnx2pytorch": {"norm-training", "sparse"},
    "onnxruntime-training": {"direction", "dropout-training"},
    "tinygrad": {"bfloat16"},
    "onnxsim": {"double", "half", "norm-training"},
}


def test_all_places_speak_of_the_same_importers() -> None:
    names = list(IMPORTERS)
    assert list(MEASURED["versions"]) == list(MEASURED["dates"]) == names
    assert list(prove.HOMES) == list(registered.LISTS) == list(TRAINED) == names
    pinned = dict(re.findall(r"([\w-]+)==([\w.]+)", str(prove.ENVIRONMENTS)))
    for name, row in IMPORTERS.items():
        assert pinned[registered.PACKAGES.get(name, name)] == row.version == MEASURED["versions"][name]
        assert row.date == MEASURED["dates"][name]


def test_the_table_is_written_as_it_stands() -> None:
    text = prove.TABLE.read_text()
    assert prove.written(json.loads(text)) == text
    assert max(map(len, text.splitlines())) <= 120


def test_what_a_package_registers_goes_into_its_row() -> None:
    row = json.loads(prove.TABLE.read_text())["importers"]["tinygrad"]
    new = prove.updated(row, {"version": "9.9", "operators": ["Abs"], "domains": ["ai.onnx"]})
    assert (new["version"], new["operators"], new["domains"]) == ("9.9", ["Abs"], ["ai.onnx"])
    assert new["date"] >= row["date"]
    assert {key for key in row if row[key] != new[key]} <= {"version", "date", "operators", "domains"}
    assert new.keys() == row.keys()
    with pytest.raises(ValueError, match="versions of its own"):
        prove.updated(row, {"versions of its own": 1})


@pytest.fixture(scope="module")
def read() -> dict[str, tuple[Form, Traits, Any]]:
    """Every file of `variants.py`, as importers meet it."""
    forms = {name: reading._saved(onnx_lsuv.from_proto(build())) for name, build in variants.VARIANTS.items()}
    return {name: (form, traits(form), reading._path(form.plan)) for name, form in forms.items()}


def wrong(read: dict[str, tuple[Form, Traits, Any]], row: Importer) -> list[str]:
    """Return the files of which a row foretells something else than was measured."""
    trained = MEASURED["trained"]
    return [file for file, form in read.items() if reading._read(*form, row).trainable != trained[file][row.name]]


@pytest.mark.slow
@pytest.mark.parametrize("name", IMPORTERS)
def test_each_refusal_was_seen(read: dict[str, tuple[Form, Traits, Any]], name: str) -> None:
    row = IMPORTERS[name]
    assert wrong(read, row) == []
    unseen = {trait for trait in row.refuses if not wrong(read, replace(row, refuses=row.refuses - {trait}))}
    assert unseen == READ.get(name, set())
    # Nor is there one more that would fit: whatever else a file has, some such file trains.
    others = {trait for _, found, _ in read.values() for trait in found} - row.refuses - row.remarks
    for trait in sorted(others):
        more = wrong(read, replace(row, refuses=row.refuses | {trait}))
        trains = any(trait in found and MEASURED["trained"][file][name] for file, (_, found, _) in read.items())
        assert bool(more) == trains, trait


# ------------------------------------------------------------------------------------------- what a package registers


class Base:
    OP_TYPE = DOMAIN = ""


class Conv(Base):
    OP_TYPE = "Conv"

    @staticmethod
    def version_11() -> None: ...

    @staticmethod
    def version_1() -> None: ...


class Other(Conv):
    OP_TYPE, DOMAIN = "Other", "org.example"


def convert_operations(node: Any) -> Any:
    if node.op_type == "Conv":
        return 1
    return 2 if node.op_type == "Add" else None


class Domain(enum.Enum):
    ONNX = "ai.onnx"


ONNX2TORCH = [types.SimpleNamespace(operation_type="Conv", version=v) for v in (11, 1)]


@pytest.mark.parametrize(
    ("name", "modules", "expected"),
    [
        (
            "onnx2torch",
            {"onnx2torch.node_converters.registry": {"_CONVERTER_REGISTRY": ONNX2TORCH}},
            {"operators": {"Conv": [1, 11]}},
        ),
        (
            "onnx2pytorch",
            {"onnx2pytorch.convert.operations": {"convert_operations": convert_operations}},
            {"operators": ["Add", "Conv"]},
        ),
        (
            "jaxonnxruntime",
            {"jaxonnxruntime": {}, "jaxonnxruntime.core.handler": {"Handler": Base}},
            {"operators": {"Conv": [1, 11]}},
        ),
        (
            "tinygrad",
            {"tinygrad.nn.onnx": {"onnx_ops": {"Conv": 1, "Add": 2}, "Domain": Domain}},
            {"operators": ["Add", "Conv"], "domains": ["ai.onnx"]},
        ),
        ("onnx2keras", {"onnx2keras.layers": {"AVAILABLE_CONVERTERS": {"Conv": 1}}}, {"operators": ["Conv"]}),
    ],
)
def test_lists(
    monkeypatch: pytest.MonkeyPatch, name: str, modules: dict[str, dict[str, Any]], expected: dict[str, Any]
) -> None:
    for path, content in modules.items():
        module = types.ModuleType(path)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, path, module)
    monkeypatch.setitem(sys.modules, "torchvision._meta_registrations", types.ModuleType("stub"))
    assert registered.LISTS[name]() == expected
    assert expected.keys() <= json.loads(prove.TABLE.read_text())["importers"][name].keys()


def test_gradients_of_onnx_runtime() -> None:
    source = """  REGISTER_GRADIENT_BUILDER("Sin", GetSinGradient);
      REGISTER_GRADIENT_BUILDER("AveragePool", GetAveragePoolGradient);
      REGISTER_GRADIENT_BUILDER(
          "Cast", 1, INF, GetCastGradient);
      REGISTER_GRADIENT_BUILDER("BatchNormInternal", 1, INF, GetBatchNormalizationGradient);
      REGISTER_GRADIENT_BUILDER("FastGelu", 1, INF, GetFastGeluGradient);
      REGISTER_GRADIENT_BUILDER("Send", 1, INF, GetSendGradient);"""
    assert registered.gradients(source) == ["BatchNormalization", "Cast", "FastGelu", "Sin"]
    gradients = IMPORTERS["onnxruntime-training"].gradients
    assert gradients
    known = {schema.name for schema in defs.get_all_schemas()} | registered.CONTRIBUTED
    assert gradients <= known - registered.UNUSABLE


def test_what_was_found_is_recorded_as_it_stands() -> None:
    trained = MEASURED["trained"]
    rows = [{"importer": i, "model": m, "trainable": n} for m, found in trained.items() for i, n in found.items()]
    assert prove.recorded(rows) == (prove.HERE / "measured.json").read_text()
