"""Readers for NumPy's own formats.

.npy: magic, version, a Python literal {descr, fortran_order, shape}, then the values (numpy.lib.format, NEP 1).
.npz: a zip archive of .npy members, stored or deflated. Headers are read first: an archive of 2 MB can unpack to
terabytes, and an array of Python objects would be unpickled, that is, executed.
"""

from __future__ import annotations

import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Container
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from onnx_lsuv.batches.inputs import quote
from onnx_lsuv.batches.stored import Array, Layout, Stored, looks_like, map_array, reason, size_of
from onnx_lsuv.errors import DataError

# Whatever a literal parser or a decompressor may raise on hostile bytes.
BROKEN = (
    *(OSError, ValueError, TypeError, KeyError, IndexError, OverflowError, SyntaxError, RecursionError, MemoryError),
    *(EOFError, NotImplementedError, RuntimeError, tokenize.TokenError, zipfile.BadZipFile, zlib.error, struct.error),
)


def read_npy(path: Path) -> list[Stored]:
    """Return the array of a .npy file, its values mapped on demand."""
    size = size_of(path)
    where = f"the data file {quote(path)}"
    try:
        with path.open("rb") as file:
            layout = _header(file, where)
    except BROKEN as error:
        what = looks_like(path, f"has a broken .npy header ({reason(error)})")
        if what == "is a .npy file":
            what = f"has a broken .npy header ({reason(error)})"
        raise DataError(f"{where} {what}; write it again with numpy.save") from error
    _check_length(where, layout, size)
    return [Stored(None, where, layout.dtype, layout.shape, partial(map_array, path, where, layout))]


def read_npz(path: Path, names: Container[str], limit: int) -> list[Stored]:
    """Return the arrays of a .npz file; `names` are keys that may hold path separators; raises DataError."""
    size_of(path)
    where = f"the data file {quote(path)}"
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_members(where, members, names, limit)
            return [_member(path, where, archive, member) for member in members]
    except BROKEN as error:
        what = looks_like(path, "is truncated or no zip archive")
        if what.startswith("is a zip"):
            what = f"is truncated or broken ({reason(error)})"
        raise DataError(f"{where} {what}; write it again with numpy.savez") from error


def _header(file: IO[bytes], where: str) -> Layout:
    version = npy.read_magic(file)
    if version not in {(1, 0), (2, 0), (3, 0)}:
        raise ValueError(f"version {version} is unknown")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    try:
        with warnings.catch_warnings():  # headers by Python 2 are read with a warning that helps nobody here
            warnings.simplefilter("ignore")
            shape, fortran, dtype = read(file)
    except BROKEN as error:  # NumPy's words are not repeated: some advise to allow pickles
        raise ValueError("no dtype, order and shape") from error
    if dtype.hasobject:
        raise DataError(
            f"{where} holds Python objects, which would have to be unpickled, that is, executed; "
            "write plain numbers or text, such as numpy.asarray(x, dtype='float32')"
        )
    if any(length < 0 for length in shape):
        raise ValueError("a negative length")
    return Layout(dtype, tuple(int(length) for length in shape), "F" if fortran else "C", file.tell())


def _check_length(where: str, layout: Layout, size: int) -> None:
    found = size - layout.offset
    if layout.size != found or (layout.dtype.itemsize == 0 and 0 not in layout.shape):
        what = "is truncated" if found < layout.size else "has bytes behind its array"
        raise DataError(
            f"{where} {what}: its header says {layout.dtype} {list(layout.shape)}, that is {layout.size} bytes of "
            f"values, but {found} are there; write it again"
        )


def _check_members(where: str, members: list[zipfile.ZipInfo], names: Container[str], limit: int) -> None:
    if not members:
        raise DataError(f"{where} is an archive without arrays; write it again with numpy.savez")
    seen: set[str] = set()
    for member in members:
        name = member.filename
        key = name.removesuffix(".npy")
        parts = key.replace("\\", "/").split("/")
        if key not in names and (len(parts) > 1 or key in {".", ".."} or ":" in parts[0]):
            raise DataError(f"{where} has a member {quote(name)} that is a path; name arrays as the model's inputs are")
        if not name.endswith(".npy"):
            raise DataError(f"{where} has a member {quote(name)} that is no .npy array; write it with numpy.savez")
        if name in seen:
            raise DataError(f"{where} has two members {quote(name)}; each input needs one array")
        if member.flag_bits & 1:
            raise DataError(f"{where} is encrypted; write it again with numpy.savez")
        seen.add(name)
    total = sum(member.file_size for member in members)
    if total > limit:
        raise DataError(
            f"{where} unpacks to {total} bytes, more than the limit of {limit}; give fewer samples, "
            "or .npy files, which are mapped and not read"
        )


def _member(path: Path, where: str, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Stored:
    key = member.filename.removesuffix(".npy")
    place = f"array {quote(key)} of {where.removeprefix('the data file ')}"
    with archive.open(member) as file:
        layout = _header(file, place)
    _check_length(place, layout, member.file_size)
    if member.compress_type == zipfile.ZIP_STORED:
        there = replace(layout, offset=layout.offset + _data_start(path, member))
        return Stored(key, place, layout.dtype, layout.shape, partial(map_array, path, place, there))
    return Stored(key, place, layout.dtype, layout.shape, partial(_unpack, path, place, member.filename, layout))


def _data_start(path: Path, member: zipfile.ZipInfo) -> int:
    # The local header repeats name and extra field with lengths of its own (PKWARE APPNOTE 4.3.7).
    with path.open("rb") as file:
        file.seek(member.header_offset)
        head = file.read(30)
    if head[:4] != b"PK\x03\x04":
        raise zipfile.BadZipFile("no local header")
    name, extra = struct.unpack("<HH", head[26:30])
    return member.header_offset + 30 + int(name) + int(extra)


def _unpack(path: Path, where: str, name: str, layout: Layout) -> Array:
    try:
        with zipfile.ZipFile(path) as archive, archive.open(name) as file:
            if _header(file, where) != layout:
                raise ValueError("the file changed while it was read")
            data = file.read(layout.size)
        return np.frombuffer(data, layout.dtype).reshape(layout.shape, order=layout.order)
    except BROKEN as error:
        raise DataError(f"{where} cannot be unpacked: {reason(error)}; write it again") from error
