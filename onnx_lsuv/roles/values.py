"""What the values of a constant tell: whether somebody computed them, so that no training ever moved them."""

from __future__ import annotations

import numpy as np

from onnx_lsuv.model import Array

# How far along an axis to look for a rule, and how well it must fit: half precision is off by some 0.4%.
_LOOK, _COLUMNS, _FIT = 64, 4096, 1e-2
_SAMPLE = 1 << 16
_RULE_MIN = 6  # four equations for one unknown


def is_computed(values: Array) -> bool:
    """Say whether somebody computed these values: all alike, in steps of one half, not finite, sinusoids or ramps."""
    array = values.astype(np.float32) if values.dtype.itemsize == 2 else values
    flat = array.reshape(-1)
    if not np.isfinite(flat).all():
        return True
    # What holds for all holds for the first, which are soon looked at.
    for part in (flat[:_SAMPLE], flat):
        if not (part * 2 == np.rint(part * 2)).all() and not (part == part[0]).all():
            return any(length >= _RULE_MIN and _follows_rule(array, axis) for axis, length in enumerate(array.shape))
    return True


def _follows_rule(array: Array, axis: int) -> bool:
    """Say whether x[p+1] + x[p-1] = c x[p] along an axis, c being free for each row, as of sin(w p + a) and a + b p."""
    rows = np.moveaxis(array, axis, 0)[:_LOOK].reshape(min(_LOOK, array.shape[axis]), -1)[:, :_COLUMNS]
    x = rows.astype(np.float64)
    sums, middle = x[2:] + x[:-2], x[1:-1]
    squares = (middle**2).sum(0)
    c = (sums * middle).sum(0) / np.where(squares == 0, 1, squares)
    errors = ((sums - c * middle) ** 2).sum(0)
    return bool((errors <= _FIT**2 * ((x**2).sum(0) + np.finfo(np.float64).tiny)).all())
