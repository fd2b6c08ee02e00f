"""The forms that values are there in, and how to get one from another."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod

from onnx import NodeProto, TensorProto

from onnx_lsuv.graph.blocked import DOMAIN
from onnx_lsuv.graph.builder import GraphBuilder, Value
from onnx_lsuv.program import Body, Constant, Node


@dataclass(frozen=True, slots=True)
class Form:
    """One form of a value: its name, the factor still to come (a scalar; None for 1), in blocks or not."""

    name: str
    factor: str | None = None
    blocked: bool = False


@dataclass(slots=True)
class Forms:
    """The forms that the values of the main graph exist in."""

    block: int  # channels side by side in blocks; 1 where ONNX Runtime has no such layout
    opset: int
    values: Mapping[str, Value]
    constants: Mapping[str, Constant]
    zeroed: Collection[str]  # constants that are zero
    readers: Mapping[str, Sequence[tuple[Node, int]]]
    held: dict[str, Form] = field(default_factory=dict)  # the form that is there, oldest value first
    settled: set[str] = field(default_factory=set)  # those of them that are there in plain form too
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

    def form(self, name: str) -> Form:
        """Return the form that a value is there in."""
        return self.held.get(name) or Form(name)

    # --- other forms of one value

    def divided(self, builder: GraphBuilder, name: str) -> Form:
        """Return a value in blocks with no factor to come."""
        form = self.held[name]
        if form.factor is not None:
            form = Form(builder.op("Mul", form.name, form.factor), blocked=True)
            self.held[name] = form
        return form

    def unblocked(self, builder: GraphBuilder, name: str) -> Form:
        """Return a value in plain layout, with or without a factor."""
        form = self.form(name)
        if not form.blocked or name in self.settled:
            return Form(name) if name in self.settled else form
        if form.factor is None:
            self.settle(builder, name)
            return Form(name)
        return replace(form, name=self._reorder(builder, form, name, None), blocked=False)

    def in_blocks(self, builder: GraphBuilder, name: str) -> Form:
        """Return an image in blocks, with or without a factor."""
        form = self.form(name)
        if not form.blocked:
            if form == Form(name):
                self.settled.add(name)
            form = replace(form, name=builder.op("ReorderInput", form.name, domain=DOMAIN), blocked=True)
            self.held[name] = form
        return form

    def settle(self, builder: GraphBuilder, *names: str) -> None:
        """Make the plain form of values that are there in another form only."""
        for name in names:
            if name not in self.held or name in self.settled:
                continue
            form = self.held[name]
            if form.blocked:
                form = self.divided(builder, name)
                self._reorder(builder, form, name, name)
            elif form.factor is not None:
                builder.op("Mul", form.name, form.factor, output=name)
                self.held[name] = Form(name)
            else:
                builder.op("Identity", form.name, output=name)
            self.settled.add(name)

    def settle_for(self, builder: GraphBuilder, node: Node) -> None:
        """Make the plain form of everything that a node and its scopes read."""
        self.settle(builder, *node.inputs)
        for body in node.bodies.values():
            self._settle_body(builder, body)

    def _settle_body(self, builder: GraphBuilder, body: Body) -> None:
        for node in body.nodes:
            self.settle_for(builder, node)
        self.settle(builder, *(value.name for value in body.outputs))

    def _reorder(self, builder: GraphBuilder, form: Form, name: str, output: str | None) -> str:
        image = self.image(name)
        assert image is not None
        return builder.op("ReorderOutput", form.name, output=output, domain=DOMAIN, channels=image[1])
