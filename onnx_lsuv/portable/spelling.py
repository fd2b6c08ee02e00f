"""The same network, said plainly: domains, IR version, inputs, names, functions, types, and the form for inference.

functions        `onnx.inliner` puts them in the place of their calls, and leaves out two things, which are done
                 before: it does not give a call the attributes that have a default in the function, and it refuses
                 a function of another opset than the model's. ONNX Runtime reads a function's body in the model's
                 opset, whatever the function says, so that is what it says here
types            all that is float16, bfloat16 or double becomes float32, inputs and outputs too: importers make NaN
                 of half-precision models or refuse them, and most train in float32 only
inference form   frameworks switch to training themselves; importers fail on a BatchNormalization in training form,
                 on the mere presence of its `training_mode`, and read the wrong value where a Dropout has a mask
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx.inliner
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, ValueInfoProto, helper

from onnx_lsuv.importers.skeleton import (
    FLOAT32_DOMAINS,
    IR_MAX,
    IR_MIN,
    OTHER_FLOATS,
    all_nodes,
    floats_of,
    in_inference_form,
    uses_newer,
)
from onnx_lsuv.model import all_graphs, retype, tensors, unused
from onnx_lsuv.portable.draft import Draft
from onnx_lsuv.portable.scopes import attribute_of, drop, is_op, label_of, read_names


def name_domains(draft: Draft) -> None:
    """Write ONNX's own domain as "", never as "ai.onnx"."""
    named = [node for node in all_nodes(draft.proto) if node.domain == "ai.onnx"]
    for node in named:
        node.domain = ""
    spelt = []
    for imports in (draft.proto.opset_import, *(function.opset_import for function in draft.proto.functions)):
        entries = [entry for entry in imports if entry.domain == "ai.onnx"]
        if any(entry.domain == "" for entry in imports):
            drop(imports, lambda entry: entry.domain == "ai.onnx")
        for entry in entries:
            entry.domain = ""
        spelt += entries
    if named or spelt:
        draft.did("domain 'ai.onnx' written as ''", "ai.onnx", "onnx2torch, ONNX Runtime and JAX know it by '' only")


def limit_ir_version(draft: Draft) -> None:
    """Bring the IR version into the range that all importers read, where the file uses nothing newer."""
    version = draft.proto.ir_version
    if version > IR_MAX and uses_newer(draft.proto):
        draft.notes.append(
            f"IR version {version} stays, as the file uses what came after {IR_MAX}, the last that ONNX Runtime "
            "Training reads."
        )
    elif version > IR_MAX:
        draft.proto.ir_version = IR_MAX
        draft.did(f"IR version {version} lowered to {IR_MAX}", "ir_version", "ONNX Runtime Training reads no later one")
    elif version < IR_MIN:
        draft.proto.ir_version = IR_MIN
        why = "initializers must be listed as inputs below it"
        draft.did(f"IR version {version} raised to {IR_MIN}", "ir_version", why)


def inline_functions(draft: Draft) -> None:
    """Put local functions in the place of their calls; a constant in a function stays one tensor for all calls."""
    proto = draft.proto
    if not proto.functions:
        return
    functions = {(f.domain, f.name, f.overload): f for f in proto.functions}
    known = {entry.domain: entry.version for entry in proto.opset_import}
    for function in proto.functions:
        for entry in function.opset_import:
            if entry.domain not in known:
                proto.opset_import.add(domain=entry.domain, version=entry.version)
                known[entry.domain] = entry.version
            entry.version = known[entry.domain]
        for node in function.node:
            _mark_floats(draft, node)
    calls: dict[tuple[str, str], None] = {}
    for node in all_nodes(proto):
        called = functions.get((node.domain, node.op_type, node.overload))
        if called is not None:
            given = {attribute.name for attribute in node.attribute}
            node.attribute.extend(each for each in called.attribute_proto if each.name not in given)
            calls[node.domain, node.op_type] = None
    draft.proto = onnx.inliner.inline_local_functions(proto)
    del draft.proto.functions[:]
    for domain, name in calls:
        draft.did("function put in the place of its calls", f"{domain}.{name}", "no importer knows local functions")


def _mark_floats(draft: Draft, node: NodeProto) -> None:
    """Let a constant that is a list of floats be a tensor, which has a mark."""
    floats = attribute_of(node, "value_floats") if is_op(node, "Constant") else None
    if floats is not None and not floats.ref_attr_name:
        tensor = draft.tensor("", np.array(floats.floats, np.float32), draft.home(node))
        floats.CopyFrom(helper.make_attribute("value", tensor))


def widen(draft: Draft) -> None:
    """Turn the model to float32, if a tensor of several values, an input or an output is of another float type.

    A float32 model that computes a few numbers in double in between stays as it is.
    """
    proto = draft.proto
    names = " and ".join(sorted(TensorProto.DataType.Name(t).lower() for t in floats_of(proto) & OTHER_FLOATS))
    if not names:
        return
    if foreign := {node.domain for node in all_nodes(proto)} - FLOAT32_DOMAINS:
        draft.notes.append(f"The {names} parts stay, as operators of {min(foreign)!r} may not take float32 instead.")
        return
    for _, tensor in tensors(proto):
        if tensor.data_type in OTHER_FLOATS:
            draft.put(tensor, _narrowed(draft.values(tensor)))
    retype(proto, OTHER_FLOATS)
    draft.did(f"{names} became float32", "the whole model", "inputs and outputs too; most importers train that")


def _narrowed(values: NDArray[Any]) -> NDArray[Any]:
    """Return values as float32; a finite number beyond its range becomes the largest one that it has."""
    limit = np.finfo(np.float32).max
    with np.errstate(over="ignore"):
        result = np.asarray(values, np.float32)
    beyond = np.isinf(result) & np.isfinite(values)
    return np.where(beyond, np.copysign(limit, result), result) if beyond.any() else result


def unlist_inputs(draft: Draft) -> None:
    """Take initializers out of the inputs of the main graph."""
    given = draft.initializers()
    for value in drop(draft.graph.input, lambda value: value.name in given):
        draft.did("initializer no longer listed as an input", value.name, "ONNX Runtime Training refuses it")


def infer_norms(draft: Draft) -> None:
    """Take the `training_mode` attribute and unread outputs off each BatchNormalization."""
    _infer(draft, "BatchNormalization")


def infer_dropouts(draft: Draft) -> None:
    """Take `training_mode` and an unread mask off each Dropout."""
    _infer(draft, "Dropout")


def _infer(draft: Draft, op_type: str) -> None:
    known = draft.initializers()
    for graph in all_graphs(draft.graph):
        read = read_names(graph)
        for node in graph.node:
            changed = is_op(node, op_type) and in_inference_form(node, read, known)
            if changed:
                why = "the framework itself switches to training"
                draft.did(f"{op_type} put in inference form", label_of(node), why)
            elif changed is None:
                draft.notes.append(
                    f"{op_type} {label_of(node)!r} stays in training form, as something reads its statistics."
                )


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


def drop_opsets(draft: Draft) -> None:
    """Drop the imports of operator sets that no node uses."""
    used = {node.domain for node in all_nodes(draft.proto)} | {""}
    for entry in drop(draft.proto.opset_import, lambda entry: entry.domain not in used):
        draft.did("unused opset import dropped", entry.domain, "tinygrad refuses domains it does not know")


def drop_stale_shapes(draft: Draft) -> None:
    """Forget the declared shapes of values that are no more, and of tensors that are stored otherwise now."""
    for graph in all_graphs(draft.graph):
        known = {value.name for value in (*graph.input, *graph.output)}
        known.update(name for node in graph.node for name in node.output)
        dims = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
        drop(graph.value_info, partial(_is_stale, known, dims))


def _is_stale(known: Container[str], dims: Mapping[str, Sequence[int]], value: ValueInfoProto) -> bool:
    shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    return value.name not in known and dims.get(value.name) != shape
