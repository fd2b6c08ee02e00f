"""New values under a module's names: matched by name and by value, and put into the module's orientation.

The other side of each comparison is the saved file: what the module has must compute what the file computes, or be the
file's tensor as NumPy turns it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto
from oracle import normal, parse, tensor_of

import onnx_lsuv
from onnx_lsuv import Result, StateDict, UsageError

HEAD = '<ir_version: 10, opset_import: ["" : 17]>'
Arrays = Mapping[str, Any]
# PyTorch has the gates of an LSTM as input, forget, cell, output, and of a GRU as reset, update, new; ONNX has them as
# input, output, forget, cell, and as update, reset, new.
LSTM, GRU = [0, 2, 3, 1], [1, 0, 2]


def initialised(model: ModelProto, batch: Arrays, **options: Any) -> tuple[Result, ModelProto]:
    """Return the result, and the model as it is saved."""
    result = onnx_lsuv.initialize(onnx_lsuv.from_proto(model), dict(batch), **options)
    return result, onnx.load_from_string(onnx_lsuv.to_bytes(result.model))


def hows(state: StateDict) -> dict[str, str]:
    return {each.name: each.how for each in state.matches}


def outputs(model: ModelProto, batch: Arrays) -> Any:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, dict(batch))[0]


def with_tensors(model: ModelProto, tensors: Arrays) -> ModelProto:
    """Return a model whose initializers have other values."""
    new = ModelProto()
    new.CopyFrom(model)
    for each in new.graph.initializer:
        if each.name in tensors:
            each.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(tensors[each.name]), each.name))
    return new


def test_names_orientation_and_types() -> None:
    text = f"""{HEAD} g (float[N,8] x) => (float z) {{
        a = Gemm<transB=1>(x, one, b) r = Relu(a) kept = Identity(bias) c = MatMul(r, mat) d = Add(c, kept)
        s = Relu(d) z = MatMul(s, square) }}"""
    one, b, mat, bias, square = normal(6, 8), normal(6), normal(6, 5), normal(5), normal(5, 5)
    model = parse(text, one=one, b=b, mat=mat, bias=bias, square=square)
    result, saved = initialised(model, {"x": normal(64, 8)}, keep_bias=True)
    reference = {
        "one": one.astype(np.float64),
        "b": b,
        "kept": bias,
        "fc.weight": mat.T,
        "square": square.T,
        "steps": np.array(7),
    }
    state = onnx_lsuv.state_dict(result, reference)
    assert state.good
    assert hows(state) == {
        **dict.fromkeys(("one", "b", "kept", "square"), "name"),
        "fc.weight": "value",
        "steps": "carried",
    }
    assert {name: array.dtype for name, array in state.tensors.items()} == {k: v.dtype for k, v in reference.items()}
    for name, expected in {
        "one": tensor_of(saved, "one"),
        "b": b,
        "kept": bias,
        "fc.weight": tensor_of(saved, "mat").T,
        "square": tensor_of(saved, "square").T,
        "steps": 7,
    }.items():
        np.testing.assert_array_equal(state.tensors[name], expected)
    assert not np.array_equal(state.tensors["one"], one)


@pytest.mark.parametrize("module", [np.float32, np.float16, ml_dtypes.bfloat16, np.float64])
@pytest.mark.parametrize("file", [np.float32, np.float16])
def test_floats_of_another_width(module: Any, file: Any) -> None:
    weight = normal(6, 8, dtype=module)
    kept = normal(6, seed=3, dtype=module)
    kind = {np.float32: "float", np.float16: "float16"}[file]
    text = f"{HEAD} g ({kind}[N,8] x) => ({kind} z) {{ y = MatMul(x, w) z = Mul(y, k) }}"
    with np.errstate(over="ignore"):
        model = parse(text, w=weight.T.astype(file), k=kept.astype(file))
    result, saved = initialised(model, {"x": normal(64, 8, dtype=file)})
    state = onnx_lsuv.state_dict(result, {"fc.weight": weight, "gain": kept})
    assert set(hows(state).values()) == {"value"}
    assert state.tensors["fc.weight"].dtype == weight.dtype
    np.testing.assert_array_equal(state.tensors["fc.weight"], tensor_of(saved, "w").T.astype(module))
    # What did not change is not rounded either.
    np.testing.assert_array_equal(state.tensors["gain"], kept)


def recurrent(kind: str, order: list[int], *, biases: bool) -> tuple[ModelProto, dict[str, Any]]:
    """A recurrent layer in two directions, its tensors joined as exporters join them, and PyTorch's."""
    gates, hidden = len(order), 5
    state, parts = {}, {"W": [], "R": [], "B": []}
    for suffix in ("", "_reverse"):
        shapes = {"weight_ih": (3,), "weight_hh": (hidden,), "bias_ih": (), "bias_hh": ()}
        for seed, (name, more) in enumerate(shapes.items()):
            drawn = normal(gates * hidden, *more, seed=seed + 10 * len(suffix))
            state[f"rnn.{name}_l0{suffix}"] = drawn * (1 if biases or more else 0)
    for suffix in ("", "_reverse"):
        wi, wh, bi, bh = (
            np.concatenate([np.split(state[f"rnn.{name}_l0{suffix}"], gates)[gate] for gate in np.argsort(order)])
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        parts["W"].append(wi), parts["R"].append(wh), parts["B"].append(np.concatenate([bi, bh]))
    text = f"""{HEAD} g (float[T,N,3] x) => (float[T,2,N,{hidden}] y) {{
        y = {kind}<hidden_size={hidden}, direction="bidirectional">(x, W, R, B) }}"""
    return parse(text, {name: np.stack(each) for name, each in parts.items()}), state


@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize(("kind", "order"), [("LSTM", LSTM), ("GRU", GRU)])
def test_gates_come_back_in_their_order(kind: str, order: list[int], biases: bool) -> None:
    # `order` has the place in ONNX of each of PyTorch's gates.
    model, reference = recurrent(kind, order, biases=biases)
    result, saved = initialised(model, {"x": normal(7, 4, 3)}, rescale=False, lstm_bias="forget")
    state = onnx_lsuv.state_dict(result, reference)
    assert state.good
    assert set(hows(state).values()) == ({"value"} if biases else {"value", "beside"})
    gates = len(order)
    for d, suffix in enumerate(("", "_reverse")):
        w, r, b = (np.split(tensor_of(saved, name)[d], gates * (1 + (name == "B"))) for name in "WRB")
        for name, blocks in {
            "weight_ih": w, "weight_hh": r, "bias_ih": b[:gates], "bias_hh": b[gates:]
        }.items():  # fmt: skip
            expected = np.concatenate([blocks[place] for place in order])
            np.testing.assert_array_equal(state.tensors[f"rnn.{name}_l0{suffix}"], expected)
    if kind == "LSTM":
        total = state.tensors["rnn.bias_ih_l0"] + state.tensors["rnn.bias_hh_l0"]
        np.testing.assert_array_equal(total, np.repeat([0, 1, 0, 0], 5))  # the forget gate's


def test_query_key_and_value_that_the_exporter_parted() -> None:
    packed = normal(24, 8)
    q, k, v = np.split(packed, 3)
    text = f"""{HEAD} g (float[N,8] x) => (float z) {{
        a = MatMul(x, q) b = MatMul(x, k) c = MatMul(x, v) d = Mul(a, b) z = Add(d, c) }}"""
    result, saved = initialised(parse(text, q=q.T, k=k.T, v=v.T), {"x": normal(64, 8)})
    state = onnx_lsuv.state_dict(result, {"attention.in_proj_weight": packed})
    assert state.matches[0].tensors == ("q", "k", "v")
    expected = np.concatenate([tensor_of(saved, name).T for name in "qkv"])
    np.testing.assert_array_equal(state.tensors["attention.in_proj_weight"], expected)


def test_query_key_and_value_that_the_exporter_joined() -> None:
    parts = {f"{name}.weight": normal(8, 8, seed=i) for i, name in enumerate("qkv")}
    text = f"{HEAD} g (float[N,8] x) => (float z) {{ z = MatMul(x, w) }}"
    model = parse(text, w=np.concatenate([each.T for each in parts.values()], 1))
    result, saved = initialised(model, {"x": normal(64, 8)})
    state = onnx_lsuv.state_dict(result, parts)
    for part, name in zip(np.split(tensor_of(saved, "w"), 3, axis=1), parts, strict=True):
        np.testing.assert_array_equal(state.tensors[name], part.T)


def dotted(text: str, tensors: Arrays) -> ModelProto:
    """Return a model from text that has "__" for the dots in names, which the parser does not take."""
    model = parse(text, tensors)
    for node in model.graph.node:
        node.input[:] = [name.replace("__", ".") for name in node.input]
    return model


CONV = f"""{HEAD} g (float[N,3,6,6] x) => (float z) {{ a = Conv(x, %s) b = %s r = Relu(b) c = Conv(r, %s) d = %s
    p = GlobalAveragePool(d) z = Flatten(p) }}"""
NORM = "BatchNormalization({0}, n{0}__weight, n{0}__bias, n{0}__running_mean, n{0}__running_var)"
NORMED = CONV % ("conv1__weight, conv1__bias", NORM.format("a"), "conv2__weight", NORM.format("c"))


def folding() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a module of convolutions and norms, and what an exporter leaves of it."""
    module: dict[str, Any] = {"conv1.weight": normal(8, 3, 3, 3), "conv1.bias": normal(8)}
    module["conv2.weight"] = normal(4, 8, 1, 1)
    factors = []
    for name, count in (("na", 8), ("nc", 4)):
        scale, var = np.abs(normal(count, seed=1)) + 0.5, np.abs(normal(count, seed=2)) + 0.5
        zeros = np.zeros(count, np.float32)
        values = {"weight": scale, "bias": zeros, "running_mean": zeros, "running_var": var}
        module |= {f"{name}.{word}": each for word, each in values.items()}
        module[f"{name}.num_batches_tracked"] = np.array(12)
        factors.append((scale / np.sqrt(var + 1e-5)).astype(np.float32))
    first, second = (each[:, None, None, None] for each in factors)
    folded = {"conv1.weight": module["conv1.weight"] * first, "conv1.bias": module["conv1.bias"] * factors[0]}
    return module, folded | {"conv2.weight": module["conv2.weight"] * second, "conv2.bias": np.zeros(4, np.float32)}


@pytest.mark.parametrize("named", [True, False], ids=["names kept", "names lost"])
@pytest.mark.parametrize("options", [{}, {"center": True}], ids=str)
def test_norms_that_the_exporter_folded(named: bool, options: dict[str, Any]) -> None:
    """The scale is divided out again, so that the module, with its norm, gives what the file gives."""
    module, folded = folding()
    names = list(folded) if named else [f"onnx.Conv_{i}" for i in range(4)]
    one, bias, two, last = (name.replace(".", "__") for name in names)
    text = CONV % (f"{one}, {bias}", "Identity(a)", f"{two}, {last}", "Identity(c)")
    batch = {"x": normal(16, 3, 6, 6)}
    model = dotted(text, dict(zip(names, folded.values(), strict=True)))
    result, saved = initialised(model, batch, **options)
    state = onnx_lsuv.state_dict(result, module)
    assert state.good
    found = hows(state)
    assert {found[name] for name in module if name[0] == "n"} == {"folded", "carried"}
    assert found["conv1.weight"] == found["conv2.weight"] == ("name" if named else "scaled")
    assert found["conv1.bias"] == ("name" if named else "beside")
    assert any("the exporter folded" in note and "strict=False" in note for note in state.notes)
    whole = dotted(NORMED, {name: each for name, each in module.items() if each.dtype == np.float32})
    reached = outputs(with_tensors(whole, state.tensors), batch)
    # The second convolution of the module has no bias.
    expected = outputs(saved, batch) - tensor_of(saved, names[3])
    assert expected.std() > 0.1
    np.testing.assert_allclose(reached, expected, rtol=1e-5, atol=1e-5)
    assert any("no tensor for" in note for note in state.notes) == bool(options)


def test_a_folded_norm_whose_scale_begins_at_zero() -> None:
    module, folded = folding()
    module["na.weight"][3] = 0
    for name in ("conv1.weight", "conv1.bias"):
        folded[name][3] = 0
    text = CONV % ("conv1__weight, conv1__bias", "Identity(a)", "conv2__weight, conv2__bias", "Identity(c)")
    result, saved = initialised(dotted(text, folded), {"x": normal(16, 3, 6, 6)})
    state = onnx_lsuv.state_dict(result, module)
    np.testing.assert_array_equal(state.tensors["conv1.weight"][3], tensor_of(saved, "conv1.weight")[3])
    assert np.isfinite(state.tensors["conv1.weight"]).all()


NORMS = f"""{HEAD} g (float[N,8] x) => (float z) {{
    a = MatMul(x, u) b = LayerNormalization(a, s1, t1) c = MatMul(b, v) d = LayerNormalization(c, s2, t2)
    z = MatMul(d, w) }}"""


def test_equal_tensors_by_their_order_and_merged_ones() -> None:
    ones, zeros = np.ones(8, np.float32), np.zeros(8, np.float32)
    weights = {"u": normal(8, 8), "v": normal(8, 8, seed=1), "w": normal(8, 8, seed=2)}
    model = parse(NORMS, weights, s1=ones, t1=zeros, s2=ones, t2=zeros)
    result, saved = initialised(model, {"x": normal(64, 8)})
    reference = {"n1.weight": ones, "n1.bias": zeros, "n2.weight": ones, "n2.bias": zeros}
    state = onnx_lsuv.state_dict(result, reference)
    assert [each.tensors for each in state.matches] == [("s1",), ("t1",), ("s2",), ("t2",)]
    assert state.unmatched == ("u", "v", "w")
    merged = parse(NORMS.replace("s2", "s1").replace("t2", "t1"), weights, s1=ones, t1=zeros)
    result, saved = initialised(merged, {"x": normal(64, 8)})
    # All of a square weight's values are the module's, as they are.
    state = onnx_lsuv.state_dict(result, {**reference, **{f"m.{k}": v for k, v in weights.items()}})
    assert state.good
    assert [each.tensors[0] for each in state.matches] == ["s1", "t1", "s1", "t1", "u", "v", "w"]
    for name in weights:
        np.testing.assert_array_equal(state.tensors[f"m.{name}"], tensor_of(saved, name))


def test_layers_that_begin_equal_are_told_apart_by_their_order() -> None:
    """As torch.nn.TransformerEncoder begins, which copies one layer."""
    same = normal(8, 8)
    text = f"{HEAD} g (float[N,8] x) => (float z) {{ a = MatMul(x, p) b = Relu(a) z = MatMul(b, q) }}"
    result, saved = initialised(parse(text, p=same.T, q=same.T.copy()), {"x": normal(64, 8)})
    state = onnx_lsuv.state_dict(result, {"layers.0.weight": same, "layers.1.weight": same.copy()})
    assert set(hows(state).values()) == {"order"}
    np.testing.assert_array_equal(state.tensors["layers.0.weight"], tensor_of(saved, "p").T)
    np.testing.assert_array_equal(state.tensors["layers.1.weight"], tensor_of(saved, "q").T)


def test_a_statistic_is_not_taken_for_a_scale() -> None:
    """Sorted by name, as .safetensors is, the variance comes before the scale, and both are ones at first."""
    text = f"""{HEAD} g (float[N,3,4,4] x) => (float z) {{ a = BatchNormalization(x, s0, t0, m0, v0)
        b = Conv(a, w) c = Relu(b) d = BatchNormalization(c, s1, t1, m1, v1) z = Flatten(d) }}"""
    start = {"s": np.ones(3, np.float32), "t": np.zeros(3, np.float32)}
    start |= {"m": start["t"], "v": start["s"]}
    tensors = {f"{name}{i}": array for i in range(2) for name, array in start.items()}
    result, saved = initialised(parse(text, tensors, w=normal(3, 3, 3, 3)), {"x": 2 + normal(16, 3, 4, 4)})
    words = {"bias": "t", "running_mean": "m", "running_var": "v", "weight": "s"}
    reference = {f"bn{i}.{word}": start[name] for i in range(2) for word, name in words.items()}
    state = onnx_lsuv.state_dict(result, {**reference, "conv.weight": normal(3, 3, 3, 3)})
    for i in range(2):
        for word, name in words.items():
            np.testing.assert_array_equal(state.tensors[f"bn{i}.{word}"], tensor_of(saved, f"{name}{i}"), word)
    assert not np.array_equal(state.tensors["bn1.running_var"], start["v"])


def test_a_table_that_is_tied_to_the_head_stays() -> None:
    table = normal(50, 8)
    text = f"""{HEAD} g (int64[N] x) => (float z) {{ e = Gather(table, x) h = MatMul(e, body) z = MatMul(h, head) }}"""
    model = parse(text, table=table, head=table.T, body=normal(8, 8, seed=5))
    result, _ = initialised(model, {"x": np.arange(50)})
    state = onnx_lsuv.state_dict(
        result, {"words.weight": table, "out.weight": table.copy(), "body": normal(8, 8, seed=5)}
    )
    assert state.good
    assert hows(state) == {"words.weight": "tied", "out.weight": "tied", "body": "name"}
    np.testing.assert_array_equal(state.tensors["words.weight"], table)
    np.testing.assert_array_equal(state.tensors["out.weight"], table)
    assert any("--exclude 'head'" in note for note in state.notes)


def test_keras_has_its_channels_last() -> None:
    kernel, dense, gates = normal(3, 3, 2, 4), normal(4, 5), normal(5, 12)
    text = f"""{HEAD} g (float[N,2,6,6] x) => (float z) {{ a = Conv(x, k) p = GlobalAveragePool(a) f = Flatten(p)
        b = MatMul(f, d) shape = Constant<value_ints=[1, -1, 5]>() s = Reshape(b, shape)
        z = LSTM<hidden_size=3>(s, W, R) }}"""
    recurrent = normal(3, 12)

    def joined(array: Any) -> Any:
        """ONNX's W or R of Keras' kernel: its gates are input, forget, cell, output."""
        i, f, c, o = np.split(array, 4, axis=1)
        return np.concatenate([i, o, f, c], axis=1).T[None]

    model = parse(text, k=kernel.transpose(3, 2, 0, 1), d=dense, W=joined(gates), R=joined(recurrent))
    result, saved = initialised(model, {"x": normal(16, 2, 6, 6)})
    reference = {"conv/kernel": kernel, "dense/kernel": dense, "lstm/kernel": gates, "lstm/recurrent_kernel": recurrent}
    state = onnx_lsuv.state_dict(result, reference)
    assert state.good
    np.testing.assert_array_equal(state.tensors["conv/kernel"], tensor_of(saved, "k").transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(state.tensors["dense/kernel"], tensor_of(saved, "d"))
    for name, tensor in {"lstm/kernel": "W", "lstm/recurrent_kernel": "R"}.items():
        np.testing.assert_array_equal(joined(state.tensors[name]), tensor_of(saved, tensor))


def test_a_weight_that_the_module_lacks_counts() -> None:
    text = f"{HEAD} g (float[N,8] x) => (float z) {{ y = Gemm(x, w, b) z = MatMul(y, u) }}"
    model = parse(text, w=normal(8, 8), b=normal(8), u=normal(8, 4))
    result, _ = initialised(model, {"x": 3 + normal(64, 8)}, center=True)
    state = onnx_lsuv.state_dict(result, {"u": normal(8, 4), "other.weight": normal(9, 9)})
    assert not state.good
    assert state.unmatched == ("w",)
    assert hows(state) == {"u": "name", "other.weight": "missing"}
    assert "other.weight" not in state.tensors
    assert any("no tensor for 'b'" in note for note in state.notes)
    assert any("is the weight 'w'" in note for note in state.notes)
    # A plan says the same beforehand.
    plan = onnx_lsuv.plan(onnx_lsuv.from_proto(model))
    assert onnx_lsuv.state_dict(plan, {"u": normal(8, 4)}).unmatched == ("w",)


def test_a_measured_model_has_no_old_values(tmp_path: Path) -> None:
    text = f"{HEAD} g (float[N,8] x) => (float z) {{ z = MatMul(x, w) }}"
    batch = {"x": normal(64, 8)}
    result, _ = initialised(parse(text, w=normal(8, 8)), batch)
    onnx_lsuv.save(result.model, tmp_path / "m.onnx")
    measured = onnx_lsuv.measure(onnx_lsuv.load(tmp_path / "m.onnx"), batch)
    with pytest.raises(UsageError, match="'initialize' or 'plan'"):
        onnx_lsuv.state_dict(measured, {"w": normal(8, 8)})


def test_merged_ones_that_are_parted_in_part_are_told_by_their_uses() -> None:
    """Two norms share a scale, a third has its own: the third tensor of the module is the third use."""
    ones = np.ones(8, np.float32)
    text = f"""{HEAD} g (float[N,8] x) => (float z) {{ a = MatMul(x, w) b = LayerNormalization(a, s, t1)
        c = LayerNormalization(b, s, t2) z = LayerNormalization(c, own, t3) }}"""
    shifts = {f"t{i}": np.full(8, i + 1, np.float32) for i in range(1, 4)}
    model = parse(text, {"w": normal(8, 8), **shifts}, s=ones, own=ones)
    result, _ = initialised(model, {"x": normal(64, 8)}, fresh=True)
    given = {"w": normal(8, 8)} | {f"n{i}.weight": ones for i in range(3)}
    state = onnx_lsuv.state_dict(result, {**given, **{f"n{i}.bias": shifts[f"t{i + 1}"] for i in range(3)}})
    assert {each.name: each.tensors[0] for each in state.matches if each.name.endswith("weight")} == {
        **{"n0.weight": "s", "n1.weight": "s", "n2.weight": "own"}
    }


def test_a_bias_is_that_beside_its_weight_not_another_equal_one() -> None:
    """As Keras exports it: the bias of a convolution is added behind a Transpose, with axes of length 1."""
    kernel, zeros = normal(3, 3, 2, 8), np.zeros(8, np.float32)
    text = f"""{HEAD} g (float[N,2,6,6] x) => (float z) {{ a = Conv(x, k) b = Transpose<perm=[0,2,3,1]>(a)
        c = Add(b, own) r = Relu(c) n = LayerNormalization<axis=-1>(r, s, zeros) z = Identity(n) }}"""
    model = parse(text, k=kernel.transpose(3, 2, 0, 1), own=zeros[None, None, None], zeros=zeros, s=normal(8))
    result, saved = initialised(model, {"x": 1 + normal(16, 2, 6, 6)}, center=True)
    state = onnx_lsuv.state_dict(result, {"conv/kernel": kernel, "conv/bias": zeros, "norm/beta": zeros})
    assert [each.tensors for each in state.matches] == [("k",), ("own",), ("zeros",)]
    np.testing.assert_array_equal(state.tensors["conv/bias"], tensor_of(saved, "own").reshape(-1))
    assert state.tensors["conv/bias"].any()


@pytest.mark.parametrize(("inside", "own"), [("net.", ""), ("", "module."), ("net.", "module.")])
def test_a_module_that_was_wrapped(inside: str, own: str) -> None:
    """Its names have another beginning; two equal norms are told apart by the rest of them."""
    ones, w, v = np.ones(8, np.float32), normal(8, 8), normal(8, 8, seed=1)
    text = f"""{HEAD} g (float[N,8] x) => (float z) {{ a = MatMul(x, b__fc) c = LayerNormalization(a, b__s)
        d = MatMul(c, a__fc) z = LayerNormalization(d, a__s) }}"""
    names = {"b.fc": w, "b.s": ones, "a.fc": v, "a.s": ones}
    model = dotted(text, names)
    for node in model.graph.node:
        node.input[:] = [inside + name if name in names else name for name in node.input]
    for each in model.graph.initializer:
        each.name = inside + each.name
    result, saved = initialised(model, {"x": normal(64, 8)})
    state = onnx_lsuv.state_dict(result, {own + name: names[name] for name in sorted(names)})
    if not (inside and own):
        assert set(hows(state).values()) == {"name"}
        assert all(each.tensors == (inside + each.name.removeprefix(own),) for each in state.matches)
    for name in ("a.fc", "b.fc"):
        np.testing.assert_array_equal(state.tensors[own + name], tensor_of(saved, inside + name))


def test_layers_that_begin_equal_and_one_left_alone() -> None:
    same = normal(8, 8)
    text = f"{HEAD} g (float[N,8] x) => (float z) {{ a = MatMul(x, p) b = Relu(a) z = MatMul(b, q) }}"
    result, saved = initialised(parse(text, p=same.T, q=same.T.copy()), {"x": normal(64, 8)}, exclude=["q"])
    state = onnx_lsuv.state_dict(result, {"layers.0.weight": same, "layers.1.weight": same.copy()})
    np.testing.assert_array_equal(state.tensors["layers.0.weight"], tensor_of(saved, "p").T)
    np.testing.assert_array_equal(state.tensors["layers.1.weight"], same)


def test_a_buffer_called_mean_is_no_statistic() -> None:
    mean, std = normal(8), np.abs(normal(8, seed=1))
    text = f"{HEAD} g (float[N,8] x) => (float z) {{ a = Sub(x, m) b = Div(a, s) z = MatMul(b, w) }}"
    weight = normal(8, 4)
    result, _ = initialised(parse(text, m=mean, s=std, w=weight), {"x": normal(64, 8)})
    state = onnx_lsuv.state_dict(result, {"input.mean": mean, "input.var": std, "fc.weight": weight.T})
    assert set(hows(state).values()) == {"value"}


def test_a_norm_folded_into_a_transposed_convolution_with_groups() -> None:
    weight, bias = normal(4, 3, 2, 2), normal(6)
    scale, zeros, var = np.abs(normal(6, seed=1)) + 0.5, np.zeros(6, np.float32), np.abs(normal(6, seed=2)) + 0.5
    factor = (scale / np.sqrt(var + 1e-5)).astype(np.float32)
    # Of (in, out of a group): the first two inputs are of the first group, whose outputs are the first three.
    folded = weight * np.repeat(factor.reshape(2, 3), 2, 0)[:, :, None, None]
    text = f"""{HEAD} g (float[N,4,5,5] x) => (float z) {{ a = ConvTranspose<group=2, strides=[2,2]>(x, %s)
        z = %s }}"""
    batch = {"x": normal(16, 4, 5, 5)}
    model = parse(text % ("f, c", "Identity(a)"), f=folded, c=bias * factor)
    result, saved = initialised(model, batch)
    module = {"up.weight": weight, "up.bias": bias, "bn.weight": scale, "bn.bias": zeros}
    module |= {"bn.running_mean": zeros, "bn.running_var": var}
    state = onnx_lsuv.state_dict(result, module)
    assert hows(state)["up.weight"] == "scaled"
    norm = "BatchNormalization(a, bn__weight, bn__bias, bn__running_mean, bn__running_var)"
    whole = dotted(text % ("up__weight, up__bias", norm), module)
    reached = outputs(with_tensors(whole, state.tensors), batch)
    np.testing.assert_allclose(reached, outputs(saved, batch), rtol=1e-5, atol=1e-5)
