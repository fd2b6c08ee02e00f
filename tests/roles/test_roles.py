"""What each constant of a program is, and what tells: the plan says so, and asks values only where it has to."""

from __future__ import annotations

from unittest import mock

import pytest
from onnx import ModelProto
from oracle import normal, parse

import onnx_lsuv
from onnx_lsuv.layers import find_layers
from onnx_lsuv.model import read
from onnx_lsuv.program import expand

TEXT = """<ir_version: 10, opset_import: ["" : 21]> g (float[N,4,6,6] x, int64[N] i) => (float y) {
  a = Conv(x, w1, b1) n = BatchNormalization(a, s1, t1, m1, v1) p = PRelu(n, slope)
  b = Conv(p, w2) d = GlobalAveragePool(b) f = Flatten(d) z = Add(f, b2) e = MatMul(z, w3)
  h = Gather(table, i) k = Add(e, h) y = MatMul(k, w4) }"""


@pytest.fixture
def model() -> ModelProto:
    return parse(
        TEXT,
        w1=normal(8, 4, 3, 3),
        b1=normal(8),
        s1=normal(8),
        t1=normal(8),
        m1=normal(8),
        v1=normal(8) ** 2 + 1,
        slope=normal(8, 1, 1),
        w2=normal(8, 8, 3, 3),
        b2=normal(8),
        w3=normal(8, 16),
        table=normal(20, 16),
        w4=normal(16, 4),
    )


def test_every_constant_that_changes_has_a_role(model: ModelProto) -> None:
    plan = find_layers(expand(onnx_lsuv.from_proto(model)), fresh=True)
    assert {name: (role.role, role.evidence) for name, role in plan.roles.items()} == {
        **dict.fromkeys(("w1", "w2", "w3", "w4"), ("weight", "product")),
        **dict.fromkeys(("m1", "v1"), ("statistics", "norm")),
        "b1": ("bias", "sum"),
        "b2": ("bias", "place"),
        "s1": ("scale", "operand"),
        "t1": ("bias", "operand"),
        "slope": ("slope", "operand"),
        "table": ("embedding", "place"),
    }
    assert {each.constant for each in plan.parameters.fresh} == {"b2", "s1", "t1", "slope", "table"}


def test_no_values_but_those_of_weights_are_read_where_nobody_asks_for_parameters(model: ModelProto) -> None:
    program = expand(onnx_lsuv.from_proto(model))
    with mock.patch("onnx_lsuv.roles.parameters.stored", side_effect=AssertionError), pytest.raises(AssertionError):
        find_layers(program, fresh=True)
    with mock.patch("onnx_lsuv.program.program.read", side_effect=read) as reading:
        plan = find_layers(program)
    sites = {program.constants[name].site for name in ("w1", "w2", "w3", "w4")}
    assert {call.args[1] for call in reading.call_args_list} == sites
    with mock.patch("onnx_lsuv.program.program.read", side_effect=AssertionError):
        find_layers(program, named=lambda *names: True)
    assert not plan.parameters.fresh
    assert plan.roles.keys() == {"w1", "w2", "w3", "w4", "m1", "v1", "b1"}


def test_what_the_user_excludes_has_no_role(model: ModelProto) -> None:
    program = expand(onnx_lsuv.from_proto(model))
    plan = find_layers(program, wanted=lambda *names: "w2" not in names and "slope" not in names, fresh=True)
    assert plan.roles.keys().isdisjoint({"w2", "slope"})
    assert {(each.weight, each.reason) for each in plan.skipped} == {("w2", "excluded")}
    assert [layer.weight for layer in plan.layers] == ["w1", "w3", "w4"]
