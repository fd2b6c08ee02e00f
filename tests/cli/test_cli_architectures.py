"""Architectures without weights on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import oracle
import pytest
from commands import call, fails, fill, mlp, names
from oracle import normal
from stripping import STRIPS, as_inputs, unlisted, without_data

SCHEMA = json.loads((Path(__file__).parents[2] / "onnx_lsuv" / "report" / "schema.json").read_text())
X = ["-d", "x.npy"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a model, data, and that model's architecture."""
    monkeypatch.chdir(tmp_path)
    fill(tmp_path)
    without_data(mlp(), tmp_path / "bare.onnx")
    return tmp_path


def stds(path: str) -> list[float]:
    found = oracle.measure(path, [{"x": np.load("x.npy")}], ["y", "z"])
    return [float(np.sqrt(each.var)) for each in found.values()]


@pytest.mark.parametrize("kind", STRIPS)
def test_an_architecture_is_initialised(here: Path, kind: str) -> None:
    STRIPS[kind](mlp(), here / "bare.onnx")
    shapes = ["--shape", "w=16,16", "--shape", "u=16,8"] if kind == "names" else []
    out = call("bare.onnx", *X, *shapes, "--weights-out", "w.npz", "--report", "r.json", "--report", "r.html").stdout
    assert "note: made anew, as the file has no values for them: 'w'" in out
    assert stds("bare.lsuv.onnx") == pytest.approx([1, 1], abs=1e-3)
    found = oracle.all_float_tensors(onnx.load("bare.lsuv.onnx"))
    with np.load("w.npz") as weights:
        assert {name: weights[name].tolist() for name in weights} == {n: a.tolist() for n, a in found.items()}
    report = json.loads(Path("r.json").read_text())
    jsonschema.validate(report, SCHEMA)
    assert {change["tensor"]: (change["role"], change["absent"]) for change in report["changes"]} == {
        **dict.fromkeys("wu", ("weight", True)),
        "b": ("bias", True),
    }
    assert "had no values" in Path("r.html").read_text()


def test_the_data_decide_which_inputs_are_weights(here: Path) -> None:
    as_inputs(mlp(), here / "bare.onnx")
    call("bare.onnx", *X)  # one array without a name, and one input that is none
    assert [value.name for value in onnx.load("bare.lsuv.onnx").graph.input] == ["x"]
    np.save("u.npy", normal(16, 8))
    call("bare.onnx", "-d", "x=x.npy", "-d", "u=u.npy", "--force")
    assert [value.name for value in onnx.load("bare.lsuv.onnx").graph.input] == ["x", "u"]
    np.savez("both.npz", x=np.load("x.npy"), u=np.load("u.npy"))
    call("bare.onnx", "-d", "both.npz", "--force")
    assert [value.name for value in onnx.load("bare.lsuv.onnx").graph.input] == ["x", "u"]
    call("bare.onnx", "--random", "--force")
    assert [value.name for value in onnx.load("bare.lsuv.onnx").graph.input] == ["x"]
    call("bare.onnx", "--random", "--shape", "u=16,8", "--force")
    assert [value.name for value in onnx.load("bare.lsuv.onnx").graph.input] == ["x", "u"]


def test_what_needs_values_is_refused(here: Path) -> None:
    before = names(here)
    assert "bare.onnx has no values for 'w', 'u', 'b': initialise it first" in fails(3, "bare.onnx", *X, "--check")
    assert "has no values for 'w'" in fails(3, "m.onnx", *X, "--check", "--compare", "bare.onnx")
    assert "cannot be kept, as it has no values for 'u', 'w'" in fails(2, "bare.onnx", *X, "--init", "keep")
    assert "'u' cannot be left alone" in fails(2, "bare.onnx", *X, "--exclude", "u")
    assert "'w', which Gemm 'y' reads" in fails(3, str(bare_names(here)), *X)
    assert names(here) - {"names.onnx"} == before


def bare_names(here: Path) -> Path:
    """Return a file in which the shapes of two weights are told by nothing."""
    unlisted(mlp(), here / "names.onnx")
    left = onnx.load(here / "names.onnx")
    del left.graph.value_info[:]
    onnx.save(left, here / "names.onnx")
    return Path("names.onnx")


def test_a_dry_run_says_what_would_be_made(here: Path) -> None:
    out = call("bare.onnx", "--dry-run").stdout
    assert "would be made anew, as the file has no values for them: 'w', 'u', 'b' (dims without data)" in out
    assert names(here) == {"m.onnx", "x.npy", "zeros.npy", "bare.onnx"}


def test_an_architecture_becomes_portable(here: Path) -> None:
    call("bare.onnx", *X, "--portable")
    assert stds("bare.lsuv.onnx") == pytest.approx([1, 1], abs=1e-3)
    as_inputs(mlp(), here / "bare.onnx")
    call("bare.onnx", *X, "--portable", "--force")
    assert stds("bare.lsuv.onnx") == pytest.approx([1, 1], abs=1e-3)


def test_shapes_are_for_random_data_or_what_has_none(here: Path) -> None:
    assert "--shape is the shape of random data: give --random too" in fails(2, "m.onnx", *X, "--shape", "x=8,16")
    assert "'q', which is neither an input of the model nor" in fails(2, "bare.onnx", *X, "--shape", "q=8,16")
    assert "which has dims [16, 8]" in fails(2, "bare.onnx", *X, "--shape", "u=8,16")


def test_data_are_looked_at_once_where_a_layer_has_a_weight(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "g (float[4,8] x, float[4,4] m) => (float y) { h = MatMul(x, w) y = Add(h, m) }"
    onnx.save(oracle.parse(f'<ir_version: 8, opset_import: ["" : 17]> {text}', {"w": normal(8, 4)}), "two.onnx")
    np.savez("two.npz", x=normal(4, 8), m=normal(4, 4))
    asked = []

    def given(*_: object) -> set[str]:
        asked.append("x")
        return {"x", "m"}

    monkeypatch.setattr("onnx_lsuv.batches.inputs_given", given, raising=False)
    call("two.onnx", "-d", "two.npz", "-o", "two.lsuv.onnx")
    assert not asked
    as_inputs(onnx.load("two.onnx"), Path("bare_two.onnx"))
    call("bare_two.onnx", "-d", "two.npz", "-o", "bare_two.lsuv.onnx")
    assert asked
