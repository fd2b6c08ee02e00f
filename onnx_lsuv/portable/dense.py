"""Dense layers as importers know them: Gemm with transB=1, alpha = beta = 1, a weight (N, K) and a bias (N).

A MatMul with a weight becomes one, together with the Add of a vector after it. A Gemm takes data of two axes; where
they have more, a Reshape before it joins the leading axes to rows, and one after it parts the rows again:

    (a, b, K) -> (a * b, K) -> (a * b, N) -> (a, b, N)

The second Reshape infers one length, so the others have to be known. Factors go into the values: Keras ignores them,
and another importer's weight would differ from the file's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, helper

from onnx_lsuv.importers.shapes import Shape, shapes_of
from onnx_lsuv.importers.traits import counted
from onnx_lsuv.model import Array, is_hollow
from onnx_lsuv.portable.draft import Draft
from onnx_lsuv.portable.rows import Lead, lay_rows, lead_of, reads_reshape
from onnx_lsuv.portable.scopes import (
    Uses,
    attribute_of,
    drop_attributes,
    graphs_of,
    is_op,
    label_of,
    remove_nodes,
    uses_of,
)
from onnx_lsuv.portable.sharing import permutation

_Form = tuple[str, float, int]  # of a Gemm: its weight, beta, and how many units it has
_WHY = "a dense layer's parameters, in all importers"


def join_gemm(draft: Draft) -> None:
    """Let each MatMul with a weight, and the Add of a vector after it, be a Gemm, where the data's shape is sure."""
    known, uses = draft.initializers(), uses_of(draft.graph)
    candidates, turned, leads = _candidates(draft, uses, known)
    gone: list[NodeProto] = []
    joined: dict[int, Lead] = {}
    for name, nodes in candidates.items():
        if name not in turned and (uses.held(name) or len(uses.readers[name]) > len(nodes)):
            continue  # something else reads the weight as it is stored
        plans = [(node, _bias_after(uses, known, node, leads[id(node)])) for node in nodes]
        if draft.opset < 11 and any(bias is None for _, bias in plans):
            continue  # a Gemm must have a bias there
        if name in turned:
            weight = known[turned[name].input[0]]
            if not uses.held(name) and len(uses.readers[name]) == len(nodes):
                gone.append(turned[name])
        else:
            weight = known[name]
            draft.put(weight, np.ascontiguousarray(draft.values(weight).T))
        for node, bias in plans:
            gone += _join(draft, node, weight, bias, leads[id(node)])
            joined[id(node)] = leads[id(node)]
    remove_nodes(draft.graph, gone)
    lay_rows(draft, joined)


def _candidates(
    draft: Draft, uses: Uses, known: dict[str, TensorProto]
) -> tuple[dict[str, list[NodeProto]], dict[str, NodeProto], dict[int, Lead]]:
    """Find the products that could be a Gemm, and note which could not.

    Returns:
        The products by what they read as their weight, (K, N); the Transpose nodes that make some of these of a stored
        (N, K); and for each product, by its id, how the rows of its data are to be parted.
    """
    candidates: dict[str, list[NodeProto]] = {}
    turned: dict[str, NodeProto] = {}
    leads: dict[int, Lead] = {}
    unsure: list[str] = []
    newer: list[str] = []
    products = [node for node in draft.graph.node if is_op(node, "MatMul")]
    shapes, fixed = (_shapes(draft), _fixed(draft.graph, known)) if products else ({}, set())
    for node in products:
        name = node.input[1]
        maker = uses.makers.get(name)
        if maker is not None and is_op(maker, "Transpose") and permutation(maker, 2) == (1, 0):
            turned[name] = maker
            name = maker.input[0]
        weight = known.get(name)
        if weight is None or len(weight.dims) != 2 or weight.data_type != TensorProto.FLOAT or node.input[0] in known:
            continue
        shape = shapes.get(node.input[0])
        if (shape is not None and len(shape) < 2) or 0 in weight.dims:
            continue
        lead = None if shape is None else lead_of(shape)
        if lead is None:
            unsure.append(label_of(node))
        elif lead and _adds_otherwise(uses, known, fixed, shapes, node, lead):
            continue  # the Add stays right behind its product, as part of the layer
        elif lead and not reads_reshape(draft.opset):
            newer.append(label_of(node))
        else:
            leads[id(node)] = lead
            candidates.setdefault(node.input[1], []).append(node)
    if unsure:
        draft.notes.append(
            f"MatMul stays for {counted(unsure)}: more than one length of their data is open, and the Reshape after a "
            "Gemm can infer only one; export the model with all lengths but one fixed."
        )
    if newer:
        draft.notes.append(
            f"MatMul stays for {counted(newer)}: their data have more than two axes, and onnx2torch does not read the "
            f"Reshape of opset {draft.opset} that a Gemm needs; export the model with opset 18 or lower."
        )
    return candidates, turned, leads


def _bias_after(uses: Uses, known: dict[str, TensorProto], node: NodeProto, lead: Lead) -> tuple[NodeProto, int] | None:
    """Return the Add of a constant vector that alone reads a product, and which operand is the vector."""
    found = uses.only(node.output[0])
    if found is None or not is_op(found[0], "Add"):
        return None
    add, position = found
    bias = known.get(add.input[1 - position])
    if bias is None or bias.data_type != TensorProto.FLOAT or len(bias.dims) > max(2, len(lead) + 1):
        return None
    return (add, 1 - position) if _is_vector(bias.dims, _width(uses, known, node)) else None


def _adds_otherwise(
    uses: Uses, known: dict[str, TensorProto], fixed: set[str], shapes: Mapping[str, Shape], node: NodeProto, lead: Lead
) -> bool:
    """Say whether a product's one reader adds a vector that its Gemm cannot: computed, or along another axis."""
    found = uses.only(node.output[0])
    if found is None or not is_op(found[0], "Add") or _bias_after(uses, known, node, lead) is not None:
        return False
    term = found[0].input[1 - found[1]]
    return term in fixed and sum(length != 1 for length in shapes.get(term, ())) < 2


def _fixed(graph: GraphProto, known: Iterable[str]) -> set[str]:
    """Return the values of a graph that do not depend on its inputs."""
    fixed = {"", *known}
    for node in graph.node:
        if fixed.issuperset(node.input) and not any(graphs_of(node)):
            fixed.update(node.output)
    return fixed


def _width(uses: Uses, known: dict[str, TensorProto], node: NodeProto) -> int:
    """Return how many units a product has."""
    weight = known.get(node.input[1])
    return int(weight.dims[1] if weight is not None else known[uses.makers[node.input[1]].input[0]].dims[0])


def _is_vector(dims: Sequence[int], width: int) -> bool:
    """Say whether a term is one value for each of `width` units, or for all: one axis, or leading axes of one."""
    return all(d == 1 for d in dims[:-1]) and (not dims or dims[-1] in (1, width))


def _join(
    draft: Draft, node: NodeProto, weight: TensorProto, bias: tuple[NodeProto, int] | None, lead: Lead
) -> list[NodeProto]:
    """Turn a MatMul into a Gemm; return what goes."""
    node.op_type = "Gemm"
    node.input[1] = weight.name
    node.attribute.extend(helper.make_attribute(k, v) for k, v in (("alpha", 1.0), ("beta", 1.0), ("transB", 1)))
    form = "a Gemm between two Reshapes" if lead else "a Gemm"
    if bias is None:
        draft.did(f"MatMul became {form}", label_of(node), _WHY)
        return []
    add, position = bias
    node.input.append(add.input[position])
    node.output[0] = add.output[0]
    alias = draft.aliases.get((add.output[0], position))
    if alias is not None:
        draft.aliases[node.output[0], 2] = alias
    draft.did(f"MatMul and Add became {form}", label_of(node), _WHY)
    return [add]


def normalise_gemm(draft: Draft) -> None:
    """Let each Gemm have alpha = beta = 1, transB = 1 and a bias of one axis, where its weight is a constant."""
    known = draft.initializers()
    users: dict[str, list[NodeProto]] = {}
    for node in draft.graph.node:
        weight = known.get(node.input[1]) if is_op(node, "Gemm") else None
        if weight is not None and len(weight.dims) == 2 and weight.data_type == TensorProto.FLOAT:
            users.setdefault(weight.name, []).append(node)
    done = _settle_biases(draft, known, users)
    uses = uses_of(draft.graph)
    for name, nodes in users.items():
        weight = known[name]
        forms = {(_number(node, "alpha", 1.0), _number(node, "transB", 0)) for node in nodes}
        (alpha, turned), *others = forms
        if others or uses.held(name) or len(uses.readers[name]) > len(nodes) or (alpha == 1 and turned):
            continue
        values = draft.values(weight)
        values = values if turned else values.T
        draft.put(weight, np.ascontiguousarray(values if alpha == 1 else _times(values, alpha)))
        for node in nodes:
            drop_attributes(node, "alpha", "transB")
            node.attribute.extend([helper.make_attribute("alpha", 1.0), helper.make_attribute("transB", 1)])
        done.update(map(id, nodes))
    for node in draft.graph.node:
        if id(node) in done:
            draft.did("Gemm normalised", label_of(node), "Keras ignores alpha and beta, and onnx2torch bakes them in")


def _settle_biases(draft: Draft, known: Mapping[str, TensorProto], users: Mapping[str, list[NodeProto]]) -> set[int]:
    """Let the biases of these Gemms, by weight, have one axis, and take beta into them; return whose changed, by id."""
    uses = uses_of(draft.graph)
    found: dict[str, dict[_Form, list[NodeProto]]] = {}
    for name, nodes in users.items():
        for node in nodes:
            bias = known.get(node.input[2]) if len(node.input) > 2 else None
            if bias is None or bias.data_type != TensorProto.FLOAT:
                continue
            form = name, _number(node, "beta", 1.0), known[name].dims[0 if _number(node, "transB", 0) else 1]
            if form[1] != 1 or _flat(bias.dims, form[2]):
                found.setdefault(bias.name, {}).setdefault(form, []).append(node)
    for name, forms in found.items():
        _settle_bias(draft, uses, known[name], forms)
    return {id(node) for forms in found.values() for nodes in forms.values() for node in nodes}


def _settle_bias(draft: Draft, uses: Uses, bias: TensorProto, found: Mapping[_Form, Sequence[NodeProto]]) -> None:
    """Let a Gemm's bias have one axis, and take beta into it: a tensor for each weight, factor and number of units."""
    stored, name = draft.values(bias), bias.name
    shared = uses.held(name) or len(uses.readers[name]) > sum(map(len, found.values()))
    for (_, beta, width), nodes in found.items():
        values = stored if beta == 1 else _times(stored, beta) if beta else np.zeros_like(stored)
        if _flat(stored.shape, width):
            values = np.array(np.broadcast_to(values.reshape(-1), width))
        if shared:
            bias = draft.tensor(draft.fresh(name), values)
            draft.graph.initializer.append(bias)
        else:
            draft.put(bias, values)
            shared = True
        for node in nodes:
            node.input[2] = bias.name
            drop_attributes(node, "beta")
            node.attribute.append(helper.make_attribute("beta", 1.0))


def _times(values: Array, factor: float) -> Array:
    """Return what a node makes of a tensor by its factor, which may be infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(values * np.float32(factor))


def _flat(dims: Sequence[int], width: int) -> bool:
    """Say whether a bias is a vector, or one number, that is not written as one axis of `width`."""
    return _is_vector(dims, width) and tuple(dims) != (width,)


def _number(node: NodeProto, name: str, default: float) -> float:
    attribute = attribute_of(node, name)
    if attribute is None:
        return default
    return float(attribute.f) if attribute.type == AttributeProto.FLOAT else float(attribute.i)


def _shapes(draft: Draft) -> dict[str, Shape]:
    """Return the shapes of values that follow from the inputs and the nodes."""

    def few(tensor: TensorProto) -> Array | None:
        return None if is_hollow(tensor) and math.prod(tensor.dims) > 64 else draft.values(tensor)

    return shapes_of(draft.proto, few)
