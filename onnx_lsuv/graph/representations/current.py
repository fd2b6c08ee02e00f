"""The current representation of each value, and how to get another from it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod

from onnx import NodeProto, TensorProto

from onnx_lsuv.graph.blocked import DOMAIN
from onnx_lsuv.graph.builder import ScopeBuilder, Value
from onnx_lsuv.program import Constant, Node


@dataclass(frozen=True, slots=True)
class Representation:
    """How a value is there: under which name, the factor still to come (a scalar; None for 1), in blocks or not."""

    name: str
    factor: str | None = None
    blocked: bool = False


@dataclass(slots=True)
class Representations:
    """How the values of the main graph are represented."""

    scope: ScopeBuilder  # the main graph, where nodes are written
    block: int  # channels side by side in blocks; 1 where ONNX Runtime has no such layout
    values: Mapping[str, Value]
    constants: Mapping[str, Constant]
    number: Callable[[str], float | None]  # of a constant of one element that stays as it is
    zeroed: Collection[str]  # constants that are zero
    readers: Mapping[str, Sequence[tuple[Node, int]]]
    current: dict[str, Representation] = field(default_factory=dict)  # where it was not always plain; oldest first
    plain: set[str] = field(default_factory=set)  # those values that are there in plain too
    fusible: dict[str, NodeProto] = field(default_factory=dict)  # what makes values in blocks and takes an activation

    def dims(self, name: str) -> tuple[int, ...] | None:
        """Return a value's shape, where all of it is known."""
        value = self.values.get(name)
        if value is None or value.dims is None:
            return None
        known = tuple(d for d in value.dims if d is not None)
        return known if len(known) == len(value.dims) else None

    def image(self, name: str) -> tuple[int, int, int, int] | None:
        """Return the shape of a float32 image, where it is known and not empty."""
        value, dims = self.values.get(name), self.dims(name)
        if value is None or value.elem_type != TensorProto.FLOAT or dims is None or len(dims) != 4 or not prod(dims):
            return None
        n, c, h, w = dims
        return n, c, h, w

    def of(self, name: str) -> Representation:
        """Return a value's current representation."""
        return self.current.get(name) or Representation(name)

    # --- another representation of one value

    def divided(self, name: str) -> Representation:
        """Return a value in blocks with no factor to come."""
        rep = self.current[name]
        if rep.factor is not None:
            rep = self.current[name] = Representation(self.scope.op("Mul", rep.name, rep.factor), blocked=True)
        return rep

    def unblocked(self, name: str) -> Representation:
        """Return a value in plain layout, with or without a factor."""
        rep = self.of(name)
        if rep.blocked and rep.factor is None:
            self.materialise(name)
        if name in self.plain:
            return Representation(name)
        return replace(rep, name=self._reordered(rep, name), blocked=False) if rep.blocked else rep

    def in_blocks(self, name: str) -> Representation:
        """Return an image in blocks, with or without a factor."""
        rep = self.of(name)
        if not rep.blocked:
            if rep == Representation(name):
                self.plain.add(name)
            made = self.scope.op("ReorderInput", rep.name, domain=DOMAIN)
            rep = self.current[name] = replace(rep, name=made, blocked=True)
        return rep

    def materialise(self, *names: str) -> None:
        """Write values that are not there in plain."""
        for name in names:
            if name not in self.current or name in self.plain:
                continue
            rep = self.current[name]
            if rep.blocked:
                self._reordered(self.divided(name), name, output=name)
            elif rep.factor is not None:
                self.scope.op("Mul", rep.name, rep.factor, output=name)
                self.current[name] = Representation(name)
            else:
                self.scope.op("Identity", rep.name, output=name)
            self.plain.add(name)

    def materialise_for(self, node: Node) -> None:
        """Write everything that a node and its scopes read and that is not there in plain."""
        self.materialise(*node.inputs)
        for body in node.bodies.values():
            for inner in body.nodes:
                self.materialise_for(inner)
            self.materialise(*(value.name for value in body.outputs))

    def _reordered(self, rep: Representation, name: str, output: str | None = None) -> str:
        image = self.image(name)
        assert image is not None
        return self.scope.op("ReorderOutput", rep.name, output=output, domain=DOMAIN, channels=image[1])
