"""A result as text and JSON, and errors as sentences."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import numpy as np
import onnx
import pytest
from oracle import normal, parse

import onnx_lsuv
from onnx_lsuv import errors
from onnx_lsuv.errors import clean
from onnx_lsuv.lsuv import GOOD, STATUSES, Result
from onnx_lsuv.report.columns import number, shape
from onnx_lsuv.report.document import SCHEMA, as_json
from onnx_lsuv.report.layout import shortened
from onnx_lsuv.report.text import as_text

HEAD = '<ir_version: 10, opset_import: ["" : 17]>'


@pytest.fixture(scope="module")
def result() -> Result:
    """Two layers and one left alone, measured."""
    text = f"""{HEAD} g (float[N,8] x) => (float z) {{
      y = Gemm(x, w, b) n = BatchNormalization(y, s, s, m, v) z = MatMul(n, u) t = Transpose(x) q = MatMul(t, x) }}"""
    ones = np.ones(8, np.float32)
    model = onnx_lsuv.from_proto(
        parse(text, w=normal(8, 8), u=normal(8, 4), b=normal(8), s=ones, m=ones / 2, v=ones * 2)
    )
    batch = {"x": normal(64, 8)}
    done = onnx_lsuv.initialize(model, batch)
    saved = onnx.load_from_string(onnx_lsuv.to_bytes(done.model))
    return onnx_lsuv.measure(onnx_lsuv.from_proto(saved), batch, like=done)


def test_text(result: Result) -> None:
    assert result.good
    shown = as_text(result, 120)
    assert all(len(line) <= 120 for line in shown.splitlines()[:4])
    header, first, second = shown.splitlines()[:3]
    assert header.split()[:2] == ["layer", "op"]
    assert first.split()[:4] == ["y", "Gemm", "w", "8x8"]
    assert first.split()[-1] == second.split()[-1] == "ok"
    row = result.layers[0]
    assert f"{row.scale:.4f}" in first
    assert "dynamic: 1 x MatMul (q)" in shown
    assert "statistics of 1 BatchNormalization" in shown
    assert "1 bias" in shown
    assert f"64 samples in 1 batch on {result.device}" in shown


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_table_fits_the_width(result: Result, width: int) -> None:
    long = tuple(replace(row, name=row.name * 40, weight=row.weight * 40) for row in result.layers)
    lines = as_text(replace(result, layers=long), width).splitlines()[:3]
    if width >= 80:
        assert max(map(len, lines)) <= width
    assert all(".." in line for line in lines[1:]) == (width < 150)


def test_what_went_wrong_is_said(result: Result) -> None:
    first, second = result.layers
    bad = replace(
        result,
        layers=(
            replace(first, status="off", std=1.25, note="some cause"),
            replace(second, status="degenerate", std=math.nan, note="another cause"),
        ),
    )
    shown = as_text(bad, 120)
    assert not bad.good
    assert "off: y: std 1.2500, wanted 1.0000; some cause" in shown
    assert "degenerate: z: another cause" in shown
    assert "1 off, 1 degenerate" in shown


def test_singular_and_plural(result: Result) -> None:
    one = replace(result, layers=result.layers[:1])
    shown = as_text(one, 120)
    assert re.search(r"\b1 layer\b", shown)
    assert not re.search(r"\b1 (layers|biases|BatchNormalizations|constants|samples|batches)\b", shown)


def test_json(result: Result) -> None:
    document = json.loads(as_json(result, {"versions": {"a": "1"}}))
    assert document["schema"] == SCHEMA == 1
    assert document["good"] is True
    assert document["versions"] == {"a": "1"}
    assert [row["name"] for row in document["layers"]] == ["y", "z"]
    assert document["layers"][0]["std"] == result.layers[0].std
    assert document["layers"][0]["shape"] == [8, 8]
    assert {row["tensor"]: row["role"] for row in document["changes"]} == {
        "w": "weight",
        "u": "weight",
        "b": "bias",
        "m": "statistics",
        "v": "statistics",
    }
    assert document["left"][0]["reason"] == "dynamic"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_has_no_nan(result: Result, value: float) -> None:
    row = replace(result.layers[0], status="degenerate", std=value, std_drawn=value)
    shown = as_json(replace(result, layers=(row,)), {})
    document = json.loads(shown, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert document["layers"][0]["std"] == str(value)
    assert document["good"] is False
    as_text(replace(result, layers=(row,)), 100)


def test_json_is_ascii(result: Result) -> None:
    row = replace(result.layers[0], name="層\x1b\u202e")
    shown = as_json(replace(result, layers=(row,)), {})
    assert shown.isascii()
    assert json.loads(shown)["layers"][0]["name"] == "層\x1b\u202e"


def test_text_is_clean(result: Result) -> None:
    evil = "a\x1b[31m\u202e\n\x9b\x00b"
    rows = tuple(replace(row, name=evil, weight=evil, status="off", note=evil) for row in result.layers)
    left = tuple(replace(row, name=evil, detail=evil) for row in result.skipped)
    shown = as_text(replace(result, layers=rows, skipped=left, kept_statistics=left, notes=(evil,)), 200)
    assert not set(shown) & set("\x1b\u202e\x9b\x00")
    assert not any(line.startswith("\\") for line in shown.splitlines())


@pytest.mark.parametrize(
    ("name", "width", "shown"),
    [("short", 10, "short"), ("abcdefghij", 10, "abcdefghij"), ("abcdefghijk", 10, "abcd..hijk"), ("abcdef", 3, "abc")],
)
def test_shortened(name: str, width: int, shown: str) -> None:
    assert shortened(name, width) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "-"), (1.0, "1.0000"), (0.0, "0.0000"), (12345.6, "12345.6"), (1.5e-7, "1.50e-07"), (1e9, "1.00e+09")],
)
def test_number(value: float | None, shown: str) -> None:
    assert number(value) == shown


def test_number_that_is_none() -> None:
    assert number(math.inf) == "inf"
    assert number(math.nan) == "nan"


def test_shape() -> None:
    assert [shape(s) for s in ((64, 3, 7, 7), (5,), (), None)] == ["64x3x7x7", "5", "scalar", "-"]


def test_statuses() -> None:
    assert set(STATUSES) >= GOOD
    assert set(STATUSES) - GOOD == {"off", "degenerate"}
    assert all(STATUSES.values())


def test_errors_have_their_status() -> None:
    found = {
        cls.__name__: cls.exit_status
        for cls in (
            errors.UsageError,
            errors.ModelError,
            errors.DataError,
            errors.DeviceError,
            errors.OutputError,
            errors.LsuvError,
        )
    }
    assert found == {
        "UsageError": 2,
        "ModelError": 3,
        "DataError": 4,
        "DeviceError": 5,
        "OutputError": 6,
        "LsuvError": 70,
    }
    assert all(issubclass(getattr(errors, name), errors.LsuvError) for name in found)
    assert {name for name in onnx_lsuv.__all__ if name.endswith("Error")} == set(found)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ünicode 層", "plain ünicode 層"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\u202egnp", "\\u202egnp"),
        ("\ud800", "\\ud800"),
        ("\u200b\ufeff", "\\u200b\\ufeff"),
        ("\u2028", "\\u2028"),
    ],
)
def test_clean(text: str, shown: str) -> None:
    assert clean(text) == shown
