"""Which nodes are layers, where their weight comes from, its matrix view, or the reason why not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import oracle
import pytest
from conftest import Run
from onnx import ModelProto, helper, numpy_helper
from oracle import blocks_of, normal, orthonormality, parse

from onnx_lsuv import ModelError, from_proto, measure
from onnx_lsuv.layers import REASONS

Lsuv = Callable[..., Run]
TIGHT = 1e-3
HEAD = '<ir_version: 10, opset_import: ["" : 17, "com.microsoft" : 1, "f" : 1]>'


def dims(shape: tuple[int, ...]) -> str:
    return ",".join(map(str, shape))


def one_layer(node: str, w: np.ndarray, x: tuple[int, ...], head: str = HEAD) -> ModelProto:
    return parse(f"{head} g (float[{dims(x)}] x) => (float y) {{ y = {node} }}", w=w)


# --------------------------------------------------------------------------------------------- operators and their view

VIEWS = {
    # node, weight, input, (blocks, fan_out, fan_in), how the oracle sees it
    "conv 1-d": ("Conv(x, w)", (6, 3, 5), (32, 3, 20), (1, 6, 15), {}),
    "conv 2-d": ("Conv<strides=[2,1],pads=[1,0,1,2]>(x, w)", (8, 3, 3, 3), (16, 3, 9, 8), (1, 8, 27), {}),
    "conv 2-d dilated": ("Conv<dilations=[2,2]>(x, w)", (8, 3, 3, 3), (16, 3, 9, 9), (1, 8, 27), {}),
    "conv 3-d": ("Conv<pads=[1,1,1,1,1,1]>(x, w)", (4, 2, 3, 3, 3), (8, 2, 5, 5, 5), (1, 4, 54), {}),
    "conv 1x1 wide": ("Conv(x, w)", (32, 2, 1, 1), (16, 2, 5, 5), (1, 32, 2), {}),
    "conv grouped": ("Conv<group=2>(x, w)", (8, 3, 3, 3), (16, 6, 7, 7), (2, 4, 27), {"group": 2}),
    "conv grouped wide": ("Conv<group=2>(x, w)", (12, 1, 2, 2), (16, 2, 7, 7), (2, 6, 4), {"group": 2}),
    "depthwise": ("Conv<group=6>(x, w)", (6, 1, 3, 3), (16, 6, 7, 7), (6, 1, 9), {"group": 6}),
    "depthwise, two each": ("Conv<group=3>(x, w)", (6, 1, 3, 3), (16, 3, 7, 7), (3, 2, 9), {"group": 3}),
    "transposed": ("ConvTranspose<strides=[2,2]>(x, w)", (6, 4, 3, 3), (8, 6, 5, 5), (1, 4, 54), {}),
    "transposed 1-d": ("ConvTranspose<pads=[1,1]>(x, w)", (3, 20, 4), (16, 3, 9), (1, 20, 12), {}),
    "transposed grouped": (
        "ConvTranspose<group=2,strides=[2,2],output_padding=[1,1]>(x, w)",
        (6, 4, 3, 3),
        (8, 6, 5, 5),
        (2, 4, 27),
        {"group": 2},
    ),
    "gemm": ("Gemm(x, w)", (10, 7), (64, 10), (1, 7, 10), {}),
    "gemm transB": ("Gemm<transB=1>(x, w)", (7, 10), (64, 10), (1, 7, 10), {"trans": True}),
    "gemm transB wide": ("Gemm<transB=1>(x, w)", (10, 7), (64, 7), (1, 10, 7), {"trans": True}),
    "gemm transA": ("Gemm<transA=1>(x, w)", (10, 7), (10, 64), (1, 7, 10), {}),
    "gemm alpha": ("Gemm<alpha=0.125>(x, w)", (10, 7), (64, 10), (1, 7, 10), {}),
    "gemm left": ("Gemm(w, x)", (7, 10), (10, 64), (1, 7, 10), {"position": 0}),
    "gemm left transA": ("Gemm<transA=1>(w, x)", (10, 7), (10, 64), (1, 7, 10), {"position": 0, "trans": True}),
    "gemm left transB": ("Gemm<transB=1,alpha=3.0>(w, x)", (7, 10), (64, 10), (1, 7, 10), {"position": 0}),
    "matmul": ("MatMul(x, w)", (10, 7), (64, 10), (1, 7, 10), {}),
    "matmul 3-d data": ("MatMul(x, w)", (7, 10), (16, 5, 7), (1, 10, 7), {}),
    "matmul left": ("MatMul(w, x)", (7, 10), (10, 64), (1, 7, 10), {"position": 0}),
    "matmul batched": ("MatMul(x, w)", (3, 10, 7), (3, 64, 10), (3, 7, 10), {}),
    "matmul batched left": ("MatMul(w, x)", (2, 3, 7, 10), (2, 3, 10, 64), (6, 7, 10), {"position": 0}),
    "matmul vector": ("MatMul(x, w)", (10,), (64, 10), (1, 1, 10), {}),
    "matmul vector left": ("MatMul(w, x)", (10,), (10, 64), (1, 1, 10), {"position": 0}),
}


@pytest.mark.parametrize("case", VIEWS)
def test_view(lsuv: Lsuv, case: str) -> None:
    node, shape, x, expected, how = VIEWS[case]
    run = lsuv(one_layer(node, np.full(shape, 0.5, np.float32), x), {"x": normal(*x)})
    (row,) = run.result.layers
    assert (row.blocks, row.fan_out, row.fan_in) == expected
    assert row.op == node.partition("(")[0].partition("<")[0]
    assert (row.weight, row.shape, row.path, row.status, row.dtype) == ("w", shape, (), "ok", "float")
    blocks = blocks_of(row.op, run.weight("w"), **how)
    assert blocks.shape == expected
    assert orthonormality(blocks) < TIGHT
    found = oracle.forward_moments(run.after, run.batches, ["y"])["y"]
    assert found.var == pytest.approx(1, abs=0.005)
    assert row.std == pytest.approx(np.sqrt(found.var), rel=1e-4)
    assert run.changed == {"w"}


def test_numpy_and_runtime_agree() -> None:
    # The two halves of the oracle check each other.
    for node, shape, x, _, _ in VIEWS.values():
        model, batch = one_layer(node, normal(*shape, seed=1), x), {"x": normal(*x)}
        by_numpy = oracle.forward(model, batch)["y"]
        by_runtime = oracle.values(model, [batch], ["y"])["y"][0]
        np.testing.assert_allclose(by_numpy, by_runtime, rtol=1e-3, atol=1e-4)


# ONNX Runtime has no convolution in float64 on the CPU.
@pytest.mark.parametrize(
    ("case", "dtype", "name"),
    [
        ("conv 2-d", np.float16, "float16"),
        ("gemm transB", np.float16, "float16"),
        ("matmul", np.float16, "float16"),
        ("gemm transB", np.float64, "double"),
        ("matmul", np.float64, "double"),
    ],
)
def test_types(lsuv: Lsuv, case: str, dtype: Any, name: str) -> None:
    node, shape, x, _, how = VIEWS[case]
    model = parse(f"{HEAD} g ({name}[{dims(x)}] x) => ({name} y) {{ y = {node} }}", w=np.full(shape, 0.5, dtype))
    run = lsuv(model, {"x": normal(*x, dtype=dtype)})
    (row,) = run.result.layers
    assert (row.status, row.dtype) == ("ok", name)
    assert orthonormality(blocks_of(row.op, run.weight("w"), **how)) < (2e-2 if dtype is np.float16 else 1e-9)
    tolerance = 0.02 if dtype is np.float16 else 1e-6
    assert oracle.forward_moments(run.after, run.batches, ["y"])["y"].var == pytest.approx(1, abs=tolerance)


def test_bfloat16_behind_a_cast(lsuv: Lsuv) -> None:
    w = np.full((10, 7), 0.5, ml_dtypes.bfloat16)
    model = parse(f"{HEAD} g (float[N,10] x) => (float y) {{ k = Cast<to=1>(w) y = MatMul(x, k) }}", w=w)
    run = lsuv(model, {"x": normal(64, 10)})
    (row,) = run.result.layers
    assert (row.status, row.dtype, row.path) == ("ok", "bfloat16", ("Cast",))
    assert orthonormality(blocks_of("MatMul", run.weight("w"))) < 2e-2
    assert run.moments("y")[0].var == pytest.approx(1, abs=0.02)


# ------------------------------------------------------------------------------------------------ the way to the weight

I64 = "int64[{n}] {name} = {{{values}}}"


def ints(name: str, *values: int) -> str:
    return I64.format(n=len(values), name=name, values=",".join(map(str, values)))


PATHS = {
    # nodes from w to k, integer constants, weight's shape, the layer, input, view's options
    "identity": ("k = Identity(w)", [], (10, 7), "MatMul", (64, 10), {}),
    "transpose": ("k = Transpose<perm=[1,0]>(w)", [], (7, 10), "MatMul", (64, 10), {}),
    "transpose without perm": ("k = Transpose(w)", [], (7, 10), "Gemm", (64, 10), {}),
    "transpose conv": ("k = Transpose<perm=[3,2,0,1]>(w)", [], (3, 3, 4, 8), "Conv", (8, 4, 6, 6), {}),
    "reshape": ("k = Reshape(w, s)", [ints("s", 0, -1)], (10, 7, 1), "MatMul", (64, 10), {}),
    "flatten": ("k = Flatten<axis=2>(w)", [], (5, 2, 7), "MatMul", (64, 10), {}),
    "squeeze": ("k = Squeeze(w, a)", [ints("a", 1, -1)], (10, 1, 7, 1), "MatMul", (64, 10), {}),
    "squeeze all": ("k = Squeeze(w)", [], (1, 10, 1, 7), "MatMul", (64, 10), {}),
    "unsqueeze": ("k = Unsqueeze(w, a)", [ints("a", 2, 3)], (8, 4), "Conv", (8, 4, 6, 6), {}),
    "cast": ("k = Cast<to=1>(w)", [], (10, 7), "MatMul", (64, 10), {}),
    "chain": (
        "a = Identity(w) b = Transpose<perm=[2,0,1]>(a) c = Reshape(b, s) k = Transpose(c)",
        [ints("s", 7, 10)],
        (5, 2, 7),
        "MatMul",
        (64, 10),
        {},
    ),
    "flip by slice": (
        "k = Slice(w, b, e, a, t)",
        [ints("b", -1, -1), ints("e", -9223372036854775807, -9223372036854775807), ints("a", 2, 3), ints("t", -1, -1)],
        (8, 4, 3, 3),
        "Conv",
        (8, 4, 6, 6),
        {},
    ),
}


@pytest.mark.parametrize("case", PATHS)
def test_weight_behind(lsuv: Lsuv, case: str) -> None:
    nodes, constants, shape, op, x, how = PATHS[case]
    dtype = np.float64 if case == "cast" else np.float32
    text = f"{HEAD} g (float[{dims(x)}] x) => (float y) <{', '.join(constants)}> {{ {nodes} y = {op}(x, k) }}"
    run = lsuv(parse(text, w=np.full(shape, 0.5, dtype)), {"x": normal(*x)})
    (row,) = run.result.layers
    assert (row.status, row.weight) == ("ok", "w")
    assert list(row.path) == [part.split("=")[1].strip().split("(")[0].split("<")[0] for part in nodes.split(") ")]
    operand = run.value("k")[0]
    assert operand.shape == row.shape
    assert orthonormality(blocks_of(op, operand, **how)) < TIGHT
    assert run.moments("y")[0].var == pytest.approx(1, abs=0.005)
    assert run.changed == {"w"}


def test_slice_leaves_the_rest(lsuv: Lsuv) -> None:
    text = f"""{HEAD} g (float[N,4] x) => (float y) <{ints("b", 2)}, {ints("e", 6)}, {ints("a", 0)}>
    {{ k = Slice(w, b, e, a) y = MatMul(x, k) }}"""
    run = lsuv(parse(text, w=normal(10, 7, seed=3)), {"x": normal(64, 4)})
    new, old = run.weight("w"), run.old("w")
    assert orthonormality(blocks_of("MatMul", new[2:6])) < TIGHT
    assert (new[:2] == old[:2]).all()
    assert (new[6:] == old[6:]).all()
    assert not (new[2:6] == old[2:6]).any()
    assert run.result.layers[0].status == "ok"
    assert run.moments("y")[0].var == pytest.approx(1, abs=0.005)


@pytest.mark.parametrize(
    ("split", "constants", "opset"),
    [
        ("Split<axis=0>(w, s)", [ints("s", 4, 3, 3)], 17),
        ("Split<axis=0,split=[4,3,3]>(w)", [], 11),
        ("Split<axis=0,num_outputs=3>(w)", [], 18),
    ],
)
def test_split_gives_several_weights(lsuv: Lsuv, split: str, constants: list[str], opset: int) -> None:
    last = 2 if opset == 18 else 3
    text = f"""<ir_version: 8, opset_import: ["" : {opset}]>
    g (float[N,4] x, float[N,{last}] z) => (float p, float q) <{", ".join(constants)}>
    {{ a, b, c = {split} p = MatMul(x, a) d = Transpose(c) t = Transpose(z) q = MatMul(d, t) }}"""
    run = lsuv(parse(text, w=normal(10, 7, seed=3)), {"x": normal(64, 4), "z": normal(64, last)})
    assert {row.weight for row in run.result.layers} == {"w"}
    assert [row.status for row in run.result.layers] == ["ok", "ok"]
    new, old = run.weight("w"), run.old("w")
    assert orthonormality(blocks_of("MatMul", new[:4])) < TIGHT
    assert orthonormality(blocks_of("MatMul", new[-last:].T, position=0)) < TIGHT
    assert (new[4:-last] == old[4:-last]).all()
    assert [m.var for m in run.moments("p", "q")] == pytest.approx([1, 1], abs=0.005)


def test_equal_parts_are_drawn_apart(lsuv: Lsuv) -> None:
    text = f"""{HEAD} g (float[N,5] x) => (float p, float q) {{
      a, b = Split<axis=0>(w) p = MatMul(x, a) q = MatMul(x, b) }}"""
    run = lsuv(parse(text, w=np.ones((10, 5), np.float32)), {"x": normal(64, 5)})
    new = run.weight("w")
    assert [orthonormality(blocks_of("MatMul", part)) < TIGHT for part in (new[:5], new[5:])] == [True, True]
    assert np.abs(new[:5] - new[5:]).max() > 0.1


def test_parts_cut_by_the_length_of_the_data(lsuv: Lsuv) -> None:
    """As PyTorch's exporter reorders the gates of a recurrent cell where the batch is free."""
    text = f"""{HEAD} g (float[N,8] x) => (float y) <{ints("o", 0)}, {ints("two", 2)}, {ints("three", 3)}>
    {{ e = Shape<start=1,end=2>(x) f = Mul(e, two) h = Mul(e, three)
      p = Slice(w, o, e, o) q = Slice(w, e, f, o) r = Slice(w, f, h, o)
      k = Concat<axis=0>(p, r, q) y = Gemm<transB=1>(x, k) }}"""
    run = lsuv(parse(text, w=np.full((24, 8), 0.5, np.float32)), {"x": normal(64, 8)})
    (row,) = run.result.layers
    assert (row.status, row.weight, row.path) == ("ok", "w", ("Slice", "Concat"))
    assert run.reasons() == {}
    assert orthonormality(blocks_of("Gemm", run.value("k")[0], trans=True)) < TIGHT
    assert run.moments("y")[0].var == pytest.approx(1, abs=0.005)


@pytest.mark.parametrize("joined", ["x, w", "w, x"])
def test_a_weight_joined_with_data_is_tied(lsuv: Lsuv, joined: str) -> None:
    text = f"""{HEAD} g (float[8,8] x) => (float y, float z)
    {{ y = MatMul(x, w) j = Concat<axis=0>({joined}) z = MatMul(j, u) }}"""
    run = lsuv(parse(text, w=np.ones((8, 8), np.float32), u=np.ones((8, 8), np.float32)), {"x": normal(8, 8)})
    assert run.reasons() == {"y": "tied"}
    assert (run.weight("w") == 1).all()


# --------------------------------------------------------------------------------------------------- where values stand


@pytest.mark.parametrize("ir", [3, 8])
def test_initializer_listed_as_input(lsuv: Lsuv, ir: int) -> None:
    head = f'<ir_version: {ir}, opset_import: ["" : 9]>'
    text = f"{head} g (float[N,10] x, float[10,7] w) => (float y) {{ y = MatMul(x, w) }}"
    run = lsuv(parse(text, w=np.ones((10, 7), np.float32)), {"x": normal(64, 10)})
    assert run.result.layers[0].status == "ok"
    assert orthonormality(blocks_of("MatMul", run.weight("w"))) < TIGHT
    assert [v.name for v in run.after.graph.input] == ["x", "w"]
    assert run.moments("y")[0].var == pytest.approx(1, abs=0.005)


@pytest.mark.parametrize("ir", [3, 4, 10])
def test_constant_node_becomes_initializer(lsuv: Lsuv, ir: int) -> None:
    model = parse(f'<ir_version: {ir}, opset_import: ["" : 9]> g (float[N,10] x) => (float y) {{ y = MatMul(x, w) }}')
    tensor = numpy_helper.from_array(np.ones((10, 7), np.float32))
    model.graph.node.insert(0, helper.make_node("Constant", [], ["w"], name="c", value=tensor))
    run = lsuv(model, {"x": normal(64, 10)})
    assert [n.op_type for n in run.after.graph.node] == ["MatMul"]
    assert orthonormality(blocks_of("MatMul", run.weight("w"))) < TIGHT
    assert ("w" in {v.name for v in run.after.graph.input}) == (ir < 4)
    (change,) = run.result.changes
    assert (change.tensor, change.role, change.became_initializer) == ("w", "weight", True)
    onnx.checker.check_model(run.after)


def test_constant_value_floats(lsuv: Lsuv) -> None:
    text = f"{HEAD} g (float[N,3] x) => (float y) {{ w = Constant<value_floats=[1.0,2.0,3.0]>() y = MatMul(x, w) }}"
    run = lsuv(parse(text), {"x": normal(64, 3)})
    assert run.weight("w").shape == (3,)
    assert run.moments("y")[0].var == pytest.approx(1, abs=0.005)


def test_constant_value_float(lsuv: Lsuv) -> None:
    text = f"""{HEAD} g (float[N,1] x) => (float y) <{ints("s", 1, 1)}>
    {{ w = Constant<value_float=0.25>() k = Reshape(w, s) y = MatMul(x, k) }}"""
    run = lsuv(parse(text), {"x": 5 * normal(64, 1)})
    assert run.weight("w").shape == ()
    assert run.moments("y")[0].var == pytest.approx(1, abs=0.005)


@pytest.mark.parametrize("ir", [3, 8])
def test_constant_of_shape(lsuv: Lsuv, ir: int) -> None:
    listed = ", int64[2] s" if ir < 4 else ""
    text = f"""<ir_version: {ir}, opset_import: ["" : 9]> g (float[N,10] x{listed}) => (float y)
    {{ w = ConstantOfShape<value = float[1] {{0.5}}>(s) y = MatMul(x, w) }}"""
    run = lsuv(parse(text, s=np.array([10, 7])), {"x": normal(64, 10)})
    assert orthonormality(blocks_of("MatMul", run.weight("w"))) < TIGHT
    assert [t.name for t in run.after.graph.initializer if t.name == "s"] == ["s"]
    assert run.moments("y")[0].var == pytest.approx(1, abs=0.005)
    assert run.result.changes[0].became_initializer


# --------------------------------------------------------------------------------------------------------- several uses


def test_shared_weight_is_scaled_by_its_first_use(lsuv: Lsuv) -> None:
    text = f"{HEAD} g (float[N,8] x) => (float z) {{ y = MatMul(x, w) r = Relu(y) z = MatMul(r, w) }}"
    model = parse(text, w=np.ones((8, 8), np.float32))
    run = lsuv(model, {"x": normal(64, 8)})
    assert [row.status for row in run.result.layers] == ["ok", "shared"]
    assert run.changed == {"w"}
    y, z = run.moments("y", "z")
    assert y.var == pytest.approx(1, abs=0.005)
    assert abs(z.var - 1) > 0.02
    assert orthonormality(blocks_of("MatMul", run.weight("w"))) < TIGHT
    # The order of nodes in the file says nothing.
    turned = onnx.ModelProto()
    turned.CopyFrom(model)
    del turned.graph.node[:]
    turned.graph.node.extend(reversed(model.graph.node))
    other = lsuv(turned, {"x": normal(64, 8)})
    assert {row.name: row.status for row in other.result.layers} == {"y": "ok", "z": "shared"}
    np.testing.assert_array_equal(other.weight("w"), run.weight("w"))


def test_shared_by_different_operators(lsuv: Lsuv) -> None:
    text = f"""{HEAD} g (float[N,4,5,5] x) => (float z) <{ints("s", 6, 4)}, {ints("f", 0, 4, 25)}>
    {{ y = Conv(x, w) k = Reshape(w, s) t = Reshape(x, f) z = MatMul(k, t) }}"""
    run = lsuv(parse(text, w=np.ones((6, 4, 1, 1), np.float32)), {"x": normal(32, 4, 5, 5)})
    assert [row.status for row in run.result.layers] == ["ok", "shared"]
    assert [m.var for m in run.moments("y", "z")] == pytest.approx([1, 1], abs=0.005)


def test_same_name_in_two_scopes_is_two_weights(lsuv: Lsuv) -> None:
    text = f"""{HEAD} g (float[N,8] x, bool c) => (float z) {{
      a = If<
        then_branch = t () => (float[N,8] y) <float[1] dummy = {{0}}> {{ y = MatMul(x, w) }},
        else_branch = e () => (float[N,8] y) <float[1] dummy = {{0}}> {{ y = MatMul(x, w) }}>(c)
      z = MatMul(a, u) }}"""
    model = parse(text, u=np.ones((8, 8), np.float32))
    for attribute, fill in zip(model.graph.node[0].attribute, (2, 3), strict=True):
        attribute.g.initializer.append(numpy_helper.from_array(np.full((8, 8), fill, np.float32), "w"))
    run = lsuv(model, {"x": normal(64, 8), "c": np.array(True)})
    assert [row.weight for row in run.result.layers] == ["w", "w", "u"]
    assert [row.status for row in run.result.layers] == ["ok", "not-reached", "ok"]
    then, other = (
        numpy_helper.to_array(next(t for t in a.g.initializer if t.name == "w"))
        for a in run.after.graph.node[0].attribute
    )
    assert orthonormality(blocks_of("MatMul", then)) < TIGHT
    assert orthonormality(blocks_of("MatMul", other)) < TIGHT
    assert np.abs(then - other).max() > 0.1
    assert [m.var for m in run.moments("a", "z")] == pytest.approx([1, 1], abs=0.005)


# --------------------------------------------------------------------------------------------------------- left alone

W88 = np.full((8, 8), 0.5, np.float32)
LEFT: dict[str, tuple[str, dict[str, np.ndarray], str]] = {
    # nodes that make `bad` (the value) from x (N, 8) and i (N,); tensors; the reason
    "tied": ("e = Gather(v, i) t = Transpose(v) bad = MatMul(e, t)", {"v": normal(5, 8)}, "tied"),
    "dynamic": ("t = Transpose(x) bad = MatMul(t, x)", {}, "dynamic"),
    "dynamic conv": (
        "m = ReduceMean<axes=[0],keepdims=1>(x) k = Unsqueeze(m, one) j = Unsqueeze(x, one) bad = Conv(j, k)",
        {"one": np.array([1])},
        "dynamic",
    ),
    "computed": ("k = Add(v, u) bad = MatMul(x, k)", {"v": W88, "u": W88}, "computed"),
    "computed by concat": ("c = Exp(u) k = Concat<axis=1>(v, c) bad = MatMul(x, k)", {"v": W88, "u": W88}, "computed"),
    "random": ("k = RandomNormal<shape=[8,8]>() bad = MatMul(x, k)", {}, "random"),
    "constant": ("k = MatMul(v, u) bad = MatMul(x, k)", {"v": W88, "u": W88}, "constant"),
    "MatMulInteger": ("q = Cast<to=2>(x) bad = MatMulInteger(q, v)", {"v": np.ones((8, 4), np.uint8)}, "quantised"),
    "DequantizeLinear": (
        "k = DequantizeLinear(v, s) bad = MatMul(x, k)",
        {"v": np.ones((8, 4), np.int8), "s": np.float32(0.1)},
        "quantised",
    ),
    "QLinearConv": (
        "j = Unsqueeze(x, one) q = QuantizeLinear(j, s, o) bad = QLinearConv(q, s, o, v, s, o, s, o)",
        {"one": np.array([2]), "s": np.float32(0.1), "o": np.uint8(0), "v": np.ones((4, 8, 1), np.uint8)},
        "quantised",
    ),
    "integers": ("q = Cast<to=6>(x) bad = MatMul(q, v)", {"v": np.ones((8, 4), np.int32)}, "type"),
    "empty": ("bad = MatMul(x, v)", {"v": np.ones((8, 0), np.float32)}, "empty"),
    "overlap": (
        "k = Slice(v, a, b) l = Slice(v, a, c) bad = MatMul(x, k) other = MatMul(x, l)",
        {"v": np.ones((8, 8), np.float32), "a": np.array([0, 0]), "b": np.array([8, 4]), "c": np.array([8, 6])},
        "tied",
    ),
}


@pytest.mark.parametrize("case", LEFT)
def test_left_alone(lsuv: Lsuv, case: str) -> None:
    nodes, tensors, reason = LEFT[case]
    text = f"{HEAD} g (float[N,8] x, int64[N] i) => (float y, bad) {{ {nodes} y = MatMul(x, w) }}"
    if "(v, i)" not in nodes:
        text = text.replace(", int64[N] i", "")
    model = parse(text, {**tensors, "w": W88})
    batch = {"x": normal(64, 8), "i": np.arange(64) % 5}
    run = lsuv(model, {k: v for k, v in batch.items() if k in {i.name for i in model.graph.input}})
    assert [row.name for row in run.result.layers] == ["y"]
    assert run.result.layers[0].status == "ok"
    assert run.result.good
    assert run.changed == {"w"}
    name = "k" if case == "constant" else "bad"
    assert run.reasons()[name] == reason
    (row,) = (row for row in run.result.skipped if row.name == name)
    assert row.detail
    assert row.reason in REASONS
    assert row.weight in {"constant": ("v", "u"), "integers": ("v",), "empty": ("v",), "overlap": ("v",)}.get(
        case, ("v", None)
    )


def test_sparse_weight_is_left(lsuv: Lsuv) -> None:
    text = f"{HEAD} g (float[N,8] x) => (float y, float bad) {{ bad = MatMul(x, v) y = MatMul(x, w) }}"
    model = parse(text, w=W88)
    sparse = model.graph.sparse_initializer.add()
    sparse.values.CopyFrom(numpy_helper.from_array(np.ones(3, np.float32), "v"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.array([0, 9, 18]), "v_indices"))
    sparse.dims.extend([8, 4])
    run = lsuv(model, {"x": normal(64, 8)})
    assert run.reasons() == {"bad": "sparse"}
    assert run.result.layers[0].status == "ok"


@pytest.mark.parametrize("pattern", ["first", "w1", "f*", "?1"])
def test_excluded_by_node_or_weight(lsuv: Lsuv, pattern: str) -> None:
    text = f"{HEAD} g (float[N,8] x) => (float z) {{ y = MatMul(x, w1) z = MatMul(y, w2) }}"
    model = parse(text, w1=W88, w2=W88)
    model.graph.node[0].name = "first"
    run = lsuv(model, {"x": normal(64, 8)}, exclude=[pattern])
    assert run.reasons() == {"first": "excluded"}
    assert run.changed == {"w2"}
    only = lsuv(model, {"x": normal(64, 8)}, include=[pattern])
    assert only.reasons() == {"z": "excluded"}
    assert only.changed == {"w1"}


def test_nothing_to_do_names_the_reasons(lsuv: Lsuv) -> None:
    model = parse(
        f"{HEAD} g (float[N,8] x) => (float y) {{ k = DequantizeLinear(v, s) y = MatMul(x, k) }}",
        v=np.ones((8, 4), np.int8),
        s=np.float32(0.1),
    )
    with pytest.raises(ModelError, match=r"nothing to initialise.*1 x MatMul.*DequantizeLinear.*float model"):
        lsuv(model, {"x": normal(8, 8)})
    empty = parse(f"{HEAD} g (float[N,8] x) => (float y) {{ y = Relu(x) }}")
    with pytest.raises(ModelError, match=r"nothing to initialise.*no linear layer"):
        lsuv(empty, {"x": normal(8, 8)})
    with pytest.raises(ModelError, match=r"nothing to measure.*no linear layer"):
        measure(from_proto(empty), {"x": normal(8, 8)})


# --------------------------------------------------------------------------------------------------------------- biases

B = np.arange(7, dtype=np.float32) + 1


@pytest.mark.parametrize(
    "nodes",
    [
        "y = Gemm(x, w, b)",
        "m = MatMul(x, w) y = Add(m, b)",
        "m = MatMul(x, w) y = Add(b, m)",
        "m = MatMul(x, w) k = Identity(b) y = Add(m, k)",
        "y = Gemm<beta=0.5>(x, w, b)",
    ],
)
def test_bias_becomes_zero(lsuv: Lsuv, nodes: str) -> None:
    text = f"{HEAD} g (float[N,10] x) => (float y) {{ {nodes} }}"
    run = lsuv(parse(text, w=np.ones((10, 7), np.float32), b=B), {"x": normal(64, 10)})
    assert run.changed == {"w", "b"}
    assert not run.weight("b").any()
    assert {c.tensor: c.role for c in run.result.changes} == {"w": "weight", "b": "bias"}
    assert run.result.layers[0].status == "ok"
    assert run.moments("y")[0].var == pytest.approx(1, abs=0.005)


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_bias_of_convolutions(lsuv: Lsuv, op: str) -> None:
    shape = (7, 3, 2) if op == "Conv" else (3, 7, 2)
    text = f"{HEAD} g (float[N,3,9] x) => (float y) {{ y = {op}(x, w, b) }}"
    run = lsuv(parse(text, w=np.ones(shape, np.float32), b=B), {"x": normal(32, 3, 9)})
    assert not run.weight("b").any()
    assert run.moments("y")[0].var == pytest.approx(1, abs=0.005)


def test_bias_shared_by_two_layers_becomes_zero(lsuv: Lsuv) -> None:
    text = f"{HEAD} g (float[N,7] x) => (float z) {{ y = Gemm(x, w, b) m = MatMul(y, v) z = Add(m, b) }}"
    run = lsuv(parse(text, w=np.ones((7, 7), np.float32), v=np.ones((7, 7), np.float32), b=B), {"x": normal(64, 7)})
    assert run.changed == {"w", "v", "b"}
    assert not run.weight("b").any()
    assert [m.var for m in run.moments("y", "z")] == pytest.approx([1, 1], abs=0.005)


SMALL = (np.arange(7, dtype=np.float32) - 3) / 8
KEPT = {
    "read by something else": ("y = Gemm(x, w, b) z = Mul(y, b)", {"b": SMALL}),
    "read by something else, Add": ("m = MatMul(x, w) y = Add(m, b) z = Mul(y, b)", {"b": SMALL}),
    "computed": ("k = Tanh(b) y = Gemm(x, w, k) z = Identity(y)", {"b": SMALL}),
    "computed, Conv": (
        "j = Unsqueeze(x, one) k = Tanh(b) y = Conv(j, c, k) z = Identity(y)",
        {"b": SMALL, "one": np.array([2]), "c": np.ones((7, 10, 1), np.float32)},
    ),
    "dynamic": ("k = ReduceMean<axes=[1],keepdims=1>(x) y = Gemm(x, w, k) z = Identity(y)", {}),
    "beta": ("y = Gemm<beta=0.5>(x, w, b) z = Mul(y, b)", {"b": 2 * SMALL}),
    "alpha and beta": ("y = Gemm<alpha=3.0,beta=-1.5>(x, w, b) z = Mul(y, b)", {"b": SMALL}),
}


@pytest.mark.parametrize("opset", [9, 17])
@pytest.mark.parametrize("case", KEPT)
def test_bias_that_stays(lsuv: Lsuv, case: str, opset: int) -> None:
    nodes, tensors = KEPT[case]
    if opset == 9:
        if "computed, Conv" in case:
            nodes = nodes.replace("Unsqueeze(x, one)", "Unsqueeze<axes=[2]>(x)")
            tensors = {k: v for k, v in tensors.items() if k != "one"}
        nodes = nodes.replace("Identity", "Relu")
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[N,10] x) => (float z) {{ {nodes} }}'
    weights = {} if "c" in tensors else {"w": np.ones((10, 7), np.float32)}
    run = lsuv(parse(text, {**tensors, **weights}), {"x": normal(256, 10)})
    assert run.changed == ({"c"} if "c" in tensors else {"w"})
    assert run.result.layers[0].status == "ok"
    # The closed form: with what is added, the variance is the target.
    assert run.moments("y")[0].var == pytest.approx(1, abs=0.005)


def test_residual_is_no_bias(lsuv: Lsuv) -> None:
    text = f"{HEAD} g (float[N,8] x) => (float y) {{ m = MatMul(x, w) y = Add(m, x) }}"
    run = lsuv(parse(text, w=W88), {"x": normal(64, 8)})
    assert run.moments("m")[0].var == pytest.approx(1, abs=0.005)


def test_matrix_constant_is_no_bias(lsuv: Lsuv) -> None:
    # A position embedding: it stays, and the layer is measured before it.
    text = f"{HEAD} g (float[N,5,8] x) => (float y) {{ m = MatMul(x, w) y = Add(m, p) }}"
    run = lsuv(parse(text, w=W88, p=normal(5, 8)), {"x": normal(16, 5, 8)})
    assert run.changed == {"w"}
    assert run.moments("m")[0].var == pytest.approx(1, abs=0.005)


def test_bias_that_is_an_output_stays(lsuv: Lsuv) -> None:
    text = f"{HEAD} g (float[N,10] x) => (float y, float[7] b) {{ y = Gemm(x, w, b) }}"
    run = lsuv(parse(text, w=np.ones((10, 7), np.float32), b=SMALL), {"x": normal(64, 10)})
    assert run.moments("y")[0].var == pytest.approx(1, abs=0.005)


# ---------------------------------------------------------------------------------------------------- scopes, functions


def test_loop_body(lsuv: Lsuv) -> None:
    text = f"""{HEAD} g (float[N,8] x) => (float z) <int64 n = {{3}}, bool t = {{1}}> {{
      y = Loop<body = b (int64 i, bool c, float[N,8] s) => (bool d, float[N,8] r) {{
        d = Identity(c) m = MatMul(s, w) r = Tanh(m) }}>(n, t, x)
      z = MatMul(y, u) }}"""
    run = lsuv(parse(text, w=W88, u=W88), {"x": normal(64, 8)})
    assert {row.weight: row.status for row in run.result.layers} == {"w": "ok", "u": "ok"}
    assert [m.var for m in run.moments("m", "z")] == pytest.approx([1, 1], abs=0.005)
    assert orthonormality(blocks_of("MatMul", run.weight("w"))) < TIGHT


@pytest.mark.parametrize("ir", [3, 10])
def test_constant_in_a_body(lsuv: Lsuv, ir: int) -> None:
    # Below IR version 4 a body's initializers would have to be its inputs, so the Constant keeps its place.
    text = f"""<ir_version: {ir}, opset_import: ["" : 11]> g (float[N,3] x, bool c) => (float y) {{
      y = If<
        then_branch = t () => (float[N,3] p) {{
          w = Constant<value = float[3,3] {{1,2,3,4,5,6,7,8,9}}>() p = MatMul(x, w) }},
        else_branch = e () => (float[N,3] q) {{ q = Identity(x) }}>(c) }}"""
    run = lsuv(parse(text), {"x": normal(64, 3), "c": np.array(True)})
    (change,) = run.result.changes
    assert (change.tensor, change.became_initializer) == ("w", ir >= 4)
    body = run.after.graph.node[0].attribute[0].g
    assert [n.op_type for n in body.node] == (["MatMul"] if ir >= 4 else ["Constant", "MatMul"])
    stored = body.initializer[0] if ir >= 4 else body.node[0].attribute[0].t
    assert orthonormality(blocks_of("MatMul", numpy_helper.to_array(stored))) < TIGHT
    assert run.moments("p")[0].var == pytest.approx(1, abs=0.005)
    assert run.result.layers[0].status == "ok"


def test_loop_that_never_runs(lsuv: Lsuv) -> None:
    text = f"""{HEAD} g (float[N,8] x) => (float z) <int64 n = {{0}}, bool t = {{1}}> {{
      y = Loop<body = b (int64 i, bool c, float[N,8] s) => (bool d, float[N,8] r) {{
        d = Identity(c) r = MatMul(s, w) }}>(n, t, x)
      z = MatMul(y, u) }}"""
    run = lsuv(parse(text, w=W88, u=W88), {"x": normal(64, 8)})
    assert {row.weight: row.status for row in run.result.layers} == {"w": "not-reached", "u": "ok"}
    assert orthonormality(blocks_of("MatMul", run.weight("w"))) < TIGHT
    assert run.result.good


def test_scan_body_with_its_own_weight(lsuv: Lsuv) -> None:
    text = f"""{HEAD} g (float[6,8] h, float[5,6,8] x) => (float z) {{
      last, y = Scan<num_scan_inputs=1, body = b (float[6,8] s, float[6,8] e) => (float[6,8] r, float[6,8] o) {{
        m = MatMul(e, w) p = MatMul(s, u) q = Add(m, p) r = Tanh(q) o = Identity(r) }}>(h, x)
      z = MatMul(y, v) }}"""
    run = lsuv(parse(text, w=W88, u=W88, v=W88), {"h": np.zeros((6, 8), np.float32), "x": normal(5, 6, 8)})
    assert {row.weight: row.status for row in run.result.layers} == {"w": "ok", "u": "ok", "v": "ok"}
    # The state is zero at first, so the recurrent weight is scaled by the second step.
    assert [m.var for m in run.moments("m", "p", "z")] == pytest.approx([1, 1, 1], abs=0.005)


def test_weight_shared_by_a_branch_and_the_main_graph(lsuv: Lsuv) -> None:
    text = f"""{HEAD} g (float[N,8] x, bool c) => (float z) {{
      a = If<
        then_branch = t () => (float[N,8] p) {{ p = MatMul(x, w) }},
        else_branch = e () => (float[N,8] q) {{ q = Identity(x) }}>(c)
      z = MatMul(a, w) }}"""
    model = parse(text, w=W88)
    run = lsuv(model, {"x": normal(64, 8), "c": np.array(True)})
    assert run.moments("p")[0].var == pytest.approx(1, abs=0.005)
    # Where the branch is not taken, the main graph's use is the first.
    other = lsuv(model, {"x": 3 * normal(64, 8), "c": np.array(False)})
    assert other.moments("z")[0].var == pytest.approx(1, abs=0.005)
    assert other.result.good


FUNCTION = '<domain: "f", opset_import: ["" : {opset}]> dense ({formals}) => (y) {{ {nodes} }}'


@pytest.mark.parametrize("opset", [17, 13])
def test_function_with_the_weight_as_argument(lsuv: Lsuv, opset: int) -> None:
    text = f"""{HEAD} g (float[N,8] x) => (float z) {{ a = f.dense(x, w) b = Relu(a) z = f.dense(b, v) }}
    {FUNCTION.format(opset=opset, formals="x, w", nodes="y = MatMul(x, w)")}"""
    run = lsuv(parse(text, w=W88, v=W88), {"x": normal(64, 8)})
    assert {row.weight: row.status for row in run.result.layers} == {"w": "ok", "v": "ok"}
    assert [m.var for m in run.moments("a", "z")] == pytest.approx([1, 1], abs=0.005)
    for name in ("w", "v"):
        assert orthonormality(blocks_of("MatMul", run.weight(name))) < TIGHT


@pytest.mark.parametrize("opset", [17, 13])
def test_function_called_twice_with_a_constant_in_its_body(lsuv: Lsuv, opset: int) -> None:
    body = "w = Constant<value = float[3,3] {1,2,3,4,5,6,7,8,9}>() y = MatMul(x, w)"
    text = f"""{HEAD} g (float[N,3] x) => (float z) {{ a = f.dense(x) b = Relu(a) z = f.dense(b) }}
    {FUNCTION.format(opset=opset, formals="x", nodes=body)}"""
    run = lsuv(parse(text), {"x": normal(64, 3)})
    assert [row.status for row in run.result.layers] == ["ok", "shared"]
    (change,) = run.result.changes
    assert (change.tensor, change.became_initializer) == ("w", False)
    assert run.moments("a")[0].var == pytest.approx(1, abs=0.005)
    stored = numpy_helper.to_array(run.after.functions[0].node[0].attribute[0].t)
    assert orthonormality(blocks_of("MatMul", stored)) < TIGHT
    assert len({row.name for row in run.result.layers}) == 2


def test_function_with_a_bias_and_attributes(lsuv: Lsuv) -> None:
    text = f"""{HEAD} g (float[N,8] x) => (float z) {{ z = f.dense<t=1>(x, w, c) }}
    <domain: "f", opset_import: ["" : 17]> dense <t> (x, w, b) => (y) {{ y = Gemm<transB: int = @t>(x, w, b) }}"""
    run = lsuv(parse(text, w=np.ones((7, 8), np.float32), c=B), {"x": normal(64, 8)})
    assert run.changed == {"w", "c"}
    assert (run.result.layers[0].fan_out, run.result.layers[0].fan_in) == (7, 8)
    assert run.moments("z")[0].var == pytest.approx(1, abs=0.005)


def test_product_and_its_add_in_different_functions(lsuv: Lsuv) -> None:
    text = f"""{HEAD} g (float[N,8] x) => (float z) {{ m = f.dense(x, w) z = f.plus(m, c) }}
    <domain: "f", opset_import: ["" : 17]> dense (x, w) => (y) {{ y = MatMul(x, w) }}
    <domain: "f", opset_import: ["" : 17]> plus (x, b) => (y) {{ y = Add(x, b) }}"""
    run = lsuv(parse(text, w=normal(8, 7), c=B), {"x": normal(64, 8)})
    assert run.changed == {"w", "c"}
    assert not run.weight("c").any()
    assert run.moments("z")[0].var == pytest.approx(1, abs=0.005)


def test_nodes_out_of_order(lsuv: Lsuv) -> None:
    text = f"{HEAD} g (float[N,8] x) => (float z) {{ y = MatMul(x, w) r = Tanh(y) z = MatMul(r, v) }}"
    model = parse(text, w=W88, v=W88)
    turned = onnx.ModelProto()
    turned.CopyFrom(model)
    del turned.graph.node[:]
    turned.graph.node.extend(model.graph.node[i] for i in (2, 0, 1))
    run, other = lsuv(model, {"x": normal(64, 8)}), lsuv(turned, {"x": normal(64, 8)})
    assert [row.name for row in other.result.layers] == ["y", "z"]
    assert [m.var for m in other.moments("y", "z")] == pytest.approx([1, 1], abs=0.005)
    for name in ("w", "v"):
        np.testing.assert_array_equal(run.weight(name), other.weight(name))


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ("y = MatMul(q, w) q = Relu(y)", "cycle|before it"),
        ("y = MatMul(nowhere, w)", "nowhere"),
        ("z = MatMul(x, w)", "'y'"),
    ],
)
def test_broken_graphs_are_named(lsuv: Lsuv, nodes: str, words: str) -> None:
    model = parse(f"{HEAD} g (float[N,8] x) => (float y) {{ {nodes} }}", w=W88)
    with pytest.raises(ModelError, match=words):
        lsuv(model, {"x": normal(8, 8)})


def test_row_says_how_the_weight_was_made(lsuv: Lsuv) -> None:
    model = one_layer("MatMul(x, w)", W88, (64, 8))
    row = lsuv(model, {"x": normal(64, 8)}).result.layers[0]
    assert row.scope == "main"
    assert row.init == "orthonormal"
    assert row.std_drawn is not None
    assert row.scale == pytest.approx(1 / row.std_drawn)


def test_tensor_that_is_a_weight_here_and_a_bias_there(lsuv: Lsuv) -> None:
    text = f"{HEAD} g (float[N,8] x) => (float y, float z) {{ y = MatMul(x, v) z = Gemm(x, w, v) }}"
    run = lsuv(parse(text, v=0.1 * normal(8), w=W88), {"x": normal(64, 8)})
    assert run.reasons() == {"y": "tied"}
    assert run.changed == {"w"}
    assert run.moments("z")[0].var == pytest.approx(1, abs=0.005)


def test_bias_of_an_excluded_layer_stays(lsuv: Lsuv) -> None:
    text = f"{HEAD} g (float[N,7] x) => (float z) {{ y = Gemm(x, w, b) m = MatMul(y, v) z = Add(m, b) }}"
    model = parse(text, w=normal(7, 7), v=normal(7, 7), b=SMALL)
    run = lsuv(model, {"x": normal(64, 7)}, exclude=["w"])
    assert run.changed == {"v"}
    assert run.moments("z")[0].var == pytest.approx(1, abs=0.005)


def test_weight_handed_out_as_an_output(lsuv: Lsuv) -> None:
    text = f"{HEAD} g (float[N,8] x) => (float y, float[8,8] w) {{ y = MatMul(x, w) }}"
    run = lsuv(parse(text, w=W88), {"x": normal(64, 8)})
    assert run.moments("y")[0].var == pytest.approx(1, abs=0.005)


def test_weight_whose_shape_is_read(lsuv: Lsuv) -> None:
    text = f"{HEAD} g (float[N,8] x) => (float y, int64[2] s) {{ y = MatMul(x, w) s = Shape(w) }}"
    run = lsuv(parse(text, w=W88), {"x": normal(64, 8)})
    assert run.changed == {"w"}
    assert run.result.good


def test_both_operands_of_an_add_are_layers(lsuv: Lsuv) -> None:
    text = f"{HEAD} g (float[N,8] x) => (float y) {{ a = MatMul(x, w) b = MatMul(x, v) y = Add(a, b) }}"
    run = lsuv(parse(text, w=W88, v=W88), {"x": normal(64, 8)})
    assert run.changed == {"w", "v"}
    assert [m.var for m in run.moments("a", "b")] == pytest.approx([1, 1], abs=0.005)


def test_subtracted_constant_stays(lsuv: Lsuv) -> None:
    text = f"{HEAD} g (float[N,8] x) => (float y) {{ a = MatMul(x, w) y = Sub(a, b) }}"
    run = lsuv(parse(text, w=W88, b=normal(8)), {"x": normal(64, 8)})
    assert "w" in run.changed
    assert run.moments("a")[0].var == pytest.approx(1, abs=0.005) or "b" in run.changed
