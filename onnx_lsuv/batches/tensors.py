"""Readers for .safetensors and for ONNX's TensorProto (.pb).

.safetensors: 8 bytes little-endian N, N bytes of JSON {name: {dtype, shape, data_offsets: [begin, end]}}, then the
values, little-endian, row-major, without gaps (https://github.com/huggingface/safetensors, "Format").
.pb: one serialised TensorProto (onnx.proto), as ONNX's model zoo keeps test data.
"""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import ml_dtypes
import numpy as np
import onnx
from onnx import numpy_helper

from onnx_lsuv.batches.inputs import quote
from onnx_lsuv.batches.stored import Array, Layout, Stored, looks_like, map_array, reason, size_of
from onnx_lsuv.errors import DataError

HEADER_LIMIT = 100_000_000  # as in the reference implementation
DTYPES = {
    **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1"},
    **{"U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?", "C64": "<c8"},
    **{"BF16": ml_dtypes.bfloat16, "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2},
}


def read_safetensors(path: Path) -> list[Stored]:
    """Return the tensors of a .safetensors file, their values mapped on demand; raises DataError."""
    size = size_of(path)
    where = f"the data file {quote(path)}"
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, HEADER_LIMIT):
                raise ValueError(f"a header of {length} bytes in a file of {size}")
            text = file.read(length)
        header = json.loads(text, object_pairs_hook=_once, parse_constant=_refuse)
        if not isinstance(header, dict):
            raise ValueError("the header is no JSON object")
        header.pop("__metadata__", None)
        return _entries(path, where, header, size - 8 - length, 8 + length)
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        what = looks_like(path, f"is no valid .safetensors file ({reason(error)})")
        raise DataError(f"{where} {what}; write it again with safetensors.numpy.save_file") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in the header")
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} in the header")


def _entries(path: Path, where: str, header: dict[str, Any], size: int, base: int) -> list[Stored]:
    found: list[tuple[int, int, Stored]] = []
    for key, entry in header.items():
        begin, end = entry["data_offsets"]
        if any(type(number) is not int or number < 0 for number in (begin, end, *entry["shape"])):
            raise ValueError(f"{quote(key)} has a shape or offset that is no count")
        if entry["dtype"] not in DTYPES:
            raise ValueError(f"{quote(key)} has the dtype {quote(entry['dtype'])}, which is not supported")
        dtype: np.dtype[Any] = np.dtype(DTYPES[entry["dtype"]])
        shape = tuple(entry["shape"])
        if math.prod(shape) * dtype.itemsize != end - begin:
            raise ValueError(f"{quote(key)} has {end - begin} bytes where its shape needs other")
        place = f"tensor {quote(key)} of {where.removeprefix('the data file ')}"
        load = partial(map_array, path, place, Layout(dtype, shape, offset=base + begin))
        found.append((begin, end, Stored(key, place, dtype, shape, load)))
    position = 0
    for begin, end, _ in sorted(found, key=lambda each: each[:2]):
        if begin != position:
            raise ValueError(f"a gap or an overlap at byte {begin} of the values")
        position = end
    if position != size:
        raise ValueError(f"{size} bytes of values where the header tells of {position}")
    if not found:
        raise ValueError("it holds no tensors")
    return [stored for _, _, stored in found]


def read_pb(path: Path, limit: int) -> list[Stored]:
    """Return the tensor of a .pb file, read again on demand; raises DataError for all but a whole TensorProto."""
    where = f"the data file {quote(path)}"
    if (size := size_of(path)) > limit:
        raise DataError(f"{where} has {size} bytes, more than the limit of {limit}; give a .npy file, which is mapped")
    name, array = _parse(path, where)
    return [Stored(name or None, where, array.dtype, array.shape, lambda: _parse(path, where)[1])]


def _parse(path: Path, where: str) -> tuple[str, Array]:
    tensor = onnx.TensorProto()
    try:
        tensor.ParseFromString(path.read_bytes())
        if tensor.data_type == onnx.TensorProto.UNDEFINED:
            raise ValueError("no element type")
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise ValueError("its values lie in another file")
        if any(length < 0 for length in tensor.dims):
            raise ValueError("a negative length")
        return tensor.name, numpy_helper.to_array(tensor)
    # The parser raises types of its own (google.protobuf.message.DecodeError), the converter nearly any.
    except Exception as error:
        what = looks_like(path, f"is no whole ONNX TensorProto ({reason(error)})")
        raise DataError(f"{where} {what}; write it with onnx.numpy_helper.from_array") from error
