"""Names that stand for several things. onnx.checker and ONNX Runtime say what such a file means, if anything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from commands import invoke
from conftest import Run
from onnx import ModelProto, numpy_helper
from oracle import normal, parse

import onnx_lsuv
from onnx_lsuv import ModelError

Lsuv = Callable[..., Run]
HEAD = '<ir_version: 9, opset_import: ["" : 17]>'
THEN = "then_branch = a () => (float[N,4] p) {{ {one} }}, else_branch = b () => (float[N,4] q) {{ {two} }}"


def branching(one: str, two: str, after: str = "y = Identity(z)") -> ModelProto:
    text = f"""{HEAD} g (float[N,4] x, bool c) => (float[N,4] y)
        {{ h = MatMul(x, w) z = If (c) <{THEN.format(one=one, two=two)}> {after} }}"""
    return parse(text, w=normal(4, 4))


REFUSED = {
    "an output of a branch": branching("h = Relu(x) p = MatMul(h, w)", "q = Identity(h)"),
    "the input of the graph": branching("x = Relu(h) p = MatMul(x, w)", "q = Identity(h)"),
    "an initializer": branching("w = Relu(h) p = Identity(w)", "q = Identity(h)"),
    "in a loop": parse(
        f"""{HEAD} g (float[N,4] x, bool c) => (float[N,4] y)
        {{ h = MatMul(x, w) y = Loop (n, c, x) <
            body = a (int64 i, bool k, float[N,4] s) => (bool l, float[N,4] p)
                {{ l = Identity(k) h = Relu(s) p = MatMul(h, w) }}> }}""",
        w=normal(4, 4),
        n=np.array(3),
    ),
    "twice in one graph": parse(
        f"{HEAD} g (float[N,4] x) => (float[N,4] y) {{ h = Relu(x) h = Tanh(x) y = MatMul(h, w) }}", w=normal(4, 4)
    ),
}
TAKEN = {
    "in both branches": branching("k = Relu(x) p = MatMul(k, w)", "k = Tanh(h) q = Identity(k)"),
    "afterwards": branching("k = Relu(x) p = MatMul(k, w)", "q = Identity(h)", "k = Relu(z) y = MatMul(k, w)"),
    "an input of a loop's body": parse(
        f"""{HEAD} g (float[N,4] x, bool c) => (float[N,4] y)
        {{ h = MatMul(x, w) y = Loop (n, c, h) <
            body = a (int64 i, bool k, float[N,4] h) => (bool l, float[N,4] p)
                {{ l = Identity(k) p = MatMul(h, w) }}> }}""",
        w=normal(4, 4),
        n=np.array(3),
    ),
}


@pytest.mark.parametrize("where", REFUSED)
def test_a_name_that_is_taken_is_refused_as_by_the_checker(where: str, tmp_path: Path) -> None:
    with pytest.raises(onnx.checker.ValidationError):
        onnx.checker.check_model(REFUSED[where])
    with pytest.raises(ModelError, match="a name that another value has") as found:
        onnx_lsuv.plan(onnx_lsuv.from_proto(REFUSED[where]))
    assert len(str(found.value)) < 400
    onnx.save(REFUSED[where], str(tmp_path / "m.onnx"))
    assert invoke([str(tmp_path / "m.onnx"), "--dry-run"]).status == 3


@pytest.mark.parametrize("where", TAKEN)
def test_a_name_that_the_checker_takes_is_taken(where: str) -> None:
    onnx.checker.check_model(TAKEN[where])
    assert onnx_lsuv.plan(onnx_lsuv.from_proto(TAKEN[where])).plan.layers


def test_of_several_initializers_of_one_name_the_last_one_counts(lsuv: Lsuv) -> None:
    text = f"{HEAD} g (float[N,4] x) => (float[N,5] y) {{ h = MatMul(x, w) y = MatMul(h, v) }}"
    model = parse(text, w=normal(4, 6), v=normal(6, 5))
    model.graph.initializer.append(numpy_helper.from_array(normal(4, 6, seed=1), "w"))
    loaded = onnx_lsuv.from_proto(model)
    data = {"x": normal(64, 4)}
    measured = onnx_lsuv.measure(loaded, data)
    expected = (data["x"] @ normal(4, 6, seed=1)).std()
    assert measured.layers[0].std == pytest.approx(expected, rel=1e-5)
    result = onnx_lsuv.initialize(loaded, data)
    saved = onnx.load_from_string(onnx_lsuv.to_bytes(result.model))
    first, last = (numpy_helper.to_array(t) for t in saved.graph.initializer if t.name == "w")
    np.testing.assert_array_equal(first, normal(4, 6))
    assert (data["x"] @ last).var() == pytest.approx(1, abs=1e-4)
    for found in (measured, result, onnx_lsuv.plan(loaded)):
        (note,) = (note for note in found.notes if "one name" in note)
        assert "'w'" in note
        assert "last one counts" in note


def test_nodes_of_one_name_are_told_apart() -> None:
    text = f"{HEAD} g (float[N,4] x) => (float[N,5] y) {{ h = MatMul(x, w) y = MatMul(h, v) }}"
    model = parse(text, w=normal(4, 6), v=normal(6, 5))
    for node in model.graph.node:
        node.name = "same"
    loaded = onnx_lsuv.from_proto(model)
    result = onnx_lsuv.initialize(loaded, {"x": normal(64, 4)}, exclude=["same#y"])
    assert [row.name for row in result.layers] == ["same"]
    assert [row.name for row in result.skipped] == ["same#y"]
    for found in (result, onnx_lsuv.plan(loaded)):
        (note,) = (note for note in found.notes if "one name" in note)
        assert "'same'" in note
        assert "NAME#OUTPUT" in note


def test_without_double_names_there_is_no_note() -> None:
    model = onnx_lsuv.from_proto(TAKEN["afterwards"])
    assert not any("one name" in note for note in onnx_lsuv.plan(model).notes)


# -------------------------------------------------------------------------------------------------- joined weights


def joined() -> ModelProto:
    text = f"""{HEAD} g (float[N,4] x) => (float[N,3] y)
        {{ w = Concat <axis = 1> (wq, wk) h = MatMul(x, w) y = MatMul(h, v) }}"""
    return parse(text, wq=normal(4, 2), wk=normal(4, 6), v=normal(8, 3))


@pytest.mark.parametrize("pattern", ["wq + wk", "wq + *", "wq", "wk", "h"])
def test_a_joined_weight_is_meant_by_the_name_that_is_shown(pattern: str) -> None:
    model, data = onnx_lsuv.from_proto(joined()), {"x": normal(64, 4)}
    shown = [row.weight for row in onnx_lsuv.plan(model).layers]
    assert shown == ["wq + wk", "v"]
    assert [row.weight for row in onnx_lsuv.plan(model, include=[pattern]).layers] == ["wq + wk"]
    assert [row.weight for row in onnx_lsuv.plan(model, exclude=[pattern]).layers] == ["v"]
    result = onnx_lsuv.initialize(model, data, target={pattern: 0.5})
    assert [row.target for row in result.layers] == [0.5, 1.0]
    saved = onnx.load_from_string(onnx_lsuv.to_bytes(result.model))
    tensors = {t.name: numpy_helper.to_array(t) for t in saved.graph.initializer}
    h = data["x"] @ np.concatenate([tensors["wq"], tensors["wk"]], 1)
    assert h.std() == pytest.approx(0.5, rel=1e-4)
