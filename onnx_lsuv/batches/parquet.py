"""Reader for .parquet (Apache Parquet), by pyarrow: a row a sample, a number or a list of numbers a column.

Its row groups are read when their values are asked for.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from onnx_lsuv.batches.stored import Stored, looks_like, open_file, optional, reason
from onnx_lsuv.batches.tables import by_input
from onnx_lsuv.errors import DataError, quote
from onnx_lsuv.model import Array


def read_parquet(path: Path, names: Sequence[str], *_: object) -> list[Stored]:
    """Return the columns of a .parquet file; raises DataError where one is no numbers."""
    where = f"the data file {quote(path)}"
    open_file(path).close()
    parquet: Any = optional("pyarrow.parquet", where, "onnx-lsuv[parquet]")
    try:
        with parquet.ParquetFile(path) as file:
            header = list(file.schema_arrow.names)
            about = file.metadata
            starts = [0, *accumulate(about.row_group(group).num_rows for group in range(about.num_row_groups))]
    except Exception as error:  # pyarrow has a tree of its own
        raise DataError(f"{where} {looks_like(path, f'is no Parquet file ({reason(error)})')}") from error

    def columns(chosen: Sequence[str], start: int, stop: int) -> Array:
        first = max(bisect_right(starts, start) - 1, 0)
        groups = [group for group in range(first, len(starts) - 1) if starts[group] < stop]
        try:
            with parquet.ParquetFile(path) as again:
                read = again.read_row_groups(groups, columns=list(chosen))
        except Exception as error:
            raise DataError(f"{where} cannot be read: {reason(error)}") from error
        rows = read.slice(start - starts[first], stop - start)
        parts = [_values(where, name, rows.column(name)) for name in chosen]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, 1)

    return by_input(where, starts[-1], header, names, columns)


def _values(where: str, name: str, column: Any) -> Array:
    """Return a column as (rows, values)."""
    what = f"column {quote(name)} of {where.removeprefix('the data file ')}"
    rows, array = len(column), column.combine_chunks()
    if array.null_count:
        raise DataError(f"{what} has {array.null_count} rows without a value; fill them in")
    while hasattr(array.type, "value_type") and hasattr(array, "flatten"):
        if hasattr(array, "value_lengths") and len(array.value_lengths().unique()) > 1:
            raise DataError(f"{what} holds lists of different lengths; give lists of one length")
        array = array.flatten()
        if array.null_count:
            raise DataError(f"{what} has lists with empty places; fill them in")
    kind = str(array.type)
    if not any(word in kind for word in ("int", "float", "double", "bool")) or "<" in kind:
        raise DataError(f"{what} holds {kind}, no numbers; leave it out, or give a function with module:function")
    values: Array = array.to_numpy(zero_copy_only=False)
    return values.reshape(rows, -1) if rows else values.reshape(0, 1)
