"""The models that are broken: the samples, and small ones of everything that is read in a way of its own."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
from google.protobuf.message import DecodeError
from onnx import ModelProto, numpy_helper

ROOT = Path(__file__).resolve().parents[2]
HEAD = '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1, "f" : 1]>'
FUNCTION = """
<domain: "f", opset_import: ["" : 17]>
Dense (a, w) => (c) { b = MatMul(a, w) s = Constant<value_floats = [0.5]>() c = Mul(b, s) }
"""
# Texts, with the shapes of their tensors; one of whole numbers gives these as int64.
SMALL: dict[str, tuple[str, dict[str, tuple[int, ...] | list[int]]]] = {
    "conv": (
        """g (float[N,3,8,8] x) => (float[N,k] z) {
        y = Conv<pads=[1,1,1,1]>(x, w, b) n = BatchNormalization(y, s, t, m, v) r = Relu(n)
        p = ConvTranspose<group=2>(r, u) f = Flatten(p) z = Gemm<transB=1>(f, q, c) }""",
        {"w": (8, 3, 3, 3), "b": (8,), "s": (8,), "t": (8,), "m": (8,), "v": (8,), "u": (8, 2, 2, 2), "q": (5, 324),
         "c": (5,)},
    ),
    "moves": (
        """g (float[N,16] x) => (float z) {
        w1 = Transpose<perm=[1,0]>(w) w2 = Reshape(w1, shape) w3, w4 = Split<axis=1>(w2, sizes)
        w5 = Slice(h, starts, ends, axes) w6 = Gather<axis=1>(v, index) w7 = Concat<axis=0>(w5, w6)
        a = MatMul(x, w3) e = MatMul(x, w4) b = Concat<axis=1>(a, e) r = Tanh(b)
        d = Squeeze(u, axes) k = Unsqueeze(d, axes) l = Squeeze(k, axes) z1 = MatMul(r, l) z = MatMul(z1, w7) }""",
        {"w": (16, 16), "h": (16, 16), "shape": [16, 16], "sizes": [10, 6], "starts": [0], "ends": [8], "axes": [0],
         "v": (8, 16), "index": list(range(16)), "u": (1, 16, 16)},
    ),
    "control": (
        """g (float[N,8] x) => (float z) { y = MatMul(x, w) c = ReduceMax<keepdims=0>(y) q = Greater(c, zero)
        i = If(q) <then_branch = t () => (float a) { a = MatMul(y, u) },
                   else_branch = e () => (float d) { d = Mul(y, zero) }>
        o = Loop(n, , i) <body = h (int64 k, bool more, float[N,8] s) => (bool again, float[N,8] out) {
          again = Identity(more) s1 = MatMul(s, v) out = Tanh(s1) }> z = Gemm(o, w, b) }""",
        {"w": (8, 8), "u": (8, 8), "v": (8, 8), "b": (8,), "zero": (), "n": [3]},
    ),
    "scan": (
        """g (float[5,4] x) => (float z) { last, seq = Scan<num_scan_inputs = 1, body = h (float[4] s, float[4] e)
          => (float[4] out, float[4] y) { a = MatMul(s, w) b = MatMul(e, u) y = Add(a, b) out = Tanh(y) }>(start, x)
          z = MatMul(seq, v) }""",
        {"w": (4, 4), "u": (4, 4), "v": (4, 6), "start": (4,)},
    ),
    "recurrent": (
        """g (float[6,N,5] x) => (float z) { y, h, c = LSTM<hidden_size=4>(x, w, r, b) s = Squeeze(y, one)
        q, p = GRU<hidden_size=3>(s, w1, r1) k = Squeeze(p, zero) z = MatMul(k, v) }""",
        {"w": (1, 16, 5), "r": (1, 16, 4), "b": (1, 32), "one": [1], "zero": [0], "w1": (1, 9, 4), "r1": (1, 9, 3),
         "v": (3, 7)},
    ),
    "words": (
        """g (int64[N,6] x) => (float z) { e = Gather(table, x) p = Add(e, position)
        y = Einsum<equation = "bik,kj->bij">(p, w) n = LayerNormalization(y, s, t) l = Add(n, b) z = MatMul(l, u) }""",
        {"table": (11, 8), "position": (6, 8), "w": (8, 8), "s": (8,), "t": (8,), "b": (8,), "u": (8, 3)},
    ),
    "fused": (
        """g (float[N,3,8,8] x) => (float z) {
        y = com.microsoft.FusedConv<activation="Relu">(x, w, b) f = Flatten(y)
        g1 = com.microsoft.FusedGemm<activation="LeakyRelu", activation_alpha=0.1>(f, u, c)
        z = com.microsoft.FusedMatMul<transB=1>(g1, v) }""",
        {"w": (4, 3, 3, 3), "b": (4,), "u": (144, 6), "c": (6,), "v": (5, 6)},
    ),
    "functions": (
        "g (float[N,8] x) => (float z) { a = f.Dense(x, w) r = Relu(a) z = f.Dense(r, u) }",
        {"w": (8, 8), "u": (8, 4)},
    ),
    "normed": (
        """g (float[N,8] x) => (float z) {
        q = Mul(v, v) n = ReduceSum<keepdims=1>(q, axes) l = Sqrt(n) d = Div(v, l) w = Mul(d, g1) t = Transpose(w)
        y = MatMul(x, t) r = Relu(y) i = QuantizeLinear(u, step, point) k = DequantizeLinear(i, step, point)
        z = MatMul(r, k) }""",
        {"v": (8, 8), "g1": (8, 1), "axes": [1], "u": (8, 8), "step": (), "point": ()},
    ),
    "constants": (
        """g (float[N,4] x) => (float z) {
        w = ConstantOfShape(shape) b = Constant<value = float[4] {1, 2, 3, 4}>() y = Gemm(x, w, b)
        k = Constant<value = float[2,2] {1, 2, 3, 4}>() s = Reshape(y, two) z = MatMul(s, k) }""",
        {"shape": [4, 4], "two": [-1, 2]},
    ),
}  # fmt: skip


def small(name: str) -> bytes:
    """Return one of the small models."""
    text, tensors = SMALL[name]
    functions = FUNCTION if name == "functions" else ""
    model = onnx.parser.parse_model(f"{HEAD}\n{text}\n{functions}")
    rng = np.random.default_rng(len(name))
    for key, shape in tensors.items():
        array = np.array(shape, np.int64) if isinstance(shape, list) else rng.standard_normal(shape).astype(np.float32)
        array = array.astype(np.int8) if key == "point" else abs(array) if key in ("v", "step") else array
        model.graph.initializer.append(numpy_helper.from_array(array, key))
    return model.SerializeToString()


@cache
def seeds(corpus: Path | None = None) -> dict[str, bytes]:
    """Return models by name: the small ones, the samples, and those of a folder that are not large."""
    found = {name: small(name) for name in SMALL}
    files = sorted((ROOT / "sample_models").glob("*.onnx"))
    if corpus is not None:
        files += sorted(path for path in corpus.rglob("*.onnx") if path.stat().st_size < 1 << 18)
    for path in files:
        with suppress(DecodeError):  # a folder may have files that are broken already
            found[path.stem] = ModelProto.FromString(path.read_bytes()).SerializeToString()
    return found
