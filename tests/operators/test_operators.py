"""Operators that the table knows beside those that every model has: which weights they hold, and how these are set."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from conftest import Run
from onnx import ModelProto
from onnx.helper import make_attribute
from oracle import blocks_of, normal, orthonormality, parse

from onnx_lsuv.operators import OPERATORS, Attributes

Lsuv = Callable[..., Run]
HEAD = '<ir_version: 10, opset_import: ["" : 17, "com.microsoft" : 1]>'


@pytest.mark.parametrize("bias", ["b", ""])
def test_gemm_fast_gelu_is_a_product_before_its_activation(lsuv: Lsuv, bias: str) -> None:
    # ONNX Runtime has it on CUDA and ROCm alone.
    given = f"x, w, {bias}" if bias else "x, w"
    nodes = f"h = com.microsoft.GemmFastGelu({given}) y = MatMul(h, u)"
    tensors = {"w": normal(12, 20), "u": normal(20, 7), **({"b": normal(20)} if bias else {})}
    x = normal(32, 5, 12)
    run = lsuv(parse(f"{HEAD} g (float[N,5,12] x) => (float[N,5,7] y) {{ {nodes} }}", tensors), {"x": x})
    assert [(row.op, row.status, row.shape) for row in run.result.layers] == [
        ("MatMul", "ok", (12, 20)),
        ("MatMul", "ok", (20, 7)),
    ]
    assert run.changed == set(tensors)
    assert not bias or not run.weight("b").any()
    product = x @ run.weight("w")
    assert product.var() == pytest.approx(1, abs=1e-4)
    hidden = product / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (product + 0.044715 * product**3)))
    assert (hidden @ run.weight("u")).var() == pytest.approx(1, abs=1e-3)
    assert orthonormality(blocks_of("MatMul", run.weight("w"))) < 1e-3
    assert [node.op_type for node in run.after.graph.node] == ["GemmFastGelu", "MatMul"]


@pytest.mark.parametrize(("activation", "fusion"), [("gelu", 0), ("swiglu", 1)])
def test_experts_are_drawn_one_by_one(lsuv: Lsuv, activation: str, fusion: int) -> None:
    halves = 2 if fusion else 1
    nodes = f"""p = MatMul(x, router)
      h = com.microsoft.MoE<k=2, activation_type="{activation}", swiglu_fusion={fusion}>(x, p, w1, b1, w2, b2)
      y = MatMul(h, u)"""
    tensors = {"router": normal(16, 4), "w1": normal(4, halves * 20, 16), "b1": normal(4, halves * 20)}
    tensors |= {"w2": normal(4, 16, 20), "b2": normal(4, 16), "u": normal(16, 7)}
    run = lsuv(parse(f"{HEAD} g (float[N,16] x) => (float[N,7] y) {{ {nodes} }}", tensors), {"x": normal(64, 16)})
    assert run.changed == set(tensors)
    rows = {row.weight: row for row in run.result.layers}
    assert [rows[w].status for w in ("router", "w1", "w2", "u")] == ["ok", "drawn", "drawn", "ok"]
    assert (rows["w1"].blocks, rows["w1"].fan_out, rows["w1"].fan_in) == (4 * halves, 20, 16)
    assert rows["w1"].note == "not rescaled: its router mixes what its experts give"
    first = run.weight("w1")
    # The gate and the values of a fused SwiGLU have every other row.
    for part in (first[:, ::2], first[:, 1::2]) if fusion else (first,):
        assert orthonormality(part) < 1e-4
    assert orthonormality(run.weight("w2")) < 1e-4
    assert not run.weight("b1").any()
    assert not run.weight("b2").any()
    assert run.moments("y")[0].var == pytest.approx(1, abs=0.005)
    assert all(np.abs(run.weight("w1")[i] - run.weight("w1")[0]).max() > 0.1 for i in (1, 2, 3))


def test_halves_of_experts_side_by_side() -> None:
    # ONNX Runtime has this form, and a third weight, on CUDA alone.
    view, fused = OPERATORS["com.microsoft", "MoE"].matrix, Attributes(swiglu_fusion=make_attribute("swiglu_fusion", 2))
    assert view is not None
    w = normal(3, 10, 4)
    found = view(fused, 2, w.shape)
    assert found is not None
    np.testing.assert_array_equal(found.view(w), w.reshape(6, 5, 4))
    third = view(fused, 6, w.shape)
    assert third is not None
    np.testing.assert_array_equal(third.view(w), w)


def attention_of_groups(projections: str, queries: str, heads: int, **tensors: np.ndarray) -> ModelProto:
    """Return one with 2 heads of keys and values of size 16, as ONNX Runtime's optimiser writes it."""
    angles = np.outer(np.arange(8), 0.1 * np.arange(1, 9))
    tensors |= {"cos": np.cos(angles, dtype=np.float32), "sin": np.sin(angles, dtype=np.float32)}
    tensors |= {"past": np.zeros((16, 2, 0, 16), np.float32), "out": normal(16 * heads, 24)}
    tensors |= {"last": np.full(16, 4, np.int32), "total": np.array([5], np.int32)}
    nodes = f"""{projections}
      a = com.microsoft.GroupQueryAttention<num_heads={heads}, kv_num_heads=2, do_rotary=1>
        ({queries}, past, past, last, total, cos, sin)
      y = MatMul(a, out)"""
    return parse(f"{HEAD} g (float[16,5,48] x) => (float[16,5,24] y) {{ {nodes} }}", tensors)


@pytest.mark.parametrize("heads", [2, 4])
@pytest.mark.parametrize("bias", [True, False])
def test_packed_projections_of_a_grouped_attention(lsuv: Lsuv, heads: int, bias: bool) -> None:
    parts = heads // 2 + 2
    packed = {"w": normal(48, 32 * parts), **({"b": normal(32 * parts)} if bias else {})}
    projections = "q0 = MatMul(x, w) q = Add(q0, b)" if bias else "q = MatMul(x, w)"
    run = lsuv(attention_of_groups(projections, "q, , ", heads, **packed), {"x": normal(16, 5, 48)}, fresh=True)
    assert [(row.weight, row.status, row.blocks) for row in run.result.layers] == [("w", "ok", parts), ("out", "ok", 1)]
    assert orthonormality(run.weight("w").T.reshape(parts, 32, 48)) < 1e-4
    assert [found.var for found in run.moments("q", "y")] == pytest.approx([1, 1], abs=0.005)
    # The tables of angles are nobody's parameters, and not in doubt either.
    assert run.changed == {*packed, "out"}
    assert not any("'cos'" in str(note) for note in run.result.notes)


def test_projections_of_a_grouped_attention_one_by_one(lsuv: Lsuv) -> None:
    weights = {"wq": normal(48, 64), "wk": normal(48, 32), "wv": normal(48, 32)}
    projections = "q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv)"
    run = lsuv(attention_of_groups(projections, "q, k, v", 4, **weights), {"x": normal(16, 5, 48)})
    assert [(row.status, row.blocks) for row in run.result.layers] == [("ok", 1)] * 4
    assert orthonormality(run.weight("wq").T[None]) < 1e-4


def test_centred_by_a_bias_of_packed_projections(lsuv: Lsuv) -> None:
    model = attention_of_groups("q0 = MatMul(x, w) q = Add(q0, b)", "q, , ", 4, w=normal(48, 128), b=normal(128))
    run = lsuv(model, {"x": normal(16, 5, 48) + 1}, center=True)
    assert np.abs(run.value("q")[0].mean((0, 1))).max() < 1e-4


def test_a_packed_projection_that_something_else_reads_is_one_matrix(lsuv: Lsuv) -> None:
    projections = "q = MatMul(x, w) r = MatMul(q, v)"
    model = attention_of_groups(projections, "q, , ", 4, w=normal(48, 128), v=normal(128, 8))
    run = lsuv(model, {"x": normal(16, 5, 48)})
    assert run.row("q").blocks == 1
    assert orthonormality(run.weight("w").T[None]) < 1e-4
