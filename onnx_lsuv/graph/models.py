"""A graph as a model that ONNX Runtime, or shape inference, reads: its small constants, its opsets, its IR version."""

from __future__ import annotations

from collections.abc import Set

import onnx
from onnx import ModelProto, NodeProto, TensorProto

from onnx_lsuv.graph.blocked import DOMAIN
from onnx_lsuv.program import Program

# The IR versions that ONNX Runtime 1.24 to 1.31 reads; a file of a later one is calibrated at the last of these.
IR_MIN, IR_MAX = 7, 13


def add_constants(graph: onnx.GraphProto, program: Program, names: Set[str]) -> None:
    """Put constants of a program into a graph, before its nodes."""
    made: list[NodeProto] = []
    for name in sorted(names):
        constant = program.constants[name]
        if constant.node is not None:
            made.append(constant.node)
            shape = program.constants.get(constant.node.input[0])
            if shape is not None and shape.name not in names:
                _append_tensor(graph, shape.tensor, shape.name)
        else:
            _append_tensor(graph, constant.tensor, name)
    if made:
        rest = list(graph.node)
        del graph.node[:]
        graph.node.extend([*made, *rest])


def _append_tensor(graph: onnx.GraphProto, tensor: TensorProto | None, name: str) -> None:
    assert tensor is not None
    if any(t.name == name for t in graph.initializer):
        return
    copy = graph.initializer.add()
    copy.CopyFrom(tensor)
    copy.name = name


def model_of(program: Program, graph: onnx.GraphProto) -> ModelProto:
    """Return a graph as a model of a program's opsets."""
    model = ModelProto(ir_version=max(IR_MIN, min(IR_MAX, program.model.proto.ir_version)))
    model.graph.CopyFrom(graph)
    added = {node.domain for node in graph.node} & {DOMAIN, "com.microsoft"}
    for domain, version in {**dict.fromkeys(sorted(added), 1), **program.opsets}.items():
        model.opset_import.add(domain=domain, version=version)
    return model
