"""Save a model: a copy of its bytes with the new values in place, and copies of its data files beside it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import onnx

from onnx_lsuv.errors import ModelError, OutputError, quote
from onnx_lsuv.model.absent import check_whole
from onnx_lsuv.model.atomic import Staging, staging
from onnx_lsuv.model.edits import data_edits, model_edits
from onnx_lsuv.model.external import extent, location_of
from onnx_lsuv.model.loading import Model, given_model, load
from onnx_lsuv.model.names import unused
from onnx_lsuv.model.opening import whole
from onnx_lsuv.model.splicing import Piece, splice
from onnx_lsuv.model.targets import Output, check_outputs, named, read_by
from onnx_lsuv.model.values import data_file, data_files, externals, label, map_files, tensors

LIMIT = 2**31 - 1  # bytes that a protobuf message may have


def to_bytes(model: Model) -> bytes:
    """Return the saved form of a model in memory, external data inside it.

    Raises ModelError where a value cannot be placed, OutputError over 2 GiB, as a protobuf message ends there.
    """
    model = given_model(model)
    return to_proto(model).SerializeToString() if externals(model) else own_bytes(model)


def to_proto(model: Model) -> onnx.ModelProto:
    """Return the saved form of a model as ONNX's own type, external data inside it; raises as `to_bytes` does."""
    inside, outside = own_bytes(given_model(model)), externals(model)
    views = {data.file: data_file(model, data.file, label(model, site)) for site, data in outside.items()}
    edits = data_edits(model, outside)
    pieces = {file: splice(view, edits[file]) for file, view in views.items()}
    _within_limit([inside, *(piece for each in pieces.values() for piece in each)], model.name)
    files = {file: b"".join(each) for file, each in pieces.items()}
    proto = onnx.load_model_from_string(inside)
    for site, tensor in tensors(proto):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            data = location_of(tensor, where := f"the tensor {tensor.name!r} at site {site}")
            start, end = extent(data, len(files[data.file]), where)
            tensor.raw_data = files[data.file][start:end]
            tensor.data_location = onnx.TensorProto.DEFAULT
            del tensor.external_data[:]
    return proto


def own_bytes(model: Model) -> bytes:
    """Return the bytes of the saved model file; external data, which have no new values then, stay where they are."""
    check_whole(model)
    outside = externals(model)
    view = whole(model._tree.view, model.name)
    return b"".join(_within_limit(splice(view, model_edits(model, outside, {})), model.name))


def save(model: Model, path: str | os.PathLike[str], *, force: bool = False) -> tuple[Path, ...]:
    """Save the model with its new values to `path`, whole or not at all; return the files written, the model last.

    Nothing but values changes, byte for byte, except that some nodes become initializers (see `promoted`), that others
    are added (see `with_initializers`), and that an external data file whose name is taken in the output's folder gets
    one of its own: `<output>.data`, or `<output>.<its name>` where there are several. An existing file is replaced only
    with `force`; a symbolic link stays and what it leads to is replaced. Raises OutputError where the output cannot be
    written or is one of the model's own files, ModelError where a value cannot be placed.
    """
    with staging(force) as staged:
        files = stage(staged, given_model(model), path)
        staged.commit()
    return files


def stage(staged: Staging, model: Model, path: str | os.PathLike[str]) -> tuple[Path, ...]:
    """Write the files of `save`, which are put into place with all others; return where, the model last."""
    check_whole(model)
    outputs = outputs_of(model, path, staged.force)
    target = check_outputs(outputs, read_by(model), force=staged.force)[0]
    outside = externals(model)
    where = {data.file: label(model, site) for site, data in outside.items()}
    sources = {key: data_file(model, key, where[key]) for key in where}
    names = _names(model, target, tuple(sources), staged.force)
    renamed = {key: name for key, name in names.items() if name != key}
    edits = data_edits(model, outside)
    pieces = _within_limit(
        splice(whole(model._tree.view, model.name), model_edits(model, outside, renamed)), quote(target)
    )
    return (
        *(staged.add(target.parent, names[key], splice(view, edits[key])) for key, view in sources.items()),
        staged.add(target.parent, target.name, pieces, leads=True),
    )


def load_staged(staged: Staging, target: Path) -> Model:
    """Load a model that waits to be put into place, with its data files; it has the path that it will have."""
    return replace(map_files(load(staged.waiting(target))), path=target)


def outputs_of(model: Model, path: str | os.PathLike[str], force: bool) -> list[Output]:
    """Return the files that `save` would write, the model first; raise OutputError for a path that names none."""
    given = named(path)
    target = Path(os.path.realpath(given))
    folder = target.parent
    # Those that are there, or will be: without one there is no output, and reading says why.
    there = {*model._files, *(key for key in data_files(model) if model.folder and os.path.lexists(model.folder / key))}
    keys = tuple(key for key in data_files(model) if key in there)
    refusal = ""
    if keys and folder != Path(os.path.realpath(given.parent)):
        refusal = (
            f"the output {quote(given)} is a symbolic link to another folder, where the model's data file would not "
            f"be beside it: name {quote(target)} itself"
        )
    found = [Output(given, refusal=refusal)]
    for name in _names(model, target, keys, force).values():
        file = folder / name
        link = (
            f"the data file of the output, {quote(file)}, is a symbolic link, behind which nothing reads external "
            "data: remove it, or name another output"
        )
        what = "the data file of the output"
        found.append(Output(file, what, inside=folder, refusal=link if os.path.islink(file) else ""))  # noqa: PTH114
    return found


def _within_limit(pieces: list[Piece], name: str) -> list[Piece]:
    size = sum(map(len, pieces))
    if size > LIMIT:
        raise OutputError(
            f"{name} would have {size} bytes, but an ONNX file ends at 2 GiB: store the model with external data "
            "(onnx.save_model with save_as_external_data=True) and use that, with onnx_lsuv.save"
        )
    return pieces


def _names(model: Model, target: Path, keys: tuple[str, ...], force: bool) -> dict[str, str]:
    """Return where each data file goes, relative to the output: its old place if free, else a name of its own."""
    own = _data_of(target) if force else frozenset()
    names = {key: key for key in keys if _is_free(model, target, key, own)}
    for key in keys:
        if key in names:
            continue
        wanted = f"{target.name}.data" if len(keys) == 1 else f"{target.name}.{Path(key).name}"
        names[key] = unused(wanted, names.values())
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
    # A file that is missing beside the model is not made there: it would be taken for the one that was lost.
    if file == target or (model.folder is not None and not os.path.lexists(model.folder / key)):
        return False
    if not os.path.lexists(file):
        return True
    if model.folder is not None and (model.folder / key).exists() and file.samefile(model.folder / key):
        return False
    return key in own and not file.is_symlink() and file.is_file()


def _data_of(target: Path) -> frozenset[str]:
    """Return the data files of the model that is about to be replaced, so that saving again gives the same files."""
    try:
        return frozenset(data.file for data in externals(load(target)).values())
    except ModelError:
        return frozenset()
