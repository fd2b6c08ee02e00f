"""What a folder of data holds: files that are a batch each, ONNX's own test sets, or images."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from onnx_lsuv.batches.formats import FORMATS, IMAGES
from onnx_lsuv.batches.images import taking_turns
from onnx_lsuv.batches.stored import reason
from onnx_lsuv.batches.tensors import INPUT_PB
from onnx_lsuv.errors import DataError, listing, quote

OUTPUT_PB = re.compile(r"output_[0-9]+\.pb")


class Folder(NamedTuple):
    """The data files of a folder, batch by batch."""

    kind: str
    batches: tuple[tuple[Path, ...], ...]
    left_out: tuple[str, ...] = ()


def is_folder(path: Path) -> bool:
    """Whether there is a folder of that name."""
    return os.path.isdir(path)  # noqa: PTH112  (False for what cannot be looked at: the reader says why)


def files_of(data: Sequence[str]) -> Iterator[Path]:
    """Yield every file that `--data` values could mean: a path, what is behind a `=` in it, and what a folder holds."""
    for value in data:
        cuts = [0, *(index + 1 for index, char in enumerate(value) if char == "=")]
        for path in (Path(value[cut:]) for cut in cuts if value[cut:]):
            yield path
            if ":" in path.name:  # a function's module
                yield Path(*path.name.partition(":")[0].split(".")).with_suffix(".py")
            if is_folder(path):
                yield from path.glob("*")
                yield from path.glob("*/*")


def list_folder(path: Path) -> Folder:
    """Return the data files of a folder in natural order; raises DataError where there are none, or mixed formats."""
    try:
        folders = {one: is_folder(one) for one in path.iterdir() if not one.name.startswith(".")}
        entries = sorted(folders, key=natural_order)
        # What is neither file nor folder, such as a link that leads nowhere, is refused when it is read.
        files = [one for one in entries if not folders[one]]
        sets = [one for one in entries if one.name.startswith("test_data_set_") and folders[one]]
        if sets:
            return Folder("test data sets", tuple(_one_set(each) for each in sets))
    except OSError as error:
        raise DataError(f"the data folder {quote(path)} cannot be read: {reason(error)}") from error
    images = tuple(one for one in files if one.suffix.lower() in IMAGES)
    usable = [one for one in files if one.suffix.lower() in FORMATS and not OUTPUT_PB.fullmatch(one.name)]
    if all(one.suffix.lower() == ".csv" for one in usable):  # beside images, a table of labels
        pictures = images or _classes(path, [one for one in entries if folders[one]])
        if pictures:
            return Folder("images", (pictures,), tuple(one.name for one in files if one not in set(images)))
    kinds = sorted({one.suffix.lower() for one in usable})
    tests = tuple(one for one in usable if INPUT_PB.fullmatch(one.name))
    what = f"the data folder {quote(path)}"
    if not usable:
        inside = f"only {listing(one.name for one in entries)}" if entries else "nothing"
        raise DataError(
            f"{what} has to hold {', '.join(FORMATS)} files, images, folders of images or test_data_set_* folders, but "
            f"holds {inside}; give another folder or a file"
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


def _classes(path: Path, folders: Sequence[Path]) -> tuple[Path, ...]:
    """Return the images in the folders of a folder, one for each class, in turns."""
    try:
        inside = [sorted(each.iterdir(), key=natural_order) for each in folders]
    except OSError as error:
        raise DataError(f"a folder in {quote(path)} cannot be read: {reason(error)}") from error
    return taking_turns([[one for one in each if one.suffix.lower() in IMAGES] for each in inside])


def _one_set(path: Path) -> tuple[Path, ...]:
    files = sorted((one for one in path.iterdir() if INPUT_PB.fullmatch(one.name)), key=natural_order)
    if not files:
        raise DataError(f"the test data set {quote(path)} holds no input_K.pb file; remove it or complete it")
    return tuple(files)


def natural_order(path: Path) -> tuple[list[str | int], str]:
    """Return a sorting key under which 2 comes before 10."""
    parts = re.split(r"([0-9]+)", path.name)  # text and digits alternate, so like is compared with like
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], path.name
