"""A value that is computed from constants, as a model of its own."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from onnx import TensorProto, ValueInfoProto, helper

from onnx_lsuv.graph.models import model_of
from onnx_lsuv.graph.nodes import proto_of
from onnx_lsuv.model import unused
from onnx_lsuv.operators import Attributes
from onnx_lsuv.program import Node, Program, tensor_type


def expression(program: Program, name: str, exact: Collection[Node] = ()) -> tuple[bytes, tuple[str, ...], str]:
    """Return a model that computes a value from constants, those that are its inputs, and its output in float64.

    Args:
        program: where the value stands.
        name: the value; what it is computed from are constants alone.
        exact: nodes whose first operand is to go on as it is.
    """
    nodes: list[Node] = []
    constants: dict[str, None] = {}
    seen: set[str] = set()

    def visit(value: str) -> None:
        if value in seen:
            return
        seen.add(value)
        if value in program.constants:
            constants[value] = None
            return
        node, _ = program.producers[value]
        seen.update(node.outputs)
        if node in exact:
            node = replace(node, op_type="Identity", domain="", inputs=node.inputs[:1], attributes=Attributes())
        for each in node.inputs:
            if each:
                visit(each)
        nodes.append(node)

    visit(name)
    inputs = [program.constants[each] for each in constants]
    output = unused(name, seen)
    graph = helper.make_graph(
        [*map(proto_of, nodes), helper.make_node("Cast", [name], [output], to=TensorProto.DOUBLE)],
        "expression",
        [ValueInfoProto(name=c.name, type=tensor_type(c.elem_type, c.dims)) for c in inputs],
        [ValueInfoProto(name=output)],
    )
    return bytes(model_of(program, graph).SerializeToString()), tuple(constants), output
