"""The JSON report against its schema: real reports fit, wrong ones do not."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from oracle import normal, parse

import onnx_lsuv
from onnx_lsuv.layers import REASONS
from onnx_lsuv.lsuv.result import STATUSES, Change, LayerReport, SkippedReport
from onnx_lsuv.lsuv.settings import METHODS, REPORTED
from onnx_lsuv.report.document import SCHEMA as VERSION
from onnx_lsuv.report.document import as_document, as_json
from onnx_lsuv.runtime.providers import PROVIDERS

WIDTH = 120
SAMPLES = Path(__file__).resolve().parents[2] / "sample_models"
SCHEMA: dict[str, Any] = json.loads(files("onnx_lsuv.report").joinpath("schema.json").read_text("utf-8"))
VALID = jsonschema.Draft202012Validator(SCHEMA)
MODES = {
    "initialise": ["--data", "transformer.npz", "--exclude", "*classifier*", "-o"],
    "unverified": ["--random", "--shape", "ids=8,16", "--no-verify", "-o"],
    "check": ["--data", "transformer.npz", "--check"],
    "dry-run": ["--dry-run"],
}


def printed(mode: str, folder: Path) -> dict[str, Any]:
    """Return the report that the command prints in a mode."""
    given = [str(SAMPLES / word) if word.endswith(".npz") else word for word in MODES[mode]]
    given += [str(folder / "out.onnx")] if given[-1] == "-o" else []
    words = ["-m", "onnx_lsuv", str(SAMPLES / "transformer.onnx"), *given, "--format", "json"]
    if mode != "dry-run":
        words += ["--device", "cpu"]
    ran = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert ran.returncode == (1 if mode == "check" else 0), ran.stderr
    document: dict[str, Any] = json.loads(ran.stdout)
    return document


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return {mode: printed(mode, tmp_path_factory.mktemp(mode)) for mode in MODES}


@pytest.fixture(scope="module")
def whole(reports: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A report in which no list is empty."""
    full = copy.deepcopy(reports["initialise"])
    full["statistics_kept"] = [{**full["left"][0], "weight": None, "shape": None}]
    full["sums"] = [{"name": "add", "op": "Add", "stream": 1, "place": 2, "mean": 0.1, "std": 1.4}]
    full["remaining"] = [{"tensor": "a", "scope": "main", "cause": "a cause"}]
    full["notes"] = ["a note"]
    assert all(full[key] for key, of in SCHEMA["properties"].items() if of.get("type") == "array")
    return full


def laid_out(node: Any, before: str = "", indent: str = "") -> str:
    """Return JSON with each value on one line where it fits; a longer list of words fills lines."""
    line = indent + before + json.dumps(node, ensure_ascii=False)
    if len(line) < WIDTH or not isinstance(node, dict | list):
        return line
    inside = indent + "  "
    if isinstance(node, dict):
        inner = ",\n".join(laid_out(child, f'"{key}": ', inside) for key, child in node.items())
        return f"{indent}{before}{{\n{inner}\n{indent}}}"
    if all(isinstance(child, str) for child in node):
        words = ", ".join(map(json.dumps, node))
        inner = textwrap.fill(words, WIDTH - 1, initial_indent=inside, subsequent_indent=inside, break_on_hyphens=False)
    else:
        inner = ",\n".join(laid_out(child, "", inside) for child in node)
    return f"{indent}{before}[\n{inner}\n{indent}]"


def test_the_schema_is_laid_out_to_be_read() -> None:
    text = files("onnx_lsuv.report").joinpath("schema.json").read_text("utf-8")
    assert text == laid_out(SCHEMA) + "\n", "write the file again as laid_out gives it"
    assert text.count("\n") <= 450


def described(node: Any, path: str = "") -> Iterator[str]:
    """Yield the place of every property and definition without a description."""
    if isinstance(node, dict):
        for group in ("properties", "$defs"):
            for name, child in node.get(group, {}).items():
                at = f"{path}/{name}"
                target = SCHEMA["$defs"][child["$ref"].rpartition("/")[2]] if "$ref" in child else child
                if "description" not in child and "description" not in target:
                    yield at
                yield from described({k: v for k, v in child.items() if k not in ("if", "then", "else", "allOf")}, at)
        for key in ("items", "additionalProperties"):
            yield from described(node.get(key), path)
        for child in node.get("anyOf", ()):
            yield from described(child, path)


def test_the_schema_is_one_and_describes_every_field() -> None:
    VALID.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert not list(described(SCHEMA))
    assert SCHEMA["properties"]["schema"]["const"] == VERSION


def test_the_schema_has_the_fields_and_words_of_the_code() -> None:
    for name, row in (("layer", LayerReport), ("left", SkippedReport), ("change", Change)):
        fields = list(row.__dataclass_fields__)
        assert list(SCHEMA["$defs"][name]["properties"]) == SCHEMA["$defs"][name]["required"] == fields
        assert SCHEMA["$defs"][name]["additionalProperties"] is False
    assert SCHEMA["$defs"]["layer"]["properties"]["status"]["enum"] == list(STATUSES)
    assert set(SCHEMA["$defs"]["left"]["properties"]["reason"]["enum"]) == set(REASONS)
    settings = SCHEMA["$defs"]["settings"]["properties"]
    assert set(settings) == {name for names in REPORTED.values() for name in names}
    assert SCHEMA["$defs"]["method"]["enum"] == list(METHODS)
    assert settings["init"]["anyOf"][0] == {"$ref": "#/$defs/method"}
    assert SCHEMA["$defs"]["layer"]["properties"]["init"]["enum"] == [*METHODS, "altered"]
    for each in PROVIDERS:
        name = f"{each.word}:12" if each.numbered else each.word
        assert re.fullmatch(SCHEMA["properties"]["device"]["pattern"], name), name


@pytest.mark.parametrize("mode", MODES)
def test_real_reports_fit(reports: dict[str, dict[str, Any]], mode: str) -> None:
    VALID.validate(reports[mode])
    found = {row["status"] for row in reports[mode]["layers"]}
    assert found == {"initialise": {"ok"}, "unverified": {"scaled"}, "check": {"off"}, "dry-run": {"found"}}[mode]


def test_a_report_from_python_fits(whole: dict[str, Any]) -> None:
    model = onnx_lsuv.from_proto(
        parse(
            '<ir_version: 10, opset_import: ["" : 17]> g (float[N,8] x) => (float z) '
            "{ h = MatMul(x, w) r = Sub(h, h) z = MatMul(r, u) }",
            w=normal(8, 8),
            u=normal(8, 4),
        )
    )
    given = [{"x": normal(16, 8)}, {"x": normal(16, 8)}]
    result = onnx_lsuv.initialize(model, given, init="he", target={"h": 0.5, "z": 2}, center=True)
    assert [row.status for row in result.layers] == ["scaled", "degenerate"]
    about = {"versions": whole["versions"], "files": whole["files"]}
    VALID.validate(as_document(result, about))
    started = onnx_lsuv.initialize(model, given, init={"h": "identity"}, target={"z": 0})
    VALID.validate(as_document(onnx_lsuv.measure(started.model, given, like=started), about))
    VALID.validate(json.loads(as_json(result, about)))


def edit(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Return a change that sets the field at a path such as layers/0/std."""

    def change(document: Any) -> None:
        *way, last = [int(part) if part.isdigit() else part for part in path.split("/")]
        for part in way:
            document = document[part]
        document[last] = value

    return change


WRONG = {
    "another schema": edit("schema", 2),
    "good, but a layer is off": edit("layers/0/status", "off"),
    "not good, but no layer says why": edit("good", False),
    "a field too many": edit("extra", 1),
    "a row with a field too many": edit("layers/0/extra", 1),
    "no such status": edit("layers/0/status", "fine"),
    "ok without a std": edit("layers/0/std", None),
    "ok with a std that is no number": edit("layers/0/std", "nan"),
    "a negative std": edit("layers/0/std", -1.0),
    "ok with nothing of what was wanted": edit("layers/0/std", 0.0),
    "no such init for all": edit("settings/init", "zeros"),
    "no such init for some": edit("settings/init", [["fc*", "zeros"]]),
    "a std as text": edit("layers/0/std", "1.0"),
    "found, but measured": edit("layers/0/status", "found"),
    "scaled, but measured": edit("layers/0/status", "scaled"),
    "no target": edit("layers/0/target", None),
    "half a matrix": edit("layers/0/fan_in", 0.5),
    "a shape as text": edit("layers/0/shape", "64x64"),
    "no such init": edit("layers/0/init", "zeros"),
    "no such reason": edit("left/0/reason", "because"),
    "no detail": edit("left/0/detail", ""),
    "no such role": edit("changes/0/role", "other"),
    "a role that is missing": lambda document: document["changes"][0].pop("role"),
    "a digest cut short": edit("files/model/sha256", "c979a3"),
    "no model": lambda document: document["files"].pop("model"),
    "a device of another kind": edit("device", "tpu"),
    "a version as a number": edit("versions/numpy", 2),
    "time running backwards": edit("seconds/draw", -1),
    "no batch": edit("data/batches", 0),
    "half of the data": lambda document: document["data"].pop("inputs"),
    "a source without its kind": lambda document: document["data"]["sources"][0].pop("kind"),
    "a tolerance above 1": edit("tolerance", 2),
    "a target of 0": edit("target_std", 0),
    "a seed below 0": edit("settings/seed", -1),
    "a kept BatchNormalization without a name": lambda document: document["statistics_kept"][0].pop("name"),
    "a sum of no stream": edit("sums/0/stream", 0),
    "a sum with a negative std": edit("sums/0/std", -1.0),
    "a note that is empty": edit("notes/0", ""),
}


@pytest.mark.parametrize("change", WRONG.values(), ids=list(WRONG))
def test_a_wrong_report_does_not_fit(whole: dict[str, Any], change: Callable[[dict[str, Any]], None]) -> None:
    VALID.validate(whole)
    document = copy.deepcopy(whole)
    change(document)
    assert not VALID.is_valid(document)


def test_every_field_is_required_and_of_its_type(whole: dict[str, Any]) -> None:
    def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        for key, value in node.items() if isinstance(node, dict) else enumerate(node[:1]):
            yield (*path, key)
            if isinstance(value, dict | list):
                yield from places(value, (*path, key))

    loose = {("settings",), ("seconds",), ("data", "inputs")}  # names there are free, and so is what may be left out
    optional = {"files", "path", "seed", "output", "mean", "std", "min", "max", "trains"}
    for path in places(whole):
        document = copy.deepcopy(whole)
        holder = document
        for part in path[:-1]:
            holder = holder[part]
        old = holder[path[-1]]
        holder[path[-1]] = object()
        with pytest.raises(jsonschema.ValidationError):
            VALID.validate(document)
        if isinstance(holder, dict) and path[:-1] not in loose and not (path[0] != "layers" and path[-1] in optional):
            holder[path[-1]] = old
            del holder[path[-1]]
            assert not VALID.is_valid(document), path
