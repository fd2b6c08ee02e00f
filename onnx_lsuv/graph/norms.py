"""BatchNormalizations, which normalise with the data's statistics while calibrating, or with stored ones that stay.

In blocks, x = f x' being there as x' with a factor f still to come, one pass over x' does it:

    y = g (x - m) / sqrt(v + e) + b = A x' + B,    A = f g / sqrt(v + e),    B = b - m g / sqrt(v + e)

which is a depthwise convolution of one tap; a Relu or Clip after it comes for nothing.
"""

from __future__ import annotations

import math
from dataclasses import replace

from onnx import TensorProto

from onnx_lsuv.errors import ModelError
from onnx_lsuv.graph.blocked import scale_and_shift
from onnx_lsuv.graph.builder import ScopeBuilder, Value, neutral_nodes, proto_of
from onnx_lsuv.graph.moments import Moments, moments
from onnx_lsuv.graph.representations import Representation
from onnx_lsuv.graph.state import RewriteContext, key_of
from onnx_lsuv.program import Node


def write_norm(rw: RewriteContext, scope: ScopeBuilder, node: Node) -> None:
    """Write a BatchNormalization of any scope on a plain value."""
    norm, source = rw.norms[node], node.inputs[0]
    width, key, elem_type = rw.columns(norm), key_of(norm), rw.plan.program.constants[norm.mean].elem_type
    known = rw.values.get(source, Value(elem_type, None))
    if known.dims is not None and len(known.dims) > 1 and known.dims[1] not in (None, width):
        raise ModelError(
            f"The BatchNormalization {node.label!r} has statistics of {width} channels, but its input has "
            f"{known.dims[1]}: the model is broken; export it again."
        )

    def own() -> Moments:
        return moments(scope, source, known.elem_type, known.dims, width, shifted=key in rw.shifted)

    found = rw.decide(scope, norm, own)
    if node not in rw.stored:
        mean, var = (scope.cast(row, elem_type) for row in (found.mean, _bounded(scope, found.var, elem_type)))
        node = replace(node, inputs=(*node.inputs[:3], mean, var))
    scope.nodes += map(proto_of, neutral_nodes(node))


def variance_limits(elem_type: int) -> tuple[float, float]:
    """Return the least and the greatest variance that a norm stores in an element type: above 0, and finite."""
    return (2.0**-24, 65504.0) if elem_type == TensorProto.FLOAT16 else (2.0**-126, math.inf)


def _bounded(scope: ScopeBuilder, var: str, elem_type: int) -> str:
    """Return a variance that is not negative, as that of a constant channel can come out, and as its type holds it."""
    if scope.graph.opset < 9:
        return var
    low, high = scope.double(0), scope.double(variance_limits(elem_type)[1])
    var = scope.select(scope.op("Greater", var, low), var, low)
    return scope.select(scope.op("Less", var, high), var, high) if elem_type == TensorProto.FLOAT16 else var


def write_norm_in_blocks(rw: RewriteContext, scope: ScopeBuilder, node: Node) -> bool:
    """Write a BatchNormalization of the main graph on an image in blocks; say whether it was."""
    norm, reps = rw.norms.get(node), rw.reps
    if norm is None and (rw.rescale or node.op != "BatchNormalization" or node.inputs[3] not in reps.constants):
        return False
    source, output = node.inputs[0], node.outputs[0]
    width = reps.constants[node.inputs[3]].size if norm is None else rw.columns(norm)
    rep, image = reps.of(source), reps.image(source)
    # What has no known shape stays in the plain layout.
    if not rep.blocked or any(node.outputs[1:]) or image is None or image[1] != width or reps.image(output) != image:
        return False
    factor, found = None, None
    if norm is not None:
        measured = rw.moments_in_blocks(scope, rep.name, image, key_of(norm))
        if measured is None:
            return False
        factor = in_double(scope, rep.factor)
        found = rw.decide(scope, norm, lambda: multiplied(scope, measured, factor))
    scale, shift = gain_and_shift(rw, scope, node, found, factor)
    made = scale_and_shift(scope, rep.name, scale, shift, width, reps.block)
    reps.current[output] = Representation(made.output[0], None, True)
    reps.fusible[output] = made
    return True


def gain_and_shift(
    rw: RewriteContext, scope: ScopeBuilder, node: Node, found: Moments | None, factor: str | None
) -> tuple[str, str]:
    """Write what a BatchNormalization multiplies each channel by and then adds, in float32, for x' (see above).

    By the moments that decide, where there are some and it does not keep its own statistics.
    """
    keeps = found is None or node in rw.stored
    operands = node.inputs[1 : 5 if keeps else 3]
    rw.reps.materialise(*operands)  # the model may compute them
    gain, bias, *stored = (scope.cast(name, TensorProto.DOUBLE) for name in operands)
    if found is not None and not keeps:
        stored = [found.mean, _bounded(scope, found.var, TensorProto.DOUBLE)]
    mean, var = stored
    epsilon = scope.double(node.attributes.real("epsilon", 1e-5))
    gain = scope.op("Div", gain, scope.op("Sqrt", scope.op("Add", var, epsilon)))
    shift = scope.cast(scope.op("Sub", bias, scope.op("Mul", gain, mean)), TensorProto.FLOAT)
    return scope.cast(gain if factor is None else scope.op("Mul", gain, factor), TensorProto.FLOAT), shift


def in_double(scope: ScopeBuilder, factor: str | None) -> str | None:
    """Write a factor that may be none in float64."""
    return None if factor is None else scope.cast(factor, TensorProto.DOUBLE)


def multiplied(scope: ScopeBuilder, measured: Moments, factor: str | None) -> Moments:
    """Write the moments of a value that comes to so many times what was measured."""
    if factor is None:
        return measured
    square = scope.op("Mul", factor, factor)
    mean, var = scope.op("Mul", measured.mean, factor), scope.op("Mul", measured.var, square)
    return Moments(measured.count, mean, var, rough=measured.rough)
