"""Nodes on values that are there in some form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import numpy as np
from onnx import NodeProto, helper

from onnx_lsuv.graph.blocked import DOMAIN, MULTIPLE, add_product, padded, pools_in_blocks
from onnx_lsuv.graph.builder import GraphBuilder
from onnx_lsuv.graph.forms.held import Form, Forms
from onnx_lsuv.graph.nodes import proto_of
from onnx_lsuv.operators import Attributes, of
from onnx_lsuv.program import Node, known


def write_node(forms: Forms, builder: GraphBuilder, node: Node) -> bool:
    """Write a node on the forms that its operands are there in, where it can be; say whether it was."""
    if node.domain != "" or node.bodies or not any(name in forms.held for name in node.inputs):
        return False
    first, operator = node.inputs[0], of(node)
    if operator.reads_shape:
        builder.nodes.append(proto_of(replace(node, inputs=(forms.unblocked(builder, first).name,))))
    elif node.op_type == "Clip" and forms.opset >= 11 and _alone(forms, node):
        _clip(forms, builder, node)
    elif operator.waits and _alone(forms, node):
        _homogeneous(forms, builder, node)
    elif operator.pointwise and forms.form(first).blocked and forms.image(node.outputs[0]):
        form = forms.divided(builder, first)
        _hold(forms, builder, node, (form.name,), Form("", None, True))
    elif operator.sums and len(node.outputs) == 1:
        return _join(forms, builder, node)
    elif node.op_type == "Mul":
        return _product(forms, builder, node)
    else:
        return False
    return True


def _alone(forms: Forms, node: Node) -> bool:
    """Say whether a node's first operand is the only one that is there in another form."""
    return not any(name in forms.held and name not in forms.settled for name in node.inputs[1:])


def _hold(forms: Forms, builder: GraphBuilder, node: Node, inputs: Sequence[str], form: Form) -> None:
    """Write a node of one output with other operands; the output is there in a form."""
    made = builder.book.fresh()
    builder.nodes.append(proto_of(replace(node, inputs=tuple(inputs), outputs=(made,))))
    forms.held[node.outputs[0]] = replace(form, name=made)


def _homogeneous(forms: Forms, builder: GraphBuilder, node: Node) -> None:
    form = forms.form(node.inputs[0])
    rest = node.inputs[1:]
    if form.blocked and len(node.outputs) == 1 and forms.image(node.outputs[0]):
        if node.op_type == "Relu" and _fuse(forms, node, "Relu"):
            return None
        if of(node).pointwise and not rest:
            return _hold(forms, builder, node, (form.name,), form)
        if of(node).blocked and pools_in_blocks(node):
            attributes = Attributes((key, a) for key, a in node.attributes.items() if key != "storage_order")
            return _hold(forms, builder, replace(node, domain=DOMAIN, attributes=attributes), (form.name,), form)
    form = forms.unblocked(builder, node.inputs[0])
    # What a MaxPool or a Dropout gives beside its first output has no factor.
    waiting = node.outputs if node.op_type == "Split" else node.outputs[:1]
    fresh = tuple(builder.book.fresh() if name else "" for name in waiting)
    outputs = (*fresh, *node.outputs[len(waiting) :])
    builder.nodes.append(proto_of(replace(node, inputs=(form.name, *rest), outputs=outputs)))
    forms.held |= {name: replace(form, name=made) for name, made in zip(waiting, fresh, strict=True) if name}
    return None


def _fusible(forms: Forms, name: str) -> NodeProto | None:
    """Return the convolution that makes a value, if only one node reads that and can become part of it."""
    alone = len(forms.readers.get(name, ())) == 1 and name not in forms.settled
    return forms.fusible.get(name) if alone else None


def _fuse(forms: Forms, node: Node, activation: str, *params: float) -> bool:
    """Let what makes a value that nothing else reads end in an activation; say whether it does."""
    made = _fusible(forms, node.inputs[0])
    if made is None:
        return False
    made.attribute.append(helper.make_attribute("activation", activation))
    if params:
        made.attribute.append(helper.make_attribute("activation_params", params))
    forms.held[node.outputs[0]] = forms.held.pop(node.inputs[0])
    return True


def _clip(forms: Forms, builder: GraphBuilder, node: Node) -> None:
    form = forms.form(node.inputs[0]) if forms.image(node.outputs[0]) else forms.unblocked(builder, node.inputs[0])
    bounds = node.inputs[1:]
    if form.factor is not None:
        bounds = tuple(_bound(forms, builder, bound, form.factor) for bound in bounds)
    elif form.blocked and (limits := _limits(forms, bounds)) and _fuse(forms, node, "Clip", *limits):
        return
    _hold(forms, builder, node, (form.name, *bounds), form)


def _limits(forms: Forms, bounds: Sequence[str]) -> list[float]:
    """Return the two numbers between which a Clip keeps its values; nothing where one is not known."""
    most = float(np.finfo(np.float32).max)
    limits = [-most, most]
    for i, bound in enumerate(bounds):
        if bound:
            value = known(forms.constants, bound)
            if value is None:
                return []
            limits[i] = float(value.reshape(()))
    return limits


def _bound(forms: Forms, builder: GraphBuilder, bound: str, factor: str) -> str:
    """Return what bounds x' where a bound, which may be absent, is to bound f x'."""
    value = known(forms.constants, bound)
    zero = value is not None and not value.any()
    return bound if not bound or zero else builder.op("Div", bound, factor)


def _join(forms: Forms, builder: GraphBuilder, node: Node) -> bool:
    """Write a node whose operands are to have one factor: that of the largest, and among these of the oldest."""
    names = [name for name in node.inputs if name]
    if len(names) == 2 and node.op_type in ("Add", "Sub") and names[1] in forms.zeroed:
        return _same(forms, names[0], node.outputs[0])
    if len(names) == 2 and node.op_type == "Add" and names[0] in forms.zeroed:
        return _same(forms, names[1], node.outputs[0])
    sizes = {name: forms.dims(name) for name in names}
    if any(dims is None for dims in sizes.values()):
        return False
    ages = {name: age for age, name in enumerate(forms.held)}
    lead = min(names, key=lambda name: (-prod(sizes[name] or ()), ages.get(name, -1)))
    factor = forms.form(lead).factor
    blocked = _blocks_fit(forms, node, names)
    if blocked and node.op_type == "Add" and (_add(forms, builder, node, lead) or _add_to_norm(forms, builder, node)):
        return True
    operands = []
    for name in node.inputs:
        form = forms.in_blocks(builder, name) if blocked else forms.unblocked(builder, name)
        operands.append(_with_factor(forms, builder, form, factor))
    _hold(forms, builder, node, operands, Form("", factor, blocked))
    return True


def _add(forms: Forms, builder: GraphBuilder, node: Node, lead: str) -> bool:
    """Write a sum of two images in blocks with different factors; say whether it was one."""
    other = node.inputs[1] if node.inputs[0] == lead else node.inputs[0]
    total, form, image = forms.in_blocks(builder, lead), forms.in_blocks(builder, other), forms.image(lead)
    if form.factor == total.factor or image is None:
        return False
    ratio = _ratio(builder, form.factor or builder.book.constant(1, np.float32), total.factor)
    made = add_product(builder, form.name, ratio, total.name, padded(image[1], forms.block))
    forms.fusible[node.outputs[0]] = made
    forms.held[node.outputs[0]] = replace(total, name=made.output[0])
    return True


def _add_to_norm(forms: Forms, builder: GraphBuilder, node: Node) -> bool:
    """Let a BatchNormalization that nothing else reads take the other operand of a sum; say whether one does."""
    for name, other in (node.inputs, node.inputs[::-1]):
        made = _fusible(forms, name)
        # One with a fourth operand is a sum already.
        if made is None or len(made.input) != 3 or forms.form(other).factor is not None:
            continue
        made.input.append(forms.in_blocks(builder, other).name)
        # Its place is where the sum was: the other operand may have been made after it.
        at = next(i for i in reversed(range(len(builder.nodes))) if builder.nodes[i] is made)
        builder.nodes.append(builder.nodes.pop(at))
        forms.fusible[node.outputs[0]] = made
        forms.held[node.outputs[0]] = forms.held.pop(name)
        return True
    return False


def _same(forms: Forms, name: str, output: str) -> bool:
    """Let an output be an operand, where that has its shape; say whether it does."""
    if name not in forms.held or forms.dims(name) is None or forms.dims(name) != forms.dims(output):
        return False
    forms.held[output] = forms.held[name] if name not in forms.settled else Form(name)
    return True


def _blocks_fit(forms: Forms, node: Node, names: Sequence[str]) -> bool:
    """Say whether a node can be done in blocks, and some operand is there in blocks."""
    if not any(forms.form(name).blocked for name in names) or any(name in forms.constants for name in names):
        return False
    images, made = [forms.image(name) for name in names], forms.image(node.outputs[0])
    if node.op_type == "Concat" and made is not None:
        axis = node.int_attribute("axis", 1)
        return axis in (1, -3) and all(image is not None and image[1] % forms.block == 0 for image in images)
    return made is not None and made[1] % MULTIPLE == 0 and all(image == made for image in images)


def _with_factor(forms: Forms, builder: GraphBuilder, form: Form, factor: str | None) -> str:
    """Return a value under a factor other than its own."""
    if form.factor == factor:
        return form.name
    if form.factor is None:
        assert factor is not None
        return builder.op("Div", form.name, factor)
    return builder.op("Mul", form.name, _ratio(builder, form.factor, factor))


def _product(forms: Forms, builder: GraphBuilder, node: Node) -> bool:
    names = node.inputs
    held = [forms.form(name) for name in names]
    single = [name in forms.constants and forms.constants[name].size == 1 for name in names]
    blocked = any(f.blocked for f in held) and forms.image(node.outputs[0]) is not None
    blocked = blocked and all(
        forms.image(name) == forms.image(node.outputs[0]) or (one and len(forms.constants[name].dims) <= 4)
        for name, one in zip(names, single, strict=True)
    )
    operands = []
    for name, one in zip(names, single, strict=True):
        form = Form(name) if one else forms.in_blocks(builder, name) if blocked else forms.unblocked(builder, name)
        operands.append(form)
    factors = [form.factor for form in operands if form.factor is not None]
    factor = builder.op("Mul", *factors) if len(factors) == 2 else next(iter(factors), None)
    _hold(forms, builder, node, [form.name for form in operands], Form("", factor, blocked))
    return True


def _ratio(builder: GraphBuilder, own: str, wanted: str | None) -> str:
    """Return what takes a value under one factor to another, which may be none."""
    return own if wanted is None else builder.op("Div", own, wanted)
