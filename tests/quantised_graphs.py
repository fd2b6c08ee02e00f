"""Random graphs whose weights are rounded on their way, as quantisation-aware training leaves them, and what is right.

The right values come from NumPy and a plain ONNX Runtime session: nothing here imports `onnx_lsuv`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import oracle
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

Array = NDArray[Any]
T = TensorProto

# By type: the least opset in which weights are rounded to it.
TYPES = {
    T.INT8: 10,
    T.UINT8: 10,
    T.FLOAT8E4M3FN: 19,
    T.FLOAT8E4M3FNUZ: 19,
    T.FLOAT8E5M2: 19,
    T.FLOAT8E5M2FNUZ: 19,
    T.INT4: 21,
    T.UINT4: 21,
    T.INT16: 21,
    T.UINT16: 21,
}
MICROSOFT = (T.INT8, T.UINT8, T.INT16, T.UINT16)


def limits(kind: int) -> tuple[float, float]:
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind))
    info: Any = ml_dtypes.iinfo(dtype) if "int" in dtype.name else ml_dtypes.finfo(dtype)
    return float(info.min), float(info.max)


@dataclass
class Rounding:
    """One quantiser: the weight that it rounds, and how."""

    weight: str
    before: Callable[[Array], Array]  # from the weight to what is rounded
    step: str
    zero: Array
    low: float
    high: float
    axis: int
    block: int
    integer: bool

    def spread(self, step: Array, shape: tuple[int, ...]) -> Array:
        """Return the step of each value."""
        if self.block:
            return np.repeat(step, self.block, self.axis).take(np.arange(shape[self.axis]), self.axis)
        if step.size == 1:
            return np.broadcast_to(step.reshape(()), shape)
        return np.broadcast_to(step.reshape([-1 if i == self.axis else 1 for i in range(len(shape))]), shape)


@dataclass
class Case:
    """A graph, its data, and what is to hold of it."""

    seed: int
    model: ModelProto
    batches: list[dict[str, Array]]
    layers: list[str]  # the values that layers give
    operands: list[tuple[str, str, Callable[[Array], Array]]] = field(default_factory=list)  # value, weight, view
    roundings: list[Rounding] = field(default_factory=list)
    half: bool = False
    about: list[str] = field(default_factory=list)


class Builder:
    """A random graph that grows."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[NodeProto] = []
        self.tensors: dict[str, Array] = {}
        self.count = 0

    def pick(self, *choices: Any) -> Any:
        return choices[int(self.random.integers(len(choices)))]

    def chance(self, p: float) -> bool:
        return bool(self.random.random() < p)

    def name(self, stem: str) -> str:
        self.count += 1
        return f"{stem}{self.count}"

    def tensor(self, stem: str, array: Array) -> str:
        name = self.name(stem)
        self.tensors[name] = np.array(array)
        return name

    def op(self, op_type: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        output = self.name("v")
        self.nodes.append(helper.make_node(op_type, list(inputs), [output], domain=domain, **attributes))
        return output


def case(seed: int, batches: int | None = None) -> Case:
    """Return one random graph of one to three layers, with data in some batches."""
    b = Builder(seed)
    kind = b.pick(*TYPES)
    opset = b.pick(*(v for v in (10, 13, 17, 19, 21, 23) if v >= TYPES[kind]))
    microsoft = kind in MICROSOFT and b.chance(0.2)
    if microsoft:
        opset = b.pick(13, 17, 21)
    half = opset >= 19 and b.chance(0.3)
    dtype = np.dtype(np.float16 if half else np.float32)
    found = Case(seed, ModelProto(), [], [], half=half)
    found.about.append(f"{T.DataType.Name(kind)} opset {opset} {dtype.name}{' ms' if microsoft else ''}")
    width = int(b.random.integers(6, 20))
    image = b.chance(0.4)
    value, channels = "x", width
    for _ in range(int(b.random.integers(1, 4))):
        value, channels = layer(b, found, value, channels, kind, opset, dtype, image=image, microsoft=microsoft)
        if b.chance(0.5):
            value = b.op("Relu", value)
        if b.chance(0.3) and (not half or opset >= 19):
            value = rounded_by(b, value, 0.05, dtype)
            found.about.append("data rounded")
    n = 24
    shape = (n, width, 5, 5) if image else (n, 7, width)
    x = b.random.standard_normal(shape).astype(dtype)
    found.batches = [{"x": part} for part in np.split(x, batches or b.pick(1, 1, 3))]
    elem = helper.np_dtype_to_tensor_dtype(dtype)
    graph = helper.make_graph(
        b.nodes,
        "g",
        [helper.make_tensor_value_info("x", elem, ["N", *shape[1:]])],
        [helper.make_tensor_value_info(value, elem, None)],
        [numpy_helper.from_array(array, name) for name, array in b.tensors.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    found.model = helper.make_model(graph, opset_imports=opsets, ir_version=10 if opset > 17 else 8)
    return found


def layer(
    b: Builder,
    found: Case,
    value: str,
    channels: int,
    kind: int,
    opset: int,
    dtype: Any,
    *,
    image: bool,
    microsoft: bool,
) -> tuple[str, int]:
    """Add a layer; return its value and channels."""
    out, group = int(b.random.integers(4, 20)), 1
    if image:
        op = b.pick("Conv", "Conv", "ConvTranspose")
        group = 2 if channels % 2 == 0 and b.chance(0.4) else 1
        out *= group
        shape = (out, channels // group, 3, 3) if op == "Conv" else (channels, out // group, 2, 2)
    else:
        op = b.pick("MatMul", "MatMul", "Gemm")
        shape = (channels, out)
    trans = op == "Gemm" and b.chance(0.5)
    if trans:
        shape = (out, channels)
    operand, weight, view = rounded_weight(b, found, shape, kind, opset, dtype, microsoft=microsoft)
    found.operands.append((operand, weight, view))
    found.about.append(op)
    bias = []
    if op != "MatMul" and (b.chance(0.4) or (op == "Gemm" and opset < 11)):
        bias = [b.tensor("b", b.random.standard_normal(out).astype(dtype))]
        if b.chance(0.5):
            bias = [rounded_by(b, bias[0], 0.1, dtype)]
            found.about.append("bias rounded")
    if op == "Gemm":
        flat = b.op("Reshape", value, b.tensor("shape", np.array([-1, channels])))
        end = b.op("Gemm", flat, operand, *bias, transB=int(trans))
        value = b.op("Reshape", end, b.tensor("shape", np.array([-1, 7, out])))
        found.layers.append(end)
    else:
        more = {"group": group, "pads": [1, 1, 1, 1]} if op == "Conv" else {"group": group} if image else {}
        value = b.op(op, value, operand, *bias, **more)
        found.layers.append(value)
        if op == "MatMul" and channels == out and b.chance(0.5):
            value = b.op("MatMul", b.op("Relu", value), operand)  # the same rounded weight once more
    return value, out


def rounded_by(b: Builder, value: str, step: float, dtype: Any) -> str:
    """Add a quantiser of int8 with a step of its own."""
    pair = b.tensor("step", np.asarray(step, dtype)), b.tensor("zero", np.int8(b.pick(0, 0, 5)))
    return b.op("DequantizeLinear", b.op("QuantizeLinear", value, *pair), *pair)


def moves(b: Builder, value: str, shape: tuple[int, ...]) -> Any:
    """Move a value; return it, its shape, and the way as a function of an array."""
    way: list[Callable[[Array], Array]] = []
    done = 0
    while done < 2 and b.chance(0.5):
        done += 1
        match b.pick("Transpose", "Reshape", "Identity"):
            case "Transpose":
                perm = [int(i) for i in b.random.permutation(len(shape))]
                value = b.op("Transpose", value, perm=perm)
                way.append(lambda a, perm=perm: a.transpose(perm))
                shape = tuple(shape[i] for i in perm)
            case "Reshape":
                new = b.pick((-1, shape[-1]), (shape[0], -1), (*shape, 1))
                value = b.op("Reshape", value, b.tensor("shape", np.array(new)))
                way.append(lambda a, new=new: a.reshape(new))
                shape = way[-1](np.zeros(shape)).shape
            case _:
                value = b.op("Identity", value)

    def through(array: Array) -> Array:
        for move in way:
            array = move(array)
        return array

    return value, shape, through


def rounded_weight(
    b: Builder, found: Case, shape: tuple[int, ...], kind: int, opset: int, dtype: Any, *, microsoft: bool
) -> tuple[str, str, Callable[[Array], Array]]:
    """Add a weight that is rounded; return what its layer reads, the weight's name, and the way between them.

    The layer wants `shape`; what the file holds and what is rounded may be other views of it.
    """
    # From the end: the weight is stored as some moves of what the layer wants, undone after the rounding.
    turned = b.chance(0.4)
    perm = [int(i) for i in b.random.permutation(len(shape))] if turned else list(range(len(shape)))
    held = tuple(shape[i] for i in perm)
    weight = b.tensor("w", b.random.standard_normal(held).astype(dtype))
    value, shaped, first = moves(b, weight, held)
    if b.chance(0.15):
        bound = b.tensor("low", np.asarray(-2.5, dtype)), b.tensor("high", np.asarray(2.5, dtype))
        if opset >= 11:
            value = b.op("Clip", value, *bound)
            found.about.append("clip")
    value, shaped, steps = fake(b, found, weight, first, value, shaped, kind, opset, dtype, microsoft=microsoft)
    way: list[Callable[[Array], Array]] = [first, steps]
    if shaped != held:
        value = b.op("Reshape", value, b.tensor("shape", np.array(held)))
        way.append(lambda a: a.reshape(held))
    if turned:
        inverse = [int(i) for i in np.argsort(perm)]
        value = b.op("Transpose", value, perm=inverse)
        way.append(lambda a: a.transpose(inverse))

    def through(array: Array) -> Array:
        for move in way:
            array = move(array)
        return array

    return value, weight, through


def fake(
    b: Builder,
    found: Case,
    weight: str,
    before: Callable[[Array], Array],
    value: str,
    shape: tuple[int, ...],
    kind: int,
    opset: int,
    dtype: Any,
    *,
    microsoft: bool,
) -> Any:
    """Add QuantizeLinear and DequantizeLinear."""
    how = b.pick("tensor", "axis", "axis", "block") if opset >= 21 and not microsoft else b.pick("tensor", "axis")
    if opset < 13 and not microsoft:
        how = "tensor"
    rank = len(shape)
    axis = int(b.random.integers(rank))
    block = int(b.random.integers(1, max(2, shape[axis]))) if how == "block" else 0
    attributes: dict[str, Any] = {}
    if how != "tensor":
        attributes["axis"] = axis if b.chance(0.5) else axis - rank
    if block:
        attributes["block_size"] = block
    sizes: tuple[int, ...] = ()
    if how == "axis":
        sizes = (shape[axis],)
    elif how == "block":
        sizes = tuple(-(-d // block) if i == axis else d for i, d in enumerate(shape))
    elif b.chance(0.3):
        sizes = (1,)
    low, high = limits(kind)
    integer = "INT" in T.DataType.Name(kind)
    zero = np.zeros(sizes)
    if integer and (low == 0 or b.chance(0.4)):
        middle = (low + high + 1) / 2
        span = (high - low + 1) / 4
        zero = np.rint(middle + b.random.uniform(-span, span, sizes if b.chance(0.5) else ()))
        zero = np.broadcast_to(zero, sizes)
    names: list[str] = []
    q_only: dict[str, Any] = {}
    np_kind = helper.tensor_dtype_to_np_dtype(kind)
    if zero.any() or kind != T.UINT8 or low == 0:
        if opset >= 21 and not zero.any() and not microsoft and b.chance(0.5):
            q_only["output_dtype"] = kind
        else:
            names = [b.tensor("zero", zero.astype(np_kind))]
    if "FLOAT8" in T.DataType.Name(kind) and b.chance(0.5):
        q_only["saturate"] = b.pick(0, 1)
    step = b.tensor("step", np.full(sizes, 0.02).astype(dtype))
    domain = "com.microsoft" if microsoft else ""
    q = b.op("QuantizeLinear", value, step, *names, domain=domain, **attributes, **q_only)
    if kind in (T.INT8, T.UINT8) and opset >= 13 and b.chance(0.25):
        low += 1
        np_low, np_high = (np.asarray(v, np_kind) for v in (low, high))
        q = b.op("Clip", q, b.tensor("low", np_low), b.tensor("high", np_high))
        found.about.append("narrow")
    other = step
    if b.chance(0.15):
        other = b.tensor("step", np.full(sizes, 0.02).astype(dtype))
        found.about.append("two steps")
    way: Callable[[Array], Array] = lambda a: a  # noqa: E731
    dq_attributes = dict(attributes)
    if how != "block" and not microsoft and kind in (T.INT8, T.UINT8) and b.chance(0.3):
        perm = [int(i) for i in b.random.permutation(rank)]
        q = b.op("Transpose", q, perm=perm)
        way = lambda a: a.transpose(perm)  # noqa: E731
        shape = tuple(shape[i] for i in perm)
        if how == "axis":
            dq_attributes["axis"] = perm.index(axis)
        found.about.append("moved between")
    value = b.op("DequantizeLinear", q, other, *names, domain=domain, **dq_attributes)
    found.roundings.append(Rounding(weight, before, step, zero, low, high, axis, block, integer))
    found.about.append(f"{how} {sizes} zero {'yes' if zero.any() else 'no'}")
    return value, shape, way


def faults(found: Case, saved: Path) -> list[str]:
    """Return what is wrong with a saved file."""
    model = onnx.load(str(saved))
    held = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in model.graph.initializer}
    wrong = []
    names = [*found.layers, *(operand for operand, _, _ in found.operands)]
    values = oracle.values(saved, found.batches, names)
    for name in found.layers:
        var = np.concatenate([np.asarray(v, np.float64).reshape(-1) for v in values[name]]).var()
        if not abs(var - 1) <= (0.02 if found.half else 0.005):
            wrong.append(f"variance of {name}: {var}")
    for rounding in found.roundings:
        given = rounding.before(held[rounding.weight])
        step = held[rounding.step]
        reach = np.minimum(rounding.high - rounding.zero, rounding.zero - rounding.low)
        if (step <= 0).any():
            wrong.append(f"step {step.min()}")
            continue
        spread, room = rounding.spread(step, given.shape), rounding.spread(reach, given.shape)
        used = np.abs(given) / (spread * room)
        if used.max() > 1 + 2e-3:
            wrong.append(f"{rounding.step} saturates: {used.max()}")
        index = rounding.spread(np.arange(step.size).reshape(step.shape), given.shape)
        best = np.zeros(step.size)
        np.maximum.at(best, index.reshape(-1), used.reshape(-1))
        # A step of half precision cannot be as small as some ask for.
        fine = step.reshape(-1) > (1e-3 if found.half else 0)
        if (best[fine] < 0.99).any():
            wrong.append(f"{rounding.step} is not used: {best.min()}")
    for operand, weight, view in found.operands:
        seen, wanted = np.asarray(values[operand][0], np.float64), view(held[weight])
        if seen.shape != wanted.shape:
            wrong.append(f"shape {seen.shape} {wanted.shape}")
            continue
        rounding = next(r for r in found.roundings if r.weight == weight)
        largest = float(held[rounding.step].max())
        # Half a step; of floats an eighth of the number itself.
        error = np.abs(seen - wanted)
        allowed = largest * 0.51 + 2e-3 * np.abs(wanted) if rounding.integer else np.abs(wanted) * 0.13 + largest * 1e-2
        if (error > allowed).any():
            wrong.append(f"{operand}: off by {(error - allowed).max()}")
    return wrong


def orthonormality(found: Case, saved: Path) -> list[float]:
    """Return how far each weight is from orthonormal up to a scale, before it is rounded."""
    model = onnx.load(str(saved))
    held: Mapping[str, Array] = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    readers = {name: node for node in model.graph.node for name in node.input}
    result = []
    for operand, weight, view in found.operands:
        node = readers[operand]
        given = view(held[weight].astype(np.float64))
        attributes = {a.name: int(a.i) for a in node.attribute}
        trans, group = bool(attributes.get("transB")), attributes.get("group", 1)
        result.append(oracle.orthonormality(oracle.blocks_of(node.op_type, given, group=group, trans=trans)))
    return result


def describe(found: Case) -> str:
    return f"seed {found.seed}: {', '.join(found.about)}"


__all__ = ["Case", "case", "describe", "faults", "orthonormality"]
