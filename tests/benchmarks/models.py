"""Models of real size: each function writes an ONNX file and returns its path.

Opset 17, IR version 8, free batch axis `N`, input `image`, output `logits`; weights are He normal, biases uniform in
+-1/sqrt(fan_in), stored as raw data. With `norms` a BatchNormalization stands in the place of each convolution's bias;
without, there is none. The layouts and names follow torchvision where it has the network. For a quick
look, `thin` divides every width and `size` is another width and height of the images.
"""

from collections.abc import Iterable
from itertools import pairwise
from math import prod, sqrt
from pathlib import Path

import numpy as np
from onnx import StringStringEntryProto, TensorProto, helper, numpy_helper, save

OPSET, IR_VERSION = 17, 8
PAGE = 4096


class Net:
    """A graph that grows node by node; every method returns the name of what it computed."""

    def __init__(self, seed: int, *, norms: bool = False) -> None:
        self.rng, self.norms = np.random.default_rng(seed), norms
        self.nodes, self.initializers, self.used = [], {}, {}

    def node(self, op: str, path: str, inputs: list[str], outputs: int = 1, **attributes: object) -> str | list[str]:
        name = "/" + "/".join([*path.split("."), op]).lstrip("/")
        repeats = self.used[name] = self.used.get(name, -1) + 1
        name += f"_{repeats}" if repeats else ""
        results = [f"{name}_output_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, results, name, **attributes))
        return results[0] if outputs == 1 else results

    def tensor(self, name: str, values: object, dtype: type = np.float32) -> str:
        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(np.asarray(values, dtype), name)
        return name

    def ints(self, name: str, values: object) -> str:
        return self.tensor(name, values, np.int64)

    def weight(self, path: str, shape: tuple[int, ...], fan_in: int) -> str:
        values = self.rng.standard_normal(shape, dtype=np.float32)
        values *= np.float32(sqrt(2 / fan_in))
        return self.tensor(f"{path}.weight", values)

    def bias(self, path: str, size: int, fan_in: int) -> str:
        return self.tensor(f"{path}.bias", self.rng.uniform(-1 / sqrt(fan_in), 1 / sqrt(fan_in), size))

    def conv(
        self, x: str, path: str, channels: int, out: int, kernel: int, *, stride: int = 1, pad: int = 0, groups: int = 1
    ) -> str:
        shape = (out, channels // groups, kernel, kernel)
        inputs = [x, self.weight(path, shape, prod(shape[1:]))]
        if not self.norms:
            inputs.append(self.bias(path, out, prod(shape[1:])))
        window = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4}
        y = self.node("Conv", path, inputs, group=groups, **window)
        return self.norm(y, f"{path}.norm", out) if self.norms else y

    def norm(self, x: str, path: str, channels: int) -> str:
        start = {"weight": 1, "bias": 0, "running_mean": 0, "running_var": 1}
        parameters = [self.tensor(f"{path}.{name}", np.full(channels, value)) for name, value in start.items()]
        return self.node("BatchNormalization", path, [x, *parameters])

    def relu(self, x: str, path: str = "") -> str:
        return self.node("Relu", path, [x])

    def relu6(self, x: str, path: str) -> str:
        return self.node("Clip", path, [x, self.tensor("relu6.min", 0), self.tensor("relu6.max", 6)])

    def max_pool(self, x: str, path: str, kernel: int, stride: int, *, pad: int = 0, ceil: int = 0) -> str:
        window = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4}
        return self.node("MaxPool", path, [x], ceil_mode=ceil, **window)

    def pool_flat(self, x: str) -> str:
        return self.node("Flatten", "", [self.node("GlobalAveragePool", "avgpool", [x])], axis=1)

    def gemm(self, x: str, path: str, features: int, out: int) -> str:
        inputs = [x, self.weight(path, (out, features), features), self.bias(path, out, features)]
        return self.node("Gemm", path, inputs, transB=1)

    def linear(self, x: str, path: str, features: int, out: int) -> str:
        """MatMul with a (features, out) weight and Add, as exporters write a linear layer on three axes."""
        product = self.node("MatMul", path, [x, self.weight(path, (features, out), features)])
        return self.node("Add", path, [self.bias(path, out, features), product])

    def write(self, path: Path, result: str, image: list[int | str]) -> Path:
        self.nodes[-1].output[0] = "logits"
        assert result not in {name for node in self.nodes for name in node.input}
        graph = helper.make_graph(
            self.nodes,
            Path(path).stem,
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, image)],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        )
        graph.output[0].type.tensor_type.shape.dim.add().dim_param = "N"
        graph.output[0].type.tensor_type.shape.dim.add()
        while self.initializers:  # freed one by one as they are copied
            graph.initializer.append(self.initializers.pop(next(iter(self.initializers))))
        opsets = [helper.make_opsetid("", OPSET)]
        save(helper.make_model(graph, ir_version=IR_VERSION, opset_imports=opsets, producer_name="benchmarks"), path)
        return Path(path)


def images(n: int, c: int, h: int, w: int, seed: int = 0) -> np.ndarray:
    """Random images (n, c, h, w), float32, with the 1/f amplitude spectrum of photographs; mean 0, variance 1."""
    frequency = np.hypot(np.fft.fftfreq(h)[:, None], np.fft.rfftfreq(w))
    frequency[0, 0] = 1 / max(h, w)
    rng = np.random.default_rng(seed)
    batch = np.empty((n, c, h, w), np.float32)
    for image in batch:
        image[...] = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((c, h, w))) / frequency, s=(h, w))
    batch -= batch.mean(dtype=np.float64)
    batch /= batch.std(dtype=np.float64)
    return batch


def resnet50(path: Path, seed: int = 0, *, thin: int = 1, size: int = 224, norms: bool = False) -> Path:
    """ResNet-50 v1.5 (the stride stands in the 3x3 convolution): 53 convolutions and a Gemm, 25.5 M parameters."""
    net, channels = Net(seed, norms=norms), 64 // thin
    x = net.relu(net.conv("image", "conv1", 3, channels, 7, stride=2, pad=3), "relu")
    x = net.max_pool(x, "maxpool", 3, 2, pad=1)
    for stage, (blocks, wide) in enumerate([(3, 64), (4, 128), (6, 256), (3, 512)], 1):
        width = wide // thin
        for i in range(blocks):
            block, stride = f"layer{stage}.{i}", 2 if stage > 1 and i == 0 else 1
            y = net.relu(net.conv(x, f"{block}.conv1", channels, width, 1), f"{block}.relu")
            y = net.relu(net.conv(y, f"{block}.conv2", width, width, 3, stride=stride, pad=1), f"{block}.relu")
            y = net.conv(y, f"{block}.conv3", width, 4 * width, 1)
            if i == 0:
                x = net.conv(x, f"{block}.downsample.0", channels, 4 * width, 1, stride=stride)
            x = net.relu(net.node("Add", block, [y, x]), f"{block}.relu")
            channels = 4 * width
    return net.write(path, net.gemm(net.pool_flat(x), "fc", channels, 1000), ["N", 3, size, size])


def vgg16(path: Path, seed: int = 0, *, thin: int = 1, size: int = 224) -> Path:
    """VGG-16: 13 convolutions and 3 Gemms, 138 M parameters, 553 MB."""
    net, x, channels, index = Net(seed), "image", 3, 0
    for wide, convolutions in [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)]:
        width = wide // thin
        for _ in range(convolutions):
            x = net.relu(net.conv(x, f"features.{index}", channels, width, 3, pad=1), f"features.{index + 1}")
            channels, index = width, index + 2
        x = net.max_pool(x, f"features.{index}", 2, 2)
        index += 1
    x = net.node("Flatten", "", [x], axis=1)
    width = 4096 // thin
    x = net.relu(net.gemm(x, "classifier.0", channels * (size // 32) ** 2, width), "classifier.1")
    x = net.relu(net.gemm(x, "classifier.3", width, width), "classifier.4")
    return net.write(path, net.gemm(x, "classifier.6", width, 1000), ["N", 3, size, size])


def mobilenet_v2(path: Path, seed: int = 0, *, thin: int = 1, size: int = 224, norms: bool = False) -> Path:
    """MobileNet v2: 52 convolutions, 17 of them depthwise, and a Gemm, 3.5 M parameters."""
    net, channels, index = Net(seed, norms=norms), 32 // thin, 1
    x = net.relu6(net.conv("image", "features.0.0", 3, channels, 3, stride=2, pad=1), "features.0.2")
    table = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    for expansion, wide, blocks, first_stride in table:
        out = wide // thin
        for i in range(blocks):
            y, step, hidden, stride = x, 0, channels * expansion, first_stride if i == 0 else 1
            block = f"features.{index}"
            if expansion > 1:
                y = net.relu6(net.conv(y, f"{block}.conv.0.0", channels, hidden, 1), f"{block}.conv.0.2")
                step = 1
            part = f"{block}.conv.{step}"
            y = net.conv(y, f"{part}.0", hidden, hidden, 3, stride=stride, pad=1, groups=hidden)
            y = net.conv(net.relu6(y, f"{part}.2"), f"{block}.conv.{step + 1}", hidden, out, 1)
            x = net.node("Add", block, [x, y]) if stride == 1 and channels == out else y
            channels, index = out, index + 1
    x = net.relu6(net.conv(x, "features.18.0", channels, 1280 // thin, 1), "features.18.2")
    return net.write(path, net.gemm(net.pool_flat(x), "classifier.1", 1280 // thin, 1000), ["N", 3, size, size])


def squeezenet(path: Path, seed: int = 0, *, thin: int = 1, size: int = 224) -> Path:
    """SqueezeNet 1.1: 26 convolutions, 1.2 M parameters."""
    net, channels = Net(seed), 64 // thin
    x = net.relu(net.conv("image", "features.0", 3, channels, 3, stride=2), "features.1")
    x = net.max_pool(x, "features.2", 3, 2, ceil=1)
    fires = {3: (16, 64), 4: (16, 64), 6: (32, 128), 7: (32, 128)}
    fires |= {9: (48, 192), 10: (48, 192), 11: (64, 256), 12: (64, 256)}
    for index in range(3, 13):
        fire = f"features.{index}"
        if index not in fires:
            x = net.max_pool(x, fire, 3, 2, ceil=1)
            continue
        squeezed, expanded = (wide // thin for wide in fires[index])
        x = net.relu(net.conv(x, f"{fire}.squeeze", channels, squeezed, 1), f"{fire}.squeeze_activation")
        small = net.relu(net.conv(x, f"{fire}.expand1x1", squeezed, expanded, 1), f"{fire}.expand1x1_activation")
        large = net.conv(x, f"{fire}.expand3x3", squeezed, expanded, 3, pad=1)
        x = net.node("Concat", fire, [small, net.relu(large, f"{fire}.expand3x3_activation")], axis=1)
        channels = 2 * expanded
    x = net.relu(net.conv(x, "classifier.1", channels, 1000, 1), "classifier.2")
    return net.write(path, net.pool_flat(x), ["N", 3, size, size])


def vit_tiny(path: Path, seed: int = 0, *, thin: int = 1, size: int = 224, width: int = 192, heads: int = 3) -> Path:
    """ViT-Ti/16: a patch convolution, 48 linear layers of MatMul and Add, a Gemm, 5.7 M parameters.

    ViT-B/16 has a width of 768, and 12 heads: 86 M parameters.
    """
    net, width, tokens = Net(seed), width // thin, (size // 16) ** 2 + 1

    def norm(x: str, path: str) -> str:
        scale, bias = net.tensor(f"{path}.weight", np.ones(width)), net.tensor(f"{path}.bias", np.zeros(width))
        return net.node("LayerNormalization", path, [x, scale, bias], axis=-1, epsilon=1e-6)

    def attention(x: str, path: str) -> str:
        x = net.linear(x, f"{path}.qkv", width, 3 * width)
        x = net.node("Reshape", path, [x, net.ints("qkv_shape", [0, 0, 3, heads, width // heads])])
        parts = net.node("Split", path, [net.node("Transpose", path, [x], perm=[2, 0, 3, 1, 4])], outputs=3, axis=0)
        query, key, value = (net.node("Squeeze", path, [part, net.ints("axis_0", [0])]) for part in parts)
        scores = net.node("MatMul", path, [query, net.node("Transpose", path, [key], perm=[0, 1, 3, 2])])
        scores = net.node("Mul", path, [scores, net.tensor("attention_scale", sqrt(heads / width))])
        x = net.node("MatMul", path, [net.node("Softmax", path, [scores], axis=-1), value])
        x = net.node("Transpose", path, [x], perm=[0, 2, 1, 3])
        x = net.node("Reshape", path, [x, net.ints("merge_heads", [0, 0, width])])
        return net.linear(x, f"{path}.proj", width, width)

    def gelu(x: str, path: str) -> str:
        erf = net.node("Erf", path, [net.node("Div", path, [x, net.tensor("sqrt2", sqrt(2))])])
        gate = net.node("Add", path, [erf, net.tensor("one", 1)])
        return net.node("Mul", path, [net.node("Mul", path, [x, gate]), net.tensor("half", 0.5)])

    x = net.conv("image", "patch_embed.proj", 3, width, 16, stride=16)
    x = net.node("Reshape", "patch_embed", [x, net.ints("patch_embed.shape", [0, 0, -1])])
    x = net.node("Transpose", "patch_embed", [x], perm=[0, 2, 1])
    rows = net.node("Slice", "", [net.node("Shape", "", ["image"]), net.ints("axis_0", [0]), net.ints("axis_1", [1])])
    shape = net.node("Concat", "", [rows, net.ints("cls_token.shape", [1, width])], axis=0)
    cls_token = net.tensor("cls_token", net.rng.normal(0, 0.02, (1, 1, width)))
    x = net.node("Concat", "", [net.node("Expand", "", [cls_token, shape]), x], axis=1)
    x = net.node("Add", "", [x, net.tensor("pos_embed", net.rng.normal(0, 0.02, (1, tokens, width)))])
    for i in range(12):
        block = f"blocks.{i}"
        x = net.node("Add", block, [x, attention(norm(x, f"{block}.norm1"), f"{block}.attn")])
        y = net.linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1", width, 4 * width)
        y = net.linear(gelu(y, f"{block}.mlp.act"), f"{block}.mlp.fc2", 4 * width, width)
        x = net.node("Add", block, [x, y])
    x = net.node("Gather", "", [norm(x, "norm"), net.ints("cls_index", 0)], axis=1)
    return net.write(path, net.gemm(x, "head", width, 1000), ["N", 3, size, size])


def plain(net: Net, widths: Iterable[int | None], channels: int = 3) -> tuple[str, int]:
    """3x3 convolutions with ReLU; None stands for a 2x2 max pooling. Returns the last value and its channels."""
    x = "image"
    for i, width in enumerate(widths):
        if width is None:
            x = net.max_pool(x, f"features.{i}", 2, 2)
        else:
            x = net.relu(net.conv(x, f"features.{i}", channels, width, 3, pad=1), f"features.{i}")
            channels = width
    return x, channels


def fitnet4(path: Path, seed: int = 0, *, thin: int = 1, size: int = 32) -> Path:
    """FitNet-4 (Romero et al. 2015, arXiv 1412.6550) for 32x32 images, with ReLU: 17 convolutions and 2 Gemms."""
    net = Net(seed)
    widths = [32, 32, 32, 48, 48, None, *[80] * 6, None, *[128] * 6]
    x, channels = plain(net, [wide and wide // thin for wide in widths])
    x = net.node("Flatten", "", [net.max_pool(x, "pool", size // 4, size // 4)], axis=1)
    x = net.relu(net.gemm(x, "fc1", channels, 500 // thin), "relu")
    return net.write(path, net.gemm(x, "fc2", 500 // thin, 10), ["N", 3, size, size])


def thin_net(path: Path, layers: int = 200, width: int = 16, size: int = 32, seed: int = 0) -> Path:
    """A very deep plain network of `layers` convolutions: what every further layer costs on top of the arithmetic."""
    net = Net(seed)
    x, channels = plain(net, [width] * layers)
    return net.write(path, net.gemm(net.pool_flat(x), "fc", channels, 10), ["N", 3, size, size])


def wide_mlp(path: Path, width: int = 4096, layers: int = 8, features: int = 256, seed: int = 0) -> Path:
    """`layers` Gemms, `layers - 2` of them (width, width), for an input `image` (N, features).

    The tensors are in `<path>.data` beside the model, each at a multiple of the page size, and written one by one, so
    that the file may be larger than memory (35 layers of 4096 units are more than 2 GiB).
    """
    path, net, x = Path(path), Net(seed), "image"
    data = path.with_name(f"{path.name}.data")
    sizes = [features, *[width] * (layers - 1), 10]
    stubs: list[TensorProto] = []
    with data.open("wb") as file:
        for i, (fan_in, out) in enumerate(pairwise(sizes)):
            layer = f"layers.{i}"
            x = net.gemm(x, layer, fan_in, out)
            for name in (f"{layer}.weight", f"{layer}.bias"):
                tensor = net.initializers.pop(name)
                file.write(bytes(-file.tell() % PAGE))
                place = {"location": data.name, "offset": file.tell(), "length": len(tensor.raw_data)}
                file.write(tensor.raw_data)
                stubs.append(
                    TensorProto(
                        name=name,
                        data_type=tensor.data_type,
                        dims=tensor.dims,
                        data_location=TensorProto.EXTERNAL,
                        external_data=[StringStringEntryProto(key=key, value=str(at)) for key, at in place.items()],
                    )
                )
            if i < layers - 1:
                x = net.relu(x, layer)
    net.initializers = {stub.name: stub for stub in stubs}
    return net.write(path, x, ["N", features])
