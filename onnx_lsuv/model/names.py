"""Names that nothing else has."""

from __future__ import annotations

from collections.abc import Container


def unused(name: str, taken: Container[str], joint: str = ".") -> str:
    """Return the name itself, or where it is taken with the first free number from 2 on behind a joint."""
    found, number = name, 1
    while found in taken:
        number += 1
        found = f"{name}{joint}{number}"
    return found
