"""Save a model: a copy of its bytes with the new values in place, and copies of its data files beside it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from onnx_lsuv.errors import ModelError, OutputError
from onnx_lsuv.model.edits import data_edits, externals, model_edits
from onnx_lsuv.model.external import whole
from onnx_lsuv.model.loading import Model, load
from onnx_lsuv.model.names import unused
from onnx_lsuv.model.place import place
from onnx_lsuv.model.splice import Piece, splice
from onnx_lsuv.model.values import data_file, label

LIMIT = 2**31 - 1  # bytes that a protobuf message may have


def to_bytes(model: Model) -> bytes:
    """Return the saved form of a model in memory; external data stay where they are.

    Raises ModelError where a tensor with external data has a new value, OutputError over 2 GiB.
    """
    outside = externals(model)
    for site in model.values:
        if site in outside:
            raise ModelError(
                f"{label(model, site)} has external data, so its new values have no place in the model's bytes; "
                "save to a file"
            )
    return b"".join(_within_limit(splice(model._tree.view, model_edits(model, outside, {})), model.name))


def save(model: Model, path: str | os.PathLike[str], *, force: bool = False) -> tuple[Path, ...]:
    """Save the model with its new values to `path`, whole or not at all; return the files written, the model last.

    Nothing but values changes, byte for byte, except that some nodes become initializers (see `promoted`) and that an
    external data file whose name is taken in the output's folder gets one of its own: `<output>.data`, or
    `<output>.<its name>` where there are several. An existing file is replaced only with `force`; a symbolic link is
    then replaced itself, and what it leads to stays. Raises OutputError where the output cannot be written or is one of
    the model's own files, ModelError where a value cannot be placed.
    """
    target = target_of(model, path, force)
    outside = externals(model)
    where = {one.key: label(model, site) for site, one in outside.items()}
    sources = {key: data_file(model, key, where[key]) for key in where}
    names = _names(model, target, tuple(sources), force)
    renamed = {key: name for key, name in names.items() if name != key}
    edits = data_edits(model, outside)
    files: list[tuple[Path, list[Piece]]] = [
        (target.parent / names[key], splice(view, edits[key])) for key, view in sources.items()
    ]
    pieces = splice(whole(model._tree.view, model.name), model_edits(model, outside, renamed))
    files.append((target, _within_limit(pieces, str(target))))
    place(files, force)
    return tuple(file for file, _ in files)


def _within_limit(pieces: list[Piece], name: str) -> list[Piece]:
    size = sum(map(len, pieces))
    if size > LIMIT:
        raise OutputError(
            f"{name} would have {size} bytes, but an ONNX file ends at 2 GiB: store the model with external data "
            "(onnx.save_model with save_as_external_data=True) and use that"
        )
    return pieces


def target_of(model: Model, path: str | os.PathLike[str], force: bool) -> Path:
    """Return where to write, its folder resolved; raise OutputError where that must not or cannot be written."""
    given = os.fspath(path)
    target = Path(given)
    if "\0" in given or target.name in ("", "..") or given.endswith(("/", os.sep)):
        raise OutputError(f"{given!r} should be a file to write, but is not the name of one")
    try:
        folder = target.parent.resolve()
        if not folder.is_dir():
            raise OutputError(f"{given} cannot be written: there is no folder {folder}; create it first")
        target = folder / target.name
        _refuse_inputs(model, target)
        if target.is_dir():
            raise OutputError(f"{given} should be a file to write, but is a folder")
        _refuse_existing(target, force)
    except OSError as error:
        raise OutputError(f"{given} cannot be written: {error.strerror}") from None
    return target


def _refuse_existing(target: Path, force: bool) -> None:
    if not os.path.lexists(target):
        return
    if not force:
        raise OutputError(f"{target} exists; replace it with --force (force=True), or choose another output")
    mode = target.lstat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        raise OutputError(f"{target} exists and is not a regular file, so it is not replaced; choose another output")


def _refuse_inputs(model: Model, target: Path) -> None:
    """Raise OutputError where writing `target` would replace the model's file or one of its data files."""
    if not target.exists():
        return
    if model.path is not None and model.path.exists() and target.samefile(model.path):
        raise OutputError(f"{target} is the model itself, which is never written to; choose another output")
    if model.folder is None:
        return
    for one in externals(model).values():
        data = model.folder / one.key
        if data.exists() and target.samefile(data):
            raise OutputError(f"{target} is a data file of the model, which is never written to; choose another output")


def _names(model: Model, target: Path, keys: tuple[str, ...], force: bool) -> dict[str, str]:
    """Return where each data file goes, relative to the output: its old place if free, else a name of its own."""
    own = _data_of(target) if force else frozenset()
    names = {key: key for key in keys if _is_free(model, target, key, own)}
    for key in keys:
        if key in names:
            continue
        wanted = f"{target.name}.data" if len(keys) == 1 else f"{target.name}.{Path(key).name}"
        name = unused(wanted, names.values())
        file = target.parent / name
        _refuse_inputs(model, file)
        _refuse_existing(file, force)
        names[key] = name
    return names


def _is_free(model: Model, target: Path, key: str, own: frozenset[str]) -> bool:
    """Whether a data file can have its old place beside the output: nothing there, or the old output's own data."""
    *folders, _ = Path(key).parts
    at = target.parent
    for folder in folders:
        at = at / folder
        if os.path.lexists(at) and (at.is_symlink() or not at.is_dir()):
            return False
    file = target.parent / key
    if file == target:
        return False
    if not os.path.lexists(file):
        return True
    if model.folder is not None and (model.folder / key).exists() and file.samefile(model.folder / key):
        return False
    return key in own and not file.is_symlink() and file.is_file()


def _data_of(target: Path) -> frozenset[str]:
    """Return the data files of the model that is about to be replaced, so that saving again gives the same files."""
    try:
        return frozenset(one.key for one in externals(load(target)).values())
    except ModelError:
        return frozenset()
