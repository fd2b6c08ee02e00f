"""The forms in which the values of the main graph exist: divided or not, in blocks or not.

A layer's output is to be multiplied by s = t / std. That pass over the activations can mostly be left out: the output
x goes on as x' with a factor that is still to come, x = f x', and each operator that follows takes x' where it can:

    positively homogeneous      g(f x') = f g(x')                     Relu, pooling, Reshape, Transpose, ...
    clipping                    Clip(f x', lo, hi) = f Clip(x', lo / f, hi / f)
    a sum, maximum, Concat      f x' + g y' = f (x' + (g / f) y')     one operand is multiplied, not all; in blocks
                                                                      a sum, and a Relu after it, is one pass
    a product                   (f x') (g y') = f g (x' y')
    a layer                     W (f x') = (f W) x'                   where the weight is smaller than x

What reads x otherwise gets the plain value, written when it is first asked for. The same goes for the layout (see
`blocked`): a value may exist in blocks, and gets its plain form when something asks for it.

Only float32 and float64 values wait: half precision has no range to spare.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod

import numpy as np
from onnx import NodeProto, TensorProto, helper
from onnx.numpy_helper import to_array

from onnx_lsuv.graph.blocked import DOMAIN, MULTIPLE, add_product, padded, pools_in_blocks
from onnx_lsuv.graph.nodes import proto_of
from onnx_lsuv.graph.sheet import Sheet, Value
from onnx_lsuv.layers import SHAPE_READERS, Body, Constant, Node
from onnx_lsuv.model import is_hollow

# Positively homogeneous in their first operand, whatever the others are.
_HOMOGENEOUS = frozenset({
    "Relu", "LeakyRelu", "PRelu", "Identity", "Dropout", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool",
    "Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "DepthToSpace", "SpaceToDepth",
    "ReduceMean", "ReduceSum", "ReduceMax", "Abs", "Neg", "Expand", "Tile", "Gather",
})  # fmt: skip
_POOLS = frozenset({"MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool"})
# These treat every value alike, whatever its place. They give a finite number for 0: the channels that fill the last
# block stay finite, and the next filter has zeros there.
_ALIKE = frozenset({
    "Relu", "LeakyRelu", "Elu", "Selu", "Celu", "ThresholdedRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh",
    "Softplus", "Softsign", "Gelu", "Erf", "Abs", "Neg", "Identity",
})  # fmt: skip
_JOINS = frozenset({"Add", "Sub", "Sum", "Max", "Min", "Concat"})


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

    def divided(self, sheet: Sheet, name: str) -> Form:
        """Return a value in blocks with no factor to come."""
        form = self.held[name]
        if form.factor is not None:
            form = Form(sheet.op("Mul", form.name, form.factor), blocked=True)
            self.held[name] = form
        return form

    def unblocked(self, sheet: Sheet, name: str) -> Form:
        """Return a value in plain layout, with or without a factor."""
        form = self.form(name)
        if not form.blocked or name in self.settled:
            return Form(name) if name in self.settled else form
        if form.factor is None:
            self.settle(sheet, name)
            return Form(name)
        return replace(form, name=self._reorder(sheet, form, name, None), blocked=False)

    def in_blocks(self, sheet: Sheet, name: str) -> Form:
        """Return an image in blocks, with or without a factor."""
        form = self.form(name)
        if not form.blocked:
            if form == Form(name):
                self.settled.add(name)
            form = replace(form, name=sheet.op("ReorderInput", form.name, domain=DOMAIN), blocked=True)
            self.held[name] = form
        return form

    def settle(self, sheet: Sheet, *names: str) -> None:
        """Make the plain form of values that are there in another form only."""
        for name in names:
            if name not in self.held or name in self.settled:
                continue
            form = self.held[name]
            if form.blocked:
                form = self.divided(sheet, name)
                self._reorder(sheet, form, name, name)
            elif form.factor is not None:
                sheet.op("Mul", form.name, form.factor, output=name)
                self.held[name] = Form(name)
            else:
                sheet.op("Identity", form.name, output=name)
            self.settled.add(name)

    def settle_for(self, sheet: Sheet, node: Node) -> None:
        """Make the plain form of everything that a node and its scopes read."""
        self.settle(sheet, *node.inputs)
        for body in node.bodies.values():
            self._settle_body(sheet, body)

    def _settle_body(self, sheet: Sheet, body: Body) -> None:
        for node in body.nodes:
            self.settle_for(sheet, node)
        self.settle(sheet, *(value.name for value in body.outputs))

    def _reorder(self, sheet: Sheet, form: Form, name: str, output: str | None) -> str:
        image = self.image(name)
        assert image is not None
        return sheet.op("ReorderOutput", form.name, output=output, domain=DOMAIN, channels=image[1])

    # --- nodes on values that are there in some form

    def write(self, sheet: Sheet, node: Node) -> bool:
        """Write a node on the forms that its operands are there in, where it can be; say whether it was."""
        if node.domain != "" or node.bodies or not any(name in self.held for name in node.inputs):
            return False
        first = node.inputs[0]
        if node.op_type in SHAPE_READERS:
            sheet.nodes.append(proto_of(replace(node, inputs=(self.unblocked(sheet, first).name,))))
        elif node.op_type == "Clip" and self.opset >= 11 and self._alone(node):
            self._clip(sheet, node)
        elif node.op_type in _HOMOGENEOUS and self._alone(node):
            self._homogeneous(sheet, node)
        elif node.op_type in _ALIKE and self.form(first).blocked and self.image(node.outputs[0]):
            form = self.divided(sheet, first)
            self._hold(sheet, node, (form.name,), Form("", None, True))
        elif node.op_type in _JOINS and len(node.outputs) == 1:
            return self._join(sheet, node)
        elif node.op_type == "Mul":
            return self._product(sheet, node)
        else:
            return False
        return True

    def _alone(self, node: Node) -> bool:
        """Say whether a node's first operand is the only one that is there in another form."""
        return not any(name in self.held and name not in self.settled for name in node.inputs[1:])

    def _hold(self, sheet: Sheet, node: Node, inputs: Sequence[str], form: Form) -> None:
        """Write a node of one output with other operands; the output is there in a form."""
        made = sheet.book.fresh()
        sheet.nodes.append(proto_of(replace(node, inputs=tuple(inputs), outputs=(made,))))
        self.held[node.outputs[0]] = replace(form, name=made)

    def _homogeneous(self, sheet: Sheet, node: Node) -> None:
        form = self.form(node.inputs[0])
        rest = node.inputs[1:]
        if form.blocked and len(node.outputs) == 1 and self.image(node.outputs[0]):
            if node.op_type == "Relu" and self._fuse(node, "Relu"):
                return None
            if node.op_type in _ALIKE and not rest:
                return self._hold(sheet, node, (form.name,), form)
            if node.op_type in _POOLS and pools_in_blocks(node):
                attributes = {key: a for key, a in node.attributes.items() if key != "storage_order"}
                return self._hold(sheet, replace(node, domain=DOMAIN, attributes=attributes), (form.name,), form)
        form = self.unblocked(sheet, node.inputs[0])
        # What a MaxPool or a Dropout gives beside its first output has no factor.
        waiting = node.outputs if node.op_type == "Split" else node.outputs[:1]
        fresh = tuple(sheet.book.fresh() if name else "" for name in waiting)
        outputs = (*fresh, *node.outputs[len(waiting) :])
        sheet.nodes.append(proto_of(replace(node, inputs=(form.name, *rest), outputs=outputs)))
        self.held |= {name: replace(form, name=made) for name, made in zip(waiting, fresh, strict=True) if name}
        return None

    def _fuse(self, node: Node, activation: str, *params: float) -> bool:
        """Let what makes a value that nothing else reads end in an activation; say whether it does."""
        name = node.inputs[0]
        if name not in self.fusible or len(self.readers.get(name, ())) != 1 or name in self.settled:
            return False
        attributes = self.fusible[name].attribute
        attributes.append(helper.make_attribute("activation", activation))
        if params:
            attributes.append(helper.make_attribute("activation_params", params))
        self.held[node.outputs[0]] = self.held.pop(name)
        return True

    def _clip(self, sheet: Sheet, node: Node) -> None:
        form = self.form(node.inputs[0]) if self.image(node.outputs[0]) else self.unblocked(sheet, node.inputs[0])
        bounds = node.inputs[1:]
        if form.factor is not None:
            bounds = tuple(self._bound(sheet, bound, form.factor) for bound in bounds)
        elif form.blocked and (limits := self._limits(bounds)) and self._fuse(node, "Clip", *limits):
            return
        self._hold(sheet, node, (form.name, *bounds), form)

    def _limits(self, bounds: Sequence[str]) -> list[float]:
        """Return the two numbers between which a Clip keeps its values; nothing where one is not known."""
        most = float(np.finfo(np.float32).max)
        limits = [-most, most]
        for i, bound in enumerate(bounds):
            if bound:
                tensor = self.constants[bound].tensor if bound in self.constants else None
                if tensor is None or is_hollow(tensor):
                    return []
                limits[i] = float(to_array(tensor).reshape(()))
        return limits

    def _bound(self, sheet: Sheet, bound: str, factor: str) -> str:
        """Return what bounds x' where a bound, which may be absent, is to bound f x'."""
        tensor = self.constants[bound].tensor if bound in self.constants else None
        zero = tensor is not None and not is_hollow(tensor) and not to_array(tensor).any()
        return bound if not bound or zero else sheet.op("Div", bound, factor)

    def _join(self, sheet: Sheet, node: Node) -> bool:
        """Write a node whose operands are to have one factor: that of the largest, and among these of the oldest."""
        names = [name for name in node.inputs if name]
        if len(names) == 2 and node.op_type in ("Add", "Sub") and names[1] in self.zeroed:
            return self._same(names[0], node.outputs[0])
        if len(names) == 2 and node.op_type == "Add" and names[0] in self.zeroed:
            return self._same(names[1], node.outputs[0])
        sizes = {name: self.dims(name) for name in names}
        if any(dims is None for dims in sizes.values()):
            return False
        ages = {name: age for age, name in enumerate(self.held)}
        lead = min(names, key=lambda name: (-prod(sizes[name] or ()), ages.get(name, -1)))
        factor = self.form(lead).factor
        blocked = self._blocks_fit(node, names)
        if blocked and node.op_type == "Add" and (self._add(sheet, node, lead) or self._add_to_norm(sheet, node)):
            return True
        operands = []
        for name in node.inputs:
            form = self.in_blocks(sheet, name) if blocked else self.unblocked(sheet, name)
            operands.append(self._with_factor(sheet, form, factor))
        self._hold(sheet, node, operands, Form("", factor, blocked))
        return True

    def _add(self, sheet: Sheet, node: Node, lead: str) -> bool:
        """Write a sum of two images in blocks with different factors; say whether it was one."""
        other = node.inputs[1] if node.inputs[0] == lead else node.inputs[0]
        total, form, image = self.in_blocks(sheet, lead), self.in_blocks(sheet, other), self.image(lead)
        if form.factor == total.factor or image is None:
            return False
        ratio = _ratio(sheet, form.factor or sheet.book.constant(1, np.float32), total.factor)
        made = add_product(sheet, form.name, ratio, total.name, padded(image[1], self.block))
        self.fusible[node.outputs[0]] = made
        self.held[node.outputs[0]] = replace(total, name=made.output[0])
        return True

    def _add_to_norm(self, sheet: Sheet, node: Node) -> bool:
        """Let a BatchNormalization that nothing else reads take the other operand of a sum; say whether one does."""
        for name, other in (node.inputs, node.inputs[::-1]):
            made = self.fusible.get(name)
            alone = len(self.readers.get(name, ())) == 1 and name not in self.settled
            # One with a fourth operand is a sum already, one with an activation is not followed by the sum at once.
            if made is None or not alone or len(made.input) != 3 or any(a.name == "activation" for a in made.attribute):
                continue
            if self.form(other).factor is not None:
                continue
            made.input.append(self.in_blocks(sheet, other).name)
            # Its place is where the sum was: the other operand may have been made after it.
            at = next(i for i in reversed(range(len(sheet.nodes))) if sheet.nodes[i] is made)
            sheet.nodes.append(sheet.nodes.pop(at))
            self.fusible[node.outputs[0]] = made
            self.held[node.outputs[0]] = self.held.pop(name)
            return True
        return False

    def _same(self, name: str, output: str) -> bool:
        """Let an output be an operand, where that has its shape; say whether it does."""
        if name not in self.held or self.dims(name) is None or self.dims(name) != self.dims(output):
            return False
        self.held[output] = self.held[name] if name not in self.settled else Form(name)
        return True

    def _blocks_fit(self, node: Node, names: Sequence[str]) -> bool:
        """Say whether a node can be done in blocks, and some operand is there in blocks."""
        if not any(self.form(name).blocked for name in names) or any(name in self.constants for name in names):
            return False
        images, made = [self.image(name) for name in names], self.image(node.outputs[0])
        if node.op_type == "Concat" and made is not None:
            axis = node.int_attribute("axis", 1)
            return axis in (1, -3) and all(image is not None and image[1] % self.block == 0 for image in images)
        return made is not None and made[1] % MULTIPLE == 0 and all(image == made for image in images)

    def _with_factor(self, sheet: Sheet, form: Form, factor: str | None) -> str:
        """Return a value under a factor other than its own."""
        if form.factor == factor:
            return form.name
        if form.factor is None:
            assert factor is not None
            return sheet.op("Div", form.name, factor)
        return sheet.op("Mul", form.name, _ratio(sheet, form.factor, factor))

    def _product(self, sheet: Sheet, node: Node) -> bool:
        names = node.inputs
        forms = [self.form(name) for name in names]
        single = [name in self.constants and self.constants[name].size == 1 for name in names]
        blocked = any(f.blocked for f in forms) and self.image(node.outputs[0]) is not None
        blocked = blocked and all(
            self.image(name) == self.image(node.outputs[0]) or (one and len(self.constants[name].dims) <= 4)
            for name, one in zip(names, single, strict=True)
        )
        operands = []
        for name, one in zip(names, single, strict=True):
            form = Form(name) if one else self.in_blocks(sheet, name) if blocked else self.unblocked(sheet, name)
            operands.append(form)
        factors = [form.factor for form in operands if form.factor is not None]
        factor = sheet.op("Mul", *factors) if len(factors) == 2 else next(iter(factors), None)
        self._hold(sheet, node, [form.name for form in operands], Form("", factor, blocked))
        return True


def _ratio(sheet: Sheet, own: str, wanted: str | None) -> str:
    """Return what takes a value under one factor to another, which may be none."""
    return own if wanted is None else sheet.op("Div", own, wanted)
