"""Insert statistics after each layer, and the division by them, in every scope by the same rule.

A record (see `records`) travels from use to use of a weight: the first executed use makes it, later ones take it
over. Through an If it leaves each branch as one more output; through a Loop or Scan it is one more carried state,
not reached at first, set by the first iteration. So a weight shared by a branch, a loop and the main graph still gets
one scale, and one that the data never reaches ends with a count of 0.

For several batches a record of the main graph is a *cut*: it is pooled over all batches before anything that
depends on it runs. A node with scopes inside cannot be cut; it is run again until its records stay (see `control`).
"""

from __future__ import annotations

from onnx import GraphProto, NodeProto, helper

from onnx_lsuv.graph.builder import ScopeBuilder
from onnx_lsuv.graph.control import write_control
from onnx_lsuv.graph.nodes import neutral, neutral_nodes, proto_of
from onnx_lsuv.graph.norms import write_norm, write_norm_in_blocks
from onnx_lsuv.graph.representations import write_node
from onnx_lsuv.graph.scaling import write_layer, write_waiting_layer
from onnx_lsuv.graph.state import RewriteContext
from onnx_lsuv.program import Body, Node


def rewrite(rw: RewriteContext) -> tuple[list[NodeProto], dict[str, tuple[str, ...]]]:
    """Write the main graph; return its nodes, and for each key the records of which the first usable decides.

    There is one such record where it was chosen in the graph. When measuring, the choice comes after the pooling.
    """
    scope = rw.reps.scope
    _write_body(rw, scope, rw.plan.program.body)
    return scope.nodes, {key: tuple(rw.uses.get(key, [record.name])) for key, record in scope.records.items()}


def _write_body(rw: RewriteContext, scope: ScopeBuilder, body: Body) -> None:
    for node in rw.plan.order.get(body, body.nodes):
        if scope.top and rw.rescale:
            if _write_waiting(rw, scope, node):
                continue
            rw.reps.materialise_for(node)
        if any(node.bodies.values()) and rw.keys_inside(node):
            write_control(rw, scope, node, _write_body)
        elif node in rw.norms:
            write_norm(rw, scope, node)
        elif node in rw.starts or node in rw.ends:
            write_layer(rw, scope, node)
        else:
            scope.nodes += [proto_of(each, lambda inner: _plain_body(rw, inner)) for each in neutral_nodes(node)]


def _write_waiting(rw: RewriteContext, scope: ScopeBuilder, node: Node) -> bool:
    """Write a node of the main graph on values as they are there, or so that its own waits; say whether it was."""
    layer = rw.ends.get(node) if node in rw.starts else None
    if layer is not None:
        return write_waiting_layer(rw, scope, layer)
    return write_node(rw.reps, neutral(node)) or (node in rw.norms and write_norm_in_blocks(rw, scope, node))


def _plain_body(rw: RewriteContext, body: Body) -> GraphProto:
    inner = ScopeBuilder(rw.graph)
    _write_body(rw, inner, body)
    return helper.make_graph(inner.nodes, "body", list(body.inputs), list(body.outputs))
