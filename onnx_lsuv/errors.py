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

import unicodedata
from typing import ClassVar

# Control, format, surrogate, private and unassigned characters, and the separators that break a line.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def clean(text: str) -> str:
    """Return text with every character escaped that could move the cursor, reverse the line or hide."""
    return "".join(c if unicodedata.category(c) not in _HIDDEN else c.encode("unicode_escape").decode() for c in text)


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
