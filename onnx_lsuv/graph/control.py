"""If, Loop and Scan: records that go into the scopes of a node and come out of them (see `rewrite`).

Over one batch a record decides while the graph runs: a layer in a loop divides by the first usable record so far. Over
several batches that is not known before all of them ran, and a record may depend on others of the same node, in an
order that only the run tells. So the node is run over the batches again and again, each time dividing by the pooled
records of the run before, until none changes. A record that depends on none of the others is right after the first run,
one that depends on such after the second: n records need n runs at most, and one more for what the node gives to
others.

Which execution of a use decides is chosen by the pooled records too: one batch alone may have no variance, as that of a
single number. So each layer's record leaves the node as a list: the first executions by themselves, then the first
usable one of this batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from onnx import GraphProto, TensorProto, ValueInfoProto, helper

from onnx_lsuv.graph.builder import GraphBuilder
from onnx_lsuv.graph.inference import with_rank
from onnx_lsuv.graph.moments import first_usable, from_record, is_reached
from onnx_lsuv.graph.nodes import proto_of
from onnx_lsuv.graph.pooling import ROWS
from onnx_lsuv.graph.records import empty_trail
from onnx_lsuv.graph.state import Kept, Rewriter, keys_inside
from onnx_lsuv.program import Body, Node, tensor_type


class WriteBody(Protocol):
    """Write the nodes of a scope, taking records over and adding to them."""

    def __call__(self, rw: Rewriter, builder: GraphBuilder, body: Body, records: dict[str, Kept], *, top: bool) -> None:
        """Write a scope."""


def write_control(
    rw: Rewriter, builder: GraphBuilder, node: Node, records: dict[str, Kept], write: WriteBody, *, top: bool
) -> None:
    """Write a node that has records inside its scopes; `write` writes a scope."""
    keys = {k: width for k, width in keys_inside(rw, node).items() if not (k in records and records[k].certain)}
    if not top or (rw.rescale and not rw.staged):
        _scopes(rw, builder, node, keys, records, write)
        return
    start, inner = len(builder.nodes), dict(records)
    fed: dict[str, str] = {}
    for key, width in keys.items():
        before = records.get(key) if rw.rescale else None
        trail = empty_trail(builder, width) if key in rw.plan.weights else None
        inner[key] = replace(before or _unreached(rw, width), trail=trail)
        if rw.rescale:
            fed[key] = rw.book.fresh()
            layer = key in rw.plan.weights
            rw.given[key] = first_usable(builder, before.name, fed[key], width, layer=layer) if before else fed[key]
    _scopes(rw, builder, node, keys, inner, write)
    rw.given.clear()
    lists = {key: _listed(builder, inner[key], width) for key, width in keys.items()}
    if rw.rescale:
        rw.repeated.append(frozenset(name for proto in builder.nodes[start:] for name in proto.output if name))
    for key, width in keys.items():
        found = lists[key]
        if not rw.rescale:
            rw.uses.setdefault(key, []).append(found)
            records[key] = inner[key]
            continue
        rw.cuts[found] = key
        rw.again[found] = fed[key], width
        if before := records.get(key):
            reached = is_reached(builder, from_record(builder, found, width), width)
            found = builder.select(reached, found, before.name)
            found = first_usable(builder, before.name, found, width, layer=key in rw.plan.weights)
        records[key] = Kept(found, certain=False)


def _unreached(rw: Rewriter, width: int) -> Kept:
    return Kept(rw.book.constant(np.zeros(ROWS * width), np.float64), certain=False)


def _listed(builder: GraphBuilder, kept: Kept, width: int) -> str:
    """Return the records (n, ROWS, width) of which the first usable decides."""
    last = builder.reshape(kept.name, 1, ROWS * width)
    whole = builder.op("Concat", kept.trail, last, axis=0) if kept.trail else last
    return builder.reshape(whole, -1, ROWS, width)


def _scopes(
    rw: Rewriter, builder: GraphBuilder, node: Node, keys: Mapping[str, int], records: dict[str, Kept], write: WriteBody
) -> None:
    """Write a node with its scopes, the records going in and out."""
    entry = {key: records.get(key) or _unreached(rw, width) for key, width in keys.items()}
    results = {key: _fresh(rw, kept) for key, kept in entry.items()}
    leaving = [name for name, _ in _ranked(results.values())]
    graphs: dict[str, GraphProto] = {}
    inputs, outputs = node.inputs, node.outputs
    if node.op_type == "If":
        leaves = []
        for name, body in node.bodies.items():
            inner, kept = GraphBuilder(rw.book), {**records, **entry}
            write(rw, inner, body, kept, top=False)
            leaves.append(kept)
            graphs[name] = _close(rw, inner, body, list(body.inputs), len(body.outputs), _ranked(kept[k] for k in keys))
        outputs = (*outputs, *leaving)
        certain = {k: all(leaf[k].certain for leaf in leaves) for k in keys}
    else:
        (name, body), *_ = node.bodies.items()
        # States come first among a Scan's inputs, last among a Loop's; among the outputs they come first in both.
        scanned = node.int_attribute("num_scan_inputs", 0)
        at = len(inputs) - scanned
        states = at - (2 if node.op_type == "Loop" else 0)
        formals = {key: _fresh(rw, kept) for key, kept in entry.items()}
        inner, kept = GraphBuilder(rw.book), {**records, **formals}
        write(rw, inner, body, kept, top=False)
        place = len(body.inputs) - scanned
        body_inputs = [*body.inputs[:place], *_infos(_ranked(formals.values())), *body.inputs[place:]]
        graphs[name] = _close(
            rw, inner, body, body_inputs, states + (1 if node.op_type == "Loop" else 0), _ranked(kept[k] for k in keys)
        )
        inputs = (*inputs[:at], *(name for name, _ in _ranked(entry.values())), *inputs[at:])
        outputs = (*outputs, *("" for _ in range(states - len(outputs))))
        outputs = (*outputs[:states], *leaving, *outputs[states:])
        certain = {k: entry[k].certain for k in keys}
    proto = proto_of(replace(node, inputs=inputs, outputs=outputs, bodies={}))
    for name, graph in graphs.items():
        proto.attribute.append(helper.make_attribute(name, graph))
    builder.nodes.append(proto)
    for key in keys:
        records[key] = replace(results[key], certain=certain[key])


def _fresh(rw: Rewriter, kept: Kept) -> Kept:
    return replace(kept, name=rw.book.fresh(), trail=rw.book.fresh() if kept.trail else None)


def _ranked(kept: Iterable[Kept]) -> list[tuple[str, int]]:
    """Return the values that records are, in a fixed order, and their ranks."""
    return [(name, rank) for each in kept for name, rank in ((each.name, 1), (each.trail, 2)) if name]


def _close(
    rw: Rewriter,
    inner: GraphBuilder,
    body: Body,
    inputs: list[ValueInfoProto],
    at: int,
    leaving: Sequence[tuple[str, int]],
) -> GraphProto:
    """Return a scope as a graph whose outputs hold the records from a position on."""
    # An output must be made inside the scope, so what came from outside passes through an Identity.
    extra = _infos([(inner.op("Identity", name), rank) for name, rank in leaving])
    own = [_with_rank(rw, value) for value in body.outputs]
    outputs = [*own[:at], *extra, *own[at:]]
    return helper.make_graph(inner.nodes, "body", inputs, outputs)


def _with_rank(rw: Rewriter, value: ValueInfoProto) -> ValueInfoProto:
    """Return a scope's output with the rank that was inferred: a Scan needs it, and a division by a scale hides it."""
    if value.type.tensor_type.HasField("shape"):
        return value
    return ValueInfoProto(name=value.name, type=with_rank(value.type, rw.values.get(value.name)))


def _infos(ranks: Iterable[tuple[str, int]]) -> list[ValueInfoProto]:
    return [ValueInfoProto(name=n, type=tensor_type(TensorProto.DOUBLE, (None,) * rank)) for n, rank in ranks]
