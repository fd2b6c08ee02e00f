"""How a tensor of a module lies in the constants of a file.

A file's constant holds the axes in ONNX's order: (out, in), (out, in, height, width). A module's tensor has them like
that or, as a weight that MatMul reads, and all of Keras and Flax, in the order (height, width, in, out). Either way its
values stand in a row, all of them, or in blocks: an exporter joins the tensors of an LSTM, parts query, key and value,
and puts gates into another order (ONNX's i, o, f, c; PyTorch's i, f, g, o; Keras' i, f, c, o).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from onnx_lsuv.model import Array

BLOCKS = (1, 2, 3, 4)  # into which a tensor may be cut: keys and values; query, key and value, a GRU's; an LSTM's


@dataclass(frozen=True, slots=True)
class Part:
    """Values that stand in a row once the axes of a constant are in the order of the module."""

    constant: str  # its name in the program
    axes: tuple[int, ...]
    start: int
    size: int

    def of(self, values: Array) -> Array:
        """Return them, of the constant's values, as one row."""
        return values.transpose(self.axes).reshape(-1)[self.start : self.start + self.size]


@dataclass(frozen=True, slots=True)
class View:
    """The parts that a tensor is made of, in order; where it is `turned`, its two axes are swapped then."""

    parts: tuple[Part, ...]
    turned: bool = False

    @property
    def size(self) -> int:
        """The number of values."""
        return sum(part.size for part in self.parts)

    def tensor(self, shape: Sequence[int], values: Callable[[str], Array]) -> Array:
        """Return the tensor, of that shape; `values` gives those of a constant."""
        rows = [part.of(values(part.constant)) for part in self.parts]
        row = rows[0] if len(rows) == 1 else np.concatenate(rows)
        return row.reshape(shape[::-1]).T if self.turned else row.reshape(shape)


def orders(rank: int) -> Iterator[tuple[int, ...]]:
    """Yield the orders of axes in which a module may have a tensor: as it is; from (out, in, ...) to (..., in, out)."""
    yield tuple(range(rank))
    if rank >= 2:
        yield (*range(2, rank), 1, 0)


def whole(constant: str, shape: Sequence[int], axes: tuple[int, ...] | None = None) -> View:
    """Return the view of a constant that is all of a tensor."""
    size = int(np.prod(shape, dtype=np.int64))
    return View((Part(constant, tuple(range(len(shape))) if axes is None else axes, 0, size),))


def digest(values: Array) -> bytes:
    """Return a digest of values in their order, whatever their shape."""
    return blake2b(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data, digest_size=16).digest()
