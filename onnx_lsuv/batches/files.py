"""Files of data: opened without waiting for what is no file, and their values read, or mapped where they are many.

What is mapped from a file that somebody cuts short ends the process with SIGBUS, and nothing in Python can catch it. So
what is small is read, and before each use of what is mapped the file is seen to be long enough. What remains is a file
that is cut while the values of a batch of more than SMALL bytes are in use.
"""

from __future__ import annotations

import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np

from onnx_lsuv.batches.advice import missing_advice
from onnx_lsuv.batches.stored import Array, Layout, reason
from onnx_lsuv.errors import DataError, quote

SMALL = 1 << 26  # bytes that are read and not mapped: some 20 ms, as a file in the cache is

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


def open_file(path: Path) -> BufferedReader:
    """Open a regular file that is not empty; raises DataError for anything else."""
    what = f"the data file {quote(path)}"
    try:
        # Looked at before it is opened, as a device may act on that, and after, as another may stand there now.
        _check_kind(what, path.stat())
        # A pipe without a writer would be waited for; not all systems have the flags.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        file = os.fdopen(os.open(path, flags), "rb")
    except FileNotFoundError as error:
        advice = missing_advice(path) or "; give a .npy, .npz, .safetensors or .pb file"
        raise DataError(f"{what} is missing{advice}") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{what} cannot be read: {reason(error)}") from error
    try:
        status = os.fstat(file.fileno())
        _check_kind(what, status)
        if status.st_size == 0:
            raise DataError(f"{what} is empty (0 bytes); write it again")
    except BaseException:
        file.close()
        raise
    return file


def _check_kind(what: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "no regular file"
        raise DataError(f"{what} is {kind}; give a .npy, .npz, .safetensors or .pb file")


def size_of(file: BufferedReader) -> int:
    """Return the size of an open file as it is now."""
    return os.fstat(file.fileno()).st_size


def load_rows(path: Path, where: str, layout: Layout, start: int = 0, stop: int | None = None) -> Array:
    """Return rows of an array in a file; raises DataError where they are not there any more."""
    part = layout.rows(start, stop)
    array: Array = np.zeros(part.shape, part.dtype) if part.size == 0 else _read(path, where, part)
    return array if part is not layout or stop is None else array[start:stop]


def _read(path: Path, where: str, part: Layout) -> Array:
    try:
        with open_file(path) as file:
            return _values(file, part).view(part.dtype).reshape(part.shape, order=part.order)
    except (OSError, ValueError) as error:
        raise DataError(f"{where} cannot be read: {reason(error)}") from error


def _values(file: BufferedReader, part: Layout) -> np.ndarray[Any, np.dtype[np.uint8]]:
    if size_of(file) < part.offset + part.size:
        raise ValueError("the file became shorter while it was in use; run again when it stays as it is")
    if part.size > SMALL:
        return np.asarray(np.memmap(file, dtype=np.uint8, mode="r", offset=part.offset, shape=(part.size,)))
    values = np.empty(part.size, np.uint8)
    file.seek(part.offset)
    if file.readinto(values.data) != part.size:
        raise ValueError("the file became shorter while it was in use; run again when it stays as it is")
    return values


def looks_like(path: Path, otherwise: str) -> str:
    """Say what a file that could not be read is, judged by its first bytes."""
    try:
        with open_file(path) as file:
            start = file.read(512)
    except (OSError, DataError):  # it was there a moment ago
        return otherwise
    for magic, name in MISTAKES:
        if start.lstrip().lower().startswith(magic) or start.lower().startswith(magic):
            return f"is {name}"
    if all(byte >= 0x20 or byte in b"\t\r\n" for byte in start):
        return "is a text file"
    return otherwise
