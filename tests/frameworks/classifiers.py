"""Small classifiers of handwritten digits, written node by node as exporters write them, and the digits.

`MODELS[name]()` builds a model, `digits(shape)` returns the data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, checker, helper, numpy_helper

Array = NDArray[Any]
BATCH = 64
TRAIN = 1477  # of 1797 digits; the other 320 are held out: five whole batches


@dataclass
class Net:
    """A graph that grows node by node; every method returns the name of what it computed."""

    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    nodes: list[NodeProto] = field(default_factory=list)
    tensors: dict[str, TensorProto] = field(default_factory=dict)

    def node(self, op: str, name: str, *inputs: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [f"{name}_out"], name, **attributes))
        return f"{name}_out"

    def floats(self, name: str, values: Any) -> str:
        self.tensors[name] = numpy_helper.from_array(np.asarray(values, np.float32), name)
        return name

    def ints(self, name: str, values: Any) -> str:
        self.tensors[name] = numpy_helper.from_array(np.asarray(values, np.int64), name)
        return name

    def drawn(self, name: str, *shape: int, fan_in: int) -> str:
        """Draw as PyTorch's layers start: uniform in +-1/sqrt(fan_in)."""
        return self.floats(name, self.rng.uniform(-1 / sqrt(fan_in), 1 / sqrt(fan_in), shape))

    def conv(self, x: str, name: str, channels: int, out: int) -> str:
        weight = self.drawn(f"{name}.weight", out, channels, 3, 3, fan_in=channels * 9)
        bias = self.drawn(f"{name}.bias", out, fan_in=channels * 9)
        return self.node("Conv", name, x, weight, bias, kernel_shape=[3, 3], pads=[1] * 4, strides=[1, 1])

    def norm(self, x: str, name: str, channels: int) -> str:
        """A BatchNormalization in inference form."""
        values = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
        parts = [self.floats(f"{name}.{key}", np.full(channels, value)) for key, value in values.items()]
        return self.node("BatchNormalization", name, x, *parts, epsilon=1e-5, momentum=0.9)

    def relu(self, x: str, name: str) -> str:
        return self.node("Relu", name, x)

    def pool(self, x: str, name: str) -> str:
        return self.node("MaxPool", name, x, kernel_shape=[2, 2], strides=[2, 2])

    def gemm(self, x: str, name: str, features: int, out: int) -> str:
        weight = self.drawn(f"{name}.weight", out, features, fan_in=features)
        bias = self.drawn(f"{name}.bias", out, fan_in=features)
        return self.node("Gemm", name, x, weight, bias, transB=1)

    def dense(self, x: str, name: str, features: int, out: int) -> str:
        weight = self.drawn(f"{name}.weight", features, out, fan_in=features)
        bias = self.drawn(f"{name}.bias", out, fan_in=features)
        return self.node("Add", f"{name}.add", self.node("MatMul", f"{name}.matmul", x, weight), bias)

    def model(
        self, logits: str, shape: list[int | str], *, opset: int = 17, ir_version: int = 8, listed: bool = False
    ) -> ModelProto:
        """Finish: input `image`, output `logits`; `listed` puts the initializers among the inputs, as old files do."""
        next(node for node in self.nodes if logits in node.output).output[0] = "logits"
        inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)]
        if listed:
            inputs += [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in self.tensors.values()]
        outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])]
        graph = helper.make_graph(self.nodes, "digits", inputs, outputs, list(self.tensors.values()))
        model = helper.make_model(graph, ir_version=ir_version, opset_imports=[helper.make_opsetid("", opset)])
        checker.check_model(model, full_check=True)
        return model


def convolutional(*, norms: bool, **versions: Any) -> ModelProto:
    """Two convolutions, each pooled, and two dense layers as Gemm."""
    net = Net()
    x = "image"
    for i, (channels, out) in enumerate([(1, 16), (16, 32)], 1):
        x = net.conv(x, f"conv{i}", channels, out)
        x = net.norm(x, f"bn{i}", out) if norms else x
        x = net.pool(net.relu(x, f"relu{i}"), f"pool{i}")
    x = net.node("Flatten", "flatten", x, axis=1)
    x = net.relu(net.gemm(x, "fc1", 128, 64), "relu3")
    return net.model(net.gemm(x, "fc2", 64, 10), ["N", 1, 8, 8], **versions)


def mlp() -> ModelProto:
    """Three dense layers, each a MatMul and an Add."""
    net = Net()
    x = net.relu(net.dense("image", "fc1", 64, 128), "relu1")
    x = net.relu(net.dense(x, "fc2", 128, 64), "relu2")
    return net.model(net.dense(x, "fc3", 64, 10), ["N", 64])


def transformer(*, written_out: bool, gemms: bool = False) -> ModelProto:
    """A transformer encoder, norms first: the image's 8 rows are the tokens; 2 blocks, width 32, 4 heads.

    `gemms` writes its dense layers as Gemm between two Reshapes, which join and part samples and tokens.
    """
    net, width, heads, tokens = Net(), 32, 4, 8

    def dense(x: str, name: str, features: int, out: int) -> str:
        if not gemms:
            return net.dense(x, name, features, out)
        x = net.node("Reshape", f"{name}.join", x, net.ints(f"{name}.joined", [-1, features]))
        parted = net.ints(f"{name}.parted", [-1, tokens, out])
        return net.node("Reshape", f"{name}.part", net.gemm(x, name, features, out), parted)

    def norm(x: str, name: str) -> str:
        scale, bias = net.floats(f"{name}.weight", np.ones(width)), net.floats(f"{name}.bias", np.zeros(width))
        if not written_out:
            return net.node("LayerNormalization", name, x, scale, bias, axis=-1, epsilon=1e-5)
        mean = net.node("ReduceMean", f"{name}.mean", x, axes=[-1], keepdims=1)
        centred = net.node("Sub", f"{name}.centre", x, mean)
        square = net.node("Pow", f"{name}.square", centred, net.floats(f"{name}.two", 2.0))
        var = net.node("ReduceMean", f"{name}.var", square, axes=[-1], keepdims=1)
        shifted = net.node("Add", f"{name}.shift", var, net.floats(f"{name}.epsilon", 1e-5))
        normal = net.node("Div", f"{name}.divide", centred, net.node("Sqrt", f"{name}.std", shifted))
        return net.node("Add", f"{name}.add", net.node("Mul", f"{name}.mul", normal, scale), bias)

    def split(x: str, name: str, perm: list[int]) -> str:
        shape = net.ints(f"{name}.shape", [0, tokens, heads, width // heads])
        return net.node("Transpose", f"{name}.transpose", net.node("Reshape", f"{name}.split", x, shape), perm=perm)

    x = dense("image", "embed", 8, width)
    x = net.node("Add", "place", x, net.floats("position", net.rng.normal(0, 0.02, (1, tokens, width))))
    for block in ("block1", "block2"):
        y = norm(x, f"{block}.norm1")
        q = split(dense(y, f"{block}.q", width, width), f"{block}.q", [0, 2, 1, 3])
        k = split(dense(y, f"{block}.k", width, width), f"{block}.k", [0, 2, 3, 1])
        v = split(dense(y, f"{block}.v", width, width), f"{block}.v", [0, 2, 1, 3])
        scores = net.node("MatMul", f"{block}.scores", q, k)
        scores = net.node("Mul", f"{block}.scale", scores, net.floats(f"{block}.factor", (width / heads) ** -0.5))
        mixed = net.node("MatMul", f"{block}.mix", net.node("Softmax", f"{block}.softmax", scores, axis=-1), v)
        mixed = net.node("Transpose", f"{block}.gather", mixed, perm=[0, 2, 1, 3])
        mixed = net.node("Reshape", f"{block}.join", mixed, net.ints(f"{block}.joined", [0, tokens, width]))
        x = net.node("Add", f"{block}.residual1", x, dense(mixed, f"{block}.o", width, width))
        y = net.relu(dense(norm(x, f"{block}.norm2"), f"{block}.ff1", width, 64), f"{block}.relu")
        x = net.node("Add", f"{block}.residual2", x, dense(y, f"{block}.ff2", 64, width))
    x = net.node("ReduceMean", "mean", norm(x, "norm"), axes=[1], keepdims=0)
    return net.model(net.gemm(x, "head", width, 10), ["N", tokens, 8])


MODELS: dict[str, Callable[[], ModelProto]] = {
    "cnn": lambda: convolutional(norms=False),
    "cnn-bn": lambda: convolutional(norms=True),
    "mlp": mlp,
    "transformer": lambda: transformer(written_out=False),
    "transformer-written-out": lambda: transformer(written_out=True),
    "cnn-bn-opset9": lambda: convolutional(norms=True, opset=9, ir_version=4, listed=True),
}


def parameters(model: ModelProto) -> tuple[list[str], list[str]]:
    """Return the names of the tensors to train, and of the running statistics, which are not trained."""
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    statistics = [name for node in norms for name in node.input[3:]]
    types = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
    floats = [t.name for t in model.graph.initializer if t.data_type in types and t.dims]
    return [name for name in floats if name not in statistics], statistics


def digits(shape: tuple[int, ...]) -> tuple[Array, Array, Array, Array]:
    """Return images of a shape and labels to train on, then those held out; the same for everybody."""
    from sklearn.datasets import load_digits  # noqa: PLC0415 - only where data are made

    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    images = ((data.data - data.data.mean()) / data.data.std()).astype(np.float32).reshape(-1, *shape)[order]
    labels = data.target.astype(np.int64)[order]
    return images[:TRAIN], labels[:TRAIN], images[TRAIN:], labels[TRAIN:]
