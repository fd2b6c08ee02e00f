"""Every error this package raises on purpose, and the exit status each one becomes.

    LsuvError                 70   never raised itself
    ├── UsageError             2   an option or argument is wrong
    ├── ModelError             3   the model file is broken, unsupported, or has nothing to initialise
    ├── DataError              4   the calibration data are missing, broken, or do not fit the model
    ├── DeviceError            5   ONNX Runtime or the device cannot do what was asked
    └── OutputError            6   the result cannot be written

A message is one sentence: what was expected, what was found, where, and what to do.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable
from typing import ClassVar

LONGEST = 120  # characters of a name that a message proposes or repeats
# Control, format, surrogate, private and unassigned characters, and the separators that break a line.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def clean(text: str) -> str:
    """Return text with every character escaped that could move the cursor, reverse the line or hide."""
    return "".join(c if unicodedata.category(c) not in _HIDDEN else c.encode("unicode_escape").decode() for c in text)


def sentence(text: str) -> str:
    """Return a message as one clean line: the first word small unless it is a name, one full stop at the end."""
    line = " ".join(text.split())
    line = re.sub(r"^(A|An|The|There|Expected|Node|No|Option|It|This|That) ", lambda first: first[0].lower(), line)
    return clean(line.rstrip(".")) + "."


def quote(text: object) -> str:
    """Quote a name or path for a message: what could hide escaped, a long one shortened in the middle."""
    shown = repr(str(text))
    half = LONGEST // 2
    return shown if len(shown) <= LONGEST + 2 else f"{shown[:half]}…{shown[-half:]}"


def meant(given: str, known: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" with the known name that is closest to the given one; "" where none is close."""
    every = list(dict.fromkeys(known))
    lower = {name.lower(): name for name in every}
    near = [lower[given.lower()]] if given.lower() in lower else difflib.get_close_matches(given, every, n=1)
    near = near or [lower[name] for name in difflib.get_close_matches(given.lower(), lower, n=1)]
    return f" (did you mean {near[0]!r}?)" if near and len(near[0]) <= LONGEST else ""


class LsuvError(Exception):
    """Base of all errors raised on purpose by this package."""

    exit_status: ClassVar[int] = 70


class UsageError(LsuvError):
    """An option or argument is wrong."""

    exit_status = 2


class ModelError(LsuvError):
    """The model file is broken, not supported, or has nothing to initialise."""

    exit_status = 3


class DataError(LsuvError):
    """The calibration data are missing, broken, or do not fit the model."""

    exit_status = 4


class DeviceError(LsuvError):
    """ONNX Runtime or the device cannot do what was asked."""

    exit_status = 5


class OutputError(LsuvError):
    """The result cannot be written where it was asked for."""

    exit_status = 6
