"""Shapes and bounds that a graph computes; the oracle is ONNX Runtime, which gives what the layer really sees."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import oracle
import pytest
from conftest import Run
from onnx import helper
from oracle import normal, orthonormality, parse

import onnx_lsuv
from onnx_lsuv.program import expand
from onnx_lsuv.program.static_integers import known_integers

Lsuv = Callable[..., Run]

# From w, of some shape, to k of (24, 32), which x is multiplied by.
WAYS: dict[str, tuple[tuple[int, ...], str]] = {
    "by its own shape": (
        (1, 1, 24, 8, 4),
        """s = Shape(w) a = Constant <value_ints = [3, 4]> () g = Gather(s, a) p = ReduceProd <axes = [0]> (g)
           m = Constant <value_ints = [-1]> () t = Concat <axis = 0> (m, p) k = Reshape(w, t)""",
    ),
    "by the shape of its transpose": (
        (4, 8, 24),
        """v = Transpose <perm = [2, 0, 1]> (w) s = Shape(v) i = Constant <value_int = 0> () n = Gather(s, i)
           o = Constant <value_ints = [0]> () u = Unsqueeze(n, o) m = Constant <value_ints = [-1]> ()
           t = Concat <axis = 0> (u, m) k = Reshape(v, t)""",
    ),
    "by the shape of a value of the data": (
        (768,),
        """r = Relu(x) s = Shape(r) i = Constant <value_ints = [1]> () n = Gather(s, i)
           m = Constant <value_ints = [-1]> () t = Concat <axis = 0> (n, m) k = Reshape(w, t)""",
    ),
    "cut between computed bounds": (
        (24, 128),
        """s = Shape <start = 1> (w) four = Constant <value_ints = [4]> () n = Div(s, four)
           two = Constant <value_ints = [2]> () a = Mul(n, two) b = Add(a, n) one = Constant <value_ints = [1]> ()
           k = Slice(w, a, b, one)""",
    ),
    "cut from the end by a size": (
        (40, 32),
        """z = Size(w) n = Constant <value_int = 32> () d = Div(z, n) e = Constant <value_int = 16> () a = Sub(e, d)
           o = Constant <value_ints = [0]> () u = Unsqueeze(a, o) far = Constant <value_ints = [9223372036854775807]> ()
           k = Slice(w, u, far, o)""",
    ),
    "expanded as PyTorch writes it": (
        (24, 32),
        """s = Constant <value_ints = [-1, 32]> () f = Constant <value_int = 1> () two = Constant <value_ints = [2]> ()
           ones = ConstantOfShape <value = int64[1] {1}> (two) m = Constant <value_int = -1> () q = Mul(ones, m)
           is = Equal(s, q) t = Where(is, ones, s) k = Expand(w, t)""",
    ),
    "split by computed sizes": (
        (24, 96),
        """s = Shape(w) i = Constant <value_ints = [1]> () n = Gather(s, i) three = Constant <value_ints = [3]> ()
           a = Div(n, three) b = Sub(n, a) t = Concat <axis = 0> (a, b) k, rest = Split <axis = 1> (w, t)""",
    ),
    "squeezed along computed axes": (
        (24, 1, 32, 1),
        """s = Shape(w) z = Shape(s) one = Constant <value_ints = [1]> () e = Sub(z, one) a = Concat <axis = 0> (one, e)
           k = Squeeze(w, a)""",
    ),
    "reordered by a range": (
        (24, 32),
        """a = Constant <value_int = 31> () b = Constant <value_int = -1> () i = Range(a, b, b)
           k = Gather <axis = 1> (w, i)""",
    ),
    "half of a length, by way of floats": (
        (48, 32),
        """s = Shape <end = 1> (w) f = Cast <to = 1> (s) h = Constant <value_float = 0.5> () g = Mul(f, h) l = Floor(g)
           n = Cast <to = 7> (l) o = Constant <value_ints = [0]> () k = Slice(w, o, n, o)""",
    ),
    "a product of free lengths, as TensorFlow writes it": (
        (24, 8, 4),
        """s = Shape(w) n = Cast <to = 6> (s) a = Constant <value_ints = [1, 2]> () g = Gather(n, a)
           p = ReduceProd <axes = [0], keepdims = 0> (g) o = Constant <value_ints = [0]> () q = Unsqueeze(p, o)
           b = Constant <value_ints = [0]> () h = Gather(n, b) r = ReduceProd <axes = [0], keepdims = 1> (h)
           t = Concat <axis = 0> (r, q) u = Cast <to = 7> (t) v = Transpose <perm = [0, 2, 1]> (w) k = Reshape(v, u)""",
    ),
    "a root, and a number of the other's type": (
        (24, 32),
        """z = Size(w) f = Cast <to = 1> (z) h = Constant <value_float = 768.0> () d = Sub(f, h) e = Sqrt(d)
           g = Round(e) s = Shape(w) one = Constant <value_float = 1.0> () l = CastLike(one, s) c = CastLike(g, s)
           m = Add(s, c) i = Mul(m, l) k = Reshape(w, i)""",
    ),
    "zeros that copy a length": (
        (24, 4, 8),
        """s = Shape <end = 1> (w) z = Sub(s, s) m = Constant <value_ints = [-1]> () t = Concat <axis = 0> (z, m)
           k = Reshape(w, t)""",
    ),
}


def model_of(way: str) -> onnx.ModelProto:
    shape, nodes = WAYS[way]
    text = f"""<ir_version: 8, opset_import: ["" : 15]>
        g (float[N,24] x) => (float[N,32] y) {{ {nodes} y = MatMul(x, k) }}"""
    return parse(text, w=normal(*shape))


@pytest.mark.parametrize("way", WAYS)
def test_the_layer_behind_a_computed_shape(lsuv: Lsuv, way: str) -> None:
    run = lsuv(model_of(way), {"x": normal(64, 24)})
    assert run.reasons() == {}
    (row,) = run.result.layers
    assert row.status == "ok"
    (k,), (y,) = run.value("k"), run.moments("y")
    assert k.shape == (24, 32)
    # The layer maps by k's transpose, (32, 24): its columns are orthonormal.
    assert orthonormality(k.T[None]) < 1e-5
    assert y.var == pytest.approx(1, abs=1e-3)


def test_shapes_kept_in_a_file_of_their_own(tmp_path: Path) -> None:
    model = parse(
        """<ir_version: 8, opset_import: ["" : 15]>
           g (float[N,24] x) => (float[N,32] y) { t = Concat <axis = 0> (a, b) k = Reshape(w, t) y = MatMul(x, k) }""",
        w=normal(768),
        a=np.array([24]),
        b=np.array([-1]),
    )
    path = tmp_path / "m.onnx"
    onnx.save(model, str(path), save_as_external_data=True, location="m.data", size_threshold=0)
    result = onnx_lsuv.initialize(onnx_lsuv.load(path), {"x": normal(64, 24)})
    (row,) = result.layers
    assert (row.status, row.shape) == ("scaled", (24, 32))


def lstm() -> onnx.ModelProto:
    """PyTorch's weights (gates i, f, g, o), put into ONNX's order (i, o, f, g) by bounds that the graph computes."""
    nodes = []
    for name in ("w", "r"):
        nodes.append(f"{name}_s = Shape({name}) {name}_n = Gather({name}_s, zero) {name}_h = Div({name}_n, four)")
        for gate in range(4):
            start, end, part = (f"{name}{what}{gate}" for what in ("_a", "_e", "_g"))
            nodes.append(f"{start} = Mul({name}_h, n{gate}) {end} = Add({start}, {name}_h)")
            nodes.append(f"{part} = Slice({name}, {start}, {end}, zero)")
        joined = ", ".join(f"{name}_g{gate}" for gate in (0, 3, 1, 2))
        nodes.append(f"{name}_j = Concat <axis = 0> ({joined}) {name.upper()} = Unsqueeze({name}_j, zero)")
    text = f"""<ir_version: 8, opset_import: ["" : 15]>
        g (float[5,N,6] x) => (float[5,1,N,7] y)
        {{ {" ".join(nodes)} y, h, c = LSTM <hidden_size = 7> (x, W, R) }}"""
    numbers = {f"n{i}": np.array([i]) for i in range(4)}
    return parse(text, w=normal(28, 6), r=normal(28, 7), zero=np.array([0]), four=np.array([4]), **numbers)


def test_lstm_of_parts_between_computed_bounds(lsuv: Lsuv) -> None:
    run = lsuv(lstm(), {"x": normal(5, 9, 6)})
    assert run.reasons() == {}
    assert {(row.weight, row.status) for row in run.result.layers} == {("w", "drawn"), ("r", "drawn")}
    for name, width in (("W", 6), ("R", 7)):
        (operand,) = run.value(name)
        assert orthonormality(operand.reshape(4, 7, width)) < 1e-5


def bidirectional() -> onnx.ModelProto:
    """As PyTorch writes an LSTM of two directions with biases: each tensor is cut, put in order and joined."""
    nodes = []
    names = [f"{name}{way}" for name in ("w", "r", "bi", "bh") for way in ("f", "b")]
    for name in names:
        nodes += [f"{name}_s = Shape({name})", f"{name}_n = Gather <axis = 0> ({name}_s, scalar)"]
        nodes += [f"{name}_h = Div({name}_n, four)"]
        for gate in range(4):
            nodes += [f"{name}_a{gate} = Mul({name}_h, n{gate})", f"{name}_e{gate} = Add({name}_a{gate}, {name}_h)"]
            nodes += [
                f"{name}_u{gate} = Unsqueeze({name}_a{gate}, zero)",
                f"{name}_v{gate} = Unsqueeze({name}_e{gate}, zero)",
            ]
            nodes += [f"{name}_g{gate} = Slice({name}, {name}_u{gate}, {name}_v{gate}, zero)"]
        joined = ", ".join(f"{name}_g{gate}" for gate in (0, 3, 1, 2))
        nodes.append(f"{name}_j = Concat <axis = 0> ({joined})")
    for way in ("f", "b"):
        nodes += [f"b{way}_c = Concat <axis = 0> (bi{way}_j, bh{way}_j)", f"b{way}_k = Unsqueeze(b{way}_c, zero)"]
        nodes += [f"w{way}_k = Unsqueeze(w{way}_j, zero)", f"r{way}_k = Unsqueeze(r{way}_j, zero)"]
    nodes += [f"{name.upper()} = Concat <axis = 0> ({name}f_k, {name}b_k)" for name in ("w", "r", "b")]
    text = f"""<ir_version: 8, opset_import: ["" : 15]>
        g (float[5,N,6] x) => (float[5,2,N,7] y)
        {{ {" ".join(nodes)} y, h, c = LSTM <hidden_size = 7, direction = "bidirectional"> (x, W, R, B) }}"""
    model = parse(text, zero=np.array([0]), n0=np.array([0]))
    numbers = {"scalar": 0, "four": 4, "n0": 0, "n1": 1, "n2": 2, "n3": 3}
    del model.graph.initializer[1:]
    for name, number in numbers.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(number), name))
    for name in names:
        shape = {"w": (28, 6), "r": (28, 7)}.get(name[0], (28,))
        model.graph.initializer.append(onnx.numpy_helper.from_array(normal(*shape), name))
    return model


def test_lstm_of_two_directions_with_biases(lsuv: Lsuv) -> None:
    run = lsuv(bidirectional(), {"x": normal(5, 9, 6)}, lstm_bias="forget")
    assert run.reasons() == {}
    assert {(row.weight, row.status) for row in run.result.layers} == {("wf + wb", "drawn"), ("rf + rb", "drawn")}
    for name, width in (("W", 6), ("R", 7)):
        (operand,) = run.value(name)
        assert orthonormality(operand.reshape(8, 7, width)) < 1e-5
    # In PyTorch's order the forget gate is the second; the two biases add up.
    for way in ("f", "b"):
        total = run.weight(f"bi{way}") + run.weight(f"bh{way}")
        assert total.reshape(4, 7).tolist() == [[0.0] * 7, [1.0] * 7, [0.0] * 7, [0.0] * 7]


def test_what_depends_on_the_data_is_left_alone() -> None:
    text = """<ir_version: 8, opset_import: ["" : 15]>
        g (float[N,24] x, int64[1] n) => (float[N,M] y)
        { m = Constant <value_ints = [24]> () t = Concat <axis = 0> (m, n) k = Reshape(w, t) y = MatMul(x, k) }"""
    plan = onnx_lsuv.plan(onnx_lsuv.from_proto(parse(text, w=normal(24, 32)))).plan
    assert [left.reason for left in plan.skipped] == ["computed"]
    assert not plan.layers


def test_numbers_that_grow_without_end_are_not_followed() -> None:
    nodes = ["n0 = Constant <value_ints = [3]> ()"] + [f"n{i + 1} = Mul(n{i}, n{i})" for i in range(2000)]
    text = f"""<ir_version: 8, opset_import: ["" : 15]>
        g (float[N,24] x) => (float[N,M] y) {{ {" ".join(nodes)} k = Reshape(w, n2000) y = MatMul(x, k) }}"""
    plan = onnx_lsuv.plan(onnx_lsuv.from_proto(parse(text, w=normal(24, 32)))).plan
    assert [left.reason for left in plan.skipped] == ["computed"]


# Places of a Slice by float32 arithmetic, in which 10 * 0.7 is 7, but the numbers are not exactly those.
FLOATS = {
    "cast": "a = Cast <to = 1> (ten) b = Mul(a, part) c = Floor(b) k = Cast <to = 7> (c)",
    "half up": "a = CastLike(ten, part) b = Div(a, three) c = Mul(b, three) d = Ceil(c) k = Cast <to = 7> (d)",
    "double": "a = Cast <to = 11> (ten) b = Cast <to = 11> (part) c = Mul(a, b) d = Floor(c) k = Cast <to = 7> (d)",
    "sum": "a = Cast <to = 1> (ten) b = Mul(a, part) c = ReduceSum(b) d = Floor(c) k = Cast <to = 7> (d)",
    "filled": "a = ConstantOfShape <value = float[1] {0.1}> (one) b = Mul(a, ten32) c = Floor(b) k = Cast <to = 7> (c)",
}


@pytest.mark.parametrize("text", FLOATS.values(), ids=FLOATS)
def test_float32_numbers_are_rounded_at_every_step(text: str, tmp_path: Path) -> None:
    model = parse(
        f"""<ir_version: 8, opset_import: ["" : 15]> g (float[1] x) => (int64[K] k) {{ {text} }}""",
        ten=np.array([10]),
        ten32=np.array([10], np.float32),
        one=np.array([1]),
        part=np.array([0.7], np.float32),
        three=np.array([3], np.float32),
    )
    path = tmp_path / "m.onnx"
    onnx.save(model, str(path))
    (expected,) = oracle.values(path, [{"x": np.zeros(1, np.float32)}], ["k"])["k"]
    assert known_integers(expand(onnx_lsuv.from_proto(model)), "k") == tuple(np.atleast_1d(expected).tolist())


@pytest.mark.parametrize(
    "text", ["s = Squeeze(v, d)", "s = Expand(v, d)", "s = ReduceSum(v, d)", "s = Slice(v, z, z, d)"]
)
def test_an_operand_that_nothing_is_known_of_is_not_left_out(text: str) -> None:
    """What decides the shape is an input of open length, of which nothing is known; the shape is not known either."""
    model = parse(
        f"""<ir_version: 8, opset_import: ["" : 15]> g (int64[D] d) => (int64 y) {{
            {text} y = Shape(s) }}""",
        v=normal(1, 3, 1),
        z=np.array([0]),
    )
    assert None in (known_integers(expand(onnx_lsuv.from_proto(model)), "y") or (None,))


@pytest.mark.parametrize("seed", range(40))
def test_folding_says_what_onnx_runtime_says(seed: int, tmp_path: Path) -> None:
    """Random chains over constants: wherever a number is said to be known, it is ONNX Runtime's."""
    rng = np.random.default_rng(seed)
    nodes: list[onnx.NodeProto] = []
    vectors = ["a", "b"]
    tensors = {"a": rng.integers(-4, 9, 4), "b": rng.integers(1, 5, 4), "axis": np.array([0]), "one": np.array([1])}
    tensors |= {"c": np.array([3, 0, 2, 1]), "two": np.array([2]), "w": np.zeros((3, 5, 2, 4), np.float32)}
    for i in range(12):
        p, q = (str(rng.choice(vectors)) for _ in range(2))
        out = f"v{i}"
        choice = rng.integers(0, 11)
        if choice < 6:
            op = ("Add", "Sub", "Mul", "Div", "Mod", "Max")[choice]
            # A divisor is never zero.
            nodes.append(helper.make_node(op, [p, "b" if op in ("Div", "Mod") else q], [out]))
        elif choice == 6:
            nodes.append(helper.make_node("Gather", [p, "c"], [out]))
        elif choice == 7:
            nodes += [
                helper.make_node("Slice", [p, "axis", "two", "axis"], [f"{out}l"]),
                helper.make_node("Slice", [q, "axis", "two", "axis"], [f"{out}r"]),
                helper.make_node("Concat", [f"{out}l", f"{out}r"], [out], axis=0),
            ]
        elif choice == 8:
            nodes += [
                helper.make_node("Less", [p, q], [f"{out}c"]),
                helper.make_node("Where", [f"{out}c", q, "b"], [out]),
            ]
        elif choice == 9:
            nodes += [
                helper.make_node("Transpose", ["w"], [f"{out}t"], perm=[int(j) for j in rng.permutation(4)]),
                helper.make_node("Shape", [f"{out}t"], [out]),
            ]
        else:
            nodes += [
                helper.make_node("ReduceSum", [p, "axis"], [f"{out}s"]),
                helper.make_node("Expand", [f"{out}s", "four"], [out]),
            ]
        vectors.append(out)
    tensors["four"] = np.array([4])
    known = [onnx.numpy_helper.from_array(array, name) for name, array in tensors.items()]
    made = [name for node in nodes for name in node.output]
    outputs = [onnx.ValueInfoProto(name=name) for name in made]
    graph = helper.make_graph(nodes, "g", [], outputs, known)
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 15)])
    path = tmp_path / "m.onnx"
    onnx.save(model, str(path))
    expected = oracle.values(path, [{}], made)
    program = expand(onnx_lsuv.from_proto(model))
    for name in vectors[2:]:
        assert known_integers(program, name) == tuple(expected[name][0].tolist()), name
