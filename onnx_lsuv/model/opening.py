"""Open a file that somebody named: a regular one, without waiting for a pipe or waking a device, and mapped."""

from __future__ import annotations

import mmap
import os
import stat
from io import BufferedReader
from pathlib import Path

from onnx_lsuv.errors import ModelError

LINKS = getattr(os, "O_NOFOLLOW", 0)  # not all systems have the flags


class NotRegularError(Exception):
    """What was to be opened is a folder, or no file at all."""

    def __init__(self, status: os.stat_result) -> None:
        super().__init__("not a regular file")
        self.is_folder = stat.S_ISDIR(status.st_mode)


def open_regular(path: Path, flags: int = 0) -> BufferedReader:
    """Open a regular file to read it; raises NotRegularError, OSError or, for a name that none can have, ValueError."""
    # Looked at before it is opened, as a device may act on that, and after, as another may stand there now.
    _check(path.stat())
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | flags)
    file = os.fdopen(descriptor, "rb")
    try:
        _check(os.fstat(descriptor))
    except BaseException:
        file.close()
        raise
    return file


def _check(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise NotRegularError(status)


def mapped(file: BufferedReader) -> memoryview:
    """Return the bytes of an open file, which are read as they are used."""
    return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def release(view: memoryview) -> None:
    """Let go of what was read of a mapped file, which counts as this process's memory; it is read again when used.

    A system maps what lies around a value with it, so that a few values of a large file cost as much as the file.
    """
    file = view.obj
    if isinstance(file, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        file.madvise(mmap.MADV_DONTNEED)


def whole(view: memoryview, name: str) -> memoryview:
    """Return a view of a file; raise ModelError where the file has become shorter since it was mapped.

    To read what is not there any more would end the process by a signal, so this is asked right before. It helps where
    the file is shorter by then, not where it becomes so while it is read.
    """
    mapped = view.obj
    if isinstance(mapped, mmap.mmap) and mapped.size() < len(view):
        raise ModelError(
            f"{name} has become shorter while it was in use: it has {mapped.size()} of {len(view)} bytes; leave the "
            "file as it is until the work is done"
        )
    return view
