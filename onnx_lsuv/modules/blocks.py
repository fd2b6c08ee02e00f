"""Tensors that a file has in pieces, or together with others: gates in another order, query, key and value."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from onnx_lsuv.model import Array
from onnx_lsuv.modules.search import Match, Search, as_type
from onnx_lsuv.modules.views import BLOCKS, Part, View, digest, orders
from onnx_lsuv.roles import is_alike

PIECES = 64  # of one constant at most


def by_blocks(search: Search) -> None:
    """Find tensors whose values the file holds in pieces, or together with others'."""
    pieces = _Pieces(search)
    used = set[Part]()
    for name in search.left():
        values = search.reference.read(name)
        if values.size < 2 or is_alike(values):
            continue
        for view in _views(values, pieces, used):
            search.found[name] = Match("value", view)
            used.update(view.parts)
            break


def _views(values: Array, pieces: _Pieces, used: set[Part]) -> Iterator[View]:
    for turned in (False, True) if values.ndim == 2 else (False,):
        row = (values.T if turned else values).reshape(-1)
        length = values.shape[-1] if turned else values.shape[0]
        for count in BLOCKS:
            if length % count:
                continue
            parts = [pieces.find(block, used) for block in np.split(row, count)]
            if all(parts):
                yield View(tuple(part for part in parts if part), turned)


@dataclass
class _Pieces:
    """The constants that no tensor has, cut into pieces of a size, by their values."""

    search: Search
    cut: dict[int, dict[bytes, list[Part]]] = field(default_factory=dict)

    def find(self, block: Array, used: set[Part]) -> Part | None:
        """Return the first piece with these values that no tensor has."""
        if block.size not in self.cut:
            self.cut[block.size] = self._cut(block.size)
        if not self.cut[block.size]:
            return None
        found = [each for key in self._keys(block) for each in self.cut[block.size].get(key, ())]
        return next((part for part in found if part not in used), found[0] if found else None)

    def _keys(self, block: Array) -> set[bytes]:
        return {digest(as_type(block, np.empty(0, dtype))) for dtype in self._types}

    @cached_property
    def _free(self) -> list[str]:
        program = self.search.program
        return [n for n in self.search.free() if program.constants[n].size > 1 and not program.is_absent(n)]

    @cached_property
    def _types(self) -> set[np.dtype[np.generic]]:
        return {self.search.old(name).dtype for name in self._free}

    def _cut(self, size: int) -> dict[bytes, list[Part]]:
        found = defaultdict[bytes, list[Part]](list)
        for name in self._free:
            total = self.search.program.constants[name].size
            if total % size or not 0 < total // size <= PIECES:
                continue
            old = self.search.old(name)
            for axes in orders(old.ndim):
                row = old.transpose(axes).reshape(-1)
                for start in range(0, total, size):
                    found[digest(row[start : start + size])].append(Part(name, axes, start, size))
        return found
