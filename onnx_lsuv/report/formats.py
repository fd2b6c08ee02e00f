"""The formats of report files, by suffix, and writing one whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from onnx_lsuv.errors import UsageError, meant
from onnx_lsuv.lsuv import Result
from onnx_lsuv.model import Staging, staging
from onnx_lsuv.report.document import as_json
from onnx_lsuv.report.markdown import as_markdown
from onnx_lsuv.report.page import as_html

FORMATS: dict[str, Callable[..., str]] = {
    ".json": lambda result, about, command=(), *, other=None: as_json(result, about),
    ".md": lambda result, about, command=(), *, other=None: as_markdown(result, about, command),
    ".html": lambda result, about, command=(), *, other=None: as_html(result, about, command=command, other=other),
}


def format_of(path: str | os.PathLike[str]) -> Callable[..., str]:
    """Return the format that a path's suffix asks for; raise UsageError for any other."""
    suffix = Path(path).suffix or str(path)
    if suffix.lower() not in FORMATS:
        near = meant(suffix, FORMATS)
        raise UsageError(f"a report is written as {', '.join(FORMATS)}, but {str(path)!r} ends otherwise{near}")
    return FORMATS[suffix.lower()]


def write_report(result: Result, path: str | os.PathLike[str], *, force: bool = False, **told: Any) -> Path:
    """Write a report of a result, whole or not at all, in the format that the path's suffix says; return its path."""
    with staging(force) as staged:
        target = stage_report(staged, result, path, **told)
        staged.commit()
    return target


def stage_report(
    staged: Staging,
    result: Result,
    path: str | os.PathLike[str],
    *,
    other: Result | None = None,
    about: Mapping[str, Any] | None = None,
    command: Sequence[str] = (),
) -> Path:
    """Write the file of `write_report`, which is put into place with all others; return where."""
    place = Path(os.path.realpath(path))
    text = format_of(path)(result, about or {}, command, other=other)
    return staged.add(place.parent, place.name, [text.encode()])


def versions() -> dict[str, str]:
    """Return the versions of what took part."""
    import platform  # noqa: PLC0415

    import numpy  # noqa: PLC0415
    import onnx  # noqa: PLC0415

    from onnx_lsuv import __version__, runtime  # noqa: PLC0415

    return {
        "onnx-lsuv": __version__,
        "onnx": onnx.__version__,
        "onnxruntime": runtime.version(),
        "numpy": numpy.__version__,
        "python": platform.python_version(),
    }
