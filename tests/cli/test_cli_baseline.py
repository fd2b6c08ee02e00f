"""--check --baseline REPORT.json: what a model was measured with is what it is to have still."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from commands import invoke
from oracle import normal, parse

import onnx_lsuv
from onnx_lsuv import errors

X = ["--data", "x.npy", "--device", "cpu"]
HEAD = '<ir_version: 8, opset_import: ["": 17]>'


def save(name: str, /, **stds: float) -> None:
    """Save a chain of products whose outputs have about these stds, by their names."""
    body, value, weights = [], "x", {}
    for layer, std in stds.items():
        body.append(f"{layer} = MatMul({value}, w_{layer}) r_{layer} = Tanh({layer})")
        weights[f"w_{layer}"] = normal(8, 8, seed=len(weights)) * std
        value = f"r_{layer}"
    onnx.save(parse(f"{HEAD} g (float[N,8] x) => (float[N,8] {value}) {{ {' '.join(body)} }}", **weights), name)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", normal(64, 8, seed=9))
    save("m.onnx", y=0.5, z=0.2)
    assert invoke(["m.onnx", *X, "--check", "--report", "check.json"]).status == 1
    return tmp_path


def test_what_is_as_it_was_passes_and_what_moved_is_named_with_both_stds():
    check = ["m.onnx", *X, "--check", "--baseline", "check.json"]
    assert invoke(check).status == 0
    had = {row["name"]: row["std"] for row in json.loads(Path("check.json").read_bytes())["layers"]}
    model = onnx.load("m.onnx")
    for each in model.graph.initializer:
        if each.name == "w_z":
            each.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(each) * np.float32(1.1), "w_z"))
    onnx.save(model, "m.onnx")
    ran = invoke([*check, "--report", "r.json"])
    assert ran.status == 1
    rows = {row["name"]: row for row in json.loads(Path("r.json").read_bytes())["layers"]}
    assert {name: row["status"] for name, row in rows.items()} == {"y": "ok", "z": "off"}
    assert {name: row["target"] for name, row in rows.items()} == had
    assert rows["z"]["std"] == pytest.approx(1.1 * had["z"], rel=1e-5)
    assert invoke([*check, "--tolerance", "0.3"]).status == 0
    annotations = invoke([*check, "--format", "github"]).stdout.splitlines()
    assert f"std {rows['z']['std']:.4f}, wanted {had['z']:.4f}" in annotations[0]
    assert annotations[0].startswith("::error file=m.onnx,title=")


def test_a_new_layer_is_held_against_the_target_and_one_that_is_gone_is_an_error():
    save("more.onnx", y=0.5, z=0.2, more=3)
    ran = invoke(["more.onnx", *X, "--check", "--baseline", "check.json"])
    assert ran.status == 1
    assert "not in the baseline, and so against the target: 'more'" in ran.stdout
    assert "'more' is off" in ran.stderr
    assert invoke(["more.onnx", *X, "--check", "--baseline", "check.json", "--exclude", "more"]).status == 0
    save("less.onnx", y=0.5)
    ran = invoke(["less.onnx", *X, "--check", "--baseline", "check.json"])
    assert ran.status == 2
    assert "the baseline has a std of 'z', and the model has no such layer" in ran.stderr


def test_the_report_of_the_run_that_initialised_is_a_baseline_too_and_a_target_wins():
    assert invoke(["m.onnx", *X, "--target", "z=0.3", "--report", "made.json"]).status == 0
    check = ["m.lsuv.onnx", *X, "--check", "--baseline", "made.json"]
    assert invoke(check).status == 0
    assert invoke([*check, "--target", "z=1"]).status == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read: No such file"),
        ("{", "is no JSON"),
        ("[1]", "has no layers with a name and a std"),
        ('{"layers": [{"name": "y"}]}', "has no layers with a name and a std"),
        ('{"layers": [{"name": "y", "std": "1"}]}', "has stds that are no numbers"),
        ('{"layers": [{"name": "y", "std": NaN}]}', "has stds that are no numbers"),
        ('{"layers": [{"name": "y", "std": null}]}', "has no std, as of a run that measured nothing"),
    ],
)
def test_a_baseline_that_is_none_is_one_sentence_with_the_status_of_data(content, said):
    if content is not None:
        Path("bad.json").write_text(content, encoding="utf-8")
    ran = invoke(["m.onnx", *X, "--check", "--baseline", "bad.json"])
    assert ran.status == 4
    assert said in ran.stderr
    assert len(ran.stderr.strip().splitlines()) == 1


def test_a_baseline_wants_a_check_and_is_never_replaced():
    assert invoke(["m.onnx", *X, "--baseline", "check.json"]).status == 2
    before = Path("check.json").read_bytes()
    ran = invoke(["m.onnx", *X, "--check", "--baseline", "check.json", "--report", "check.json", "--force"])
    assert ran.status == 6
    assert Path("check.json").read_bytes() == before


def test_python_takes_a_result_a_path_or_stds():
    model, data = onnx_lsuv.load("m.onnx"), np.load("x.npy")
    first = onnx_lsuv.measure(model, data)
    stds = {row.name: row.std for row in first.layers}
    for baseline in (first, "check.json", Path("check.json"), stds):
        assert onnx_lsuv.measure(model, data, baseline=baseline).good
    assert not onnx_lsuv.measure(model, data, baseline={**stds, "y": 1.0}).good
    with pytest.raises(errors.UsageError, match="no such layer"):
        onnx_lsuv.measure(model, data, baseline={"other": 1.0})
