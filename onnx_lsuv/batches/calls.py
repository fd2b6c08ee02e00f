"""Data that a function gives: `--data module:function`.

The only data that run code, the code that a person names. The folder where the command is called comes first of where
Python looks for the module.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from inspect import signature
from pathlib import Path
from traceback import extract_tb
from types import ModuleType
from typing import Any

from onnx_lsuv.batches.inputs import Input
from onnx_lsuv.batches.stored import Stored, reason
from onnx_lsuv.batches.stream import Keep, Progress, walk
from onnx_lsuv.errors import DataError, LsuvError, meant, quote

_NAME = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
_PACKAGE = str(Path(__file__).parents[1])


def is_function(text: str) -> bool:
    """Whether a value of `--data` is a function: module:function, and no file of that name."""
    return re.fullmatch(f"{_NAME}:{_NAME}", text) is not None and not os.path.exists(text)  # noqa: PTH110


def read_function(
    inputs: Sequence[Input], text: str, keep: Keep, samples: int | None, progress: Progress | None
) -> tuple[dict[str, list[Stored]], list[str]]:
    """Return what `stream.walk` finds in what a function returns, or in an object that is none; raises DataError."""
    where, _, name = text.partition(":")
    with _importable():
        module = _module(where, name)
        found: Any = module
        for part in name.split("."):
            if not hasattr(found, part):
                near = meant(part, [each for each in dir(found) if not each.startswith("_")])
                raise DataError(f"the module {quote(where)} ({_file(module)}) has no {quote(name)}{near}")
            found = getattr(found, part)
        if callable(found) and not _takes_nothing(found):
            raise DataError(f"{quote(text)} ({_file(module)}) takes arguments; give one that can be called without")
        try:
            return walk(inputs, found, f" of {quote(text)}", keep=keep, samples=samples, progress=progress)
        except (Exception, SystemExit) as error:
            if isinstance(error, LsuvError) or _last_place(error).startswith(_PACKAGE):
                raise
            raise DataError(f"{quote(text)} ({_last_place(error)}) raised {_told(error)}") from error


@contextmanager
def _importable() -> Iterator[None]:
    """Let modules of the current folder be found, those that are imported while data are made too."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.path.remove(folder)


def _module(where: str, name: str) -> ModuleType:
    importlib.invalidate_caches()
    try:
        return importlib.import_module(where)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and f"{where}.".startswith(f"{error.name}."):
            instead = f"{where.removesuffix('.py')}:{name}"
            hint = f"give {quote(instead)}" if where.endswith(".py") else "give module:function, such as data:batches"
            raise DataError(
                f"there is no module {quote(error.name)} in {quote(Path.cwd())}, nor where Python looks; {hint}"
            ) from error
        raise DataError(f"the module {quote(where)} ({_last_place(error)}) raised {_told(error)}") from error


def _takes_nothing(function: Any) -> bool:
    try:
        signature(function).bind()
    except TypeError:
        return hasattr(function, "__iter__")  # an iterable that can be called is not
    except ValueError:  # not every builtin tells
        return True
    return True


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {reason(error)}" if str(error) else type(error).__name__


def _last_place(error: BaseException) -> str:
    """Return the file and line that raised, of the last frame that is in a file."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    frames = [frame for frame in extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    return f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else ""


def _file(module: ModuleType) -> str:
    return str(getattr(module, "__file__", None) or "built in")
