"""Replace pieces of a protobuf message in place: everything else stays, byte for byte.

When a replacement is longer or shorter than what it replaces, the lengths of the messages around it change. Only these
length varints are written anew; one that keeps its value keeps its bytes, even where they are not the shortest form.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from onnx_lsuv.model.wire import BYTES, Span, varint

Piece = memoryview | bytes


@dataclass(frozen=True, slots=True)
class Edit:
    """Put `pieces` in the place of the bytes from `start` to `end`, inside the message (or packed list) `owner`.

    Equal `start` and `end` insert; that is done only at the end of `owner`. `owner` None: not inside any message.
    """

    start: int
    end: int
    pieces: tuple[Piece, ...]
    owner: Span | None

    @property
    def growth(self) -> int:
        """By how many bytes the edit makes its owner longer."""
        return sum(map(len, self.pieces)) - (self.end - self.start)


def without(span: Span) -> Edit:
    """Return the edit that leaves a message out."""
    return Edit(span.tag, span.end, (), span.parent)


def with_field(span: Span, number: int, *pieces: Piece) -> Edit:
    """Return the edit that adds a field of bytes at the end of a message."""
    head = varint(number << 3 | BYTES) + varint(sum(map(len, pieces)))
    return Edit(span.end, span.end, (head, *pieces), span)


def splice(view: memoryview, edits: Iterable[Edit]) -> list[Piece]:
    """Return the pieces that, joined, are `view` with all edits made; nothing large is copied."""
    edits = list(edits)
    edits += _lengths(edits)
    # Insertions at one offset belong to nested messages that all end there: the innermost one's comes first.
    edits.sort(key=lambda edit: (edit.start, edit.end, -(edit.owner.depth if edit.owner else 0)))
    pieces: list[Piece] = []
    at = 0
    for edit in edits:
        if edit.start < at:
            raise AssertionError(f"two edits at byte {edit.start}")
        if edit.start > at:
            pieces.append(view[at : edit.start])
        pieces += edit.pieces
        at = edit.end
    pieces.append(view[at:])
    return pieces


def _lengths(edits: list[Edit]) -> list[Edit]:
    """Return the edits of the length varints that `edits` make necessary."""
    growth: defaultdict[int, int] = defaultdict(int)
    around: dict[int, Span] = {}  # by the offset of the length, which no two messages share

    def grow(span: Span | None, by: int) -> None:
        while span is not None and span.parent is not None:
            around[span.size] = span
            growth[span.size] += by
            span = span.parent

    for edit in edits:
        if edit.growth:
            grow(edit.owner, edit.growth)
    lengths = []
    # A length that takes another byte makes the messages around it longer, so go from the inside out.
    for span in sorted(around.values(), key=lambda span: -span.depth):
        if growth[span.size]:
            new = varint(span.end - span.start + growth[span.size])
            lengths.append(Edit(span.size, span.start, (new,), span.parent))
            grow(span.parent, len(new) - (span.start - span.size))
    return lengths
