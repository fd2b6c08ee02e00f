"""What a file says of itself: IR version, listed inputs, domains, opset imports, names of nodes."""

from __future__ import annotations

from collections.abc import Iterator

from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from onnx_lsuv.model import tensors, unused
from onnx_lsuv.portable.draft import Draft
from onnx_lsuv.portable.scopes import all_graphs, graphs_of

# The IR versions that all importers read: with 4 initializers need not be listed; 10 is the last of ONNX Runtime 1.19.
_IR_MIN, _IR_MAX = 4, 10
# Element types that IR 10 does not have yet begin here.
_NEWER_TYPES = TensorProto.FLOAT4E2M1


def name_domains(draft: Draft) -> None:
    """Write ONNX's own domain as "", never as "ai.onnx"."""
    named = False
    for node in all_nodes(draft.proto):
        if node.domain == "ai.onnx":
            node.domain = ""
            named = True
    for imports in (draft.proto.opset_import, *(function.opset_import for function in draft.proto.functions)):
        plain = any(entry.domain == "" for entry in imports)
        for index in reversed(range(len(imports))):
            if imports[index].domain == "ai.onnx":
                named = True
                if plain:
                    del imports[index]
                else:
                    imports[index].domain = ""
    if named:
        draft.did("domain 'ai.onnx' written as ''", "ai.onnx", "onnx2torch, ONNX Runtime and JAX know it by '' only")


def settle_ir_version(draft: Draft) -> None:
    """Bring the IR version into the range that all importers read, where the file uses nothing newer."""
    version = draft.proto.ir_version
    if version < _IR_MIN:
        draft.proto.ir_version = _IR_MIN
        draft.did(
            f"IR version {version} raised to {_IR_MIN}", "ir_version", "initializers must be listed as inputs below it"
        )
    elif version > _IR_MAX:
        if _uses_newer(draft.proto):
            draft.notes.append(
                f"IR version {version} stays, as the file uses what came after {_IR_MAX}, the last that ONNX Runtime "
                "Training reads."
            )
            return
        draft.proto.ir_version = _IR_MAX
        draft.did(
            f"IR version {version} lowered to {_IR_MAX}", "ir_version", "ONNX Runtime Training reads no later one"
        )


def _uses_newer(proto: ModelProto) -> bool:
    if proto.configuration or any(node.device_configurations for node in all_nodes(proto)):
        return True
    if any(tensor.data_type >= _NEWER_TYPES for _, tensor in tensors(proto)):
        return True
    values = [v for g in all_graphs(proto.graph) for v in (*g.input, *g.output, *g.value_info)]
    return any(value.type.tensor_type.elem_type >= _NEWER_TYPES for value in values)


def unlist_inputs(draft: Draft) -> None:
    """Take initializers out of the inputs of the main graph."""
    given = set(draft.initializers())
    inputs = draft.graph.input
    for index in reversed(range(len(inputs))):
        if inputs[index].name in given:
            draft.did(
                "initializer no longer listed as an input", inputs[index].name, "ONNX Runtime Training refuses it"
            )
            del inputs[index]


def name_nodes(draft: Draft) -> None:
    """Make the names of nodes unique in each graph; nodes without a name stay so."""
    for graph in all_graphs(draft.graph):
        names = {node.name for node in graph.node}
        seen: set[str] = set()
        for node in graph.node:
            if node.name and node.name in seen:
                old = node.name
                node.name = unused(old, names, "_")
                names.add(node.name)
                draft.did("node renamed", node.name, f"ONNX Runtime refuses two named {old!r}")
            seen.add(node.name)


def drop_stale_shapes(draft: Draft) -> None:
    """Forget the declared shapes of values that are no more, and of tensors that are stored otherwise now."""
    for graph in all_graphs(draft.graph):
        known = {value.name for value in (*graph.input, *graph.output)}
        known.update(name for node in graph.node for name in node.output)
        dims = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
        declared = graph.value_info
        for index in reversed(range(len(declared))):
            value = declared[index]
            shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
            if value.name not in known and dims.get(value.name) != shape:
                del declared[index]


def drop_opsets(draft: Draft) -> None:
    """Drop the imports of operator sets that no node uses."""
    used = {node.domain for node in all_nodes(draft.proto)} | {""}
    imports = draft.proto.opset_import
    for index in reversed(range(len(imports))):
        if imports[index].domain not in used:
            draft.did("unused opset import dropped", imports[index].domain, "tinygrad refuses domains it does not know")
            del imports[index]


def all_nodes(proto: ModelProto) -> Iterator[NodeProto]:
    """Yield every node of a model: in graphs, functions, and what belongs to training."""
    roots: list[GraphProto] = [proto.graph]
    for training in proto.training_info:
        roots += [training.initialization, training.algorithm]
    for root in roots:
        for graph in all_graphs(root):
            yield from graph.node
    for function in proto.functions:
        yield from function.node
        for node in function.node:
            for inner in graphs_of(node):
                for graph in all_graphs(inner):
                    yield from graph.node
