"""Models of which nothing but the architecture is left, in the four ways in which such files come."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
PAYLOAD = ("float_data", "int32_data", "raw_data", "double_data")


def is_weight(tensor: TensorProto) -> bool:
    """Say whether a tensor is taken away: a float with an axis, and no single number."""
    return tensor.data_type in FLOATS and len(tensor.dims) > 0 and int(np.prod(tensor.dims)) > 1


def copy_of(model: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy


def without_data(model: ModelProto, path: Path) -> None:
    """Leave dims and types."""
    left = copy_of(model)
    for tensor in filter(is_weight, left.graph.initializer):
        for field in PAYLOAD:
            tensor.ClearField(field)
    path.write_bytes(left.SerializeToString())


def as_inputs(model: ModelProto, path: Path) -> None:
    """Leave inputs without values, behind the others, as torch.onnx.export(export_params=False) lists them."""
    left = copy_of(model)
    kept = [tensor for tensor in left.graph.initializer if not is_weight(tensor)]
    listed = {value.name for value in left.graph.input}
    for tensor in filter(is_weight, model.graph.initializer):
        if tensor.name not in listed:
            left.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    del left.graph.initializer[:]
    left.graph.initializer.extend(kept)
    path.write_bytes(left.SerializeToString())


def unlisted(model: ModelProto, path: Path) -> None:
    """Leave names, and the shapes of what nodes make, as torch.onnx.export with include_initializers=False."""
    left = onnx.shape_inference.infer_shapes(model)
    gone = {tensor.name for tensor in left.graph.initializer if is_weight(tensor)}
    kept = [tensor for tensor in left.graph.initializer if tensor.name not in gone]
    data = [value for value in left.graph.input if value.name not in gone]
    del left.graph.initializer[:], left.graph.input[:]
    left.graph.initializer.extend(kept)
    left.graph.input.extend(data)
    path.write_bytes(left.SerializeToString())


def external_gone(model: ModelProto, path: Path) -> None:
    """Leave the graph without the file that its data were in."""
    left = copy_of(model)
    for tensor in filter(is_weight, left.graph.initializer):
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))  # raw data alone move
    onnx.save_model(left, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=0)
    for tensor in (left := onnx.load(path, load_external_data=False)).graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL and not is_weight(tensor):
            full = next(one for one in model.graph.initializer if one.name == tensor.name)
            tensor.CopyFrom(full)
    path.write_bytes(left.SerializeToString())
    (path.parent / f"{path.name}.data").unlink()


Strip = Callable[[ModelProto, Path], None]
STRIPS: dict[str, Strip] = {
    "dims without data": without_data,
    "inputs": as_inputs,
    "names": unlisted,
    "external data gone": external_gone,
}
