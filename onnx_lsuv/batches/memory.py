"""What is held in memory: one batch, and arrays that would otherwise be read or unpacked again for every pass.

A file's own bytes may be mapped and cost no memory. What does is a batch that is unpacked, or converted to another
type; it has to stay within the limit. An input whose values are few is read once, however many files hold them; one
that a single packed file holds is unpacked once if that stays within the limit too. What is more is read and unpacked
batch by batch in every pass. So what is unpacked takes twice the limit at most, and what is read SMALL bytes an input.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from onnx_lsuv.batches.inputs import Input
from onnx_lsuv.batches.stored import SMALL, Stored, rows_of
from onnx_lsuv.batches.values import Piece
from onnx_lsuv.errors import DataError, quote

Plan = Sequence[Mapping[str, Piece]]


def check_memory(inputs: Sequence[Input], batches: Plan, limit: int) -> None:
    """Raise DataError where a batch takes more memory than the limit."""
    for batch in batches:
        costs = {each: _cost(each, batch[each.name]) for each in inputs}
        if sum(costs.values()) > limit:
            most = max(costs, key=lambda each: costs[each])
            cut = "" if most.fixed is not None else "cut it with '--batch-size', give fewer with '--samples', or "
            raise DataError(
                f"a batch takes {sum(costs.values())} bytes of memory once it is unpacked and converted, more than the "
                f"limit of {limit}, most of it for input {quote(most.name)} from {batch[most.name].stored.where}; {cut}"
                "allow more with '--memory'"
            )


def _cost(each: Input, piece: Piece) -> int:
    stored, want = piece.stored, each.dtype
    unpacked = math.prod(piece.shape if stored.apart else stored.shape) * stored.dtype.itemsize if stored.packed else 0
    return unpacked + (math.prod(piece.shape) * want.itemsize if want != stored.dtype else 0)


def check_sums(batches: Plan) -> None:
    """Raise DataError where all values of an array are used, and their checksum is another than the file's."""
    seen: set[int] = set()
    for piece in (piece for batch in batches for piece in batch.values()):
        stored = piece.stored
        if stored.check is not None and id(stored) not in seen and piece.stop in (None, *stored.shape[:1]):
            seen.add(id(stored))
            stored.check()


def hold(inputs: Sequence[Input], batches: Plan, limit: int) -> list[dict[str, Piece]]:
    """Return the batches with arrays held in memory where that saves to read them again."""
    result: list[dict[str, Piece]] = [dict(batch) for batch in batches]
    for each in inputs:
        pieces = [batch[each.name] for batch in result]
        used: dict[Stored, int | None] = {}  # the rows of each array from its first to before this one
        for piece in pieces:
            used[piece.stored] = None if piece.stop is None else max(piece.stop, used.get(piece.stored) or 0)
        size = sum(math.prod(Piece(one, 0, stop).shape) * one.dtype.itemsize for one, stop in used.items())
        packed = any(one.packed for one in used)
        if size > (SMALL if not packed else limit if len(used) == 1 else min(SMALL, limit)):
            continue
        limit -= size * packed
        there = {one: replace(one, load=rows_of(one.load(0, stop)), packed=False) for one, stop in used.items()}
        made = {id(piece): replace(piece, stored=there[piece.stored]) for piece in pieces}  # what is repeated stays so
        for batch, piece in zip(result, pieces, strict=True):
            batch[each.name] = made[id(piece)]
    return result
