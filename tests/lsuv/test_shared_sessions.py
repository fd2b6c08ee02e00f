"""Stages that differ in names alone run in one session, with what they would give in sessions of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper
from oracle import normal, parse

import onnx_lsuv
from onnx_lsuv import runtime
from onnx_lsuv.errors import DataError
from onnx_lsuv.graph import likeness
from onnx_lsuv.lsuv import execute

HEAD = '<ir_version: 8, opset_import: ["" : 17]>'
DEPTH = 9
BATCHES = [{"x": normal(32, 8, seed=i) + i} for i in range(3)]


def repeated(node: str, **tensors: Any) -> ModelProto:
    """Return blocks a = MatMul(last, w), then a node that makes b of it, its numbers' place marked by @."""
    blocks = " ".join(
        f"a{i} = MatMul({f'b{i - 1}' if i else 'x'}, w{i}) {node.replace('@', str(i))}" for i in range(DEPTH)
    )
    weights = {f"w{i}": normal(8, 8, seed=i) for i in range(DEPTH)}
    text = f"{HEAD} g (float[N,8] x) => (float b{DEPTH - 1}) {{ {blocks} }}"
    return parse(text, **weights, **tensors)


def initialised(model: ModelProto, monkeypatch: pytest.MonkeyPatch, *, shared: bool) -> tuple[list[bytes], int]:
    """Return the tensors of the initialised model, and how many sessions were made."""
    loads = []
    with monkeypatch.context() as patch:
        load = runtime.load
        patch.setattr(runtime, "load", lambda *args, **options: loads.append(1) or load(*args, **options))
        if not shared:
            patch.setattr(execute, "likeness", lambda model: None)
        result = onnx_lsuv.initialize(onnx_lsuv.from_proto(model), BATCHES, device="cpu")
    found = {tensor.name: tensor for tensor in onnx_lsuv.to_proto(result.model).graph.initializer}
    assert {row.status for row in result.layers} == {"scaled"}
    return [numpy_helper.to_array(found[name]).tobytes() for name in sorted(found)], len(loads)


@pytest.mark.parametrize(
    ("node", "sessions"),
    [
        ("b@ = Tanh(a@)", 4),
        ("c@ = Add(a@, t@) b@ = Relu(c@)", 4),
        # What a random node gives goes on from run to run.
        ("c@ = RandomNormalLike(a@) b@ = Add(a@, c@)", 2 + DEPTH),
    ],
)
def test_repeated_blocks(node: str, sessions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {f"t{i}": normal(8, seed=DEPTH + i) for i in range(DEPTH)} if "t@" in node else {}
    model = repeated(node, **tensors)
    together, few = initialised(model, monkeypatch, shared=True)
    apart, many = initialised(model, monkeypatch, shared=False)
    assert together == apart
    assert few <= sessions
    assert many >= 2 * DEPTH - 1


@pytest.mark.cpu
def test_a_failure_names_the_node_of_its_own_stage() -> None:
    node = "s@ = ReduceSum<keepdims=0>(a@) z@ = Mul(s@, zero) k@ = Add(z@, i@) j@ = Cast<to=7>(k@) "
    node += "g@ = Gather(table, j@) b@ = Add(a@, g@)"
    indices = {f"i{i}": np.float32(99 if i == DEPTH - 2 else 1) for i in range(DEPTH)}
    model = repeated(node, **indices, zero=np.float32(0), table=normal(4, 8))
    for i, each in enumerate(n for n in model.graph.node if n.op_type == "Gather"):
        each.name = f"gather {i}"
    with pytest.raises(DataError, match=rf"Gather 'gather {DEPTH - 2}'"):
        onnx_lsuv.initialize(onnx_lsuv.from_proto(model), BATCHES, device="cpu")


ONE = "g (float[N,4] x, float[4] k) => (float y) { a = Mul(x, k) b = Softmax<axis=1>(a) y = Add(b, one) }"
ELSE = "g (float[N,4] u, float[4] v) => (float w) { p = Mul(u, v) q = Softmax<axis=1>(p) w = Add(q, r) }"


def model(text: str, **tensors: float) -> ModelProto:
    return parse(f"{HEAD} {text}", **{name: np.float32(value) for name, value in tensors.items()})


def test_likeness() -> None:
    one, other = likeness(model(ONE, one=1)), likeness(model(ELSE, r=1))
    assert one is not None
    assert other is not None
    assert one[0] == other[0]
    pairs = set(zip(one[1], other[1], strict=True))
    assert pairs == {("", ""), *zip(["x", "k", "a", "b", "one", "y"], ["u", "v", "p", "q", "r", "w"], strict=True)}


@pytest.mark.parametrize(
    ("old", "new"),
    [("axis=1", "axis=0"), ("Add(q, r)", "Add(r, q)"), ("Softmax", "LogSoftmax"), ("[4] v", "[1] v"), ("[N,4]", "[4]")],
)
def test_what_is_not_alike(old: str, new: str) -> None:
    one, other = likeness(model(ONE, one=1)), likeness(model(ELSE.replace(old, new), r=1))
    assert one is not None
    assert other is not None
    assert one[0] != other[0]


def test_another_constant_is_not_alike() -> None:
    assert likeness(model(ONE, one=1)) != likeness(model(ONE, one=2))


@pytest.mark.parametrize(
    "node",
    [
        "y = RandomNormalLike<seed=0.0>(x)",
        "y = acme.Own(x)",
        "y = If(c) <then_branch = t () => (a) { a = Relu(x) }, else_branch = e () => (b) { b = Neg(x) }>",
    ],
)
def test_what_has_a_session_of_its_own(node: str) -> None:
    assert likeness(model(f"g (float[N] x, bool c) => (float y) {{ {node} }}")) is None
