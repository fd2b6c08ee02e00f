"""What could not be read or written is refused before the work."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from onnx_lsuv.cli.options import Options
from onnx_lsuv.errors import ModelError, OutputError, UsageError, meant


def check_model(path: Path) -> None:
    """Raise ModelError for a model that is not there, or a folder, with the name that was perhaps meant."""
    with suppress(OSError):  # of what cannot even be looked at, loading says why
        _check_model(path)


def _check_model(path: Path) -> None:
    if path.is_dir():
        inside = sorted(path.glob("*.onnx"))
        more = f": give a file in it, such as {str(inside[0])!r}" if inside else " without .onnx files: give a file"
        raise ModelError(f"the model {str(path)!r} is a folder{more}")
    if not path.exists() and not path.is_symlink() and path.parent.is_dir():
        near = meant(path.name, [each.name for each in path.parent.glob("*.onnx")])
        raise ModelError(f"there is no model file {str(path)!r}{near}")


def check_outputs(options: Options) -> None:
    """Raise OutputError for a file that could not be written, UsageError for one named twice."""
    paths = [options.target_path] if options.writes else []
    paths += [options.weights_out] if options.weights_out is not None else []
    paths += options.report or []
    read = [options.model, *([] if options.compare is None else [options.compare]), *options.data_paths]
    for i, path in enumerate(paths):
        if path.resolve() in [other.resolve() for other in paths[:i]]:
            raise UsageError(f"the file {str(path)!r} is named for two outputs: name another")
        _check_file(path, read, force=options.force)


def _check_file(target: Path, read: list[Path], *, force: bool) -> None:
    if target.is_dir():
        raise OutputError(f"the output {str(target)!r} is a folder: name a file")
    for source in read:
        if target.exists() and source.exists() and target.samefile(source):
            what = "the model itself" if source is read[0] else "read as input"
            raise OutputError(f"the output {str(target)!r} is {what}, which is never written to: name another")
    if (target.exists() or target.is_symlink()) and not force:
        raise OutputError(f"the output {str(target)!r} exists: name another, or replace it with '--force'")
    if not target.parent.is_dir():
        what = "is no folder" if target.parent.exists() else "does not exist: make it first"
        raise OutputError(f"the folder {str(target.parent)!r} for {target.name!r} {what}")
    if not os.access(target.parent, os.W_OK):
        raise OutputError(f"the folder {str(target.parent)!r} cannot be written to: choose another")
