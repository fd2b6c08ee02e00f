"""Random graphs of the operators that networks for images are made of, each with batches and options.

`random_case(seed)` is the same for the same seed and NumPy. Values are float32 of known shapes; what an operator gives
is found by ONNX's shape inference of that one node.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

Array = NDArray[Any]

OPSETS = (9, 11, 12, 13, 14, 17, 18, 20, 22)
WIDTHS = (3, 4, 6, 8, 12, 16, 20, 32, 36, 48)
LARGEST = 40_000  # values that grow beyond are not used any more


@dataclass
class Case:
    """A model, its data, and the options to initialise it with."""

    model: ModelProto
    batches: list[dict[str, Array]]
    options: dict[str, Any]


@dataclass
class Net:
    """A random graph in the making."""

    rng: np.random.Generator
    opset: int
    nodes: list[NodeProto] = field(default_factory=list)
    tensors: dict[str, Array] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    pool: list[str] = field(default_factory=list)  # what later nodes may read
    count: int = 0

    def pick(self, *of: Any) -> Any:
        return of[self.rng.integers(len(of))]

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def tensor(self, array: Any) -> str:
        name = f"t{len(self.tensors)}"
        self.tensors[name] = np.asarray(array)
        return name

    def normal(self, *shape: int) -> str:
        return self.tensor(self.rng.standard_normal(shape).astype(np.float32))

    def ints(self, *values: int) -> str:
        return self.tensor(np.array(values, np.int64))

    def number(self, value: float) -> str:
        return self.tensor(np.float32(value))

    def ops(self, op_type: str, *inputs: str, outputs: int = 1, **attributes: Any) -> list[str]:
        """Append a node."""
        names = [f"v{self.count + i}" for i in range(outputs)]
        node = helper.make_node(op_type, list(inputs), names, **attributes)
        known = [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, self.shapes[n]) for n in inputs if n in self.shapes
        ]
        fixed = [numpy_helper.from_array(self.tensors[n], n) for n in inputs if n in self.tensors]
        graph = helper.make_graph([node], "one", known, [ValueInfoProto(name=n) for n in names], fixed)
        one = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        for value in onnx.shape_inference.infer_shapes(one, strict_mode=True, data_prop=True).graph.output:
            self.shapes[value.name] = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
        self.count += outputs
        self.nodes.append(node)
        return names

    def op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Append a node of one output, of which inference knows the shape."""
        return self.ops(op_type, *inputs, **attributes)[0]

    def raw(self, op_type: str, *inputs: str, shape: tuple[int, ...], **attributes: Any) -> str:
        """Append a node whose output's shape is given."""
        name = f"v{self.count}"
        self.count += 1
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], **attributes))
        self.shapes[name] = shape
        return name

    def value(self, *ranks: int) -> str | None:
        """Return a value of such a rank, later ones more often, so that graphs get deep."""
        fits = [n for n in self.pool if len(self.shapes[n]) in ranks]
        return fits[max(self.rng.integers(len(fits), size=2))] if fits else None

    def mate(self, x: str) -> str:
        """Return a value of the same shape, perhaps the same."""
        return str(self.pick(*[n for n in self.pool if self.shapes[n] == self.shapes[x]], x))

    # ------------------------------------------------------------------------------------------------------ layers

    def conv(self, x: str) -> str:
        _, c, h, w = self.shapes[x]
        kind = self.pick("full", "full", "depthwise", "grouped")
        m, k = int(self.pick(*WIDTHS)), int(self.pick(1, 1, 2, 3, 3, 5))
        group, d = 1, int(self.pick(1, 1, 2)) if k > 1 else 1
        if kind == "depthwise":
            group, m = c, c * int(self.pick(1, 1, 2))
        elif kind == "grouped":
            group = int(self.pick(2, 4))
            group = 1 if c % group or m % group else group
        kernel, pads = (k, k), [d * (k // 2)] * 4
        given: dict[str, Any] = {}
        style = self.pick("same", "same", "uneven", "auto", "flat")
        if style == "auto" and d == 1:
            given["auto_pad"], pads = self.pick("SAME_UPPER", "SAME_LOWER"), []
        elif style == "uneven" and min(h, w) > d * k:
            pads = [d * (k - 1), 0, 0, d * (k - 1) + 1]
        elif style == "flat" and k > 1:
            kernel = self.pick((1, k), (k, 1), (k, k + 1))
            pads = [d * (kernel[0] // 2), d * (kernel[1] // 2), d * (kernel[0] // 2) + 1, d * (kernel[1] // 2) + 2]
        given |= {"pads": pads} if pads else {}
        given |= {"dilations": [d, d]} if d > 1 else {}
        given |= {"strides": self.pick([1, 2], [2, 1], [2, 2], [3, 4])} if self.chance(0.3) else {}
        given |= {"group": group} if group > 1 else {}
        given |= {"kernel_shape": kernel} if self.chance(0.5) else {}
        bias = [self.normal(m)] if self.chance(0.4) else []
        return self.op("Conv", x, self.normal(m, c // group, *kernel), *bias, **given)

    def conv_transpose(self, x: str) -> str:
        _, c, h, w = self.shapes[x]
        group = int(self.pick(1, 1, 2)) if c % 2 == 0 else 1
        m, k, s = int(self.pick(4, 8, 16)), int(self.pick(1, 2, 3)), int(self.pick(1, 2)) if h * w < 80 else 1
        bias = [self.normal(m * group)] if self.chance(0.4) else []
        return self.op("ConvTranspose", x, self.normal(c, m, k, k), *bias, strides=[s, s], group=group)

    def shared(self, x: str) -> str:
        c = self.shapes[x][1]
        w = self.normal(c, c, 3, 3)
        for _ in range(int(self.pick(2, 3))):
            x = self.activation(self.op("Conv", x, w, pads=[1, 1, 1, 1]))
        return x

    def linear(self, x: str) -> str:
        shape, n = self.shapes[x], int(self.pick(4, 6, 10, 16))
        if len(shape) == 2 and self.chance(0.6):
            transposed = self.chance(0.5)
            w = self.normal(n, shape[1]) if transposed else self.normal(shape[1], n)
            bias = [self.normal(n)] if self.chance(0.5) or self.opset < 11 else []
            return self.op("Gemm", x, w, *bias, transB=int(transposed), alpha=float(self.pick(1.0, 1.0, 0.5)))
        if len(shape) == 3 and self.chance(0.3):
            return self.op("MatMul", self.normal(n, shape[-2]), x)
        y = self.op("MatMul", x, self.normal(shape[-1], n))
        return self.op("Add", y, self.normal(n)) if self.chance(0.6) else y

    # ------------------------------------------------------------------------------------- what lies between layers

    def activation(self, x: str) -> str:
        plain = ["Relu", "Relu", "LeakyRelu", "Sigmoid", "Tanh", "Elu", "Selu", "Softplus", "Softsign", "HardSigmoid"]
        plain += ["Abs", "Neg", "Identity", "Erf", "Dropout", "ThresholdedRelu"]
        kind = self.pick(*plain, "PRelu", "Clip", "Clip", "Swish", "HardSwish", "Gelu", "Max")
        match kind:
            case "PRelu":
                image = len(self.shapes[x]) == 4
                return self.op("PRelu", x, self.normal(self.shapes[x][1], 1, 1) if image else self.number(0.2))
            case "Clip":
                low, high = self.pick((-0.7, 1.1), (0.0, 6.0), (0.25, 3.0))
                if self.opset < 11:
                    return self.op("Clip", x, min=low, max=high)
                bounds = self.pick((low, high), (low,), (None, high), ())
                return self.op("Clip", x, *("" if bound is None else self.number(bound) for bound in bounds))
            case "Swish" | "HardSwish":
                if kind == "HardSwish" and self.opset >= 14:
                    return self.op("HardSwish", x)
                gate = self.op("Sigmoid" if kind == "Swish" else "HardSigmoid", x)
                return self.op("Mul", *self.pick((x, gate), (gate, x)))
            case "Gelu":
                error = self.op("Add", self.op("Erf", self.op("Mul", x, self.number(0.7))), self.number(1))
                return self.op("Mul", self.op("Mul", x, error), self.number(0.5))
            case "Max":
                return self.op("Max", x, self.number(self.pick(0.0, -0.5)))
            case "ThresholdedRelu":
                return self.op(kind, x, alpha=0.37) if self.opset >= 10 else self.op("Relu", x)
            case _:
                return self.op(kind, x)

    def join(self, x: str) -> str:
        y = self.mate(x)
        kind = self.pick("Add", "Add", "Sub", "Sum", "Max", "Min", "Mul")
        return self.op(kind, x, y, self.mate(x)) if kind == "Sum" else self.op(kind, x, y)

    def branches(self, x: str) -> str:
        """Layers side by side, each with a factor of its own, brought together."""
        m = int(self.pick(8, 16, 20))
        parts = [self.activation(self.op("Conv", x, self.normal(m, self.shapes[x][1], 1, 1))) for _ in range(2)]
        kind = self.pick("Add", "Mul", "Max", "Min", "Sub", "Concat", "Concat")
        if kind == "Concat":
            parts.append(self.op("MaxPool", parts[0], kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
            return self.op("Concat", *parts, axis=self.pick(1, -3) if self.opset >= 11 else 1)
        return self.op(kind, *self.pick(parts, parts[::-1]))

    def broadcast(self, x: str) -> str:
        shape = self.shapes[x]
        kind = self.pick("pooled", "channel", "number", "same", "ones")
        if kind == "pooled":
            other = self.op("GlobalAveragePool", self.mate(x)) if len(shape) == 4 else self.mate(x)
        elif kind == "channel":
            other = self.normal(*(d if i == 1 else 1 for i, d in enumerate(shape)))
        elif kind == "number":
            other = self.number(self.pick(0.5, -1.5, 2.0))
        elif kind == "same":
            other = self.normal(1, *shape[1:])
        else:
            other = self.tensor(np.full((1,) * len(shape), 0.7, np.float32))
        return self.op(self.pick("Add", "Mul", "Mul", "Sub", "Max"), *self.pick((x, other), (other, x)))

    def gate(self, x: str) -> str:
        """Squeeze and excite."""
        c = self.shapes[x][1]
        squeezed = self.op("Conv", self.op("GlobalAveragePool", x), self.normal(8, c, 1, 1), self.normal(8))
        gate = self.op("Sigmoid", self.op("Conv", self.op("Relu", squeezed), self.normal(c, 8, 1, 1)))
        return self.op("Mul", *self.pick((x, gate), (gate, x)))

    def pooling(self, x: str) -> str:
        _, _, h, w = self.shapes[x]
        kind, k = self.pick("MaxPool", "AveragePool", "LpPool"), int(self.pick(2, 3))
        if min(h, w) < 5 or kind == "LpPool":
            return self.op("LpPool", x, kernel_shape=[1, 2] if w > 1 else [1, 1])
        given: dict[str, Any] = {"kernel_shape": [k, k], "strides": self.pick([1, 1], [2, 2], [2, 1], [3, 3])}
        style = self.pick("pads", "auto", "none")
        if style == "auto":
            given |= {"auto_pad": self.pick("SAME_UPPER", "SAME_LOWER", "VALID"), "strides": [2, 1]}
        elif style == "pads":
            given["pads"] = self.pick([k // 2] * 4, [0, 0, 1, 1], [1, 0, 0, 1])
        if self.opset >= 10 and self.chance(0.4) and style != "auto":
            given["ceil_mode"] = 1
        if kind == "AveragePool":
            given |= {"count_include_pad": 1} if self.chance(0.4) else {}
            given |= {"dilations": [2, 1]} if self.opset >= 19 and self.chance(0.3) and style != "auto" else {}
            return self.op(kind, x, **given)
        if self.opset >= 10 and self.chance(0.3):
            given["dilations"] = [2, 2]
        outputs = int(self.pick(1, 1, 2))
        given |= {"storage_order": 1} if self.chance(0.1) else {}
        return self.ops(kind, x, outputs=outputs, **given)[0]

    def move(self, x: str) -> str:
        _, c, h, w = self.shapes[x]
        kind = self.pick("Slice", "Split", "Pad", "Resize", "Transpose", "Depth", "Shuffle", "Expand", "Tile", "Gather")
        match kind:
            case "Slice":
                axis = int(self.pick(1, 2, 3))
                end = self.shapes[x][axis]
                if end < 4:
                    return x
                if self.opset < 10:
                    return self.op("Slice", x, axes=[axis], starts=[1], ends=[end])
                return self.op("Slice", x, self.ints(1), self.ints(end), self.ints(axis), self.ints(self.pick(1, 2)))
            case "Split":
                if c % 2:
                    return x
                sizes = [self.ints(c // 2, c // 2)] if self.opset >= 13 else []
                parts = self.ops("Split", x, *sizes, outputs=2, axis=1)
                self.pool += parts
                return self.op("Concat", *reversed(parts), axis=1) if self.chance(0.5) else parts[1]
            case "Pad":
                pads = self.pick([0, 0, 1, 0, 0, 0, 1, 2], [0, 1, 0, 0, 0, 0, 0, 0])
                if self.opset < 11:
                    return self.op("Pad", x, pads=pads, value=0.5)
                return self.op("Pad", x, self.ints(*pads), *self.pick([self.number(0.5)], []))
            case "Resize":
                if self.opset < 13 or h * w > 60:
                    return x
                sizes = self.pick((2, 2), (1.7, 1.3), (0.6, 0.9), (1.0, 2.3))
                scales = self.tensor(np.array([1, 1, *sizes], np.float32))
                return self.op("Resize", x, "", scales, mode=self.pick("nearest", "linear"))
            case "Transpose":
                return self.op("Transpose", x, perm=self.pick([0, 1, 3, 2], [0, 2, 3, 1], [0, 3, 1, 2]))
            case "Depth":
                if c % 4 == 0 and h * w < 60:
                    return self.op("DepthToSpace", x, blocksize=2)
                return self.op("SpaceToDepth", x, blocksize=2) if h % 2 == 0 and w % 2 == 0 else x
            case "Shuffle":
                if c % 2:
                    return self.op("Reshape", x, self.ints(0, 0, -1, 1))
                split = self.op("Reshape", x, self.ints(0, 2, c // 2, h, w))
                return self.op("Reshape", self.op("Transpose", split, perm=[0, 2, 1, 3, 4]), self.ints(0, c, h, w))
            case "Expand":
                return self.op("Expand", self.op("GlobalMaxPool", x), self.ints(1, c, h, w))
            case "Tile":
                return self.op("Tile", x, self.ints(1, 2, 1, 1)) if c < 20 else x
            case _:
                return self.op("Gather", x, self.ints(*self.rng.integers(c, size=c)), axis=1)

    def reduce(self, x: str) -> str:
        kind = self.pick("ReduceMax", "ReduceMean", "ReduceSum")
        axes = self.pick([2, 3], [1], [2])
        if self.opset >= (13 if kind == "ReduceSum" else 18):
            y = self.op(kind, x, self.ints(*axes), keepdims=1)
        else:
            y = self.op(kind, x, axes=axes, keepdims=1)
        return self.op(self.pick("Add", "Sub", "Mul"), x, y)

    def single(self, x: str) -> str:
        """A single number of rank 0 that comes from a layer."""
        number = self.op("ReduceMean", x, keepdims=0)
        number = self.pick(number, self.op("Abs", number), self.op("Tanh", number))
        return self.op(self.pick("Add", "Mul", "Sub", "Max"), x, number)

    def where(self, x: str) -> str:
        shape = self.shapes[x]
        condition = self.raw("Greater", self.mate(x), self.number(0.1), shape=shape)
        return self.raw("Where", condition, x, self.mate(x), shape=shape)

    def shape(self, x: str) -> str:
        """A computation with the shape of a value, which must be the model's own in any layout."""
        whole = self.raw("Shape", x, shape=(4,))
        channels = self.raw("Gather", whole, self.tensor(np.int64(1)), shape=(), axis=0)
        return self.op("Add", self.op("Reshape", x, whole), self.raw("Cast", channels, shape=(), to=TensorProto.FLOAT))

    def norm(self, x: str) -> str:
        shape = self.shapes[x]
        c = shape[1]
        if len(shape) != 4 or self.chance(0.6):
            var = self.tensor(self.rng.uniform(0.5, 2, c).astype(np.float32))
            return self.op("BatchNormalization", x, *(self.normal(c) for _ in range(3)), var)
        if c % 2:
            return self.op("InstanceNormalization", x, self.normal(c), self.normal(c))
        ones, zeros = (self.tensor(np.full(2, value, np.float32)) for value in (1, 0))
        groups = self.op("InstanceNormalization", self.op("Reshape", x, self.ints(0, 2, -1)), ones, zeros)
        scaled = self.op("Mul", self.op("Reshape", groups, self.ints(0, *shape[1:])), self.normal(c, 1, 1))
        return self.op("Add", scaled, self.normal(c, 1, 1))

    def branch(self, x: str) -> str:
        """A scope that reads values from outside."""
        name = f"v{self.count}"
        then = [
            helper.make_node("Add", [x, self.mate(x)], [f"{name}_a"]),
            helper.make_node("Relu", [f"{name}_a"], [f"{name}_b"]),
        ]
        other = [helper.make_node("Identity", [x], [f"{name}_c"])]
        return self.raw(
            "If",
            self.tensor(np.array(self.chance(0.5))),
            shape=self.shapes[x],
            then_branch=_scope(then, [], [_info(f"{name}_b")]),
            else_branch=_scope(other, [], [_info(f"{name}_c")]),
        )

    def loop(self, x: str) -> str:
        """A loop with a layer inside that reads a value from outside."""
        name, c = f"v{self.count}", self.shapes[x][1]
        nodes = [
            helper.make_node("Conv", [f"{name}_s", self.normal(c, c, 1, 1)], [f"{name}_m"]),
            helper.make_node("Tanh", [f"{name}_m"], [f"{name}_t"]),
            helper.make_node("Add", [f"{name}_t", self.mate(x)], [f"{name}_o"]),
            helper.make_node("Identity", [f"{name}_g"], [f"{name}_d"]),
        ]
        scalars = [helper.make_tensor_value_info(f"{name}_i", TensorProto.INT64, [])]
        scalars += [helper.make_tensor_value_info(f"{name}_{end}", TensorProto.BOOL, []) for end in "gd"]
        body = _scope(nodes, [*scalars[:2], _info(f"{name}_s")], [scalars[2], _info(f"{name}_o")])
        once = [self.tensor(np.int64(2)), self.tensor(np.array(True))]
        return self.raw("Loop", *once, x, shape=self.shapes[x], body=body)

    def head(self, x: str) -> str:
        kind = self.pick("GlobalAveragePool", "GlobalMaxPool", "Flatten", "tokens", "ReduceMean")
        if kind == "tokens":
            return self.op("Transpose", self.op("Reshape", x, self.ints(0, 0, -1)), perm=[0, 2, 1])
        if kind == "ReduceMean":
            axes = [self.ints(2, 3)] if self.opset >= 18 else []
            return self.op(kind, x, *axes, keepdims=0, **({} if axes else {"axes": [2, 3]}))
        return self.op("Flatten", x if kind == "Flatten" else self.op(kind, x))

    def step(self) -> None:
        image, rows = self.value(4), self.value(2, 3)
        if image is None or (rows is not None and self.chance(0.25)):
            assert rows is not None
            kinds = [self.linear, self.linear, self.activation, self.join, self.norm, self.broadcast]
            made = self.pick(*kinds)(rows)
        else:
            kinds = [self.conv] * 4 + [self.activation] * 3 + [self.join, self.branches, self.pooling, self.move] * 2
            kinds += [self.broadcast, self.gate, self.norm, self.head, self.shared, self.conv_transpose, self.single]
            kinds += [self.reduce, self.where, self.shape, self.branch, self.loop]
            made = self.pick(*kinds)(image)
        if made not in self.pool and 0 < np.prod(self.shapes[made]) < LARGEST:
            self.pool.append(made)


def _info(name: str) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)


def _scope(nodes: list[NodeProto], inputs: list[ValueInfoProto], outputs: list[ValueInfoProto]) -> GraphProto:
    return helper.make_graph(nodes, "scope", inputs, outputs)


def random_case(seed: int) -> Case:
    """Return a random model with several outputs, a few batches, and options."""
    rng = np.random.default_rng(seed)
    net = Net(rng, int(rng.choice(OPSETS)))
    shape = (int(rng.integers(2, 5)), int(rng.choice([1, 3, 4, 8, 16, 20])), *map(int, rng.integers(5, 11, size=2)))
    net.shapes["x"] = shape
    net.pool.append(net.conv("x"))
    for _ in range(int(rng.integers(6, 22))):
        net.step()
    read = {name for node in net.nodes for name in node.input}
    outputs = [name for name in net.pool if name not in read or net.chance(0.1)]
    graph = helper.make_graph(
        net.nodes,
        "random",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N", *shape[1:]))],
        [ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in net.tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", net.opset)], ir_version=8)
    samples = [shape[0]] * int(rng.choice([1, 1, 2, 3]))
    if len(samples) > 1 and rng.random() < 0.3:
        samples[-1] -= 1
    batches = [
        {"x": (rng.standard_normal((n, *shape[1:])) * rng.uniform(0.3, 3) + rng.normal()).astype(np.float32)}
        for n in samples
    ]
    options = {
        "seed": int(rng.integers(100)),
        "threads": int(rng.choice([1, 2])),
        "keep_bias": bool(rng.random() < 0.25),
        "target_std": float(rng.choice([1.0, 1.0, 0.3, 2.5])),
        "memory": int(rng.choice([1_000, 1_000_000])),
    }
    return Case(model, batches, options)
