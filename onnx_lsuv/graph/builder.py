"""Write the nodes of a graph and of the scopes inside it, in any opset from 7 on.

Those of the program are written as they are, with chance taken out of them. Beside them only operators are written
whose meaning is the same in every opset, or whose change is hidden here: reduction axes are an attribute before opset
18 (ReduceSum: 13) and an input from it on; Where is an If before opset 9.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, helper, numpy_helper

from onnx_lsuv.operators import Attributes, of
from onnx_lsuv.program import Body, Node

MOST = 32  # bytes of a constant that its name spells out


@dataclass(frozen=True, slots=True)
class Value:
    """What shape inference knows of a value."""

    elem_type: int
    dims: tuple[int | None, ...] | None


@dataclass(frozen=True, slots=True)
class ScopedRecord:
    """A record (see `records`) in the scope being written."""

    name: str
    certain: bool  # it was surely reached
    trail: str | None = None  # the records of the first executions, a row each, where they are kept apart


@dataclass(slots=True)
class GraphBuilder:
    """What all scopes of one graph share: the opset, the constants written so far, a counter for names."""

    opset: int
    prefix: str  # of every name written; no name of the program begins with it
    block: int  # channels side by side in ONNX Runtime's layout for convolutions; 1 where it has none
    constants: dict[str, TensorProto] = field(default_factory=dict)
    integers: dict[tuple[int, ...], str] = field(default_factory=dict)  # vectors of int64 among them
    count: int = 0
    ones: dict[int, str] = field(default_factory=dict)  # by element type: the main graph's row of one a sample

    def fresh(self) -> str:
        """Return a value name that nothing else has."""
        self.count += 1
        return f"{self.prefix}{self.count}"

    def constant(self, values: Any, dtype: Any) -> str:
        """Return the name of a constant of the main graph, which every scope can read."""
        array = np.asarray(values, dtype)
        data = array.tobytes()
        content = data.hex() if len(data) <= MOST else hashlib.sha256(data).hexdigest()
        return self._named(f"{array.dtype.char}_{'x'.join(map(str, array.shape))}_{content}", lambda: array)

    def filled(self, value: int, *shape: int, dtype: type[np.generic] = np.float32) -> str:
        """Return the name of a constant that is filled with a number."""
        name = f"all_{dtype.__name__}_{value}_{'x'.join(map(str, shape))}"
        return self._named(name, lambda: np.broadcast_to(np.asarray(value, dtype), shape))

    def _named(self, content: str, array: Callable[[], np.ndarray[Any, Any]]) -> str:
        name = f"{self.prefix}_{content}"
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(array(), name)
        return name


@lru_cache(maxsize=1024, typed=True)
def _number(name: str, value: float) -> AttributeProto:
    """Return an attribute that is copied into nodes."""
    return helper.make_attribute(name, value)


@dataclass(slots=True)
class ScopeBuilder:
    """The nodes of one scope, in order, and its records so far."""

    graph: GraphBuilder
    top: bool = False  # the main graph
    records: dict[str, ScopedRecord] = field(default_factory=dict)  # by key
    nodes: list[NodeProto] = field(default_factory=list)

    def op(self, op_type: str, *inputs: str, output: str | None = None, domain: str = "", **attributes: Any) -> str:
        """Append a node with one output; return the output's name."""
        name = output or self.graph.fresh()
        # Half the time of helper.make_node, and there are thousands of these.
        node = NodeProto(op_type=op_type, domain=domain, input=inputs, output=(name,))
        if attributes:
            node.attribute.extend(
                _number(key, value) if isinstance(value, int | float) else helper.make_attribute(key, value)
                for key, value in attributes.items()
            )
        self.nodes.append(node)
        return name

    def copy(self, node: Node, inputs: Sequence[str], **changes: Any) -> str:
        """Append a node of the program with other operands and one new output; return the output's name."""
        name = self.graph.fresh()
        self.nodes.append(proto_of(replace(node, inputs=tuple(inputs), outputs=(name,), **changes)))
        return name

    def ints(self, *values: int) -> str:
        """Return a constant vector of int64."""
        name = self.graph.integers.get(values)
        if name is None:
            name = self.graph.constant(np.asarray(values, np.int64).reshape(-1), np.int64)
            self.graph.integers[values] = name
        return name

    def double(self, values: Any) -> str:
        """Return a constant of float64."""
        return self.graph.constant(values, np.float64)

    def cast(self, value: str, to: int) -> str:
        """Cast a value to an element type."""
        return self.op("Cast", value, to=to)

    def reshape(self, value: str, *shape: int) -> str:
        """Reshape a value; 0 copies a dimension, -1 takes the rest, no numbers at all give a scalar."""
        return self.op("Reshape", value, self.ints(*shape))

    def thinned(self, value: str, dims: Sequence[int], steps: Sequence[int], *, guessed: int | None = None) -> str:
        """Take one of so many along each axis; before opset 10, which has no steps, as many of the first.

        One axis may have a `guessed` length: some of it is taken all the same.
        """
        axes = [axis for axis, step in enumerate(steps) if step > 1]
        if not axes:
            return value
        if self.graph.opset < 10:
            ends = [-(-dims[axis] // steps[axis]) for axis in axes]
            return self.op("Slice", value, starts=[0] * len(axes), ends=ends, axes=axes)
        starts = [0 if axis == guessed else steps[axis] // 2 for axis in axes]
        stops, wide = [dims[axis] for axis in axes], [steps[axis] for axis in axes]
        return self.op("Slice", value, *(self.ints(*each) for each in (starts, stops, axes, wide)))

    def product(self, *factors: str | None) -> str | None:
        """Return the product of two factors at most, of which None is 1."""
        found = [factor for factor in factors if factor is not None]
        return self.op("Mul", *found) if len(found) == 2 else next(iter(found), None)

    def multiply(self, value: str, factor: str, *shape: int) -> str:
        """Multiply a value of a shape by a number."""
        if 1 not in shape[-2:]:
            return self.op("Mul", value, factor)
        # ONNX Runtime goes from value to value where the last dimensions are 1, which takes 25 times as long.
        return self.reshape(self.op("Mul", self.reshape(value, prod(shape)), factor), *shape)

    def reduce(self, op_type: str, value: str, axes: Sequence[int], *, keep: bool = False) -> str:
        """Reduce over axes, which disappear or, with `keep`, stay with a length of 1."""
        if self.graph.opset < (13 if op_type == "ReduceSum" else 18):
            return self.op(op_type, value, axes=list(axes), keepdims=int(keep))
        return self.op(op_type, value, self.ints(*axes), keepdims=int(keep))

    def select(self, condition: str, yes: str, no: str) -> str:
        """Return one of two values of float64 by a condition of one element."""
        if self.graph.opset >= 9:
            return self.op("Where", condition, yes, no)
        branches = {}
        for key, value in (("then_branch", yes), ("else_branch", no)):
            name = self.graph.fresh()
            output = helper.make_tensor_value_info(name, TensorProto.DOUBLE, None)
            branches[key] = helper.make_graph([helper.make_node("Identity", [value], [name])], "body", [], [output])
        return self.op("If", self.reshape(condition), **branches)


# ------------------------------------------------------------------------------------------------ nodes of the program


def neutral(node: Node) -> Node:
    """Return a node with chance taken out: Dropout as identity, random operators with a fixed seed.

    A BatchNormalization in training form becomes the inference form.
    """
    if node.domain != "":
        return node
    if node.op_type == "Dropout" and len([o for o in node.outputs if o]) == 1:
        return replace(
            node, op_type="Identity", inputs=node.inputs[:1], outputs=node.outputs[:1], attributes=Attributes()
        )
    # A Dropout whose mask is used cannot be left out. Before opset 12 it is none: it does nothing.
    masked = node.op_type == "Dropout" and len(node.inputs) > 2
    if masked or of(node).random:
        attribute = helper.make_attribute("seed", 0 if masked else 0.0)
        return replace(node, attributes=Attributes({"seed": attribute, **node.attributes}))
    if node.op_type == "BatchNormalization" and node.attributes.integer("training_mode", 0):
        attributes = Attributes((k, a) for k, a in node.attributes.items() if k != "training_mode")
        return replace(node, outputs=node.outputs[:1], attributes=attributes)
    return node


def neutral_nodes(node: Node) -> list[Node]:
    """Return a node with chance taken out; what a BatchNormalization says of its statistics are those it reads."""
    if node.op != "BatchNormalization" or len(node.outputs) == 1:
        return [neutral(node)]
    mean, var = node.inputs[3:5]
    told = [(name, value) for name, value in zip(node.outputs[1:], (mean, var, mean, var), strict=False) if name]
    copies = [replace(node, op_type="Identity", inputs=(v,), outputs=(n,), attributes=Attributes()) for n, v in told]
    return [neutral(replace(node, outputs=node.outputs[:1])), *copies]


def is_random(node: Node) -> bool:
    """Say whether a node is one that `neutral` takes the chance out of."""
    return neutral(node) is not node


def proto_of(node: Node, close: Callable[[Body], GraphProto] | None = None) -> NodeProto:
    """Return a node as protobuf; `close` turns a scope into a graph."""
    proto = NodeProto(op_type=node.op_type, domain=node.domain, input=node.inputs, output=node.outputs)
    # Names must be unique and valid in every ONNX Runtime message; the label says where the node stands.
    proto.name = f"{node.label} -> {next((o for o in node.outputs if o), '')}"
    if node.attributes:
        proto.attribute.extend(node.attributes.values())
    if close is not None:
        for name, body in node.bodies.items():
            proto.attribute.append(helper.make_attribute(name, close(body)))
    return proto
