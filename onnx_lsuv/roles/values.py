"""What the values of a constant tell: whether somebody computed them, so that no training ever moved them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from onnx_lsuv.model import Array

# How far along an axis to look for a rule, and how well it must fit: half precision is off by some 0.4%.
_LOOK, _COLUMNS, _FIT = 64, 4096, 1e-2
_SAMPLE = 1 << 16
_RULE_MIN = 6  # four equations for one unknown
_WINDOW_MIN = 8  # four equations
_LIST = 16  # channels of a picture, at most
_LAGS = 16  # boxes of one place in a picture
# By bytes of a number: what stores it; digits of one that is written down, and of what another is computed from; how
# far rounding takes the latter away. Half precision holds too few to tell.
_STORED: dict[int, tuple[Any, int, int, float]] = {4: (np.float32, 5, 3, 4e-7), 8: (np.float64, 8, 4, 4e-14)}
_PARTS = (1.0, *(part**power for part in (math.pi, math.log(2), math.log(10)) for power in (1, -1)))


def is_alike(values: Array) -> bool:
    """Say whether there is one number only, however often, or none."""
    return bool((values == values.reshape(-1)[:1]).all())


def is_computed(values: Array) -> bool:
    """Say whether somebody computed these values: all alike, in steps of one half, not finite, sinusoids, ramps or
    windows; or wrote down the one that there is.
    """
    array = values.astype(np.float32) if values.dtype.itemsize == 2 else values
    flat = array.reshape(-1)
    if not np.isfinite(flat).all():
        return True
    if flat.size == 1:
        return _is_written(float(flat[0]), values.dtype.itemsize)
    # What holds for all holds for the first, which are soon looked at.
    for part in (flat[:_SAMPLE], flat):
        with np.errstate(over="ignore"):  # of masks
            halves = part * 2
        if not (halves == np.rint(halves)).all() and not is_alike(part):
            rules = [_follows_rule(array, axis) for axis, length in enumerate(array.shape) if length >= _RULE_MIN]
            return any(rules) or (flat.size == max(array.shape) and _is_window(flat))
    return True


def _is_window(vector: Array) -> bool:
    """Say whether a vector is its own mirror image, the first number aside where it is periodic, as Hann's is."""
    near = 0.2 * _FIT * np.ptp(vector)
    mirrored = any((np.abs(each - each[::-1]) <= near).all() for each in (vector, vector[1:]))
    return len(vector) >= _WINDOW_MIN and mirrored


def is_listed(values: Array) -> bool:
    """Say whether a short list holds only numbers of few digits, or one over such, as of the channels of pictures."""
    numbers = np.abs(values.astype(np.float64).reshape(-1))
    if numbers.size > _LIST or values.dtype.itemsize not in _STORED or not numbers.all():
        return False
    return all(_is_short(float(x), values.dtype.itemsize) for x in numbers)


def _is_short(x: float, itemsize: int) -> bool:
    """Say whether a number above zero is stored as one of few digits is, or is one over such."""
    kind, digits, _, tolerance = _STORED[itemsize]
    return kind(x) == kind(f"{x:.{digits}g}") or abs(float(f"{1 / x:.{digits - 1}g}") * x - 1) <= tolerance / 2


def is_grid(values: Array) -> bool:
    """Say whether many rows of a table are equal to those so many rows before them, as of the boxes of a detector."""
    rows = values.reshape(-1, values.shape[-1]) if values.ndim > 1 else values.reshape(-1, 1)
    return len(rows) >= 4 * _LAGS and all(map(_repeats, rows.T[:_COLUMNS]))


def _repeats(column: Array) -> bool:
    most = max(float(np.mean((column[lag:] == column[:-lag]) & (column[lag:] != 0))) for lag in range(1, _LAGS))
    # Numbers that are rounded to a few repeat as well, but not so often.
    return most >= 0.75 or (most >= 0.45 and len(np.unique(column)) >= _LAGS)


def _is_written(number: float, itemsize: int) -> bool:
    """Say whether a number has few digits, or a root, a power, a logarithm or a part of pi that has few."""
    x = abs(number)
    if itemsize not in _STORED or 2 * x == round(2 * x) or x < 1e-9 or x > 1e9 or _is_short(x, itemsize):
        return True
    *_, fewer, tolerance = _STORED[itemsize]
    made = {x**power * part: fewer - (part != 1) for power in (1, 2, 4) for part in _PARTS}
    made |= {math.exp(x): fewer - 1} if x < 20 else {}
    return any(abs(float(f"{y:.{few}g}") / y - 1) <= tolerance for each, few in made.items() for y in (each, 1 / each))


def _follows_rule(array: Array, axis: int) -> bool:
    """Say whether x[p+1] + x[p-1] = c x[p] along an axis, c being free for each row, as of sin(w p + a) and a + b p.

    What hardly differs from one number fits whatever it is, so some rows have to fit beside what they differ by.
    """
    rows = np.moveaxis(array, axis, 0)[:_LOOK].reshape(min(_LOOK, array.shape[axis]), -1)[:, :_COLUMNS]
    x = rows.astype(np.float64)
    sums, middle = x[2:] + x[:-2], x[1:-1]
    squares = (middle**2).sum(0)
    c = (sums * middle).sum(0) / np.where(squares == 0, 1, squares)
    errors = ((sums - c * middle) ** 2).sum(0)
    tiny = np.finfo(np.float64).tiny
    differs = ((x - x.mean(0)) ** 2).sum(0)
    telling = errors <= _FIT**2 * differs
    return bool((errors <= _FIT**2 * ((x**2).sum(0) + tiny)).all() and 4 * (telling & (differs > 0)).sum() >= len(c))
