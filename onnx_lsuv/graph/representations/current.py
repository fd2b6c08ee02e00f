"""The forms that values are there in, and how to get one from another."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod

from onnx import NodeProto, TensorProto

from onnx_lsuv.graph.blocked import DOMAIN
from onnx_lsuv.graph.builder import ScopeBuilder, Value
from onnx_lsuv.program import Body, Constant, Node


@dataclass(frozen=True, slots=True)
class Representation:
    """One form of a value: its name, the factor still to come (a scalar; None for 1), in blocks or not."""

    name: str
    factor: str | None = None
    blocked: bool = False


@dataclass(slots=True)
class Representations:
    """The forms that the values of the main graph exist in."""

    block: int  # channels side by side in blocks; 1 where ONNX Runtime has no such layout
    opset: int
    values: Mapping[str, Value]
    constants: Mapping[str, Constant]
    zeroed: Collection[str]  # constants that are zero
    readers: Mapping[str, Sequence[tuple[Node, int]]]
    current: dict[str, Representation] = field(default_factory=dict)  # the form that is there, oldest value first
    plain: set[str] = field(default_factory=set)  # those of them that are there in plain form too
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
        """Return the form that a value is there in."""
        return self.current.get(name) or Representation(name)

    # --- other forms of one value

    def divided(self, scope: ScopeBuilder, name: str) -> Representation:
        """Return a value in blocks with no factor to come."""
        rep = self.current[name]
        if rep.factor is not None:
            rep = Representation(scope.op("Mul", rep.name, rep.factor), blocked=True)
            self.current[name] = rep
        return rep

    def unblocked(self, scope: ScopeBuilder, name: str) -> Representation:
        """Return a value in plain layout, with or without a factor."""
        rep = self.of(name)
        if not rep.blocked or name in self.plain:
            return Representation(name) if name in self.plain else rep
        if rep.factor is None:
            self.materialise(scope, name)
            return Representation(name)
        return replace(rep, name=self._reorder(scope, rep, name, None), blocked=False)

    def in_blocks(self, scope: ScopeBuilder, name: str) -> Representation:
        """Return an image in blocks, with or without a factor."""
        rep = self.of(name)
        if not rep.blocked:
            if rep == Representation(name):
                self.plain.add(name)
            rep = replace(rep, name=scope.op("ReorderInput", rep.name, domain=DOMAIN), blocked=True)
            self.current[name] = rep
        return rep

    def materialise(self, scope: ScopeBuilder, *names: str) -> None:
        """Make the plain form of values that are there in another form only."""
        for name in names:
            if name not in self.current or name in self.plain:
                continue
            rep = self.current[name]
            if rep.blocked:
                rep = self.divided(scope, name)
                self._reorder(scope, rep, name, name)
            elif rep.factor is not None:
                scope.op("Mul", rep.name, rep.factor, output=name)
                self.current[name] = Representation(name)
            else:
                scope.op("Identity", rep.name, output=name)
            self.plain.add(name)

    def materialise_for(self, scope: ScopeBuilder, node: Node) -> None:
        """Make the plain form of everything that a node and its scopes read."""
        self.materialise(scope, *node.inputs)
        for body in node.bodies.values():
            self._materialise_body(scope, body)

    def _materialise_body(self, scope: ScopeBuilder, body: Body) -> None:
        for node in body.nodes:
            self.materialise_for(scope, node)
        self.materialise(scope, *(value.name for value in body.outputs))

    def _reorder(self, scope: ScopeBuilder, rep: Representation, name: str, output: str | None) -> str:
        image = self.image(name)
        assert image is not None
        return scope.op("ReorderOutput", rep.name, output=output, domain=DOMAIN, channels=image[1])
