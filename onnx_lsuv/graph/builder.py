"""Write nodes for one scope of a graph in any opset from 7 on.

Only operators are written whose meaning is the same in every opset, or whose change is hidden here: reduction axes
are an attribute before opset 18 (ReduceSum: 13) and an input from it on; Where is an If before opset 9.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

MOST = 32  # bytes of a constant that its name spells out


@dataclass(frozen=True, slots=True)
class Value:
    """What shape inference knows of a value."""

    elem_type: int
    dims: tuple[int | None, ...] | None


@dataclass(slots=True)
class Book:
    """What all scopes of one graph share: the opset, the constants written so far, a counter for names."""

    opset: int
    prefix: str  # of every name written; no name of the program begins with it
    rows: bool  # the product of a row with itself is fast
    constants: dict[str, TensorProto] = field(default_factory=dict)
    count: int = 0

    def fresh(self) -> str:
        """Return a value name that nothing else has."""
        self.count += 1
        return f"{self.prefix}{self.count}"

    def constant(self, values: Any, dtype: Any) -> str:
        """Return the name of a constant of the main graph, which every scope can read."""
        array = np.asarray(values, dtype)
        data = array.tobytes()
        content = data.hex() if len(data) <= MOST else hashlib.sha256(data).hexdigest()
        name = f"{self.prefix}_{array.dtype}_{'x'.join(map(str, array.shape))}_{content}"
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(array, name)
        return name

    def filled(self, value: int, *shape: int, dtype: type[np.generic] = np.float32) -> str:
        """Return the name of a constant that is filled with a number."""
        name = f"{self.prefix}_all_{dtype.__name__}_{value}_{'x'.join(map(str, shape))}"
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.full(shape, value, dtype), name)
        return name


@dataclass(slots=True)
class GraphBuilder:
    """The nodes of one scope, in order."""

    book: Book
    nodes: list[NodeProto] = field(default_factory=list)

    def op(self, op_type: str, *inputs: str, output: str | None = None, domain: str = "", **attributes: Any) -> str:
        """Append a node of ONNX's own domain with one output; return the output's name."""
        name = output or self.book.fresh()
        # Half the time of helper.make_node, and there are thousands of these.
        node = NodeProto(op_type=op_type, domain=domain, input=inputs, output=(name,))
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        self.nodes.append(node)
        return name

    def ints(self, *values: int) -> str:
        """Return a constant vector of int64."""
        return self.book.constant(np.asarray(values, np.int64).reshape(-1), np.int64)

    def double(self, value: float) -> str:
        """Return a constant scalar of float64."""
        return self.book.constant(value, np.float64)

    def cast(self, value: str, to: int) -> str:
        """Cast a value to an element type."""
        return self.op("Cast", value, to=to)

    def reshape(self, value: str, *shape: int) -> str:
        """Reshape a value; 0 copies a dimension, -1 takes the rest, no numbers at all give a scalar."""
        return self.op("Reshape", value, self.ints(*shape))

    def multiply(self, value: str, factor: str, *shape: int) -> str:
        """Multiply a value of a shape by a number."""
        if 1 not in shape[-2:]:
            return self.op("Mul", value, factor)
        # ONNX Runtime goes from value to value where the last dimensions are 1, which takes 25 times as long.
        return self.reshape(self.op("Mul", self.reshape(value, prod(shape)), factor), *shape)

    def reduce(self, op_type: str, value: str, axes: Sequence[int], *, keep: bool = False) -> str:
        """Reduce over axes, which disappear or, with `keep`, stay with a length of 1."""
        if self.book.opset < (13 if op_type == "ReduceSum" else 18):
            return self.op(op_type, value, axes=list(axes), keepdims=int(keep))
        return self.op(op_type, value, self.ints(*axes), keepdims=int(keep))

    def select(self, condition: str, yes: str, no: str, elem_type: int = TensorProto.DOUBLE) -> str:
        """Return one of two values by a condition of one element."""
        if self.book.opset >= 9:
            return self.op("Where", condition, yes, no)
        branches = {
            key: subgraph([helper.make_node("Identity", [value], [name := self.book.fresh()])], [], [name], elem_type)
            for key, value in (("then_branch", yes), ("else_branch", no))
        }
        return self.op("If", self.reshape(condition), **branches)


def subgraph(
    nodes: Sequence[NodeProto], inputs: Sequence[ValueInfoProto], outputs: Sequence[str], elem_type: int
) -> GraphProto:
    """Return a graph for an attribute, whose outputs are tensors of one element type and any shape."""
    values = [helper.make_tensor_value_info(name, elem_type, None) for name in outputs]
    return helper.make_graph(list(nodes), "body", list(inputs), values)
