"""Where outputs may go: all are looked at together before the work, against what is read and against each other.

Files are compared by what they are, device and inode, not by name: links, `..`, and folders that ignore case are seen
through. One that is not there yet is known by its folder and its name. A symbolic link is written through, as by `cp`:
what it leads to is replaced, and the link stays.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from onnx_lsuv.errors import OutputError, UsageError, quote
from onnx_lsuv.model.atomic import PREFIX, exists
from onnx_lsuv.model.loading import Model
from onnx_lsuv.model.values import data_files

Read = tuple[Path | int, str]  # a path or descriptor, and what an output that is the same file would be
_Identity = tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class Output:
    """A file to write: its path as given, and how messages call it."""

    path: Path
    what: str = "the output"
    appended: bool = False  # to what is there, whatever kind of file that is
    inside: Path | None = None  # a folder in which those on the way to the file are made
    refusal: str = ""  # why it cannot be written, where only the caller knows


def named(path: str | os.PathLike[str]) -> Path:
    """Return a path that names a file; raises OutputError for one that names a folder or nothing."""
    given = os.fspath(path)
    if "\0" in given or Path(given).name in ("", "..") or given.endswith(("/", os.sep)):
        raise OutputError(f"the output {quote(given)} should be a file to write, but is not the name of one")
    return Path(given)


def check_suffix(path: str | os.PathLike[str], what: str, suffixes: Collection[str]) -> str:
    """Return the suffix of an output, in lower case; raises UsageError where it is none of those of `what`."""
    suffix = Path(path).suffix.lower()
    if suffix not in suffixes:
        raise UsageError(f"{what} written as {' or '.join(suffixes)}, but {quote(path)} ends otherwise")
    return suffix


def check_outputs(outputs: Sequence[Output], read: Iterable[Read], *, force: bool) -> list[Path]:
    """Return the path of each output, links followed.

    Raises OutputError for one that is read, exists (without `force`), or could not be written, UsageError for two that
    are the same file. `read` is gone through only where an output is there already.
    """
    found = [(output, _status(output), Path(os.path.realpath(output.path))) for output in outputs]
    there = {(status.st_dev, status.st_ino): output for output, status, _ in found if status is not None}
    if there:
        _refuse_read(there, read)
    seen: dict[_Identity, Output] = {}
    for output, status, target in found:
        identity = _new_identity(target) if status is None else (status.st_dev, status.st_ino)
        other = seen.setdefault(identity, output)
        if other is not output:
            both = f"{output.what} twice" if output.what == other.what else f"{other.what} and {output.what}"
            raise UsageError(f"the file {quote(output.path)} is named for two outputs, {both}: name another")
    for output, status, target in found:
        if output.refusal:
            raise OutputError(output.refusal)
        _refuse_existing(output, status, force)
        _refuse_folder(output, target)
    return [target for _, _, target in found]


def read_by(model: Model) -> Iterator[Read]:
    """Yield the files of a model: its own, and those with its external data."""
    if model.path is not None:
        yield model.path, "the model itself, which is never written to"
    if model.folder is not None:
        for key in data_files(model):
            yield model.folder / key, "a data file of the model, which is never written to"


def _status(output: Output) -> os.stat_result | None:
    given = named(output.path)
    try:
        status = given.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OutputError(
                f"{output.what} {quote(given)} lies behind symbolic links that lead in a circle: name another"
            ) from None
        raise _refused(output, error) from None
    if stat.S_ISDIR(status.st_mode):
        raise OutputError(f"{output.what} {quote(given)} is a folder: name a file")
    return status


def _refused(output: Output, error: OSError) -> OutputError:
    return OutputError(f"{output.what} {quote(output.path)} cannot be written: {error.strerror}")


def _refuse_read(there: Mapping[tuple[int, int], Output], read: Iterable[Read]) -> None:
    for file, what in read:
        try:
            status = os.stat(file)  # noqa: PTH116  (also of a descriptor)
        except (OSError, ValueError):
            continue  # what is not there cannot be lost
        output = there.get((status.st_dev, status.st_ino))
        if output is not None and (stat.S_ISREG(status.st_mode) or not output.appended):
            raise OutputError(f"{output.what} {quote(output.path)} is {what}: name another")


def _new_identity(target: Path) -> _Identity:
    """Return what two names of a file that is not there yet have in common."""
    try:
        status = target.parent.stat()
    except OSError:
        return (str(target),)
    return status.st_dev, status.st_ino, target.name.casefold() if _ignores_case(target.parent) else target.name


def _ignores_case(folder: Path) -> bool:
    """Whether a file of the folder, or without one the folder itself, is also there in other letters."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.swapcase() != entry.name:
                return os.path.lexists(folder / entry.name.swapcase())
    return folder.name.swapcase() != folder.name and os.path.lexists(folder.with_name(folder.name.swapcase()))


def _refuse_existing(output: Output, status: os.stat_result | None, force: bool) -> None:
    if output.appended or (status is None and not os.path.lexists(output.path)):
        return
    if status is not None and not stat.S_ISREG(status.st_mode):
        raise OutputError(
            f"{output.what} {quote(output.path)} is not a regular file, so it is not replaced: name another"
        )
    if not force:
        raise OutputError(exists(output.path))


def _refuse_folder(output: Output, target: Path) -> None:
    """Raise OutputError where no file can be made beside the output, or none of its name."""
    if output.appended and target.exists():
        if not os.access(target, os.W_OK):
            raise _refused(output, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
        return
    # As it was given, but for what a link leads to. os.path says no, where a Path raises, to a name that is too long.
    folder = output.inside or (target.parent if os.path.islink(output.path) else output.path.parent)  # noqa: PTH114
    if not folder.is_dir():
        what = "is no folder" if os.path.lexists(folder) else "does not exist: make it first"
        raise OutputError(f"the folder {quote(folder)} of {output.what} {quote(target.name)} {what}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"the folder {quote(folder)} cannot be written to: choose another")
    try:
        os.stat(target.parent / f"{PREFIX}{'0' * 16}" / target.name)  # noqa: PTH116
    except FileNotFoundError:
        return
    except OSError as error:  # above all a name that is too long
        raise _refused(output, error) from None
