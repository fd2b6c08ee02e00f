"""The role of each constant that keeps its values: what reads it, its place, or its values tell."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper
from oracle import normal, parse

import onnx_lsuv
from onnx_lsuv.layers import find_layers
from onnx_lsuv.program import expand
from onnx_lsuv.roles import FATES, ROLES

HEAD = '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1, "acme" : 1]>'
SINES = np.sin(np.arange(20)[:, None] / 10000 ** (np.arange(16) / 16)).astype(np.float32)
MASK = np.triu(np.full((8, 8), -1e9, np.float32), 1)
BLUR = np.outer([1, 2, 1], [1, 2, 1]).astype(np.float32)[None, None] / 16


def roles_of(model: ModelProto) -> dict[str, tuple[str, str, str]]:
    plan = find_layers(expand(onnx_lsuv.from_proto(model)))
    assert all(role.role in ROLES and role.fate in FATES and role.evidence for role in plan.roles.values())
    return {name: (role.role, role.evidence, role.fate) for name, role in plan.roles.items()}


CASES = {
    "what a weight of each kind that is left alone is": (
        """(float[N,8] x, int64[N] i) => (float y) {
        h = Gather(tied, i) a = MatMul(x, w) b = Add(a, h) u = Transpose<perm = [1, 0]>(tied) y = MatMul(b, u) }""",
        {"tied": normal(20, 8), "w": normal(8, 8)},
        {"tied": ("embedding", "place", "kept"), "w": ("weight", "product", "drawn")},
    ),
    "a quantised weight, its step and its zero point": (
        """(float[N,8] x) => (float y) { w = DequantizeLinear(q, s, z) a = MatMul(x, w) y = MatMul(a, v) }""",
        {"q": np.ones((8, 8), np.int8), "s": np.float32(0.1), "z": np.int8(0), "v": normal(8, 8)},
        {
            "q": ("weight", "product", "kept"),
            "s": ("setting", "operand", "kept"),
            "z": ("setting", "type", "kept"),
            "v": ("weight", "product", "drawn"),
        },
    ),
    "a quantised weight in blocks": (
        """(float[N,8] x) => (float y) {
        y = com.microsoft.MatMulNBits<K = 8, N = 8, bits = 4, block_size = 16>(x, q, s) }""",
        {"q": np.ones((8, 1, 8), np.uint8), "s": normal(8)},
        {"q": ("weight", "product", "kept"), "s": ("step", "operand", "kept")},
    ),
    "a weight that a node of another domain rounds, with the number of its bits": (
        """(float[N,8] x) => (float y) { w = acme.Quant(v, s, bits) y = MatMul(x, w) }""",
        {"v": normal(8, 8), "s": normal(1).reshape(()), "bits": np.float32(4)},
        {"v": ("weight", "product", "kept"), "s": ("weight", "product", "kept"), "bits": ("setting", "number", "kept")},
    ),
    "low-rank adaptation": (
        """(float[N,8] x) => (float y) { d = MatMul(b, a) s = Add(w, d) y = MatMul(x, s) }""",
        {"w": normal(8, 8), "b": normal(8, 2), "a": normal(2, 8)},
        {"w": ("weight", "product", "drawn"), "b": ("weight", "product", "kept"), "a": ("weight", "product", "kept")},
    ),
    "weight normalisation, and a mask": (
        """(float[N,8] x) => (float y) {
        n = ReduceL2<axes = [0]>(v) u = Div(v, n) w = Mul(g, u) a = MatMul(x, w) m = Mul(k, t) y = MatMul(a, m) }""",
        {"v": normal(8, 8), "g": normal(1, 8), "k": np.tril(np.ones((8, 8), np.float32)), "t": normal(8, 8)},
        {
            "v": ("weight", "product", "drawn"),
            "g": ("weight", "product", "scaled"),
            "k": ("fixed", "values", "kept"),
            "t": ("weight", "product", "drawn"),
        },
    ),
    "what normalises the input, and what decodes the output": (
        """(float[N,8] x) => (float y) {
        c = Sub(x, mean) n = Div(c, std) a = MatMul(n, w) b = Mul(a, strides) d = Mul(b, gains) y = Div(d, number) }""",
        {
            "mean": normal(8),
            "std": normal(8),
            "w": normal(8, 8),
            "strides": np.float32([8, 8, 16, 16, 32, 32, 64, 64]),
            "gains": normal(8),
            "number": np.float32(0.3),
        },
        {
            "mean": ("fixed", "place", "kept"),
            "std": ("fixed", "place", "kept"),
            "w": ("weight", "product", "drawn"),
            "strides": ("fixed", "values", "kept"),
            "gains": ("unknown", "none", "kept"),
            "number": ("setting", "number", "kept"),
        },
    ),
    "tables that are computed, or start at zero": (
        """(float[N,8,16] x) => (float y) {
        a = MatMul(x, w) b = Add(a, sines) c = MatMul(b, u) d = Add(c, zeros) t = Concat<axis = 1>(d, token)
        e = MatMul(t, v) f = Mul(e, small) y = MatMul(f, z) }""",
        {
            "w": normal(16, 16),
            "sines": SINES[:8],
            "u": normal(16, 16),
            "zeros": np.zeros((1, 8, 16), np.float32),
            "token": np.zeros((1, 1, 16), np.float32),
            "v": normal(16, 16),
            "small": np.full(16, 1e-6, np.float32),
            "z": normal(16, 16),
        },
        {
            "sines": ("fixed", "values", "kept"),
            "zeros": ("embedding", "place", "kept"),
            "token": ("token", "place", "kept"),
            "small": ("scale", "place", "kept"),
        },
    ),
    "sizes that are joined": (
        """(float[N,4,8,8] x) => (float y) { a = Conv(x, w) s = Concat<axis = 0>(ones, twos) none = Identity(empty)
        b = Resize(a, none, s) y = Conv(b, u) }""",
        {
            **{"w": normal(4, 4, 1, 1), "u": normal(4, 4, 1, 1), "empty": np.zeros(0, np.float32)},
            **{"ones": np.ones(2, np.float32), "twos": np.full(2, 2, np.float32)},
        },
        {"ones": ("setting", "operand", "kept"), "twos": ("setting", "operand", "kept")},
    ),
    "a number whose type others take": (
        """(float[N,8] x) => (float y) { a = MatMul(x, w) s = Exp(log) k = Mul(a, s) h = CastLike(half, log)
        g = Mul(k, h) i = CastLike(half, s) j = Mul(g, i) y = MatMul(j, u) }""",
        {"w": normal(8, 8), "u": normal(8, 8), "log": np.float32([0.123456, 0.2345678]), "half": np.float64(0.5)},
        {"log": ("unknown", "none", "kept")},
    ),
    "places before a recurrent layer, whose steps come first": (
        """(int64[N,7] i) => (float y) { e = Gather(t, i) h = Add(e, places) s = Transpose<perm = [1, 0, 2]>(h)
        y = GRU<hidden_size = 12>(s, w, r) }""",
        {"t": normal(20, 10), "places": normal(7, 10), "w": normal(1, 36, 10), "r": normal(1, 36, 12)},
        {"places": ("embedding", "place", "kept")},
    ),
    "a mask, bounds, axes and one that is unused": (
        """(float[N,8,8] x) => (float y) { a = MatMul(x, w) m = Add(a, mask) s = Softmax(m) c = Clip(s, low, high)
        r = Reshape(c, shape) y = MatMul(r, u) }""",
        {
            "w": normal(8, 8),
            "mask": MASK,
            "low": np.float32(0.1),
            "high": np.float32(0.9),
            "shape": np.int64([-1, 8]),
            "u": normal(8, 8),
            "lonely": normal(8, 8),
        },
        {
            "mask": ("fixed", "values", "kept"),
            "low": ("setting", "operand", "kept"),
            "high": ("setting", "operand", "kept"),
            "shape": ("setting", "type", "kept"),
            "lonely": ("unknown", "unused", "kept"),
        },
    ),
    "norms that are written out": (
        """(float[N,8] x) => (float y) {
        a = MatMul(x, w) m = ReduceMean<axes = [-1]>(a) d = Sub(a, m) q = Mul(d, d) v = ReduceMean<axes = [-1]>(q)
        e = Add(v, eps) r = Sqrt(e) n = Div(d, r) g = Mul(n, gamma) h = Add(g, beta) y = MatMul(h, u) }""",
        {"w": normal(8, 8), "eps": np.float32(1e-5), "gamma": normal(8), "beta": normal(8), "u": normal(8, 8)},
        {"eps": ("setting", "number", "kept"), "gamma": ("scale", "norm", "kept"), "beta": ("shift", "norm", "kept")},
    ),
    "a group norm as the dynamo exporter writes it": (
        """(float[N,4,6] x) => (float y) { a = Conv(x, w) r = Reshape(a, groups) i = InstanceNormalization(r, one, zero)
        o = Shape(a) n = Reshape(i, o) g = Unsqueeze(gamma, axes) gl = CastLike(g, n) m = Mul(n, gl)
        b = Unsqueeze(beta, axes) bl = CastLike(b, m) k = Add(m, bl) y = Conv(k, u) }""",
        {
            **{"w": normal(8, 4, 3), "u": normal(4, 8, 3), "groups": np.int64([0, 2, -1]), "axes": np.int64([1])},
            **{"one": np.ones(2, np.float32), "zero": np.zeros(2, np.float32), "gamma": normal(8), "beta": normal(8)},
        },
        {"gamma": ("scale", "norm", "kept"), "beta": ("shift", "norm", "kept")},
    ),
    "a bias of one output": (
        """(float[N,8] x) => (float y) {
        a = MatMul(x, w) b = Add(a, one) r = Relu(b) c = Mul(a, r) y = MatMul(c, u) }""",
        {"w": normal(8, 1), "one": np.float32([0.5]), "u": normal(1, 4)},
        {"one": ("bias", "place", "kept")},
    ),
    "what has no values": (
        """(float[N,0] x, int64[K] i) => (float y) {
        h = Gather(t, i) m = Mul(x, s) a = MatMul(m, w) n = Add(a, h) k = Mul(n, g) y = MatMul(k, u) }""",
        {
            **{"s": np.zeros(0, np.float32), "w": np.zeros((0, 8), np.float32), "u": normal(8, 4)},
            **{"t": np.zeros((4, 0), np.float32), "g": np.zeros((0, 1), np.float32)},
        },
        {"s": ("setting", "number", "kept"), "w": ("weight", "product", "kept"), "t": ("embedding", "place", "kept")},
    ),
    "a blur": (
        """(float[N,1,8,8] x) => (float y) { a = Conv(x, k) y = Conv(a, w) }""",
        {"k": BLUR, "w": normal(4, 1, 3, 3)},
        {"k": ("fixed", "blur kernel", "kept"), "w": ("weight", "product", "drawn")},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_role_of_what_is_kept(case: str) -> None:
    text, tensors, expected = CASES[case]
    found = roles_of(parse(f"{HEAD} g {text.replace('<axes', '<keepdims = 1, axes')}", tensors))
    assert {name: found[name] for name in expected} == expected


def test_a_fixed_transform_is_one_too_where_the_user_leaves_it_out() -> None:
    model = onnx_lsuv.from_proto(parse(f"{HEAD} g {CASES['a blur'][0]}", CASES["a blur"][1]))
    plan = onnx_lsuv.plan(model, exclude=["k"])
    assert [(row.tensor, row.role, row.evidence) for row in plan.roles[:1]] == [("k", "fixed", "blur kernel")]
    assert [row.reason for row in plan.skipped] == ["excluded"]
    drawn = onnx_lsuv.plan(model, include=["*"])
    assert [(row.tensor, row.role, row.fate) for row in drawn.roles[:1]] == [("k", "weight", "drawn")]


def test_fates_follow_the_settings() -> None:
    text = f"{HEAD} g (float[N,8] x) => (float y) {{ a = Gemm(x, w, b) y = Gemm(a, u, c) }}"
    model = onnx_lsuv.from_proto(parse(text, w=normal(8, 8), b=normal(8), u=normal(8, 8), c=normal(8)))

    def fates(**choices: object) -> list[str]:
        return [row.fate for row in onnx_lsuv.plan(model, **choices).roles]  # type: ignore[arg-type]

    assert fates() == ["drawn", "zero", "drawn", "zero"]
    assert fates(center=True) == ["drawn", "centred", "drawn", "centred"]
    assert fates(init="keep") == ["scaled", "zero", "scaled", "zero"]
    assert fates(init="keep", rescale=False) == ["kept", "zero", "kept", "zero"]
    assert fates(keep_bias=True, exclude=["u"]) == ["drawn", "kept", "kept", "kept"]
    measured = onnx_lsuv.measure(model, {"x": normal(64, 8)})
    assert {row.fate for row in measured.roles} == {"kept"}


def test_roles_in_scopes_have_their_names_and_scopes() -> None:
    inner = parse(f"{HEAD} g (float[N,8] x) => (float y) {{ y = Gemm(x, w, b) }}", w=normal(8, 8), b=normal(8)).graph
    branches = {}
    for name in ("then_branch", "else_branch"):
        branch = helper.make_graph(inner.node, name, [], inner.output, inner.initializer)
        branches[name] = branch
    node = helper.make_node("If", ["c"], ["z"], name="if", **branches)
    graph = helper.make_graph(
        [node],
        "g",
        [
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8]),
        ],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])
    rows = onnx_lsuv.plan(onnx_lsuv.from_proto(model)).roles
    assert [(row.tensor, row.role, row.dims) for row in rows] == 2 * [("w", "weight", (8, 8)), ("b", "bias", (8,))]
    assert {row.scope for row in rows} == {"main/if.then_branch", "main/if.else_branch"}
