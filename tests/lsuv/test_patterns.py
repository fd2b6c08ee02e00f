"""Patterns reach tensors of every role: what they take, what they leave, and what is said where they meet nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from oracle import normal, parse

import onnx_lsuv
from onnx_lsuv.errors import ModelError, UsageError

Lsuv = Callable[..., Any]
TEXT = """<ir_version: 10, opset_import: ["" : 21]> g (float[N,4,6,6] x, int64[N] i) => (float y) {
  a = Conv(x, w1, b1) n1 = BatchNormalization(a, s1, t1, m1, v1) p = PRelu(n1, slope)
  b = Conv(p, w2) n2 = BatchNormalization(b, s2, t2, m2, v2) d = GlobalAveragePool(n2) f = Flatten(d)
  e = MatMul(f, w3) z = Add(e, b3) h = Gather(table, i) k = Add(z, h)
  r = Unsqueeze(k, axes) q = Squeeze(r, axes) y = MatMul(q, w4) }"""
TENSORS = {
    **{"w1": normal(8, 4, 3, 3), "w2": normal(8, 8, 3, 3), "w3": normal(8, 16), "w4": normal(16, 4)},
    **{name: normal(8, seed=i) for i, name in enumerate(("b1", "s1", "t1", "m1", "s2", "t2", "m2"))},
    **{"v1": normal(8) ** 2 + 1, "v2": normal(8) ** 2 + 1, "b3": normal(16), "slope": normal(8, 1, 1)},
    **{"table": normal(20, 16), "axes": np.int64([1])},
}
MODEL = parse(TEXT, TENSORS)
DATA = {"x": normal(64, 4, 6, 6), "i": np.arange(64, dtype=np.int64) % 20}
WEIGHTS, FIRST, SECOND = {"w1", "w2", "w3", "w4"}, {"m1", "v1"}, {"m2", "v2"}
USUAL = {*WEIGHTS, "b1", "b3", *FIRST, *SECOND}
OTHERS = {"s1", "t1", "s2", "t2", "slope", "table"}


@pytest.mark.parametrize(
    ("choices", "changed"),
    [
        # By default: a bias, by its name or that of the Add; statistics; what is kept anyway.
        ({"exclude": ["b1"]}, USUAL - {"b1"}),
        ({"exclude": ["z"]}, USUAL - {"b3"}),
        ({"exclude": ["b?"]}, USUAL - {"b1", "b3"}),
        ({"exclude": ["n1"]}, USUAL - FIRST),
        ({"exclude": ["table", "slope", "p", "s*", "n2"]}, USUAL - SECOND),
        # With --fresh every role.
        ({"exclude": ["n1"], "fresh": True}, (USUAL | OTHERS) - FIRST - {"s1", "t1"}),
        ({"exclude": ["s?", "table", "b3"], "fresh": True}, (USUAL | OTHERS) - {"s1", "s2", "table", "b3"}),
        # Only these: a norm that is named changes nothing for the one after it, a parameter or bias does.
        ({"include": ["n1"]}, FIRST),
        ({"include": ["m2"], "rescale": False}, SECOND),
        ({"include": ["b3"]}, {"b3"}),
        ({"include": ["z"]}, {"b3"}),
        ({"include": ["b1"]}, {"b1"} | FIRST | SECOND),
        ({"include": ["w4", "n1"]}, {"w4"} | FIRST),
        ({"include": ["w3"]}, {"w3", "b3"}),
        ({"include": ["w3"], "exclude": ["b3"]}, {"w3"}),
        ({"include": ["*"], "exclude": ["w1", "n1"]}, USUAL - {"w1", "b1"} - FIRST),
        ({"include": ["table"], "fresh": True}, {"table"}),
        ({"include": ["n2", "w4"], "fresh": True}, {"s2", "t2", "w4"} | SECOND),
    ],
    ids=str,
)
def test_what_patterns_take_and_leave(lsuv: Lsuv, choices: dict[str, Any], changed: set[str]) -> None:
    run = lsuv(MODEL, DATA, **choices)
    assert run.changed == changed
    fates = {row.tensor for row in run.result.roles if row.fate != "kept"}
    assert fates == changed
    assert all(row.status == "ok" for row in run.result.layers if choices.get("rescale", True))


def test_statistics_of_a_norm_that_is_named_are_those_of_the_data(lsuv: Lsuv) -> None:
    run = lsuv(MODEL, DATA, include=["n2"])
    assert run.changed == SECOND
    (b,) = run.value("b")
    np.testing.assert_allclose(run.weight("m2"), b.mean((0, 2, 3)), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(run.weight("v2"), b.var((0, 2, 3)), rtol=1e-4)


def test_a_bias_that_is_kept_is_part_of_what_is_measured(lsuv: Lsuv) -> None:
    run = lsuv(MODEL, DATA, exclude=["b3"])
    assert np.array_equal(run.weight("b3"), TENSORS["b3"])
    row = next(row for row in run.result.layers if row.weight == "w3")
    (z,) = run.value("z")
    assert row.std == pytest.approx(z.std(), rel=1e-4)
    assert z.std() == pytest.approx(1, abs=3e-3)


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"include": ["table"]}, r"'table' matches no layer, but 'table' \(embedding\): give --fresh"),
        ({"include": ["w3", "slo*"]}, r"'slo\*' matches no layer, but 'slope' \(slope\): give --fresh"),
        ({"include": ["w3", "axes"]}, r"'axes' matches no layer, but 'axes' \(setting\): that is never set"),
        ({"target": {"slope": 0.5}}, "'slope' matches the whole name of no layer or weight"),
        ({"include": ["w3", "v1x"]}, "'v1x' matches the whole name of no layer"),
        ({"exclude": ["nothing"]}, "'nothing' matches the whole name of no layer, norm or tensor; layers are named"),
        ({"exclude": ["tabel"]}, r"\(did you mean 'table'\?\)"),
        ({"exclude": ["f"]}, "'f' matches the whole name of no layer"),  # a node that reads no tensor
    ],
    ids=str,
)
def test_patterns_that_take_nothing(choices: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        onnx_lsuv.plan(onnx_lsuv.from_proto(MODEL), **choices)


def test_nothing_is_left_to_do() -> None:
    model = onnx_lsuv.from_proto(MODEL)
    with pytest.raises(ModelError, match="nothing to initialise in the model in memory: left alone 4 x Conv, MatMul"):
        onnx_lsuv.initialize(model, DATA, include=["b3"], keep_bias=True)
    with pytest.raises(ModelError, match="nothing to measure"):
        onnx_lsuv.measure(model, DATA, include=["n1"])
