"""The lengths of a model's values, as far as they follow from its inputs and its nodes alone.

What a file declares of the values in between, and of its outputs, is a claim that nothing holds it to: it is not read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto, defs, numpy_helper, shape_inference

from onnx_lsuv.importers.table import IMPORTERS
from onnx_lsuv.model import Array
from onnx_lsuv.program import tensor_type
from onnx_lsuv.program.protos import dims_in

Shape = tuple[int | None, ...]  # None: not known
Lead = tuple[int, ...]  # the lengths of all axes but the last, with one -1; empty for data of two axes


def shapes_of(proto: ModelProto, values: Callable[[TensorProto], Array | None]) -> dict[str, Shape]:
    """Return the shape of each value of the main graph whose number of axes is sure.

    Args:
        proto: the skeleton of a model; it is not changed.
        values: gives the values of an initializer where they are at hand and few, as those of a Reshape's shape.
    """
    model = ModelProto()
    model.CopyFrom(proto)
    graph = model.graph
    tensors = list(proto.graph.initializer)
    given = {tensor.name for tensor in tensors}
    inputs = [value for value in proto.graph.input if value.name not in given]
    del graph.value_info[:], graph.initializer[:], graph.output[:], graph.input[:]
    graph.input.extend(inputs)
    try:
        for tensor in tensors:
            array = values(tensor)
            if array is None:
                graph.input.append(ValueInfoProto(name=tensor.name, type=tensor_type(tensor.data_type, tensor.dims)))
            else:
                graph.initializer.append(numpy_helper.from_array(np.asarray(array), tensor.name))
        inferred = shape_inference.infer_shapes(model, data_prop=True).graph
    except Exception:  # a broken tensor, or an operator that it chokes on: then nothing is sure
        return {}
    stored = {tensor.name: tuple(tensor.dims) for tensor in tensors}
    return stored | {
        value.name: dims for value in (*inferred.input, *inferred.value_info) if (dims := dims_in(value)) is not None
    }


def lead_of(shape: Shape) -> Lead | None:
    """Return how a Reshape has to part the rows of data of a shape again; None where it cannot know.

    Where every length is known, the first one is left to the Reshape all the same: it is most often the batch's, and
    in training it may be another.
    """
    if len(shape) == 2:
        return ()
    unknown = [axis for axis, length in enumerate(shape[:-1]) if length is None]
    if len(unknown) > 1:
        return None
    inferred = unknown[0] if unknown else 0
    return tuple(-1 if axis == inferred or length is None else length for axis, length in enumerate(shape[:-1]))


def rows_unread(opset: int) -> list[str]:
    """Return those for which a Gemm is better than a MatMul, but that do not read the Reshapes around it."""
    version = defs.get_schema("Reshape", opset).since_version
    rows = [row for row in IMPORTERS.values() if row.parameters is not None and "MatMul" not in row.parameters]
    return [row.name for row in rows if not row.reads("Reshape", version)]


def permutation(perm: Iterable[int] | None, rank: int) -> tuple[int, ...]:
    """Return the order of axes that a Transpose makes by its attribute, or without one."""
    return tuple(reversed(range(rank))) if perm is None else tuple(perm)


def is_flat(dims: Sequence[int], width: int) -> bool:
    """Say whether a term is one value for each of `width` units, or for all: one axis, or leading axes of one."""
    return all(d == 1 for d in dims[:-1]) and (not dims or dims[-1] in (1, width))


def is_bias(dims: Sequence[int], lead: Lead, width: int) -> bool:
    """Say whether a Gemm can add a term itself, and leave its result as many axes."""
    return len(dims) <= max(2, len(lead) + 1) and is_flat(dims, width)
