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
from onnx_lsuv.portable.constants import FLOATS
from onnx_lsuv.portable.draft import Draft
from onnx_lsuv.portable.scopes import Uses, attribute_of, is_op, remove_nodes, uses_of


def bypass_identities(draft: Draft) -> None:
    """Let readers of an initializer through an Identity, or a Cast to its own type, read it directly."""
    uses, known = uses_of(draft.graph), draft.initializers()
    gone = []
    for node in draft.graph.node:
        tensor = known.get(node.input[0]) if is_op(node, "Identity", "Cast") else None
        if tensor is None or node.output[0] in uses.outputs:
            continue
        to = attribute_of(node, "to")
        if to is not None and to.i != tensor.data_type:
            continue
        for reader, position in uses.readers.get(node.output[0], ()):
            reader.input[position] = tensor.name
            if node.output[0] not in uses.captured:
                draft.aliases[reader.output[0], position] = node.output[0]
        if node.output[0] not in uses.captured:
            gone.append(node)
            draft.taken.discard(node.output[0])
            draft.did(f"{node.op_type} bypassed", node.output[0], "a weight must be read by its layer itself")
    remove_nodes(draft.graph, gone)


def fold_transposes(draft: Draft) -> None:
    """Store a weight as its Transpose gives it, where nothing reads it otherwise."""
    uses = uses_of(draft.graph)
    for tensor in draft.graph.initializer:
        readers = [node for node, _ in uses.readers.get(tensor.name, ())]
        if tensor.data_type not in FLOATS or not readers or uses.held(tensor.name):
            continue
        if not all(is_op(node, "Transpose") and not uses.held(node.output[0]) for node in readers):
            continue
        perms = {permutation(node, len(tensor.dims)) for node in readers}
        if len(perms) > 1:
            continue
        for node in readers:
            for reader, position in uses.readers.get(node.output[0], ()):
                reader.input[position] = tensor.name
        draft.put(tensor, np.ascontiguousarray(draft.values(tensor).transpose(perms.pop())))
        draft.did("weight stored transposed", tensor.name, "a weight must be read by its layer itself")
        remove_nodes(draft.graph, readers)


def permutation(node: NodeProto, rank: int) -> tuple[int, ...]:
    """Return the order of axes that a Transpose makes."""
    perm = attribute_of(node, "perm")
    return tuple(perm.ints) if perm is not None else tuple(reversed(range(rank)))


def copy_merged(draft: Draft) -> None:
    """Give each parameter a vector of its own."""
    uses, known = uses_of(draft.graph), draft.initializers()
    for name, tensor in known.items():
        if len(tensor.dims) != 1 or tensor.data_type not in FLOATS or len(uses.readers.get(name, ())) < 2:
            continue
        groups: dict[tuple[str, ...], list[tuple[NodeProto, int]]] = {}
        others = uses.held(name)
        for node, position in uses.readers[name]:
            key = _parameter(draft, uses, known, node, position, tensor)
            if key is None:
                others = True
            else:
                groups.setdefault(key, []).append((node, position))
        found = list(groups.values())
        if not others and found:
            # The name belongs to a parameter that is read under it.
            own = next((g for g in found if any((n.output[0], p) not in draft.aliases for n, p in g)), found[0])
            found.remove(own)
        values = draft.values(tensor)
        for group in found:
            copy = draft.tensor(_name_of_copy(draft, group, name), np.array(values))
            draft.graph.initializer.append(copy)
            for node, position in group:
                node.input[position] = copy.name
            where = f"{copy.name} (of {name})"
            draft.did("merged vector copied", where, "one tensor stood for parameters of several nodes")


def _parameter(
    draft: Draft, uses: Uses, known: dict[str, TensorProto], node: NodeProto, position: int, tensor: TensorProto
) -> tuple[str, ...] | None:
    """Return what parameter a node reads a vector as; None where it is none."""
    operator = of(node)
    if position in operator.biases and not operator.domain:
        return (node.input[1],)
    if operator.norm and position in operator.roles and not operator.domain:
        before = uses.makers.get(node.input[0])
        if before is not None and of(before).bilinear and before.input[1] in known:
            return before.input[1], node.op_type, str(position)
        return node.output[0], node.op_type, str(position)
    if is_op(node, "PRelu") and position == 1:
        return (node.output[0],)
    if is_op(node, "Add", "Sub", "Mul", "Div"):
        before = uses.makers.get(node.input[1 - position])
        if before is not None and is_op(before, "MatMul") and before.input[1] in known and node.op_type == "Add":
            return (before.input[1],)
        # Equal tables, as of frequencies, are one table; equal zeros or ones are parameters not yet trained.
        values = draft.values(tensor)
        if values.size > 1 and (values == values[0]).all():
            return (node.output[0],)
    return None


def _name_of_copy(draft: Draft, group: list[tuple[NodeProto, int]], name: str) -> str:
    node, position = group[0]
    alias = draft.aliases.get((node.output[0], position))
    if alias is not None:
        return draft.fresh(alias)
    if position in of(node).biases and node.input[1].endswith(".weight"):
        return draft.fresh(node.input[1].removesuffix("weight") + "bias")
    return draft.fresh(name)
