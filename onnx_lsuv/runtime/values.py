"""Values: arrays on the host, and what ONNX Runtime holds."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, TypeProto

from onnx_lsuv.errors import DeviceError
from onnx_lsuv.runtime.package import package


def value_of(array: NDArray[Any], elem_type: int) -> Any:
    """Return an OrtValue over an array's own memory.

    The array must be C-contiguous, in native byte order, and outlive the value.
    """
    ort = package()
    if elem_type == TensorProto.BFLOAT16:
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), elem_type)
    return ort.OrtValue.ortvalue_from_numpy(array)


def type_of(text: str) -> TypeProto:
    """Return the type that ONNX Runtime names, such as "tensor(float)", its shape left open.

    An optional value that is there is fed as what it holds.

    Raises:
        DeviceError: it is neither a tensor nor a sequence of tensors.
    """
    found = re.fullmatch(r"(?:optional\()?(seq\()?tensor\((\w+)\)*", text)
    if not found:
        raise DeviceError(
            f"A value of type {text} would have to be kept between two parts of the graph, which is not supported: "
            "give one batch, which needs the fewest parts."
        )
    result = TypeProto()
    inner = result.sequence_type.elem_type if found[1] else result
    inner.tensor_type.elem_type = TensorProto.DataType.Value(found[2].upper())
    return result


def array_of(value: Any) -> NDArray[Any]:
    """Return an OrtValue's contents on the host."""
    return np.asarray(value.numpy())
