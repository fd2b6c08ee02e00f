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

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from onnx import GraphProto, TensorProto, ValueInfoProto, helper

from onnx_lsuv.graph.builder import ScopeBuilder, ScopedRecord
from onnx_lsuv.graph.models import with_rank
from onnx_lsuv.graph.nodes import proto_of
from onnx_lsuv.graph.records import ROWS, first_usable, reached_or
from onnx_lsuv.graph.state import RewriteContext, empty_trail, unreached
from onnx_lsuv.program import Body, Node, tensor_type

WriteBody = Callable[[RewriteContext, ScopeBuilder, Body], None]


def write_control(rw: RewriteContext, scope: ScopeBuilder, node: Node, write: WriteBody) -> None:
    """Write a node that has records inside its scopes; `write` writes a scope."""
    records = scope.records
    keys = {k: width for k, width in rw.keys_inside(node).items() if not (k in records and records[k].certain)}
    if not scope.top or (rw.rescale and not rw.staged):
        _scopes(rw, scope, node, keys, write)
        return
    start, inner = len(scope.nodes), replace(scope, records=dict(records))
    fed: dict[str, str] = {}
    for key, width in keys.items():
        before, layer = records.get(key) if rw.rescale else None, key in rw.plan.weights
        trail = empty_trail(scope, width) if layer else None
        inner.records[key] = replace(before or unreached(scope, width), trail=trail)
        if rw.rescale:
            fed[key] = rw.graph.fresh()
            rw.given[key] = first_usable(scope, before.name, fed[key], width, layer=layer) if before else fed[key]
    _scopes(rw, inner, node, keys, write)
    rw.given.clear()
    lists = {key: _listed(scope, inner.records[key], width) for key, width in keys.items()}
    if rw.rescale:
        rw.repeated.append(frozenset(name for proto in scope.nodes[start:] for name in proto.output if name))
    for key, width in keys.items():
        found = lists[key]
        if not rw.rescale:
            rw.uses.setdefault(key, []).append(found)
            records[key] = inner.records[key]
            continue
        rw.cuts[found] = key
        rw.again[found] = fed[key], width
        if before := records.get(key):
            found = reached_or(scope, found, before.name, width)
            found = first_usable(scope, before.name, found, width, layer=key in rw.plan.weights)
        records[key] = ScopedRecord(found, certain=False)


def _listed(scope: ScopeBuilder, record: ScopedRecord, width: int) -> str:
    """Return the records (n, ROWS, width) of which the first usable decides."""
    last = scope.reshape(record.name, 1, ROWS * width)
    whole = scope.op("Concat", record.trail, last, axis=0) if record.trail else last
    return scope.reshape(whole, -1, ROWS, width)


def _scopes(rw: RewriteContext, scope: ScopeBuilder, node: Node, keys: Mapping[str, int], write: WriteBody) -> None:
    """Write a node with its scopes, the records going in and out."""
    entry = {key: scope.records.get(key) or unreached(scope, width) for key, width in keys.items()}
    results = {key: _fresh(rw, record) for key, record in entry.items()}
    # States come first among a Scan's inputs, last among a Loop's; among the outputs they come first in both.
    branches, loop, scanned = node.op_type == "If", node.op_type == "Loop", node.int_attribute("num_scan_inputs", 0)
    at = len(node.inputs) - scanned
    states = len(node.outputs) if branches else at - 2 * loop
    graphs: dict[str, GraphProto] = {}
    certain = {key: branches or record.certain for key, record in entry.items()}
    for name, body in node.bodies.items():
        # A branch sees what is outside; another scope is given it.
        formals = entry if branches else {key: _fresh(rw, record) for key, record in entry.items()}
        inner = ScopeBuilder(rw.graph, records={**scope.records, **formals})
        write(rw, inner, body)
        if branches:
            certain = {key: sure and inner.records[key].certain for key, sure in certain.items()}
        # An output must be made inside the scope, so what came from outside passes through an Identity.
        leaving = [(inner.op("Identity", name), rank) for name, rank in _ranked(inner.records[key] for key in keys)]
        own, place = [_with_rank(rw, value) for value in body.outputs], len(body.inputs) - scanned
        entering = [] if branches else _infos(_ranked(formals.values()))
        body_inputs = [*body.inputs[:place], *entering, *body.inputs[place:]]
        last = len(own) if branches else states + loop
        body_outputs = [*own[:last], *_infos(leaving), *own[last:]]
        graphs[name] = helper.make_graph(inner.nodes, "body", body_inputs, body_outputs)
    given = [] if branches else [name for name, _ in _ranked(entry.values())]
    outputs = [*node.outputs, *("" for _ in range(states - len(node.outputs)))]
    outputs[states:states] = [name for name, _ in _ranked(results.values())]
    inputs = (*node.inputs[:at], *given, *node.inputs[at:])
    proto = proto_of(replace(node, inputs=inputs, outputs=tuple(outputs), bodies={}))
    proto.attribute.extend(helper.make_attribute(name, graph) for name, graph in graphs.items())
    scope.nodes.append(proto)
    scope.records |= {key: replace(results[key], certain=certain[key]) for key in keys}


def _fresh(rw: RewriteContext, record: ScopedRecord) -> ScopedRecord:
    return replace(record, name=rw.graph.fresh(), trail=rw.graph.fresh() if record.trail else None)


def _ranked(records: Iterable[ScopedRecord]) -> list[tuple[str, int]]:
    """Return the values that records are, in a fixed order, and their ranks."""
    return [(name, rank) for each in records for name, rank in ((each.name, 1), (each.trail, 2)) if name]


def _infos(ranks: Sequence[tuple[str, int]]) -> list[ValueInfoProto]:
    return [ValueInfoProto(name=n, type=tensor_type(TensorProto.DOUBLE, (None,) * rank)) for n, rank in ranks]


def _with_rank(rw: RewriteContext, value: ValueInfoProto) -> ValueInfoProto:
    """Return a scope's output with the rank that was inferred: a Scan needs it, and a division by a scale hides it."""
    if value.type.tensor_type.HasField("shape"):
        return value
    return ValueInfoProto(name=value.name, type=with_rank(value.type, rw.values.get(value.name)))
