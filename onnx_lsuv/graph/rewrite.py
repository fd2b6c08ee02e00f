"""Insert statistics after each layer, and the division by them, in every scope by the same rule.

A record (see `records`) travels from use to use of a weight: the first executed use makes it, later ones take it
over. Through an If it leaves each branch as one more output; through a Loop or Scan it is one more carried state,
not reached at first, set by the first iteration. So a weight shared by a branch, a loop and the main graph still gets
one scale, and one that the data never reaches ends with a count of 0.

For several batches a record of the main graph is a *cut*: it is pooled over all batches before anything that
depends on it runs. A node with scopes inside cannot be cut. Over one batch its records decide while the graph runs: a
layer in a loop divides by the first usable record so far. Over several that is not known before all of them ran, and a
record may depend on others of the same node, in an order that only the run tells. So the node is run over the batches
again and again, each time dividing by the pooled records of the run before, until none changes. A record that depends
on none of the others is right after the first run, one that depends on such after the second: n records need n runs at
most, and one more for what the node gives to others.

Which execution of a use decides is chosen by the pooled records too: one batch alone may have no variance, as that of a
single number. So each layer's record leaves the node as a list: the first executions by themselves, then the first
usable one of this batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper

from onnx_lsuv.graph.builder import ScopeBuilder, ScopedRecord, neutral, neutral_nodes, proto_of
from onnx_lsuv.graph.models import with_rank
from onnx_lsuv.graph.norms import write_norm, write_norm_in_blocks
from onnx_lsuv.graph.records import ROWS, first_usable, reached_or
from onnx_lsuv.graph.representations import write_node
from onnx_lsuv.graph.scaling import write_layer, write_layer_in_blocks, write_waiting_layer
from onnx_lsuv.graph.state import RewriteContext, empty_trail, unreached
from onnx_lsuv.graph.units import countable, write_units
from onnx_lsuv.program import Body, Node, tensor_type
from onnx_lsuv.program.program import FLOAT_TYPES


def rewrite(rw: RewriteContext) -> tuple[list[NodeProto], dict[str, tuple[str, ...]]]:
    """Write the main graph; return its nodes, and for each key the records of which the first usable decides.

    There is one such record where it was chosen in the graph. When measuring, the choice comes after the pooling.
    """
    scope = rw.reps.scope
    _write_body(rw, scope, rw.plan.program.body)
    return scope.nodes, {key: tuple(rw.uses.get(key, [record.name])) for key, record in scope.records.items()}


def _write_body(rw: RewriteContext, scope: ScopeBuilder, body: Body) -> None:
    for each in rw.plan.order.get(body, body.nodes):
        node = rw.fused.get(each, each)
        if node is None:
            continue
        beside = [name for name in node.outputs if name in rw.beside] if scope.top else []
        if scope.top and node in rw.activations:
            _write_units(rw, scope, node)
        if scope.top and (rw.rescale or rw.reps.block > 1):
            if _write_waiting(rw, scope, node):
                rw.reps.materialise(*beside)
                _write_beside(rw, scope, beside)
                continue
            rw.reps.materialise_for(node)
        if any(node.bodies.values()) and rw.keys_inside(node):
            _write_control(rw, scope, node)
        elif node in rw.norms:
            write_norm(rw, scope, node)
        elif node in rw.starts or node in rw.ends:
            write_layer(rw, scope, node)
        else:
            scope.nodes += [proto_of(each, lambda inner: _plain_body(rw, inner)) for each in neutral_nodes(node)]
        _write_beside(rw, scope, beside)


def _write_beside(rw: RewriteContext, scope: ScopeBuilder, names: Iterable[str]) -> None:
    """Write the moments of values that are measured beside the layers, where they are floats."""
    for name in names:
        if (known := rw.values.get(name)) and known.elem_type in FLOAT_TYPES:
            rw.measure(scope, name, known)


def _write_units(rw: RewriteContext, scope: ScopeBuilder, node: Node) -> None:
    """Write what tells dead and saturated units, before an activation that may overwrite its operand."""
    found, name = rw.activations[node], node.inputs[0]
    if name not in rw.values or rw.samples is None:
        return
    if not (countable(found) and rw.samples.alike):
        rw.reps.materialise(name)
    rep = rw.reps.of(name)
    if rep.blocked and not found.told_after:
        rw.reps.fusible.pop(name, None)  # its operand would never be there
    block = rw.reps.block if rep.blocked else 0
    made = write_units(scope, found, rep.name, rw.values[name], rw.samples.length, block=block)
    if made is not None:
        rw.units[found.layer.weight, rw.use(found.layer)] = made


def _write_waiting(rw: RewriteContext, scope: ScopeBuilder, node: Node) -> bool:
    """Write a node of the main graph on values as they are there, or so that its own waits; say whether it was."""
    if node in rw.written:
        return True
    layer = rw.ends.get(node) if node in rw.starts else None
    if layer is not None:
        return (write_waiting_layer if rw.rescale else write_layer_in_blocks)(rw, scope, layer)
    if not rw.rescale and (node in rw.starts or node in rw.ends):
        return False
    return write_node(rw.reps, neutral(node)) or write_norm_in_blocks(rw, scope, node)


def _plain_body(rw: RewriteContext, body: Body) -> GraphProto:
    inner = ScopeBuilder(rw.graph)
    _write_body(rw, inner, body)
    return helper.make_graph(inner.nodes, "body", list(body.inputs), list(body.outputs))


# ------------------------------------------------------------------------------------- nodes with records inside


def _write_control(rw: RewriteContext, scope: ScopeBuilder, node: Node) -> None:
    """Write a node that has records inside its scopes."""
    records = scope.records
    keys = {k: width for k, width in rw.keys_inside(node).items() if not (k in records and records[k].certain)}
    if not scope.top or (rw.rescale and not rw.staged):
        _write_scopes(rw, scope, node, keys)
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
    _write_scopes(rw, inner, node, keys)
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
        rw.cuts.add(found)
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


def _write_scopes(rw: RewriteContext, scope: ScopeBuilder, node: Node, keys: Mapping[str, int]) -> None:
    """Write a node with its scopes, the records going in and out."""
    entry = {key: scope.records.get(key) or unreached(scope, width) for key, width in keys.items()}
    results = {key: _fresh(rw, record) for key, record in entry.items()}
    # States come first among a Scan's inputs, last among a Loop's; among the outputs they come first in both.
    branches, loop, scanned = (
        node.op_type == "If",
        node.op_type == "Loop",
        node.attributes.integer("num_scan_inputs", 0),
    )
    at = len(node.inputs) - scanned
    states = len(node.outputs) if branches else at - 2 * loop
    graphs: dict[str, GraphProto] = {}
    certain = {key: branches or record.certain for key, record in entry.items()}
    for name, body in node.bodies.items():
        # A branch sees what is outside; another scope is given it.
        formals = entry if branches else {key: _fresh(rw, record) for key, record in entry.items()}
        inner = ScopeBuilder(rw.graph, records={**scope.records, **formals})
        _write_body(rw, inner, body)
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
