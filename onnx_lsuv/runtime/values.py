"""Values: arrays on the host, and what ONNX Runtime holds."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, TypeProto, helper

from onnx_lsuv.errors import DeviceError
from onnx_lsuv.runtime.package import package, small_session

_T = TensorProto
# Types that NumPy has itself.
_NUMPY = frozenset({
    _T.FLOAT, _T.DOUBLE, _T.FLOAT16, _T.BOOL, _T.STRING, _T.COMPLEX64, _T.COMPLEX128,
    _T.INT8, _T.INT16, _T.INT32, _T.INT64, _T.UINT8, _T.UINT16, _T.UINT32, _T.UINT64,
})  # fmt: skip


def value_of(array: NDArray[Any], elem_type: int) -> Any:
    """Return an OrtValue over an array's own memory; text is copied.

    The array must be C-contiguous, in native byte order, and outlive the value. Elements of less than a byte are
    packed as `model.bindable` does.
    """
    if elem_type == TensorProto.STRING:
        return _text_value(array)
    ort = package()
    if elem_type not in _NUMPY:
        plain = array.view(np.uint8 if array.itemsize == 1 else np.uint16)
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(plain, elem_type)
    return ort.OrtValue.ortvalue_from_numpy(array)


def _text_value(array: NDArray[Any]) -> Any:
    """Return an OrtValue on the host for an array of str.

    ONNX Runtime's Python interface makes no OrtValue of strings, and takes none from NumPy where inputs are bound. A
    session that hands on a constant does.
    """
    strings = [str(each).encode() for each in np.asarray(array).reshape(-1)]
    tensor = TensorProto(name="x", data_type=TensorProto.STRING, dims=array.shape, string_data=strings)
    session = small_session([helper.make_node("Identity", ["x"], ["y"])], ["y"], [tensor])
    binding = session.io_binding()
    binding.bind_output("y", "cpu")
    session.run_with_iobinding(binding)
    return binding.get_outputs()[0]


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


def has_array(value: Any) -> bool:
    """Say whether `array_of` gives an OrtValue's contents, and `value_of` it again."""
    return bool(value.is_tensor()) and value.element_type() in _NUMPY - {TensorProto.STRING}


def array_of(value: Any) -> NDArray[Any]:
    """Return an OrtValue's contents on the host."""
    return np.asarray(value.numpy())
