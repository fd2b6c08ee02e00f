"""A TensorProto's payload <-> ndarray. New values go where the old ones are."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx

from onnx_lsuv.errors import ModelError
from onnx_lsuv.model.elements import Array, element_bits, from_varints, pack, to_numbers, to_varints, unpack
from onnx_lsuv.model.payload import WIDTH, Chunk, bytes_of, payload_of, run_of
from onnx_lsuv.model.splice import Edit
from onnx_lsuv.model.wire import FLOAT_DATA, RAW_DATA, STRING_DATA, Span, varint


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


def count(shape: Iterable[int]) -> int:
    """Return the number of elements, exactly, however large."""
    total = 1
    for dim in shape:
        total *= dim
    return total


def raw_size(shape: Iterable[int], dtype: np.dtype[Any]) -> int:
    """Return how many bytes raw_data of that shape and type has."""
    return -(-count(shape) * element_bits(dtype) // 8)


def decode(view: memoryview, spans: tuple[Span, ...], tensor: onnx.TensorProto, where: str) -> Array:
    """Return the stored values of an inline tensor, read-only; raise ModelError where they do not fit its dims."""
    dtype, shape = dtype_of(tensor.data_type, where), shape_of(tensor, where)
    number, parts = payload_of(view, spans, tensor.data_type)
    if tensor.data_type == onnx.TensorProto.STRING:
        return _strings(view, parts, number, shape, where)
    if number == RAW_DATA:
        return from_raw(view[parts[0].start : parts[0].end], shape, dtype, where)
    if number in WIDTH:
        stored: Array = _fixed(view, parts, np.dtype("<f4" if number == FLOAT_DATA else "<f8"), where)
    else:
        stored = np.concatenate(
            [np.empty(0, np.uint64), *(from_varints(bytes_of(view, part), where) for part in parts)]
        )
    return _from_typed(stored, shape, dtype, where)


def check(view: memoryview, spans: tuple[Span, ...], tensor: onnx.TensorProto, where: str) -> None:
    """Raise ModelError where the payload of an inline tensor cannot be that of its dims; no value is looked at.

    A list of varints has from one to ten bytes for each, so what `decode` counts exactly is bounded here.
    """
    number, parts = payload_of(view, spans, tensor.data_type)
    if not parts:
        return  # stripped of its values, which is another matter
    if number in (RAW_DATA, STRING_DATA, *WIDTH):
        decode(view, spans, tensor, where)
        return
    dtype, shape = dtype_of(tensor.data_type, where), shape_of(tensor, where)
    expected, held = _expected(shape, dtype), sum(part.end - part.start for part in parts)
    if not expected <= held <= 20 * expected:  # a list that is not packed has a tag for each
        raise ModelError(
            f"{where} should have {expected} stored values for dims {_dims(shape)} of {dtype.name}, but has {held} "
            "bytes of them; the file is damaged or was written by a broken exporter, so export the model again"
        )


def from_raw(data: memoryview, shape: tuple[int, ...], dtype: np.dtype[Any], where: str) -> Array:
    """View raw bytes as an array, read-only (a decoded copy for elements of less than a byte)."""
    expected = raw_size(shape, dtype)
    if len(data) != expected:
        raise ModelError(
            f"{where} should have {expected} bytes of data for dims {_dims(shape)} of {dtype.name}, but has "
            f"{len(data)}; the file is damaged or was written by a broken exporter, so export the model again"
        )
    bits = element_bits(dtype)
    array: Array
    if dtype.itemsize * 8 != bits:
        array = unpack(np.frombuffer(data, np.uint8), count(shape), bits).view(dtype)
    else:
        array = np.frombuffer(data, dtype)
        if sys.byteorder == "big":
            array = array.byteswap()
    return _shaped(array, shape, where)


def to_raw(array: Array) -> memoryview:
    """Return the array's elements as raw_data wants them: little-endian, C order; without a copy where it is so."""
    bits = element_bits(array.dtype)
    flat = np.ascontiguousarray(array).reshape(-1)
    if flat.dtype.itemsize * 8 != bits:
        return pack(flat.view(np.uint8), bits).data
    if sys.byteorder == "big":
        flat = flat.byteswap()
    return flat.view(np.uint8).data


def encode(view: memoryview, spans: tuple[Span, ...], tensor: onnx.TensorProto, array: Array, where: str) -> list[Edit]:
    """Return the edits that put `array` in the place of the tensor's stored values, in the same kind of field."""
    decode(view, spans, tensor, where)  # there must be as many stored values as new ones
    number, parts = payload_of(view, spans, tensor.data_type)
    if number == RAW_DATA:
        return [Edit(parts[0].start, parts[0].end, (to_raw(array),), parts[0].span)]
    if number in WIDTH:
        return encode_fixed(view, parts, to_raw(array), WIDTH[number])
    edits = []
    at = 0
    numbers = to_numbers(array)
    for part in parts:
        if part.span is not None:
            size = int(np.count_nonzero(bytes_of(view, part) < 0x80))
            edits.append(Edit(part.start, part.end, (to_varints(numbers[at : at + size]).data,), part.span))
            at += size
        for start, end in part.cells:
            edits.append(Edit(start, end, (varint(int(numbers[at])),), part.owner))
            at += 1
    return edits


def encode_fixed(view: memoryview, parts: list[Chunk], data: memoryview, width: int) -> list[Edit]:
    """Return the edits that put `data` in the place of a list of elements of `width` bytes; the length is the same."""
    edits = []
    at = 0
    for part in parts:
        if part.span is not None:
            edits.append(Edit(part.start, part.end, (data[at : at + part.end - part.start],), part.span))
            at += part.end - part.start
        for start, end in part.cells:
            edits.append(Edit(start, end, (data[at : at + width],), part.owner))
            at += width
        if part.step:
            rows = run_of(view, part).copy()
            rows[:, -width:] = np.frombuffer(data[at : at + len(rows) * width], np.uint8).reshape(-1, width)
            edits.append(Edit(part.start, part.end, (rows.reshape(-1).data,), part.owner))
            at += len(rows) * width
    return edits


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


def _fixed(view: memoryview, parts: list[Chunk], dtype: np.dtype[Any], where: str) -> Array:
    arrays = [bytes_of(view, part) for part in parts]
    if any(len(array) % dtype.itemsize for array in arrays):
        raise ModelError(f"{where} has a list of values that ends in the middle of one; export the model again")
    data = arrays[0] if len(arrays) == 1 else np.concatenate([np.empty(0, np.uint8), *arrays])
    return data.view(dtype).astype(dtype.newbyteorder("="), copy=False)


def _expected(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Return how many numbers a typed list has for a shape: small elements share an int32, complex ones take two."""
    if element_bits(dtype) in (2, 4):
        return raw_size(shape, dtype)
    return count(shape) * (2 if dtype.kind == "c" else 1)


def _from_typed(stored: Array, shape: tuple[int, ...], dtype: np.dtype[Any], where: str) -> Array:
    """Turn the numbers of a typed list into the tensor's elements."""
    bits = element_bits(dtype)
    packed = bits in (2, 4)  # several elements to an int32
    expected = _expected(shape, dtype)
    if len(stored) != expected:
        raise ModelError(
            f"{where} should have {expected} stored values for dims {_dims(shape)} of {dtype.name}, but has "
            f"{len(stored)}; the file is damaged or was written by a broken exporter, so export the model again"
        )
    if stored.dtype.kind == "f":
        return _shaped(stored.view(dtype), shape, where)
    if packed:
        return _shaped(unpack(stored.astype(np.uint8), count(shape), bits).view(dtype), shape, where)
    if bits == 6:
        stored = stored & np.uint64(0x3F)
    # all other types are the lowest bits of the number
    return _shaped(stored.astype(f"u{dtype.itemsize}").view(dtype), shape, where)


def _strings(view: memoryview, parts: list[Chunk], number: int, shape: tuple[int, ...], where: str) -> Array:
    if number == RAW_DATA:
        raise ModelError(f"{where} holds strings as raw data, which ONNX does not allow; export the model again")
    if len(parts) != count(shape):
        raise ModelError(f"{where} should have {count(shape)} strings for dims {_dims(shape)}, but has {len(parts)}")
    out = np.empty(len(parts), object)
    try:
        out[:] = [str(view[part.start : part.end], "utf-8") for part in parts]
    except UnicodeDecodeError:
        raise ModelError(f"{where} holds a string that is not UTF-8") from None
    return _shaped(out, shape, where)
