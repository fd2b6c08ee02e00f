"""Biases that are added after a layer's product was moved, is read by others too, or in another scope.

What a file gives comes from a plain session over the saved one, and from NumPy in float64.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import Run
from onnx import TensorProto, helper
from oracle import all_float_tensors, normal, parse, tensor_of

import onnx_lsuv
from onnx_lsuv.lsuv.params import params_of

Lsuv = Callable[..., Run]

B = np.arange(1, 9, dtype=np.float32)
DENSE = "f = Reshape(x, rows) m = MatMul(f, w)"
IMAGE = "m = Conv(x, w)"
# What is between the product and the Add; the shape that the bias has.
MOVES = {
    "Reshape": (DENSE, "n = Reshape(m, back)", (8,)),
    "Reshape, bias of three axes": (DENSE, "n = Reshape(m, back)", (1, 1, 8)),
    "Reshape to what the data say": (
        DENSE,
        "s = Shape(x) l = Slice(s, zero, two) t = Concat<axis=0>(l, width) n = Reshape(m, t)",
        (8,),
    ),
    "Unsqueeze": ("m = MatMul(x, w)", "n = Unsqueeze(m, one)", (8,)),
    "Unsqueeze behind": ("m = MatMul(x, w)", "n = Unsqueeze(m, minus)", (8, 1)),
    "Squeeze": ("u = Unsqueeze(x, one) m = MatMul(u, w)", "n = Squeeze(m, one)", (8,)),
    "Unsqueeze, lengths unknown": (
        "a = Transpose<perm=[1,0,2]>(x) m = MatMul(a, w)",
        "c = Transpose<perm=[2,0,1]>(m) d = Unsqueeze(c, one) n = Squeeze(d, one)",
        (8, 1, 1),
    ),
    "Identity": ("m = MatMul(x, w)", "i = Identity(m) n = Identity(i)", (8,)),
    "Cast to what it is": ("m = MatMul(x, w)", "n = Cast<to=1>(m)", (8,)),
    "Transpose": ("m = MatMul(x, w)", "n = Transpose<perm=[0,2,1]>(m)", (8, 1)),
    "Transpose, no order given": (DENSE, "n = Transpose(m)", (8, 1)),
    "Flatten": (DENSE, "n = Flatten(m)", (8,)),
    "several": (DENSE, "a = Reshape(m, back) c = Transpose<perm=[2,0,1]>(a) n = Identity(c)", (8, 1, 1)),
    "heads": (DENSE, "n = Reshape(m, heads)", (2, 4)),
    "heads, moved": (DENSE, "a = Reshape(m, heads) n = Transpose<perm=[0,2,3,1]>(a)", (2, 4, 1)),
    "heads and back": (DENSE, "a = Reshape(m, heads) n = Reshape(a, back)", (8,)),
    "image to tokens": (IMAGE, "a = Reshape(m, tokens) n = Transpose<perm=[0,2,1]>(a)", (8,)),
    "image, moved": (IMAGE, "n = Transpose<perm=[0,2,3,1]>(m)", (8,)),
}
SIZES = {
    "rows": [-1, 6],
    "back": [-1, 5, 8],
    "five": [-1, 5],
    "heads": [-1, 5, 2, 4],
    "zero": [0],
    "two": [2],
    "one": [1],
    "minus": [-1],
    "width": [8],
    "tokens": [0, 8, 20],
}


def model(nodes: str, output: str = "y", **tensors: Any) -> Any:
    image = "Conv(" in nodes
    x = "float[N,6,4,5]" if image else "float[N,5,6]"
    text = f'<ir_version: 8, opset_import: ["" : 17]> g ({x} x) => (float {output}) {{ {nodes} }}'
    integers = {name: np.array(value) for name, value in SIZES.items() if name in nodes}
    given = {"w": normal(8, 6, 1, 1) if image else normal(6, 8), **integers, **tensors}
    if "(x, o)" in nodes:
        given |= {"o": normal(6, 1)}
        del given["w"]
    return parse(text, {name: np.asarray(value) for name, value in given.items()})


def data(nodes: str) -> dict[str, Any]:
    return {"x": normal(40, 6, 4, 5) if "Conv(" in nodes else normal(64, 5, 6)}


def product(run: Run) -> Any:
    """Return a dense layer's product in float64, its channels last."""
    x, w = np.asarray(run.batches[0]["x"], np.float64), run.weight("w")
    return np.moveaxis(x, 1, -1) @ w.reshape(8, 6).T if w.ndim == 4 else x @ w


@pytest.mark.parametrize("way", MOVES)
def test_bias_behind_moves_becomes_zero(lsuv: Lsuv, way: str) -> None:
    begin, moves, shape = MOVES[way]
    nodes = f"{begin} {moves} y = Add(n, b)"
    run = lsuv(model(nodes, b=B.reshape(shape)), data(nodes))
    assert {c.tensor: c.role for c in run.result.changes} == {"w": "weight", "b": "bias"}
    assert not run.weight("b").any()
    assert run.result.layers[0].status == "ok"
    assert not run.result.notes
    assert product(run).std() == pytest.approx(1, abs=1e-4)
    assert run.value("y")[0].std() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("batches", [1, 3])
@pytest.mark.parametrize("way", MOVES)
def test_bias_behind_moves_is_measured_where_it_stays(lsuv: Lsuv, way: str, batches: int) -> None:
    begin, moves, shape = MOVES[way]
    nodes = f"{begin} {moves} h = Add(n, b) r = Relu(h) y = Add(r, h)"
    small = normal(8) / 4
    parts = [data(nodes) for _ in range(batches)]
    run = lsuv(model(nodes, b=small.reshape(shape)), parts, keep_bias=True)
    assert run.changed == {"w"}
    assert run.result.layers[0].status == "ok"
    assert not run.result.notes
    w = run.weight("w")
    xs = [np.asarray(part["x"], np.float64) for part in parts]
    outputs = [(np.moveaxis(x, 1, -1) @ w.reshape(8, 6).T if w.ndim == 4 else x @ w) + small for x in xs]
    assert np.concatenate([each.reshape(-1) for each in outputs]).std() == pytest.approx(1, abs=1e-4)
    assert np.concatenate([each.reshape(-1) for each in run.value("h")]).std() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("way", MOVES)
def test_bias_behind_moves_centres_each_channel(lsuv: Lsuv, way: str) -> None:
    begin, moves, shape = MOVES[way]
    nodes = f"{begin} {moves} y = Add(n, b)"
    given = {"x": np.abs(data(nodes)["x"]) + 1}
    run = lsuv(model(nodes, b=B.reshape(shape)), given, center=True)
    assert not [note for note in run.result.notes if "not centred" in note]
    output = product(run) + run.weight("b").reshape(-1)
    assert np.abs(output.reshape(-1, 8).mean(0)).max() < 1e-4
    assert output.std() == pytest.approx(1, abs=1e-3)
    assert run.value("y")[0].mean() == pytest.approx(0, abs=1e-4)


def test_fresh_sets_it_to_zero_too(lsuv: Lsuv) -> None:
    nodes = f"{DENSE} n = Reshape(m, back) y = Add(n, b)"
    run = lsuv(model(nodes, b=B), data(nodes), fresh=True)
    assert not run.weight("b").any()


def test_what_follows_reads_the_output_with_its_bias(lsuv: Lsuv) -> None:
    # The second layer's input is s z + b: were it something else, its std would be off.
    nodes = f"{DENSE} n = Reshape(m, back) h = Add(n, b) r = Relu(h) y = MatMul(r, v)"
    run = lsuv(model(nodes, b=B / 8, v=normal(8, 3)), data(nodes), keep_bias=True)
    hidden = np.maximum(product(run) + run.weight("b"), 0)
    assert (hidden @ run.weight("v")).std() == pytest.approx(1, abs=1e-4)
    assert [row.status for row in run.result.layers] == ["ok", "ok"]


def test_check_measures_it() -> None:
    nodes = f"{DENSE} n = Reshape(m, back) y = Add(n, b)"
    given, loaded = data(nodes), onnx_lsuv.from_proto(model(nodes, b=B))
    result = onnx_lsuv.measure(loaded, [given])
    values = given["x"].astype(np.float64) @ tensor_of(loaded.proto, "w").astype(np.float64) + B
    assert result.layers[0].std == pytest.approx(values.std(), rel=1e-4)


# ------------------------------------------------------------------------------------------ products with other readers

OTHERS = {
    "read twice": "m = MatMul(x, w) h = Add(m, b) g = Tanh(m) y = Mul(h, g)",
    "read twice, one use moved": """m = MatMul(x, w) n = Transpose<perm=[0,2,1]>(m) h = Add(m, b)
        g = Transpose<perm=[0,2,1]>(n) y = Mul(h, g)""",
    "two biases": "m = MatMul(x, w) h = Add(m, b) g = Add(m, b) y = Mul(h, g)",
}


@pytest.mark.parametrize("case", OTHERS)
def test_bias_of_a_product_with_other_readers(lsuv: Lsuv, case: str) -> None:
    nodes = OTHERS[case]
    run = lsuv(model(nodes, b=B), data(nodes))
    assert not run.weight("b").any()
    assert run.result.layers[0].status == "ok"
    assert product(run).std() == pytest.approx(1, abs=1e-4)
    run = lsuv(model(nodes, b=B), data(nodes), keep_bias=True)
    assert run.changed == {"w"}
    assert run.result.layers[0].status == "ok"
    assert product(run).std() == pytest.approx(1, abs=1e-4)  # of the product, as the note says
    assert [note for note in run.result.notes if "left as it is: 'b'" in note and "measured before" in note]


def test_product_that_is_an_output(lsuv: Lsuv) -> None:
    nodes = "m = MatMul(x, w) y = Add(m, b)"
    run = lsuv(model(nodes, "m, float y", b=B), data(nodes))
    assert not run.weight("b").any()
    assert product(run).std() == pytest.approx(1, abs=1e-4)


def test_numbers_of_an_activation_stay(lsuv: Lsuv) -> None:
    nodes = "m = MatMul(x, w) a = Add(m, three) c = Clip(a, low, six) p = Mul(m, c) y = Div(p, six)"
    numbers = {"three": 3, "low": 0, "six": 6}
    run = lsuv(model(nodes, **{k: np.array(v, np.float32) for k, v in numbers.items()}), data(nodes))
    assert run.changed == {"w"}
    assert not run.result.notes


def test_bias_beside_a_weight_with_a_term_of_its_own(lsuv: Lsuv) -> None:
    nodes = "d = MatMul(p, q) s = Add(w, d) m = MatMul(x, s) y = Add(m, b)"
    run = lsuv(model(nodes, p=normal(6, 2) / 9, q=normal(2, 8) / 9, b=B), data(nodes))
    assert not run.weight("b").any()
    assert run.value("y")[0].std() == pytest.approx(1, abs=1e-3)


# ------------------------------------------------------------------------------------------------------------- in doubt

DOUBTS = {
    "along another axis": ("m = MatMul(x, w) n = Transpose<perm=[0,2,1]>(m) y = Add(n, b)", (5,)),
    "channels in parts": (f"{DENSE} n = Reshape(m, heads) y = Add(n, b)", (4,)),
    "one channel, lost": ("m = MatMul(x, o) n = Reshape(m, five) y = Add(n, b)", (1,)),
    "channels in another order": (
        f"{DENSE} a = Reshape(m, heads) n = Transpose<perm=[0,1,3,2]>(a) r = Reshape(n, back) y = Add(r, b)",
        (8,),
    ),
    "a number": ("m = MatMul(x, w) n = Identity(m) y = Add(n, b)", (1,)),
    "nothing known": ("m = MatMul(x, w) n = Reshape(m, s) y = Add(n, b)", (8,)),
}


@pytest.mark.parametrize("case", DOUBTS)
def test_what_may_be_no_bias_is_named(case: str) -> None:
    nodes, shape = DOUBTS[case]
    made, given = model(nodes, b=normal(*shape)), data(nodes)
    if case == "nothing known":
        made.graph.input.append(helper.make_tensor_value_info("s", TensorProto.INT64, [3]))
        given["s"] = np.array([64, 5, 8])
    for make in (
        lambda: onnx_lsuv.plan(onnx_lsuv.from_proto(made)),
        lambda: onnx_lsuv.initialize(onnx_lsuv.from_proto(made), [given]),
    ):
        result = make()
        assert "b" not in [change.tensor for change in result.changes]
        assert [note for note in result.notes if note.startswith("added after layer") and note.count("'b'") == 1]


def test_bias_that_something_else_uses_is_measured_behind_moves(lsuv: Lsuv) -> None:
    nodes = f"{DENSE} n = Reshape(m, back) h = Add(n, b) y = Mul(h, b)"
    run = lsuv(model(nodes, b=B / 8), data(nodes))
    assert run.changed == {"w"}
    assert (product(run) + run.weight("b")).std() == pytest.approx(1, abs=1e-4)


def test_position_table_is_no_bias_and_not_named(lsuv: Lsuv) -> None:
    nodes = f"{DENSE} n = Reshape(m, back) y = Add(n, p)"
    run = lsuv(model(nodes, p=normal(5, 8)), data(nodes))
    assert run.changed == {"w"}
    assert not run.result.notes


# -------------------------------------------------------------------------------------------------------------- scopes


def branches(inside: str) -> str:
    return f"""{inside} k = Less(u, v) y = If (k) <
        then_branch = p () => (float h) {{ n = Identity(m) h = Add(n, b) }},
        else_branch = q () => (float i) {{ i = Add(m, b) }}>"""


@pytest.mark.parametrize("keep", [False, True])
def test_product_outside_of_a_branch_with_its_bias(lsuv: Lsuv, keep: bool) -> None:
    nodes = branches("m = MatMul(x, w)")
    run = lsuv(model(nodes, b=B, u=np.float32(0), v=np.float32(1)), data(nodes), keep_bias=keep)
    assert run.changed == ({"w"} if keep else {"w", "b"})
    assert product(run).std() == pytest.approx(1, abs=1e-4)
    assert any("left as it is: 'b'" in note for note in run.result.notes) is keep


def test_product_in_a_branch_with_the_bias_outside(lsuv: Lsuv) -> None:
    nodes = """k = Less(u, v) o = If (k) <
        then_branch = p () => (float h) { h = MatMul(x, w) },
        else_branch = q () => (float i) { i = MatMul(x, w) }> y = Add(o, b)"""
    run = lsuv(model(nodes, b=B, u=np.float32(0), v=np.float32(1)), data(nodes))
    assert run.changed == {"w"}
    assert any("left as it is: 'b'" in note for note in run.result.notes)


@pytest.mark.parametrize("keep", [False, True])
def test_in_a_loop(lsuv: Lsuv, keep: bool) -> None:
    nodes = """count = Constant<value = int64 {3}>() yes = Constant<value = bool {1}>() z = Loop (count, yes, x) <
        body = l (int64 i, bool c, float[N,5,6] s) => (bool d, float[N,5,6] t) {
        d = Identity(c) m = MatMul(s, q) n = Transpose<perm=[1,0,2]>(m) a = Add(n, b) t = Transpose<perm=[1,0,2]>(a) }>
        y = MatMul(z, w)"""
    tensors = {"q": normal(6, 6), "b": normal(6) / 3}
    run = lsuv(model(nodes, **tensors), data(nodes), keep_bias=keep)
    assert run.changed == ({"w", "q"} if keep else {"w", "q", "b"})
    first = np.asarray(run.batches[0]["x"], np.float64) @ run.weight("q") + run.weight("b")
    assert first.std() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("keep", [False, True])
def test_weight_of_two_layers_one_of_them_moved(lsuv: Lsuv, keep: bool) -> None:
    nodes = """m = MatMul(x, w) n = Transpose<perm=[1,0,2]>(m) h = Add(n, b)
        e = Transpose<perm=[1,0,2]>(h) o = MatMul(e, v) y = MatMul(o, w)"""
    run = lsuv(model(nodes, b=normal(8) / 3, v=normal(8, 6)), data(nodes), keep_bias=keep)
    assert (product(run) + run.weight("b")).std() == pytest.approx(1, abs=1e-4)
    assert sorted(row.status for row in run.result.layers) == ["ok", "ok", "shared"]


def test_shape_between_that_the_second_use_makes(lsuv: Lsuv) -> None:
    # Before the first use's Add stands a shape that is known after the second use: the first one ends at its product.
    nodes = """m = MatMul(x, w) e = MatMul(x, w) s = Shape(e) z = Mul(e, nought) c = ReduceSum<keepdims=0>(z)
        i = Cast<to=7>(c) t = Add(s, i) n = Reshape(m, t) h = Add(n, b) y = Mul(h, e)"""
    run = lsuv(model(nodes, b=normal(8) / 3, nought=np.float32(0)), data(nodes), keep_bias=True)
    assert product(run).std() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("keep", [False, True])
def test_behind_layers_whose_values_wait(lsuv: Lsuv, keep: bool) -> None:
    # Convolutions in blocks, their division put off: what is moved and added to must be the product itself.
    nodes = """c = Conv<pads=[1,1,1,1]>(x, k) r = Relu(c) d = Conv<pads=[1,1,1,1]>(r, l) g = Relu(d) m = Conv(g, w)
        t = Transpose<perm=[0,2,3,1]>(m) n = Identity(t) h = Add(n, b) e = Relu(h) y = MatMul(e, v)"""
    tensors = {"k": normal(16, 6, 3, 3), "l": normal(16, 16, 3, 3), "w": normal(8, 16, 1, 1), "v": normal(8, 4)}
    run = lsuv(model(nodes, b=B / 8, **tensors), [data(nodes), data(nodes)], keep_bias=keep)
    assert [row.status for row in run.result.layers] == ["ok"] * 4
    stds = [np.std(np.concatenate(run.value(name)).astype(np.float64)) for name in "cdhy"]
    assert stds == pytest.approx([1] * 4, abs=1e-4)
    assert run.weight("b").any() == keep


# -------------------------------------------------------------------------------------------- what an LSTM starts with

CELLS = {
    "w": normal(1, 16, 5),
    "r": normal(1, 16, 4),
    "b": normal(1, 32),
    "gw": normal(1, 12, 4),
    "gr": normal(1, 12, 4),
}
CELLS |= {"gb": normal(1, 24), "u": normal(4, 3), "c": normal(3)}
ONES = np.repeat(np.float32([0, 0, 1, 0, 0, 0, 0, 0]), 4)[None]  # input, output, forget, cell; then the state's


def cells(given: str = "b", nodes: str = "", **more: Any) -> Any:
    text = f"""<ir_version: 10, opset_import: ["" : 17]> g (float[T,N,5] x) => (float[T,1,N,3] y) {{ {nodes}
      l = LSTM<hidden_size=4>(x, w, r, {given}) one = Constant<value=int64[1] {{1}}>() s = Squeeze(l, one)
      g = GRU<hidden_size=4>(s, gw, gr, gb) m = MatMul(g, u) y = Add(m, c) }}"""
    return parse(text, {name: value for name, value in (CELLS | more).items() if re.search(rf"\b{name}\b", text)})


def biases_of(model: Any, **choices: Any) -> tuple[dict[str, np.ndarray[Any, Any]], onnx_lsuv.Result]:
    result = onnx_lsuv.initialize(onnx_lsuv.from_proto(model), {"x": normal(6, 32, 5)}, **choices)
    saved = onnx.load_from_string(onnx_lsuv.to_bytes(result.model))
    return all_float_tensors(saved), result


@pytest.mark.parametrize("how", ["forget", "keep"])
def test_an_lstm_forgets_by_one_or_keeps_its_bias(how: str) -> None:
    """Of a GRU, and of what is no recurrent layer, the bias becomes zero all the same."""
    planned = onnx_lsuv.plan(onnx_lsuv.from_proto(cells()), lstm_bias=how)
    found, result = biases_of(cells(), lstm_bias=how)
    np.testing.assert_array_equal(found["b"], {"forget": ONES, "keep": CELLS["b"]}[how])
    assert not found["gb"].any()
    assert not found["c"].any()
    assert result.good
    for each in (planned, result):
        fates = {role.tensor: role.fate for role in each.roles}
        assert (fates["b"], fates["gb"], fates["c"]) == ({"forget": "zero", "keep": "kept"}[how], "zero", "zero")
        said = [row.note for row in each.layers if row.op == "LSTM" and "bias" in row.note]
        assert len(said) == 1
        assert said[0].endswith({"forget": "bias zero, and 1 for the forget gate", "keep": "bias kept"}[how])
    assert (how == "keep") == ("b" not in {change.tensor for change in result.changes})
    params = params_of(result)
    assert "b" in params["requires_grad"]


def test_all_that_makes_an_lstms_bias_is_kept() -> None:
    """As PyTorch's exporter joins the input's bias and the state's."""
    parts = {"bi": normal(1, 16, seed=1), "bh": normal(1, 16, seed=2)}
    model = cells("both", "both = Concat<axis=1>(bi, bh)", **parts)
    kept, _ = biases_of(model, lstm_bias="keep")
    for name, value in parts.items():
        np.testing.assert_array_equal(kept[name], value)
    found, _ = biases_of(model, lstm_bias="forget")
    np.testing.assert_array_equal(np.concatenate([found["bi"], found["bh"]], 1), ONES)


def test_a_bias_without_values_is_not_there_to_keep() -> None:
    model = cells()
    next(each for each in model.graph.initializer if each.name == "b").ClearField("raw_data")
    found, _ = biases_of(model, lstm_bias="keep")
    np.testing.assert_array_equal(found["b"], ONES)


def test_nothing_that_an_lstm_learned_remains_after_a_full_restart() -> None:
    planned = onnx_lsuv.plan(onnx_lsuv.from_proto(cells()), fresh=True)
    found, result = biases_of(cells(), fresh=True)
    np.testing.assert_array_equal(found["b"], ONES)
    assert [role.fate for each in (planned, result) for role in each.roles if role.tensor == "b"] == ["zero", "zero"]
    assert not result.remaining


def test_an_lstm_without_bias_has_none_to_keep() -> None:
    forgotten, kept = (biases_of(cells(given=""), lstm_bias=how)[0] for how in ("forget", "keep"))
    assert forgotten.keys() == kept.keys()
    assert all(np.array_equal(forgotten[name], kept[name]) for name in kept)
