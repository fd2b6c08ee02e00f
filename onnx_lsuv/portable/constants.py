"""Let what nodes make of nothing be initializers: importers train those, and read static arguments from them.

    floats     of several values, or where an operator has a parameter: initializers, as ONNX Runtime Training, JAX and
               tinygrad train nothing else. Single numbers (an epsilon, a factor) stay nodes: nothing should train them
    integers   initializers: JAX takes the shape of a Reshape, the bounds of a Slice and the like from nowhere else
    sparse     dense initializers: no importer knows sparse ones

Inside If, Loop and Scan only large constants move, to their own graph, and those of a function called several times,
which are one tensor.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

import numpy as np
from onnx import GraphProto, NodeProto, SparseTensorProto, TensorProto, helper, numpy_helper

from onnx_lsuv.batches import default_limit
from onnx_lsuv.errors import ModelError
from onnx_lsuv.importers.skeleton import INTEGERS
from onnx_lsuv.model import HOLLOW_BYTES, all_graphs
from onnx_lsuv.operators import of
from onnx_lsuv.portable.draft import Draft, mark_of
from onnx_lsuv.portable.scopes import Uses, attribute_of, is_op, remove_nodes, uses_of
from onnx_lsuv.program.program import FLOAT_TYPES
from onnx_lsuv.program.protos import tensor_of

# What an operator's inputs after the first are parameters by, whatever their size.
_ROLES = ("weight", "bias", "scale", "statistics", "slope")
_WHY = "no framework trains a Constant node"
_WHY_INTEGERS = "JAX takes static arguments from initializers only"


def make_dense(draft: Draft) -> None:
    """Let sparse tensors be dense ones.

    Raises:
        ModelError: one does not fit into memory, or its indices do not fit its shape.
    """
    for graph in all_graphs(draft.graph):
        for sparse in graph.sparse_initializer:
            graph.initializer.append(_dense(draft, sparse, sparse.values.name, sparse.values.name))
        del graph.sparse_initializer[:]
        for node in graph.node:
            found = attribute_of(node, "sparse_value") if is_op(node, "Constant") else None
            if found is not None:
                tensor = _dense(draft, found.sparse_tensor, "", node.output[0])
                found.CopyFrom(helper.make_attribute("value", tensor))


def _dense(draft: Draft, sparse: SparseTensorProto, name: str, where: str) -> TensorProto:
    values, indices = draft.values(sparse.values), draft.values(sparse.indices)
    dims = tuple(sparse.dims)
    size = math.prod(dims)
    if size * values.itemsize > default_limit():
        raise ModelError(f"the sparse tensor {where!r} of shape {dims} does not fit into memory as a dense one")
    dense = np.zeros(size, values.dtype)
    try:
        dense[np.ravel_multi_index(tuple(indices.T), dims) if indices.ndim == 2 else indices] = values
    except (ValueError, IndexError):
        raise ModelError(f"the sparse tensor {where!r} has indices that do not fit its shape {dims}") from None
    draft.did("sparse tensor made dense", where, "no importer knows sparse tensors")
    return draft.tensor(name, dense.reshape(dims))


def make_initializers(draft: Draft) -> None:
    """Let Constant and ConstantOfShape nodes be initializers of the same name."""
    _join_copies(draft)
    uses = uses_of(draft.graph)
    _move(draft, draft.graph, _constants(draft, uses))
    _move(draft, draft.graph, _filled(draft, uses))
    for graph in all_graphs(draft.graph):
        if graph is not draft.graph:
            _move(draft, graph, _large(draft, graph))


_Moves = Iterator[tuple[NodeProto, TensorProto, str]]  # nodes, what they make, and why it becomes an initializer


def _move(draft: Draft, graph: GraphProto, moves: _Moves) -> None:
    gone = []
    for node, tensor, why in moves:
        _add(graph, tensor, node.output[0])
        draft.did(f"{node.op_type} made an initializer", node.output[0], why)
        gone.append(node)
    remove_nodes(graph, gone)


def _add(graph: GraphProto, tensor: TensorProto, name: str) -> None:
    added = graph.initializer.add()
    added.CopyFrom(tensor)
    added.name = name


def _constants(draft: Draft, uses: Uses) -> _Moves:
    for node in draft.graph.node:
        tensor = _constant(draft, node)
        if tensor is None or node.output[0] in uses.outputs:
            continue
        size, kind = math.prod(tensor.dims), tensor.data_type
        trained = kind in FLOAT_TYPES and (size > 1 or _is_parameter(uses, node.output[0]))
        if kind in INTEGERS or trained or size > HOLLOW_BYTES:
            yield node, tensor, _WHY_INTEGERS if kind in INTEGERS else _WHY


def _filled(draft: Draft, uses: Uses) -> _Moves:
    known = draft.initializers()
    for node in draft.graph.node:
        if not is_op(node, "ConstantOfShape") or node.input[0] not in known or node.output[0] in uses.outputs:
            continue
        value = attribute_of(node, "value")
        if (value is None or value.t.data_type in FLOAT_TYPES) and _is_parameter(uses, node.output[0]):
            dims = tuple(int(dim) for dim in draft.values(known[node.input[0]]))
            number = np.float32(0) if value is None else draft.values(value.t).reshape(-1)[0]
            yield node, draft.tensor("", np.full(dims, number), draft.home(node)), _WHY


def _large(draft: Draft, graph: GraphProto) -> _Moves:
    outputs = {value.name for value in graph.output}
    for node in graph.node:
        tensor = _constant(draft, node)
        if tensor is None or node.output[0] in outputs:
            continue
        if draft.is_new(tensor) or draft.values(tensor).nbytes > HOLLOW_BYTES:
            yield node, tensor, _WHY


def _join_copies(draft: Draft) -> None:
    """Let the copies of one function's constant, one for each call, be one initializer again."""
    places: list[tuple[GraphProto, NodeProto, TensorProto]] = []
    for graph in all_graphs(draft.graph):
        outputs = {value.name for value in graph.output}
        for node in graph.node:
            value = attribute_of(node, "value") if is_op(node, "Constant") else None
            if value is not None and node.output[0] not in outputs and value.t.data_type in FLOAT_TYPES:
                places.append((graph, node, value.t))
    counts = Counter(mark_of(tensor) for _, _, tensor in places)
    names: dict[int, str] = {}
    for graph, node, tensor in places:
        mark, old = mark_of(tensor), node.output[0]
        if counts[mark] == 1 or math.prod(tensor.dims) == 1:
            continue
        if mark not in names:
            names[mark] = old if graph is draft.graph else draft.fresh(f"{old}_shared")
            _add(draft.graph, tensor, names[mark])
            draft.did("Constant of a function made an initializer", names[mark], _WHY)
        for each in all_graphs(graph):
            for reader in each.node:
                reader.input[:] = [names[mark] if name == old else name for name in reader.input]
        remove_nodes(graph, [node])


def _constant(draft: Draft, node: NodeProto) -> TensorProto | None:
    """Return the tensor that a Constant node makes, as one of the draft; None for strings, or what is broken."""
    if not is_op(node, "Constant") or not node.attribute:
        return None
    tensor = tensor_of(node.attribute[0])
    if tensor is None or tensor.data_type == TensorProto.STRING:
        return None
    if node.attribute[0].name == "value":
        return tensor
    return draft.tensor("", numpy_helper.to_array(tensor), draft.home(node))


def _is_parameter(uses: Uses, name: str) -> bool:
    """Say whether some node reads a value as one of its parameters."""
    return any(
        (position and not of(node).domain and of(node).role(position) in _ROLES)
        # The bias of a layer with one unit is a single number.
        or (is_op(node, "Add") and uses.maker(node.input[1 - position], "MatMul") is not None)
        for node, position in uses.readers.get(name, ())
    )
