"""Write files whole or not at all: the only way in which this package makes a file that stays.

Files that belong together are first written, each whole and on disk, to a hidden folder beside their places: one for
each folder that gets files, so that data files have in it the names that a model beside them knows them by. They can be
read there, to be measured or described, before any has its name. Then all are put into place, by link or rename, which
each of them takes at once. Between several there is a moment with some in place, so the one that leads to the others
comes last, and what was put or replaced before it is taken back when something fails. A process that is killed outright
leaves the hidden folder, but never a part of a file under its name. The folder is locked while its process lives, so
that the next one that writes there sees that nobody needs it, and removes it; but not where it holds an older output
that was about to be replaced. Who ends the process from another thread calls `abandon` first.
"""

from __future__ import annotations

import os
import secrets
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from onnx_lsuv.errors import OutputError, quote
from onnx_lsuv.model.splicing import Piece

Error = TypeVar("Error", bound=BaseException)

_CHUNK = 1 << 24
PREFIX = ".onnx-lsuv-"

# Held where the process must not be ended: files appear, come into place, or are taken back.
unbroken = threading.RLock()
_open: list[Staging] = []


class _File(NamedTuple):
    target: Path
    waiting: Path
    leads: bool


class _Put(NamedTuple):
    """A file on its way into place: what it was as it waited, and the name of what was there before it, if anything."""

    target: Path
    status: os.stat_result
    backup: Path


@dataclass(slots=True, eq=False)
class Staging:
    """Files that wait to be put into place together, replacing existing ones only with `force`."""

    force: bool
    committed: bool = False  # whether all files are in place
    _files: list[_File] = field(default_factory=list)
    _hidden: dict[Path, Path] = field(default_factory=dict)  # by the folder that it stands in
    _locks: list[int] = field(default_factory=list)  # of the hidden folders
    _made: list[Path] = field(default_factory=list)  # new folders
    _undo: list[Callable[[], None]] = field(default_factory=list)

    def add(self, folder: Path, name: str, pieces: Iterable[Piece], *, leads: bool = False) -> Path:
        """Write the pieces of the file `name`, a path below `folder`; return where it will be.

        A file that leads to others is put into place after them. Raises OutputError.
        """
        target = folder / name
        try:
            with unbroken:
                waiting = self._beside(folder) / name
                waiting.parent.mkdir(parents=True, exist_ok=True)
                # "x" creates the file with the permissions that the user's umask gives to any new file.
                file = waiting.open("xb", buffering=1 << 20)
            with file:
                _write(file, pieces)
        except FileExistsError:
            raise OutputError(f"two outputs would be the file {quote(target)}: name another for one of them") from None
        except OSError as error:
            raise _unwritable(target, error) from error
        self._files.append(_File(target, waiting, leads))
        return target

    @property
    def placed(self) -> list[Path]:
        """The files that are in place."""
        return [file.target for file in self._files] if self.committed else []

    def waiting(self, target: Path) -> Path:
        """Return where a file is until it is put into place."""
        return next(file.waiting for file in self._files if file.target == target)

    def undo(self, do: Callable[[], None]) -> None:
        """Have something else undone too where the files do not come into place."""
        self._undo.append(do)

    def commit(self) -> None:
        """Put all files into place.

        Raises OutputError; then, and on any other exception, none of them stands, or the error names those that do.
        """
        files = sorted(self._files, key=lambda file: file.leads)
        with unbroken:
            self._put_all(files)
            self._made.clear()
        for folder in {file.target.parent for file in files}:
            _sync_folder(folder)

    def _put_all(self, files: list[_File]) -> None:
        done: list[_Put] = []
        target = Path()
        try:
            for i, file in enumerate(files):
                target = file.target
                _make_folders(target.parent, self._made)
                done.append(_Put(target, file.waiting.lstat(), file.waiting.with_name(f"{PREFIX}{i}.old")))
                if self.force and i < len(files) - 1:
                    _set_aside(target, done[-1].backup)
                _put(file.waiting, target, self.force)
            self.committed = True
        except BaseException as error:
            if len(done) == len(files) and _is_there(done[-1]):
                self.committed = True  # interrupted after the last file came into place: all is done
                raise
            stand = [quote(one.target) for one in reversed(done) if not _take_back(one)]
            # No name for the error that is raised: the frame that has it would keep it, and it the frame.
            if isinstance(error, OSError):
                raise _noted(_unplaced(target, error), stand) from error
            _noted(error, stand)
            raise

    def clear(self) -> None:
        """Remove what waits, and unless all files are in place the folders that were made for them."""
        with unbroken:
            for hidden in self._hidden.values():
                shutil.rmtree(hidden, ignore_errors=True)
            while self._locks:
                os.close(self._locks.pop())
            if not self.committed:
                for do in (*(folder.rmdir for folder in reversed(self._made)), *reversed(self._undo)):
                    with suppress(OSError):
                        do()

    def _beside(self, folder: Path) -> Path:
        if folder not in self._hidden:
            _remove_dead(folder)
            hidden = folder / f"{PREFIX}{secrets.token_hex(8)}"
            self._hidden[folder] = hidden  # known before it is there, so that an interruption finds it
            try:
                hidden.mkdir()
            except OSError as error:
                raise OutputError(
                    f"the folder {quote(folder)} cannot be written to ({error.strerror or error}): choose another"
                ) from error
            self._locks += _lock(hidden)
        return self._hidden[folder]


@contextmanager
def staging(force: bool) -> Iterator[Staging]:
    """Yield a Staging; what was not put into place by the end is removed."""
    staged = Staging(force)
    _open.append(staged)
    try:
        yield staged
    finally:
        try:
            staged.clear()
        except BaseException:
            staged.clear()  # interrupted: the rest of it still goes
            raise
        finally:
            _open.remove(staged)


def abandon() -> None:
    """Remove what waits, and let nothing come into place from now on: the process is about to end."""
    unbroken.acquire()
    for staged in _open:
        staged.clear()


def exists(path: Path) -> str:
    """Return the sentence about an output that may not be replaced."""
    return f"the output {quote(path)} exists: name another, or replace it with '--force' (force=True)"


def _unwritable(target: Path, error: OSError) -> OutputError:
    return OutputError(f"the output {quote(target)} cannot be written: {error.strerror or error}")


def _unplaced(target: Path, error: OSError) -> OutputError:
    return OutputError(exists(target)) if isinstance(error, FileExistsError) else _unwritable(target, error)


def _noted(error: Error, stand: Sequence[str]) -> Error:
    """Return the error with a note on the files that stand although they should not."""
    if stand:
        error.add_note(f"{', '.join(stand)} could not be taken back and {'stand' if stand[1:] else 'stands'}")
    return error


def _lock(hidden: Path) -> list[int]:
    """Return the descriptor that locks a folder until the process ends; none where another has it or nothing can."""
    with suppress(OSError):
        descriptor = os.open(hidden, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(descriptor)
            raise
        return [descriptor]
    return []


def _remove_dead(folder: Path) -> None:
    """Remove the hidden folders of processes that were killed, but for what they had set aside."""
    for hidden in folder.glob(f"{PREFIX}{'[0-9a-f]' * 16}") if fcntl else ():
        for descriptor in _lock(hidden) if hidden.is_dir() else ():
            if next(hidden.rglob(f"{PREFIX}*.old"), None) is None:
                shutil.rmtree(hidden, ignore_errors=True)
            os.close(descriptor)


def _make_folders(folder: Path, made: list[Path]) -> None:
    for missing in reversed([one for one in (folder, *folder.parents) if not one.is_dir()]):
        made.append(missing)
        missing.mkdir()


def _write(file: BinaryIO, pieces: Iterable[Piece]) -> None:
    for piece in pieces:
        view = memoryview(piece)
        for at in range(0, len(view), _CHUNK):
            file.write(view[at : at + _CHUNK])
    file.flush()
    os.fsync(file.fileno())


def _set_aside(target: Path, backup: Path) -> None:
    """Give an existing file a second name, so that it can be taken back."""
    if not os.path.lexists(target):
        return
    try:
        os.link(target, backup, follow_symlinks=False)
    except OSError:  # a file system without hard links
        target.rename(backup)


def _put(waiting: Path, target: Path, force: bool) -> None:
    if not force:
        try:
            os.link(waiting, target)  # unlike a rename, fails if a file has appeared there
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            if os.path.lexists(target):
                raise FileExistsError(target) from None
        else:
            waiting.unlink()
            return
    waiting.replace(target)


def _is_there(put: _Put) -> bool:
    with suppress(OSError):
        return os.path.samestat(put.target.lstat(), put.status)
    return False


def _take_back(put: _Put) -> bool:
    """Undo a file's coming into place; return whether what was there before is there again."""
    with suppress(OSError):
        if os.path.lexists(put.backup):
            put.backup.replace(put.target)
        elif _is_there(put):
            put.target.unlink()
        return True
    return not _is_there(put)


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # not all systems can open a folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
