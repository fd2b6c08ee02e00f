"""Einsum with one constant among any number of operands; the oracle is NumPy's einsum in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import Run
from onnx import ModelProto
from oracle import normal, orthonormality, parse

import onnx_lsuv

Lsuv = Callable[..., Run]
Array = np.ndarray[Any, Any]


def model_of(equation: str, operands: dict[str, Array]) -> ModelProto:
    """Return an Einsum of these operands in their order; w, and what begins with w, are constants."""
    inputs = ", ".join(
        f"float[{','.join(map(str, array.shape))}] {name}" for name, array in operands.items() if name[0] != "w"
    )
    text = f"""<ir_version: 9, opset_import: ["" : 17]>
        g ({inputs}) => (float y) {{ y = Einsum <equation = "{equation}"> ({", ".join(operands)}) }}"""
    return parse(text, {name: array for name, array in operands.items() if name[0] == "w"})


def data_of(operands: dict[str, Array]) -> dict[str, Array]:
    return {name: array for name, array in operands.items() if name[0] != "w"}


def shaped(**shapes: tuple[int, ...]) -> dict[str, Array]:
    return {name: normal(*shape) for name, shape in shapes.items()}


# The equation, the operands' shapes in their order, and the weight as (blocks, fan out, fan in) by hand.
CASES: dict[str, tuple[dict[str, tuple[int, ...]], Callable[[Array], Array]]] = {
    "bi,oij,bj->bo": ({"x": (30, 4), "w": (6, 4, 5), "z": (30, 5)}, lambda w: w.reshape(1, 6, 20)),
    "oij,bi,bj->bo": ({"w": (6, 4, 5), "x": (30, 4), "z": (30, 5)}, lambda w: w.reshape(1, 6, 20)),
    "bi,bj,ijo": ({"x": (30, 4), "z": (30, 5), "w": (4, 5, 6)}, lambda w: w.reshape(1, 20, 6).transpose(0, 2, 1)),
    "bi,bh,hio->bho": ({"x": (30, 4), "z": (30, 3), "w": (3, 4, 7)}, lambda w: w.transpose(0, 2, 1)),
    "bqk,bkd,de->bqe": ({"x": (5, 6, 7), "z": (5, 7, 4), "w": (4, 6)}, lambda w: w.T[None]),
    "ab,ac,ad,bcdo->ao": (
        {"x": (90, 2), "z": (90, 3), "t": (90, 4), "w": (2, 3, 4, 5)},
        lambda w: w.reshape(1, 24, 5).transpose(0, 2, 1),
    ),
    "bii,io->bo": ({"x": (30, 4, 4), "w": (4, 6)}, lambda w: w.T[None]),
    "...i,b,io->...o": ({"x": (3, 9, 4), "z": (5,), "w": (4, 6)}, lambda w: w.T[None]),
    # Nothing in the data tells apart what is summed here: it reads the sum alone, and that is linear too.
    "bi,ij->b": ({"x": (30, 4), "w": (4, 5)}, lambda w: w.reshape(1, 1, 20)),
}


@pytest.mark.parametrize("equation", CASES)
@pytest.mark.parametrize("batches", [1, 2])
def test_one_constant_among_many_operands(lsuv: Lsuv, equation: str, batches: int) -> None:
    shapes, view = CASES[equation]
    operands = shaped(**shapes)
    given = [{name: normal(*array.shape, seed=i) for name, array in data_of(operands).items()} for i in range(batches)]
    run = lsuv(model_of(equation, operands), given)
    (row,) = run.result.layers
    assert row.status == "ok"
    w = run.weight("w")
    blocks = view(w)
    assert (row.blocks, row.fan_out, row.fan_in) == blocks.shape
    assert orthonormality(blocks) < 1e-5
    found = [
        np.einsum(equation, *(w if name == "w" else np.float64(batch[name]) for name in operands)) for batch in given
    ]
    assert np.concatenate([y.reshape(-1) for y in found]).var() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("equation", "shapes", "reason", "words"),
    [
        ("bi,...io->...bo", {"x": (30, 4), "w": (3, 4, 6)}, "type", "ellipsis"),
        ("bi,ii->bi", {"x": (30, 4), "w": (4, 4)}, "type", "diagonal"),
        ("bi,oo,bj->bo", {"x": (30, 4), "w": (5, 5), "z": (30, 3)}, "type", "diagonal"),
        ("bi,io,oj->bj", {"x": (30, 4), "w": (4, 6), "w2": (6, 5)}, "computed", "product of several constants"),
        ("bi,i,oij,bj->bo", {"x": (30, 4), "w": (4,), "w2": (6, 4, 5), "z": (30, 5)}, "computed", "several constants"),
    ],
)
def test_what_is_left_alone_is_told_why(equation: str, shapes: Any, reason: str, words: str) -> None:
    plan = onnx_lsuv.plan(onnx_lsuv.from_proto(model_of(equation, shaped(**shapes)))).plan
    assert not plan.layers
    (left,) = plan.skipped
    assert left.reason == reason
    assert words in left.detail
