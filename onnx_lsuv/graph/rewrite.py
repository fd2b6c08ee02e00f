"""Insert statistics after each layer, and the division by them, in every scope by the same rule.

A record (see `moments`) travels from use to use of a weight: the first executed use makes it, later ones take it
over. Through an If it leaves each branch as one more output; through a Loop or Scan it is one more carried state,
not reached at first, set by the first iteration. So a weight shared by a branch, a loop and the main graph still gets
one scale, and one that the data never reaches ends with a count of 0.

For several batches a record of the main graph is a *cut*: it is pooled over all batches before anything that
depends on it runs. A node with scopes inside cannot be cut; it is written once for each record inside, each time
with the pooled records known so far, and once more for its real outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto, helper

from onnx_lsuv.graph.moments import (
    Dims,
    Moments,
    first_usable,
    from_record,
    group_length,
    joined,
    moments,
    scale,
    to_record,
)
from onnx_lsuv.graph.sheet import Book, Sheet
from onnx_lsuv.layers import Body, Layer, Node, Norm, Plan, bias_position, tensor_type, walk


@dataclass(frozen=True, slots=True)
class Value:
    """What shape inference knows of a value."""

    elem_type: int
    dims: tuple[int | None, ...] | None


@dataclass(frozen=True, slots=True)
class Kept:
    """A record in the scope being written."""

    name: str
    certain: bool  # it was surely reached


@dataclass(slots=True)
class Rewriter:
    """One rewriting of a program."""

    plan: Plan
    rescale: bool  # divide by the std and normalise with the data's statistics; else only measure
    staged: bool  # records of the main graph are cuts
    targets: Mapping[str, float]  # target std by weight key
    values: Mapping[str, Value]
    seed: int
    book: Book
    inherits: Mapping[str, str] = field(default_factory=dict)  # see `postpone`
    cuts: dict[str, str] = field(default_factory=dict)  # record name -> key
    uses: dict[str, list[str]] = field(default_factory=dict)  # key -> records of the main graph's uses, when measuring
    starts: dict[Node, Layer] = field(default_factory=dict)
    ends: dict[Node, Layer] = field(default_factory=dict)
    norms: dict[Node, Norm] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for layer in self.plan.layers:
            if not layer.scaled:
                continue
            self.starts[layer.node] = layer
            # With its bias at zero a layer can be measured before the Add as well, which saves a case.
            end = layer.node if self.rescale and not layer.stays else layer.end
            self.ends[end] = layer
        if self.rescale:
            self.norms = {norm.node: norm for norm in self.plan.norms}


def norm_key(norm: Norm) -> str:
    """Return the key of a BatchNormalization's record."""
    return f"norm {norm.mean} {norm.var}"


def rewrite(rewriter: Rewriter) -> tuple[list[NodeProto], dict[str, tuple[str, ...]]]:
    """Write the main graph; return its nodes, and for each key the records of which the first usable decides.

    There is one such record where it was chosen in the graph. When measuring, the choice comes after the pooling.
    """
    sheet = Sheet(rewriter.book)
    records: dict[str, Kept] = {}
    _body(rewriter, sheet, rewriter.plan.program.body, records, top=True)
    return sheet.nodes, {key: tuple(rewriter.uses.get(key, [kept.name])) for key, kept in records.items()}


def _body(rw: Rewriter, sheet: Sheet, body: Body, records: dict[str, Kept], *, top: bool) -> None:
    for node in body.nodes:
        if any(node.bodies.values()) and _keys(rw, node):
            _control(rw, sheet, node, records, top=top)
        elif node in rw.norms:
            _norm(rw, sheet, node, records, top=top)
        elif node in rw.starts or node in rw.ends:
            _layer(rw, sheet, node, records, top=top)
        elif node.op == "BatchNormalization" and len(node.outputs) > 1:
            _plain_norm(sheet, node, node.inputs[3], node.inputs[4])
        else:
            sheet.nodes.append(proto_of(neutral(node, rw.seed), lambda b: _plain_body(rw, b)))


def _plain_body(rw: Rewriter, body: Body) -> GraphProto:
    inner = Sheet(rw.book)
    _body(rw, inner, body, {}, top=False)
    return helper.make_graph(inner.nodes, "body", list(body.inputs), list(body.outputs))


def _keys(rw: Rewriter, node: Node) -> dict[str, int]:
    """Return the keys of all records inside a node's scopes, in the order of execution, with their columns."""
    keys: dict[str, int] = {}
    for body in node.bodies.values():
        for inner in walk(body):
            if inner in rw.ends:
                layer = rw.ends[inner]
                keys.setdefault(layer.weight, _columns(rw, layer))
            elif inner in rw.norms:
                norm = rw.norms[inner]
                keys.setdefault(norm_key(norm), _channels(rw, norm))
    return keys


def _columns(rw: Rewriter, layer: Layer) -> int:
    # Every layer that shares the weight counts: the record's shape must be one for all of them.
    users = rw.plan.weights[layer.weight].layers
    return 3 if rw.rescale and any(user.stays for user in users if user.scaled) else 1


def _channels(rw: Rewriter, norm: Norm) -> int:
    return rw.plan.program.constants[norm.mean].size


def _merge(
    rw: Rewriter, sheet: Sheet, records: dict[str, Kept], key: str, own: Callable[[], Moments], width: int, *, top: bool
) -> Moments:
    """Return the moments that decide at this use, measuring only where no earlier use surely did."""
    before = records.get(key)
    if before is not None and before.certain:
        return from_record(sheet, before.name, width)
    found = own()
    record = to_record(sheet, found)
    cut = top and rw.staged and rw.rescale
    if cut:
        rw.cuts[record] = key
    if top and not rw.rescale:
        rw.uses.setdefault(key, []).append(record)
    elif before is not None:
        record = first_usable(sheet, before.name, record, width, layer=key in rw.plan.weights)
    # A first use may say nothing (a recurrent net's zero state), so a layer's later uses are asked too.
    records[key] = Kept(record, certain=key not in rw.plan.weights)
    return from_record(sheet, record, width) if cut or before is not None else found


def _layer(rw: Rewriter, sheet: Sheet, node: Node, records: dict[str, Kept], *, top: bool) -> None:
    start, layer = rw.starts.get(node), rw.ends.get(node)
    if not rw.rescale:
        sheet.nodes.append(proto_of(node))
        if layer is not None:
            _merge(rw, sheet, records, layer.weight, lambda: _measure(rw, sheet, layer, node.outputs[0]), 1, top=top)
        return
    term: str | None = None
    output = node.outputs[0]
    if layer is None:
        # The Add that ends this layer follows.
        sheet.nodes.append(proto_of(node))
        return
    if start is not None:
        raw = sheet.book.fresh()
        inputs = list(node.inputs)
        own_bias = bias_position(node)
        if own_bias is not None:
            if layer.addend is not None:
                term = _own_term(rw, sheet, layer)
            # What is left out is either added below or zero.
            inputs[own_bias] = _zero(rw, layer) if node.op_type == "Gemm" and rw.book.opset < 11 else ""
        while not inputs[-1]:
            inputs.pop()
        if layer.rest is not None:
            inputs[layer.position] = _moved(sheet, layer.rest.other, layer.rest.moves)
            rest = sheet.book.fresh()
            sheet.nodes.append(proto_of(replace(node, inputs=tuple(inputs), outputs=(rest,))))
            inputs[layer.position] = _moved(sheet, layer.rest.drawn, layer.rest.moves)
            term = rest if term is None else sheet.op("Add", rest, term)
        sheet.nodes.append(proto_of(replace(node, inputs=tuple(inputs), outputs=(raw,))))
    else:
        assert layer.addend is not None
        term = node.inputs[layer.addend.position]
        raw = node.inputs[1 - layer.addend.position]

    width = _columns(rw, layer)

    def own() -> Moments:
        found = _measure(rw, sheet, layer, raw)
        if width == 1:
            return found
        b = term if term is not None else sheet.op("Sub", raw, raw)
        # Broadcast the term to the output's shape, so that each of its values counts as often as it is added.
        spread = sheet.op("Add", sheet.op("Sub", raw, raw), b)
        both = sheet.op("Add", raw, b)
        return joined(sheet, [found, *(_measure(rw, sheet, layer, v) for v in (spread, both))])

    if layer.weight in rw.inherits.values():
        # What follows takes the factor over; the raw output goes on under the output's name.
        sheet.nodes[-1].output[0] = raw = output
        _merge(rw, sheet, records, layer.weight, own, width, top=top)
        return
    factor = scale(
        sheet,
        _merge(rw, sheet, records, layer.weight, own, width, top=top),
        rw.targets[layer.weight],
        with_term=width == 3,
        elem_type=layer.source.elem_type,
        # Only these can give a single number, which must stay one.
        scalar=layer.node.op_type == "Einsum" or len(layer.source.shape) == 1,
    )
    if term is None:
        sheet.op("Mul", raw, factor, output=output)
    else:
        sheet.op("Add", sheet.op("Mul", raw, factor), term, output=output)


def _moved(sheet: Sheet, name: str, moves: Sequence[Node]) -> str:
    """Write some nodes again for another value."""
    for move in moves:
        out = sheet.book.fresh()
        sheet.nodes.append(proto_of(replace(move, inputs=(name, *move.inputs[1:]), outputs=(out,))))
        name = out
    return name


def _measure(rw: Rewriter, sheet: Sheet, layer: Layer, value: str) -> Moments:
    dims = _dims(rw, layer)
    return moments(sheet, value, layer.source.elem_type, group_length(dims), size=_size(dims))


def _size(dims: Dims | None) -> int | None:
    """Return the number of values of a shape, where all of it is known."""
    return None if dims is None or None in dims else math.prod(d for d in dims if d is not None)


def _dims(rw: Rewriter, layer: Layer) -> Dims | None:
    known = rw.values.get(layer.end.outputs[0]) or rw.values.get(layer.node.outputs[0])
    if known is not None and known.dims is not None and known.dims and known.dims[-1]:
        return known.dims
    if layer.node.op_type in ("MatMul", "Gemm") and layer.position == 1 and len(layer.source.shape) > 1:
        return (None, layer.matrix.fan_out)
    return known.dims if known is not None else None


def _own_term(rw: Rewriter, sheet: Sheet, layer: Layer) -> str:
    """Return the layer's own additive operand in a form that broadcasts over its output."""
    assert layer.addend is not None
    node, term = layer.node, layer.node.inputs[layer.addend.position]
    if node.op_type == "Gemm":
        beta = node.float_attribute("beta", 1.0)
        if beta == 1.0:
            return term
        factor = sheet.cast(sheet.double(beta), layer.source.elem_type)
        return sheet.op("Mul", term, factor)
    return sheet.reshape(term, 1, -1, *(1 for _ in layer.source.shape[2:]))


def _zero(rw: Rewriter, layer: Layer) -> str:
    return rw.book.constant([0], helper.tensor_dtype_to_np_dtype(layer.source.elem_type))


def _norm(rw: Rewriter, sheet: Sheet, node: Node, records: dict[str, Kept], *, top: bool) -> None:
    norm = rw.norms[node]
    channels = _channels(rw, norm)
    known = rw.values.get(node.inputs[0])
    stored = rw.plan.program.constants[norm.mean].elem_type
    elem_type = known.elem_type if known is not None else stored
    dims = known.dims if known is not None else None
    group = group_length(dims, leading=0 if channels == 1 else 2)

    def own() -> Moments:
        return moments(sheet, node.inputs[0], elem_type, group, channels, _size(dims))

    found = _merge(rw, sheet, records, norm_key(norm), own, channels, top=top)
    mean, var = (sheet.cast(row, stored) for row in (found.mean, found.var))
    # The variance of a constant channel can come out a little below zero.
    floor = sheet.book.constant([0], helper.tensor_dtype_to_np_dtype(stored))
    var = sheet.select(sheet.op("Greater", var, floor), var, floor, stored) if rw.book.opset >= 9 else var
    _plain_norm(sheet, node, mean, var)


def _plain_norm(sheet: Sheet, node: Node, mean: str, var: str) -> None:
    """Write a BatchNormalization in inference form; what it says of its statistics in training are these."""
    plain = neutral(replace(node, outputs=node.outputs[:1]), 0)
    sheet.nodes.append(proto_of(replace(plain, inputs=(*node.inputs[:3], mean, var))))
    for name, value in zip(node.outputs[1:], (mean, var, mean, var), strict=False):
        if name:
            sheet.op("Identity", value, output=name)


def _control(rw: Rewriter, sheet: Sheet, node: Node, records: dict[str, Kept], *, top: bool) -> None:
    keys = _keys(rw, node)
    if top and rw.staged and rw.rescale:
        for key in keys:
            if key in records and records[key].certain:
                continue
            copy = replace(node, outputs=tuple(rw.book.fresh() if o else "" for o in node.outputs))
            known = dict(records)
            _scopes(rw, sheet, copy, keys, known)
            rw.cuts[known[key].name] = key
            records[key] = Kept(known[key].name, certain=False)
        _scopes(rw, sheet, node, keys, dict(records))
        return
    if top and not rw.rescale:
        found: dict[str, Kept] = {k: kept for k, kept in records.items() if kept.certain}
        _scopes(rw, sheet, node, keys, found)
        for key in keys:
            if key not in records or not records[key].certain:
                rw.uses.setdefault(key, []).append(found[key].name)
        records |= found
        return
    _scopes(rw, sheet, node, keys, records)


def _scopes(rw: Rewriter, sheet: Sheet, node: Node, keys: Mapping[str, int], records: dict[str, Kept]) -> None:
    """Write a node with its scopes, the records going in and out."""
    entry = {
        key: records.get(key) or Kept(rw.book.constant(np.zeros(3 * width), np.float64), certain=False)
        for key, width in keys.items()
    }
    results = {key: rw.book.fresh() for key in keys}
    graphs: dict[str, GraphProto] = {}
    inputs, outputs = node.inputs, node.outputs
    if node.op_type == "If":
        leaves = []
        for name, body in node.bodies.items():
            inner, kept = Sheet(rw.book), {**records, **entry}
            _body(rw, inner, body, kept, top=False)
            leaves.append(kept)
            graphs[name] = _close(inner, body, list(body.inputs), len(body.outputs), [kept[k].name for k in keys])
        outputs = (*outputs, *results.values())
        certain = {k: all(leaf[k].certain for leaf in leaves) for k in keys}
    else:
        (name, body), *_ = node.bodies.items()
        # States come first among a Scan's inputs, last among a Loop's; among the outputs they come first in both.
        scanned = node.int_attribute("num_scan_inputs", 0)
        at = len(inputs) - scanned
        states = at - (2 if node.op_type == "Loop" else 0)
        formals = {k: Kept(rw.book.fresh(), certain=entry[k].certain) for k in keys}
        inner, kept = Sheet(rw.book), {**records, **formals}
        _body(rw, inner, body, kept, top=False)
        infos = [_record_info(formals[k].name, width) for k, width in keys.items()]
        place = len(body.inputs) - scanned
        body_inputs = [*body.inputs[:place], *infos, *body.inputs[place:]]
        graphs[name] = _close(
            inner, body, body_inputs, states + (1 if node.op_type == "Loop" else 0), [kept[k].name for k in keys]
        )
        inputs = (*inputs[:at], *(entry[k].name for k in keys), *inputs[at:])
        outputs = (*outputs, *("" for _ in range(states - len(outputs))))
        outputs = (*outputs[:states], *results.values(), *outputs[states:])
        certain = {k: entry[k].certain for k in keys}
    proto = proto_of(replace(node, inputs=inputs, outputs=outputs, bodies={}))
    for name, graph in graphs.items():
        proto.attribute.append(helper.make_attribute(name, graph))
    sheet.nodes.append(proto)
    for key in keys:
        records[key] = Kept(results[key], certain[key])


def _close(inner: Sheet, body: Body, inputs: list[ValueInfoProto], at: int, leaving: list[str]) -> GraphProto:
    """Return a scope as a graph whose outputs hold the records from a position on."""
    # An output must be made inside the scope, so what came from outside passes through an Identity.
    extra = [_record_info(inner.op("Identity", name), None) for name in leaving]
    outputs = [*body.outputs[:at], *extra, *body.outputs[at:]]
    return helper.make_graph(inner.nodes, "body", inputs, outputs)


def _record_info(name: str, width: int | None) -> ValueInfoProto:
    return ValueInfoProto(name=name, type=tensor_type(TensorProto.DOUBLE, (None if width is None else 3 * width,)))


def neutral(node: Node, seed: int) -> Node:
    """Return a node with chance taken out: Dropout as identity, random operators with a fixed seed.

    A BatchNormalization in training form becomes the inference form.
    """
    if node.domain != "":
        return node
    if node.op_type == "Dropout" and len([o for o in node.outputs if o]) == 1:
        return replace(node, op_type="Identity", inputs=node.inputs[:1], outputs=node.outputs[:1], attributes={})
    if node.op_type.startswith("Random") or node.op_type in ("Bernoulli", "Multinomial"):
        attribute = helper.make_attribute("seed", float(seed))
        return replace(node, attributes={"seed": attribute, **node.attributes})
    if node.op_type == "BatchNormalization" and node.int_attribute("training_mode", 0):
        attributes = {k: a for k, a in node.attributes.items() if k != "training_mode"}
        return replace(node, outputs=node.outputs[:1], attributes=attributes)
    return node


def is_random(node: Node) -> bool:
    """Say whether a node is one that `neutral` takes the chance out of."""
    return neutral(node, 0) is not node


def proto_of(node: Node, close: Callable[[Body], GraphProto] | None = None) -> NodeProto:
    """Return a node as protobuf; `close` turns a scope into a graph."""
    proto = NodeProto(op_type=node.op_type, domain=node.domain, input=node.inputs, output=node.outputs)
    # Names must be unique and valid in every ONNX Runtime message; the label says where the node stands.
    proto.name = f"{node.label} -> {next((o for o in node.outputs if o), '')}"
    attributes: list[AttributeProto] = list(node.attributes.values())
    proto.attribute.extend(attributes)
    if close is not None:
        for name, body in node.bodies.items():
            proto.attribute.append(helper.make_attribute(name, close(body)))
    return proto
