"""Text that feeds layers, through every operator of ONNX Runtime that takes strings. The oracle is NumPy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from commands import invoke
from conftest import Run
from onnx import ModelProto, helper
from oracle import normal, parse

Array = np.ndarray[Any, Any]
Lsuv = Callable[..., Run]
WORDS = ["ant", "bee", "cat", "dög"]


def words(n: int, *shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).choice(np.array(WORDS), size=(n, *shape))


def model_of(nodes: list[onnx.NodeProto], width: int, shape: list[Any]) -> ModelProto:
    """Return nodes from the text `t` to floats `f` of (N, width), and a net of two layers on them."""
    text = """<ir_version: 9, opset_import: ["" : 20, "ai.onnx.ml" : 3]>
        g (string[N] t) => (float[N,5] y) { h = Gemm(f, w, b) r = Relu(h) y = MatMul(r, v) }"""
    model = parse(text, w=normal(width, 16), b=normal(16), v=normal(16, 5))
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("t", onnx.TensorProto.STRING, shape))
    for node in reversed(nodes):
        model.graph.node.insert(0, node)
    return model


def ml(op: str, inputs: list[str], outputs: list[str], **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs, outputs, domain="ai.onnx.ml", **attributes)


def one_hot(t: Array) -> Array:
    return np.asarray(t[..., None] == np.array(WORDS), np.float64)


def encoder() -> tuple[ModelProto, Callable[[Array], Array], tuple[int, ...]]:
    keys: dict[str, Any] = {"keys_strings": WORDS, "values_floats": [0.5, -1.0, 2.0, 3.0]}
    values = dict(zip(WORDS, keys["values_floats"], strict=True))
    model = model_of([ml("LabelEncoder", ["t"], ["f"], **keys)], 6, ["N", 6])
    return model, np.vectorize(values.get), (6,)


def table() -> tuple[ModelProto, Callable[[Array], Array], tuple[int, ...]]:
    """Words to numbers to rows of a table."""
    nodes = [
        ml("CategoryMapper", ["t"], ["i"], cats_strings=WORDS, cats_int64s=[0, 1, 2, 3]),
        helper.make_node("Gather", ["rows", "i"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
    ]
    model = model_of(nodes, 12, ["N", 4])
    rows = normal(4, 3)
    model.graph.initializer.append(onnx.numpy_helper.from_array(rows, "rows"))
    return model, lambda t: (one_hot(t) @ rows).reshape(len(t), -1), (4,)


def normalised() -> tuple[ModelProto, Callable[[Array], Array], tuple[int, ...]]:
    """Upper case, then 0 or 1 for each word."""
    nodes = [
        helper.make_node("StringNormalizer", ["t"], ["u"], case_change_action="UPPER", locale="C"),
        ml("OneHotEncoder", ["u"], ["f"], cats_strings=["ANT", "BEE", "CAT", "DöG"]),
    ]
    return model_of(nodes, 4, ["N"]), one_hot, ()


def counted() -> tuple[ModelProto, Callable[[Array], Array], tuple[int, ...]]:
    attributes: dict[str, Any] = {"mode": "TF", "min_gram_length": 1, "max_gram_length": 1, "max_skip_count": 0}
    attributes |= {"ngram_counts": [0], "ngram_indexes": [0, 1, 2, 3], "pool_strings": WORDS}
    nodes = [helper.make_node("TfIdfVectorizer", ["t"], ["f"], **attributes)]
    return model_of(nodes, 4, ["N", 7]), lambda t: one_hot(t).sum(1), (7,)


def joined() -> tuple[ModelProto, Callable[[Array], Array], tuple[int, ...]]:
    """A constant of text goes in too, and keys that are longer than a kilobyte."""
    nodes = [
        helper.make_node("StringConcat", ["t", "ending"], ["u"]),
        ml("OneHotEncoder", ["u"], ["f"], cats_strings=[f"{word}{'s' * 2000}" for word in WORDS]),
    ]
    model = model_of(nodes, 4, ["N"])
    ending = onnx.TensorProto(name="ending", data_type=onnx.TensorProto.STRING, dims=[], string_data=[b"s" * 2000])
    model.graph.initializer.append(ending)
    return model, one_hot, ()


@pytest.mark.parametrize("make", [encoder, table, normalised, counted, joined])
@pytest.mark.parametrize("batches", [1, 3])
def test_text_feeds_layers(lsuv: Lsuv, make: Any, batches: int) -> None:
    model, features, shape = make()
    data = [{"t": words(40, *shape, seed=i)} for i in range(batches)]
    run = lsuv(model, data)
    assert [row.status for row in run.result.layers] == ["ok", "ok"]
    f = np.concatenate([features(batch["t"]) for batch in data])
    h = f @ run.weight("w") + run.weight("b")
    assert h.var() == pytest.approx(1, abs=1e-4)
    assert (np.maximum(h, 0) @ run.weight("v")).var() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("options", [[], ["--batch-size", "8"], ["--portable"]])
def test_command_line(tmp_path: Path, options: list[str]) -> None:
    onnx.save(encoder()[0], str(tmp_path / "m.onnx"))
    np.save(tmp_path / "t.npy", words(64, 6))
    out = tmp_path / "o.onnx"
    done = invoke([str(tmp_path / "m.onnx"), "--data", str(tmp_path / "t.npy"), "-o", str(out), *options])
    assert done.status == 0, done.stderr
    assert invoke([str(out), "--data", str(tmp_path / "t.npy"), "--check"]).status == 0


def test_text_beside_numbers_and_kept_between_stages(lsuv: Lsuv) -> None:
    """The text is read only behind the first layer, so several batches carry it to the second part of the graph."""
    text = """<ir_version: 9, opset_import: ["" : 17, "ai.onnx.ml" : 3]>
        g (string[N,4] t, float[N,8] x) => (float[N,5] y)
        {
            u = Identity(t)
            h = MatMul(x, w)
            e = ai.onnx.ml.LabelEncoder <keys_strings = ["ant", "bee"], values_floats = [1.0, -2.0]> (u)
            j = Concat <axis = 1> (h, e)
            y = MatMul(j, v)
        }"""
    model = parse(text, w=normal(8, 6), v=normal(10, 5))
    data = [{"t": words(30, 4, seed=i), "x": normal(30, 8, seed=i)} for i in range(2)]
    run = lsuv(model, data)
    t, x = (np.concatenate([batch[name] for batch in data]) for name in ("t", "x"))
    e = np.where(t == "ant", 1.0, np.where(t == "bee", -2.0, -0.0))
    h = x @ run.weight("w")
    assert h.var() == pytest.approx(1, abs=1e-4)
    assert (np.concatenate([h, e], 1) @ run.weight("v")).var() == pytest.approx(1, abs=1e-4)
