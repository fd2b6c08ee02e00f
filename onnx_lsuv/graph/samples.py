"""Where samples lie in the values of a program.

In the row-major order of a value its samples repeat, `outer` times all N of them with `inner` values each, whether they
have an axis of their own, (N, C, H, W) or (T, N, C), or share one, (N T, C). This is followed from the inputs through
the main graph, node by node, by the shapes that were inferred: a Reshape leaves it, and most operators leave an axis
where it is. Where it cannot be told it is unknown, and so is all that follows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import prod

import numpy as np
from onnx import TensorProto, ValueInfoProto, helper, shape_inference

from onnx_lsuv.graph.builder import Value, proto_of
from onnx_lsuv.graph.models import infer, model_of
from onnx_lsuv.operators import of
from onnx_lsuv.program import Body, Node, Program, tensor_type, walk
from onnx_lsuv.program.program import DEFAULT_DOMAINS
from onnx_lsuv.program.static_integers import axes_of, known_integers

Dims = tuple[int, ...]
_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
_FLAT = frozenset({"keeps", "reshapes", "casts", "drops"})
_KNOWN_DOMAINS = DEFAULT_DOMAINS | {"com.microsoft"}
# What of the same rank they give stands in another order, or was chosen by values.
_MIXES = frozenset(
    (
        "NonZero",
        "Compress",
        "Unique",
        "GatherND",
        "ScatterND",
        "MatMulInteger",
        "QLinearMatMul",
        "RoiAlign",
        "MaxRoiPool",
    )
)


@dataclass(frozen=True, slots=True)
class Samples:
    """How the samples lie in the data, the same for all batches but for their numbers."""

    shapes: Mapping[str, tuple[int, Sequence[int]]]  # element type and shape of each input of the largest batch
    counting: frozenset[str]  # inputs whose first axis counts them
    length: int  # of that axis; 1 where each batch is a sample
    batches: int
    alike: bool  # each batch has as many


@dataclass(frozen=True, slots=True)
class Order:
    """How the samples of a value repeat."""

    outer: int
    inner: int


NOWHERE = Order(0, 0)  # there are none: the value is the same for all samples of a batch
Orders = dict[str, Order | None]


def orders(program: Program, samples: Samples, values: Mapping[str, Value]) -> Orders:
    """Return how the samples of the main graph's values repeat, None where it is unknown; the others have none.

    Args:
        program: the values.
        samples: how they lie in the data.
        values: their shapes, as inferred for batches that are alike.
    """
    if samples.length == 1:
        return {}
    values = values if samples.alike else infer(program, samples.shapes)
    dims = {name: value.dims for name, value in values.items() if value.dims is not None and None not in value.dims}
    dims |= {name: constant.dims for name, constant in program.constants.items()}
    found: Orders = {n: Order(1, prod(samples.shapes[n][1][1:])) for n in samples.counting}
    types = {name: value.elem_type for name, value in values.items()}
    types |= {name: constant.elem_type for name, constant in program.constants.items()}
    concrete = replace(program, declared=dims, folded={}, inferred={"": ()})
    _follow(_Follow(concrete, samples.length, dims, types), program.body, found)
    return found


def _follow(follow: _Follow, body: Body, found: Orders) -> None:
    """Add what is known of the values that a scope makes."""
    for node in body.nodes:
        follow.complete(node)
        inner = (each for body in node.bodies.values() for each in walk(body))
        read = {*node.inputs, *(name for each in inner for name in each.inputs)}
        read |= {value.name for body in node.bodies.values() for value in body.outputs}
        if of(node).reads_shape or found.keys().isdisjoint(read):
            continue
        made = (
            _through(follow, node, found) if node.bodies else [follow(node, i, found) for i in range(len(node.outputs))]
        )
        found |= {name: order for name, order in zip(node.outputs, made, strict=True) if name and order != NOWHERE}


def _through(follow: _Follow, node: Node, found: Orders) -> list[Order | None]:
    """Return the orders of what a node with scopes gives: what both branches of an If do, and nothing of others."""
    if node.op != "If":
        return [None] * len(node.outputs)
    for body in node.bodies.values():
        _follow(follow, body, found)
    then, other = ([found.get(value.name, NOWHERE) for value in body.outputs] for body in node.bodies.values())
    return [a if a == b else None for a, b in zip(then, other, strict=True)]


@dataclass(frozen=True, slots=True)
class _Follow:
    """What a node does with the samples' order."""

    program: Program
    length: int
    dims: dict[str, tuple[int | None, ...]]  # those that are known
    types: dict[str, int]

    def complete(self, node: Node) -> None:
        """Add the shapes of what a node gives, where the whole graph's inference lost them.

        It knows no computation with shapes before opset 13, and not each one after that.
        """
        inputs = [name for name in node.inputs if name]
        known = all(name in self.dims and name in self.types for name in inputs)
        if node.bodies or not (known and inputs and node.outputs) or node.outputs[0] in self.dims:
            return
        if of(node).norm:
            self.dims[node.outputs[0]], self.types[node.outputs[0]] = self.dims[inputs[0]], self.types[inputs[0]]
            return
        given, fixed = [], []
        for name in dict.fromkeys(inputs):
            given.append(ValueInfoProto(name=name, type=tensor_type(self.types[name], self.dims[name])))
            numbers = known_integers(self.program, name) if self.types[name] == TensorProto.INT64 else None
            ints = [number for number in numbers or () if number is not None]
            if numbers is not None and len(ints) == len(numbers):
                fixed.append(helper.make_tensor(name, TensorProto.INT64, self.sizes(name) or (), ints))
        outputs = [ValueInfoProto(name=name) for name in node.outputs if name]
        model = model_of(self.program, helper.make_graph([proto_of(node)], "one", given, outputs, fixed))
        with suppress(Exception):  # whatever it makes of a node that does not fit
            model = shape_inference.infer_shapes(model)
        for value in model.graph.output:
            kind = value.type.tensor_type
            if kind.HasField("shape") and all(d.HasField("dim_value") for d in kind.shape.dim):
                self.types[value.name] = kind.elem_type
                self.dims[value.name] = tuple(d.dim_value for d in kind.shape.dim)

    def __call__(self, node: Node, output: int, found: Mapping[str, Order | None]) -> Order | None:
        """Return the order in one of a node's outputs, on which all operands that have one have to agree."""
        orders = [(k, found[name]) for k, name in enumerate(node.inputs) if name in found]
        if (of(node).move in _FLAT or of(node).pointwise) and orders[0][0] == 0 == output:
            return orders[0][1]
        after = self.sizes(node.outputs[output])
        if after is None or any(order is None for _, order in orders) or node.domain not in _KNOWN_DOMAINS:
            return None
        told = {self._after(node, output, k, order, after) for k, order in orders if order is not None}
        return told.pop() if len(told) == 1 else None

    def sizes(self, name: str) -> Dims | None:
        """Return a value's shape, where it is known."""
        found = self.dims.get(name)
        return None if found is None else tuple(dim or 0 for dim in found)

    def _after(self, node: Node, output: int, k: int, order: Order, after: Dims) -> Order | None:
        before = self.sizes(node.inputs[k])
        if before is None or (place := self._place(before, order)) is None:
            return None
        axis, outer, inner = place
        gone = self._reduced(node, len(before))
        if axis in gone:
            return NOWHERE
        ranks = [len(dims) if (dims := self.sizes(name)) is not None else 0 for name in node.inputs]
        at = self._axis(node, output, k, axis, ranks, after)
        if at is None or not 0 <= at < len(after) or after[at] != before[axis]:
            return None
        return Order(prod(after[:at]) * outer, inner * prod(after[at + 1 :]))

    def _place(self, dims: Dims, order: Order) -> tuple[int, int, int] | None:
        """Return the axis that the samples lie in, how often they repeat inside it, and how many values each has."""
        for axis, dim in enumerate(dims):
            before, behind = prod(dims[:axis]), prod(dims[axis + 1 :])
            if 0 in (before, behind) or order.outer % before or order.inner % behind:
                continue
            outer, inner = order.outer // before, order.inner // behind
            if outer * self.length * inner == dim:
                return axis, outer, inner
        return None

    def _axis(self, node: Node, output: int, k: int, axis: int, ranks: Sequence[int], after: Dims) -> int | None:
        """Return the axis of an output that is an operand's axis, as far as its length allows."""
        rank, rank_after = ranks[k], len(after)
        rule = _RULES.get(node.op_type.removeprefix("Fused"))
        if rule is not None:
            return rule(node, output, k, axis, ranks, after)
        if (gone := self._reduced(node, rank)) and not node.attributes.integer("keepdims", 1):
            return axis - sum(each < axis for each in gone)
        if node.op_type in _MIXES:
            return None
        if (of(node).matrix is not None or of(node).windows) and (axis or k in of(node).weights):
            return None
        if rank == rank_after:
            return axis
        return axis + rank_after - rank if self._broadcasts(node, after) else None

    def _reduced(self, node: Node, rank: int) -> set[int]:
        """Return the axes that a reduction takes away; none of other operators."""
        if not node.op_type.startswith(("Reduce", "Arg")):
            return set()
        if node.op_type.startswith("Arg"):
            axes: Sequence[int | None] | None = [node.attributes.integer("axis", 0)]
        else:
            axes = axes_of(self.program, node)
        every = range(0 if node.attributes.integer("noop_with_empty_axes", 0) else rank)
        return {each % rank for each in axes or every if each is not None}

    def _broadcasts(self, node: Node, after: Dims) -> bool:
        """Say whether an operator joins its operands value by value, by their shapes."""
        known = [self.sizes(name) for name in node.inputs[: 1 if node.op_type == "Expand" else None] if name]
        shapes = [dims for dims in known if dims is not None]
        if node.op_type == "Expand":
            shapes.append(after)
        try:
            return len(shapes) > 1 and np.broadcast_shapes(*shapes) == after
        except ValueError:
            return False


# ---------------------------------------------------------------------------------------- operators that move the axis


def _transpose(node: Node, output: int, k: int, axis: int, ranks: Sequence[int], after: Dims) -> int | None:
    return (node.attributes.integers("perm") or tuple(range(ranks[0]))[::-1]).index(axis)


def _matmul(node: Node, output: int, k: int, axis: int, ranks: Sequence[int], after: Dims) -> int | None:
    names = ("transA", "transB", "transBatchA", "transBatchB")
    if k > 1 or min(ranks[:2]) < 2 or any(node.attributes.integer(name, 0) for name in names):
        return None
    summed = ranks[k] - 1 - k
    return None if axis == summed else axis + len(after) - ranks[k]


def _gemm(node: Node, output: int, k: int, axis: int, ranks: Sequence[int], after: Dims) -> int | None:
    if k == 2:
        return axis + 2 - ranks[2]
    kept = k ^ node.attributes.integer(("transA", "transB")[k], 0)
    return k if axis == kept else None


def _einsum(node: Node, output: int, k: int, axis: int, ranks: Sequence[int], after: Dims) -> int | None:
    terms, _, result = node.attributes.text("equation").replace(" ", "").partition("->")
    if not result or "." in terms:
        return None
    return result.find(terms.split(",")[k][axis])


def _gather(node: Node, output: int, k: int, axis: int, ranks: Sequence[int], after: Dims) -> int | None:
    along = node.attributes.integer("axis", 0) % ranks[0]
    if k:
        return along + axis
    return None if axis == along else axis + (axis > along) * (ranks[1] - 1)


def _recurrent(node: Node, output: int, k: int, axis: int, ranks: Sequence[int], after: Dims) -> int | None:
    last = node.attributes.integer("layout", 0)
    # Lengths of sequences have the one axis, the data and the states two before theirs, or behind it.
    if axis != (0 if last or k == 4 else 1):
        return None
    return 0 if last else 2 if output == 0 else 1


def _concat(node: Node, output: int, k: int, axis: int, ranks: Sequence[int], after: Dims) -> int | None:
    return None if axis == node.attributes.integer("axis", 1) % ranks[k] else axis


_Rule = Callable[[Node, int, int, int, Sequence[int], Dims], int | None]
_RULES: dict[str, _Rule] = {
    "Transpose": _transpose,
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Einsum": _einsum,
    "Gather": _gather,
    "Concat": _concat,
    **dict.fromkeys(_RECURRENT, _recurrent),
}
