"""A result as a document of plain values, and as JSON: `schema.json` beside this module describes every field."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from onnx_lsuv.lsuv import Result
from onnx_lsuv.report.columns import FIELDS, rows_of
from onnx_lsuv.report.words import path_of

SCHEMA = 1


def as_document(result: Result, about: Mapping[str, Any], *, other: Result | None = None) -> dict[str, Any]:
    """Return the result as JSON can hold it; arguments as for `write_report`."""
    whole = {
        "schema": SCHEMA,
        "good": result.good,
        "target_std": result.target_std,
        "tolerance": result.tolerance,
        "settings": result.settings.as_dict(result.verb),
        "device": result.device,
        **about,
        "data": result.data,
        "seconds": {k: round(v, 6) for k, v in result.seconds.items()},
        "layers": _layers(result),
        "left": list(map(asdict, result.skipped)),
        "statistics_kept": list(map(asdict, result.kept_statistics)),
        "changes": list(map(asdict, result.changes)),
        "roles": list(map(asdict, result.roles)),
        "sums": list(map(asdict, result.sums)),
        "remaining": list(map(asdict, result.remaining)),
        "notes": result.notes,
    }
    if other is not None:
        whole["compared"] = {"model": path_of(other, about, "compare"), "good": other.good, "layers": _layers(other)}
    return {key: _plain(value) for key, value in whole.items()}


def as_json(
    result: Result, about: Mapping[str, Any], command: Sequence[str] = (), *, other: Result | None = None
) -> str:
    """Return the result as JSON, in ASCII, without the command; see `as_document`."""
    return json.dumps(as_document(result, about, other=other), indent=2, ensure_ascii=True, allow_nan=False) + "\n"


def _layers(result: Result) -> list[dict[str, Any]]:
    return [{column.key: row[column.key] for column in FIELDS} for row in rows_of(result)]


def _plain(value: Any) -> Any:
    """Return lists for sequences, and words for the numbers that JSON has no word for: infinity and NaN."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value
