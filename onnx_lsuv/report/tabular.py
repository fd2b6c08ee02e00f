"""A result as CSV (RFC 4180), a row a layer, for spreadsheets and data frames.

The columns are the fields of a layer in the JSON report, and `std_other` where a second model was measured. Numbers are
whole, and empty where there is none. A spreadsheet takes a cell that begins with = + - @ for a formula, and the names
come from anybody, so text that begins so gets an apostrophe in front.
"""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from onnx_lsuv.errors import clean
from onnx_lsuv.lsuv import Result
from onnx_lsuv.report.columns import FIELDS, STD_OTHER, plain, rows_of


def as_csv(
    result: Result, about: Mapping[str, Any], command: Sequence[str] = (), *, other: Result | None = None
) -> str:
    """Return the table of layers as CSV, of which the command and what else is known are no part."""
    columns = FIELDS if other is None else (*FIELDS, STD_OTHER)
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(column.key for column in columns)
    for row in rows_of(result, other):
        writer.writerow(_cell(column.kind, row[column.key]) for column in columns)
    return file.getvalue()


def _cell(kind: str, value: Any) -> str:
    if value is None or value == ():
        return ""
    if kind in ("number", "count"):
        return str(value)
    text = clean(plain(kind, value))
    first = unicodedata.normalize("NFKC", text).lstrip()[:1]  # the wide forms count as well
    return f"'{text}" if first in ("=", "+", "-", "@") else text
