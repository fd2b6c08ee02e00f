"""Rows of one length, their matrix staying orthogonal.

The rows of a matrix with orthonormal columns have lengths of their own; where something divides each row by its length,
the columns would be orthonormal no more. A rotation of two rows leaves the columns as they are, and the one by tan t
with

    (q - m) t^2 + 2 x t + (p - m) = 0,    p = |a|^2 < m < q = |b|^2,  x = <a, b>

gives the first row the mean square m, so that one rotation for each row but the last is enough (R. B. Bendel and M. R.
Mickey 1978, in the form of P. I. Davies and N. J. Higham, "Numerically stable generation of correlation matrices and
their factors", 2000).
"""

from __future__ import annotations

import math

import numpy as np

from onnx_lsuv.model import Array

_EXACT = 1e-12


def equal_rows(matrix: Array) -> Array:
    """Return a matrix (n, m) times an orthogonal one from the left, so that its rows have one length; in float64."""
    rows = np.array(matrix, np.float64)
    squares = (rows * rows).sum(1)
    mean = float(squares.mean())
    short = [int(i) for i in np.flatnonzero(squares < mean * (1 - _EXACT))]
    long = [int(i) for i in np.flatnonzero(squares > mean * (1 + _EXACT))]
    while short and long:
        i, j = short.pop(), long.pop()
        a, b, p, q = rows[i], rows[j], float(squares[i]), float(squares[j])
        x = float((a * b).sum())
        root = math.sqrt(x * x - (q - mean) * (p - mean))
        # The smaller of both angles, without cancellation.
        tangent = (mean - p) / (x + math.copysign(root, x))
        cosine = 1 / math.hypot(1, tangent)
        sine = cosine * tangent
        rows[i], rows[j] = cosine * a + sine * b, cosine * b - sine * a
        squares[j] = p + q - mean
        if squares[j] < mean * (1 - _EXACT):
            short.append(j)
        elif squares[j] > mean * (1 + _EXACT):
            long.append(j)
    return rows
