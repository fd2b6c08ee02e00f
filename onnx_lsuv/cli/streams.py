"""Standard output and standard error, whoever reads them, or nobody."""

from __future__ import annotations

import os
import sys
from contextlib import suppress


def prepare() -> None:
    """Make the streams fit for what is printed.

    A descriptor that is closed would be given to the next file opened, and what a library prints would end up in it.
    Text that is not a superset of ASCII, as UTF-16, is read by no terminal, log or pipe: UTF-8 takes its place.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            with suppress(OSError):
                os.open(os.devnull, os.O_RDWR)  # the lowest that is free: this one
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
            if "a".encode(stream.encoding) != b"a":
                stream.reconfigure(encoding="utf-8")


def emit(text: str, color: bool | None = None) -> None:
    """Print text and the end of its line. A reader that has seen enough (`| head`) is no error; a full disk is one."""
    import typer  # noqa: PLC0415

    try:
        typer.echo(text, color=color)
        flush()
    except BrokenPipeError:
        _close()


def flush() -> None:
    """See that all is written that was printed; raises OSError where it cannot be."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _close()
    except OSError:
        _close()
        raise


def _close() -> None:
    """Let what is left in the buffer, or printed from now on, go nowhere: it would fail again at the end."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
