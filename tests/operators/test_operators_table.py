"""The table of operators agrees with ONNX Runtime's definitions, and with itself."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from onnx.helper import make_node
from onnxruntime.capi import onnxruntime_pybind11_state

from onnx_lsuv.layers import REASONS
from onnx_lsuv.operators import MICROSOFT, OPERATORS, WHOLE, Operator, of
from onnx_lsuv.operators.matrices import Matrix
from onnx_lsuv.operators.table import ROWS
from onnx_lsuv.roles.parameters import VALUES

NAMES = [f"{row.domain}.{row.op_type}" for row in ROWS]


@pytest.fixture(scope="module")
def operands() -> dict[tuple[str, str], int]:
    """Return how many operands each operator of ONNX Runtime may have, over its versions."""
    found: Counter[tuple[str, str]] = Counter()
    for schema in onnxruntime_pybind11_state.get_all_operator_schema():
        found[schema.domain, schema.name] = max(found[schema.domain, schema.name], schema.max_input)
    return found


def test_every_operator_has_one_row() -> None:
    assert len(OPERATORS) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_positions_are_operands_of_the_operator(row: Operator, operands: dict[tuple[str, str], int]) -> None:
    assert (row.domain, row.op_type) in operands
    for position in {*row.weights, *row.biases, *row.roles, *row.vectors}:
        assert position < operands[row.domain, row.op_type]


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_columns_of_a_row_fit_each_other(row: Operator) -> None:
    assert bool(row.weights) == (row.matrix is not None)
    assert len(row.biases) in (0, 1, len(row.weights))
    assert row.weights or not (row.biases or row.every or row.unscaled or row.bilinear or row.channels)
    assert row.left in ("", *REASONS)
    assert set(row.roles.values()) <= {*VALUES, "embedding", "statistics", ""}
    # What is known of moves is asked of ONNX's own operators.
    assert not row.domain or not (row.move or row.degree or row.waits or row.sums or row.pointwise)
    assert row.degree == 1 or row.move not in (*WHOLE, "casts", "takes", "repeats")
    assert row.norm in ("", "own", "sum")
    if row.fused:
        assert of(make_node(row.fused.linear, ["x", "w"], ["y"])).weights


def test_a_row_is_found_by_domain_and_name() -> None:
    assert of(make_node("Conv", ["x", "w"], ["y"], domain="ai.onnx")) is OPERATORS["", "Conv"]
    assert of(make_node("Attention", ["x", "w"], ["y"], domain=MICROSOFT)).unscaled
    for domain, name in (("", "Attention"), (MICROSOFT, "Conv"), ("custom", "LayerNormalization"), ("", "NoSuch")):
        assert of(make_node(name, ["x"], ["y"], domain=domain)) == Operator(name, domain)


@pytest.mark.parametrize(
    ("domain", "name", "reason"),
    [
        ("", "QLinearConv", "quantised"),
        ("", "MatMulInteger", "quantised"),
        (MICROSOFT, "MatMulNBits", "quantised"),
        ("custom", "DynamicQuantizeMatMul", "quantised"),
        ("", "DynamicQuantizeLinear", ""),
        (MICROSOFT, "QLinearAdd", ""),
        ("com.microsoft.nchwc", "Conv", "layout"),
        ("ai.onnx.ml", "SVMRegressor", "attribute"),
        ("ai.onnx.ml", "Scaler", ""),
    ],
)
def test_families_are_left_alone_by_their_names(domain: str, name: str, reason: str) -> None:
    assert of(make_node(name, ["x"], ["y"], domain=domain)).left == reason


def test_roles_of_operands() -> None:
    lstm = [OPERATORS["", "LSTM"].role(i) for i in range(1, 8)]
    assert lstm == ["weight", "weight", "bias", "", "state", "state", "bias"]
    assert [OPERATORS["", "Clip"].role(i) for i in range(3)] == ["", "setting", "setting"]
    assert [OPERATORS[MICROSOFT, "MoE"].role(i) for i in range(2, 8)] == ["weight", "bias"] * 3


def test_parted_matrices_are_views_of_the_same_values() -> None:
    for shape, perm in (((6, 4), (0, 1)), ((4, 6), (1, 0))):
        whole, w = Matrix(shape, perm, 1, 6, 4), np.arange(24).reshape(shape)
        parts = whole.parted(3)
        assert (parts.blocks, parts.fan_out, parts.fan_in, parts.side_by_side) == (3, 2, 4, 3)
        np.testing.assert_array_equal(parts.view(w).reshape(6, 4), whole.view(w)[0])
        np.testing.assert_array_equal(parts.operand(parts.view(w), shape), w)
    uneven = Matrix((6, 5), (1, 0), 1, 5, 6)
    assert uneven.parted(2) is uneven
