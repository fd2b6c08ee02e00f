"""The values of `--data [NAME=]PATH` -> stored arrays for each input.

A path is one file, or a folder of either ONNX's own layout (`test_data_set_*/input_K.pb`, K counting the graph inputs;
onnx/backend/test) or one file a batch, in natural order: 2 before 10.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from onnx_lsuv.batches.advice import file_advice
from onnx_lsuv.batches.calls import is_function, read_function
from onnx_lsuv.batches.folders import Folder, is_folder, list_folder
from onnx_lsuv.batches.formats import FORMATS, IMAGES, reader_of
from onnx_lsuv.batches.images import Preparation, read_images
from onnx_lsuv.batches.inputs import Input, closest, show_shape
from onnx_lsuv.batches.plan import check_shape, unstacked
from onnx_lsuv.batches.stored import Reader, Stored, open_file
from onnx_lsuv.batches.stream import Keep, Progress
from onnx_lsuv.batches.values import check_dtype
from onnx_lsuv.errors import DataError, UsageError, listing, quote


@dataclass(frozen=True, slots=True)
class Source:
    """What one `--data`, one list of arrays, or `--random` means, for the report."""

    kind: str  # "npy" and the like, "folder of npy", "images", "test data sets", "function", "arrays", "random"
    inputs: tuple[str, ...]
    files: int = 0
    path: str | None = None
    seed: int | None = None


def read_sources(
    inputs: Sequence[Input],
    data: Sequence[str],
    limit: int,
    *,
    keep: Keep,
    samples: int | None,
    images: Preparation | None,
    progress: Progress | None,
) -> tuple[dict[str, list[Stored]], list[Source], list[str]]:
    """Return the arrays of every input, one or one a file or batch, the sources and notes about what was left out.

    A file may take `limit` bytes; for functions the rest is as in `stream.walk`.
    Raises UsageError where it is open which input is meant, DataError where data are broken or missing.
    """
    found: dict[str, list[Stored]] = {}
    sources: list[Source] = []
    notes: list[str] = []
    unnamed: list[tuple[int, list[Stored]]] = []
    split = [split_name(inputs, value) for value in data]
    named = {name for name, _ in split}
    for value, (name, path) in zip(data, split, strict=True):
        arrays: Mapping[str, list[Stored]] | Mapping[str | None, list[Stored]]
        if is_function(str(path)):
            wanted = [each for each in inputs if (each.name == name if name else each.name not in named)]
            arrays, more = read_function(wanted, str(path), keep, samples, progress)
            kind, files, notes = "function", 1, [*notes, *more]
        else:
            folder = list_folder(path) if is_folder(path) else Folder(_kind_of(path), ((path,),))
            if count := len(folder.left_out):
                others = f"{count} other file{'s' * (count > 1)}"
                notes.append(f"{others} in {quote(path)} left out: {listing(folder.left_out)}")
            kind, files = folder.kind, sum(map(len, folder.batches))
            if kind == "images":
                one = read_images(inputs, name, folder.batches[0], images or Preparation())
                arrays = {str(one.key): [one]}
            else:
                arrays = _collect(inputs, name, folder, limit)
        for key, each in arrays.items():
            if key in found:
                raise UsageError(
                    f"input {quote(key)} is given data twice, again by {quote(value)}; give it once, "
                    "several files as their folder"
                )
            if key is None:
                unnamed.append((len(sources), each))
            else:
                found[key] = each
        names = tuple(key for key in arrays if key is not None)
        sources.append(Source(kind, names, files, str(path)))
    _take_in_order(inputs, unnamed, found, sources, notes)
    if images is not None and all(source.kind != "images" for source in sources):
        raise UsageError("--image-size, -mean, -std and -scale are about images, and the data are none; leave them out")
    if lacking := [one for one in inputs if one.name not in found]:
        what = ", ".join(f"{quote(one.name)} ({_expected(one)})" for one in lacking)
        raise DataError(
            f"the model needs data for input{'s' * (len(lacking) > 1)} {what}, but none was given; "
            f"give --data {lacking[0].name}=PATH"
        )
    return found, sources, notes


def inputs_given(inputs: Sequence[Input], data: Sequence[str], limit: int) -> set[str]:
    """Return the inputs that `--data` values name, by NAME= or in a file; what is wrong with these is said later."""
    found: set[str] = set()
    for value in data:
        with suppress(UsageError, DataError):
            name, path = split_name(inputs, value)
            found |= set() if name is None else {name}
            folder = list_folder(path) if is_folder(path) else Folder("", ((path,),))
            if name is None and folder.kind != "images" and not is_function(str(path)):
                found.update(key for key in _collect(inputs, name, folder, limit) if key is not None)
    return found


def _expected(one: Input) -> str:
    return f"{one.type_name} {show_shape(one.shape)}"


def _take_in_order(
    inputs: Sequence[Input],
    unnamed: Sequence[tuple[int, list[Stored]]],
    found: dict[str, list[Stored]],
    sources: list[Source],
    notes: list[str],
) -> None:
    """Give arrays without a name to the inputs that lack data, one each, in their order."""
    lacking = [one for one in inputs if one.name not in found]
    if unnamed and len(unnamed) != len(lacking):
        path = sources[unnamed[-1][0]].path
        if len(unnamed) < len(lacking):
            why = f"{listing(one.name for one in lacking)} still need data; say which with NAME={path}"
        elif inputs:
            every = listing(one.name for one in inputs)
            why = f"every input already has data ({every}); give each input once"
        else:
            why = "the model has no input that needs data; leave it out"
        raise UsageError(f"{quote(path)} holds one array without a name, but {why}")
    for (index, arrays), one in zip(unnamed, lacking, strict=False):
        path = sources[index].path
        if len(unnamed) > 1:
            if wrong := next((stored for stored in arrays if not _goes(one, stored)), None):
                raise UsageError(
                    f"data without names go to the inputs in their order, but {quote(path)} ({wrong.dtype} "
                    f"{list(wrong.shape)}) does not fit {quote(one.name)} ({_expected(one)}); say which is for which "
                    "with NAME=PATH"
                )
            notes.append(f"input {quote(one.name)} was given {quote(path)}, by the order of the inputs")
        found[one.name] = arrays
        sources[index] = replace(sources[index], inputs=(one.name,))


def _goes(one: Input, stored: Stored) -> bool:
    """Whether an array may be data for an input."""
    with suppress(DataError):
        for each in unstacked(one, stored):
            check_shape(one, each)
        check_dtype(one, stored)
        return True
    return False


def split_name(inputs: Sequence[Input], value: str) -> tuple[str | None, Path]:
    """Split `NAME=PATH`; a value that exists as a path is one, whatever it looks like; raises UsageError, DataError."""
    if not value:
        raise UsageError("data were given as an empty text; give [NAME=]PATH")
    whole = Path(value)
    if "=" not in value or os.path.exists(whole):  # noqa: PTH110  (False where a name is too long)
        return None, whole
    names = {each.name for each in inputs}
    for position in (index for index, char in enumerate(value) if char == "="):  # names may hold '=' too
        if value[:position] in names:
            break
    else:
        position = value.index("=")
        if any(char in value[:position] for char in "/\\"):
            return None, whole
    name, path = value[:position], value[position + 1 :]
    if not name or not path:
        raise UsageError(f"{quote(value)} lacks the {'path' if name else 'name'}; give NAME=PATH")
    if name not in names:
        raise DataError(f"the model has no input {quote(name)} to be given {quote(path)}; {closest(name, inputs)}")
    return name, Path(path)


def _kind_of(path: Path) -> str:
    suffix = path.suffix.lower()
    return "images" if suffix in IMAGES else suffix[1:]


def _collect(inputs: Sequence[Input], name: str | None, folder: Folder, limit: int) -> dict[str | None, list[Stored]]:
    """Read the headers of all files; None as the key: the input is still open."""
    found: dict[str | None, list[Stored]] = {}
    for files in folder.batches:
        arrays = [stored for file in files for stored in _read(inputs, file, limit)]
        place = files[0] if len(files) == 1 else files[0].parent
        batch = _assign(inputs, name, arrays, place)
        if found and batch.keys() != found.keys():
            here, before = (listing(key or "one input without a name" for key in keys) for keys in (batch, found))
            raise DataError(
                f"{quote(place)} holds data for {here}, but the batches before it for {before}; every batch needs the "
                "same inputs"
            )
        for key, stored in batch.items():
            found.setdefault(key, []).append(stored)
    return found


def _read(inputs: Sequence[Input], path: Path, limit: int) -> list[Stored]:
    if (suffix := path.suffix.lower()) in FORMATS:
        read: Reader = reader_of(suffix)
        return read(path, [each.name for each in inputs], limit)
    open_file(path).close()  # what is missing, or a folder, is said first
    raise DataError(f"the data file {quote(path)} {file_advice(path, (*FORMATS, *IMAGES))}")


def _assign(
    inputs: Sequence[Input], name: str | None, arrays: Sequence[Stored], place: Path
) -> dict[str | None, Stored]:
    keys = [stored.key for stored in arrays]
    if twice := next((key for key, count in Counter(keys).items() if count > 1), None):
        raise DataError(f"{quote(place)} holds two arrays for input {quote(twice)}; keep one")
    if name is not None:
        chosen = [stored for stored in arrays if stored.key == name] or arrays
        if len(chosen) != 1:
            raise DataError(
                f"{quote(place)} has to hold an array {quote(name)} or a single one, but holds "
                f"{listing(str(key) for key in keys)}; rename one"
            )
        return {name: chosen[0]}
    names = {each.name for each in inputs}
    if len(arrays) == 1 and keys[0] not in names and (keys[0] is None or len(inputs) == 1):
        return {inputs[0].name if len(inputs) == 1 else None: arrays[0]}
    for stored in arrays:
        if stored.key not in names:
            raise DataError(
                f"{stored.where} is for no input of the model; {closest(str(stored.key), inputs)}; "
                "with NAME=PATH the array of that name is taken alone"
            )
    return {stored.key: stored for stored in arrays}
