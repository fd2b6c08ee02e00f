"""The formats of report files: one table of columns, another model beside the first, files whole or not at all."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import pytest
from oracle import normal, parse
from test_report_schema import SCHEMA, VALID

import onnx_lsuv
from onnx_lsuv import cli
from onnx_lsuv.errors import OutputError, UsageError
from onnx_lsuv.lsuv import LayerReport, Result
from onnx_lsuv.report import columns
from onnx_lsuv.report.columns import FIELDS, LAYERS, aligned, filled
from onnx_lsuv.report.document import as_document, as_json
from onnx_lsuv.report.formats import FORMATS, format_of, suffix_of
from onnx_lsuv.report.github import as_github
from onnx_lsuv.report.markdown import as_markdown
from onnx_lsuv.report.page import as_html
from onnx_lsuv.report.tabular import as_csv
from onnx_lsuv.report.text import as_text

ABOUT = {
    "versions": {"python": "3.11"},
    "files": {"model": {"path": "a.onnx", "sha256": "ab" * 32}, "compare": {"path": "b.onnx", "sha256": "cd" * 32}},
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model of two layers, and samples."""
    monkeypatch.chdir(tmp_path)
    text = """<ir_version: 10, opset_import: ["" : 17]> g (float[N,8] x) => (float z) {
      y = MatMul(x, w) r = Relu(y) z = MatMul(r, v) }"""
    onnx.save(parse(text, w=normal(8, 16), v=normal(16, 4, seed=1)), "m.onnx")
    np.save("x.npy", normal(64, 8, seed=2))
    return tmp_path


@pytest.fixture
def result(here: Path) -> Result:
    return onnx_lsuv.measure(onnx_lsuv.load("m.onnx"), {"x": np.load("x.npy")})


@pytest.fixture
def other(result: Result) -> Result:
    """The same layers in another file with other stds, and one more."""
    first, second = (replace(row, std=row.std and row.std / 2) for row in result.layers)
    return replace(
        result,
        model=replace(result.model, path=result.model.path.parent / "b.onnx"),
        layers=(second, first, replace(first, name="new")),
    )


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


# ------------------------------------------------------------------------------------------------------------- columns


def test_the_columns_are_the_fields_of_a_layer_and_of_its_schema() -> None:
    of = SCHEMA["$defs"]["layer"]["properties"]
    assert [column.key for column in FIELDS] == list(LayerReport.__dataclass_fields__) == list(of)
    text = ({"type": "string"}, {"$ref": "#/$defs/word"})
    kinds: dict[str, tuple[dict[str, Any], ...]] = {
        **dict.fromkeys(("name", "scope", "word", "text"), text),
        "chain": ({"type": "array", "items": {"$ref": "#/$defs/word"}},),
        "dims": ({"$ref": "#/$defs/dims"},),
        "count": ({"$ref": "#/$defs/extent"},),
        "number": (
            {"$ref": "#/$defs/measure"},
            {"$ref": "#/$defs/spread"},
            {"type": "number", "minimum": 0},
            {"$ref": "#/$defs/part"},
        ),
    }
    for column in FIELDS:
        said = {key: value for key, value in of[column.key].items() if key != "description"}
        assert said in kinds[column.kind] or (column.kind == "word" and list(said) == ["enum"]), column.key


@pytest.mark.parametrize("key", ["dead", "saturated"])
def test_what_activations_stop_is_a_column_where_it_is_much(result: Result, key: str) -> None:
    first, second = result.layers
    for shares, shown in (((0.1, None), False), ((0.0, 0.11), True)):
        rows = (replace(first, **{key: shares[0]}), replace(second, **{key: shares[1]}))
        found = replace(result, layers=rows)
        assert (key in as_text(found).splitlines()[0].split()) == shown
        assert (key in as_markdown(found, {})) == shown
        assert [row[key] for row in table(as_csv(found, {}))] == ["" if s is None else str(s) for s in shares]
        assert [row[key] for row in json.loads(as_json(found, {}))["layers"]] == list(shares)


def test_keys_and_headings_are_one_each() -> None:
    for group in (LAYERS, columns.SKIPPED, columns.TRAINS, columns.INPUTS):
        assert len({column.key for column in group}) == len(group)
    drops = [column.drop for column in LAYERS if column.drop]
    assert len(set(drops)) == len(drops)  # none goes because it comes first


def test_a_column_that_says_nothing_is_left_out() -> None:
    rows = [
        {"name": "a", "std": None, "target": 1.0, "path": ()},
        {"name": "b", "std": None, "target": 1.0, "path": ()},
    ]
    assert [column.key for column, _ in filled(LAYERS, rows, "path std target name")] == ["name"]
    assert [column.key for column, _ in filled(LAYERS, rows, "std target name", always="std")] == ["std", "name"]
    rows[0] |= {"target": 2.0, "path": ("Cast",)}
    found = filled(LAYERS, rows, "path target")
    assert [(column.key, values) for column, values in found] == [("path", [("Cast",), ()]), ("target", [2.0, 1.0])]


# ----------------------------------------------------------------------------------------------------------------- CSV


def test_csv_has_a_row_a_layer_and_whole_numbers(result: Result) -> None:
    odd = replace(result.layers[0], path=("Transpose", "Cast"), scale=None, mean=math.nan, std=1 / 3)
    text = as_csv(replace(result, layers=(odd, *result.layers[1:])), ABOUT)
    assert text.count("\r\n") == text.count("\n") == 3
    rows = table(text)
    assert [list(row) for row in rows] == [[column.key for column in FIELDS]] * 2
    assert [row["name"] for row in rows] == [row.name for row in result.layers]
    assert rows[0] | {"path": "Transpose > Cast", "scale": "", "mean": "nan", "shape": "8x16"} == rows[0]
    assert float(rows[0]["std"]) == 1 / 3
    assert float(rows[1]["std"]) == result.layers[1].std
    assert as_csv(replace(result, layers=()), {}).count("\n") == 1


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", " =1", "\uff1d1", '=HYPERLINK("http://x";"y")'])
def test_csv_has_no_formulas(result: Result, name: str) -> None:
    rows = tuple(replace(row, name=name, weight=name, op=name, note=name) for row in result.layers)
    for row in table(as_csv(replace(result, layers=rows), ABOUT)):
        assert [row[key] for key in ("name", "weight", "op", "note")] == [f"'{name}"] * 4
    # Numbers stay numbers, and names that only have such a character in them stay as they are.
    rows = tuple(replace(row, name=f"a{name}", mean=-0.5) for row in result.layers)
    for row in table(as_csv(replace(result, layers=rows), ABOUT)):
        assert (row["name"], row["mean"]) == (f"a{name}", "-0.5")


@pytest.mark.parametrize("name", ["a,b", 'a"b', "a;b", "'a", "層", ""])
def test_csv_keeps_odd_names(result: Result, name: str) -> None:
    rows = tuple(replace(row, name=name) for row in result.layers)
    assert [row["name"] for row in table(as_csv(replace(result, layers=rows), ABOUT))] == [name] * 2


def test_csv_shows_what_hides(result: Result) -> None:
    rows = tuple(replace(row, name="a\r\n\x1b\u202eb\t") for row in result.layers)
    text = as_csv(replace(result, layers=rows), ABOUT)
    assert table(text)[0]["name"] == "a\\r\\n\\x1b\\u202eb\\t"
    assert text.count("\n") == 3


# ---------------------------------------------------------------------------------------------- another model beside it


def test_the_other_model_is_in_every_format(result: Result, other: Result) -> None:
    stds = [row.std / 2 for row in result.layers if row.std]
    assert [float(row["std_other"]) for row in table(as_csv(result, ABOUT, other=other))] == stds
    compared = as_document(result, ABOUT, other=other)["compared"]
    assert (compared["model"], compared["good"]) == ("b.onnx", other.good)
    assert [row["name"] for row in compared["layers"]] == [row.name for row in other.layers]
    assert [list(row) for row in compared["layers"]] == [list(SCHEMA["$defs"]["layer"]["properties"])] * 3
    shown = [f"{std:.4f}" for std in stds]
    for suffix in (".md", ".html"):
        text = format_of(f"r{suffix}")(result, ABOUT, other=other)
        assert all(std in text for std in shown)
        assert "b.onnx" in text
    assert "The other model: `b.onnx`. 3 of 3 layers missed the std wanted." in as_markdown(result, ABOUT, other=other)
    assert "Only in the other model: `new`\n" in as_markdown(result, ABOUT, other=other)
    assert "only in the other model: new\n" in as_text(result, other=other)
    assert "::notice file=m.onnx,title=onnx-lsuv%3A other model::" in "\n".join(as_github(result, other=other))
    assert any(line.endswith("b.onnx: 3 of 3 layers missed the std wanted.") for line in as_github(result, other=other))


def test_without_another_model_nothing_tells_of_one(result: Result) -> None:
    for made in (as_json, as_markdown, as_html, as_csv):
        text = made(result, {"versions": {"python": "3.11"}})
        assert not any(word in text for word in ("compared", "std_other", "std other", "The other model"))
    assert not any("other model" in line for line in as_github(result))


def test_layers_without_a_shared_name_go_by_place(result: Result, other: Result) -> None:
    strange = replace(other, layers=tuple(replace(row, name=f"s{i}") for i, row in enumerate(other.layers)))
    assert aligned(result.layers, strange.layers) == list(strange.layers[:2])
    assert "nly in the other model" not in as_markdown(result, ABOUT, other=strange) + as_text(result, other=strange)


# ------------------------------------------------------------------------------------------------------------- as files


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_report_is_written_whole(here: Path, result: Result, suffix: str) -> None:
    target = onnx_lsuv.write_report(result, f"r{suffix.upper()}", about=ABOUT, command=["a", "b c"], forecast=[])
    assert target == here / f"r{suffix.upper()}"
    about = {**ABOUT, "trains": []}
    assert target.read_bytes() == format_of(target)(result, about, ["a", "b c"]).encode()
    assert {path.name for path in here.iterdir()} == {"m.onnx", "x.npy", target.name}
    with pytest.raises(OutputError, match="exists: name another"):
        onnx_lsuv.write_report(result, target, about={})
    assert target.read_bytes() == format_of(target)(result, about, ["a", "b c"]).encode()
    onnx_lsuv.write_report(result, target, about={}, force=True)
    trains = [each.as_dict() for each in onnx_lsuv.forecast(result)]
    assert target.read_bytes() == format_of(target)(result, {"trains": trains}).encode()
    onnx_lsuv.write_report(result, target, about={}, forecast=onnx_lsuv.forecast(result.model), force=True)
    assert target.read_bytes() == format_of(target)(result, {"trains": trains}).encode()


def test_a_report_is_refused(here: Path, result: Result, other: Result) -> None:
    before = {path.name for path in here.iterdir()}
    with pytest.raises(UsageError) as refused:
        onnx_lsuv.write_report(result, "r.htm")
    assert str(refused.value) == (
        "a report is written as .json, .md, .html, .csv, but 'r.htm' ends otherwise (did you mean '.html'?)"
    )
    with pytest.raises(OutputError, match="does not exist"):
        onnx_lsuv.write_report(result, "missing/r.md")
    shutil.copy("m.onnx", "b.json")
    beside = replace(other, model=onnx_lsuv.load("b.json"))
    with pytest.raises(OutputError, match="the model itself"):
        onnx_lsuv.write_report(result, "b.json", other=beside, force=True)
    assert {path.name for path in here.iterdir()} == before | {"b.json"}
    assert suffix_of("a/B.JSON") == ".json"
    with pytest.raises(UsageError):
        suffix_of("json")


def test_a_report_from_python_says_what_took_part(here: Path, result: Result) -> None:
    onnx_lsuv.write_report(result, "r.json")
    document = json.loads(Path("r.json").read_text())
    VALID.validate(document)
    assert document["files"]["model"] == {
        "path": str(here / "m.onnx"),
        "sha256": hashlib.sha256(Path("m.onnx").read_bytes()).hexdigest(),
    }
    assert document["versions"]["onnx-lsuv"] == onnx_lsuv.__version__
    assert document["trains"] == [each.as_dict() for each in onnx_lsuv.forecast(result)]
    # A model in memory has no file; its digest is that of what was given, whatever its weights are now.
    proto = onnx.load("m.onnx")
    done = onnx_lsuv.initialize(onnx_lsuv.from_proto(proto), {"x": np.load("x.npy")})
    onnx_lsuv.write_report(done, "s.json", other=result)
    document = json.loads(Path("s.json").read_text())
    VALID.validate(document)
    assert document["files"]["model"]["sha256"] == hashlib.sha256(proto.SerializeToString()).hexdigest()
    assert document["files"]["compare"]["path"] == document["compared"]["model"] == str(here / "m.onnx")


def test_what_is_compared_has_to_fit_too(here: Path, result: Result) -> None:
    onnx_lsuv.write_report(result, "r.json", other=result)
    document = json.loads(Path("r.json").read_text())
    for key in ("model", "good", "layers"):
        wrong = {**document, "compared": {k: v for k, v in document["compared"].items() if k != key}}
        with pytest.raises(jsonschema.ValidationError):
            VALID.validate(wrong)
    document["compared"]["layers"][0]["status"] = "fine"
    assert not VALID.is_valid(document)


# ----------------------------------------------------------------------------------------------------- from the command


def test_the_command_is_the_one_that_was_given(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not the arguments of the process that called it."""
    monkeypatch.setattr(sys, "argv", ["host", "--its-own"])
    given = ["m.onnx", "-d", "x.npy", "--device", "cpu", "--report", "r.html", "--report", "r.md"]
    assert cli.run(given) == 0
    capfd.readouterr()
    for name in ("r.html", "r.md"):
        text = Path(name).read_text(encoding="utf-8")
        assert f"onnx-lsuv {' '.join(given)}" in text
        assert "--its-own" not in text
    saved = onnx_lsuv.measure(onnx_lsuv.load("m.lsuv.onnx"), {"x": np.load("x.npy")})
    onnx_lsuv.write_report(saved, "r.html", force=True)
    assert "Command" not in Path("r.html").read_text(encoding="utf-8")


def test_the_command_compares_in_every_format(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = ["--device", "cpu", "-d", "x.npy"]
    assert cli.run(["m.onnx", *run]) == 0
    capfd.readouterr()
    reports = [word for suffix in FORMATS for word in ("--report", f"r{suffix}")]
    assert cli.run(["m.lsuv.onnx", *run, "--check", "--compare", "m.onnx", "--format", "json", *reports]) == 0
    document = json.loads(capfd.readouterr().out)
    VALID.validate(document)
    assert document == json.loads(Path("r.json").read_text())
    assert document["compared"]["model"] == document["files"]["compare"]["path"] == "m.onnx"
    stds = [row["std"] for row in document["compared"]["layers"]]
    assert [float(row["std_other"]) for row in table(Path("r.csv").read_text(encoding="utf-8"))] == stds
    for name in ("r.md", "r.html"):
        assert all(f"{std:.4f}" in Path(name).read_text(encoding="utf-8") for std in stds)
    assert cli.run(["m.lsuv.onnx", *run, "--check", "--compare", "m.onnx", "--format", "github"]) == 0
    assert "other model::" in capfd.readouterr().out


def test_the_share_of_signal_is_a_column_where_it_is_low(result: Result) -> None:
    first, second = result.layers
    for shares, shown in [((0.9, 0.5), False), ((0.9, 0.1504), True), ((None, None), False)]:
        rows = (replace(first, signal=shares[0]), replace(second, signal=shares[1]))
        found = replace(result, layers=rows)
        assert ("signal" in as_text(found).splitlines()[0].split()) == shown
        assert ("0.1504" in as_text(found)) == shown
        assert ("signal share" in as_markdown(found, {})) == shown
        assert [row["signal"] for row in table(as_csv(found, {}))] == ["" if s is None else str(s) for s in shares]
        document = as_document(found, {})
        assert [row["signal"] for row in document["layers"]] == list(shares)
