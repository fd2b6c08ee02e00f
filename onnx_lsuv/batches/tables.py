"""Reader for .csv, and which columns of a table are for which input.

.csv (RFC 4180): a row a line, its cells apart by commas, semicolons or tabs, all of them numbers but for a first line
of names. It is parsed some thousand lines at a time, once to see that it can be, and unless its numbers are few again
where they are asked for.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from io import BufferedReader
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import numpy as np

from onnx_lsuv.batches.stored import SMALL, Stored, looks_like, open_file, reason
from onnx_lsuv.errors import DataError, listing, quote
from onnx_lsuv.model import Array

LINES = 4096  # parsed together
LONGEST = 1 << 24  # bytes of a line
MARK = b"\xef\xbb\xbf"  # which spreadsheets begin UTF-8 with

Columns = Callable[[Sequence[str], int, int], Array]
"""Gives the columns of these names, from one row to before another, as (rows, values)."""


def by_input(where: str, rows: int, header: Sequence[str], names: Sequence[str], columns: Columns) -> list[Stored]:
    """Return a column for each input where each input is the name of one, else one array of all columns."""
    named = bool(names) and set(names) <= set(header)

    def load(chosen: Sequence[str], width: int, start: int, stop: int | None) -> Array:
        part = columns(chosen, start, rows if stop is None else stop)
        if part.shape[1] != width:
            raise DataError(f"{where} holds lists of different lengths for {listing(chosen)}; give one length")
        return part

    found = []
    for key, chosen in [(name, [name]) for name in names] if named else [(None, list(header))]:
        first = columns(chosen, 0, min(rows, 1))
        shape, values = (rows, first.shape[1]), partial(load, chosen, first.shape[1])
        found.append(Stored(key, where, first.dtype, shape, values, packed=True, flat=True))
    return found


def read_csv(path: Path, names: Sequence[str], limit: int) -> list[Stored]:
    """Return the columns of a .csv file; raises DataError where a cell is no number."""
    where = f"the data file {quote(path)}"
    with open_file(path) as file:
        try:
            begin = len(MARK) if file.read(len(MARK)) == MARK else 0
            file.seek(begin)
            first = next(_lines(file), b"").decode().strip()
            delimiter = next((mark for mark in ";\t" if mark in first), ",")
            header = [cell.strip().strip('"') for cell in first.split(delimiter)]
            named = not all(map(_is_number, header))
            if not named:
                file.seek(begin)
            parse = partial(_parsed, delimiter=delimiter, width=len(header))
            places, counts, line = [file.tell()], [0], 1 + named
            whole, few = np.ones(len(header), bool), list[Array]()
            while lines := list(islice(_lines(file), LINES)):
                values = parse(lines, line=line)
                whole &= ((np.abs(values) < 1 << 53) & (values == np.rint(values))).all(0)
                counts.append(len(values))
                few = [*few, values] if 8 * len(header) * sum(counts) <= min(limit, SMALL) else []
                places.append(file.tell())
                line += len(lines)
            if not sum(counts):
                raise ValueError("it has no rows")
        except (OSError, ValueError) as error:
            what = looks_like(path, said := f"is no table of numbers: {reason(error)}")
            raise DataError(f"{where} {said if what == 'is a text file' else what}") from error
    starts = list(accumulate(counts))
    header = header if named else [str(number) for number in range(len(header))]

    def rows(at: int) -> Array:
        """Return some thousand rows, those of the lines from one place in the file to the next."""
        if few:
            return few[at]
        with open_file(path) as again:
            again.seek(places[at])
            try:
                return parse(again.read(places[at + 1] - places[at]).splitlines(), line=0)
            except ValueError as error:
                raise DataError(f"{where} changed while it was read: {reason(error)}") from error

    def columns(chosen: Sequence[str], start: int, stop: int) -> Array:
        numbers: Any = [header.index(name) for name in chosen] if chosen != header else slice(None)
        dtype = np.int64 if whole[numbers].all() else np.float64
        parts = [np.empty((0, len(chosen)), dtype)]
        for at in range(max(bisect_right(starts, start) - 1, 0), len(places) - 1):
            if starts[at] >= stop:
                break
            parts.append(rows(at)[max(start - starts[at], 0) : stop - starts[at], numbers].astype(dtype))
        return np.concatenate(parts)

    return by_input(where, starts[-1], header, names if named else (), columns)


def _lines(file: BufferedReader) -> Iterator[bytes]:
    while line := file.readline(LONGEST):
        if len(line) == LONGEST:
            raise ValueError(f"a line has {LONGEST} bytes or more")
        yield line


def _parsed(lines: Sequence[bytes], *, delimiter: str, width: int, line: int) -> Array:
    """Return the numbers of lines, of which the first has that number in the file; raises ValueError."""
    text = [each.decode() for each in lines if each.strip()]
    if not text:
        return np.empty((0, width))
    try:
        values = np.loadtxt(text, np.float64, delimiter=delimiter, ndmin=2, comments=None, quotechar='"')
    except ValueError as error:
        raise ValueError(_why(lines, delimiter, width, line) or reason(error)) from error
    if values.shape[1] != width:
        raise ValueError(_why(lines, delimiter, width, line))
    return values


def _why(lines: Sequence[bytes], delimiter: str, width: int, line: int) -> str:
    for number, each in enumerate(lines, line):
        cells = [cell.strip().strip('"') for cell in each.decode().split(delimiter)]
        if cells == [""]:
            continue
        if len(cells) != width:
            return f"line {number} has {len(cells)} cells, and the first has {width}"
        for at, cell in enumerate(cells, 1):
            if not _is_number(cell):
                return f"cell {at} of line {number} is {quote(cell)}; leave out columns that the model does not read"
    return ""


def _is_number(text: Any) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
