"""Columns that fit a width, counted as a terminal counts: wide characters take two columns, combining ones none.

Where room is lacking, names are shortened in the middle first, as their ends tell them apart; then whole columns go.
"""

from __future__ import annotations

import math
import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace

from onnx_lsuv.report.columns import RIGHT, Column

GAP = 2
LEAST = 6  # what is left of a name in the narrowest terminal
CODES = {"bold": "1", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}  # SGR, ECMA-48 8.3.117
Cells = tuple[Column, Sequence[str]]  # of a column, already cleaned


def breadth(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.category(c) in ("Mn", "Me") else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def shortened(text: str, width: int, head: int | None = None) -> str:
    """Return a name cut to a width: in the middle, as its ends tell it apart, or after so many columns."""
    if breadth(text) <= width:
        return text
    if width < 4:
        return _head(text, width)
    head = (width - 2) // 2 if head is None else head
    return f"{_head(text, head)}..{_head(text[::-1], width - 2 - head)[::-1]}"


def _head(text: str, width: int) -> str:
    if text.isascii():
        return text[:width]
    taken = 0
    for i, char in enumerate(text):
        taken += breadth(char)
        if taken > width:
            return text[:i]
    return text


def painted(text: str, code: str | None) -> str:
    """Return a text in a colour, a key of CODES; unchanged for None."""
    return text if code is None else f"\x1b[{CODES[code]}m{text}\x1b[0m"


def table(columns: Sequence[Cells], width: int, paint: Mapping[str, str] | None = None) -> str:
    """Return the columns side by side, not wider than the width if that can be had.

    With `paint` the head is bold, and a cell of an outcome that is a key of it has the colour that it says.
    """
    fitting = list(columns)
    while _least_room(fitting) > width and _drop(fitting):
        pass
    if _least_room(fitting) > width:
        fitting = [(replace(column, least=min(column.least, LEAST)), cells) for column, cells in fitting]
    while True:
        widths = _widths(fitting, width)
        cut = [_cut(*each, w) for each, w in zip(fitting, widths, strict=True)]
        # Names that look the same say less than the columns beside them.
        if len(set(cut[0])) == len(set(fitting[0][1])) or not _drop(fitting):
            break
    kept, colours = [column for column, _ in fitting], paint or {}
    lines = [_line(kept, widths, [_title(column) for column in kept], ["bold" if paint else None] * len(kept))]
    for row in zip(*cut, strict=True):
        codes = [colours.get(cell) if each.kind == "outcome" else None for each, cell in zip(kept, row, strict=True)]
        lines.append(_line(kept, widths, row, codes))
    return "\n".join(lines)


def _drop(columns: list[Cells]) -> bool:
    """Take out the column that goes first; return False where none may go."""
    first = max(columns, key=lambda each: each[0].drop)
    if first[0].drop:
        columns.remove(first)
    return first[0].drop > 0


def _widths(columns: Sequence[Cells], width: int) -> list[int]:
    widths = [_natural(*each) for each in columns]
    while sum(widths) + GAP * (len(widths) - 1) > width:
        able = [i for i, (column, _) in enumerate(columns) if column.least and widths[i] > column.least]
        if not able:
            break
        widths[max(able, key=widths.__getitem__)] -= 1
    return widths


def _cut(column: Column, whole: Sequence[str], width: int) -> list[str]:
    """Return the cells cut to a width, at the place nearest the middle that keeps most of them apart."""
    if not column.least or _natural(column, whole) <= width:
        return [shortened(cell, width) for cell in whole]
    apart = len(set(whole))
    best: list[str] = []
    # Where no place will do, what all have in front goes first.
    for start, room in ((0, width), (_common(whole), width - 2)):
        middle = max(room - 2, 0) // 2
        for head in (at for step in range(middle + 2) for at in (middle - step, middle + step) if 0 <= at <= room - 2):
            cells = [".." * bool(start) + shortened(cell[start:], room, head) for cell in whole]
            if not best or len(set(cells)) > len(set(best)):
                best = cells
            if len(set(best)) == apart:
                return best
    return best or [shortened(cell, width) for cell in whole]


def _common(cells: Sequence[str]) -> int:
    """Return how many characters all cells have in common at the start."""
    first, last = min(cells), max(cells)
    return next((i for i, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), len(first))


def _title(column: Column) -> str:
    return column.short or column.heading


def _natural(column: Column, cells: Sequence[str]) -> int:
    return max(map(breadth, (_title(column), *cells)))


def _least_room(columns: Sequence[Cells]) -> int:
    widths = (min(column.least or math.inf, _natural(column, cells)) for column, cells in columns)
    return int(sum(widths)) + GAP * (len(columns) - 1)


def _line(columns: Sequence[Column], widths: Sequence[int], cells: Sequence[str], codes: Sequence[str | None]) -> str:
    parts = []
    for column, width, cell, code in zip(columns, widths, cells, codes, strict=True):
        shown = shortened(cell, width)
        pad = " " * (width - breadth(shown))
        parts.append(pad + painted(shown, code) if column.kind in RIGHT else painted(shown, code) + pad)
    return (" " * GAP).join(parts).rstrip()


def wrapped(line: str, width: int | None) -> str:
    """Return a sentence broken to a width, what follows indented by two; None: as it is."""
    if width is None or breadth(line) <= width:
        return line
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    if width < 2 * len(indent):
        indent = ""
    return "\n".join(textwrap.wrap(line, width, subsequent_indent=indent, break_on_hyphens=False))
