"""A TensorProto's payload <-> ndarray. New values go where the old ones are.

Raw data are viewed where they are, and so are typed lists of floats, which are the same bytes; lists of other types and
elements of less than a byte are read as onnx reads them.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import numpy_helper

from onnx_lsuv.errors import ModelError
from onnx_lsuv.model.payload import WIDTH, Chunk, bytes_of, field_of, payload_of, renumbered, replaced
from onnx_lsuv.model.splicing import Edit
from onnx_lsuv.model.wire import RAW_DATA, VARINT, Span

Array = np.ndarray[Any, np.dtype[Any]]
STRING = onnx.TensorProto.STRING
AGAIN = "; the file is damaged or was written by a broken exporter, so export the model again"


def dtype_of(data_type: int, where: str) -> np.dtype[Any]:
    """Return the numpy dtype (of ml_dtypes where numpy has none) for a TensorProto.DataType; raise ModelError."""
    try:
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(data_type))
    except (KeyError, TypeError, ValueError):
        raise ModelError(
            f"{where} has element type {data_type}, which is none that onnx {onnx.__version__} knows"
        ) from None


def shape_of(tensor: onnx.TensorProto, where: str) -> tuple[int, ...]:
    """Return the dims; raise ModelError where one is negative."""
    shape = tuple(tensor.dims)
    if any(dim < 0 for dim in shape):
        raise ModelError(f"{where} has a negative dimension: its dims are {_dims(shape)}")
    return shape


def element_bits(dtype: np.dtype[Any]) -> int:
    """Return how many bits an element takes in raw_data (numpy gives the small types of ml_dtypes a byte each)."""
    small = re.match(r"u?int([24])$|float([46])_", dtype.name)
    return int(small[1] or small[2]) if small else dtype.itemsize * 8


def raw_size(shape: Iterable[int], dtype: np.dtype[Any]) -> int:
    """Return how many bytes raw_data of that shape and type has."""
    return -(-math.prod(shape) * element_bits(dtype) // 8)


def decode(view: memoryview, spans: tuple[Span, ...], tensor: onnx.TensorProto, where: str) -> Array:
    """Return the stored values of an inline tensor, read-only; raise ModelError where they do not fit its dims."""
    dtype, shape = dtype_of(tensor.data_type, where), shape_of(tensor, where)
    number, wire, parts = payload_of(view, spans, tensor.data_type)
    if number == RAW_DATA:
        if tensor.data_type == STRING:
            raise ModelError(f"{where} holds strings as raw data, which ONNX does not allow; export the model again")
        return from_raw(view[parts[0].start : parts[0].end], shape, dtype, where)
    if tensor.data_type == STRING and len(parts) != math.prod(shape):
        raise ModelError(
            f"{where} should have {math.prod(shape)} strings for dims {_dims(shape)}, but has {len(parts)}"
        )
    stored = _fixed(view, parts, WIDTH[wire], where) if wire in WIDTH else _listed(view, spans, tensor.data_type, where)
    if tensor.data_type == STRING:
        return _shaped(stored, shape, where)
    if len(stored) != (expected := _expected(shape, dtype)):
        raise ModelError(
            f"{where} should have {expected} stored values for dims {_dims(shape)} of {dtype.name}, but has "
            f"{len(stored)}{AGAIN}"
        )
    bits = element_bits(dtype)
    if bits in (2, 4):  # several elements to a number
        return from_raw(stored.astype(np.uint8).data, shape, dtype, where)
    if wire == VARINT:  # the lowest bits of the number
        stored = (stored & 0x3F if bits == 6 else stored).view(f"u{stored.itemsize}")
        stored = stored.astype(f"u{dtype.itemsize}", copy=False)
    return _shaped(stored.view(dtype), shape, where)


def check(view: memoryview, spans: tuple[Span, ...], tensor: onnx.TensorProto, where: str) -> None:
    """Raise ModelError where the payload of an inline tensor cannot be that of its dims; no value is looked at.

    A list of varints has from one to ten bytes for each, so what `decode` counts exactly is bounded here.
    """
    _, wire, parts = payload_of(view, spans, tensor.data_type)
    if not parts:
        return  # stripped of its values, which is another matter
    if wire != VARINT:
        decode(view, spans, tensor, where)
        return
    dtype, shape = dtype_of(tensor.data_type, where), shape_of(tensor, where)
    expected, held = _expected(shape, dtype), sum(part.end - part.start for part in parts)
    if not expected <= held <= 10 * expected:
        raise ModelError(
            f"{where} should have {expected} stored values for dims {_dims(shape)} of {dtype.name}, but has {held} "
            f"bytes of them{AGAIN}"
        )


def from_raw(data: memoryview, shape: tuple[int, ...], dtype: np.dtype[Any], where: str) -> Array:
    """View raw bytes as an array, read-only (a decoded copy for elements of less than a byte)."""
    expected = raw_size(shape, dtype)
    if len(data) != expected:
        raise ModelError(
            f"{where} should have {expected} bytes of data for dims {_dims(shape)} of {dtype.name}, but has "
            f"{len(data)}{AGAIN}"
        )
    array: Array
    if element_bits(dtype) < 8:
        array = numpy_helper.to_array(
            onnx.TensorProto(
                data_type=onnx.helper.np_dtype_to_tensor_dtype(dtype), dims=[math.prod(shape)], raw_data=bytes(data)
            )
        )
    else:
        array = np.frombuffer(data, dtype)
        if sys.byteorder == "big":
            array = array.byteswap()
    return _shaped(array, shape, where)


def to_raw(array: Array) -> memoryview:
    """Return the array's elements as raw_data wants them: little-endian, C order; without a copy where it is so."""
    if element_bits(array.dtype) < 8:
        return memoryview(numpy_helper.from_array(array).raw_data)
    flat = np.ascontiguousarray(array).reshape(-1)
    return (flat.byteswap() if sys.byteorder == "big" else flat).view(np.uint8).data


def encode(view: memoryview, spans: tuple[Span, ...], tensor: onnx.TensorProto, array: Array, where: str) -> list[Edit]:
    """Return the edits that put `array` in the place of the tensor's stored values, in the same kind of field."""
    decode(view, spans, tensor, where)  # there must be as many stored values as new ones
    _, wire, parts = payload_of(view, spans, tensor.data_type)
    if wire != VARINT:
        return replaced(view, parts, to_raw(array))
    if element_bits(array.dtype) in (2, 4):
        numbers = np.frombuffer(to_raw(array), np.uint8).astype(np.uint64)
    else:
        flat = np.ascontiguousarray(array).reshape(-1)
        signed = flat.dtype.kind == "i"  # whose negative numbers are sign-extended
        numbers = flat.astype(np.int64).view(np.uint64) if signed else flat.view(f"u{flat.itemsize}").astype(np.uint64)
    return renumbered(view, parts, numbers)


def bindable(array: Array) -> Array:
    """Return an array in C order; elements of less than a byte packed at the beginning of as many bytes.

    So they have the shape of the values and, up to where it ends, the memory that ONNX Runtime expects.
    """
    array = np.require(array, requirements="C")
    if element_bits(array.dtype) >= 8:
        return array
    packed = np.frombuffer(to_raw(array), np.uint8)
    out = np.zeros(array.shape, np.uint8)
    out.reshape(-1)[: packed.size] = packed
    return out


def _dims(shape: tuple[int, ...]) -> str:
    if len(shape) > 12:
        return f"{'x'.join(map(str, shape[:8]))}x... ({len(shape)} of them)"
    return "x".join(map(str, shape)) or "() (one value)"


def _shaped(array: Array, shape: tuple[int, ...], where: str) -> Array:
    try:
        array = array.reshape(shape)
    except ValueError:  # an empty array of absurd dims
        raise ModelError(f"{where} has dims {_dims(shape)}, more than an array can have") from None
    array.flags.writeable = False
    return array


def _expected(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Return how many numbers a typed list has for a shape: small elements share an int32, complex ones take two."""
    if element_bits(dtype) in (2, 4):
        return raw_size(shape, dtype)
    return math.prod(shape) * (2 if dtype.kind == "c" else 1)


def _fixed(view: memoryview, parts: list[Chunk], width: int, where: str) -> Array:
    """Return the numbers of a list of fixed width, without a copy where it is in one piece."""
    arrays = [bytes_of(view, part) for part in parts]
    if any(len(array) % width for array in arrays):
        raise ModelError(f"{where} has a list of values that ends in the middle of one; export the model again")
    data = arrays[0] if len(arrays) == 1 else np.concatenate([np.empty(0, np.uint8), *arrays])
    return data.view(f"<f{width}").astype(f"f{width}", copy=False)


def _listed(view: memoryview, spans: tuple[Span, ...], data_type: int, where: str) -> Array:
    """Return the numbers or strings of a typed list as protobuf reads them; nothing has parsed it yet."""
    try:
        stored = onnx.TensorProto.FromString(b"".join(view[span.start : span.end] for span in spans))
        values = getattr(stored, field_of(data_type))
        if data_type != STRING:
            return np.array(
                values, {"int32_data": np.int32, "int64_data": np.int64}.get(field_of(data_type), np.uint64)
            )
        out = np.empty(len(values), object)
        out[:] = [value.decode() for value in values]
    except DecodeError:
        raise ModelError(f"{where} has a list of values that is no row of varints; export the model again") from None
    except UnicodeDecodeError:
        raise ModelError(f"{where} holds a string that is not UTF-8") from None
    return out
