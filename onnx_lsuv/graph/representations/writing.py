"""Nodes on values that are there in some form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import numpy as np
from onnx import NodeProto, helper

from onnx_lsuv.graph.blocked import DOMAIN, MULTIPLE, add_product, padded, pools_in_blocks
from onnx_lsuv.graph.builder import ScopeBuilder
from onnx_lsuv.graph.nodes import proto_of
from onnx_lsuv.graph.representations.current import Representation, Representations
from onnx_lsuv.program import SHAPE_READERS, Node, known

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


def write_node(reps: Representations, scope: ScopeBuilder, node: Node) -> bool:
    """Write a node on the forms that its operands are there in, where it can be; say whether it was."""
    if node.domain != "" or node.bodies or not any(name in reps.current for name in node.inputs):
        return False
    first = node.inputs[0]
    if node.op_type in SHAPE_READERS:
        scope.nodes.append(proto_of(replace(node, inputs=(reps.unblocked(scope, first).name,))))
    elif node.op_type == "Clip" and reps.opset >= 11 and _alone(reps, node):
        _clip(reps, scope, node)
    elif node.op_type in _HOMOGENEOUS and _alone(reps, node):
        _homogeneous(reps, scope, node)
    elif node.op_type in _ALIKE and reps.of(first).blocked and reps.image(node.outputs[0]):
        rep = reps.divided(scope, first)
        _hold(reps, scope, node, (rep.name,), Representation("", None, True))
    elif node.op_type in _JOINS and len(node.outputs) == 1:
        return _join(reps, scope, node)
    elif node.op_type == "Mul":
        return _product(reps, scope, node)
    else:
        return False
    return True


def _alone(reps: Representations, node: Node) -> bool:
    """Say whether a node's first operand is the only one that is there in another form."""
    return not any(name in reps.current and name not in reps.plain for name in node.inputs[1:])


def _hold(reps: Representations, scope: ScopeBuilder, node: Node, inputs: Sequence[str], rep: Representation) -> None:
    """Write a node of one output with other operands; the output is there in a form."""
    made = scope.graph.fresh()
    scope.nodes.append(proto_of(replace(node, inputs=tuple(inputs), outputs=(made,))))
    reps.current[node.outputs[0]] = replace(rep, name=made)


def _homogeneous(reps: Representations, scope: ScopeBuilder, node: Node) -> None:
    rep = reps.of(node.inputs[0])
    rest = node.inputs[1:]
    if rep.blocked and len(node.outputs) == 1 and reps.image(node.outputs[0]):
        if node.op_type == "Relu" and _fuse(reps, node, "Relu"):
            return None
        if node.op_type in _ALIKE and not rest:
            return _hold(reps, scope, node, (rep.name,), rep)
        if node.op_type in _POOLS and pools_in_blocks(node):
            attributes = {key: a for key, a in node.attributes.items() if key != "storage_order"}
            return _hold(reps, scope, replace(node, domain=DOMAIN, attributes=attributes), (rep.name,), rep)
    rep = reps.unblocked(scope, node.inputs[0])
    # What a MaxPool or a Dropout gives beside its first output has no factor.
    waiting = node.outputs if node.op_type == "Split" else node.outputs[:1]
    fresh = tuple(scope.graph.fresh() if name else "" for name in waiting)
    outputs = (*fresh, *node.outputs[len(waiting) :])
    scope.nodes.append(proto_of(replace(node, inputs=(rep.name, *rest), outputs=outputs)))
    reps.current |= {name: replace(rep, name=made) for name, made in zip(waiting, fresh, strict=True) if name}
    return None


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


def _clip(reps: Representations, scope: ScopeBuilder, node: Node) -> None:
    rep = reps.of(node.inputs[0]) if reps.image(node.outputs[0]) else reps.unblocked(scope, node.inputs[0])
    bounds = node.inputs[1:]
    if rep.factor is not None:
        bounds = tuple(_bound(reps, scope, bound, rep.factor) for bound in bounds)
    elif rep.blocked and (limits := _limits(reps, bounds)) and _fuse(reps, node, "Clip", *limits):
        return
    _hold(reps, scope, node, (rep.name, *bounds), rep)


def _limits(reps: Representations, bounds: Sequence[str]) -> list[float]:
    """Return the two numbers between which a Clip keeps its values; nothing where one is not known."""
    most = float(np.finfo(np.float32).max)
    limits = [-most, most]
    for i, bound in enumerate(bounds):
        if bound:
            value = known(reps.constants, bound)
            if value is None:
                return []
            limits[i] = float(value.reshape(()))
    return limits


def _bound(reps: Representations, scope: ScopeBuilder, bound: str, factor: str) -> str:
    """Return what bounds x' where a bound, which may be absent, is to bound f x'."""
    value = known(reps.constants, bound)
    zero = value is not None and not value.any()
    return bound if not bound or zero else scope.op("Div", bound, factor)


def _join(reps: Representations, scope: ScopeBuilder, node: Node) -> bool:
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
    factor = reps.of(lead).factor
    blocked = _blocks_fit(reps, node, names)
    if blocked and node.op_type == "Add" and (_add(reps, scope, node, lead) or _add_to_norm(reps, scope, node)):
        return True
    operands = []
    for name in node.inputs:
        rep = reps.in_blocks(scope, name) if blocked else reps.unblocked(scope, name)
        operands.append(_with_factor(reps, scope, rep, factor))
    _hold(reps, scope, node, operands, Representation("", factor, blocked))
    return True


def _add(reps: Representations, scope: ScopeBuilder, node: Node, lead: str) -> bool:
    """Write a sum of two images in blocks with different factors; say whether it was one."""
    other = node.inputs[1] if node.inputs[0] == lead else node.inputs[0]
    total, rep, image = reps.in_blocks(scope, lead), reps.in_blocks(scope, other), reps.image(lead)
    if rep.factor == total.factor or image is None:
        return False
    ratio = _ratio(scope, rep.factor or scope.graph.constant(1, np.float32), total.factor)
    made = add_product(scope, rep.name, ratio, total.name, padded(image[1], reps.block))
    reps.fusible[node.outputs[0]] = made
    reps.current[node.outputs[0]] = replace(total, name=made.output[0])
    return True


def _add_to_norm(reps: Representations, scope: ScopeBuilder, node: Node) -> bool:
    """Let a BatchNormalization that nothing else reads take the other operand of a sum; say whether one does."""
    for name, other in (node.inputs, node.inputs[::-1]):
        made = _fusible(reps, name)
        # One with a fourth operand is a sum already.
        if made is None or len(made.input) != 3 or reps.of(other).factor is not None:
            continue
        made.input.append(reps.in_blocks(scope, other).name)
        # Its place is where the sum was: the other operand may have been made after it.
        at = next(i for i in reversed(range(len(scope.nodes))) if scope.nodes[i] is made)
        scope.nodes.append(scope.nodes.pop(at))
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


def _blocks_fit(reps: Representations, node: Node, names: Sequence[str]) -> bool:
    """Say whether a node can be done in blocks, and some operand is there in blocks."""
    if not any(reps.of(name).blocked for name in names) or any(name in reps.constants for name in names):
        return False
    images, made = [reps.image(name) for name in names], reps.image(node.outputs[0])
    if node.op_type == "Concat" and made is not None:
        axis = node.int_attribute("axis", 1)
        return axis in (1, -3) and all(image is not None and image[1] % reps.block == 0 for image in images)
    return made is not None and made[1] % MULTIPLE == 0 and all(image == made for image in images)


def _with_factor(reps: Representations, scope: ScopeBuilder, rep: Representation, factor: str | None) -> str:
    """Return a value under a factor other than its own."""
    if rep.factor == factor:
        return rep.name
    if rep.factor is None:
        assert factor is not None
        return scope.op("Div", rep.name, factor)
    return scope.op("Mul", rep.name, _ratio(scope, rep.factor, factor))


def _product(reps: Representations, scope: ScopeBuilder, node: Node) -> bool:
    names = node.inputs
    held = [reps.of(name) for name in names]
    single = [name in reps.constants and reps.constants[name].size == 1 for name in names]
    blocked = any(f.blocked for f in held) and reps.image(node.outputs[0]) is not None
    blocked = blocked and all(
        reps.image(name) == reps.image(node.outputs[0]) or (one and len(reps.constants[name].dims) <= 4)
        for name, one in zip(names, single, strict=True)
    )
    operands = []
    for name, one in zip(names, single, strict=True):
        rep = Representation(name) if one else reps.in_blocks(scope, name) if blocked else reps.unblocked(scope, name)
        operands.append(rep)
    factors = [rep.factor for rep in operands if rep.factor is not None]
    factor = scope.op("Mul", *factors) if len(factors) == 2 else next(iter(factors), None)
    _hold(reps, scope, node, [rep.name for rep in operands], Representation("", factor, blocked))
    return True


def _ratio(scope: ScopeBuilder, own: str, wanted: str | None) -> str:
    """Return what takes a value under one factor to another, which may be none."""
    return own if wanted is None else scope.op("Div", own, wanted)
