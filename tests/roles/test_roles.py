"""What each constant of a program is, and what tells: the plan says so, and asks values only where it has to."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
from onnx import ModelProto
from oracle import normal, parse

import onnx_lsuv
from onnx_lsuv.layers import find_layers
from onnx_lsuv.model import read
from onnx_lsuv.program import expand
from onnx_lsuv.roles import Patterns, Role
from onnx_lsuv.roles.values import is_computed

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


def test_every_constant_has_a_role_and_a_fate(model: ModelProto) -> None:
    program = expand(onnx_lsuv.from_proto(model))
    roles = {
        **dict.fromkeys(("w1", "w2", "w3", "w4"), ("weight", "product", "drawn")),
        **dict.fromkeys(("m1", "v1"), ("statistics", "norm", "calibrated")),
        "b1": ("bias", "sum", "zero"),
        "b2": ("bias", "place", "fresh"),
        "s1": ("scale", "operand", "fresh"),
        "t1": ("shift", "operand", "fresh"),
        "slope": ("slope", "operand", "fresh"),
        "table": ("embedding", "place", "fresh"),
    }
    plan = find_layers(program, fresh=True)
    assert {name: (role.role, role.evidence, role.fate) for name, role in plan.roles.items()} == roles
    assert list(plan.roles) == list(program.constants)
    kept = {name: (*told, "kept" if fate == "fresh" else fate) for name, (*told, fate) in roles.items()}
    found = find_layers(program).roles
    assert {name: (role.role, role.evidence, role.fate) for name, role in found.items()} == kept
    starts = {each.constant for each in plan.parameters.fresh}
    assert starts == {"b2", "s1", "t1", "slope", "table", "m1", "v1"}  # statistics where no data reach them


def test_values_are_read_where_nothing_else_tells(model: ModelProto) -> None:
    program = expand(onnx_lsuv.from_proto(model))
    with mock.patch("onnx_lsuv.program.program.read", side_effect=read) as reading:
        plan = find_layers(program)
    # Of weights, which may be fixed transforms, and of operands of a plain Add and Gather.
    sites = {program.constants[name].site for name in ("w1", "w2", "w3", "w4", "b2", "table")}
    assert {call.args[1] for call in reading.call_args_list} == sites
    assert not plan.parameters.fresh


def test_of_a_large_table_a_few_rows_are_looked_at() -> None:
    text = '<ir_version: 10, opset_import: ["" : 21]> g (int64[N] i) => (float y) { h = Gather(t, i) y = MatMul(h, w) }'
    whole = np.concatenate([np.rint(normal(100, 16)), normal(900, 16)])
    for table, expected in (
        (normal(5000, 16), ("embedding", "place", [(64, 16)])),
        (np.concatenate([np.zeros((100, 16), np.float32), normal(900, 16)]), ("embedding", "place", [])),  # padding
        # The first rows look computed, so that all is looked at.
        (whole, ("embedding", "place", [(64, 16), (1000, 16)])),
        (np.eye(200, 16, dtype=np.float32), ("fixed", "values", [(64, 16), (200, 16)])),
    ):
        program = expand(onnx_lsuv.from_proto(parse(text, t=table, w=normal(16, 4))))
        with mock.patch("onnx_lsuv.roles.table.is_computed", side_effect=is_computed) as looked:
            role = find_layers(program).roles["t"]
        assert (role.role, role.evidence, [call.args[0].shape for call in looked.call_args_list]) == expected


def test_what_the_user_excludes_is_kept(model: ModelProto) -> None:
    program = expand(onnx_lsuv.from_proto(model))
    plan = find_layers(program, Patterns(lambda *names: "w2" not in names and "slope" not in names), fresh=True)
    assert plan.roles["w2"] == Role("weight", "product", "kept")
    assert plan.roles["slope"] == Role("slope", "operand", "kept")
    assert {(each.weight, each.reason) for each in plan.skipped} == {("w2", "excluded")}
    assert [layer.weight for layer in plan.layers] == ["w1", "w3", "w4"]
