"""Remake the sample models and their calibration batches: `python sample_models/make.py [FOLDER]`.

The weights are what a training framework exports before training, so they are far from unit variance in depth:
uniform in +-1/sqrt(fan_in), as PyTorch's Conv2d and Linear start, or He normal for the residual network.
The same versions of NumPy, onnx and scikit-learn give the same bytes again.
"""

import sys
from collections.abc import Callable
from itertools import pairwise
from math import prod, sqrt
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper, save
from sklearn.datasets import load_digits

OPSET, IR_VERSION = 17, 8
Draw = Callable[[np.random.Generator, tuple[int, ...], int], np.ndarray]


def uniform(rng: np.random.Generator, shape: tuple[int, ...], fan_in: int) -> np.ndarray:
    """PyTorch's default start: variance 1 / (3 fan_in)."""
    return rng.uniform(-1 / sqrt(fan_in), 1 / sqrt(fan_in), shape)


def he(rng: np.random.Generator, shape: tuple[int, ...], fan_in: int) -> np.ndarray:
    """Normal with variance 2 / fan_in (He et al. 2015, arXiv 1502.01852)."""
    return rng.normal(0, sqrt(2 / fan_in), shape)


class Net:
    """A graph that grows node by node; every method returns the name of what it computed.

    `path` is the module's name as PyTorch would have it: `layer1.0.conv1` gives the initializer
    `layer1.0.conv1.weight` and the node `/layer1/0/conv1/Conv`.
    """

    def __init__(self, seed: int, draw: Draw = uniform) -> None:
        self.rng, self.draw = np.random.default_rng(seed), draw
        self.nodes, self.initializers = [], {}

    def node(self, op: str, path: str, inputs: list[str], outputs: int = 1, **attributes: object) -> str:
        name = "/" + "/".join([*path.split("."), op]).lstrip("/")
        repeats = sum(node.name == name or node.name.startswith(f"{name}_") for node in self.nodes)
        name += f"_{repeats}" if repeats else ""
        results = [f"{name}_output_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, results, name, **attributes))
        return results[0]

    def tensor(self, name: str, values: np.ndarray) -> str:
        self.initializers[name] = numpy_helper.from_array(values, name)
        return name

    def floats(self, name: str, values: object) -> str:
        return self.tensor(name, np.asarray(values, np.float32))

    def ints(self, name: str, values: object) -> str:
        return self.tensor(name, np.asarray(values, np.int64))

    def drawn(self, name: str, shape: tuple[int, ...], fan_in: int) -> str:
        return self.floats(name, self.draw(self.rng, shape, fan_in))

    def conv(self, x: str, path: str, channels: int, out: int, *, kernel: int = 3, stride: int = 1) -> str:
        """A square convolution that keeps the size but for its stride."""
        shape = (out, channels, kernel, kernel)
        weight = self.drawn(f"{path}.weight", shape, prod(shape[1:]))
        bias = self.floats(f"{path}.bias", uniform(self.rng, (out,), prod(shape[1:])))
        attributes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [kernel // 2] * 4}
        return self.node("Conv", path, [x, weight, bias], **attributes)

    def relu(self, x: str, path: str = "") -> str:
        return self.node("Relu", path, [x])

    def gemm(self, x: str, path: str, features: int, out: int) -> str:
        """A linear layer on (N, features), as exporters write it: weight (out, features)."""
        weight = self.drawn(f"{path}.weight", (out, features), features)
        bias = self.floats(f"{path}.bias", uniform(self.rng, (out,), features))
        return self.node("Gemm", path, [x, weight, bias], transB=1)

    def linear(self, x: str, path: str, features: int, out: int) -> str:
        """A linear layer on (..., features), as exporters write it: weight (features, out), bias on the Add's left."""
        weight = self.drawn(f"{path}.weight", (features, out), features)
        bias = self.floats(f"{path}.bias", uniform(self.rng, (out,), features))
        return self.node("Add", path, [bias, self.node("MatMul", path, [x, weight])])

    def model(self, name: str, inputs: dict[str, tuple[int, list[int | str]]], result: str, shape: list) -> ModelProto:
        """Finish: `result` becomes the output `logits`; the checker sees the whole model, shapes inferred strictly."""
        producer = next(node for node in self.nodes if result in node.output)
        producer.output[0] = "logits"
        graph = helper.make_graph(
            self.nodes,
            name,
            [helper.make_tensor_value_info(key, *value) for key, value in inputs.items()],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
            list(self.initializers.values()),
        )
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, ir_version=IR_VERSION, opset_imports=opsets, producer_name="sample_models")
        checker.check_model(model, full_check=True)
        return model


def fitnet_digits() -> ModelProto:
    """A deep, thin, plain network in the manner of FitNets (Romero et al. 2015, arXiv 1412.6550): 18 convolutions."""
    net, x, channels = Net(seed=1), "image", 1
    for stage, width in enumerate([16, 24, 32], 1):
        for i in range(1, 7):
            x = net.relu(net.conv(x, f"conv{stage}_{i}", channels, width), f"relu{stage}_{i}")
            channels = width
        if stage < 3:
            x = net.node("MaxPool", f"pool{stage}", [x], kernel_shape=[2, 2], strides=[2, 2])
    x = net.node("Flatten", "flatten", [net.node("GlobalMaxPool", "pool3", [x])], axis=1)
    image = (TensorProto.FLOAT, ["N", 1, 8, 8])
    return net.model("fitnet_digits", {"image": image}, net.gemm(x, "fc", channels, 10), ["N", 10])


def resnet_nonorm() -> ModelProto:
    """A residual network without normalisation: stem, three stages of two basic blocks, 1x1 shortcuts, classifier."""
    net, channels = Net(seed=2, draw=he), 16
    x = net.relu(net.conv("image", "conv1", 3, channels), "relu")
    for stage, width in enumerate([16, 32, 64], 1):
        for block in range(2):
            path, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = net.relu(net.conv(x, f"{path}.conv1", channels, width, stride=stride), f"{path}.relu")
            y = net.conv(y, f"{path}.conv2", width, width)
            if channels != width:
                x = net.conv(x, f"{path}.downsample.0", channels, width, kernel=1, stride=stride)
            x = net.relu(net.node("Add", path, [y, x]), f"{path}.relu")
            channels = width
    x = net.node("Flatten", "", [net.node("GlobalAveragePool", "avgpool", [x])], axis=1)
    image = (TensorProto.FLOAT, ["N", 3, 32, 32])
    return net.model("resnet_nonorm", {"image": image}, net.gemm(x, "fc", channels, 10), ["N", 10])


def mlp() -> ModelProto:
    """Ten linear layers of MatMul and Add."""
    net, x, sizes = Net(seed=3), "pixels", [64, *[128] * 9, 10]
    for i, (features, out) in enumerate(pairwise(sizes), 1):
        x = net.linear(x, f"fc{i}", features, out)
        if i < len(sizes) - 1:
            x = net.relu(x, f"relu{i}")
    return net.model("mlp", {"pixels": (TensorProto.FLOAT, ["N", 64])}, x, ["N", 10])


def layer_norm(net: Net, x: str, path: str, width: int) -> str:
    scale = net.floats(f"{path}.weight", np.ones(width))
    bias = net.floats(f"{path}.bias", np.zeros(width))
    return net.node("LayerNormalization", path, [x, scale, bias], axis=-1, epsilon=1e-5)


def gelu(net: Net, x: str, path: str) -> str:
    """x (1 + erf(x / sqrt 2)) / 2."""
    erf = net.node("Erf", path, [net.node("Div", path, [x, net.floats("sqrt2", sqrt(2))])])
    gate = net.node("Add", path, [erf, net.floats("one", 1)])
    return net.node("Mul", path, [net.node("Mul", path, [x, gate]), net.floats("half", 0.5)])


def attention(net: Net, x: str, path: str, width: int, heads: int) -> str:
    """Self-attention over (N, T, width) with separate projections."""
    split = net.ints("split_heads", [0, 0, heads, width // heads])
    parts = {}
    for part, perm in {"q": [0, 2, 1, 3], "k": [0, 2, 3, 1], "v": [0, 2, 1, 3]}.items():
        projected = net.linear(x, f"{path}.{part}_proj", width, width)
        parts[part] = net.node("Transpose", path, [net.node("Reshape", path, [projected, split])], perm=perm)
    scores = net.node("MatMul", path, [parts["q"], parts["k"]])
    scores = net.node("Mul", path, [scores, net.floats("scale", 1 / sqrt(width // heads))])
    mixed = net.node("MatMul", path, [net.node("Softmax", path, [scores], axis=-1), parts["v"]])
    mixed = net.node("Transpose", path, [mixed], perm=[0, 2, 1, 3])
    mixed = net.node("Reshape", path, [mixed, net.ints("merge_heads", [0, 0, width])])
    return net.linear(mixed, f"{path}.out_proj", width, width)


def transformer(vocabulary: int = 512, width: int = 64, heads: int = 4, longest: int = 64) -> ModelProto:
    """A text classifier: token and position embeddings, two post-norm encoder layers, mean over tokens."""
    net = Net(seed=4)
    words = net.floats("token_embedding.weight", net.rng.normal(0, 1, (vocabulary, width)))
    places = net.floats("position_embedding.weight", net.rng.normal(0, 0.1, (longest, width)))
    tokens = net.node("Gather", "token_embedding", [words, "ids"])
    length = net.node("Gather", "", [net.node("Shape", "", ["ids"]), net.ints("axis_1", 1)])
    order = net.node("Range", "", [net.ints("zero", 0), length, net.ints("step", 1)])
    x = net.node("Add", "", [tokens, net.node("Gather", "position_embedding", [places, order])])
    for i in range(2):
        path = f"layers.{i}"
        x = net.node("Add", path, [x, attention(net, x, f"{path}.self_attn", width, heads)])
        x = layer_norm(net, x, f"{path}.norm1", width)
        y = gelu(net, net.linear(x, f"{path}.linear1", width, 4 * width), f"{path}.gelu")
        x = net.node("Add", path, [x, net.linear(y, f"{path}.linear2", 4 * width, width)])
        x = layer_norm(net, x, f"{path}.norm2", width)
    x = net.node("ReduceMean", "", [x], axes=[1], keepdims=0)
    ids = (TensorProto.INT64, ["N", "T"])
    return net.model("transformer", {"ids": ids}, net.gemm(x, "classifier", width, 4), ["N", 4])


def digits(samples: int) -> np.ndarray:
    """The first digits of scikit-learn's data, (samples, 64), mean 0 and variance 1 over all pixels."""
    pixels = load_digits().data[:samples]
    return ((pixels - pixels.mean()) / pixels.std()).astype(np.float32)


def smooth_images(samples: int, channels: int, size: int, seed: int) -> np.ndarray:
    """Random images with an amplitude spectrum of 1/f, as photographs have, mean 0 and variance 1."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size))
    frequency[0, 0] = 1 / size
    noise = np.random.default_rng(seed).normal(size=(samples, channels, size, size))
    images = np.fft.irfft2(np.fft.rfft2(noise) / frequency, s=(size, size))
    # Rounded, so that the last bits of another machine's Fourier transform do not show.
    return ((images - images.mean()) / images.std()).round(4).astype(np.float32)


def token_ids(samples: int, length: int, vocabulary: int, seed: int) -> np.ndarray:
    """Random token ids, frequent ones first, as words come in text (Zipf's law)."""
    frequency = 1 / np.arange(1, vocabulary + 1)
    return np.random.default_rng(seed).choice(vocabulary, (samples, length), p=frequency / frequency.sum())


def main(folder: Path) -> None:
    for build in (fitnet_digits, resnet_nonorm, mlp, transformer):
        save(build(), folder / f"{build.__name__}.onnx")
    pixels = digits(256)
    np.save(folder / "fitnet_digits.npy", pixels.reshape(-1, 1, 8, 8))
    np.save(folder / "mlp.npy", pixels)
    np.save(folder / "resnet_nonorm.npy", smooth_images(32, 3, 32, seed=5))
    np.savez(folder / "transformer.npz", ids=token_ids(64, 24, 512, seed=6).astype(np.int64))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
