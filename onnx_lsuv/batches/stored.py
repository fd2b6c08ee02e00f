"""An array at rest: where it lies, its dtype and shape, and how to get its values.

Every reader returns these after looking at a header only, so that data can be checked against the model before
gigabytes are touched, and a folder of a hundred thousand files is no hundred thousand open mappings.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnx_lsuv.batches.advice import missing_advice
from onnx_lsuv.batches.inputs import quote
from onnx_lsuv.errors import DataError

Array = NDArray[Any]

# What people hand over by mistake, by its first bytes.
MISTAKES = (
    (b"version https://git-lfs", "a git-LFS pointer (run `git lfs pull`)"),
    (b"<!doctype html", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"\x93numpy", "a .npy file"),
    (b"pk\x03\x04", "a zip archive, as .npz and .pt files are"),
    (b"\x1f\x8b", "a gzip file"),
    (b"\x89hdf", "an HDF5 file"),
    (b"\x89png", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x80", "a Python pickle, which is never opened"),
)


@dataclass(frozen=True, slots=True)
class Layout:
    """How an array lies in a file: `order` "C" or "F", `offset` in bytes of the first value."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    order: Literal["C", "F"] = "C"
    offset: int = 0

    @property
    def size(self) -> int:
        """The number of bytes that the values take."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Stored:
    """One array of the data: its key in the file, how messages name its place, and `load` for its values."""

    key: str | None  # None: the file holds one array without a name
    where: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    load: Callable[[], Array]


def held(key: str | None, where: str, array: Array) -> Stored:
    """Return an array in memory as a stored one."""
    return Stored(key, where, array.dtype, array.shape, lambda: array)


def map_array(path: Path, where: str, layout: Layout) -> Array:
    """Map the values of an array in a file; raises DataError where they are not there."""
    if layout.size == 0:  # an empty range cannot be mapped
        return np.zeros(layout.shape, layout.dtype)
    try:
        mapped = np.memmap(path, dtype=np.uint8, mode="r", offset=layout.offset, shape=(layout.size,))
        return np.asarray(mapped).view(layout.dtype).reshape(layout.shape, order=layout.order)
    except (OSError, ValueError) as error:
        raise DataError(f"{where} could not be mapped into memory: {reason(error)}") from error


def size_of(path: Path) -> int:
    """Return the size of a regular file that is not empty; raises DataError for anything else."""
    try:
        if not path.is_file():
            what = "a directory" if path.is_dir() else "no regular file" if path.exists() else "missing"
            if what == "missing" and (near := missing_advice(path)):
                raise DataError(f"the data file {quote(path)} is missing{near}")
            raise DataError(f"the data file {quote(path)} is {what}; give a .npy, .npz, .safetensors or .pb file")
        size = path.stat().st_size
    except (OSError, ValueError) as error:
        raise DataError(f"the data file {quote(path)} cannot be read: {reason(error)}") from error
    if size == 0:
        raise DataError(f"the data file {quote(path)} is empty (0 bytes); write it again")
    return size


def looks_like(path: Path, otherwise: str) -> str:
    """Say what a file that could not be read is, judged by its first bytes."""
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        return f"cannot be read: {reason(error)}"
    for magic, name in MISTAKES:
        if start.lstrip().lower().startswith(magic) or start.lower().startswith(magic):
            return f"is {name}"
    if all(byte >= 0x20 or byte in b"\t\r\n" for byte in start):
        return "is a text file"
    return otherwise


def reason(error: BaseException) -> str:
    """Return what a foreign exception says, on one printable line, without the path that the sentence names."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split())[:200] or type(error).__name__
    return "".join(char if char.isprintable() else "?" for char in text)


def default_limit() -> int:
    """Return how many bytes of data may be held in memory at once: half of the physical memory."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, ValueError, OSError):  # not every system says
        return 8 << 30
