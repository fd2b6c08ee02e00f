"""Residual streams: which branches join one, and the layers that end them.

A branch joins where a value is added to one that it comes from, with a layer between. What the sum is carries the
stream on, also across an activation; a normalisation behind the sum ends it, as it brings the stream back to a std
of 1, and so does a projection, whose output is the first value of a new stream. A long skip, which goes around
branches of other streams as in a U-Net, is no branch, and what is joined side by side no stream.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from onnx_lsuv.layers import Layer, Plan
from onnx_lsuv.operators import WHOLE, of
from onnx_lsuv.program import Node, Program, stored

# What a stream or a branch passes as it is.
_MOVES = WHOLE | {"casts", "drops"}
BRANCHES = 2  # from which on a sum is a stream


@dataclass(slots=True, eq=False)
class Stream:
    """A residual stream of the main graph."""

    start: str  # the value that the first branch is added to
    projection: Layer | None  # the layer that makes it, where it projects an earlier stream
    branches: int = 0
    lasts: dict[Layer, float] = field(default_factory=dict)  # that end branches, and what multiplies each
    sums: list[Node] = field(default_factory=list)  # where they join

    @property
    def ends(self) -> Iterator[tuple[Layer, float]]:
        """The layers to scale, each with the part of the stream's std that it is to have.

        A branch that a scale before the sum already holds below that is left.
        """
        share = 1 / math.sqrt(self.branches)
        for layer, factor in self.lasts.items():
            if factor > share:
                yield layer, share / factor


def moves(node: Node) -> bool:
    """Say whether a node hands values on as they are."""
    return of(node).move in _MOVES or node.op == "Split"


def find_streams(plan: Plan) -> list[Stream]:
    """Return the residual streams of the main graph that several branches join."""
    return [stream for stream in _Finder(plan).find() if stream.branches >= BRANCHES]


def find_sums(plan: Plan) -> dict[Node, int]:
    """Return each sum where a branch joins a stream, also one of layers left alone, with the number of the stream."""
    finder = _Finder(plan)
    finder.layers |= {each.node for each in plan.skipped if each.weight}
    return {node: i for i, stream in enumerate(finder.find(), 1) for node in stream.sums}


class _Finder:
    """One look through the main graph."""

    def __init__(self, plan: Plan) -> None:
        body = plan.program.body
        self.program: Program = plan.program
        self.order = {node: i for i, node in enumerate(plan.order.get(body, body.nodes))}
        self.ends = {layer.end: layer for layer in plan.layers if layer.scaled}
        self.layers = {layer.node for layer in plan.layers}
        self.streams: list[Stream] = []
        self.tips: dict[str, Stream] = {}  # by the sum that a stream has come to
        self.joins: dict[Node, str] = {}  # and what each adds to

    def find(self) -> list[Stream]:
        for node in self.order:
            if node.op not in ("Add", "Sum") or len(node.inputs) != 2 or node in self.ends:
                continue
            if any(name in self.program.constants for name in node.inputs):
                continue
            for skip, branch in (node.inputs, node.inputs[::-1]):
                if self._join(node, skip, branch):
                    break
        return self.streams

    def _join(self, node: Node, skip: str, branch: str) -> bool:
        origin = _origin(self.program, skip)
        projection = None
        inside = self._between(origin, branch)
        if not inside:
            projection = self._last(skip)[0]
            if projection is None or projection is self._last(branch)[0]:
                return False
            origin = _origin(self.program, projection.node.inputs[1 - projection.position])
            inside = self._between(origin, branch)
            # Two layers side by side are a sum of two, and no stream.
            if len(inside & self.layers) < 2:
                return False
        if not inside & self.layers or inside & self.joins.keys():
            return False
        stream = None if projection else self.tips.pop(origin, None)
        if stream is None:
            self.streams.append(stream := Stream(skip, projection))
        stream.branches += 1
        stream.sums.append(node)
        last, factor = self._last(branch)
        if last is not None and last.node in inside:
            stream.lasts[last] = factor
        self.tips[node.outputs[0]] = stream
        self.joins[node] = origin
        return True

    def _between(self, start: str, name: str) -> set[Node]:
        """Return the nodes on the ways from a value to another one."""
        first = self.order.get(self.program.producers[start][0], -1) if start in self.program.producers else -1
        nodes, todo, seen = [], [name], {name}
        while todo:
            at = todo.pop()
            if at == start or at not in self.program.producers:
                continue
            node, _ = self.program.producers[at]
            if self.order.get(node, -1) > first:
                nodes.append(node)
                # What a scope reads of the values around it is no operand, so such a way is not seen.
                new = [each for each in node.inputs if each and each not in seen]
                seen.update(new)
                todo += new
        reached, on_way = {start}, set[Node]()
        for node in sorted(set(nodes), key=self.order.__getitem__):
            if not reached.isdisjoint(node.inputs):
                reached.update(node.outputs)
                on_way.add(node)
        return on_way if name != start else set()

    def _last(self, name: str) -> tuple[Layer | None, float]:
        """Return the layer whose output a branch adds, unless something normalises it or mixes it before that.

        And what constants multiply it by on the way, in the root of the mean square.
        """
        factor, constants = 1.0, self.program.constants
        while name in self.program.producers:
            node, _ = self.program.producers[name]
            if node in self.ends:
                return self.ends[node], factor
            data = [each for each in node.inputs if each not in constants]
            plain = moves(node) or (node.op in ("Mul", "Add") and len(data) == 1)
            if not plain or not data or node not in self.order:
                break
            if node.op == "Mul":
                factor *= _size(self.program, next(each for each in node.inputs if each in constants))
            name = data[0]
        return None, factor


def _size(program: Program, name: str) -> float:
    """Return the root of a constant's mean square; 1 where it has no values."""
    if program.is_absent(name):
        return 1.0
    values = np.asarray(stored(program, name), np.float64)
    return float(np.sqrt(np.mean(values * values))) if values.size else 1.0


def _origin(program: Program, name: str) -> str:
    """Return the value that a stream carries on, through operators that leave its size about as it is."""
    while name in program.producers:
        node, _ = program.producers[name]
        if not moves(node) and not of(node).on_stream:
            break
        name = node.inputs[0]
    return name


@dataclass(frozen=True, slots=True)
class Share:
    """The std that a layer is to have, as a part of that of a stream."""

    part: float
    stream: str | None  # the value to measure
    std: float = 1.0  # where none is


def shares_of(plan: Plan, stds: Mapping[str, float]) -> dict[str, Share]:
    """Return what the layers at the end of branches are to have, by weight key.

    Args:
        plan: the layers.
        stds: what they would have otherwise; 0 for a weight of zero, which is left.
    """
    body = plan.program.body
    order = {node: i for i, node in enumerate(plan.order.get(body, body.nodes))}
    found: dict[str, Share] = {}
    for stream in find_streams(plan):
        made, _ = plan.program.producers.get(stream.start, (None, 0))
        for layer, part in stream.ends:
            users = plan.weights[layer.weight].layers
            if layer.weight in found or not stds[layer.weight] or users[0] is not layer:
                continue
            if any(user.node not in order for user in users):
                continue
            if stream.projection is not None and stds[stream.projection.weight]:
                # It may stand behind the branch; its std is known before anything runs.
                found[layer.weight] = Share(part, None, stds[stream.projection.weight])
            elif made is None or order.get(made, len(order)) < order[layer.node]:
                found[layer.weight] = Share(part, stream.start)
    return found
