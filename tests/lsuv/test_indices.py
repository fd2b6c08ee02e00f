"""Indices beyond a table are found before CUDA, which takes zeros for them, sees the data."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from oracle import normal, parse

import onnx_lsuv
from onnx_lsuv import batches as kinds
from onnx_lsuv.errors import DataError
from onnx_lsuv.lsuv.prepare import check_indices
from onnx_lsuv.runtime import Device

HEAD = '<ir_version: 10, opset_import: ["" : 17]> g (int64[N,T] x) => (float y)'
# name: the nodes that look up a table t of 10 rows, and the smallest and the largest value of x that is right
LOOKUPS = {
    "as they are": ("a = Gather(t, x) y = MatMul(a, w)", -10, 9),
    "cast": ("i = Cast<to=6>(x) a = Gather(t, i) y = MatMul(a, w)", -10, 9),
    "columns of a table": ("u = Transpose<perm=[1,0]>(t) b = Gather<axis=1>(u, x) a = Transpose<perm=[1,2,0]>(b) "
                           "y = MatMul(a, w)", -10, 9),
    "computed": ("i = Add(x, two) a = Gather(t, i) y = MatMul(a, w)", -12, 7),
    "clipped": ("i = Clip(x, none, two) a = Gather(t, i) y = MatMul(a, w)", -(2**40), 2**40),
    "looked up": ("i = Gather(p, x) a = Gather(t, i) y = MatMul(a, w)", -3, 2),
    "a part": ("i = Slice(x, none, one, one) a = Gather(t, i) y = MatMul(a, w)", -(2**40), 2**40),
    "where a table is looked up for another": ("h = Gather(t, x) i = ArgMax<axis=-1, keepdims=0>(h) a = Gather(t, i) "
                                               "y = MatMul(a, w)", -10, 9),
}  # fmt: skip


def checks(nodes: str, x: NDArray[np.int64], device: str = "cuda:0") -> None:
    model = onnx_lsuv.from_proto(
        parse(
            f"{HEAD} {{ {nodes} }}",
            t=normal(10, 8),
            w=normal(8, 4, seed=1),
            one=np.array([1]),
            two=np.array(2),
            none=np.array([0]) if "Slice" in nodes else np.array(0),
            p=np.array([9, 0, -10]),
        )
    )
    data = kinds.from_arrays(kinds.inputs_of(model.proto.graph), [{"x": np.ones((2, 3), np.int64)}, {"x": x}])
    check_indices(onnx_lsuv.plan(model).plan.program, data, Device(device, 1))


@pytest.mark.parametrize("name", LOOKUPS)
def test_what_the_tables_hold_passes_and_nothing_else(name: str) -> None:
    nodes, low, high = LOOKUPS[name]
    right = np.full((2, 3), high)
    right[0, 1], right[:, 0] = low, 1
    checks(nodes, right)
    for wrong in (low - 1, high + 1) if high < 2**40 else ():
        x = np.ones((2, 3), np.int64)
        x[1, 2] = wrong
        with pytest.raises(DataError, match="An index in the data lies outside a table of the model: Gather"):
            checks(nodes, x)
        checks(nodes, x, "cpu")  # which says it while it runs


@pytest.mark.parametrize(
    "nodes",
    [
        "f = Cast<to=1>(x) h = MatMul(f, v) i = ArgMax<keepdims=0>(h) a = Gather(t, i) y = MatMul(a, w)",
        "a = Gather(t, one) y = MatMul(a, w)",
        "f = Cast<to=1>(x) b = MatMul(f, v) i = Cast<to=7>(x) a = Gather(b, i) y = MatMul(a, w)",
    ],
)
def test_what_is_not_known_before_the_run_is_left(nodes: str) -> None:
    model = parse(f"{HEAD} {{ {nodes} }}", t=normal(10, 8), w=normal(8, 4, seed=1), v=normal(3, 8), one=np.array([1]))
    loaded = onnx_lsuv.from_proto(model)
    data = kinds.from_arrays(kinds.inputs_of(loaded.proto.graph), {"x": np.full((2, 3), 99)})
    check_indices(onnx_lsuv.plan(loaded).plan.program, data, Device("cuda:0", 1))
