"""Dense layers as importers know them: Gemm with transB=1, alpha = beta = 1, a weight (N, K) and a bias (N).

A MatMul with a weight becomes one, together with the Add of a vector after it, where the data surely have two axes.
Factors go into the values: Keras ignores them, and another importer's weight would differ from the file's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from onnx_lsuv.layers import tensor_type
from onnx_lsuv.model import is_hollow
from onnx_lsuv.portable.rewriting.draft import Draft
from onnx_lsuv.portable.rewriting.scopes import (
    Uses,
    attribute_of,
    drop_attributes,
    is_op,
    label_of,
    remove_nodes,
    uses_of,
)
from onnx_lsuv.portable.rewriting.sharing import permutation

_WHY = "a dense layer's parameters, in all importers"


def join_gemm(draft: Draft) -> None:
    """Let each MatMul with a weight, and the Add of a vector after it, be a Gemm, where the data have two axes."""
    known, uses = draft.initializers(), uses_of(draft.graph)
    candidates: dict[str, list[NodeProto]] = {}  # by weight as it is stored: (K, N), or (N, K) before a Transpose
    turned: dict[str, NodeProto] = {}
    products = [node for node in draft.graph.node if is_op(node, "MatMul")]
    ranks = _ranks(draft) if products else {}
    for node in products:
        name = node.input[1]
        maker = uses.makers.get(name)
        if maker is not None and is_op(maker, "Transpose") and permutation(maker, 2) == (1, 0):
            turned[name] = maker
            name = maker.input[0]
        weight = known.get(name)
        if weight is None or len(weight.dims) != 2 or weight.data_type != TensorProto.FLOAT:
            continue
        if ranks.get(node.input[0]) == 2 and node.input[0] not in known:
            candidates.setdefault(node.input[1], []).append(node)
    gone = []
    for name, nodes in candidates.items():
        if name not in turned and (uses.held(name) or len(uses.readers[name]) > len(nodes)):
            continue  # something else reads the weight as it is stored
        plans = [(node, _bias_after(draft, uses, known, node)) for node in nodes]
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
            gone += _join(draft, node, weight, bias)
    remove_nodes(draft.graph, gone)


def _bias_after(
    draft: Draft, uses: Uses, known: dict[str, TensorProto], node: NodeProto
) -> tuple[NodeProto, int] | None:
    """Return the Add of a constant vector that alone reads a product, and which operand is the vector."""
    found = uses.only(node.output[0])
    if found is None or not is_op(found[0], "Add"):
        return None
    add, position = found
    bias = known.get(add.input[1 - position])
    width = _width(draft, uses, known, node)
    if bias is None or bias.data_type != TensorProto.FLOAT or not _is_vector(bias.dims, width):
        return None
    return add, 1 - position


def _width(draft: Draft, uses: Uses, known: dict[str, TensorProto], node: NodeProto) -> int:
    """Return how many units a product has."""
    weight = known.get(node.input[1])
    return int(weight.dims[1] if weight is not None else known[uses.makers[node.input[1]].input[0]].dims[0])


def _is_vector(dims: Sequence[int], width: int) -> bool:
    """Say whether a term broadcasts over the rows of (M, width): one axis, or leading axes of one."""
    return len(dims) <= 2 and all(d == 1 for d in dims[:-1]) and (not dims or dims[-1] in (1, width))


def _join(draft: Draft, node: NodeProto, weight: TensorProto, bias: tuple[NodeProto, int] | None) -> list[NodeProto]:
    """Turn a MatMul into a Gemm; return what goes."""
    node.op_type = "Gemm"
    node.input[1] = weight.name
    node.attribute.extend(helper.make_attribute(k, v) for k, v in (("alpha", 1.0), ("beta", 1.0), ("transB", 1)))
    if bias is None:
        draft.did("MatMul became a Gemm", label_of(node), _WHY)
        return []
    add, position = bias
    node.input.append(add.input[position])
    node.output[0] = add.output[0]
    alias = draft.aliases.get((add.output[0], position))
    if alias is not None:
        draft.aliases[node.output[0], 2] = alias
    draft.did("MatMul and Add became a Gemm", label_of(node), _WHY)
    return [add]


def normalise_gemm(draft: Draft) -> None:
    """Let each Gemm have alpha = beta = 1, transB = 1 and a bias of one axis, where its weight is a constant."""
    known, uses = draft.initializers(), uses_of(draft.graph)
    users: dict[str, list[NodeProto]] = {}
    for node in draft.graph.node:
        if is_op(node, "Gemm"):
            users.setdefault(node.input[1], []).append(node)
    for name, nodes in users.items():
        weight = known.get(name)
        if weight is None or len(weight.dims) != 2 or weight.data_type != TensorProto.FLOAT:
            continue
        forms = {(_number(node, "alpha", 1.0), _number(node, "transB", 0)) for node in nodes}
        (alpha, turned), *others = forms
        alone = not others and not uses.held(name) and len(uses.readers[name]) == len(nodes)
        changed = alone and (alpha != 1 or not turned)
        if changed:
            values = draft.values(weight)
            values = values if turned else values.T
            draft.put(weight, np.ascontiguousarray(values if alpha == 1 else values * np.float32(alpha)))
        width = weight.dims[0] if turned or changed else weight.dims[1]
        for node in nodes:
            if changed:
                drop_attributes(node, "alpha", "transB")
                node.attribute.extend([helper.make_attribute("alpha", 1.0), helper.make_attribute("transB", 1)])
            if _settle_bias(draft, uses, known, node, width) or changed:
                draft.did(
                    "Gemm normalised", label_of(node), "Keras ignores alpha and beta, and onnx2torch bakes them in"
                )


def _settle_bias(draft: Draft, uses: Uses, known: dict[str, TensorProto], node: NodeProto, width: int) -> bool:
    """Let a Gemm's bias have one axis, and take beta into it; return whether something changed."""
    beta = _number(node, "beta", 1.0)
    bias = known.get(node.input[2]) if len(node.input) > 2 else None
    if bias is None or bias.data_type != TensorProto.FLOAT:
        return False
    flat = _is_vector(bias.dims, width) and tuple(bias.dims) != (width,)
    if beta == 1 and not flat:
        return False
    values = draft.values(bias)
    if beta != 1:
        values = values * np.float32(beta) if beta else np.zeros_like(values)
    if flat:
        values = np.array(np.broadcast_to(values.reshape(-1), width))
    if uses.only(bias.name) is None:
        bias = draft.tensor(draft.fresh(bias.name), values)
        node.input[2] = bias.name
        draft.graph.initializer.append(bias)
    else:
        draft.put(bias, values)
    drop_attributes(node, "beta")
    node.attribute.append(helper.make_attribute("beta", 1.0))
    return True


def _number(node: NodeProto, name: str, default: float) -> float:
    attribute = attribute_of(node, name)
    if attribute is None:
        return default
    return float(attribute.f) if attribute.type == AttributeProto.FLOAT else float(attribute.i)


def _ranks(draft: Draft) -> dict[str, int]:
    """Return the number of axes of each value for which it follows from the inputs and the nodes alone."""
    model = ModelProto()
    model.CopyFrom(draft.proto)
    graph = model.graph
    del graph.value_info[:], graph.initializer[:], graph.output[:]
    for tensor in draft.graph.initializer:
        if is_hollow(tensor) and np.prod(tensor.dims) > 64:
            kind = tensor_type(tensor.data_type, tensor.dims)
            graph.input.append(ValueInfoProto(name=tensor.name, type=kind))
        else:
            graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(draft.values(tensor)), tensor.name))
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except Exception:  # an operator that it chokes on: then nothing is sure
        return {}
    values = (*inferred.input, *inferred.value_info)
    return {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in values
        if value.type.tensor_type.HasField("shape")
    }
