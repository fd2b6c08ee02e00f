"""The notes that guide: which layers they name, and that following their advice does what they say."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from commands import call
from conftest import Run
from onnx import ModelProto
from oracle import normal, parse

import onnx_lsuv
from onnx_lsuv.lsuv import Settings, guide
from onnx_lsuv.lsuv.patterns import aims_of

Lsuv = Callable[..., Run]
HEAD = '<ir_version: 10, opset_import: ["" : 17]>'


def notes(model: ModelProto) -> dict[str, str]:
    plan = onnx_lsuv.plan(onnx_lsuv.from_proto(model)).plan
    found = guide(plan, aims_of(plan, Settings()))
    assert len({note.kind for note in found}) == len(found), "more than one note of a kind"
    return {note.kind: note.text for note in found}


def named(model: ModelProto) -> ModelProto:
    """Name every node by its output."""
    for node in model.graph.node:
        node.name = node.output[0]
    return model


NORM = {"s": np.ones(4, np.float32), "t": np.zeros(4, np.float32), "m": np.zeros(4, np.float32)}
NORM["v"] = NORM["s"]


def test_layers_before_a_normalisation() -> None:
    text = f"""{HEAD} g (float[N,4,6,6] x) => (float y) {{ a = Conv(x, w1) n = BatchNormalization(a, s, t, m, v)
      b = Conv(n, w2) h = Add(b, c) o = InstanceNormalization(h, s, t) d = Conv(o, w3)
      p = BatchNormalization(d, s, t, m, v) r = Add(p, d) e = Flatten(r) y = MatMul(e, u) }}"""
    tensors = {f"w{i}": normal(4, 4, 1, 1) for i in (1, 2, 3)} | {"u": normal(144, 3), "c": normal(4, 1, 1)}
    (text,) = notes(parse(text, tensors | NORM)).values()
    # The third one is also added to what comes after, so its scale counts.
    assert text.startswith("2 of 4 layers feed a normalisation and nothing else ('a', 'b'): ")


def test_a_normalised_sum_does_not_cancel_a_branch() -> None:
    text = """<ir_version: 10, opset_import: ["" : 17, "com.microsoft" : 1]> g (float[N,5,4] x) => (float y) {
      a = MatMul(x, w) y = com.microsoft.SkipLayerNormalization(a, x, s) }"""
    assert notes(parse(text, w=normal(4, 4), s=NORM["s"])) == {}


def test_many_layers_are_one_note_with_the_first_names() -> None:
    nodes = " ".join(
        f"a{i} = MatMul({'x' if i == 0 else f'n{i - 1}'}, w{i}) n{i} = LayerNormalization(a{i}, s)" for i in range(7)
    )
    text = f"{HEAD} g (float[N,4] x) => (float n6) {{ {nodes} }}"
    (note,) = notes(parse(text, {f"w{i}": normal(4, 4) for i in range(7)}, s=NORM["s"])).values()
    assert "7 of 7 layers feed" in note
    assert "('a0', 'a1', 'a2' and 4 more)" in note


@pytest.mark.parametrize("gate", ["Sigmoid", "HardSigmoid", "Softmax"])
def test_gates(lsuv: Lsuv, gate: str) -> None:
    text = f"""{HEAD} g (float[N,16] x) => (float y) {{ a = MatMul(x, w1) q = Reshape(a, shape) k = {gate}(q)
      b = MatMul(x, w2) c = Mul(b, k) y = MatMul(c, w3) }}"""
    tensors: dict[str, Any] = {f"w{i}": normal(16, 16, seed=i) for i in (1, 2, 3)} | {"shape": np.array([-1, 16])}
    model = parse(text, tensors)
    found = notes(model)
    assert set(found) == {"gate"}
    assert "1 of 3 layers feeds a gate ('a')" in found["gate"]
    option = re.search(r"target=\{'(\S+)': (\S+)\},", found["gate"])
    assert option is not None
    batch = {"x": normal(256, 16)}
    run, before = lsuv(model, batch, target={option[1]: float(option[2])}), lsuv(model, batch)
    assert run.result.good
    assert run.value("k")[0].std() < 0.3 * before.value("k")[0].std()
    assert not any("gate" in note for note in run.result.notes)
    assert any("gate" in note for note in before.result.notes)


@pytest.mark.parametrize("end", ["y = Mul(a, k)", "y = Identity(k)", "y = Mul(k, two)"])
def test_what_is_no_gate(end: str) -> None:
    text = f"{HEAD} g (float[N,4] x) => (float y) <float two = {{2.0}}> {{ a = MatMul(x, w) k = Sigmoid(a) {end} }}"
    assert notes(parse(text, w=normal(4, 4))) == {}


def residual(
    depth: int, *, norm_after: bool = False, norm_before: bool = True, name: str = "blocks.{}.fc{}"
) -> ModelProto:
    """Return blocks h = x + fc2(relu(fc1(norm(x)))), or norm(x + ...)."""
    nodes, tensors, x = [], {"s": np.ones(32, np.float32)}, "x"
    for i in range(depth):
        n = f"n{i}" if norm_before else x
        if norm_before:
            nodes.append(f"n{i} = LayerNormalization({x}, s)")
        nodes.append(f"a{i} = MatMul({n}, u{i}) r{i} = Relu(a{i}) b{i} = MatMul(r{i}, v{i}) h{i} = Add({x}, b{i})")
        x = f"h{i}"
        if norm_after:
            nodes.append(f"o{i} = LayerNormalization(h{i}, s)")
            x = f"o{i}"
        tensors |= {f"u{i}": normal(32, 64, seed=i), f"v{i}": normal(64, 32, seed=90 + i)}
    model = named(parse(f"{HEAD} g (float[N,32] x) => (float {x}) {{ {' '.join(nodes)} }}", tensors))
    for node in model.graph.node:
        if node.op_type == "MatMul":
            node.name = name.format(node.name[1:], {"a": 1, "b": 2}[node.name[0]])
    return model


@pytest.mark.parametrize("norm_before", [False, True])
def test_a_stream_that_would_grow(lsuv: Lsuv, norm_before: bool) -> None:
    depth = 16
    model = residual(depth, norm_before=norm_before)
    found = notes(model)
    assert set(found) == {"residual"}
    assert found["residual"].startswith("16 of 32 layers end residual branches ('blocks.0.fc2', ")
    assert "residual='off' gives them the usual std" in found["residual"]
    batch = {"x": normal(512, 32)}
    plain, usual = lsuv(model, batch, residual="off"), lsuv(model, batch)
    last = f"h{depth - 1}"
    assert plain.value(last)[0].var() > 0.6 * (1 + depth)
    assert 1.2 < usual.value(last)[0].var() < 3
    assert not any("residual" in note for note in plain.result.notes)
    assert any("residual" in note for note in usual.result.notes)


def test_a_stream_that_is_normalised_or_short_is_no_note() -> None:
    assert "residual" not in notes(residual(16, norm_after=True))
    assert "residual" not in notes(residual(1))
    assert "residual" in notes(residual(2))


def gated(name: str, depth: int = 5) -> ModelProto:
    """Return blocks h = x * sigmoid(W x) with a layer after each; the gates' layers have the name with their number."""
    nodes, tensors, x = [], {}, "x"
    for i in range(depth):
        nodes.append(f"a{i} = MatMul({x}, u{i}) k{i} = Sigmoid(a{i}) p{i} = Mul({x}, k{i}) h{i} = MatMul(p{i}, v{i})")
        tensors |= {f"u{i}": normal(32, 32, seed=i), f"v{i}": normal(32, 32, seed=90 + i)}
        x = f"h{i}"
    model = named(parse(f"{HEAD} g (float[N,32] x) => (float {x}) {{ {' '.join(nodes)} }}", tensors))
    for node in model.graph.node:
        if node.op_type == "MatMul":
            node.name = name.format(node.output[0][1:], {"a": 1, "h": 2}[node.output[0][0]])
    return model


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("blocks.{}.fc{}", "--target 'blocks.*.fc1=0.1'"),
        ("m[{}]/fc{}?", "--target 'm[[]*]/fc1[?]=0.1'"),
        # No pattern tells these from the layers between: each by its name, none left out.
        ("node_{}{}", " ".join(f"--target node_{i}1=0.1" for i in range(5))),
    ],
)
def test_the_option_of_a_note_can_be_pasted_whole(tmp_path: Path, name: str, option: str) -> None:
    path = str(tmp_path / "m.onnx")
    onnx.save(gated(name), path)
    np.save(tmp_path / "x.npy", normal(64, 32))
    said = call(path, "--dry-run").stdout
    assert f"as by {option}, starts" in said
    again = call(path, "-d", str(tmp_path / "x.npy"), "-o", str(tmp_path / "o.onnx"), *shlex.split(option)).stdout
    assert "gate" not in again


def test_a_branch_that_ends_in_a_norm_is_no_stream() -> None:
    nodes, tensors, x = [], dict(NORM), "x"
    for i in range(6):
        nodes.append(
            f"a{i} = Conv({x}, w{i}) b{i} = BatchNormalization(a{i}, s, t, m, v) "
            f"h{i} = Add(b{i}, {x}) r{i} = Relu(h{i})"
        )
        tensors[f"w{i}"] = normal(4, 4, 1, 1, seed=i)
        x = f"r{i}"
    model = parse(f"{HEAD} g (float[N,4,6,6] x) => (float {x}) {{ {' '.join(nodes)} }}", tensors)
    assert set(notes(model)) == {"norm"}


def test_additions_that_are_no_residual_stream() -> None:
    nodes = " ".join(f"a{i} = MatMul(x, w{i}) s{i} = Add({f's{i - 1}' if i else 'a6'}, a{i})" for i in range(6))
    weights = {f"w{i}": normal(4, 4) for i in range(7)}
    model = parse(f"{HEAD} g (float[N,4] x) => (float s5) {{ a6 = MatMul(x, w6) {nodes} }}", weights)
    # Side by side: what they all read is not added to.
    assert "residual" not in notes(model)


def test_where_the_notes_are_shown(lsuv: Lsuv) -> None:
    model, batch = residual(5), {"x": normal(64, 32)}
    loaded = onnx_lsuv.from_proto(model)
    shown = [onnx_lsuv.initialize(loaded, batch).notes, onnx_lsuv.plan(loaded).notes, lsuv(model, batch).result.notes]
    for each in shown:
        (note,) = (note for note in each if "residual branches" in note)
        assert note.endswith("(README: What the notes say)")
    (merged,) = onnx_lsuv.initialize(loaded, batch, rescale=False).notes
    assert merged.startswith("an exporter merged equal tensors: 's' is 5 parameters")
    assert isinstance(model, onnx.ModelProto)


# ----------------------------------------------------------------------------------------- inputs prepared by the graph

PREPARED = {
    "mean and std": "d = Sub(x, mean) n = Div(d, std) f = Flatten(n)",
    "bounded after": "d = Sub(x, mean) n = Div(d, std) c = Clip(n, low, high) f = Flatten(c)",
    "a number": "k = Constant <value_float = 0.00784> () h = Mul(k, x) o = Sub(h, one) f = Flatten(o)",
    "a norm": "n = BatchNormalization(x, ones, zeros, mean1, var1) f = Flatten(n)",
    "moved first": "t = Transpose <perm = [0, 2, 3, 1]> (x) i = Identity(t) n = Mul(i, std) f = Flatten(n)",
    "a computed vector": "v = Unsqueeze(mean1, axes) d = Sub(x, v) f = Flatten(d)",
    "a mean image": "d = Sub(x, table) n = Div(d, std) f = Flatten(n)",
    "its own mean": "m = ReduceMean <axes = [1, 2, 3]> (x) d = Sub(x, m) f = Flatten(d)",
    "both halves": """a, b = Split <axis = 3> (x, halves) c = Sub(a, mean) d = Div(b, std)
        e = Concat <axis = 3> (c, d) f = Flatten(e)""",
}
RAW = {
    "nothing": "f = Flatten(x)",
    "moved alone": "t = Transpose <perm = [0, 2, 3, 1]> (x) f = Flatten(t)",
    "a table is added": "a = Add(x, table) f = Flatten(a)",
    "a table is multiplied": "a = Mul(x, table) f = Flatten(a)",
    "one half": "a, b = Split <axis = 3> (x, halves) c = Sub(a, mean) e = Concat <axis = 3> (c, b) f = Flatten(e)",
    "after an activation": "r = Sigmoid(x) d = Sub(r, mean) f = Flatten(d)",
    "added to itself": "a = Add(x, x) f = Flatten(a)",
}


def normaliser(nodes: str) -> ModelProto:
    text = f"""{HEAD} g (float[N,3,2,2] x) => (float[N,5] y) {{ {nodes} y = MatMul(f, w) }}"""
    tensors = {"mean": np.full((3, 1, 1), 117, np.float32), "std": np.full((1, 3, 1, 1), 58, np.float32)}
    if "perm" in nodes:
        tensors["std"] = np.full((1, 1, 1, 3), 58, np.float32)
    tensors |= {"low": np.float32([-10]), "high": np.float32([10]), "one": np.float32([1]), "axes": np.array([0, 2, 3])}
    tensors |= {"ones": np.ones(3, np.float32), "zeros": np.zeros(3, np.float32)}
    tensors |= {"mean1": np.full(3, 117, np.float32), "var1": np.full(3, 58**2, np.float32)}
    tensors |= {"halves": np.array([1, 1]), "table": normal(3, 2, 2)}
    model = parse(text, w=normal(12, 5), **{name: array for name, array in tensors.items() if name in nodes})
    for tensor in model.graph.initializer:
        if tensor.name in ("low", "high"):
            del tensor.dims[:]
    return model


@pytest.mark.parametrize("way", [*PREPARED, *RAW])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_preprocessing_is_advised_where_the_graph_does_none(way: str, dtype: Any) -> None:
    model = onnx_lsuv.from_proto(normaliser({**PREPARED, **RAW}[way]))
    pixels = np.random.default_rng(0).integers(0, 256, (64, 3, 2, 2)).astype(dtype)
    found = [onnx_lsuv.initialize(model, {"x": pixels}).notes, onnx_lsuv.measure(model, {"x": pixels}).notes]
    for some in found:
        advised = [note for note in some if "preprocess" in note]
        assert bool(advised) == (way in RAW), some
        # What is converted is said in any case.
        assert any("uint8 to float32" in note for note in some) == (dtype == np.uint8)


# -------------------------------------------------------------------------------------------------------- signal share

THREE = "(float[N,8] x) => (float y) { a = Gemm(x, w1, b1) r = Relu(a) y = Gemm(r, w2, b2) }"


def _same_for_all(spread: float = 0.05) -> dict[str, np.ndarray]:
    """Return samples that are nearly alike."""
    return {"x": (normal(1, 8, seed=1) + spread * normal(64, 8, seed=2)).astype(np.float32)}


def _start(**choices: object) -> onnx_lsuv.Result:
    tensors = {"w1": normal(8, 8, seed=3), "b1": normal(8), "w2": normal(8, 8, seed=4), "b2": normal(8)}
    model = parse(f"{HEAD} g {THREE}", tensors)
    made = onnx_lsuv.initialize(onnx_lsuv.from_proto(model), _same_for_all(), **choices)  # type: ignore[arg-type]
    return onnx_lsuv.measure(made.model, _same_for_all(), like=made)


def _faint(result: onnx_lsuv.Result) -> list[str]:
    return [note for note in result.notes if "depends on the input" in note]


def test_last_layers_that_hardly_depend_on_the_input() -> None:
    result = _start()
    share = result.layers[-1].signal
    assert share is not None
    assert share < 0.2
    (note,) = _faint(result)
    assert note.startswith(f"at the last layer {result.layers[-1].name!r} only {share:.0%} of the variance depends on")
    assert "center=True" in note
    again = onnx_lsuv.measure(result.model, _same_for_all(), like=result)
    assert _faint(again) == [note]
    checked = onnx_lsuv.measure(result.model, _same_for_all())
    assert _faint(checked) == [note]  # it has the stds of a start


def test_nothing_is_said_of_signal_where_it_is_there_or_what_learned_may_have_taken_it() -> None:
    assert not _faint(_start(center=True))
    assert not _faint(_start(init="keep", rescale=False))
    learned = onnx_lsuv.initialize(_start().model, _same_for_all(), target_std=3.0).model
    assert not _faint(onnx_lsuv.measure(learned, _same_for_all()))
    made = _start()
    ample = onnx_lsuv.initialize(made.model, {"x": normal(64, 8, seed=2)})
    assert not _faint(onnx_lsuv.measure(ample.model, {"x": normal(64, 8, seed=2)}, like=ample))


# ---------------------------------------------------------------------------------------------- dead, saturated units


def _stopped(activation: str, bias: float, **choices: object) -> list[str]:
    tensors = {"w1": normal(8, 8, seed=3), "b1": np.full(8, bias, np.float32), "w2": normal(8, 8), "b2": normal(8)}
    text = THREE.replace("Relu", activation)
    batch = {"x": normal(64, 8, seed=2)}
    made = onnx_lsuv.initialize(onnx_lsuv.from_proto(parse(f"{HEAD} g {text}", tensors)), batch, **choices)  # type: ignore[arg-type]
    rows = onnx_lsuv.measure(made.model, batch, like=made)
    return [note for note in rows.notes if "no gradient passes" in note]


def test_activations_that_let_nothing_through() -> None:
    bias = np.array([-9, -9, -9, -9, -9, -9, 0, 0], np.float32)
    (note,) = _stopped("Relu", bias, keep_bias=True, target={"w1": float(normal(8, 8).std() * 4)})
    assert note.endswith(
        "75% of the units give nothing for any sample, and no gradient passes there; initialised with center=True all "
        "do for some"
    )
    (note,) = _stopped("Tanh", 0, target_std=30.0)
    assert note.endswith(
        "of the values are at an end of its activation, and no gradient passes there; a lower target_std helps"
    )
    assert not _stopped("Relu", 0)
    assert not _stopped("Tanh", 0)
    assert not _stopped("Relu", bias, center=True)
