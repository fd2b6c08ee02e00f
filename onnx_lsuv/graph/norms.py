"""BatchNormalizations, which normalise with the data's statistics while calibrating.

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
from onnx_lsuv.graph.builder import GraphBuilder
from onnx_lsuv.graph.forms import Form
from onnx_lsuv.graph.groups import size_of
from onnx_lsuv.graph.moments import Moments, channel_moments
from onnx_lsuv.graph.nodes import neutral_nodes, proto_of
from onnx_lsuv.graph.records import merge
from onnx_lsuv.graph.state import Kept, Rewriter, channels, norm_key
from onnx_lsuv.program import Node


def write_norm(rw: Rewriter, builder: GraphBuilder, node: Node, records: dict[str, Kept], *, top: bool) -> None:
    """Write a BatchNormalization of any scope on a plain value."""
    norm = rw.norms[node]
    width, key = channels(rw, norm), norm_key(norm)
    known = rw.values.get(node.inputs[0])
    stored = rw.plan.program.constants[norm.mean].elem_type
    elem_type = known.elem_type if known is not None else stored
    dims = known.dims if known is not None else None
    if dims is not None and len(dims) > 1 and dims[1] not in (None, width):
        raise ModelError(
            f"The BatchNormalization {node.label!r} has statistics of {width} channels, but its input has {dims[1]}: "
            "the model is broken; export it again."
        )

    def own() -> Moments:
        shifted = key in rw.shifted
        return channel_moments(builder, node.inputs[0], elem_type, width, dims, size_of(dims), shifted=shifted)

    found = merge(rw, builder, records, key, own, width, use=0, top=top)
    mean, var = (builder.cast(row, stored) for row in (found.mean, _bounded(builder, found.var, stored)))
    normalised = replace(node, inputs=(*node.inputs[:3], mean, var))
    builder.nodes += map(proto_of, neutral_nodes(normalised))


def variance_limits(elem_type: int) -> tuple[float, float]:
    """Return the least and the greatest variance that a norm stores in an element type: above 0, and finite."""
    if elem_type == TensorProto.FLOAT16:
        return 2.0**-24, 65504.0
    return 2.0**-126, math.inf


def _bounded(builder: GraphBuilder, var: str, elem_type: int) -> str:
    """Return a variance that is not negative, as that of a constant channel can come out, and as its type holds it."""
    if builder.book.opset < 9:
        return var
    low, high = builder.double(0), builder.double(variance_limits(elem_type)[1])
    var = builder.select(builder.op("Greater", var, low), var, low)
    return builder.select(builder.op("Less", var, high), var, high) if elem_type == TensorProto.FLOAT16 else var


def write_norm_in_blocks(rw: Rewriter, builder: GraphBuilder, node: Node, records: dict[str, Kept]) -> bool:
    """Write a BatchNormalization of the main graph on an image in blocks; say whether it was."""
    norm, width, source, forms = rw.norms[node], channels(rw, rw.norms[node]), node.inputs[0], rw.forms
    form, image = forms.form(source), forms.image(source)
    if not form.blocked or image is None or image[1] != width or any(node.outputs[1:]):
        return False
    if forms.image(node.outputs[0]) != image:
        return False  # what has no known shape stays in the plain layout
    measured = rw.moments_in_blocks(builder, form.name, image, norm_key(norm))
    if measured is None:
        return False
    factor = builder.cast(form.factor, TensorProto.DOUBLE) if form.factor is not None else None

    def own() -> Moments:
        if factor is None:
            return measured
        square = builder.op("Mul", factor, factor)
        mean, var = builder.op("Mul", measured.mean, factor), builder.op("Mul", measured.var, square)
        return Moments(measured.count, mean, var, rough=measured.rough)

    found = merge(rw, builder, records, norm_key(norm), own, width, use=0, top=True)
    epsilon = builder.double(node.float_attribute("epsilon", 1e-5))
    spread = builder.op("Sqrt", builder.op("Add", _bounded(builder, found.var, TensorProto.DOUBLE), epsilon))
    # The model may compute them.
    forms.settle(builder, *node.inputs[1:3])
    gain, bias = (builder.cast(name, TensorProto.DOUBLE) for name in node.inputs[1:3])
    gain = builder.op("Div", gain, spread)
    shift = builder.cast(builder.op("Sub", bias, builder.op("Mul", gain, found.mean)), TensorProto.FLOAT)
    scale = builder.cast(gain if factor is None else builder.op("Mul", gain, factor), TensorProto.FLOAT)
    made = scale_and_shift(builder, form.name, scale, shift, width, forms.block)
    forms.held[node.outputs[0]] = Form(made.output[0], None, True)
    forms.fusible[node.outputs[0]] = made
    return True
