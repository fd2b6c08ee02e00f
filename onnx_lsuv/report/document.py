"""A result as a document of plain values, and as JSON: `schema.json` beside this module describes every field."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from onnx_lsuv.lsuv import Result

SCHEMA = 1


def document(result: Result, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result as JSON can hold it; `about` adds what only the caller knows: versions, files, digests."""
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
        "layers": [_record(row) for row in result.layers],
        "left": [_record(row) for row in result.skipped],
        "statistics_kept": [_record(row) for row in result.kept_statistics],
        "changes": [_record(row) for row in result.changes],
        "notes": result.notes,
    }
    return {key: _plain(value) for key, value in whole.items()}


def as_json(result: Result, about: Mapping[str, Any], *, other: Result | None = None) -> str:
    """Return the result as JSON, in ASCII; see `document`."""
    return json.dumps(document(result, about), indent=2, ensure_ascii=True, allow_nan=False) + "\n"


def _record(row: Any) -> dict[str, Any]:
    return {field.name: getattr(row, field.name) for field in fields(row)}


def _plain(value: Any) -> Any:
    """Return lists for sequences, and words for the numbers that JSON has no word for: infinity and NaN."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value
