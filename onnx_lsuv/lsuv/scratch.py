"""Arrays that move to a file once a budget of memory is spent.

The file has no name (or goes when it is closed), so nothing is left behind; its pages are the system's to write out
and drop, which lets a model larger than memory go through.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnx_lsuv.errors import OutputError
from onnx_lsuv.model import Array


@dataclass(slots=True)
class Scratch:
    """A budget of memory in bytes, and the folder for what goes beyond it."""

    budget: int
    folder: Path | None = None
    spent: int = 0

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

    def mapped(self, array: Array) -> Array:
        """Return a copy of an array that is mapped from a file.

        Raises:
            OutputError: there is no room for the file.
        """
        if not array.nbytes:
            return array
        try:
            with tempfile.TemporaryFile(dir=self.folder, prefix=".onnx-lsuv-") as file:
                # Written, not only mapped: a full disk is an error here and a crash there.
                file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
                file.flush()
                return np.memmap(file, dtype=array.dtype, mode="r+", shape=array.shape)
        except OSError as error:
            raise OutputError(
                f"{array.nbytes} bytes of scratch space were needed in {str(self.folder or tempfile.gettempdir())!r}: "
                f"{error.strerror}; free some, or allow more memory with '--memory' (memory=)"
            ) from error
