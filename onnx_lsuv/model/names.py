"""Names that nothing else has."""

from __future__ import annotations

from collections.abc import Container


def unused(name: str, taken: Container[str], joint: str = ".", tried: dict[str, int] | None = None) -> str:
    """Return the name itself, or where it is taken with the first free number from 2 on behind a joint.

    Where many alike are to be named, `tried` remembers the last number of each name; what is taken must stay so.
    """
    found, number = name, 1 if tried is None else tried.get(name, 1)
    while found in taken:
        number += 1
        found = f"{name}{joint}{number}"
    if tried is not None:
        tried[name] = number
    return found
