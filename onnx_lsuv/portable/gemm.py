"""Dense layers as importers know them: Gemm with transB=1, alpha = beta = 1, a weight (N, K) and a bias (N).

A MatMul with a weight becomes one, together with the Add of a vector after it. A Gemm takes data of two axes; where
they have more, a Reshape before it joins the leading axes to rows, and one after it parts the rows again:

    (a, b, K) -> (a * b, K) -> (a * b, N) -> (a, b, N)

The second Reshape infers one length, so the others have to be known. Factors go into the values: Keras ignores them,
and another importer's weight would differ from the file's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, TensorProto, helper

from onnx_lsuv.importers.shapes import Lead, is_bias, is_flat, lead_of, rows_unread, shapes_of
from onnx_lsuv.importers.traits import counted
from onnx_lsuv.model import Array, graphs_of, is_hollow
from onnx_lsuv.portable.draft import Draft
from onnx_lsuv.portable.scopes import Uses, is_op, label_of, number, remove_nodes, set_attributes, turn_of, uses_of

_WHY = "a dense layer's parameters, in all importers"
_WHY_NORMALISED = "Keras ignores alpha and beta, and onnx2torch bakes them in"


@dataclass(frozen=True, slots=True)
class _Product:
    """A MatMul that could be a Gemm."""

    node: NodeProto
    weight: TensorProto  # (K, N), or (N, K) where a Transpose turns it
    turned: NodeProto | None
    lead: Lead  # how the rows of its data are to be parted
    add: NodeProto | None  # what adds its bias
    term: int  # which operand of that the bias is


def join_gemm(draft: Draft) -> None:
    """Let each MatMul with a weight, and the Add of a vector after it, be a Gemm, where the data's shape is sure."""
    uses = uses_of(draft.graph)
    groups: dict[str, list[_Product]] = {}
    for product in _products(draft, uses):
        groups.setdefault(product.node.input[1], []).append(product)
    gone: list[NodeProto] = []
    joined: list[_Product] = []
    for name, group in groups.items():
        weight, turned = group[0].weight, group[0].turned
        alone = uses.is_open(name) and len(uses.readers[name]) == len(group)
        biased = all(product.add is not None for product in group)
        # Something else reads the weight as it is stored; or a Gemm must have a bias.
        if (turned is None and not alone) or (draft.opset < 11 and not biased):
            continue
        if turned is None:
            draft.put(weight, np.ascontiguousarray(draft.values(weight).T))
        elif alone:
            gone.append(turned)
        for product in group:
            _join(draft, product)
            gone += [product.add] if product.add is not None else []
        joined += group
    remove_nodes(draft.graph, gone)
    _lay_rows(draft, joined)


def _products(draft: Draft, uses: Uses) -> Iterator[_Product]:
    """Yield the products that could be a Gemm, and note which could not."""
    nodes = [node for node in draft.graph.node if is_op(node, "MatMul")]
    if not nodes:
        return
    shapes, fixed = shapes_of(draft.proto, lambda tensor: _few(draft, tensor)), _fixed(draft, uses.tensors)
    unsure: list[str] = []
    newer: list[str] = []
    unread = rows_unread(draft.opset)
    for node in nodes:
        turned = uses.maker(node.input[1], "Transpose")
        turned = turned if turned is not None and turn_of(turned, 2) == (1, 0) else None
        weight = uses.operand(node, 1) if turned is None else uses.operand(turned, 0)
        if weight is None or len(weight.dims) != 2 or 0 in weight.dims or node.input[0] in uses.tensors:
            continue
        shape = shapes.get(node.input[0])
        if shape is not None and len(shape) < 2:
            continue
        lead = None if shape is None else lead_of(shape)
        if lead is None:
            unsure.append(label_of(node))
            continue
        add, at = uses.only(node.output[0]) or (None, 0)
        if add is not None and is_op(add, "Add"):
            bias, name = uses.operand(add, 1 - at), add.input[1 - at]
            vector = bias is not None and is_bias(bias.dims, lead, weight.dims[1 if turned is None else 0])
            if lead and not vector and name in fixed and sum(n != 1 for n in shapes.get(name, ())) < 2:
                continue  # what is added along another axis, or computed, stays right behind its product
            add = add if vector else None
        else:
            add = None
        if lead and unread:
            newer.append(label_of(node))
        else:
            yield _Product(node, weight, turned, lead, add, 1 - at)
    if unsure:
        draft.notes.append(
            f"MatMul stays for {counted(unsure)}: more than one length of their data is open, and the Reshape after a "
            "Gemm can infer only one; export the model with all lengths but one fixed."
        )
    if newer:
        lower = next((opset for opset in range(draft.opset, 0, -1) if not rows_unread(opset)), 1)
        draft.notes.append(
            f"MatMul stays for {counted(newer)}: their data have more than two axes, and the Reshape of opset "
            f"{draft.opset} that a Gemm needs is not read by {counted(unread)}; export the model with "
            f"opset {lower} or lower."
        )


def _few(draft: Draft, tensor: TensorProto) -> Array | None:
    return None if is_hollow(tensor) and math.prod(tensor.dims) > 64 else draft.values(tensor)


def _fixed(draft: Draft, known: Iterable[str]) -> set[str]:
    """Return the values of the main graph that do not depend on its inputs."""
    fixed = {"", *known}
    for node in draft.graph.node:
        if fixed.issuperset(node.input) and not any(graphs_of(node)):
            fixed.update(node.output)
    return fixed


def _join(draft: Draft, product: _Product) -> None:
    """Turn a MatMul into a Gemm, which adds what the node behind it did."""
    node, add = product.node, product.add
    node.op_type = "Gemm"
    node.input[1] = product.weight.name
    set_attributes(node, alpha=1.0, beta=1.0, transB=1)
    if add is not None:
        node.input.append(add.input[product.term])
        node.output[0] = add.output[0]
        if (add.output[0], product.term) in draft.aliases:
            draft.aliases[node.output[0], 2] = draft.aliases[add.output[0], product.term]
    made = "a Gemm between two Reshapes" if product.lead else "a Gemm"
    draft.did(f"MatMul{' and Add' if add is not None else ''} became {made}", label_of(node), _WHY)


def _lay_rows(draft: Draft, products: Sequence[_Product]) -> None:
    """Put a Reshape before and one after each Gemm whose data have more than two axes.

    Several layers that read the same data read the same rows.
    """
    parted = {id(product.node): product for product in products if product.lead}
    rows: dict[str, str] = {}
    shapes: dict[Lead, str] = {}

    def reshape(node: NodeProto, ending: str, given: str, shape: Lead, made: str) -> NodeProto:
        if shape not in shapes:
            wanted = "shape_" + "_".join("n" if length < 0 else str(length) for length in shape)
            shapes[shape] = draft.add(wanted, np.array(shape, np.int64)).name
        name = f"{node.name}_{ending}" if node.name else ""
        return helper.make_node("Reshape", [given, shapes[shape]], [made], name)

    nodes: list[NodeProto] = []
    for node in draft.graph.node:
        product = parted.get(id(node))
        if product is None:
            nodes.append(node)
            continue
        width, depth = product.weight.dims  # as the Gemm reads it
        source, result = node.input[0], node.output[0]
        if source not in rows:
            rows[source] = draft.fresh(f"{source}_rows")
            nodes.append(reshape(node, "join", source, (-1, depth), rows[source]))
        node.input[0], node.output[0] = rows[source], draft.fresh(f"{result}_rows")
        if (result, 2) in draft.aliases:
            draft.aliases[node.output[0], 2] = draft.aliases[result, 2]
        nodes += [node, reshape(node, "part", node.output[0], (*product.lead, width), result)]
    if parted:
        del draft.graph.node[:]
        draft.graph.node.extend(nodes)


def normalise_gemm(draft: Draft) -> None:
    """Let each Gemm have alpha = beta = 1, transB = 1 and a bias of one axis, where its weight is a constant."""
    uses = uses_of(draft.graph)
    users: dict[str, list[NodeProto]] = {}
    for node in draft.graph.node:
        weight = uses.operand(node, 1) if is_op(node, "Gemm") else None
        if weight is not None and len(weight.dims) == 2:
            users.setdefault(weight.name, []).append(node)
    done = _flatten_biases(draft, uses, users)
    uses = uses_of(draft.graph)  # a weight may have been a bias too
    for name, nodes in users.items():
        weight = uses.tensors[name]
        forms = {(number(node, "alpha", 1.0), number(node, "transB", 0)) for node in nodes}
        (alpha, turned), *others = forms
        alone = uses.is_open(name) and len(uses.readers[name]) == len(nodes)
        if others or not alone or (alpha == 1 and turned):
            continue
        values = draft.values(weight)
        values = values if turned else values.T
        draft.put(weight, np.ascontiguousarray(values if alpha == 1 else _times(values, alpha)))
        for node in nodes:
            set_attributes(node, alpha=1.0, transB=1)
        done.update(map(id, nodes))
    for node in draft.graph.node:
        if id(node) in done:
            draft.did("Gemm normalised", label_of(node), _WHY_NORMALISED)


def _flatten_biases(draft: Draft, uses: Uses, users: Mapping[str, Sequence[NodeProto]]) -> set[int]:
    """Let the biases of these Gemms, by weight, have one axis, and take beta into them.

    There is a tensor for each weight, factor and number of units.

    Returns:
        Whose bias changed, by id.
    """
    found: dict[str, dict[tuple[str, float, int], list[NodeProto]]] = {}
    for name, nodes in users.items():
        for node in nodes:
            bias, beta = uses.operand(node, 2), number(node, "beta", 1.0)
            width = uses.tensors[name].dims[0 if number(node, "transB", 0) else 1]
            if bias is not None and (beta != 1 or _is_odd(bias.dims, width)):
                found.setdefault(bias.name, {}).setdefault((name, beta, width), []).append(node)
    for name, forms in found.items():
        bias, stored = uses.tensors[name], draft.values(uses.tensors[name])
        alone = uses.is_open(name) and len(uses.readers[name]) == sum(map(len, forms.values()))
        for (_, beta, width), nodes in forms.items():
            values = stored if beta == 1 else _times(stored, beta) if beta else np.zeros_like(stored)
            if _is_odd(stored.shape, width):
                values = np.array(np.broadcast_to(values.reshape(-1), width))
            if alone:
                draft.put(bias, values)
            else:
                bias = draft.add(name, values)
            alone = False
            for node in nodes:
                node.input[2] = bias.name
                set_attributes(node, beta=1.0)
    return {id(node) for forms in found.values() for nodes in forms.values() for node in nodes}


def _times(values: Array, factor: float) -> Array:
    """Return what a node makes of a tensor by its factor, which may be infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(values * np.float32(factor))


def _is_odd(dims: Sequence[int], width: int) -> bool:
    """Say whether a bias is a vector, or one number, that is not written as one axis of `width`."""
    return is_flat(dims, width) and tuple(dims) != (width,)
