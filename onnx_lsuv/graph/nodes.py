"""Nodes as protobuf, with chance taken out of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from onnx import AttributeProto, GraphProto, NodeProto, helper

from onnx_lsuv.operators import Attributes, of
from onnx_lsuv.program import Body, Node


def neutral(node: Node) -> Node:
    """Return a node with chance taken out: Dropout as identity, random operators with a fixed seed.

    A BatchNormalization in training form becomes the inference form.
    """
    if node.domain != "":
        return node
    if node.op_type == "Dropout" and len([o for o in node.outputs if o]) == 1:
        return replace(
            node, op_type="Identity", inputs=node.inputs[:1], outputs=node.outputs[:1], attributes=Attributes()
        )
    # A Dropout whose mask is used cannot be left out. Before opset 12 it is none: it does nothing.
    masked = node.op_type == "Dropout" and len(node.inputs) > 2
    if masked or of(node).random:
        attribute = helper.make_attribute("seed", 0 if masked else 0.0)
        return replace(node, attributes=Attributes({"seed": attribute, **node.attributes}))
    if node.op_type == "BatchNormalization" and node.int_attribute("training_mode", 0):
        attributes = Attributes((k, a) for k, a in node.attributes.items() if k != "training_mode")
        return replace(node, outputs=node.outputs[:1], attributes=attributes)
    return node


def neutral_nodes(node: Node) -> list[Node]:
    """Return a node with chance taken out; what a BatchNormalization says of its statistics are those it reads."""
    if node.op != "BatchNormalization" or len(node.outputs) == 1:
        return [neutral(node)]
    mean, var = node.inputs[3:5]
    told = [(name, value) for name, value in zip(node.outputs[1:], (mean, var, mean, var), strict=False) if name]
    copies = [replace(node, op_type="Identity", inputs=(v,), outputs=(n,), attributes=Attributes()) for n, v in told]
    return [neutral(replace(node, outputs=node.outputs[:1])), *copies]


def is_random(node: Node) -> bool:
    """Say whether a node is one that `neutral` takes the chance out of."""
    return neutral(node) is not node


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
