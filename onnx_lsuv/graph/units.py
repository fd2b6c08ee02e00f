"""What the activation after a layer lets through: the units that it silences, the values that it saturates.

Both are told by the activation's operand x, as its slope is (nearly) zero below one bound and above another: for Relu
below 0, for tanh, by 0.99 of what it can give, beyond +-2.65 (a row of `operators` has them). A unit is a channel of a
convolution, or a feature:

    dead        share of the units whose x is below the bound for every sample and position: max x <= low
    saturated   share of the values beyond the bounds, of which the lower one does not count where the function gives
                nothing there: that is what half the values of a Relu6 are for

A batch gives a maximum for each unit, of all its samples, and how many of how many values are saturated, of its first
samples: to count takes five passes over the values. Of several batches the maximum and the sums are exact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from onnx_lsuv.graph.blocked import padded
from onnx_lsuv.graph.builder import ScopeBuilder, Value
from onnx_lsuv.graph.moments import size_of
from onnx_lsuv.graph.samples import Order
from onnx_lsuv.layers import Layer, Plan
from onnx_lsuv.operators import of
from onnx_lsuv.program import Node, Program, stored

ENOUGH = 1 << 17  # values of a batch to count; as many samples as hold them, and two at least
EXACT = 1 << 24  # float32 holds each number up to it
STEEP = 1e6  # a slope that makes a step of a ramp
STEPS = 6  # of norms and sums between a layer and its activation
_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE)


@dataclass(frozen=True, slots=True)
class Activation:
    """What stands after a layer."""

    layer: Layer
    low: float  # below it the slope is zero
    high: float  # and above this
    silent: bool  # it gives nothing there below

    @property
    def bounds(self) -> tuple[float, float]:
        """Beyond which values are saturated."""
        return -math.inf if self.silent else self.low, self.high

    @property
    def told_after(self) -> bool:
        """Whether what it gives tells the same as its operand."""
        return self.silent and self.low == 0 and self.high == math.inf


@dataclass(frozen=True, slots=True)
class Units:
    """What a batch gives, by name, "" where it is not asked for."""

    peaks: str  # of each unit the largest operand of the activation
    beyond: str  # how many operands are beyond its bounds
    values: int  # of how many; 0 where the batch says so, behind that
    low: float


def activations(plan: Plan, values: Mapping[str, Value]) -> dict[Node, Activation]:
    """Return the activations after layers of the main graph, each with the last layer before it.

    Args:
        plan: the layers.
        values: their shapes, as inferred.
    """
    found = dict[Node, Activation]()
    outer = frozenset(plan.program.body.nodes)
    for layer in plan.layers:
        if layer.scaled and layer.end in outer and (node := _after(plan.program, layer, values, outer)):
            bounds = _bounds(plan.program, node)
            assert bounds is not None
            found[node] = Activation(layer, *bounds)
    return found


def _after(program: Program, layer: Layer, values: Mapping[str, Value], outer: frozenset[Node]) -> Node | None:
    """Return the activation that a layer's output reaches, the same in shape, by norms and sums alone."""
    name = layer.end.outputs[0]
    dims = values[name].dims if name in values else None
    for _ in range(STEPS):
        readers = [node for node, _ in program.consumers.get(name, ()) if node in outer]
        bounded = next((node for node in readers if node.inputs[0] == name and _bounds(program, node)), None)
        if dims is None or bounded is not None:
            return None if dims is None or (bounded and _gates_itself(program, bounded)) else bounded
        passing = (node for node in readers if _passes(node, name))
        known = (node.outputs[0] for node in passing if node.outputs[0] in values)
        name = next((each for each in known if values[each].dims == dims), "")
    return None


def _passes(node: Node, name: str) -> bool:
    row = of(node)
    added = row.sums and row.keeps_width and not row.move
    return added or (node.inputs[0] == name and (row.norm == "own" or row.move in ("keeps", "drops")))


def _gates_itself(program: Program, node: Node) -> bool:
    """Say whether an activation is a part of one without bounds: x Sigmoid(x)."""
    readers = program.consumers.get(node.outputs[0], ())
    return of(node).gate and any(of(reader).products and node.inputs[0] in reader.inputs for reader, _ in readers)


def _bounds(program: Program, node: Node) -> tuple[float, float, bool] | None:
    """Return where the slope of an activation is zero, and whether it gives nothing below; None where it has no end."""
    row = of(node)
    if row.move != "clips":
        return (*row.flat(node.attributes), row.silent) if row.flat else None
    ends = [node.attributes.real("min", -math.inf), node.attributes.real("max", math.inf)]
    for i, name in enumerate(node.inputs[1:3]):
        if name and name not in program.constants:
            return None
        ends[i] = float(stored(program, name).reshape(-1)[0]) if name else ends[i]
    low, high = ends
    return None if low == -math.inf and high == math.inf else (low, high, low == 0)


# ------------------------------------------------------------------------------------------------------ in the graph


def countable(found: Activation, value: Value, order: Order | None) -> bool:
    """Say whether units can be told by an image in blocks, of which zeros fill the last: these must not count."""
    (low, high), each = found.bounds, size_of((value.dims or ())[1:]) or EXACT
    whole = order is None or order == Order(1, each)
    return low <= 0 <= high and whole and 2 * each <= EXACT


def write_units(
    scope: ScopeBuilder, found: Activation, name: str, value: Value, order: Order | None, *, alike: bool, block: int = 0
) -> Units | None:
    """Write what tells dead and saturated units by the operand of an activation, before that, which may overwrite it.

    Args:
        scope: the main graph.
        found: the activation.
        name: its operand.
        value: what is known of that.
        order: how the samples lie in it, None where that is not known.
        alike: each batch has as many samples.
        block: channels side by side where the operand is an image in blocks, and `countable`; 0 for the plain layout.

    Returns None where its shape is not known.
    """
    if value.dims is None:
        return None
    elem_type, rank, size = value.elem_type, len(value.dims), size_of(value.dims) if alike else None
    if elem_type not in _FLOATS:
        name, elem_type = scope.cast(name, TensorProto.FLOAT), TensorProto.FLOAT
    axis = _unit_axis(found.layer, rank)
    others = tuple(each for each in range(rank) if each != axis)
    if axis is None or not others:
        return None
    peaks = ""
    if found.silent:
        # Of much, ONNX Runtime takes half the time for the last axes by themselves; a node more takes time to load.
        if block:
            peaks = _peaks_in_blocks(scope, name, [dim or 0 for dim in value.dims], block)
        else:
            twice = axis == 1 and rank > 2 and (size or 0) > ENOUGH
            within = scope.reduce("ReduceMax", name, others[1:]) if twice else name
            peaks = scope.reduce("ReduceMax", within, (0,) if twice else others)
    low, high = found.bounds
    if low == -math.inf and high == math.inf:
        return Units(peaks, "", 0, found.low)
    each = order.outer * order.inner if order is not None else 0
    if each and (size is None or size > ENOUGH) and order is not None:
        number, first = max(2, -(-ENOUGH // each)), order.outer == 1 and size_of(value.dims[1:]) == each
        name, rank = (name, rank) if first else (scope.reshape(name, order.outer, -1, order.inner), 3)
        name = scope.first(name, number, axis=0 if first else 1)
        size = None if size is None else min(size, number * each)
    over = _beyond(scope, scope.cast(name, TensorProto.FLOAT) if elem_type != TensorProto.FLOAT else name, low, high)
    if size is not None and size <= EXACT:
        return Units(peaks, scope.reduce("ReduceSum", over, range(rank), keep=True), size, found.low)
    rows = scope.cast(scope.reduce("ReduceSum", over, (rank - 1,), keep=True), TensorProto.DOUBLE)
    both = (scope.reduce("ReduceSum", rows, range(rank)), scope.cast(scope.op("Size", over), TensorProto.DOUBLE))
    return Units(peaks, scope.op("Concat", *(scope.reshape(each, 1) for each in both), axis=0), 0, found.low)


def _peaks_in_blocks(scope: ScopeBuilder, name: str, dims: Sequence[int], block: int) -> str:
    rows = padded(dims[1], block)
    within = scope.reduce("ReduceMax", scope.reshape(name, -1, rows // block, dims[2] * dims[3], block), (2,))
    return scope.first(scope.reshape(scope.reduce("ReduceMax", within, (0,)), rows), dims[1], axis=0)


def _unit_axis(layer: Layer, rank: int) -> int | None:
    """Return the axis of a layer's output that counts its units."""
    channels = of(layer.node).channels
    if channels == -1:  # a weight on the left has its rows along the last axis but one
        channels = rank - 2 if layer.position == 0 else rank - 1
    return channels


def _beyond(scope: ScopeBuilder, name: str, low: float, high: float) -> str:
    """Write 1 for each float32 value beyond bounds, of which one at least is finite, and 0 for the others."""

    def step(name: str, bound: float, slope: float) -> str:
        # Comparing and casting would be a node more, whose loading takes longer than its run.
        return scope.op("HardSigmoid", name, alpha=slope, beta=-slope * bound)

    if low == -high:
        return step(scope.op("Abs", name), high, STEEP)
    steps = [step(name, bound, slope) for bound, slope in ((low, -STEEP), (high, STEEP)) if math.isfinite(bound)]
    return scope.op("Add", *steps) if len(steps) > 1 else steps[0]


# --------------------------------------------------------------------------------------------------------- as arrays


def dead(units: Units | None, joined: Mapping[str, NDArray[np.float64]]) -> float:
    """Return the share of dead units; NaN where it is not known."""
    peaks = joined.get(units.peaks) if units is not None else None
    return math.nan if units is None or peaks is None or not peaks.size else float(np.mean(peaks <= units.low))


def saturated(units: Units | None, joined: Mapping[str, NDArray[np.float64]], batches: int) -> float:
    """Return the share of saturated values in so many batches; NaN where it is not known."""
    beyond = joined.get(units.beyond) if units is not None else None
    if units is None or beyond is None:
        return math.nan
    values = units.values * batches or float(beyond[1])
    return float(beyond[0] / values) if values else math.nan
