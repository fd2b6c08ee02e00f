"""Broken models: a model's protobuf changed in a few places, or its bytes.

A place is a field of one of the model's messages. It is drawn by its kind first, such as TensorProto.dims or
NodeProto.input, so that a model's many numbers do not crowd out its few opsets; the change suits the field's type.
`mutated` gives the same bytes for the same model and generator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from google.protobuf.message import Message
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

INTEGERS = (0, 1, -1, 2, 3, 7, 16, 99, 1 << 15, (1 << 31) - 1, 1 << 31, 1 << 32, 1 << 60, (1 << 63) - 1, -(1 << 63))
FLOATS = (0.0, -1.0, 1e-40, 1e38, 1e-6, float("nan"), float("inf"), 65504.0)
STRINGS = ("", "x", "\0", "a" * 400, "\u202e", "ai.onnx", "com.microsoft", "../w", "[/x]", "0")
OPS = (
    "Conv", "Gemm", "MatMul", "Einsum", "ConvTranspose", "LSTM", "GRU", "BatchNormalization", "Reshape", "Transpose",
    "Slice", "Split", "Concat", "Squeeze", "Unsqueeze", "Flatten", "Gather", "Identity", "Cast", "Add", "Mul", "Div",
    "Sub", "Relu", "If", "Loop", "Scan", "Constant", "ConstantOfShape", "Shape", "Expand", "DequantizeLinear",
    "QuantizeLinear", "SequenceAt", "SplitToSequence", "Dropout", "LayerNormalization",
)  # fmt: skip
# Messages that are not worth the time: nothing reads them.
DULL = frozenset({"StringStringEntryProto", "TensorAnnotation", "NodeDeviceConfigurationProto"})

Place = tuple[Message, Any]  # a message, and the descriptor of one of its fields


def mutated(data: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    """Return a broken variant of a model, and what was done to it."""
    if rng.random() < 0.06:
        return _bytes(data, rng)
    model = ModelProto.FromString(data)
    done = [_mutate(model, rng) for _ in range(1 + rng.integers(3) * rng.integers(2))]
    return model.SerializeToString(), ", ".join(done)


def pick(rng: np.random.Generator, of: Any) -> Any:
    return of[int(rng.integers(len(of)))]


def _bytes(data: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    out = bytearray(data)
    at = int(rng.integers(len(out)))
    match pick(rng, ("flip", "cut", "end", "insert")):
        case "flip":
            out[at] ^= 1 << int(rng.integers(8))
        case "cut":
            del out[at : at + int(rng.integers(1, 9))]
        case "end":
            del out[at:]
        case _:
            out[at:at] = rng.bytes(int(rng.integers(1, 9)))
    return bytes(out), f"bytes at {at}"


def _messages(message: Message) -> Iterator[Message]:
    yield message
    for descriptor, value in message.ListFields():
        if descriptor.message_type is not None and descriptor.message_type.name not in DULL:
            for each in value if hasattr(value, "add") else (value,):
                yield from _messages(each)


def _mutate(model: ModelProto, rng: np.random.Generator) -> str:
    special: tuple[Callable[[ModelProto, np.random.Generator], str], ...] = (_dims, _operand, _operator, _wrap, _opset)
    if rng.random() < 0.5:
        return pick(rng, special)(model, rng)
    kinds: dict[str, list[Place]] = {}
    for message in _messages(model):
        for descriptor, _ in message.ListFields():
            kinds.setdefault(descriptor.full_name, []).append((message, descriptor))
    kind = pick(rng, sorted(kinds))
    return f"{kind.removeprefix('onnx.')}: {_change(*pick(rng, kinds[kind]), rng)}"


def _change(message: Message, descriptor: Any, rng: np.random.Generator) -> str:
    name = descriptor.name
    value = getattr(message, name)
    if not (hasattr(value, "add") or hasattr(value, "append")):
        if descriptor.message_type is not None or rng.random() < 0.2:
            message.ClearField(name)
            return "dropped"
        new = _scalar(value, rng)
        _set(message, name, new)
        return repr(new)[:40]
    at = int(rng.integers(len(value)))
    what = pick(rng, ("dropped", "doubled", "swapped", "changed"))
    items = list(value)
    if what == "dropped":
        del value[at]
    elif what == "doubled":
        value.extend([items[at]])
    elif what == "swapped" or descriptor.message_type is not None:
        other = int(rng.integers(len(items)))
        items[at], items[other] = items[other], items[at]
        copies = [type(each).FromString(each.SerializeToString()) if hasattr(value, "add") else each for each in items]
        del value[:]
        value.extend(copies)
    else:
        try:
            value[at] = _scalar(items[at], rng)
        except (TypeError, ValueError):
            del value[at]
    return f"{what} {at}"


def _set(message: Message, name: str, value: Any) -> None:
    try:
        setattr(message, name, value)
    except (TypeError, ValueError):  # not of the field's range
        message.ClearField(name)


def _scalar(value: Any, rng: np.random.Generator) -> Any:
    if isinstance(value, bytes):
        cut = int(rng.integers(len(value) + 1))
        return pick(rng, (value[:cut], value + b"\0" * int(rng.integers(1, 9)), bytes(len(value)), b"\xff\xfe", b""))
    if isinstance(value, str):
        return pick(rng, STRINGS)
    if isinstance(value, float):
        return pick(rng, FLOATS)
    return pick(rng, (*INTEGERS, value + 1, value - 1, 2 * value))


def _graphs(model: ModelProto) -> list[Any]:
    return [each for each in _messages(model) if isinstance(each, GraphProto)] + list(model.functions)


def _nodes(model: ModelProto) -> list[NodeProto]:
    return [each for each in _messages(model) if isinstance(each, NodeProto)]


def _dims(model: ModelProto, rng: np.random.Generator) -> str:
    """Change what a tensor says of its shape, with or without its data."""
    tensors = [each for each in _messages(model) if isinstance(each, TensorProto)]
    if not tensors:
        return "no tensor"
    tensor = pick(rng, tensors)
    dims = list(tensor.dims)
    match pick(rng, ("one", "order", "more", "less", "zero", "type")):
        case "one" if dims:
            at = int(rng.integers(len(dims)))
            dims[at] = pick(rng, (*INTEGERS, dims[at] + 1, dims[at] - 1))
        case "order":
            dims.reverse()
        case "more":
            dims = [*dims, *[1] * pick(rng, (1, 2, 70))]
        case "less":
            dims = dims[1:]
        case "zero" if dims:  # no lie: without data
            dims[int(rng.integers(len(dims)))] = 0
            tensor.Clear()
            tensor.name, tensor.data_type = "zero", TensorProto.FLOAT
        case _:
            tensor.data_type = int(rng.integers(0, 25))
    del tensor.dims[:]
    tensor.dims.extend(dims)
    return f"dims of {tensor.name!r} {dims[:5]} type {tensor.data_type}"


def _operand(model: ModelProto, rng: np.random.Generator) -> str:
    """Let a node read another value of its scope, or of any."""
    nodes = [node for node in _nodes(model) if node.input]
    if not nodes:
        return "no operand"
    node = pick(rng, nodes)
    names = {name for other in nodes for name in (*other.input, *other.output)}
    names |= {tensor.name for tensor in model.graph.initializer}
    at = int(rng.integers(len(node.input)))
    node.input[at] = pick(rng, sorted(names))
    return f"input {at} of {node.op_type} is {node.input[at]!r}"


def _operator(model: ModelProto, rng: np.random.Generator) -> str:
    nodes = _nodes(model)
    if not nodes:
        return "no node"
    node = pick(rng, nodes)
    before, node.op_type = node.op_type, pick(rng, OPS)
    return f"{before} becomes {node.op_type}"


def _opset(model: ModelProto, rng: np.random.Generator) -> str:
    if not model.opset_import:
        return "no opset"
    one = pick(rng, model.opset_import)
    one.version = int(rng.integers(5, 30))
    return f"opset {one.version}"


def _wrap(model: ModelProto, rng: np.random.Generator) -> str:
    """Put a node between another and its readers: something that moves values, an If around it, or a Loop."""
    scopes = [graph for graph in _graphs(model) if graph.node]
    if not scopes:
        return "no node"
    scope = pick(rng, scopes)
    at = int(rng.integers(len(scope.node)))
    node = scope.node[at]
    if not node.input or not any(node.output):
        return "no value"
    what = pick(rng, ("Transpose", "Identity", "Flatten", "Squeeze", "Relu", "If", "Loop"))
    if what in ("If", "Loop"):
        inner = NodeProto()
        inner.CopyFrom(node)
        node.ClearField("attribute")
        node.op_type, node.domain = what, ""
        count = pick(rng, (0, 1, 3, 1 << 20, 1 << 62)) if what == "Loop" else 1
        names = ("then_branch", "else_branch") if what == "If" else ("body",)
        del node.input[:]
        node.input.extend(["fuzz_count", ""] if what == "Loop" else ["fuzz_count"])
        kind = TensorProto.INT64 if what == "Loop" else TensorProto.BOOL
        tensor = TensorProto(name="fuzz_count", data_type=kind)
        if what == "Loop":
            tensor.int64_data.append(count)
        else:
            tensor.int32_data.append(count)
        model.graph.initializer.append(tensor)
        for name in names:
            attribute = node.attribute.add(name=name, type=AttributeProto.GRAPH)
            attribute.g.name = name
            attribute.g.node.append(inner)
            if what == "Loop":
                attribute.g.input.add(name="fuzz_i").type.tensor_type.elem_type = TensorProto.INT64
                attribute.g.input.add(name="fuzz_c").type.tensor_type.elem_type = TensorProto.BOOL
                attribute.g.node.add(op_type="Identity", input=["fuzz_c"], output=["fuzz_d"])
                attribute.g.output.add(name="fuzz_d").type.tensor_type.elem_type = TensorProto.BOOL
            for output in inner.output:
                attribute.g.output.add(name=output).type.tensor_type.elem_type = TensorProto.FLOAT
            for each in attribute.g.node[:1]:
                each.output[:] = [f"{output}.in" for output in inner.output]
            for value in attribute.g.output:
                if value.name in inner.output:
                    value.name += ".in"
        return f"{what} of {count} around {inner.op_type}"
    operand = int(rng.integers(len(node.input)))
    moved = NodeProto(op_type=what, input=[node.input[operand]], output=["fuzz_moved"])
    node.input[operand] = "fuzz_moved"
    rest = [NodeProto.FromString(each.SerializeToString()) for each in scope.node]
    del scope.node[:]
    scope.node.extend([*rest[:at], moved, *rest[at:]])
    return f"{what} before {node.op_type}"
