"""The plan is found once and travels; settings are one value, checked once."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from commands import call, fill, mlp
from oracle import normal, parse

import onnx_lsuv
import onnx_lsuv.cli.modes
from onnx_lsuv import Result, Settings, UsageError, importers, portable
from onnx_lsuv.lsuv.settings import METHODS, REPORTED, Choices, memory_bytes
from onnx_lsuv.program import Program, expand

HEAD = '<ir_version: 8, opset_import: ["" : 17]>'


@pytest.fixture
def expanded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that gets the name of each model that is expanded from here on, wherever that is done."""
    found: list[str] = []

    def counted(model: onnx_lsuv.Model) -> Program:
        found.append(model.name)
        return expand(model)

    assert {importers.__name__, portable.__name__} <= sys.modules.keys()
    for name, module in list(sys.modules.items()):
        if name.startswith("onnx_lsuv") and vars(module).get("expand") is expand:
            monkeypatch.setattr(module, "expand", counted)
    return found


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with models m.onnx and n.onnx, and data x.npy."""
    monkeypatch.chdir(fill(tmp_path))
    onnx.save(mlp(), "n.onnx")
    return tmp_path


TOLD = ["-v", "--report", "r.json", "--report", "r.html", "--report", "r.md"]


@pytest.mark.parametrize("more", [[], TOLD, ["--format", "json"]])
@pytest.mark.parametrize(
    ("arguments", "most"),
    [
        (["-d", "x.npy"], 2),
        (["--random", "--shape", "8,16"], 2),
        (["-d", "x.npy", "--no-verify"], 1),
        (["--no-rescale"], 1),
        (["-d", "x.npy", "--fresh", "--center", "--exclude", "u"], 2),
        (["-d", "x.npy", "--portable"], 2),
        (["-d", "x.npy", "--portable", "--include", "w", "--fresh"], 2),
        (["-d", "x.npy", "--portable", "--no-verify"], 2),
        (["-d", "x.npy", "--check"], 1),
        (["--random", "--check", "--compare", "n.onnx"], 2),
        (["--dry-run"], 1),
        (["--dry-run", "--random", "--fresh", "--center"], 1),
        (["--dry-run", "--portable", "--exclude", "u"], 2),
    ],
)
def test_each_file_is_expanded_once(
    here: Path, expanded: list[str], arguments: list[str], most: int, more: list[str]
) -> None:
    call("m.onnx", *arguments, *more, status=int("--check" in arguments))
    assert len(expanded) == most, expanded


def test_a_plan_is_taken_for_the_model(expanded: list[str]) -> None:
    model, batch = onnx_lsuv.from_proto(mlp()), {"x": normal(64, 16)}
    planned = onnx_lsuv.plan(model, seed=3, keep_bias=True)
    assert {row.status for row in planned.layers} == {"found"}
    assert planned.plan.layers
    assert not planned.changes
    result = onnx_lsuv.initialize(planned, batch)
    assert result.settings == planned.settings
    assert result.plan is planned.plan
    assert len(expanded) == 1
    assert onnx_lsuv.measure(planned, batch).plan is planned.plan
    assert onnx_lsuv.plan(planned, keep_bias=False).plan.program is planned.plan.program
    assert len(expanded) == 1
    alone = onnx_lsuv.initialize(model, batch, seed=3, keep_bias=True)
    assert onnx_lsuv.to_bytes(alone.model) == onnx_lsuv.to_bytes(result.model)
    # A result has a model of its own, which is not the one that was planned.
    again = onnx_lsuv.measure(result, batch)
    assert again.good
    assert again.plan.program.model is result.model


def test_what_is_measured_like_a_result_goes_by_its_settings() -> None:
    batch = {"x": normal(64, 16)}
    result = onnx_lsuv.initialize(onnx_lsuv.from_proto(mlp()), batch, target_std=2.0, tolerance=0.1)
    found = onnx_lsuv.measure(result.model, batch, like=result)
    assert (found.target_std, found.tolerance, found.verb) == (2.0, 0.1, "initialize")
    tight = onnx_lsuv.measure(result.model, batch, like=result, target_std=1.0, tolerance=1e-12)
    assert (tight.target_std, tight.tolerance, tight.good) == (2.0, 1e-12, False)
    assert found.good


def test_portable_with_the_check_is_a_function() -> None:
    batch = {"x": normal(64, 16)}
    result = onnx_lsuv.initialize(onnx_lsuv.from_proto(mlp()), batch)
    form = onnx_lsuv.make_portable(result, batch)
    assert form.steps
    carried = portable.carry(result, form)
    assert onnx_lsuv.measure(form.model, batch, like=carried).good
    assert any(note.startswith("made portable:") for note in carried.notes)


@pytest.mark.parametrize(
    ("given", "size"), [(4096, 4096), ("4096", 4096), ("2G", 2 << 30), (" 1.5 MiB", 3 << 19), ("9" * 99, sys.maxsize)]
)
def test_a_size_of_memory_as_the_command_takes_it(given: int | str, size: int) -> None:
    assert memory_bytes(given) == size
    batch = {"x": normal(8, 16)}
    result = onnx_lsuv.initialize(onnx_lsuv.from_proto(mlp()), batch, memory=given)
    assert onnx_lsuv.make_portable(result, batch, memory=given).steps


@pytest.mark.parametrize("given", ["lots", "", "-1", -1, 2.5, "2X"])
def test_what_is_no_size_of_memory(given: Any) -> None:
    model = onnx_lsuv.from_proto(mlp())
    for ask in (
        lambda: onnx_lsuv.initialize(model, None, memory=given),
        lambda: onnx_lsuv.make_portable(model, memory=given),
    ):
        with pytest.raises(UsageError, match=re.escape(f"memory takes a size such as 500M or 2G, not {given!r}")):
            ask()


def test_settings_are_one_value() -> None:
    names = [field.name for field in fields(Settings)]
    assert {*Choices.__annotations__, "spell"} == set(names)
    assert all(set(used) <= set(names) for used in REPORTED.values())
    settings = Settings(target={"a": 2}, include=["b"], init=METHODS[1])
    assert settings == Settings(target=[("a", 2.0)], include=("b",), init=METHODS[1])
    assert hash(settings) == hash(Settings(target=[("a", 2.0)], include=("b",), init=METHODS[1]))
    model = onnx_lsuv.from_proto(mlp())
    whole = onnx_lsuv.initialize(model, {"x": normal(8, 16)}, Settings(seed=1, keep_bias=True), seed=2)
    assert whole.settings == Settings(seed=2, keep_bias=True)
    assert whole.settings.as_dict(whole.verb) == {
        "seed": 2,
        "init": "orthonormal",
        "rescale": True,
        "fresh": False,
        "keep_bias": True,
        "lstm_bias": "keep",
        "center": False,
        "recalibrate": False,
        "untie": False,
        "include": [],
        "exclude": [],
        "target": [],
        "residual": "auto",
        "strict": False,
    }


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"fresh": True, "keep_bias": True}, "fresh=True gives every parameter a new value and keep_bias=True keeps"),
        ({"fresh": True, "init": "keep"}, "and init='keep' keeps some"),
        ({"lstm_bias": "kep"}, "lstm_bias must be forget or keep, not 'kep' (did you mean 'keep'?)"),
        ({"center": True, "rescale": False}, "center=True sets biases by the scaled weights and rescale=False leaves"),
        ({"target": {"u": 2}, "rescale": False}, "target is a std to scale to and rescale=False scales nothing"),
        ({"target_std": 2, "rescale": False}, "target_std is a std to scale to and rescale=False scales nothing"),
        ({"init": "magic"}, "init must be one of orthonormal, delta, he, xavier, keep, zero, identity, not 'magic'"),
        ({"init": {"u": "magic"}}, "keep, zero, identity, not 'magic'"),
        ({"fresh": True, "init": {"u": "keep"}}, "and init='keep' keeps some"),
        ({"target_std": 0}, "target_std must be a finite number above 0, not 0.0: one from 1e-09 to 1e+09"),
        ({"tolerance": 2.0}, "tolerance must lie between 0 and 1, not 2.0"),
        ({"target": {"u": -1}}, "target for 'u' must be a finite number above 0, not -1.0"),
        ({"seed": -1}, "seed must be a whole number from 0 on, not -1"),
    ],
)
def test_what_contradicts_is_refused_wherever_it_is_asked_for(choices: dict[str, Any], words: str) -> None:
    model = onnx_lsuv.from_proto(mlp())
    asked = [
        lambda: Settings(**choices).check(),
        lambda: onnx_lsuv.plan(model, **choices),
        lambda: onnx_lsuv.initialize(model, {"x": normal(8, 16)}, Settings(**choices)),
        lambda: onnx_lsuv.measure(model, {"x": normal(8, 16)}, Settings(**choices)),
    ]
    for ask in asked:
        with pytest.raises(UsageError) as found:
            ask()
        assert words in str(found.value)


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"seed": "one"}, "seed has to be a whole number, not 'one'"),
        ({"seed": 1.5}, "seed has to be a whole number, not 1.5"),
        ({"target_std": "wide"}, "target_std has to be a number, not 'wide'"),
        ({"target_std": None}, "target_std has to be a number, not None"),
        ({"target_std": 10**400}, "target_std has to be a number, not 1000"),
        ({"init": 3}, "init has to be a method or {pattern: method}, not 3"),
        ({"init": {"u": 3}}, "init has to be a method or {pattern: method}, not {'u': 3}"),
        ({"tolerance": "small"}, "tolerance has to be a number or None, not 'small'"),
        ({"target": "fc*=0.1"}, "target has to be {pattern: std}, not 'fc*=0.1'"),
        ({"target": 0.5}, "target has to be {pattern: std}, not 0.5"),
        ({"target": {"fc*": "x"}}, "target has to be {pattern: std}, not {'fc*': 'x'}"),
        ({"target": {1: 0.5}}, "target has to be {pattern: std}, not {1: 0.5}"),
        ({"include": None}, "include has to be a list of patterns, not None"),
        ({"exclude": [1]}, "exclude has to be a list of patterns, not [1]"),
        ({"fresh": "no"}, "fresh has to be True or False, not 'no'"),
        ({"settings": {"seed": 1}}, "settings have to be onnx_lsuv.Settings, or keywords, not dict"),
    ],
)
def test_values_of_no_use_are_refused(choices: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as found:
        onnx_lsuv.plan(onnx_lsuv.from_proto(mlp()), **choices)
    assert words in str(found.value)


def test_numbers_of_numpy_and_one_pattern_become_plain_values() -> None:
    choices: dict[str, Any] = {"seed": np.int64(3), "target_std": np.float32(0.5), "tolerance": np.float32(0.25)}
    choices |= {"fresh": np.bool_(False), "target": {"u": np.float32(2)}, "include": "u", "exclude": np.array(["w1"])}
    settings = Settings(**choices)
    assert settings == Settings(3, target_std=0.5, tolerance=0.25, target={"u": 2.0}, include=["u"], exclude=["w1"])
    assert json.loads(json.dumps(settings.as_dict("initialize"))) == settings.as_dict("initialize")
    assert Settings(seed=True).seed is not True


@pytest.mark.parametrize("name", ["Change", "Forecast", "LayerReport", "Result", "Settings", "SkippedReport"])
def test_pydoc_says_what_each_field_means(name: str) -> None:
    one = getattr(onnx_lsuv, name)
    _, _, listed = one.__doc__.partition("Attributes:\n")
    assert re.findall(r"^ {8}(\w+): \S", listed.partition("Raises:")[0], re.MULTILINE) == [f.name for f in fields(one)]


def test_measure_refuses_what_it_has_no_use_for() -> None:
    choices: Any = {"seed": 1, "target_std": 2.0}
    with pytest.raises(TypeError, match="no use for seed"):
        onnx_lsuv.measure(onnx_lsuv.from_proto(mlp()), {"x": normal(8, 16)}, **choices)


def test_measure_refuses_the_result_of_another_model() -> None:
    batch = {"x": normal(8, 16)}
    models = [
        onnx_lsuv.from_proto(parse(f"{HEAD} g (float[N,16] x) => (float z) {{ {text} }}", **weights))
        for text, weights in (
            ("y = MatMul(x, w) z = MatMul(y, v)", {"w": normal(16, 16), "v": normal(16, 4)}),
            ("a = MatMul(x, p) z = MatMul(a, q)", {"p": normal(16, 16), "q": normal(16, 4)}),
            ("y = MatMul(x, w)  z = Relu(y)", {"w": normal(16, 16)}),
        )
    ]
    like = onnx_lsuv.initialize(models[0], batch)
    assert onnx_lsuv.measure(like.model, batch, like=like).good
    for other, names in zip(models[1:], ("'a', 'z'", "'y'"), strict=True):
        with pytest.raises(
            UsageError, match=f"`like` is the result of another model: its layers are 'y', 'z', and not {names}"
        ):
            onnx_lsuv.measure(other, batch, like=like)


def test_the_result_of_a_plan_needs_data_where_something_is_measured() -> None:
    found: list[Result] = [onnx_lsuv.plan(onnx_lsuv.from_proto(mlp()), rescale=rescale) for rescale in (True, False)]
    assert [each.needs_data for each in found] == [True, False]
