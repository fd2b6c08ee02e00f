"""A report as a file, and what a result does not know of itself: versions of what took part, digests of the models."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnx_lsuv import __version__, importers, runtime
from onnx_lsuv.importers import Forecast
from onnx_lsuv.lsuv import Result
from onnx_lsuv.model import Model, Output, check_outputs, digest, own_bytes, read_by, staging
from onnx_lsuv.report.formats import format_of
from onnx_lsuv.report.words import beside


def write_report(
    result: Result,
    path: str | os.PathLike[str],
    *,
    other: Result | None = None,
    about: Mapping[str, Any] | None = None,
    command: Sequence[str] = (),
    forecast: Sequence[Forecast] | None = None,
    force: bool = False,
) -> Path:
    """Write a report of a result, whole or not at all, in the format that the path's suffix says; return its path.

    Args:
        result: what to tell.
        path: of the file, which ends as one of `formats.FORMATS` does.
        other: a second result, whose std stands beside the first's.
        about: `versions` and `files` as `schema.json` describes them; found where not given.
        command: the program and its arguments, where it was a command that gave the result.
        forecast: what trains where, from `onnx_lsuv.forecast`; found where not given, () to leave it out.
        force: replace an existing file.

    Raises UsageError for another suffix, OutputError where the file exists, cannot be written or is one of the models'.
    """
    told = format_of(path)
    result = result if other is None else beside(result, other)
    models = {"model": result.model} | ({} if other is None else {"compare": other.model})
    read = (file for model in models.values() for file in read_by(model))
    (target,) = check_outputs([Output(Path(path), "the report")], read, force=force)
    known = {"versions": versions(), "files": {role: _file(model) for role, model in models.items()}}
    trains = importers.forecast(result) if forecast is None else forecast
    known = dict(known if about is None else about) | {"trains": [each.as_dict() for each in trains]}
    with staging(force) as staged:
        staged.add(target.parent, target.name, [told(result, known, command, other=other).encode()])
        staged.commit()
    return target


def versions() -> dict[str, str]:
    """Return the versions of what took part."""
    return {
        "onnx-lsuv": __version__,
        "onnx": onnx.__version__,
        "onnxruntime": runtime.version(),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def _file(model: Model) -> dict[str, str]:
    """Return the path and the digest of a model's file; of one in memory, that of the bytes that it was taken from."""
    if model.path is not None and model.path.is_file():
        return {"path": model.name, "sha256": digest(model.path)}
    return {"path": model.name, "sha256": hashlib.sha256(own_bytes(replace(model, values={}))).hexdigest()}
