"""An array at rest: its dtype and shape, and how to get its values, all of them or some rows.

Every reader returns these after looking at a header only, so that data can be checked against the model before
gigabytes are touched, and a folder of a hundred thousand files is no hundred thousand open files.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnx_lsuv.batches.inputs import AXES

Array = NDArray[Any]
Load = Callable[[int, int | None], Array]
MOST = 10_000  # arrays in one file
LARGEST = (1 << 63) - 1  # length, and number of bytes, that NumPy can count


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


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """One array of the data.

    key:    its name in the file; None: the file holds one array without a name.
    where:  how messages name its place.
    load:   gives the rows from one to before another, or for None all of it.
    packed: whether its values take memory, and time, each time that they are asked for;
    apart:  whether then only the rows asked for take memory, not all of it.
    check:  compares all of its values with the checksum that lies beside them.
    """

    key: str | None
    where: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    load: Load
    packed: bool = False
    apart: bool = True
    check: Callable[[], None] | None = None


def held(key: str | None, where: str, array: Array) -> Stored:
    """Return an array in memory as a stored one."""
    return Stored(key, where, array.dtype, array.shape, rows_of(array))


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


def batch_limit() -> int:
    """Return how many bytes one batch may be unpacked to where nobody says: running it takes several times as much."""
    return default_limit() // 4
