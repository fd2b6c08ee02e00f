"""Residual streams: which branches join one, and the layers that end them.

A branch joins where a value is added to one that it comes from, with a layer between. What the sum is carries the
stream on, also across an activation; a normalisation behind the sum ends it, as it brings the stream back to a std
of 1, and so does a projection, whose output is the first value of a new stream. Branches that read the same value may
be added to it one after the other, all at once, or first to each other. A long skip, which goes around branches of
other streams as in a U-Net, is no branch, and what is joined side by side no stream.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field

import numpy as np

from onnx_lsuv.layers import Layer, Plan
from onnx_lsuv.operators import WHOLE, of
from onnx_lsuv.program import Body, Node, Program, stored, walk

# What a stream or a branch passes as it is.
_MOVES = WHOLE | {"casts", "drops"}
_SUMS = ("Add", "Sum")
BRANCHES = 2  # from which on a sum is a stream
_CONTROL = "in If, Loop and Scan no stream is measured"


@dataclass(slots=True, eq=False)
class Stream:
    """A residual stream of one scope."""

    start: str  # the value that the first branch is added to
    projection: Layer | None  # the layer that makes it, where it projects an earlier stream
    branches: int = 0
    lasts: dict[Layer, float] = field(default_factory=dict)  # that end branches, and what multiplies each
    sums: dict[Node, str] = field(default_factory=dict)  # where they join, and what that comes to
    behind: dict[Layer, Node] = field(default_factory=dict)  # that would, but for a node before the sum

    @property
    def share(self) -> float:
        """What part of the stream's std a branch is to have."""
        return 1 / math.sqrt(self.branches)


def moves(node: Node) -> bool:
    """Say whether a node hands values on as they are."""
    return of(node).move in _MOVES or node.op == "Split"


def find_streams(plan: Plan, body: Body) -> list[Stream]:
    """Return the residual streams of a scope that several branches join."""
    return [stream for stream in _Finder(plan, body).find() if stream.branches >= BRANCHES]


def find_sums(plan: Plan) -> dict[Node, tuple[int, str]]:
    """Return each node of the main graph where a branch joins a stream: the number of the stream, and the sum."""
    streams = _Finder(plan, plan.program.body).find()
    return {node: (i, total) for i, stream in enumerate(streams, 1) for node, total in stream.sums.items()}


class _Finder:
    """One look through a scope."""

    def __init__(self, plan: Plan, body: Body) -> None:
        self.program: Program = plan.program
        self.order = _order(plan, body)
        self.ends = {layer.end: layer for layer in plan.layers if layer.scaled}
        # A layer that was left alone is none the less one.
        left = {each.node for each in plan.skipped if each.reason != "dynamic"}
        self.layers = {layer.node for layer in plan.layers} | left
        self.streams: list[Stream] = []
        self.tips: dict[str, Stream] = {}  # by the sum that a stream has come to
        self.joins: dict[Node, str] = {}  # and what the branches of each come from

    def find(self) -> list[Stream]:
        for node in self.order:
            data = self._terms(node)
            if (node.op in _SUMS or of(node).norm == "sum") and len(data) > 1 and node not in self.ends:
                any(self._join(node, skip, data[:i] + data[i + 1 :]) for i, skip in enumerate(data))
        return self.streams

    def _join(self, node: Node, skip: str, branches: Sequence[str]) -> bool:
        origin, projection, base = _origin(self.program, skip), None, ""
        inside = self._inside(origin, branches)
        if not inside and origin in self.tips:
            # A branch beside the one that was added last comes from what that was added to.
            base = self.joins[self.program.producers[origin][0]]
            inside = self._inside(base, branches)
        if not inside:
            projection = self._projection(skip, branches)
            if projection is None:
                return False
            layer = self.ends[projection].node if projection in self.ends else projection
            base = _origin(self.program, next(iter(self._terms(layer)), ""))
            inside = self._inside(base, branches)
            # Layers side by side are a sum, and no stream.
            if len(inside & self.layers) <= sum(len(list(self._parts(branch))) for branch in branches):
                return False
        stream = None if projection else self.tips.pop(origin, None)
        if stream is None:
            self.streams.append(stream := Stream(skip, self.ends.get(projection) if projection else None))
        for branch in branches:
            self._count(stream, branch, inside)
        if total := self._total(node):
            self.tips[total], stream.sums[node] = stream, total
        self.joins[node] = base or origin
        return True

    def _count(self, stream: Stream, branch: str, inside: set[Node]) -> None:
        """Take up a branch, or the several that one is the sum of."""
        parts = [(last, factor) for last, factor in self._parts(branch) if last in inside]
        stream.branches += max(len(parts), 1)
        for last, factor in parts:
            if last in self.ends:
                stream.lasts[self.ends[last]] = factor
            elif last not in self.layers and not of(last).norm:
                made = [*last.inputs, *(each.name for body in last.bodies.values() for each in body.outputs)]
                ends = (end for name in made for end, _ in self._parts(name))
                stream.behind |= {self.ends[end]: last for end in ends if end in self.ends}

    def _projection(self, skip: str, branches: Sequence[str]) -> Node | None:
        """Return the end of the layer that alone makes what is added to branches, of which it ends none."""
        found = [node for node, _ in self._parts(skip)]
        if len(found) != 1 or any(node is found[0] for branch in branches for node, _ in self._parts(branch)):
            return None
        return found[0] if found[0] in self.ends or found[0] in self.layers else None

    def _inside(self, start: str, names: Sequence[str]) -> set[Node]:
        """Return the nodes on the ways from a value to others; none if no layer is on one, or a join is."""
        ways = [self._between(start, name) for name in names]
        return set().union(*ways) if all(way & self.layers for way in ways) else set()

    def _between(self, start: str, name: str) -> set[Node]:
        """Return the nodes on the ways from a value to another one; none where a join is on one."""
        starts = {start}
        if start in self.program.producers and of(made := self.program.producers[start][0]).normed is not None:
            starts.update(filter(None, made.outputs))  # its norm is in the same node
        nodes, reached, joins = self._back(starts, [name], through=False)
        # Seldom there are joins beside: what else goes into the branch carries this stream too, or another one.
        if not reached or any(self._back(starts, each.inputs, through=True)[1] for each in joins):
            return set()
        known, on_way = starts, set[Node]()
        for node in sorted(nodes, key=self.order.__getitem__):
            if not known.isdisjoint(node.inputs):
                known.update(node.outputs)
                on_way.add(node)
        return on_way

    def _back(self, starts: Set[str], names: Sequence[str], *, through: bool) -> tuple[set[Node], bool, list[Node]]:
        """Go back from values, no further than those of a node and what stands before it, and through joins or not.

        Returns:
            The nodes that were met, whether that one's values were, and the joins where it ended.
        """
        nodes, joins, seen, reached = set[Node](), list[Node](), set[str](), False
        todo, first = list(names), max(map(self._at, starts))
        while todo:
            at = todo.pop()
            reached = reached or at in starts
            if at in seen or at in starts or self._at(at) <= first:
                continue
            seen.add(at)
            node, _ = self.program.producers[at]
            if node in self.joins and not through:
                joins.append(node)
                continue
            nodes.add(node)
            # What a scope reads of the values around it is no operand, so such a way is not seen.
            todo += node.inputs
        return nodes, reached, joins

    def _total(self, node: Node) -> str:
        """Return the value of a node that is a sum; none where a normalisation gives what became of it alone."""
        if node.op in _SUMS:
            return node.outputs[0]
        at = of(node).normed if of(node).norm == "sum" else None
        return node.outputs[at] if at is not None and at < len(node.outputs) else ""

    def _terms(self, node: Node) -> list[str]:
        """Return the operands of a node that do not depend on constants alone."""
        return [name for name in node.inputs if name and not self._is_constant(name)]

    def _is_constant(self, name: str) -> bool:
        made = self.program.producers.get(name)
        return name in self.program.constants or (made is not None and made[0] in self.program.static)

    def _at(self, name: str) -> int:
        """Return the place of the node that makes a value."""
        made = self.program.producers.get(name)
        return -1 if made is None else self.order.get(made[0], -1)

    def _parts(self, name: str) -> Iterator[tuple[Node, float]]:
        """Yield the nodes whose outputs a value is the sum of, and what constants multiply each by.

        The latter in the root of the mean square.
        """
        todo, seen = [(name, 1.0)], set[str]()
        while todo:
            name, factor = todo.pop()
            if name in seen or name not in self.program.producers:
                continue
            seen.add(name)
            node, _ = self.program.producers[name]
            data = self._terms(node)
            scales = node.op == "Mul" and len(data) == 1
            if node in self.ends or node in self.layers or node in self.joins or not data:
                yield node, factor
            elif name == self._total(node):
                todo += [(each, factor) for each in data]
            elif scales or moves(node):
                sizes = [_size(self.program, each) for each in node.inputs if scales and each != data[0]]
                todo.append((data[0], factor * math.prod(sizes)))
            else:
                yield node, factor


def _order(plan: Plan, body: Body) -> dict[Node, int]:
    return {node: i for i, node in enumerate(plan.order.get(body, body.nodes))}


def _size(program: Program, name: str) -> float:
    """Return the root of a constant's mean square; 1 where it has no values, or they are computed."""
    while name in program.producers and moves(program.producers[name][0]):
        name = program.producers[name][0].inputs[0]
    if name not in program.constants or program.is_absent(name):
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


def shares_of(
    plan: Plan, stds: Mapping[str, float], named: Set[str] = frozenset()
) -> tuple[dict[str, Share], dict[Layer, str]]:
    """Return what the layers at the end of branches are to have, by weight key; and why others are left at their std.

    Args:
        plan: the layers.
        stds: what they would have otherwise; 0 for a weight of zero, which is left.
        named: keys of the weights that are to have that all the same.
    """
    order = _order(plan, plan.program.body)
    found, left = dict[str, Share](), dict[Layer, str]()
    for stream in find_streams(plan, plan.program.body):
        at = None
        if stream.start in plan.program.producers:
            at = order.get(plan.program.producers[stream.start][0], len(order))
        left |= {layer: f"{node.op} stands between it and the sum" for layer, node in stream.behind.items()}
        for layer, factor in stream.lasts.items():
            users = plan.weights[layer.weight].layers
            if layer.weight in found or users[0] is not layer:
                continue
            part = stream.share / factor if factor else 1.0
            if factor <= stream.share:
                left[layer] = f"a layer scale of {factor:.2g} holds it"
            elif any(user.node not in order for user in users):
                left[layer] = _CONTROL
            elif stream.projection is not None and stds[stream.projection.weight]:
                # It may stand behind the branch; its std is known before anything runs.
                found[layer.weight] = Share(part, None, stds[stream.projection.weight])
            elif at is None or at < order[layer.node]:
                found[layer.weight] = Share(part, stream.start)
            else:
                left[layer] = "what it joins is computed behind it"
    for node in walk(plan.program.body):
        for body in node.bodies.values():
            for stream in find_streams(plan, body):
                left |= dict.fromkeys((*stream.lasts, *stream.behind), _CONTROL)
    free = {key: weight.layers[0] for key, weight in plan.weights.items() if stds[key] and key not in named}
    return (
        {key: share for key, share in found.items() if key in free},
        {layer: why for layer, why in left.items() if free.get(layer.weight) is layer and layer.weight not in found},
    )
