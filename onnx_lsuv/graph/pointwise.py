"""Convolutions of one tap: the moments of what they give, told from what they read.

With z = W x at each place, where x has the mean m and the covariance S over all places and samples,

    E[z_c] = w_c m,    Var z_c = w_c S w_c'

so both are known before z is there. Its scale, and a norm that alone reads it, go into the filter and its bias, an
activation or a sum after it into the convolution: z is written once, as the next node reads it, where otherwise two
passes measure it and one more brings it to scale. The price is a product of x with itself, (C, places) by (places, C),
which is paid where x is narrow beside z. Only float32 sums of some hundred values are in S, the rest is float64.

S is rounded by some 1e-7 of E[x_k x_l], so that little is left of a variance which is small beside

    t_c = sum_k w_ck^2 E[x_k^2]

Where t is FAR times as much (its mean over channels for a layer, each channel's for a norm), the variance is written as
-inf, which stays when records are pooled: all is run again with that record measured (`lsuv.execute`).
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from math import prod

import numpy as np
from onnx import TensorProto

from onnx_lsuv.graph.blocked import DOMAIN, convolve, filled_up, padded
from onnx_lsuv.graph.builder import ScopeBuilder
from onnx_lsuv.graph.moments import GROUP_GOOD, Moments, Second, groups_of, over_channels
from onnx_lsuv.graph.norms import gain_and_shift, in_double, multiplied
from onnx_lsuv.graph.records import scale
from onnx_lsuv.graph.representations import Representation
from onnx_lsuv.graph.state import RewriteContext, key_of
from onnx_lsuv.layers import Layer
from onnx_lsuv.program import Node

# For so many squared channels of the input a channel of the output, the product with itself takes as long as two passes
# over the output; a norm would be two more.
WORTH = 12
# With fewer values in the output the nodes cost more than they save.
LEAST = 1 << 21
FAR = 64.0  # variances off by 3e-5 at the most were seen

Image = tuple[int, int, int, int]


def write_told_layer(rw: RewriteContext, scope: ScopeBuilder, layer: Layer, rep: Representation, made: Image) -> bool:
    """Write a layer of the main graph on an image in blocks, with the norm that alone reads it; say whether it was."""
    node, shape, reps = layer.node, layer.source.shape, rw.reps
    image = reps.image(node.inputs[0])
    if image is None or layer.position != 1 or not _is_pointwise(node, shape, image, made):
        return False
    norm = _norm_after(rw, layer, made)
    keys = {layer.weight, *([key_of(rw.norms[norm])] if norm else [])}
    # Of several uses the first that varies decides: what a record says of itself must not hide it from that choice.
    alone = sum(user.scaled for user in rw.plan.weights[layer.weight].layers) == 1
    worth = _is_worth(image, made, scope.graph.opset, WORTH * (1 + (norm is not None)))
    if not (alone and worth and rw.shifted.isdisjoint(keys)):
        return False

    @cache
    def told() -> tuple[Moments, str]:
        if rep.name not in rw.second:
            rw.second[rep.name] = _second_moments(scope, rep.name, image, reps.block)
        return _moments_told(scope, layer, rw.second[rep.name], made, in_double(scope, rep.factor))

    def of_layer() -> Moments:
        channels, terms = told()
        whole = over_channels(scope, channels, prod(made))
        return _unless_far(scope, whole, scope.reduce("ReduceMean", terms, (0,), keep=True))

    decided = rw.decide(scope, layer, of_layer)
    wanted = rw.target(scope, layer)
    assert wanted is not None
    own: str | None = scale(scope, decided, wanted, with_term=False, elem_type=TensorProto.FLOAT, scalar=True)
    weight, bias, output = node.inputs[1], list[str](), node.outputs[0]
    if norm is not None:
        output, factor = norm.outputs[0], in_double(scope, own)
        of_norm = rw.decide(scope, rw.norms[norm], lambda: multiplied(scope, _unless_far(scope, *told()), factor))
        gain, shift = gain_and_shift(rw, scope, norm, of_norm, factor)
        weight = scope.op("Mul", scope.reshape(weight, *shape[:2]), scope.reshape(gain, -1, 1))
        bias.append(filled_up(scope, shift, made[1], padded(made[1], reps.block)))
        own = None
        rw.written.add(norm)
    raw = convolve(scope, node, rep.name, weight, scope.product(rep.factor, own), shape, reps.block, plain=False)
    scope.nodes[-1].input.extend(bias)
    reps.current[output], reps.fusible[output] = Representation(raw, None, True), scope.nodes[-1]
    return True


def _norm_after(rw: RewriteContext, layer: Layer, made: Image) -> Node | None:
    """Return the BatchNormalization that alone reads a layer's output, if it can become a part of the layer."""
    program, output = rw.plan.program, layer.node.outputs[0]
    readers = program.consumers.get(output, ())
    if len(readers) != 1 or output in program.exits:
        return None
    node, position = readers[0]
    fits = position == 0 and node in rw.norms and node in rw.outer and not any(node.outputs[1:])
    fits = fits and rw.columns(rw.norms[node]) == made[1] and rw.reps.image(node.outputs[0]) == made
    # Of several norms with the same statistics the first in the order of the plan decides, so its turn must come.
    fits = fits and any(len(program.consumers[name]) == 1 for name in node.inputs[3:5])
    return node if fits and all(name in program.constants for name in node.inputs[1:5]) else None


def _is_pointwise(node: Node, shape: tuple[int, ...], image: Image, made: Image) -> bool:
    """Say whether a convolution's output is a product of its weight with its input at each place."""
    alone = node.attributes.integer("group", 1) == 1 and prod(shape[2:]) == 1
    return alone and image[2:] == made[2:] and not any(node.attributes.integers("pads") or ())


def _is_worth(image: Image, made: Image, opset: int, most: int) -> bool:
    """Say whether to tell an output of a shape from its input costs less than to measure it."""
    c, m, places = image[1], made[1], made[0] * made[2] * made[3]
    return opset >= 9 and m * places >= LEAST and c * c <= min(most * m, places)


def _second_moments(scope: ScopeBuilder, x: str, image: Image, block: int) -> Second:
    """Write the nodes that give the mean and the covariance of the channels of an image in blocks."""
    n, c, places = image[0], image[1], image[2] * image[3]
    group = groups_of((places,))[0] or places
    if c == block and group <= GROUP_GOOD:  # else a product for each group is too much, or its sums are too long
        rows = scope.reshape(x, n, places // group, group, c)
        squares = scope.op("FusedMatMul", rows, rows, domain="com.microsoft", transA=1)
        ones = scope.graph.filled(1, 1, group)
        sums = scope.reshape(scope.op("MatMul", ones, rows), -1, c)
        squares = scope.reshape(squares, -1, c, c)
    else:
        plain = scope.op("ReorderOutput", x, domain=DOMAIN, channels=c)
        rows = scope.reshape(plain, n, c, places)
        squares = scope.op("FusedMatMul", rows, rows, domain="com.microsoft", transB=1)
        parts = scope.reduce("ReduceSum", scope.reshape(plain, n, c, places // group, group), (3,))
        sums = scope.reduce("ReduceSum", scope.cast(parts, TensorProto.DOUBLE), (2,))
    number = scope.double(1 / (n * places))
    mean, second = (
        scope.op("Mul", scope.reduce("ReduceSum", scope.cast(each, TensorProto.DOUBLE), (0,)), number)
        for each in (sums, squares)
    )
    outer = scope.op("Mul", scope.reshape(mean, c, 1), mean)
    diagonal = scope.reduce("ReduceSum", scope.op("Mul", second, scope.op("EyeLike", second)), (0,))
    return mean, scope.op("Sub", second, outer), diagonal


def _moments_told(
    scope: ScopeBuilder, layer: Layer, second: Second, made: Image, factor: str | None
) -> tuple[Moments, str]:
    """Write the nodes that give the moments of each channel of a convolution of one tap, and its terms t."""
    (m, c), (mean, covariance, squares) = layer.source.shape[:2], second
    weight = scope.cast(scope.reshape(layer.node.inputs[1], m, c), TensorProto.DOUBLE)
    if factor is not None:
        weight = scope.op("Mul", weight, factor)
    centre = scope.op("MatMul", weight, mean)
    var = scope.reduce("ReduceSum", scope.op("Mul", scope.op("MatMul", weight, covariance), weight), (1,))
    terms = scope.op("MatMul", scope.op("Mul", weight, weight), squares)
    count = scope.graph.filled(made[0] * made[2] * made[3], m, dtype=np.float64)
    return Moments(count, centre, var), terms


def _unless_far(scope: ScopeBuilder, found: Moments, terms: str) -> Moments:
    """Write moments again, with a variance of -inf where it is too small beside its terms."""
    far = scope.op("Less", scope.op("Mul", found.var, scope.double(FAR)), terms)
    return replace(found, var=scope.op("Where", far, scope.double(-np.inf), found.var), rough=FAR)
