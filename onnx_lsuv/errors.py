"""Every error this package raises on purpose, and the exit status each one becomes.

    LsuvError                 70   never raised itself
    ├── UsageError             2   an option or argument is wrong
    ├── ModelError             3   the model file is broken, unsupported, or has nothing to initialise
    ├── DataError              4   the calibration data are missing, broken, or do not fit the model
    ├── DeviceError            5   ONNX Runtime or the device cannot do what was asked
    │   └── DeviceMemoryError  5   its memory does not hold a batch
    └── OutputError            6   the result cannot be written

A message is one sentence: what was expected, what was found, where, and what to do. Names and paths in it may come from
anybody and be of any length, so `quote` shortens them in the middle, and every error does so for what came otherwise.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable
from typing import ClassVar

LONGEST = 120  # characters of a name or path in a message
SENTENCE = 370  # characters of a message: with what the command writes around it a line stays below 400
LISTED = 8  # names that a message lists before it says how many more there are
LISTING = 160  # characters that these take at most, the first name aside
# Control, format, surrogate, private and unassigned characters, and the separators that break a line.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def clean(text: str) -> str:
    """Return text with every character escaped that could move the cursor, reverse the line or hide."""
    return "".join(c if unicodedata.category(c) not in _HIDDEN else c.encode("unicode_escape").decode() for c in text)


def shorten(text: str, longest: int = LONGEST) -> str:
    """Return a text of at most so many characters: its middle left out, as a path tells most by its ends."""
    head = longest // 2
    return text if len(text) <= longest else f"{text[:head]}…{text[len(text) - (longest - 1 - head) :]}"


def quote(text: object) -> str:
    """Quote a name or path for a message: what could hide escaped, a long one shortened in the middle."""
    shown = repr(shorten(str(text)))  # before it is escaped, too: a name may have megabytes
    return f"{shown[0]}{shorten(shown[1:-1])}{shown[0]}"


def listing(names: Iterable[str], most: int = LISTED) -> str:
    """Return the names quoted and joined by commas, at most so many before it says how many more there are."""
    every = list(names)
    shown: list[str] = []
    for name in map(quote, every[:most]):
        if shown and sum(map(len, shown)) + len(name) > LISTING:
            break
        shown.append(name)
    more = f" and {len(every) - len(shown)} more" if len(every) > len(shown) else ""
    return ", ".join(shown) + more


def brief(text: str) -> str:
    """Return a message that can be read: long names shortened where they stand, then whatever is still too much."""
    if len(text) <= SENTENCE:
        return text
    names = re.sub(rf"\S{{{LONGEST + 10},}}", lambda name: shorten(name[0]), text)
    return shorten(names, SENTENCE)


def sentence(text: str) -> str:
    """Return a message as one clean line: the first word small unless it is a name, one full stop at the end."""
    line = " ".join(text.split())
    line = re.sub(r"^(A|An|The|There|Expected|Node|No|Option|It|This|That) ", lambda first: first[0].lower(), line)
    return brief(clean(line.rstrip("."))) + "."


def meant(given: str, known: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" with the known name that is closest to the given one; "" where none is close.

    Close is a name that differs in case alone, that alone begins so, or that slips of the fingers turn into the given
    one, at most one in four characters; dashes before both and an extension that both have do not count.
    """
    if len(given) > LONGEST:
        return ""
    lower = {name.lower(): name for name in dict.fromkeys(known) if len(name) <= LONGEST}
    typed = given.lower()
    near = [typed] if typed in lower else [name for name in lower if len(typed) > 3 and name.startswith(typed)]
    if len(near) != 1:
        near = [name for name in difflib.get_close_matches(typed, lower, n=3) if _is_near(typed, name)]
    return f" (did you mean {lower[near[0]]!r}?)" if near else ""


def _is_near(one: str, other: str) -> bool:
    suffix = re.search(r"\.\w+$", one)
    if suffix and other.endswith(suffix[0]) and suffix.start() and other != suffix[0]:
        one, other = one[: suffix.start()], other.removesuffix(suffix[0])
    one, other = one.lstrip("-"), other.lstrip("-")
    longest = max(len(one), len(other))
    return bool(one and other) and _slips(one, other) <= max(1, longest // 4) < longest


def _slips(one: str, other: str) -> int:
    """Return how many characters are too many, missing, wrong, or swapped with the next (optimal string alignment)."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, a in enumerate(one):
        older, before, row = before, row, [i + 1]
        for j, b in enumerate(other):
            row.append(min(before[j] + (a != b), before[j + 1] + 1, row[j] + 1))
            if i and j and a == other[j - 1] and one[i - 1] == b:
                row[-1] = min(row[-1], older[j - 1] + 1)
    return row[-1]


class LsuvError(Exception):
    """Base of all errors raised on purpose by this package; the message is kept short enough to be read."""

    exit_status: ClassVar[int] = 70

    def __init__(self, message: str) -> None:
        super().__init__(brief(message))


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


class DeviceMemoryError(DeviceError):
    """The memory of the device does not hold a batch."""


class OutputError(LsuvError):
    """The result cannot be written where it was asked for."""

    exit_status = 6
