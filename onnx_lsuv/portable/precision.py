"""Let everything that is float16, bfloat16 or double be float32: tensors, casts, types, inputs and outputs.

Importers make NaN of half-precision models or refuse them, and most train in float32 only. The model's inputs and
outputs become float32 too: an importer feeds and compares what the framework computes in.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from onnx_lsuv.model import retype, retype_attribute, tensors
from onnx_lsuv.portable.draft import Draft
from onnx_lsuv.portable.header import all_nodes
from onnx_lsuv.portable.scopes import all_graphs
from onnx_lsuv.program.program import DEFAULT_DOMAINS

OTHER_FLOATS = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})
# Operators of these domains are defined for float32 wherever they are for another float.
_KNOWN_DOMAINS = DEFAULT_DOMAINS | {"ai.onnx.ml", "com.microsoft"}


def widen(draft: Draft) -> None:
    """Turn the model to float32, if a tensor of several values, an input or an output is of another float type.

    A float32 model that computes a few numbers in double in between stays as it is.
    """
    proto = draft.proto
    names = sorted(TensorProto.DataType.Name(each).lower() for each in floats_of(proto) & OTHER_FLOATS)
    if not names:
        return
    foreign = sorted({node.domain for node in all_nodes(proto)} - _KNOWN_DOMAINS)
    if foreign:
        draft.notes.append(
            f"The {' and '.join(names)} parts stay, as operators of {foreign[0]!r} may not take float32 instead."
        )
        return
    for _, tensor in tensors(proto):
        if tensor.data_type in OTHER_FLOATS:
            draft.put(tensor, narrowed(draft.values(tensor)))
    for graph in all_graphs(draft.graph):
        for value in (*graph.input, *graph.output, *graph.value_info):
            retype(value.type, OTHER_FLOATS)
    for node in all_nodes(proto):
        for attribute in node.attribute:
            retype_attribute(attribute, OTHER_FLOATS)
    draft.did(
        f"{' and '.join(names)} became float32", "the whole model", "inputs and outputs too; most importers train that"
    )


def floats_of(proto: ModelProto) -> set[int]:
    """Return the element types of a model's inputs, outputs and tensors of several values."""
    found = {tensor.data_type for _, tensor in tensors(proto) if math.prod(tensor.dims) > 1}
    return found | {value.type.tensor_type.elem_type for value in (*proto.graph.input, *proto.graph.output)}


def narrowed(values: NDArray[Any]) -> NDArray[Any]:
    """Return values as float32; a finite number beyond its range becomes the largest one that it has."""
    limit = np.finfo(np.float32).max
    with np.errstate(over="ignore"):
        result = np.asarray(values, np.float32)
    beyond = np.isinf(result) & np.isfinite(values)
    return np.where(beyond, np.copysign(limit, result), result) if beyond.any() else result
