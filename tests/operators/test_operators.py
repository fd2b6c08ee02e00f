"""Operators that the table knows beside those that every model has: which weights they hold, and how these are set."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from conftest import Run
from oracle import blocks_of, normal, orthonormality, parse

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
