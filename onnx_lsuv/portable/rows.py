"""Data of more than two axes as the rows that a Gemm takes, by a Reshape before and one after it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import NodeProto, defs, helper

from onnx_lsuv.importers.shapes import Shape
from onnx_lsuv.importers.table import IMPORTERS
from onnx_lsuv.portable.draft import Draft

Lead = tuple[int, ...]  # the lengths of all axes but the last, with one -1; empty for data of two axes


def lead_of(shape: Shape) -> Lead | None:
    """Return how a Reshape has to part the rows of data of a shape again; None where it cannot know.

    Where every length is known, the first one is left to the Reshape all the same: it is most often the batch's, and
    in training it may be another.
    """
    if len(shape) == 2:
        return ()
    unknown = [axis for axis, length in enumerate(shape[:-1]) if length is None]
    if len(unknown) > 1:
        return None
    inferred = unknown[0] if unknown else 0
    return tuple(-1 if axis == inferred or length is None else length for axis, length in enumerate(shape[:-1]))


def reads_reshape(opset: int) -> bool:
    """Say whether onnx2torch, for which alone a Gemm is better than a MatMul, reads this opset's Reshape."""
    operators = IMPORTERS["onnx2torch"].operators
    assert operators is not None
    return defs.get_schema("Reshape", opset).since_version in operators["Reshape"]


def lay_rows(draft: Draft, leads: Mapping[int, Lead]) -> None:
    """Put a Reshape before and one after each Gemm whose data have more than two axes.

    Several layers that read the same data read the same rows.

    Args:
        leads: for a Gemm, by its id, how its rows are to be parted.
    """
    rows: dict[str, str] = {}
    shapes: dict[Lead, str] = {}
    known = draft.initializers()

    def reshape(node: NodeProto, ending: str, given: str, shape: Lead, made: str) -> NodeProto:
        if shape not in shapes:
            wanted = "shape_" + "_".join("n" if length < 0 else str(length) for length in shape)
            tensor = draft.tensor(draft.fresh(wanted), np.array(shape, np.int64))
            draft.graph.initializer.append(tensor)
            shapes[shape] = tensor.name
        name = f"{node.name}_{ending}" if node.name else ""
        return helper.make_node("Reshape", [given, shapes[shape]], [made], name)

    nodes: list[NodeProto] = []
    for node in draft.graph.node:
        lead = leads.get(id(node))
        if not lead:
            nodes.append(node)
            continue
        width, depth = known[node.input[1]].dims
        source, result = node.input[0], node.output[0]
        if source not in rows:
            rows[source] = draft.fresh(f"{source}_rows")
            nodes.append(reshape(node, "join", source, (-1, depth), rows[source]))
        node.input[0], node.output[0] = rows[source], draft.fresh(f"{result}_rows")
        if (result, 2) in draft.aliases:
            draft.aliases[node.output[0], 2] = draft.aliases[result, 2]
        nodes += [node, reshape(node, "part", node.output[0], (*lead, width), result)]
    if len(nodes) > len(draft.graph.node):
        del draft.graph.node[:]
        draft.graph.node.extend(nodes)
