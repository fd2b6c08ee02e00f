"""`residual="auto"`: which layers end the branches of a stream, and that their stds are the rule's."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnxruntime as ort
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import onnx_lsuv
from onnx_lsuv.errors import UsageError
from onnx_lsuv.lsuv.streams import find_streams

WIDTH = 16


class Net:
    """Nodes one after the other."""

    def __init__(self, *, conv: bool = False) -> None:
        self.conv, self.nodes, self.constants = conv, [], []
        self.random = np.random.default_rng(0)

    def constant(self, name: str, value: object) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    def op(self, op: str, *inputs: str, name: str = "", **attributes: object) -> str:
        output = name or f"{op}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output], output, **attributes))
        return output

    def layer(self, x: str, name: str, *, bias: float | None = None) -> str:
        if self.conv:
            weight = self.constant(f"{name}.w", self.random.normal(size=(WIDTH, WIDTH, 3, 3)))
            return self.op("Conv", x, weight, name=name, pads=[1, 1, 1, 1])
        out = self.op("MatMul", x, self.constant(f"{name}.w", self.random.normal(size=(WIDTH, WIDTH))), name=name)
        if bias is None:
            return out
        values = self.random.normal(size=WIDTH) * bias
        return self.op("Add", out, self.constant(f"{name}.b", values))

    def norm(self, x: str, name: str) -> str:
        ones = self.constant(f"{name}.g", np.ones(WIDTH))
        if not self.conv:
            return self.op("LayerNormalization", x, ones, self.constant(f"{name}.s", np.zeros(WIDTH)), name=name)
        rest = [self.constant(f"{name}.{key}", np.full(WIDTH, value)) for key, value in (("s", 0), ("m", 0), ("v", 1))]
        return self.op("BatchNormalization", x, ones, *rest, name=name)

    def branch(self, x: str, name: str, *, bias: float | None = None) -> str:
        return self.layer(self.op("Relu", self.layer(x, f"{name}.1")), f"{name}.2", bias=bias)

    def model(self, out: str) -> ModelProto:
        dims = ["n", WIDTH, 6, 6] if self.conv else ["n", 5, WIDTH]
        given, made = (helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name in ("x", out))
        graph = helper.make_graph(self.nodes, "net", [given], [made], self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def gpt(*, bias: float | None = None) -> ModelProto:
    net = Net()
    x = net.layer("x", "embed")
    for i in range(4):
        inner = net.branch(net.norm(x, f"n{i}"), f"b{i}", bias=bias)
        x = net.op("Add", *((x, inner) if i % 2 else (inner, x)), name=f"sum{i}")
    return net.model(net.layer(net.norm(x, "last"), "head"))


def resnet(*, norm: bool = False, projects_last: bool = True) -> ModelProto:
    net = Net(conv=True)
    x = net.op("Relu", net.layer("x", "stem"))
    for i in range(4):
        skip = net.layer(x, f"down{i}") if i == 2 and not projects_last else x
        inner = net.branch(x, f"b{i}")
        if norm:
            inner = net.norm(inner, f"n{i}")
        if i == 2 and projects_last:
            skip = net.layer(x, f"down{i}")
        x = net.op("Relu", net.op("Add", inner, skip, name=f"sum{i}"))
    return net.model(x)


def post_norm() -> ModelProto:
    net, x = Net(), "x"
    for i in range(4):
        x = net.norm(net.op("Add", x, net.branch(x, f"b{i}")), f"n{i}")
    return net.model(x)


def convnext(scale: float) -> ModelProto:
    net = Net(conv=True)
    x = net.layer("x", "stem")
    for i in range(4):
        gamma = net.constant(f"gamma{i}", np.full((1, WIDTH, 1, 1), scale))
        x = net.op("Add", x, net.op("Mul", gamma, net.branch(x, f"b{i}")), name=f"sum{i}")
    return net.model(x)


def unet() -> ModelProto:
    net = Net(conv=True)
    one = net.branch("x", "e1")
    two = net.branch(one, "e2")
    up = net.op("Add", net.branch(two, "d2"), two)
    return net.model(net.layer(net.op("Add", net.branch(up, "d1"), one), "head"))


def densenet() -> ModelProto:
    net = Net()
    x = "x"
    for i in range(4):
        both = net.op("Concat", x, net.branch(x, f"b{i}"), axis=1)
        x = net.op("Slice", both, *(net_ints(net, f"{key}{i}", [at]) for key, at in (("a", 0), ("b", 5), ("c", 1))))
    return net.model(x)


def net_ints(net: Net, name: str, values: Sequence[int]) -> str:
    net.constants.append(numpy_helper.from_array(np.array(values, np.int64), name))
    return name


def chosen(model: ModelProto) -> list[list[str]]:
    plan = onnx_lsuv.plan(onnx_lsuv.from_proto(model)).plan
    streams = find_streams(plan, plan.program.body)
    return [[layer.node.label for layer, factor in each.lasts.items() if factor > each.share] for each in streams]


def data(model: ModelProto, n: int = 24) -> np.ndarray:
    dims = [each.dim_value for each in model.graph.input[0].type.tensor_type.shape.dim[1:]]
    return (0.3 * np.random.default_rng(1).normal(size=(n, *dims))).astype(np.float32)


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (gpt(), [[f"b{i}.2" for i in range(4)]]),
        (resnet(), [["b0.2", "b1.2"], ["b2.2", "b3.2"]]),
        (resnet(projects_last=False), [["b0.2", "b1.2"], ["b2.2", "b3.2"]]),
        (resnet(norm=True), [[], []]),
        (post_norm(), []),
        (convnext(1.0), [[f"b{i}.2" for i in range(4)]]),
        (convnext(1e-6), [[]]),
        (unet(), []),
        (densenet(), []),
    ],
    ids=["gpt", "resnet", "resnet-early", "resnet-norm", "post-norm", "convnext", "layer-scale", "unet", "densenet"],
)
def test_ends_named_by_hand(model: ModelProto, named: list[list[str]]) -> None:
    assert chosen(model) == named


def stds(model: ModelProto, x: np.ndarray, names: Sequence[str]) -> list[float]:
    """Return stds of some values by a plain session."""
    copy = ModelProto.FromString(model.SerializeToString())
    copy.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    session = ort.InferenceSession(copy.SerializeToString(), providers=["CPUExecutionProvider"])
    return [float(np.std(each.astype(np.float64))) for each in session.run(list(names), {"x": x})]


CASES = [
    (gpt(), {f"b{i}.2": ("embed", 4) for i in range(4)}),
    (resnet(), {**{f"b{i}.2": ("Relu1", 2) for i in (0, 1)}, **{f"b{i}.2": ("down2", 2) for i in (2, 3)}}),
    (convnext(1.0), {f"b{i}.2": ("stem", 4) for i in range(4)}),
]


@pytest.mark.parametrize("split", [1, 3])
@pytest.mark.parametrize(("model", "rule"), CASES, ids=["gpt", "resnet", "convnext"])
def test_stds_are_the_rule(model: ModelProto, rule: dict[str, tuple[str, int]], split: int) -> None:
    x = data(model)
    given = onnx_lsuv.from_proto(model)
    result = onnx_lsuv.initialize(given, [{"x": part} for part in np.split(x, split)], residual="auto")
    saved = ModelProto.FromString(onnx_lsuv.to_bytes(result.model))
    rows = {row.name: row for row in result.layers}
    for name, (stream, length) in rule.items():
        own, whole = stds(saved, x, [name, stream])
        assert own == pytest.approx(whole / math.sqrt(length), rel=0.005)
        assert rows[name].target == pytest.approx(own, rel=0.005)
    for checked in (
        onnx_lsuv.measure(result.model, {"x": x}, like=result),
        onnx_lsuv.measure(result.model, {"x": x}, residual="auto"),
    ):
        assert checked.good
    assert not onnx_lsuv.measure(result.model, {"x": x}, residual="off").good


def test_stream_of_another_size() -> None:
    """A stream that the data bring, untouched by any layer, sets the target, with kept biases too."""
    model = gpt(bias=0.01)
    x = 10 * data(model)
    result = onnx_lsuv.initialize(
        onnx_lsuv.from_proto(model), {"x": x}, residual="auto", exclude=["embed"], keep_bias=True
    )
    found = onnx_lsuv.measure(result.model, {"x": x}, like=result)
    rows = {row.name: row for row in found.layers}
    assert found.good
    assert rows["b0.2"].target > 2
    assert len({row.target for name, row in rows.items() if name in {f"b{i}.2" for i in range(4)}}) == 1


def test_named_target_wins() -> None:
    model = gpt()
    result = onnx_lsuv.initialize(
        onnx_lsuv.from_proto(model), {"x": data(model)}, residual="auto", target={"b1.2": 0.7, "b2.2": 0}
    )
    rows = {row.name: row.target for row in result.layers}
    assert rows["b1.2"] == 0.7
    assert rows["b2.2"] == 0
    assert rows["b0.2"] == pytest.approx(0.5)


def test_what_is_no_choice() -> None:
    with pytest.raises(UsageError, match="residual must be auto or off, not 'on'"):
        onnx_lsuv.plan(onnx_lsuv.from_proto(gpt()), residual="on")
