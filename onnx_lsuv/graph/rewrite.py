"""Insert statistics after each layer, and the division by them, in every scope by the same rule.

A record (see `moments`) travels from use to use of a weight: the first executed use makes it, later ones take it
over. Through an If it leaves each branch as one more output; through a Loop or Scan it is one more carried state,
not reached at first, set by the first iteration. So a weight shared by a branch, a loop and the main graph still gets
one scale, and one that the data never reaches ends with a count of 0.

For several batches a record of the main graph is a *cut*: it is pooled over all batches before anything that
depends on it runs. A node with scopes inside cannot be cut; it is run again until its records stay (see `control`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from onnx import GraphProto, NodeProto, TensorProto, helper

from onnx_lsuv.graph.blocked import convolve, reads_plain, scale_and_shift, stored
from onnx_lsuv.graph.builder import GraphBuilder
from onnx_lsuv.graph.center import centred, within
from onnx_lsuv.graph.control import write_control
from onnx_lsuv.graph.forms import Form, write_node
from onnx_lsuv.graph.groups import Dims, groups_of, size_of
from onnx_lsuv.graph.moments import Moments, channel_moments, joined, moments, over_channels, scale
from onnx_lsuv.graph.nodes import neutral, neutral_nodes, proto_of
from onnx_lsuv.graph.norms import write_norm, write_norm_in_blocks
from onnx_lsuv.graph.records import merge
from onnx_lsuv.graph.state import Kept, Rewriter, columns, keys_inside, use_of
from onnx_lsuv.layers import Layer, channels_last
from onnx_lsuv.operators import bias_position, of
from onnx_lsuv.program import Body, Node


def rewrite(rewriter: Rewriter) -> tuple[list[NodeProto], dict[str, tuple[str, ...]]]:
    """Write the main graph; return its nodes, and for each key the records of which the first usable decides.

    There is one such record where it was chosen in the graph. When measuring, the choice comes after the pooling.
    """
    builder = GraphBuilder(rewriter.book)
    records: dict[str, Kept] = {}
    _body(rewriter, builder, rewriter.plan.program.body, records, top=True)
    return builder.nodes, {key: tuple(rewriter.uses.get(key, [kept.name])) for key, kept in records.items()}


def _body(rw: Rewriter, builder: GraphBuilder, body: Body, records: dict[str, Kept], *, top: bool) -> None:
    for node in rw.plan.order.get(body, body.nodes):
        if top and rw.rescale:
            layer = rw.ends.get(node) if node in rw.starts else None
            if _waiting_layer(rw, builder, layer, records) if layer else write_node(rw.forms, builder, neutral(node)):
                continue
            if node in rw.norms and write_norm_in_blocks(rw, builder, node, records):
                continue
            rw.forms.settle_for(builder, node)
        if any(node.bodies.values()) and keys_inside(rw, node):
            write_control(rw, builder, node, records, _body, top=top)
        elif node in rw.norms:
            write_norm(rw, builder, node, records, top=top)
        elif node in rw.starts or node in rw.ends:
            _layer(rw, builder, node, records, top=top)
        else:
            builder.nodes += [proto_of(each, lambda b: _plain_body(rw, b)) for each in neutral_nodes(node)]


def _plain_body(rw: Rewriter, body: Body) -> GraphProto:
    inner = GraphBuilder(rw.book)
    _body(rw, inner, body, {}, top=False)
    return helper.make_graph(inner.nodes, "body", list(body.inputs), list(body.outputs))


def _layer(rw: Rewriter, builder: GraphBuilder, node: Node, records: dict[str, Kept], *, top: bool) -> None:
    start, layer = rw.starts.get(node), rw.ends.get(node)
    if not rw.rescale:
        builder.nodes.append(proto_of(node))
        if layer is not None:
            width, use = columns(rw, layer), use_of(rw, layer)
            merge(
                rw,
                builder,
                records,
                layer.weight,
                lambda: _as_it_is(rw, builder, layer, width),
                width,
                use=use,
                top=top,
            )
        return
    term: str | None = None
    output = node.outputs[0]
    if layer is None:
        # The Add that ends this layer follows.
        builder.nodes.append(proto_of(node))
        return
    if start is not None:
        if bias_position(node, layer.position) is not None and layer.addend is not None:
            term = _own_term(rw, builder, layer)
        if layer.fixed_term is not None:
            rest = _product(rw, builder, layer, _moved(builder, layer.fixed_term.other, layer.fixed_term.moves))
            term = rest if term is None else builder.op("Add", rest, term)
        raw = _product(rw, builder, layer, _drawn_weight(builder, layer))
    else:
        assert layer.addend is not None
        term = node.inputs[layer.addend.position]
        raw = node.inputs[1 - layer.addend.position]

    width, centre = columns(rw, layer), layer.weight in rw.centred

    def own() -> Moments:
        if centre:
            return _measure_channels(rw, builder, layer, raw, width)
        found = _measure(rw, builder, layer, raw)
        if width == 1:
            return found
        b = term if term is not None else builder.op("Sub", raw, raw)
        # Broadcast the term to the output's shape, so that each of its values counts as often as it is added.
        spread = builder.op("Add", builder.op("Sub", raw, raw), b)
        both = builder.op("Add", raw, b)
        return joined(builder, [found, *(_measure(rw, builder, layer, v) for v in (spread, both))])

    found = merge(rw, builder, records, layer.weight, own, width, use=use_of(rw, layer), top=top)
    if centre:
        channels, found = found, within(builder, found)
        raw = centred(builder, layer, raw, channels, found)
    factor = scale(
        builder,
        found,
        rw.targets[layer.weight],
        with_term=width == 3 and not centre,
        elem_type=layer.source.elem_type,
        # Only these can give a single number, which must stay one.
        scalar=layer.node.op_type == "Einsum" or len(layer.source.shape) == 1,
    )
    if term is None:
        builder.op("Mul", raw, factor, output=output)
    else:
        builder.op("Add", builder.op("Mul", raw, factor), term, output=output)


def _waiting_layer(rw: Rewriter, builder: GraphBuilder, layer: Layer, records: dict[str, Kept]) -> bool:
    """Write a layer of the main graph whose division can wait, a convolution in blocks; say whether it was."""
    node, shape, forms = layer.node, layer.source.shape, rw.forms
    if layer.stays or layer.weight in rw.centred or columns(rw, layer) > 1 or len(shape) < 2 or not of(node).bilinear:
        return False
    if layer.source.elem_type not in (TensorProto.FLOAT, TensorProto.DOUBLE):
        return False
    at = 1 - layer.position
    output, inputs = node.outputs[0], _without_bias(rw, layer)
    image, plain = forms.image(output), None
    if of(node).blocked and forms.block > 1 and image is not None and forms.image(inputs[at]) is not None:
        plain = reads_plain(node, shape, forms.block)
    dims = forms.dims(inputs[at])
    if plain is None:
        form = forms.unblocked(builder, inputs[at])
    else:
        form = forms.form(inputs[at]) if plain else forms.in_blocks(builder, inputs[at])
    inputs[at] = form.name
    factor = form.factor
    # It is the smaller operand that is multiplied.
    if factor is not None and dims is not None and math.prod(dims) < math.prod(shape):
        inputs[at], factor = builder.op("Mul", inputs[at], factor), None
    if plain is None or image is None:
        if factor is not None:
            inputs[layer.position] = builder.multiply(inputs[layer.position], factor, *shape)
        raw = builder.book.fresh()
        builder.nodes.append(proto_of(replace(node, inputs=tuple(inputs), outputs=(raw,))))
    else:
        raw = convolve(builder, node, inputs[0], inputs[1], factor, shape, forms.block, plain=not form.blocked)

    def own() -> Moments:
        if plain is None or image is None:
            return _measure(rw, builder, layer, raw)
        norms = rw.norms_on(output)
        if norms and (found := rw.moments_in_blocks(builder, raw, image, layer.weight, *norms)):
            return over_channels(builder, found, math.prod(image))
        held = stored(image, forms.block)

        def less(number: str) -> str:
            width = image[1]
            shift = builder.op("Mul", builder.book.filled(-1, width), number)
            scale_and_shift(builder, raw, builder.book.filled(1, width), shift, width, forms.block)
            return str(builder.nodes[-1].output[0])

        return moments(
            builder,
            raw,
            TensorProto.FLOAT,
            groups_of(held),
            size=math.prod(image),
            stored=math.prod(held),
            shifted=layer.weight in rw.shifted,
            less=less,
        )

    found = merge(rw, builder, records, layer.weight, own, 1, use=use_of(rw, layer), top=True)
    target, elem_type = rw.targets[layer.weight], layer.source.elem_type
    # What it is multiplied by later may be a single number, which must stay one.
    factor = scale(builder, found, target, with_term=False, elem_type=elem_type, scalar=True)
    forms.held[output] = Form(raw, factor, plain is not None)
    return True


def _as_it_is(rw: Rewriter, builder: GraphBuilder, layer: Layer, width: int) -> Moments:
    """Measure a layer's output, and with two columns before it what its weight alone gives, which decides."""
    found = _measure(rw, builder, layer, layer.end.outputs[0])
    if width == 1:
        return found
    if not layer.stays:
        return joined(builder, [found, found])
    if layer.end is not layer.node:
        raw = layer.node.outputs[0]
    else:
        raw = _product(rw, builder, layer, _drawn_weight(builder, layer))
    return joined(builder, [_measure(rw, builder, layer, raw), found])


def _product(rw: Rewriter, builder: GraphBuilder, layer: Layer, weight: str) -> str:
    """Write a layer's node on some weight, without a bias; return its output."""
    inputs, raw = _without_bias(rw, layer), builder.book.fresh()
    inputs[layer.position] = weight
    builder.nodes.append(proto_of(replace(layer.node, inputs=tuple(inputs), outputs=(raw,))))
    return raw


def _drawn_weight(builder: GraphBuilder, layer: Layer) -> str:
    """Return a layer's weight; of a sum of two the term that is drawn."""
    return (
        _moved(builder, layer.fixed_term.drawn, layer.fixed_term.moves)
        if layer.fixed_term
        else layer.node.inputs[layer.position]
    )


def _without_bias(rw: Rewriter, layer: Layer) -> list[str]:
    """Return a layer's operands without its own bias: it is zero, or is added after the scaling."""
    inputs, own_bias = list(layer.node.inputs), bias_position(layer.node, layer.position)
    if own_bias is not None:
        inputs[own_bias] = _zero(rw, layer) if layer.node.op_type == "Gemm" and rw.book.opset < 11 else ""
    while not inputs[-1]:
        inputs.pop()
    return inputs


def _moved(builder: GraphBuilder, name: str, moves: Sequence[Node]) -> str:
    """Write some nodes again for another value."""
    for move in moves:
        out = builder.book.fresh()
        builder.nodes.append(proto_of(replace(move, inputs=(name, *move.inputs[1:]), outputs=(out,))))
        name = out
    return name


def _measure(rw: Rewriter, builder: GraphBuilder, layer: Layer, value: str) -> Moments:
    dims = _dims(rw, layer)
    shifted = layer.weight in rw.shifted
    return moments(builder, value, layer.source.elem_type, groups_of(dims), size=size_of(dims), shifted=shifted)


def _measure_channels(rw: Rewriter, builder: GraphBuilder, layer: Layer, value: str, channels: int) -> Moments:
    dims = _dims(rw, layer)
    size = size_of(dims)
    if channels_last(layer.node):
        value, dims = builder.reshape(value, -1, channels), None
    shifted = layer.weight in rw.shifted
    return channel_moments(builder, value, layer.source.elem_type, channels, dims, size, shifted=shifted)


def _dims(rw: Rewriter, layer: Layer) -> Dims | None:
    known = rw.values.get(layer.end.outputs[0]) or rw.values.get(layer.node.outputs[0])
    if known is not None and known.dims is not None and known.dims and known.dims[-1]:
        return known.dims
    if channels_last(layer.node) and layer.position == 1 and len(layer.source.shape) > 1:
        return (None, layer.matrix.fan_out * layer.matrix.side_by_side)
    return known.dims if known is not None else None


def _own_term(rw: Rewriter, builder: GraphBuilder, layer: Layer) -> str:
    """Return the layer's own additive operand in a form that broadcasts over its output."""
    assert layer.addend is not None
    node, term = layer.node, layer.node.inputs[layer.addend.position]
    if node.op_type == "Gemm":
        beta = node.float_attribute("beta", 1.0)
        if beta == 1.0:
            return term
        factor = builder.cast(builder.double(beta), layer.source.elem_type)
        return builder.op("Mul", term, factor)
    return builder.reshape(term, 1, -1, *(1 for _ in layer.source.shape[2:]))


def _zero(rw: Rewriter, layer: Layer) -> str:
    return rw.book.constant([0], helper.tensor_dtype_to_np_dtype(layer.source.elem_type))
