"""If, Loop and Scan: records that go into the scopes of a node and come out of them (see `rewrite`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

import numpy as np
from onnx import GraphProto, TensorProto, ValueInfoProto, helper

from onnx_lsuv.graph.nodes import proto_of
from onnx_lsuv.graph.sheet import Sheet
from onnx_lsuv.graph.state import Kept, Rewriter, keys_inside
from onnx_lsuv.layers import Body, Node, tensor_type


class WriteBody(Protocol):
    """Write the nodes of a scope, taking records over and adding to them."""

    def __call__(self, rw: Rewriter, sheet: Sheet, body: Body, records: dict[str, Kept], *, top: bool) -> None:
        """Write a scope."""


def write_control(
    rw: Rewriter, sheet: Sheet, node: Node, records: dict[str, Kept], write: WriteBody, *, top: bool
) -> None:
    """Write a node that has records inside its scopes; `write` writes a scope."""
    keys = keys_inside(rw, node)
    if top and rw.staged and rw.rescale:
        for key in keys:
            if key in records and records[key].certain:
                continue
            copy = replace(node, outputs=tuple(rw.book.fresh() if o else "" for o in node.outputs))
            known = dict(records)
            _scopes(rw, sheet, copy, keys, known, write)
            rw.cuts[known[key].name] = key
            records[key] = Kept(known[key].name, certain=False)
        _scopes(rw, sheet, node, keys, dict(records), write)
        return
    if top and not rw.rescale:
        found: dict[str, Kept] = {k: kept for k, kept in records.items() if kept.certain}
        _scopes(rw, sheet, node, keys, found, write)
        for key in keys:
            if key not in records or not records[key].certain:
                rw.uses.setdefault(key, []).append(found[key].name)
        records |= found
        return
    _scopes(rw, sheet, node, keys, records, write)


def _scopes(
    rw: Rewriter, sheet: Sheet, node: Node, keys: Mapping[str, int], records: dict[str, Kept], write: WriteBody
) -> None:
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
            write(rw, inner, body, kept, top=False)
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
        write(rw, inner, body, kept, top=False)
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
