"""Nodes on values as they are represented."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import numpy as np
from onnx import NodeProto, helper

from onnx_lsuv.graph.blocked import DOMAIN, MULTIPLE, add_product, padded, pools_in_blocks
from onnx_lsuv.graph.builder import proto_of
from onnx_lsuv.graph.fusing import multiplied
from onnx_lsuv.graph.representations.current import Representation, Representations
from onnx_lsuv.operators import MICROSOFT, WHOLE, Attributes, of
from onnx_lsuv.program import Node, known

_FUSED = (f"{MICROSOFT}.Gelu", f"{MICROSOFT}.FusedMatMul")  # which `fusing` writes too
_FAR = 2.0**20  # beyond, a number stays a node of its own


def write_node(reps: Representations, node: Node) -> bool:
    """Write a node on the current representations of its operands, where it can be; say whether it was."""
    known_domain = node.domain == "" or node.op in _FUSED
    if not known_domain or node.bodies or not any(name in reps.current for name in node.inputs):
        return False
    op, operator, first = node.op_type, of(node), node.inputs[0]
    # Whether the first operand is the only one that is not there in plain.
    alone = not any(name in reps.current and name not in reps.plain for name in node.inputs[1:])
    if operator.reads_shape:
        reps.scope.nodes.append(proto_of(replace(node, inputs=(reps.unblocked(first).name,))))
    elif op == "Clip" and reps.scope.graph.opset >= 11 and alone:
        _clip(reps, node)
    elif operator.waits and alone:
        _homogeneous(reps, node)
    elif (operator.pointwise or op == "Gelu") and reps.of(first).blocked and reps.image(node.outputs[0]):
        _write(reps, node, (reps.divided(first).name,), None, blocked=True)
    elif operator.sums and len(node.outputs) == 1:
        return _join(reps, node)
    elif op in ("Mul", "Div") and _times_number(reps, node):
        return True
    elif op == "Mul":
        _product(reps, node)
    elif op in ("MatMul", "FusedMatMul"):
        return _matrix_product(reps, node)
    else:
        return False
    return True


def _write(
    reps: Representations,
    node: Node,
    inputs: Sequence[str],
    factor: str | None,
    *,
    blocked: bool,
    domain: str | None = None,
) -> None:
    """Write a node of one output on other operands; the output is represented as told."""
    name, domain = node.outputs[0], node.domain if domain is None else domain
    if factor is None and not blocked:  # as it was
        reps.scope.nodes.append(proto_of(replace(node, inputs=tuple(inputs), domain=domain)))
        reps.current[name] = Representation(name)
        reps.plain.add(name)
    else:
        reps.current[name] = Representation(reps.scope.copy(node, inputs, domain=domain), factor, blocked)


def _homogeneous(reps: Representations, node: Node) -> None:
    rep, rest = reps.of(node.inputs[0]), node.inputs[1:]
    if rep.blocked and len(node.outputs) == 1 and reps.image(node.outputs[0]):
        if node.op_type == "Relu" and _fuse(reps, node, "Relu"):
            return
        if of(node).pointwise and not rest:
            _write(reps, node, (rep.name,), rep.factor, blocked=True)
            return
        if of(node).blocked and pools_in_blocks(node):
            attributes = Attributes((key, a) for key, a in node.attributes.items() if key != "storage_order")
            node = replace(node, attributes=attributes)
            _write(reps, node, (rep.name,), rep.factor, blocked=True, domain=DOMAIN)
            return
    rep = reps.unblocked(node.inputs[0])
    # What a MaxPool or a Dropout gives beside its first output has no factor.
    waiting = node.outputs if node.op_type == "Split" else node.outputs[:1]
    fresh = tuple(reps.scope.graph.fresh() if name else "" for name in waiting)
    outputs = (*fresh, *node.outputs[len(waiting) :])
    reps.scope.nodes.append(proto_of(replace(node, inputs=(rep.name, *rest), outputs=outputs)))
    reps.current |= {name: replace(rep, name=made) for name, made in zip(waiting, fresh, strict=True) if name}


# ---------------------------------------------------------------------------- activations, and what they are fused with


def _fusible(reps: Representations, name: str) -> NodeProto | None:
    """Return the convolution that makes a value, if only one node reads that and can become part of it."""
    alone = len(reps.readers.get(name, ())) == 1 and name not in reps.plain
    return reps.fusible.get(name) if alone else None


def _fuse(reps: Representations, node: Node, activation: str, *params: float) -> bool:
    """Let what makes a value that nothing else reads end in an activation; say whether it does."""
    made = _fusible(reps, node.inputs[0])
    if made is None:
        return False
    made.attribute.append(helper.make_attribute("activation", activation))
    if params:
        made.attribute.append(helper.make_attribute("activation_params", params))
    reps.current[node.outputs[0]] = reps.current.pop(node.inputs[0])
    return True


def _clip(reps: Representations, node: Node) -> None:
    first, *bounds = node.inputs
    rep = reps.of(first) if reps.image(node.outputs[0]) else reps.unblocked(first)
    numbers = [known(reps.constants, bound) if bound else None for bound in bounds]
    if rep.factor is not None:
        # What bounds x' where a bound, which may be absent, is to bound f x'.
        for i, (bound, number) in enumerate(zip(bounds, numbers, strict=True)):
            if bound and (number is None or number.any()):
                bounds[i] = reps.scope.op("Div", bound, rep.factor)
    elif rep.blocked and all(not b or n is not None for b, n in zip(bounds, numbers, strict=True)):
        most = float(np.finfo(np.float32).max)
        limits = [-most, most]
        for i, number in enumerate(numbers):
            limits[i] = limits[i] if number is None else float(number.reshape(()))
        if _fuse(reps, node, "Clip", *limits):
            return
    _write(reps, node, (rep.name, *bounds), rep.factor, blocked=rep.blocked)


# --------------------------------------------------------------------------------------- sums, maxima and products


def _join(reps: Representations, node: Node) -> bool:
    """Write a node whose operands are to have one factor: that of the largest, and among these of the oldest."""
    names = [name for name in node.inputs if name]
    if len(names) == 2 and node.op_type in ("Add", "Sub") and names[1] in reps.zeroed:
        return _same(reps, names[0], node.outputs[0])
    if len(names) == 2 and node.op_type == "Add" and names[0] in reps.zeroed:
        return _same(reps, names[1], node.outputs[0])
    sizes = {name: reps.dims(name) for name in names}
    if any(dims is None for dims in sizes.values()):
        return False
    ages = {name: age for age, name in enumerate(reps.current)}
    lead = min(names, key=lambda name: (-prod(sizes[name] or ()), ages.get(name, -1)))
    factor, blocked = reps.of(lead).factor, _blocks_fit(reps, node, names)
    if blocked and node.op_type == "Add" and (_add(reps, node, lead) or _add_to_convolution(reps, node)):
        return True
    operands = []
    for name in node.inputs:
        rep = reps.in_blocks(name) if blocked else reps.unblocked(name)
        if rep.factor == factor:
            operands.append(rep.name)
        elif rep.factor is None:
            assert factor is not None
            operands.append(reps.scope.op("Div", rep.name, factor))
        else:
            operands.append(reps.scope.op("Mul", rep.name, _ratio(reps, rep.factor, factor)))
    _write(reps, node, operands, factor, blocked=blocked)
    return True


def _ratio(reps: Representations, own: str, wanted: str | None) -> str:
    """Return what takes a value under one factor to another, which may be none."""
    return own if wanted is None else reps.scope.op("Div", own, wanted)


def _blocks_fit(reps: Representations, node: Node, names: Sequence[str]) -> bool:
    """Say whether a node can be done in blocks, and some operand is there in blocks."""
    if not any(reps.of(name).blocked for name in names) or any(name in reps.constants for name in names):
        return False
    images, made = [reps.image(name) for name in names], reps.image(node.outputs[0])
    if node.op_type == "Concat" and made is not None:
        axis = node.attributes.integer("axis", 1)
        return axis in (1, -3) and all(image is not None and image[1] % reps.block == 0 for image in images)
    return made is not None and made[1] % MULTIPLE == 0 and all(image == made for image in images)


def _add(reps: Representations, node: Node, lead: str) -> bool:
    """Write a sum of two images in blocks with different factors; say whether it was one."""
    other = node.inputs[1] if node.inputs[0] == lead else node.inputs[0]
    total, rep, image = reps.in_blocks(lead), reps.in_blocks(other), reps.image(lead)
    if rep.factor == total.factor or image is None:
        return False
    ratio = _ratio(reps, rep.factor or reps.scope.graph.constant(1, np.float32), total.factor)
    made = add_product(reps.scope, rep.name, ratio, total.name, padded(image[1], reps.block))
    reps.fusible[node.outputs[0]] = made
    reps.current[node.outputs[0]] = replace(total, name=made.output[0])
    return True


def _add_to_convolution(reps: Representations, node: Node) -> bool:
    """Let a convolution whose output nothing else reads take the other operand of a sum; say whether one does."""
    nodes = reps.scope.nodes
    for name, other in (node.inputs, node.inputs[::-1]):
        made = _fusible(reps, name)
        # One with a fourth operand is a sum already.
        if made is None or len(made.input) > 3 or reps.of(other).factor is not None:
            continue
        total = reps.in_blocks(other).name
        made.input.extend([""] * (3 - len(made.input)) + [total])
        # Its place is where the sum was: the other operand may have been made after it.
        at = next(i for i in reversed(range(len(nodes))) if nodes[i] is made)
        nodes.append(nodes.pop(at))
        reps.fusible[node.outputs[0]] = made
        reps.current[node.outputs[0]] = reps.current.pop(name)
        return True
    return False


def _same(reps: Representations, name: str, output: str) -> bool:
    """Let an output be an operand, where that has its shape; say whether it does."""
    if name not in reps.current or reps.dims(name) is None or reps.dims(name) != reps.dims(output):
        return False
    reps.current[output] = reps.current[name] if name not in reps.plain else Representation(name)
    return True


def _times_number(reps: Representations, node: Node) -> bool:
    """Let a positive number that a waiting value is multiplied or divided by join its factor; say whether it did."""
    for name, other, factor in multiplied(node, reps.number):
        value, rep = reps.values.get(name), reps.of(name)
        if value is None or rep.factor is None or name in reps.plain or not 1 / _FAR < factor < _FAR:
            continue
        if len(reps.constants[other].dims) > len(reps.dims(name) or ()):
            continue
        own = reps.scope.graph.constant(factor, helper.tensor_dtype_to_np_dtype(value.elem_type))
        reps.current[node.outputs[0]] = replace(rep, factor=reps.scope.op("Mul", rep.factor, own))
        return True
    return False


def _matrix_product(reps: Representations, node: Node) -> bool:
    """Write a product of two values, so that one factor waits where a weight takes it; say whether it was.

    Elsewhere it could meet a mask, whose large numbers must not be divided: the smaller operand is multiplied once.
    """
    left, right = (reps.unblocked(name) for name in node.inputs)
    factor = reps.scope.product(left.factor, right.factor)
    if factor is None:
        return False
    if _ends_in_weights(reps, node.outputs[0]):
        _write(reps, node, (left.name, right.name), factor, blocked=False)
        return True
    if left.factor is None or right.factor is None:
        return False
    sizes = [prod(dims) if (dims := reps.dims(name)) else 0 for name in node.inputs]
    names = [left.name, right.name]
    at = 0 if sizes[0] <= sizes[1] else 1
    names[at] = reps.scope.op("Mul", names[at], factor)
    _write(reps, node, names, None, blocked=False)
    return True


def _ends_in_weights(reps: Representations, name: str) -> bool:
    """Say whether all that reads a value, moved or not, are products with weights."""
    readers = reps.readers.get(name, ())
    for node, position in readers:
        if of(node).bilinear and any(other in reps.constants for other in node.inputs):
            continue
        if position or of(node).move not in WHOLE or not _ends_in_weights(reps, node.outputs[0]):
            return False
    return bool(readers)


def _product(reps: Representations, node: Node) -> None:
    """Write a product, whose factor is that of its operands' factors."""
    image = reps.image(node.outputs[0])
    single = {name for name in node.inputs if name in reps.constants and reps.constants[name].size == 1}
    blocked = image is not None and any(reps.of(name).blocked for name in node.inputs)
    blocked = blocked and all(
        reps.image(name) == image or (name in single and len(reps.constants[name].dims) <= 4) for name in node.inputs
    )
    get = reps.in_blocks if blocked else reps.unblocked
    operands = [Representation(name) if name in single else get(name) for name in node.inputs]
    factor = reps.scope.product(*(rep.factor for rep in operands))
    _write(reps, node, [rep.name for rep in operands], factor, blocked=blocked)
