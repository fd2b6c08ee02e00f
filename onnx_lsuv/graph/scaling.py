"""Layers: measured, and divided by their std (see `rewrite`); a term that stays is added after that.

A centred layer's record has a column for each channel: the mean of each channel goes, before what is left is scaled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from onnx import TensorProto, helper

from onnx_lsuv.graph.blocked import convolve, filled_up, padded, reads_plain, scale_and_shift
from onnx_lsuv.graph.builder import ScopeBuilder, Value, proto_of
from onnx_lsuv.graph.moments import (
    SMALL,
    Dims,
    Moments,
    joined,
    mean_of,
    moments,
    over_channels,
    size_of,
    times,
    within,
)
from onnx_lsuv.graph.pointwise import write_told_layer
from onnx_lsuv.graph.records import is_usable, record_of, scale, to_record
from onnx_lsuv.graph.representations import Representation
from onnx_lsuv.graph.shares import FEW, sums, sums_in_blocks
from onnx_lsuv.graph.state import RewriteContext, key_of
from onnx_lsuv.layers import Layer, channels_last
from onnx_lsuv.operators import bias_position, of
from onnx_lsuv.program import Node


def write_layer(rw: RewriteContext, scope: ScopeBuilder, node: Node) -> None:
    """Write a node that begins or ends a layer of any scope, on plain values."""
    layer, output = rw.ends.get(node), node.outputs[0]
    if layer is None or not rw.rescale:
        scope.nodes.append(proto_of(node))
        if layer is not None:  # else the Add that ends it follows
            rw.decide(scope, layer, lambda: _measure_as_it_is(rw, scope, layer))
            rw.target(scope, layer)
        return
    term: str | None = None
    if node in rw.starts:
        if bias_position(node, layer.position) is not None and layer.addend is not None:
            term = _own_term(scope, layer)
        if layer.fixed_term is not None:
            fixed = _product(rw, scope, layer, _moved(scope, layer.fixed_term.other, layer.fixed_term.moves))
            term = fixed if term is None else scope.op("Add", fixed, term)
        raw = _product(rw, scope, layer, _drawn_weight(scope, layer))
    else:
        assert layer.addend is not None
        term, raw = node.inputs[layer.addend.position], node.inputs[1 - layer.addend.position]
    width, centre = rw.columns(layer), layer.weight in rw.centred

    def own() -> Moments:
        found = _measure(rw, scope, layer, raw)
        if width == 1 or centre:
            return found
        added = term if term is not None else scope.op("Sub", raw, raw)
        # Broadcast the term to the output's shape, so that each of its values counts as often as it is added.
        spread = scope.op("Add", scope.op("Sub", raw, raw), added)
        both = scope.op("Add", raw, added)
        return joined(scope, [found, *(_measure(rw, scope, layer, value) for value in (spread, both))])

    found = rw.decide(scope, layer, own)
    if centre:
        channels, found = found, within(scope, found)
        raw = _centred(scope, layer, raw, channels, found)
    # Only these can give a single number, which must stay one.
    scalar = layer.node.op_type == "Einsum" or len(layer.source.shape) == 1
    target, with_term, elem_type = rw.target(scope, layer), width == 3 and not centre, layer.source.elem_type
    if target is not None:
        factor = scale(scope, found, target, with_term=with_term, elem_type=elem_type, scalar=scalar)
    if target is None and term is None:
        scope.op("Identity", raw, output=output)
    elif term is None:
        scope.op("Mul", raw, factor, output=output)
    else:
        scope.op("Add", raw if target is None else scope.op("Mul", raw, factor), term, output=output)


def write_waiting_layer(rw: RewriteContext, scope: ScopeBuilder, layer: Layer) -> bool:
    """Write a layer of the main graph whose division can wait, a convolution in blocks; say whether it was."""
    node, shape, reps, elem_type = layer.node, layer.source.shape, rw.reps, layer.source.elem_type
    target = rw.targets[layer.weight]
    if target is None or layer.stays or layer.weight in rw.centred or rw.columns(layer) > 1 or len(shape) < 2:
        return False
    if not of(node).bilinear:
        return False
    if elem_type not in (TensorProto.FLOAT, TensorProto.DOUBLE):
        return False
    at, output, inputs = 1 - layer.position, node.outputs[0], _without_bias(rw, layer)
    image = reps.image(output) if of(node).blocked and reps.block > 1 and reps.image(inputs[at]) else None
    plain = reads_plain(node, shape, reps.block) if image is not None else None
    dims = reps.dims(inputs[at])
    if plain is None:
        image, rep = None, reps.unblocked(inputs[at])
    else:
        rep = reps.of(inputs[at]) if plain else reps.in_blocks(inputs[at])
    if image is not None and rep.blocked and write_told_layer(rw, scope, layer, rep, image):
        return True
    inputs[at], factor = rep.name, rep.factor
    # It is the smaller operand that is multiplied.
    if factor is not None and dims is not None and math.prod(dims) < math.prod(shape):
        inputs[at], factor = scope.op("Mul", rep.name, factor), None
    if image is not None:
        raw = convolve(scope, node, inputs[0], inputs[1], factor, shape, reps.block, plain=not rep.blocked)
    else:
        if factor is not None:
            inputs[layer.position] = scope.multiply(inputs[layer.position], factor, *shape)
        raw = scope.copy(node, inputs)

    def own() -> Moments:
        return _measure(rw, scope, layer, raw) if image is None else _measure_in_blocks(rw, scope, layer, raw, image)

    found = rw.decide(scope, layer, own)
    # What it is multiplied by later may be a single number, which must stay one.
    wanted = rw.target(scope, layer)
    assert wanted is not None
    factor = scale(scope, found, wanted, with_term=False, elem_type=elem_type, scalar=True)
    reps.current[output] = Representation(raw, factor, image is not None)
    return True


def write_layer_in_blocks(rw: RewriteContext, scope: ScopeBuilder, layer: Layer) -> bool:
    """Write a convolution of the main graph that is measured as it is, in blocks; say whether it was."""
    node, shape, reps = layer.node, layer.source.shape, rw.reps
    image = reps.image(node.outputs[0]) if of(node).blocked and reps.image(node.inputs[0]) else None
    plain = reads_plain(node, shape, reps.block) if image is not None and layer.position == 1 else None
    if plain is None or image is None or layer.end is not node or rw.columns(layer) > 1:
        return False
    (x, weight, *bias), rows = node.inputs, padded(image[1], reps.block)
    how = {"padded": rows > image[1], "shifted": layer.weight in rw.shifted}
    if not sums_in_blocks(rw.samples, rw.orders, node.outputs[0], image, **how):
        return False
    rep = reps.of(x) if plain else reps.in_blocks(x)
    if any(bias):
        bias = [filled_up(scope, bias[0], image[1], rows)]
    raw = convolve(scope, node, rep.name, weight, None, shape, reps.block, plain=not rep.blocked)
    scope.nodes[-1].input.extend(filter(None, bias))
    places = rows * image[2] * image[3]
    rw.decide(
        scope,
        layer,
        lambda: _measure_in_blocks(rw, scope, layer, raw, image, _write_sums(rw, scope, layer, (raw, places))),
    )
    rw.target(scope, layer)
    reps.current[node.outputs[0]] = Representation(raw, None, True)
    return True


# --------------------------------------------------------------------------------------------------------- operands


def _product(rw: RewriteContext, scope: ScopeBuilder, layer: Layer, weight: str) -> str:
    """Write a layer's node on some weight, without a bias; return its output."""
    inputs = _without_bias(rw, layer)
    inputs[layer.position] = weight
    return scope.copy(layer.node, inputs)


def _drawn_weight(scope: ScopeBuilder, layer: Layer) -> str:
    """Return a layer's weight; of a sum of two the term that is drawn."""
    if layer.fixed_term is None:
        return layer.node.inputs[layer.position]
    return _moved(scope, layer.fixed_term.drawn, layer.fixed_term.moves)


def _moved(scope: ScopeBuilder, name: str, moves: Sequence[Node]) -> str:
    """Write some nodes again for another value."""
    for move in moves:
        name = scope.copy(move, (name, *move.inputs[1:]))
    return name


def _without_bias(rw: RewriteContext, layer: Layer) -> list[str]:
    """Return a layer's operands without its own bias: it is zero, or is added after the scaling."""
    inputs, bias = list(layer.node.inputs), bias_position(layer.node, layer.position)
    if bias is not None:
        needed = layer.node.op_type == "Gemm" and rw.graph.opset < 11
        dtype = helper.tensor_dtype_to_np_dtype(layer.source.elem_type)
        inputs[bias] = rw.graph.constant([0], dtype) if needed else ""
    while not inputs[-1]:
        inputs.pop()
    return inputs


def _own_term(scope: ScopeBuilder, layer: Layer) -> str:
    """Return the layer's own additive operand so that it broadcasts over its output."""
    assert layer.addend is not None
    node, term = layer.node, layer.node.inputs[layer.addend.position]
    if node.op_type != "Gemm":
        return scope.reshape(term, 1, -1, *(1 for _ in layer.source.shape[2:]))
    beta = node.attributes.real("beta", 1.0)
    return term if beta == 1.0 else scope.op("Mul", term, scope.cast(scope.double(beta), layer.source.elem_type))


def _centred(scope: ScopeBuilder, layer: Layer, raw: str, channels: Moments, found: Moments) -> str:
    """Take the channels' means away from an output; where there is no variance to scale by, nothing."""
    good = scope.cast(is_usable(scope, found.mean, found.var), TensorProto.DOUBLE)
    mean = scope.cast(scope.op("Mul", channels.mean, good), layer.source.elem_type)
    if not channels_last(layer.node):
        mean = scope.reshape(mean, 1, -1, *(1 for _ in layer.source.shape[2:]))
    return scope.op("Sub", raw, mean)


# --------------------------------------------------------------------------------------------------------- measuring


def _measure(
    rw: RewriteContext, scope: ScopeBuilder, layer: Layer, value: str, found: tuple[str, int] | None = None
) -> Moments:
    """Measure what a layer gives; a centred one's channels."""
    dims, channels = _dims(rw, layer), rw.centred.get(layer.weight, 1)
    size, shifted = size_of(dims), layer.weight in rw.shifted
    if layer.weight in rw.centred and channels_last(layer.node):
        value, dims = scope.reshape(value, -1, channels), None
    return moments(scope, value, layer.source.elem_type, dims, channels, size=size, shifted=shifted, found=found)


def _measure_in_blocks(
    rw: RewriteContext,
    scope: ScopeBuilder,
    layer: Layer,
    raw: str,
    image: tuple[int, int, int, int],
    known: tuple[str, int] | None = None,
) -> Moments:
    """Measure an image in blocks; by its channels where a norm that reads it needs them anyhow."""
    (n, c, *places), size, block = image, math.prod(image), rw.reps.block
    readers = (reader for reader, _ in rw.plan.program.consumers.get(layer.node.outputs[0], ()))
    norms = [key_of(rw.norms[reader]) for reader in readers if reader in rw.norms]
    if norms and (found := rw.moments_in_blocks(scope, raw, image, layer.weight, *norms)):
        return over_channels(scope, found, size)

    def less(number: str) -> str:
        shift = scope.op("Mul", scope.graph.filled(-1, c), number)
        return str(scale_and_shift(scope, raw, scope.graph.filled(1, c), shift, c, block).output[0])

    dims, shifted = (n, padded(c, block), *places), layer.weight in rw.shifted
    return moments(scope, raw, TensorProto.FLOAT, dims, size=size, shifted=shifted and less, found=known)


def _measure_as_it_is(rw: RewriteContext, scope: ScopeBuilder, layer: Layer) -> Moments:
    """Measure a layer's output, and with two columns before it what its weight alone gives, which decides."""
    found = _measure(rw, scope, layer, layer.end.outputs[0], _write_sums(rw, scope, layer))
    if rw.columns(layer) == 1:
        return found
    if not layer.stays:
        return joined(scope, [found, found])
    if layer.end is not layer.node:
        assert layer.addend is not None
        raw = layer.end.inputs[1 - layer.addend.position]
    else:
        raw = _product(rw, scope, layer, _drawn_weight(scope, layer))
    return joined(scope, [_measure(rw, scope, layer, raw), found])


def _write_sums(
    rw: RewriteContext, scope: ScopeBuilder, layer: Layer, held: tuple[str, int] | None = None
) -> tuple[str, int] | None:
    """Write the sums over the samples at each position of a layer's output; of many, in a single batch, their record.

    Where the output is `held` in blocks, by that name and with so many places a sample, some of them empty, these are
    summed.

    Returns:
        The mean of the output, where they give it, and of how many values each sum is.
    """
    if rw.samples is None or not scope.top:
        return None
    output, length = layer.end.outputs[0], rw.samples.length
    dims = known.dims if (known := rw.values.get(output)) else None
    made = sums(scope, rw.samples, output, Value(layer.source.elem_type, dims), rw.orders, held)
    if made is None:
        return None
    name, elem_type, size = made
    places, shifted = held[1] if held else size, layer.weight in rw.shifted
    if rw.samples.batches == 1 and (size > FEW or places != size):
        found = moments(scope, name, elem_type, (places,), size=size, shifted=shifted)
        rw.sums[layer.weight, rw.use(layer)] = to_record(scope, found, 0, 1), np.ravel
        mean = found.mean
    else:
        rw.sums[layer.weight, rw.use(layer)] = name, record_of if rw.samples.batches == 1 else np.ravel
        if size * length <= SMALL or shifted or not rw.samples.alike:
            return None  # it is of no use
        mean = mean_of(scope, name, elem_type, size)
    return (times(scope, mean, 1 / length), length) if rw.samples.alike else None


def _dims(rw: RewriteContext, layer: Layer) -> Dims | None:
    ends = [layer.end, layer.node]
    if layer.moved:
        # Which of the two is measured counts, see `RewriteContext.ends`.
        ends = ends[1:] if rw.rescale and not layer.stays else ends[:1]
    known = next((value for end in ends if (value := rw.values.get(end.outputs[0]))), None)
    if known is not None and known.dims is not None and known.dims and known.dims[-1]:
        return known.dims
    if ends[-1] is layer.node and channels_last(layer.node) and layer.position == 1 and len(layer.source.shape) > 1:
        return (None, layer.matrix.fan_out * layer.matrix.side_by_side)
    return known.dims if known is not None else None
