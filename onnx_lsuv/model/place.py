"""Write files whole or not at all: each to a temporary file beside its place, and into place only when all are on disk.

Each file appears under its name at once. Between several there is a moment with some in place, so the one that leads to
the others comes last, and what was put or replaced before it is taken back when something fails. Who ends the process
from another thread calls `abandon` first.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import BinaryIO

from onnx_lsuv.errors import OutputError
from onnx_lsuv.model.splice import Piece

_CHUNK = 1 << 24

# Held where the process must not be ended: files appear, come into place, or are taken back.
unbroken = threading.RLock()
_unfinished: dict[int, tuple[list[Path], list[Path]]] = {}  # temporary files and new folders
_placed: list[Path] = []  # of each call the file that leads to the others


def abandon() -> list[Path]:
    """Remove what is unfinished, and let nothing come into place from now on: the process is about to end.

    Returns the files that are in place.
    """
    unbroken.acquire()
    for files, folders in _unfinished.values():
        _remove(files, folders)
    return list(_placed)


def place(files: Iterable[tuple[Path, Iterable[Piece]]], force: bool) -> None:
    """Write each file's pieces and put the files into place in this order, replacing existing ones only with `force`.

    Raises OutputError; then, and on any other exception, nothing is left of the new files.
    """
    files = list(files)
    trash: list[Path] = []  # temporary files
    folders: list[Path] = []  # new ones
    ready: list[tuple[Path, Path]] = []
    done: list[tuple[Path, os.stat_result, Path | None]] = []
    target = Path()
    held = ExitStack()
    _unfinished[id(trash)] = (trash, folders)
    try:
        for target, pieces in files:
            temporary = target.parent / _temporary_name()
            # "x" creates the file with the permissions that the user's umask gives to any new file.
            with unbroken:
                _make_folders(target.parent, folders)
                trash.append(temporary)
                file = temporary.open("xb", buffering=1 << 20)
            with file:
                _write(file, pieces)
            ready.append((temporary, target))
        held.enter_context(unbroken)
        for target, temporary in [(target, temporary) for temporary, target in ready]:
            backup = None
            if force and target is not ready[-1][1] and os.path.lexists(target):
                backup = target.parent / _temporary_name()
                trash.append(backup)
                with suppress(OSError):
                    os.link(target, backup, follow_symlinks=False)
            done.append((target, temporary.lstat(), backup))
            _put(temporary, target, force)
    except BaseException as error:
        if len(done) == len(files) and _is_there(*done[-1][:2]):
            _remove(trash, [])  # interrupted after the last file came into place: all is done
        else:
            for placed, status, backup in reversed(done):
                _take_back(placed, status, backup)
            _remove(trash, folders)
        if isinstance(error, FileExistsError):
            raise OutputError(
                f"{target} exists; replace it with --force (force=True), or choose another output"
            ) from None
        if isinstance(error, OSError):
            raise OutputError(f"{target} cannot be written: {error.strerror or error}") from None
        raise
    else:
        _remove(trash, [])
        _placed.append(target)
    finally:
        del _unfinished[id(trash)]
        held.close()
    for folder in {target.parent for _, target in ready}:
        _sync_folder(folder)


def _temporary_name() -> str:
    return f".onnx-lsuv-{secrets.token_hex(8)}.tmp"


def _make_folders(folder: Path, made: list[Path]) -> None:
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for one in reversed(missing):
        made.append(one)
        one.mkdir()


def _write(file: BinaryIO, pieces: Iterable[Piece]) -> None:
    for piece in pieces:
        view = memoryview(piece)
        for at in range(0, len(view), _CHUNK):
            file.write(view[at : at + _CHUNK])
    file.flush()
    os.fsync(file.fileno())


def _put(temporary: Path, target: Path, force: bool) -> None:
    if not force:
        try:
            os.link(temporary, target)  # unlike a rename, fails if a file has appeared there
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            if os.path.lexists(target):
                raise FileExistsError(target) from None
        else:
            temporary.unlink()
            return
    temporary.replace(target)


def _is_there(target: Path, ours: os.stat_result) -> bool:
    try:
        return os.path.samestat(target.lstat(), ours)
    except OSError:
        return False


def _take_back(target: Path, ours: os.stat_result, backup: Path | None) -> None:
    with suppress(OSError):
        if _is_there(target, ours):
            if backup is not None and os.path.lexists(backup):
                backup.replace(target)
            else:
                target.unlink()


def _remove(files: list[Path], folders: list[Path]) -> None:
    for file in files:
        with suppress(OSError):
            file.unlink()
    for folder in reversed(folders):
        with suppress(OSError):
            folder.rmdir()


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # not all systems can open a folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
