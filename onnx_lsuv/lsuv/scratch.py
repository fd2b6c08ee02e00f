"""Arrays that move to a file once a budget of memory is spent.

The file has no name (or goes when it is closed), so nothing is left behind; its pages are the system's to write out
and drop, which lets a model larger than memory go through. What batches give is joined within the same budget.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from onnx_lsuv.batches import Layout, Load, default_limit, rows_of
from onnx_lsuv.errors import OutputError
from onnx_lsuv.model import Array

PREFIX = ".onnx-lsuv-"
_SEGMENT = 1 << 26  # bytes of a file for mapped arrays, at least
_ALIGNMENT = 64
# So many values, of so many batches, are joined in float32 first, which takes a fifth of the time.
LONG, BLOCK = 1 << 15, 16


@dataclass(slots=True, weakref_slot=True, eq=False)
class Scratch:
    """A budget of memory in bytes, and the folder for what goes beyond it."""

    budget: int
    folder: Path | None = None
    spent: int = 0
    file: BinaryIO | None = None  # that `rows` share
    segment: tuple[BinaryIO, np.memmap[Any, np.dtype[np.uint8]]] | None = None  # to which `mapped` adds
    filed: int = 0  # bytes of all segments

    @classmethod
    def within(cls, memory: int | None, folder: Path | None = None) -> Scratch:
        """Return one with a budget of so many bytes; None for half of what the machine has."""
        return cls(default_limit() if memory is None else memory, folder)

    def reserve(self, size: int) -> bool:
        """Take bytes from the budget; return whether they were there."""
        if self.spent + size > self.budget:
            return False
        self.spent += size
        return True

    def release(self, size: int) -> None:
        """Give bytes back."""
        self.spent -= size

    def keep(self, array: Array) -> Array:
        """Return the array itself, or beyond the budget a copy of it that is mapped from a file."""
        return array if self.reserve(array.nbytes) else self.mapped(array)

    def rows(self, array: Array) -> Load:
        """Return how to load rows of a copy of an array: from memory up to half of the budget, else from a file.

        The file is read, not mapped, and one for all such arrays: there may be a hundred thousand.

        Raises:
            OutputError: there is no room for the file.
        """
        if array.dtype.hasobject or (self.spent + array.nbytes <= self.budget // 2 and self.reserve(array.nbytes)):
            return rows_of(array.copy())
        with self._writing(array.nbytes):
            if self.file is None:
                self.file = self._open()
            layout = Layout(array.dtype, array.shape, offset=self.file.seek(0, os.SEEK_END))
            _write(self.file, array)
        return layout.loader(self._read)

    def _read(self, part: Layout) -> NDArray[np.uint8]:
        assert self.file is not None
        values = np.empty(part.size, np.uint8)
        self.file.seek(part.offset)
        left = values.data
        while left and (read := self.file.readinto(left)):  # type: ignore[attr-defined]  # of a raw file
            left = left[read:]
        return values

    def mapped(self, array: Array) -> Array:
        """Return a copy of an array that is mapped from a file.

        Raises:
            OutputError: there is no room for the file.
        """
        if not array.nbytes:
            return array
        with self._writing(array.nbytes):
            # What is mapped keeps a file open, and a process may have a thousand: so many arrays share one, and each
            # file is larger than the last. Its space is taken as it is written, and given back with its last array.
            start = -(-self.segment[0].tell() // _ALIGNMENT) * _ALIGNMENT if self.segment else 0
            if self.segment is None or start + array.nbytes > self.segment[1].size:
                if self.segment is not None:
                    self.segment[0].close()
                file, start, size = self._open(), 0, max(array.nbytes, _SEGMENT, self.filed // 16)
                file.truncate(size)
                self.segment, self.filed = (file, np.memmap(file, np.uint8, "r+", shape=(size,))), self.filed + size
            file, space = self.segment
            file.seek(start)
            _write(file, array)
            return space[start : start + array.nbytes].view(array.dtype).reshape(array.shape)

    def _open(self) -> BinaryIO:
        made = cast("BinaryIO", tempfile.TemporaryFile(dir=self.folder, prefix=PREFIX, buffering=0))  # noqa: SIM115  (stays open)
        finalize(self, made.close)
        return made

    @contextmanager
    def _writing(self, size: int) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(
                f"{size} bytes of scratch space were needed in {str(self.folder or tempfile.gettempdir())!r}: "
                f"{error.strerror}; free some, or allow more memory with '--memory' (memory=)"
            ) from error


@dataclass(slots=True)
class Joined:
    """What batches give of a value, joined, unless it is not as large in all of them."""

    join: np.ufunc
    scratch: Scratch
    size: int | None = None  # -1 where they differ
    whole: Array | None = None  # float64
    part: Array | None = None  # of the last batches, many float32 values
    number: int = 0  # of these
    held: int = 0  # bytes of the budget

    def add(self, array: Array) -> None:
        """Join what one more batch gives, an array that may be written to."""
        self.size = array.size if self.size in (None, array.size) else -1
        if self.size < 0:
            self.whole = self.part = None
        elif array.dtype != np.float32 or array.size < LONG:
            self._to_whole(array)
        elif self.part is None:
            self.part, self.number = self._keep(array), 1
        else:
            if self.number:
                self.join(self.part, array, out=self.part)
            else:
                self.part[:] = array
            self.number += 1
            if self.number == BLOCK:
                self._to_whole(self.part)
                self.number = 0

    def values(self) -> Array | None:
        """Return what all batches gave; None where it is not as large in all of them."""
        if self.whole is None:
            return self.part
        if self.part is not None and self.number:
            self._to_whole(self.part)
        return self.whole

    def _to_whole(self, array: Array) -> None:
        if self.whole is None:
            self.whole = self._keep(array.astype(np.float64))
        else:
            self.join(self.whole, array, out=self.whole)

    def _keep(self, array: Array) -> Array:
        kept = self.scratch.keep(array)
        self.held += 0 if isinstance(kept, np.memmap) else kept.nbytes
        return kept


def _write(file: BinaryIO, array: Array) -> None:
    # Written, not only mapped: a full disk is an error here and a crash there.
    left = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    while left:
        left = left[file.write(left) :]
