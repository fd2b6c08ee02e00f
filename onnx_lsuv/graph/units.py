"""What the activation after a layer lets through: the units that it silences, the values that it saturates.

Both are told by the activation's operand x, as its slope is (nearly) zero below one bound and above another: for Relu
below 0, for tanh, by 0.99 of what it can give, beyond +-2.65 (a row of `operators` has them). A unit is a channel of a
convolution, or a feature:

    dead        share of the units whose x is below the bound for every sample and position: max x <= low
    saturated   share of the values beyond the bounds, of which the lower one does not count where the function gives
                nothing there: that is what half the values of a Relu6 are for

A batch gives a maximum for each unit, of all its values, and some of the values, of all units, which are counted on the
host: each node of a graph takes longer to make and to load than these take to count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from onnx_lsuv.graph.blocked import padded
from onnx_lsuv.graph.builder import ScopeBuilder, Value
from onnx_lsuv.layers import Layer, Plan
from onnx_lsuv.operators import of
from onnx_lsuv.program import Node, Program, stored

# Of many more values than these, some are looked at: for the maximum of a unit, and of all units to count.
LOOKED_AT, COUNTED = 1 << 12, 1 << 14
WORTH = 4  # a copy of so small a part takes less than the whole
SAMPLES = 16  # of which no less are taken
# Values up to which they leave the graph as they are, and from which on a node more is made up for.
FEW, MUCH = 1 << 15, 1 << 17
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

    peaks: str  # the largest operands of the activation
    others: tuple[int, ...]  # its axes that count no units
    some: str  # operands
    low: float
    bounds: tuple[float, float]
    number: int = 0  # of units in blocks
    rows: int = 0  # and with those that are empty; 0 for the plain layout

    @property
    def top(self) -> str:
        """What the largest operand of each unit is called."""
        return f"{self.peaks} at most"

    @property
    def tally(self) -> str:
        """What the counts are called."""
        return f"{self.some} beyond its bounds"

    def largest(self, peaks: NDArray[Any]) -> NDArray[Any]:
        """Return of each unit the largest operand."""
        return np.asarray(peaks.max(self.others, initial=-math.inf)).reshape(-1)[: self.number or None]

    def counted(self, some: NDArray[Any]) -> NDArray[Any]:
        """Return how many of some operands are beyond the bounds, and of how many."""
        low, high = self.bounds
        beyond = np.count_nonzero(some > high) + (np.count_nonzero(some < low) if low > -math.inf else 0)
        return np.array([beyond, some.size * self.number / self.rows if self.rows else some.size])


def activations(plan: Plan, values: Mapping[str, Value]) -> dict[Node, Activation]:
    """Return the activations after layers of the main graph, each with the last layer before it.

    Args:
        plan: the layers.
        values: their shapes, as inferred.
    """
    found = dict[Node, Activation]()
    outer = frozenset(plan.program.body.nodes)
    end_of = cache(lambda name: float(stored(plan.program, name).reshape(-1)[0]))
    bounded = {node: bounds for node in outer if (bounds := _bounds(plan.program, node, end_of))}
    for layer in plan.layers:
        if layer.scaled and layer.end in outer and (node := _after(plan.program, layer, values, outer, bounded)):
            found[node] = Activation(layer, *bounded[node])
    return found


def _after(
    program: Program, layer: Layer, values: Mapping[str, Value], outer: Set[Node], bounded: Collection[Node]
) -> Node | None:
    """Return the activation that a layer's output reaches, the same in shape, by norms and sums alone."""
    name = layer.end.outputs[0]
    dims = values[name].dims if name in values else None
    for _ in range(STEPS):
        readers = [node for node, _ in program.consumers.get(name, ()) if node in outer]
        reached = next((node for node in readers if node.inputs[0] == name and node in bounded), None)
        if dims is None or reached is not None:
            return None if dims is None or (reached and _gates_itself(program, reached)) else reached
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


def _bounds(program: Program, node: Node, end_of: Callable[[str], float]) -> tuple[float, float, bool] | None:
    """Return where the slope of an activation is zero, and whether it gives nothing below; None where it has no end."""
    row = of(node)
    if row.move != "clips":
        return (*row.flat(node.attributes), row.silent) if row.flat else None
    ends = [node.attributes.real("min", -math.inf), node.attributes.real("max", math.inf)]
    for i, name in enumerate(node.inputs[1:3]):
        if name and name not in program.constants:
            return None
        ends[i] = end_of(name) if name else ends[i]
    low, high = ends
    return None if low == -math.inf and high == math.inf else (low, high, low == 0)


# ------------------------------------------------------------------------------------------------------ in the graph


def countable(found: Activation) -> bool:
    """Say whether units can be told by an image in blocks, of which zeros fill the last: these must not count."""
    low, high = found.bounds
    return low <= 0 <= high


def write_units(
    scope: ScopeBuilder, found: Activation, name: str, value: Value, length: int, *, block: int = 0
) -> Units | None:
    """Write what tells dead and saturated units by the operand of an activation, before that, which may overwrite it.

    Args:
        scope: the main graph.
        found: the activation.
        name: its operand.
        value: what is known of that.
        length: of the longest batch, whose samples an axis counts that alone has no known length, or is the first.
        block: channels side by side where the operand is an image in blocks, and `countable`; 0 for the plain layout.

    Returns None where its shape is not known.
    """
    if value.dims is None:
        return None
    rank, axis = len(value.dims), _unit_axis(found.layer, len(value.dims))
    unknown = [i for i, dim in enumerate(value.dims) if not dim]
    guessed = unknown[0] if len(unknown) == 1 or 0 in unknown else None
    dims = [dim or (length if i == guessed else 1) for i, dim in enumerate(value.dims)]
    if axis is None or rank < 2:
        return None
    if value.elem_type not in _FLOATS:
        name = scope.cast(name, TensorProto.FLOAT)
    counts, number, rows, units = found.bounds != (-math.inf, math.inf), 0, 0, {axis}
    if block:
        number, rows, units = dims[1], padded(dims[1], block), {1, rank}
        dims = [dims[0], rows // block, *dims[2:], block]
        name = scope.reshape(name, -1, *dims[1:])
    left = others = tuple(each for each in range(len(dims)) if each not in units)
    peaks = name if found.silent else ""
    if found.silent and math.prod(dims) > FEW:
        steps = _steps(dims, others, LOOKED_AT * math.prod(dims[each] for each in units))
        seen, size = scope.thinned(name, dims, steps, guessed=guessed), math.prod(dims) // math.prod(steps)
        # Of much, ONNX Runtime takes half the time for the last axes by themselves.
        alone = block or (axis == 1 and rank > 2 and size > MUCH)
        peaks, left = scope.reduce("ReduceMax", seen, others[1:] if alone else others), (0,) if alone else ()
    some = scope.thinned(name, dims, _steps(dims, others, COUNTED), guessed=guessed) if counts else ""
    return Units(peaks, left, some, found.low, found.bounds, number, rows)


def _steps(dims: Sequence[int], axes: Sequence[int], most: int) -> list[int]:
    """Return of how many along each axis one is to be taken, so that there are about so many values at most.

    Rows are taken whole: to copy values one by one takes as long as to look at all.
    """
    steps, axes = [1] * len(dims), axes[: -1 if len(axes) > 1 and axes[-1] > axes[0] + 1 else None]

    def left(axis: int) -> int:
        return -(-dims[axis] // steps[axis])

    while math.prod(map(left, range(len(dims)))) > most:
        free = [0] if 0 in axes and left(0) > SAMPLES else [axis for axis in axes if axis and left(axis) > 1]
        if not free:
            break
        steps[max(free, key=left)] *= 2
    return steps if math.prod(steps) >= WORTH else [1] * len(dims)


def _unit_axis(layer: Layer, rank: int) -> int | None:
    """Return the axis of a layer's output that counts its units."""
    channels = of(layer.node).channels
    if channels == -1:  # a weight on the left has its rows along the last axis but one
        channels = rank - 2 if layer.position == 0 else rank - 1
    return channels


# --------------------------------------------------------------------------------------------------------- as arrays


def dead(units: Units | None, joined: Mapping[str, NDArray[np.float64]]) -> float:
    """Return the share of dead units; NaN where it is not known."""
    peaks = joined.get(units.top) if units is not None else None
    return math.nan if units is None or peaks is None or not peaks.size else float(np.mean(peaks <= units.low))


def saturated(units: Units | None, joined: Mapping[str, NDArray[np.float64]]) -> float:
    """Return the share of saturated values; NaN where it is not known."""
    found = joined.get(units.tally) if units is not None else None
    return math.nan if found is None or not found[1] else float(found[0] / found[1])
