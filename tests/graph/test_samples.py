"""The share of signal is what float64 NumPy finds in the values of a plain session, wherever the samples' axis lies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import oracle
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper
from oracle import normal
from random_graphs import random_case

import onnx_lsuv
from onnx_lsuv import Result, runtime
from onnx_lsuv.graph import VAR, blocked, stages
from onnx_lsuv.graph.records import record_of
from onnx_lsuv.lsuv import measuring
from onnx_lsuv.lsuv.scratch import Scratch

Array = NDArray[Any]
Batches = Sequence[Mapping[str, Array]]
EXACT = 1e-4
REFUSED = {137, 223, 289}  # seeds of models whose Reshape does not fit what ONNX Runtime gives


def share(values: Sequence[Array], axis: int = 0) -> float:
    """Return the share of the variance of some batches that depends on the sample, which an axis counts."""
    whole = np.concatenate([np.asarray(each, np.float64) for each in values], axis)
    return float(whole.var(axis).mean() / whole.var())


def model_of(text: str, opset: int = 17, tensors: Mapping[str, Array] | None = None) -> ModelProto:
    """Return a model from ONNX text, with a normal tensor for each name like w16x8."""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> g {text}')
    arrays = dict(tensors or {})
    for name in dict.fromkeys(n for node in model.graph.node for n in node.input):
        if name[:1] == "w" and name[1:2].isdigit() and name not in arrays:
            arrays[name] = normal(*map(int, name[1:].partition("_")[0].split("x")), seed=len(arrays))
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(a), name) for name, a in arrays.items())
    return model


def data(*shape: int, sizes: Sequence[int] = (6,), mean: float = 0.3) -> list[dict[str, Array]]:
    """Return batches in which the positions differ, and the samples."""
    sides = normal(*shape, seed=99) * 2 + mean
    return [{"x": (normal(n, *shape, seed=i) + sides).astype(np.float32)} for i, n in enumerate(sizes)]


def measured(model: ModelProto, batches: Batches) -> Result:
    return onnx_lsuv.measure(onnx_lsuv.from_proto(model), list(batches))


def values(model: ModelProto, batches: Batches) -> dict[str, list[Array]]:
    """Return what each layer of the main graph gives for each batch, by the name of its node."""
    names = {label: name for label, name in oracle.layer_values(model).items() if "/" not in label}
    found = oracle.values(model, batches, list(dict.fromkeys(names.values())))
    return {label: found[name] for label, name in names.items()}


# ------------------------------------------------------------------------------------------------------ random graphs


@pytest.mark.few(3)
@pytest.mark.parametrize("start", range(0, 505, 5))
def test_random_graphs(start: int) -> None:
    known = scaled = 0
    for seed in sorted({*range(start, start + 5)} - REFUSED):
        case = random_case(seed)
        result, found = measured(case.model, case.batches), values(case.model, case.batches)
        for row in result.layers:
            if row.std is None or row.name not in found:
                assert row.signal is None
                continue
            scaled += 1
            if row.signal is not None:
                known += 1
                assert row.signal == pytest.approx(share(found[row.name]), abs=EXACT), (seed, row)
    assert known >= scaled / 2  # not where ONNX Runtime gives other shapes than inferred, nor behind them


# ------------------------------------------------------------------------------------------- where the samples' axis is

AXES: dict[str, tuple[str, tuple[int, ...], Mapping[str, Array], Callable[[Array, int], Array]]] = {
    "rows of all tokens": (
        "(float[N,5,8] x) => (float y) { r = Reshape(x, s) y = MatMul(r, w8x6) }",
        (5, 8),
        {"s": np.array([-1, 8])},
        lambda y, n: y.reshape(n, 5, 6),
    ),
    "time first": (
        "(float[N,5,8] x) => (float y) { r = Transpose<perm = [1, 0, 2]>(x) y = MatMul(r, w8x6) }",
        (5, 8),
        {},
        lambda y, n: y.transpose(1, 0, 2),
    ),
    "rows of all samples, time after time": (
        "(float[N,5,8] x) => (float y) { t = Transpose<perm = [1, 0, 2]>(x) r = Reshape(t, s) y = Gemm(r, w8x6) }",
        (5, 8),
        {"s": np.array([-1, 8])},
        lambda y, n: y.reshape(5, n, 6).transpose(1, 0, 2),
    ),
    "samples last": (
        "(float[N,8] x) => (float y) { t = Transpose<perm = [1, 0]>(x) y = MatMul(w6x8, t) }",
        (8,),
        {},
        lambda y, n: y.T,
    ),
    "frames as images": (
        "(float[N,3,2,6,6] x) => (float y) { r = Reshape(x, s) y = Conv(r, w4x2x3x3) }",
        (3, 2, 6, 6),
        {"s": np.array([-1, 2, 6, 6])},
        lambda y, n: y.reshape(n, 3, 4, 4, 4),
    ),
    "a sum of letters": (
        '(float[N,5,8] x) => (float y) { y = Einsum<equation = "ntc,cd->tnd">(x, w8x6) }',
        (5, 8),
        {},
        lambda y, n: y.transpose(1, 0, 2),
    ),
    "attention": (
        "(float[N,5,8] x) => (float y) { k = Transpose<perm = [0, 2, 1]>(x) q = MatMul(x, k) a = Softmax<axis = -1>(q) "
        "z = MatMul(a, x) y = MatMul(z, w8x6) }",
        (5, 8),
        {},
        lambda y, n: y,
    ),
    "a mean over tokens, and one over samples": (
        "(float[N,5,8] x) => (float y) { m = ReduceMean<axes = [1], keepdims = 0>(x) "
        "b = ReduceMean<axes = [0], keepdims = 1>(m) d = Sum(m, b) y = MatMul(d, w8x6) }",
        (5, 8),
        {},
        lambda y, n: y,
    ),
    "recurrent": (
        "(float[N,5,8] x) => (float y) { t = Transpose<perm = [1, 0, 2]>(x) "
        "r, h = GRU<hidden_size = 4>(t, w1x12x8, w1x12x4) q = Squeeze(r, one) y = MatMul(q, w4x6) }",
        (5, 8),
        {"one": np.array([1])},
        lambda y, n: y.transpose(1, 0, 2),
    ),
    "a token of the model before": (
        "(float[N,5,8] x) => (float y) { f = Shape(x) n = Gather(f, zero) e = Concat<axis = 0>(n, rest) "
        "c = Expand(token, e) j = Concat<axis = 1>(c, x) y = MatMul(j, w8x6) }",
        (5, 8),
        {"zero": np.array([0]), "rest": np.array([1, 8]), "token": normal(1, 1, 8)},
        lambda y, n: y,
    ),
    "behind a branch": (
        "(float[N,5,8] x) => (float y) { z = If(yes) <then_branch = a () => (p) { p = Relu(x) }, "
        "else_branch = b () => (q) { q = Neg(x) }> y = MatMul(z, w8x6) }",
        (5, 8),
        {"yes": np.array(True)},
        lambda y, n: y,
    ),
    "one number at each place of one channel": (
        "(float[N,1] x) => (float y) { y = MatMul(x, w1x6) }",
        (1,),
        {},
        lambda y, n: y,
    ),
}


@pytest.mark.parametrize("sizes", [(6,), (6, 6, 6), (6, 6, 4), (1, 1, 1, 1)])
@pytest.mark.parametrize("name", AXES)
def test_the_axis_is_followed(name: str, sizes: Sequence[int]) -> None:
    text, shape, tensors, samples_first = AXES[name]
    model, batches = model_of(text, tensors=tensors), data(*shape, sizes=sizes)
    row = measured(model, batches).layers[-1]
    found = [
        samples_first(y, len(b["x"])) for y, b in zip(oracle.values(model, batches, ["y"])["y"], batches, strict=True)
    ]
    assert row.signal == pytest.approx(share(found), abs=EXACT)


@pytest.mark.parametrize("sizes", [(6,), (6, 4)])
def test_shapes_that_inference_loses(sizes: Sequence[int]) -> None:
    model = model_of(
        "(float[N,T,8] x) => (float y) { f = Shape(x) n = Gather(f, first) m = Unsqueeze<axes = [0]>(n) "
        "e = Concat<axis = 0>(m, heads) r = Reshape(x, e) t = Transpose<perm = [0, 2, 1, 3]>(r) y = MatMul(t, w4x6) }",
        opset=11,
        tensors={"first": np.array(0), "heads": np.array([-1, 2, 4])},
    )
    batches = data(5, 8, sizes=sizes)
    (row,) = measured(model, batches).layers
    assert row.signal == pytest.approx(share(oracle.values(model, batches, ["y"])["y"]), abs=EXACT)


@pytest.mark.parametrize("mean", [0.0, 30.0, 1000.0])
@pytest.mark.parametrize("sizes", [(40,), (40, 40), (30, 20)])
@pytest.mark.parametrize("kind", ["float", "double", "float16"])
def test_types_and_large_means(kind: str, sizes: Sequence[int], mean: float) -> None:
    text = f"({kind}[N,9,9,16] x) => ({kind} y) {{ y = MatMul(x, w) }}"
    dtype = helper.tensor_dtype_to_np_dtype(onnx.TensorProto.DataType.Value(kind.upper()))
    batches = [{"x": b["x"].astype(dtype)} for b in data(9, 9, 16, sizes=sizes, mean=mean)]
    (row,) = measured(model_of(text, tensors={"w": np.eye(16, dtype=dtype)}), batches).layers
    assert row.signal == pytest.approx(share([b["x"] for b in batches]), abs=EXACT)


def test_more_samples_than_float32_sums_well() -> None:
    batches = data(3, sizes=(20_000,), mean=20.0)
    (row,) = measured(
        model_of("(float[N,3] x) => (float y) { y = MatMul(x, w) }", tensors={"w": np.eye(3, dtype=np.float32)}),
        batches,
    ).layers
    assert row.signal == pytest.approx(share([b["x"] for b in batches]), abs=EXACT)


@pytest.mark.parametrize("mean", [0.0, 1000.0])
@pytest.mark.parametrize("number", [16, 17, 40])
def test_many_batches_of_one_large_sample(number: int, mean: float) -> None:
    """Some batches are summed in float32 before float64."""
    batches = data(48, 48, 16, sizes=(1,) * number, mean=mean)
    text = "(float[N,48,48,16] x) => (float y) { y = MatMul(x, w) }"
    (row,) = measured(model_of(text, tensors={"w": np.eye(16, dtype=np.float32)}), batches).layers
    assert row.signal == pytest.approx(share([b["x"] for b in batches]), abs=EXACT)


# ------------------------------------------------------------------------------------------------ what gives no share


def test_no_share() -> None:
    dense = model_of("(float[N,T,8] x) => (float y) { y = MatMul(x, w8x6) }")
    looped = model_of(
        "(float[N,8] x) => (float y) { z = Loop(three, yes, x) <body = b (int64 i, bool c, float[N,8] s) => (bool d, "
        "float[N,8] t) { d = Identity(c) t = MatMul(s, w8x8) }> y = MatMul(z, w8x6) }",
        tensors={"three": np.array(3), "yes": np.array(True), "w8x8": normal(8, 8)},
    )
    assert measured(dense, data(5, 8, sizes=(1,))).layers[0].signal is None  # one sample
    lengths = [{"x": normal(4, n, 8)} for n in (5, 7)]
    assert measured(dense, lengths).layers[0].signal is None  # batches have no positions in common
    assert [row.signal for row in measured(looped, data(8)).layers] == [None, None]  # several executions
    still = model_of(
        "(float[N,8] x) => (float y) { n = Neg(x) z = Sub(x, x) y = Gemm(z, w8x6, b) }", tensors={"b": normal(6)}
    )
    assert measured(still, data(8)).layers[0].signal == pytest.approx(0, abs=EXACT)  # the bias alone


def test_sums_beyond_the_memory_go_to_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batches = random_case(0).model, random_case(0).batches
    batches = [{"x": b["x"] + i} for i in range(3) for b in batches]
    mapped = list[int]()
    plain = Scratch.mapped
    monkeypatch.setattr(Scratch, "mapped", lambda self, array: mapped.append(array.nbytes) or plain(self, array))
    rows = [onnx_lsuv.measure(onnx_lsuv.from_proto(model), batches, memory=size).layers for size in (1_000, "1G")]
    assert rows[0] == rows[1]
    assert mapped


def test_what_is_summed_where_it_lies_goes_on_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first large output of batches of one sample takes up the others, unless a later stage reads it."""
    monkeypatch.setattr(stages, "STAGE_NODES", 8)
    text = (
        "(float[N,40,32,32] x) => (float y) { a = MatMul(x, w32x32) b = MatMul(a, w32x32_2) y = MatMul(b, w32x32_3) }"
    )
    model, batches = model_of(text), data(40, 32, 32, sizes=(1,) * 3)
    built = onnx_lsuv.measure(onnx_lsuv.from_proto(model), batches)
    for row, (name, found) in zip(built.layers, values(model, batches).items(), strict=True):
        assert row.signal == pytest.approx(share(found), abs=EXACT), name
        assert row.std == pytest.approx(np.concatenate(found).astype(np.float64).std(), rel=1e-5)


def test_states_do_not_count_samples() -> None:
    model = model_of(
        "(float[N,8] x, float[6,8] state) => (float y, float z) { y = MatMul(x, w8x6) z = MatMul(state, w8x6) }"
    )
    batches = [{"x": b["x"], "state": normal(6, 8)} for b in data(8, sizes=(5, 5))]
    rows = measured(model, batches).layers
    assert rows[0].signal == pytest.approx(share(values(model, batches)[rows[0].name]), abs=EXACT)


# ------------------------------------------------------------------------------------------------- what it is there for


def thin_net(layers: int = 17) -> ModelProto:
    """Return a plain ReLU net for images of 14 x 14, as of the paper's thin ones, with a classifier."""
    rng, nodes, x, channels, tensors = np.random.default_rng(0), [], "x", 1, {}
    for i in range(layers):
        width = 16 if i < 5 else 24 if i < 11 else 32
        tensors[f"w{i}"] = rng.standard_normal((width, channels, 3, 3)).astype(np.float32)
        tensors[f"b{i}"] = np.zeros(width, np.float32)
        nodes += [
            helper.make_node("Conv", [x, f"w{i}", f"b{i}"], [f"c{i}"], f"conv{i}", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", [f"c{i}"], [f"r{i}"]),
        ]
        x, channels = f"r{i}", width
        if i in (4, 10):
            nodes.append(helper.make_node("MaxPool", [x], [f"p{i}"], kernel_shape=[2, 2], strides=[2, 2]))
            x = f"p{i}"
    tensors |= {"w": rng.standard_normal((10, 32)).astype(np.float32), "b": np.zeros(10, np.float32)}
    nodes += [
        helper.make_node("GlobalAveragePool", [x], ["m"]),
        helper.make_node("Flatten", ["m"], ["f"]),
        helper.make_node("Gemm", ["f", "w", "b"], ["y"], "head", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "thin",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 1, 14, 14])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(a, n) for n, a in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_deep_relu_nets_lose_the_signal_and_centring_keeps_it() -> None:
    noise = np.random.default_rng(1).standard_normal((128, 1, 16, 16)).astype(np.float32)
    smooth = sum(noise[:, :, i : i + 14, j : j + 14] for i in range(3) for j in range(3)) / 3
    shares = {}
    for center in (False, True):
        made = onnx_lsuv.initialize(onnx_lsuv.from_proto(thin_net()), {"x": smooth}, center=center)
        verified = onnx_lsuv.measure(made.model, {"x": smooth}, like=made)
        shares[center] = [row.signal for row in verified.layers]
    assert shares[False][0] > 0.9
    assert shares[False][-1] < 0.2
    assert shares[True][-1] > 0.95


# ----------------------------------------------------------------------------------------------- convolutions in blocks

IN_BLOCKS = {
    "padded channels, a residual, an activation, pools": """
    (float[N, 3, 8, 8] x) => (float[N, 20, 4, 4] y) {
        a = Conv<pads = [1, 1, 1, 1]>(x, w20x3x3x3)
        b = Relu(a)
        c = Conv(b, w20x20x1x1, w20)
        d = Add(c, b)
        e = Clip(d, low, high)
        f = Conv<pads = [1, 1, 1, 1], group = 20>(e, w20x1x3x3_0)
        g = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(f)
        y = Conv(g, w20x20x1x1_0)
    }""",
    "norms with stored statistics, whole blocks, groups, other layers between": """
    (float[N, 32, 6, 6] x) => (float[N, 10] y) {
        a = Conv<pads = [1, 1, 1, 1], group = 2>(x, w32x16x3x3, w32)
        b = BatchNormalization(a, gain, shift, mean, var)
        c = Relu(b)
        d = Conv<strides = [2, 2]>(c, w16x32x2x2)
        e = BatchNormalization(d, gain16, shift16, mean16, var16)
        f = Concat<axis = 1>(e, e)
        g = Sigmoid(f)
        h = Conv<dilations = [2, 2], pads = [2, 2, 2, 2]>(g, w48x32x3x3)
        i = GlobalAveragePool(h)
        j = Flatten(i)
        y = Gemm(j, w48x10)
    }""",
    "a scope that reads what is there in blocks, a weight used twice": """
    (float[N, 16, 4, 4] x) => (float[N, 16, 4, 4] y) {
        a = Conv(x, w16x16x1x1)
        b = Conv(a, w16x16x1x1)
        s = ReduceSum<keepdims = 0>(b)
        yes = Greater(s, zero)
        y = If (yes) <then_branch = t () => (float[N, 16, 4, 4] p) { p = Conv(b, inner) },
                      else_branch = e () => (float[N, 16, 4, 4] q) { q = Mul(b, two) }>
        z = Conv(y, w8x16x1x1)
    }""",
}
NUMBERS = {"low": -1.0, "high": 5.0, "zero": -1e30, "two": 2.0, "inner": normal(16, 16, 1, 1, seed=5)}


@pytest.mark.parametrize("sizes", [(6,), (4, 4), (5, 3)], ids=str)
@pytest.mark.parametrize("mean", [0.3, 300.0])
@pytest.mark.parametrize("text", IN_BLOCKS.values(), ids=IN_BLOCKS.keys())
def test_what_is_measured_in_blocks(
    text: str, mean: float, sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All moments and shares are those of NumPy, convolutions being in the layout for them; verification is plain."""
    vectors = {name: normal(n, seed=n) for n in (32, 16) for name in (f"gain{n}", f"shift{n}", f"mean{n}")}
    vectors |= {f"var{n}": normal(n, seed=n) ** 2 + 0.5 for n in (32, 16)}
    tensors = {name.removesuffix("32"): np.asarray(a, np.float32) for name, a in vectors.items()}
    tensors |= {name: np.asarray(number, np.float32) for name, number in NUMBERS.items()}
    used = {name: a for name, a in tensors.items() if f"{name}," in text or f"{name})" in text}
    model = model_of(text, tensors=used)
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim][1:]
    batches = data(*shape, sizes=sizes, mean=mean)
    graphs: list[Any] = []
    execute = measuring.execute
    monkeypatch.setattr(measuring, "execute", lambda made, *rest: graphs.append(made) or execute(made, *rest))
    result = measured(model, batches)
    domains = {node.domain for stage in graphs[-1].stages for node in stage.nodes if node.op_type == "Conv"}
    # The sums over the samples of several batches need blocks without empty channels, and batches of one size.
    if (len(sizes) == 1 or (sizes == (4, 4) and "w20x" not in text)) and runtime.block(runtime.open_device("cpu")) > 1:
        assert blocked.DOMAIN in domains
    found = values(model, batches)
    for row in (row for row in result.layers if row.name in found and row.status != "shared"):
        whole = np.concatenate([np.asarray(each, np.float64) for each in found[row.name]])
        assert (row.std, row.mean) == pytest.approx((whole.std(), whole.mean()), rel=1e-5, abs=whole.std() * 1e-5)
        if row.signal is not None:
            assert row.signal == pytest.approx(share(found[row.name]), abs=EXACT)
    graphs.clear()
    new = onnx_lsuv.initialize(onnx_lsuv.from_proto(model), batches)
    graphs.clear()
    onnx_lsuv.measure(new.model, batches, like=new)
    assert {node.domain for stage in graphs[-1].stages for node in stage.nodes if node.op_type == "Conv"} <= {""}


def test_values_that_are_not_finite_do_not_warn() -> None:
    """float32 has no room for the sum of such values."""
    record = record_of(np.full(1 << 16, 3e37, np.float32))
    assert np.isfinite(record).all()
    assert np.isnan(record_of(np.array([np.inf, 1], np.float32))[VAR])
