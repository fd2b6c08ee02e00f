"""The values of `--data [NAME=]PATH` -> stored arrays for each input.

A path is one file, or a folder of either ONNX's own layout (`test_data_set_*/input_K.pb`, K counting the graph inputs;
onnx/backend/test) or one file a batch, in natural order: 2 before 10.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from onnx_lsuv.batches.advice import file_advice
from onnx_lsuv.batches.formats import FORMATS, reader_of
from onnx_lsuv.batches.inputs import Input, closest, show_shape
from onnx_lsuv.batches.plan import check_shape
from onnx_lsuv.batches.stored import Reader, Stored, open_file, reason
from onnx_lsuv.batches.tensors import INPUT_PB
from onnx_lsuv.batches.values import check_dtype
from onnx_lsuv.errors import DataError, UsageError, listing, quote

OUTPUT_PB = re.compile(r"output_[0-9]+\.pb")


@dataclass(frozen=True, slots=True)
class Source:
    """What one `--data`, one list of arrays, or `--random` means, for the report."""

    kind: str  # "npy", "npz", "safetensors", "pb", "folder of npy", ..., "test data sets", "arrays" or "random"
    inputs: tuple[str, ...]
    files: int = 0
    path: str | None = None
    seed: int | None = None


class Folder(NamedTuple):
    """The data files of a folder, batch by batch."""

    kind: str
    batches: tuple[tuple[Path, ...], ...]
    left_out: tuple[str, ...] = ()


def read_sources(
    inputs: Sequence[Input], data: Sequence[str], limit: int
) -> tuple[dict[str, list[Stored]], list[Source], list[str]]:
    """Return the arrays of every input, one or one a file, the sources and notes about what was left out.

    Raises UsageError where it is open which input is meant, DataError where data are broken or missing.
    """
    found: dict[str, list[Stored]] = {}
    sources: list[Source] = []
    notes: list[str] = []
    unnamed: list[tuple[int, list[Stored]]] = []
    for value in data:
        name, path = split_name(inputs, value)
        folder = list_folder(path) if _is_folder(path) else Folder(path.suffix.lower()[1:], ((path,),))
        if count := len(folder.left_out):
            notes.append(f"{count} other file{'s' * (count > 1)} in {quote(path)} left out: {listing(folder.left_out)}")
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
        sources.append(Source(folder.kind, names, sum(map(len, folder.batches)), str(path)))
    _take_in_order(inputs, unnamed, found, sources, notes)
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
            folder = list_folder(path) if _is_folder(path) else Folder("", ((path,),))
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
        check_shape(one, stored)
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


def _is_folder(path: Path) -> bool:
    return os.path.isdir(path)  # noqa: PTH112  (False for what cannot be looked at: the reader says why)


def files_of(data: Sequence[str]) -> Iterator[Path]:
    """Yield every file that `--data` values could mean: a path, what is behind a `=` in it, and what a folder holds."""
    for value in data:
        cuts = [0, *(index + 1 for index, char in enumerate(value) if char == "=")]
        for path in (Path(value[cut:]) for cut in cuts if value[cut:]):
            yield path
            if _is_folder(path):
                yield from path.glob("*")
                yield from path.glob("test_data_set_*/*")


def list_folder(path: Path) -> Folder:
    """Return the data files of a folder in natural order; raises DataError where there are none, or mixed formats."""
    try:
        folders = {one: _is_folder(one) for one in path.iterdir() if not one.name.startswith(".")}
        entries = sorted(folders, key=natural_order)
        # What is neither file nor folder, such as a link that leads nowhere, is refused when it is read.
        files = [one for one in entries if not folders[one]]
        sets = [one for one in entries if one.name.startswith("test_data_set_") and folders[one]]
        if sets:
            return Folder("test data sets", tuple(_one_set(each) for each in sets))
    except OSError as error:
        raise DataError(f"the data folder {quote(path)} cannot be read: {reason(error)}") from error
    usable = [one for one in files if one.suffix.lower() in FORMATS and not OUTPUT_PB.fullmatch(one.name)]
    kinds = sorted({one.suffix.lower() for one in usable})
    tests = tuple(one for one in usable if INPUT_PB.fullmatch(one.name))
    what = f"the data folder {quote(path)}"
    if not usable:
        inside = f"only {listing(one.name for one in entries)}" if entries else "nothing"
        raise DataError(
            f"{what} has to hold {', '.join(FORMATS)} files or test_data_set_* folders, but holds {inside}; give "
            "another folder or a file"
        )
    if len(kinds) > 1:
        raise DataError(
            f"{what} has to hold files of one format, but holds {' and '.join(kinds)}; keep one format, or give the "
            "files by name"
        )
    if 0 < len(tests) < len(usable):
        odd = next(one.name for one in usable if one not in tests)
        raise DataError(f"{what} holds input_K.pb files, that is one batch, but also {quote(odd)}; keep either")
    left_out = tuple(one.name for one in files if one.suffix.lower() not in FORMATS)
    if tests:
        return Folder("test data sets", (tests,), left_out)
    return Folder(f"folder of {kinds[0][1:]}", tuple((one,) for one in usable), left_out)


def _one_set(path: Path) -> tuple[Path, ...]:
    files = sorted((one for one in path.iterdir() if INPUT_PB.fullmatch(one.name)), key=natural_order)
    if not files:
        raise DataError(f"the test data set {quote(path)} holds no input_K.pb file; remove it or complete it")
    return tuple(files)


def natural_order(path: Path) -> tuple[list[str | int], str]:
    """Return a sorting key under which 2 comes before 10."""
    parts = re.split(r"([0-9]+)", path.name)  # text and digits alternate, so like is compared with like
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], path.name


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
    raise DataError(f"the data file {quote(path)} {file_advice(path, tuple(FORMATS))}")


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
