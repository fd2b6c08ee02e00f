"""Reader for NumPy's own format.

.npy: magic, version, length of the header, a Python literal {descr, fortran_order, shape}, then the values
(numpy.lib.format, NEP 1). An array of Python objects would be unpickled, that is, executed.
"""

from __future__ import annotations

import io
import struct
import tokenize
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

from onnx_lsuv.batches.inputs import show_shape
from onnx_lsuv.batches.stored import Layout, Stored, in_file, looks_like, open_file, reason, size_of
from onnx_lsuv.errors import DataError, quote

HEADER_LIMIT = 10_000  # bytes; NumPy refuses longer ones too, but reads them first
# Whatever a parser of literals may raise on hostile bytes.
BROKEN = (
    *(OSError, ValueError, TypeError, KeyError, IndexError, OverflowError, SyntaxError, RecursionError, MemoryError),
    *(EOFError, NotImplementedError, RuntimeError, tokenize.TokenError, struct.error),
)


def read_npy(path: Path, *_: object) -> list[Stored]:
    """Return the array of a .npy file, its values read on demand; raises DataError."""
    where = f"the data file {quote(path)}"
    with open_file(path) as file:
        try:
            layout = read_header(file, where)
        except BROKEN as error:
            what = looks_like(path, broken := f"has a broken .npy header ({reason(error)})")
            what = broken if what == "is a .npy file" else what
            raise DataError(f"{where} {what}; write it again with numpy.save") from error
        check_length(where, layout, size_of(file))
    return [in_file(None, where, path, layout)]


def read_header(file: BinaryIO, where: str) -> Layout:
    """Read a header, and no more than it may have; raises one of BROKEN, DataError for Python objects."""
    version = npy.read_magic(file)
    if version not in {(1, 0), (2, 0), (3, 0)}:
        raise ValueError(f"version {version} is unknown")
    first = version == (1, 0)
    length = file.read(2 if first else 4)
    (size,) = struct.unpack("<H" if first else "<I", length)
    if size > HEADER_LIMIT:
        raise ValueError(f"it has {size} bytes, where {HEADER_LIMIT} are the most")
    shape, fortran, dtype = _parsed(length + file.read(size), first)
    if dtype.hasobject:
        raise DataError(
            f"{where} holds Python objects, which would have to be unpickled, that is, executed; "
            "write plain numbers or text, such as numpy.asarray(x, dtype='float32')"
        )
    offset = npy.MAGIC_LEN + len(length) + size
    return Layout(dtype, tuple(int(length) for length in shape), "F" if fortran else "C", offset)


@lru_cache(maxsize=16)  # the files of a folder are alike
def _parsed(text: bytes, first: bool) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    read = npy.read_array_header_1_0 if first else npy.read_array_header_2_0
    try:
        with warnings.catch_warnings():  # headers by Python 2 are read with a warning that helps nobody here
            warnings.simplefilter("ignore")
            return read(io.BytesIO(text))
    except BROKEN as error:  # NumPy's words are not repeated: some advise to allow pickles
        raise ValueError("no dtype, order and shape") from error


def check_length(where: str, layout: Layout, size: int) -> None:
    """Raise DataError unless header and values fill a file of `size` bytes."""
    found = size - layout.offset
    if layout.size != found or (layout.dtype.itemsize == 0 and 0 not in layout.shape):
        what = "is truncated" if found < layout.size else "has bytes behind its array"
        raise DataError(
            f"{where} {what}: its header says {layout.dtype} {show_shape(layout.shape)}, that is {layout.size} bytes "
            f"of values, but {found} are there; write it again"
        )
