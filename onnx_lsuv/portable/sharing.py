"""What stands between a parameter and its layer, and what stands for several parameters at once.

Exporters merge tensors that are equal byte for byte: of a fresh network all zero biases of a length, and a norm's
scale of ones with its running variance. Such a vector gets a copy for each parameter that it stands for, named after
the Identity through which it was read, or after the layer's weight. Layers that share their matrix keep sharing their
vectors, and shared matrices stay shared.
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto, TensorProto

from onnx_lsuv.operators import of
from onnx_lsuv.portable.draft import Draft
from onnx_lsuv.portable.scopes import Uses, is_op, number, remove_nodes, turn_of, uses_of
from onnx_lsuv.program.program import FLOAT_TYPES

_WHY = "a weight must be read by its layer itself"


def bypass_identities(draft: Draft) -> None:
    """Let readers of an initializer through an Identity, or a Cast to its own type, read it directly."""
    uses = uses_of(draft.graph)
    gone = []
    for node in draft.graph.node:
        tensor = uses.tensors.get(node.input[0]) if is_op(node, "Identity", "Cast") else None
        if tensor is None or node.output[0] in uses.outputs or number(node, "to", tensor.data_type) != tensor.data_type:
            continue
        for reader, position in uses.readers.get(node.output[0], ()):
            reader.input[position] = tensor.name
            if node.output[0] not in uses.captured:
                draft.aliases[reader.output[0], position] = node.output[0]
        if node.output[0] not in uses.captured:
            gone.append(node)
            draft.taken.discard(node.output[0])
            draft.did(f"{node.op_type} bypassed", node.output[0], _WHY)
    remove_nodes(draft.graph, gone)


def fold_transposes(draft: Draft) -> None:
    """Store a weight as its Transpose gives it, where nothing reads it otherwise."""
    uses = uses_of(draft.graph)
    for tensor in draft.graph.initializer:
        readers = [node for node, _ in uses.readers.get(tensor.name, ())]
        if tensor.data_type not in FLOAT_TYPES or not readers or not uses.is_open(tensor.name):
            continue
        if not all(is_op(node, "Transpose") and uses.is_open(node.output[0]) for node in readers):
            continue
        perms = {turn_of(node, len(tensor.dims)) for node in readers}
        if len(perms) > 1:
            continue
        for node in readers:
            for reader, position in uses.readers.get(node.output[0], ()):
                reader.input[position] = tensor.name
        draft.put(tensor, np.ascontiguousarray(draft.values(tensor).transpose(perms.pop())))
        draft.did("weight stored transposed", tensor.name, _WHY)
        remove_nodes(draft.graph, readers)


def copy_merged(draft: Draft) -> None:
    """Give each parameter a vector of its own."""
    uses = uses_of(draft.graph)
    for name, tensor in uses.tensors.items():
        if len(tensor.dims) != 1 or tensor.data_type not in FLOAT_TYPES or len(uses.readers.get(name, ())) < 2:
            continue
        groups: dict[tuple[str, ...] | None, list[tuple[NodeProto, int]]] = {}
        for node, position in uses.readers[name]:
            groups.setdefault(_parameter(draft, uses, node, position, tensor), []).append((node, position))
        others = groups.pop(None, None)
        found = list(groups.values())
        if not others and uses.is_open(name) and found:
            # The name belongs to a parameter that is read under it.
            own = next((g for g in found if any((n.output[0], p) not in draft.aliases for n, p in g)), found[0])
            found.remove(own)
        values = draft.values(tensor)
        for group in found:
            copy = draft.add(_name_of_copy(draft, group, name), np.array(values))
            for node, position in group:
                node.input[position] = copy.name
            draft.copies[copy.name] = name
            draft.did(
                "merged vector copied", f"{copy.name} (of {name})", "one tensor stood for parameters of several nodes"
            )


def _parameter(draft: Draft, uses: Uses, node: NodeProto, position: int, tensor: TensorProto) -> tuple[str, ...] | None:
    """Return what parameter a node reads a vector as; None where it is none."""
    operator = of(node)
    if position in operator.biases and not operator.domain:
        return (node.input[1],)
    if operator.norm and position in operator.roles and not operator.domain:
        before = uses.makers.get(node.input[0])
        weighted = before is not None and of(before).bilinear and before.input[1] in uses.tensors
        return before.input[1] if before is not None and weighted else node.output[0], node.op_type, str(position)
    if is_op(node, "PRelu") and position == 1:
        return (node.output[0],)
    if is_op(node, "Add", "Sub", "Mul", "Div"):
        before = uses.maker(node.input[1 - position], "MatMul") if node.op_type == "Add" else None
        if before is not None and before.input[1] in uses.tensors:
            return (before.input[1],)
        # Equal tables, as of frequencies, are one table; equal zeros or ones are parameters not yet trained.
        values = draft.values(tensor)
        if values.size > 1 and (values == values[0]).all():
            return (node.output[0],)
    return None


def _name_of_copy(draft: Draft, group: list[tuple[NodeProto, int]], name: str) -> str:
    """Return what a copy should be called: as it was read, after the layer's weight, or as it was."""
    node, position = group[0]
    if (node.output[0], position) in draft.aliases:
        return draft.aliases[node.output[0], position]
    weight: str = node.input[1] if position in of(node).biases else ""
    return weight.removesuffix("weight") + "bias" if weight.endswith(".weight") else name
