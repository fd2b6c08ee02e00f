"""The groups of neighbouring values that are reduced in float32 before the rest is in float64 (see `moments`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

Dims = Sequence[int | None]

GROUP_MIN, GROUP_MAX = 32, 4096
# Short groups let the rounding of their sums average out.
GROUP_GOOD = 256
# A row's product with itself is summed side by side in many registers, so that it can be longer.
ROW_MIN, ROW_GOOD = 512, 2048


@lru_cache(maxsize=4096)
def _divisor(length: int, least: int, good: int, most: int) -> int | None:
    """Return the largest divisor up to a good length, or the smallest beyond it; None where none is within bounds."""
    lengths = (*range(good, least - 1, -1), *range(good + 1, most + 1))
    return next((g for g in lengths if length % g == 0), None)


def size_of(dims: Dims | None) -> int | None:
    """Return the number of values of a shape, where all of it is known."""
    return None if dims is None or None in dims else math.prod(d for d in dims if d is not None)


@dataclass(frozen=True, slots=True)
class Groups:
    """How many neighbouring values are reduced in float32; None where everything goes in float64 at once."""

    length: int | None
    row: int | None = None  # of a group whose squares are summed as the product of a row with itself


def groups_of(dims: Dims | None, *, leading: int = 0) -> Groups:
    """Return the groups that a value of a shape is reduced in.

    Args:
        dims: the shape as far as it is known.
        leading: how many leading axes must not be merged (batch and channel for a BatchNormalization).
    """
    if dims is None:
        return Groups(None)
    length = 1
    for dim in reversed(dims[leading:]):
        if not dim:
            break
        length *= dim
    return Groups(_divisor(length, GROUP_MIN, GROUP_GOOD, GROUP_MAX), _divisor(length, ROW_MIN, ROW_GOOD, ROW_GOOD))
