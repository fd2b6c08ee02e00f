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

import numpy as np
from onnx import GraphProto, NodeProto, SparseTensorProto, TensorProto, helper, numpy_helper

from onnx_lsuv.batches import default_limit
from onnx_lsuv.errors import ModelError
from onnx_lsuv.model import HOLLOW_BYTES, Array
from onnx_lsuv.operators import of
from onnx_lsuv.portable.draft import Draft, mark_of
from onnx_lsuv.portable.scopes import Uses, all_graphs, attribute_of, is_op, remove_nodes, uses_of
from onnx_lsuv.program.protos import tensor_of

# What an operator's inputs after the first are parameters by, whatever their size.
_ROLES = ("weight", "bias", "scale", "statistics", "slope")
# What layers are trained in, before `widen` or where it does not apply too.
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
_INTEGERS = (TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL)
_WHY = "no framework trains a Constant node"
_WHY_INTEGERS = "JAX takes static arguments from initializers only"


def make_dense(draft: Draft) -> None:
    """Let sparse tensors be dense ones.

    Raises:
        ModelError: one does not fit into memory, or its indices do not fit its shape.
    """
    for graph in all_graphs(draft.graph):
        for sparse in graph.sparse_initializer:
            name = sparse.values.name
            graph.initializer.append(draft.tensor(name, _dense(draft, sparse, name)))
            draft.did("sparse tensor made dense", name, "no importer knows sparse tensors")
        del graph.sparse_initializer[:]
        for node in graph.node:
            found = attribute_of(node, "sparse_value") if is_op(node, "Constant") else None
            if found is not None:
                tensor = draft.tensor("", _dense(draft, found.sparse_tensor, node.output[0]))
                found.CopyFrom(helper.make_attribute("value", tensor))
                draft.did("sparse tensor made dense", node.output[0], "no importer knows sparse tensors")


def _dense(draft: Draft, sparse: SparseTensorProto, name: str) -> Array:
    values, indices = draft.values(sparse.values), draft.values(sparse.indices)
    dims = tuple(sparse.dims)
    size = math.prod(dims)
    if size * values.itemsize > default_limit():
        raise ModelError(f"the sparse tensor {name!r} of shape {dims} does not fit into memory as a dense one")
    dense = np.zeros(size, values.dtype)
    try:
        flat = np.ravel_multi_index(tuple(indices.T), dims) if indices.ndim == 2 else indices
        dense[flat] = values
    except (ValueError, IndexError):
        raise ModelError(f"the sparse tensor {name!r} has indices that do not fit its shape {dims}") from None
    return dense.reshape(dims)


def make_initializers(draft: Draft) -> None:
    """Let Constant and ConstantOfShape nodes be initializers of the same name."""
    _join_copies(draft)
    uses = uses_of(draft.graph)
    gone: list[NodeProto] = []
    for node in draft.graph.node:
        if is_op(node, "Constant") and node.output[0] not in uses.outputs:
            tensor = _constant(draft, node)
            why = _why(uses, node.output[0], tensor) if tensor is not None else None
            if tensor is not None and why is not None:
                _move(draft, draft.graph, node, tensor, why)
                gone.append(node)
    remove_nodes(draft.graph, gone)
    gone = []
    known = draft.initializers()
    for node in draft.graph.node:
        if is_op(node, "ConstantOfShape") and node.input[0] in known and node.output[0] not in uses.outputs:
            value = attribute_of(node, "value")
            floats = value is None or value.t.data_type in FLOATS
            if floats and _is_parameter(uses, node.output[0]):
                dims = tuple(int(dim) for dim in draft.values(known[node.input[0]]))
                number = np.float32(0) if value is None else draft.values(value.t).reshape(-1)[0]
                _move(draft, draft.graph, node, draft.tensor("", np.full(dims, number)), _WHY)
                gone.append(node)
    remove_nodes(draft.graph, gone)
    for graph in all_graphs(draft.graph):
        if graph is draft.graph:
            continue
        large = [
            (node, tensor)
            for node in graph.node
            if is_op(node, "Constant")
            and (tensor := _constant(draft, node)) is not None
            and (draft.is_new(tensor) or draft.values(tensor).nbytes > HOLLOW_BYTES)
            and node.output[0] not in {value.name for value in graph.output}
        ]
        for node, tensor in large:
            _move(draft, graph, node, tensor, _WHY)
        remove_nodes(graph, [node for node, _ in large])


def _join_copies(draft: Draft) -> None:
    """Let the copies of one function's constant, one for each call, be one initializer again."""
    places: list[tuple[GraphProto, NodeProto, TensorProto]] = []
    for graph in all_graphs(draft.graph):
        outputs = {value.name for value in graph.output}
        for node in graph.node:
            value = attribute_of(node, "value") if is_op(node, "Constant") else None
            if value is not None and node.output[0] not in outputs and value.t.data_type in FLOATS:
                places.append((graph, node, value.t))
    counts = Counter(mark_of(tensor) for _, _, tensor in places)
    names: dict[int, str] = {}
    for graph, node, tensor in places:
        mark = mark_of(tensor)
        if counts[mark] == 1 or math.prod(tensor.dims) == 1:
            continue
        old = node.output[0]
        if mark not in names:
            names[mark] = old if graph is draft.graph else draft.fresh(f"{old}_shared")
            moved = draft.graph.initializer.add()
            moved.CopyFrom(tensor)
            moved.name = names[mark]
            draft.did("Constant of a function made an initializer", names[mark], _WHY)
        if names[mark] != old:
            _rename(graph, old, names[mark])
        remove_nodes(graph, [node])


def _rename(graph: GraphProto, old: str, new: str) -> None:
    """Let everything in a graph and inside it that reads `old` read `new`, a name that stands for nothing else."""
    for each in all_graphs(graph):
        for node in each.node:
            for position, name in enumerate(node.input):
                if name == old:
                    node.input[position] = new


def _constant(draft: Draft, node: NodeProto) -> TensorProto | None:
    """Return the tensor that a Constant node makes, as one of the draft; None for strings."""
    if not node.attribute:
        return None  # broken
    tensor = tensor_of(node.attribute[0])
    if tensor is None or tensor.data_type == TensorProto.STRING:
        return None
    return tensor if node.attribute[0].name == "value" else draft.tensor("", numpy_helper.to_array(tensor))


def _why(uses: Uses, name: str, tensor: TensorProto) -> str | None:
    """Return why a constant of the main graph becomes an initializer, or None where it stays a node."""
    if tensor.data_type in _INTEGERS:
        return _WHY_INTEGERS
    if tensor.data_type in FLOATS and (math.prod(tensor.dims) > 1 or _is_parameter(uses, name)):
        return _WHY
    return _WHY if math.prod(tensor.dims) > HOLLOW_BYTES else None


def _is_parameter(uses: Uses, name: str) -> bool:
    """Say whether some node reads a value as one of its parameters."""
    for node, position in uses.readers.get(name, ()):
        if position and not of(node).domain and of(node).role(position) in _ROLES:
            return True
        # The bias of a layer with one unit is a single number.
        other = uses.makers.get(node.input[1 - position]) if is_op(node, "Add") else None
        if other is not None and is_op(other, "MatMul"):
            return True
    return False


def _move(draft: Draft, graph: GraphProto, node: NodeProto, tensor: TensorProto, why: str) -> None:
    moved = graph.initializer.add()
    moved.CopyFrom(tensor)
    moved.name = node.output[0]
    draft.did(f"{node.op_type} made an initializer", moved.name, why)
