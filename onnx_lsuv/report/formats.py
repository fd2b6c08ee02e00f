"""The formats of report files, by suffix.

Loaded with the command's help, so a format's module is loaded when it is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from onnx_lsuv.errors import UsageError, meant

# A module of this room, and its function from a result, what is known `about` it, the command, and an `other` result.
FORMATS = {
    ".json": ("document", "as_json"),
    ".md": ("markdown", "as_markdown"),
    ".html": ("page", "as_html"),
    ".csv": ("tabular", "as_csv"),
}


def suffix_of(path: str | os.PathLike[str]) -> str:
    """Return the key of `FORMATS` that a path ends in; raise UsageError where there is none."""
    suffix = Path(path).suffix
    if suffix.lower() not in FORMATS:
        known = ", ".join(FORMATS)
        raise UsageError(
            f"a report is written as {known}, but {os.fspath(path)!r} ends otherwise{meant(suffix, FORMATS)}"
        )
    return suffix.lower()


def format_of(path: str | os.PathLike[str]) -> Callable[..., str]:
    """Return the function that makes the text of a report; raise UsageError where there is none for the suffix."""
    module, function = FORMATS[suffix_of(path)]
    made: Callable[..., str] = getattr(import_module(f"onnx_lsuv.report.{module}"), function)
    return made
