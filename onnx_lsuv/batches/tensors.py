"""Readers for .safetensors and for ONNX's TensorProto (.pb).

.safetensors: 8 bytes little-endian N, N bytes of JSON {name: {dtype, shape, data_offsets: [begin, end]}}, then the
values, little-endian, row-major, without gaps (https://github.com/huggingface/safetensors, "Format").
.pb: one serialised TensorProto (onnx.proto), as ONNX's model zoo keeps test data.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from onnx_lsuv.batches.stored import MOST, Layout, Stored, in_file, looks_like, open_file, reason, rows_of, size_of
from onnx_lsuv.errors import DataError, ModelError, listing, quote
from onnx_lsuv.model import DTYPES, Array
from onnx_lsuv.model.arrays import decode, dtype_of, shape_of
from onnx_lsuv.model.payload import chunks
from onnx_lsuv.model.wire import BYTES, RAW_DATA, WireError, fields, root, skeleton

HEADER_LIMIT = 1 << 24  # bytes: a model has few inputs, and half a million entries take seconds to parse
LISTED = 32  # bytes of memory, for one in the file, that protobuf and numpy take while they read a list of numbers
FIELDS = 1_000_000  # of a tensor
IT = "the tensor"
INPUT_PB = re.compile(r"input_([0-9]+)\.pb")


def read_safetensors(path: Path, *_: object) -> list[Stored]:
    """Return the tensors of a .safetensors file, their values read on demand; raises DataError."""
    where = f"the data file {quote(path)}"
    with open_file(path) as file:
        size = size_of(file)
        try:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > size - 8:
                raise ValueError(f"a header of {length} bytes in a file of {size}")
            if length > HEADER_LIMIT:
                raise ValueError(f"a header of {length} bytes, where {HEADER_LIMIT} are the most for data")
            header = json.loads(file.read(length), object_pairs_hook=_once, parse_constant=_refuse)
            if not isinstance(header, dict):
                raise ValueError("the header is no JSON object")
            header.pop("__metadata__", None)
            return _entries(path, where, header, size - 8 - length, 8 + length)
        except (OSError, ValueError, TypeError, KeyError, RecursionError, MemoryError) as error:
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
    if len(header) > MOST:
        raise ValueError(f"{len(header)} tensors, more than {MOST}")
    found: list[tuple[int, int, Stored]] = []
    for key, entry in header.items():
        begin, end = entry["data_offsets"]
        if any(type(number) is not int or number < 0 for number in (begin, end, *entry["shape"])):
            raise ValueError(f"{quote(key)} has a shape or offset that is no count")
        if entry["dtype"] not in DTYPES:
            raise ValueError(f"{quote(key)} has the dtype {quote(entry['dtype'])}, which is not supported")
        dtype: np.dtype[Any] = np.dtype(DTYPES[entry["dtype"]])
        layout = Layout(dtype, tuple(entry["shape"]), offset=base + begin)
        if layout.size != end - begin:
            raise ValueError(f"{quote(key)} has {end - begin} bytes where its shape needs other")
        place = f"tensor {quote(key)} of {where.removeprefix('the data file ')}"
        found.append((begin, end, in_file(key, place, path, layout)))
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


def read_pb(path: Path, names: Sequence[str], limit: int) -> list[Stored]:
    """Return the tensor of a .pb file, read again on demand; raises DataError for all but a whole TensorProto.

    `names` are those of the model's inputs, `limit` bounds the bytes that reading it may take.
    """
    where = f"the data file {quote(path)}"
    tensor, view = _parse(path, where, limit)
    with _refusing(path, where):
        layout = Layout(dtype_of(tensor.data_type, IT), shape_of(tensor, IT))
        if (count := math.prod(layout.shape)) > 4 * len(view):  # a byte holds four numbers at most
            raise ValueError(f"dims for {count} values in {len(view)} bytes")

    def load(start: int, stop: int | None) -> Array:
        again, view = _parse(path, where, limit)
        with _refusing(path, where):
            return rows_of(decode(view, (root(view),), again, IT))(start, stop)

    key = tensor.name if tensor.name in names else _numbered(path, where, names)
    return [Stored(key, where, layout.dtype, layout.shape, load, packed=True, apart=False)]


def _numbered(path: Path, where: str, names: Sequence[str]) -> str | None:
    """Return the input that a test tensor is for, whose own name means nothing unless it is the model's."""
    found = INPUT_PB.fullmatch(path.name)
    if found is None:
        return None
    if (number := int(found[1])) >= len(names):
        raise DataError(
            f"{where.removeprefix('the data file ')} is for graph input number {number}, counted from 0, but the model "
            f"has {len(names)} that need data ({listing(names)}); remove it or rename it"
        )
    return names[number]


def _parse(path: Path, where: str, limit: int) -> tuple[onnx.TensorProto, memoryview]:
    """Return a tensor without its values, and the bytes of the file."""
    with open_file(path) as file:
        size = size_of(file)
        _check_size(where, size, limit)
        view = memoryview(file.read(size))
    with _refusing(path, where):
        # A list with a field of its own for each element, which nobody writes, takes a second a million.
        if next(islice(fields(view, 0, size), FIELDS, None), None) is not None:
            raise ValueError(f"more than {FIELDS} fields")
        tensor = onnx.TensorProto.FromString(skeleton(view, "tensor", 0))
        if tensor.data_type == onnx.TensorProto.UNDEFINED:
            raise ValueError("no element type")
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise ValueError("its values lie in another file")
        if not isinstance(tensor.name, str):  # what protobuf gives for a string that is none
            raise ValueError("its name is no text")
        raw = chunks(view, (root(view),), RAW_DATA, BYTES)
    _check_size(where, size if raw else size * LISTED, limit)
    return tensor, view


def _check_size(where: str, size: int, limit: int) -> None:
    if size > limit:
        raise DataError(
            f"{where} takes {size} bytes of memory to read, more than the limit of {limit}; give a .npy file, or allow "
            "more with '--memory'"
        )


@contextmanager
def _refusing(path: Path, where: str) -> Iterator[None]:
    try:
        yield
    except (ModelError, WireError, DecodeError, ValueError, MemoryError) as error:
        text = str(error).partition(";")[0] if isinstance(error, ModelError) else reason(error)
        what = looks_like(path, f"is no whole ONNX TensorProto ({text})")
        raise DataError(f"{where} {what}; write it with onnx.numpy_helper.from_array") from error
