"""An array at rest: its dtype and shape, and how to get its values, all of them or some rows; files are opened here.

Every reader returns these after looking at a header only, so that data can be checked against the model before
gigabytes are touched, and a folder of a hundred thousand files is no hundred thousand open files.

What is mapped from a file that somebody cuts short ends the process with SIGBUS, and nothing in Python can catch it. So
what is small is read, and before each use of what is mapped the file is seen to be long enough. What remains is a file
that is cut while the values of a batch of more than SMALL bytes are in use.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from io import BufferedReader
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnx_lsuv.batches.advice import missing_advice
from onnx_lsuv.batches.formats import FORMATS
from onnx_lsuv.batches.inputs import AXES
from onnx_lsuv.errors import DataError, quote
from onnx_lsuv.model import Array
from onnx_lsuv.model.kinds import recognise
from onnx_lsuv.model.opening import NotRegularError, open_regular

Load = Callable[[int, int | None], Array]
MOST = 10_000  # arrays in one file
LARGEST = (1 << 63) - 1  # length, and number of bytes, that NumPy can count
SMALL = 1 << 26  # bytes that are read and not mapped: some 20 ms, as a file in the cache is


@dataclass(frozen=True, slots=True)
class Layout:
    """How an array lies in a file: `order` "C" or "F", `offset` in bytes of the first value.

    Raises ValueError for what no array can be; NumPy counts bytes as if lengths of 0 were 1.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    order: Literal["C", "F"] = "C"
    offset: int = 0

    def __post_init__(self) -> None:
        if len(self.shape) > AXES:
            raise ValueError(f"{len(self.shape)} axes, where an array has at most {AXES}")
        if any(length < 0 for length in self.shape):
            raise ValueError("a negative length")
        # Each by itself first: the product of numbers of thousands of digits takes minutes.
        if any(length > LARGEST for length in self.shape) or (
            max(1, self.dtype.itemsize) * math.prod(filter(None, self.shape)) > LARGEST
        ):
            raise ValueError("lengths that no array can have")

    @property
    def size(self) -> int:
        """The number of bytes that the values take."""
        return math.prod(self.shape) * self.dtype.itemsize

    def rows(self, start: int, stop: int | None) -> Layout:
        """Return the layout of rows `start` to `stop`, which lie together in order "C" alone; of all for None."""
        if stop is None or not self.shape or self.shape[0] == 0 or self.order == "F":
            return self
        row = self.size // self.shape[0]
        return replace(self, shape=(stop - start, *self.shape[1:]), offset=self.offset + start * row)

    def loader(self, read: Callable[[Layout], NDArray[np.uint8]]) -> Load:
        """Return how to load rows of the array, made of the bytes that `read` gives where they lie."""

        def load(start: int, stop: int | None) -> Array:
            part = self.rows(start, stop)
            array: Array = read(part).view(part.dtype).reshape(part.shape, order=part.order)
            return array if part is not self or stop is None else array[start:stop]

        return load


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """One array of the data.

    key:    its name in the file; None: the file holds one array without a name.
    where:  how messages name its place.
    load:   gives the rows from one to before another, or for None all of it.
    packed: whether its values take memory, and time, each time that they are asked for;
    apart:  whether then only the rows asked for take memory, not all of it.
    check:  compares all of its values with the checksum that lies beside them.
    flat:   whether the values of a row stand side by side, whatever the shape of a sample, as in a table.
    """

    key: str | None
    where: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    load: Load
    packed: bool = False
    apart: bool = True
    check: Callable[[], None] | None = None
    flat: bool = False


Reader = Callable[[Path, Sequence[str], int], list[Stored]]
"""Reads the headers of a file: its path, the inputs' names, the bytes that this may take -> its arrays; DataError."""


def held(where: str, array: Array, key: str | None = None) -> Stored:
    """Return an array in memory as a stored one."""
    return Stored(key, where, array.dtype, array.shape, rows_of(array))


def in_file(key: str | None, where: str, path: Path, layout: Layout, check: Callable[[], None] | None = None) -> Stored:
    """Return an array that lies in a file as it is."""

    def read(part: Layout) -> NDArray[np.uint8]:
        if part.size == 0:
            return np.empty(0, np.uint8)
        try:
            with open_file(path) as file:
                return _bytes(file, part)
        except (OSError, ValueError) as error:
            raise DataError(f"{where} cannot be read: {reason(error)}") from error

    return Stored(key, where, layout.dtype, layout.shape, layout.loader(read), check=check)


def _bytes(file: BufferedReader, part: Layout) -> NDArray[np.uint8]:
    there = size_of(file) >= part.offset + part.size
    if there and part.size > SMALL:
        return np.asarray(np.memmap(file, np.uint8, "r", part.offset, (part.size,)))
    values = np.empty(part.size if there else 0, np.uint8)
    file.seek(part.offset)
    if file.readinto(values.data) != part.size:
        raise ValueError("the file became shorter while it was in use; run again when it stays as it is")
    return values


def rows_of(array: Array) -> Load:
    """Return how to load rows of an array in memory."""
    return lambda start, stop: array if stop is None else array[start:stop]


def reason(error: BaseException) -> str:
    """Return what a foreign exception says, on one printable line, without the path that the sentence names."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split())[:200] or type(error).__name__
    return "".join(char if char.isprintable() else "?" for char in text)


def default_limit() -> int:
    """Return how many bytes may be held in memory at once where nobody says: half of the physical memory."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, ValueError, OSError):  # not every system says
        return 8 << 30


def open_file(path: Path) -> BufferedReader:
    """Open a regular file that is not empty; raises DataError for anything else."""
    what = f"the data file {quote(path)}"
    try:
        file = open_regular(path)
    except NotRegularError as error:
        kind = "a directory" if error.is_folder else "no regular file"
        raise DataError(f"{what} is {kind}; give a {_formats()} file") from None
    except FileNotFoundError as error:
        raise DataError(f"{what} is missing{missing_advice(path) or f'; give a {_formats()} file'}") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{what} cannot be read: {reason(error)}") from error
    if size_of(file) == 0:
        file.close()
        raise DataError(f"{what} is empty (0 bytes); write it again")
    return file


def _formats() -> str:
    *most, last = FORMATS
    return f"{', '.join(most)} or {last}"


def size_of(file: BufferedReader) -> int:
    """Return the size of an open file as it is now."""
    return os.fstat(file.fileno()).st_size


def optional(module: str, where: str, package: str) -> ModuleType:
    """Import what reads some formats only; raises DataError that says which package it is."""
    try:
        return import_module(module)
    except ImportError as error:
        name = {"PIL.Image": "Pillow", "torch": "PyTorch"}.get(module, module.partition(".")[0])
        why = f"{where} needs {name}, which cannot be imported ({reason(error)})"
        raise DataError(f"{why}: pip install '{package}', or give another format") from error


def looks_like(path: Path, otherwise: str) -> str:
    """Say what a file that could not be read is, judged by its first bytes."""
    try:
        with open_file(path) as file:
            start = file.read(512)
            kind = recognise(start, size_of(file)).data
    except (OSError, DataError):  # it was there a moment ago
        return otherwise
    if kind:
        return f"is {kind}"
    return "is a text file" if all(byte >= 0x20 or byte in b"\t\r\n" for byte in start) else otherwise
