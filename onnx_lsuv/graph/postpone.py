"""Which layers need no division in the graph, because what follows lets it wait.

Relu, pooling, reshaping and the like are positively homogeneous: f(c x) = c f(x) for c > 0. Where a layer's output
passes through such operators alone into other layers, its factor t/std can be left out of the graph: the next layer's
raw output comes out divided by that factor, which is put right in its record afterwards, and dividing by the next std
takes the factor away. That saves a pass over the activations and a dozen small nodes a layer.

Without division magnitudes drift by about the factor of one layer at a time, so at most `LONGEST` layers in a row do
without; in half precision none does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from onnx import TensorProto

from onnx_lsuv.graph.moments import MEAN, VAR, Record, scale_of
from onnx_lsuv.layers import SHAPE_READERS, Layer, Node, Plan

LONGEST = 4

# Operators that are positively homogeneous in their first operand, whatever the others are.
_HOMOGENEOUS = frozenset({
    "Relu", "LeakyRelu", "PRelu", "Identity", "Dropout", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool",
    "Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "DepthToSpace", "SpaceToDepth",
    "ReduceMean", "ReduceSum", "ReduceMax", "Abs", "Neg",
})  # fmt: skip


def postponed(plan: Plan) -> dict[str, str]:
    """Return, for each weight whose layer takes over the factor of an earlier one, the earlier one's key."""
    top = set(plan.program.body.nodes)
    layers = {layer.node: layer for layer in plan.layers if _simple(plan, layer, top)}
    inherits: dict[str, str] = {}
    depth: dict[str, int] = {}
    for node in plan.program.body.nodes:
        layer = layers.get(node)
        if layer is None or depth.get(layer.weight, 0) >= LONGEST:
            continue
        heirs = _heirs(plan, layer, layers)
        if heirs and not heirs & inherits.keys():
            for heir in heirs:
                inherits[heir] = layer.weight
                depth[heir] = depth.get(layer.weight, 0) + 1
    return inherits


def _simple(plan: Plan, layer: Layer, top: set[Node]) -> bool:
    return (
        layer.node in top
        and layer.scaled
        and not layer.stays
        and len(plan.weights[layer.weight].layers) == 1
        and layer.source.elem_type in (TensorProto.FLOAT, TensorProto.DOUBLE)
    )


def _heirs(plan: Plan, layer: Layer, layers: Mapping[Node, Layer]) -> set[str] | None:
    """Return the weights of the layers that a layer's output goes into, or None where it goes elsewhere too."""
    program = plan.program
    found: set[str] = set()
    todo = [layer.node.outputs[0]]
    while todo:
        for node, position in program.consumers.get(todo.pop(), ()):
            if node in layers and position != layers[node].position and node.op_type != "Einsum":
                found.add(layers[node].weight)
            elif node.domain == "" and node.op_type in SHAPE_READERS:
                continue
            elif node.scope == layer.node.scope and (
                (node.domain == "" and node.op_type in _HOMOGENEOUS and position == 0)
                or _adds_zero(plan, node, position)
            ):
                todo += [name for name in node.outputs if name]
            else:
                return None
    return found


def _adds_zero(plan: Plan, node: Node, position: int) -> bool:
    """Say whether a node adds a bias that is set to zero."""
    return node.op == "Add" and node.inputs[1 - position] in plan.zeroed


def put_right(
    records: Mapping[str, Record], inherits: Mapping[str, str], targets: Mapping[str, float]
) -> dict[str, Record]:
    """Return the records as they would be with every division done."""
    result: dict[str, Record] = {}
    for key, record in records.items():
        result[key] = np.array(record)
        before = records.get(inherits.get(key, ""))
        factor = None if before is None else scale_of(before, targets[inherits[key]])
        if factor is not None and math.isfinite(factor):
            result[key][MEAN] *= factor
            result[key][VAR] *= factor * factor
    return result
