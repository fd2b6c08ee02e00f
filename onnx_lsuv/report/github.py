"""A result as annotations of a GitHub workflow run.

A line `::error file=F,title=T::MESSAGE` on standard output becomes an annotation. In a message `%`, CR and LF are
written as %25, %0D and %0A; in a property `:` and `,` too, as %3A and %2C. GitHub keeps ten annotations of each level
a step.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onnx_lsuv.errors import clean
from onnx_lsuv.lsuv import Result
from onnx_lsuv.report.layout import shortened
from onnx_lsuv.report.words import fates, groups, misses, told, verdict

LIMIT = 10
_NAME = 200  # GitHub cuts a message at a few thousand characters


def as_github(
    result: Result, limit: int = LIMIT, *, other: Result | None = None, root: str | os.PathLike[str] = "."
) -> list[str]:
    """Return annotations, a line each without its end, at most `limit` of each level.

    Each names the model's file, by its path in the folder `root`, where GitHub looks, or else by its whole path.

    Errors are the layers that missed, worst first, and what is in doubt, where that counts; warnings the layers that
    the data never reached, and BatchNormalizations whose statistics cannot be set; notices the verdict, that of the
    other model, what a plan would do, the notes, and what was left alone, or keeps its statistics as it should.
    """
    unreached = [row for row in result.layers if row.status == "not-reached"]
    compared = [] if other is None else [("other model", f"{_name(other.model.name)}: {verdict(other)}")]
    errors = [(f"layer {row.status}", f"{_name(row.name)}: {told(row)}") for row in misses(result)]
    errors += [("in doubt", text) for text in result.doubts]
    warnings = [("layer not reached", f"{_name(row.name)}: {told(row)}") for row in unreached]
    # Those that were meant to be kept, by what was chosen, call for nothing.
    kept = [(group["reason"] in ("unchanged", "excluded"), _kept(group)) for group in groups(result.kept_statistics)]
    warnings += [("statistics kept", told) for meant, told in kept if not meant]
    planned = fates(result.layers) if result.verb == "plan" else {}
    notices = [("verdict", verdict(result)), *compared]
    notices += [("plan", f"{fate}: {len(names)} ({_some(names)})") for fate, names in planned.items()]
    notices += [("note", note) for note in result.notes if note not in result.doubts]
    notices += [("statistics kept", told) for meant, told in kept if meant]
    notices += [("left alone", _skipped(group)) for group in groups(result.skipped)]
    levels, file = {"error": errors, "warning": warnings, "notice": notices}, _file(result.model.path, root)
    return [line for level, items in levels.items() for line in _lines(level, file, items, limit)]


def _skipped(group: Mapping[str, Any]) -> str:
    return f"{group['op']} {_kept(group)}"


def _kept(group: Mapping[str, Any]) -> str:
    return f"{_some(group['names'])}: {group['detail']}"


def _some(names: Sequence[str]) -> str:
    return _name(names[0]) + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _name(name: str) -> str:
    return shortened(clean(name), _NAME)


def _file(path: Path | None, root: str | os.PathLike[str]) -> str:
    """Return the property that names the model's file, "" for a model in memory."""
    if path is None:
        return ""
    folder = Path(root).resolve()
    inside = path.relative_to(folder) if path.is_relative_to(folder) else path
    return f"file={_property(inside.as_posix())},"


def _lines(level: str, file: str, items: Sequence[tuple[str, str]], limit: int) -> list[str]:
    """Return the lines of one level; the last of them counts those for which there is no room."""
    shown = list(items)
    if len(items) > limit:
        shown = [*items[: limit - 1], ("more", f"and {len(items) - limit + 1} more: see the report")]
    return [f"::{level} {file}title={_property(f'onnx-lsuv: {title}')}::{_message(text)}" for title, text in shown]


def _message(text: str) -> str:
    return clean(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")
