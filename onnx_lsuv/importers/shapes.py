"""The lengths of a model's values, as far as they follow from its inputs and its nodes alone.

What a file declares of the values in between, and of its outputs, is a claim that nothing holds it to: it is not read.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto, numpy_helper, shape_inference

from onnx_lsuv.model import Array
from onnx_lsuv.program import tensor_type

Shape = tuple[int | None, ...]  # None: not known


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
        value.name: tuple(d.dim_value if d.dim_value > 0 else None for d in value.type.tensor_type.shape.dim)
        for value in (*inferred.input, *inferred.value_info)
        if value.type.tensor_type.HasField("shape")
    }
