"""Orthonormal matrices, uniformly distributed (Haar), without factorising anything.

Let x_k, k = 1..n, be independent normal vectors, x_k of m - k + 1 components, n <= m. With

    v_k = (0, ..., 0, x_k + s_k |x_k| e_1),    s_k = sign(x_k1),    H_k = I - 2 v_k v_k' / v_k'v_k

the rows  q_k = -s_k e_k' H_k H_(k-1) ... H_1  are orthonormal and Haar distributed: they are the rows that
Householder's method finds in the LQ factorisation, with positive diagonal, of a normal n x m matrix, whose reflected
rows are again normal. So nothing needs to be factorised: G. W. Stewart, "The efficient generation of random orthogonal
matrices with an application to condition estimators", SIAM J. Numer. Anal. 17 (1980) 403-409.

All reflections are applied at once. With the v_k as the rows of V (upper trapezoidal), E = [I 0], D = diag(-s_k),

    Q = D E - D V[:, :n]' B^-1 V,    B = strict lower triangle of V V' + half its diagonal

(the compact WY form of R. Schreiber and C. Van Loan, 1989, with its triangular factor written as an inverse:
C. Puglisi, 1992). That is a product V V', a triangular solve, and a product with V: matrix products nearly all of it.
Like every product of reflections it is orthonormal to rounding, so there is nothing to check and nothing to repeat.
Tall matrices are the transposed.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from onnx_lsuv.model import Array
from onnx_lsuv.orthonormal.normal import Run, fill_normal, run_here

# Sizes of the pieces. They decide the bytes: a change here changes every draw.
ROWS = 256  # rows of V to a block
COLUMNS = 512  # columns of Q to a piece at most
MANY, SHARE = 12, 128  # pieces that there should be, for two threads to end together, and what their columns share
TILE = 1024  # columns of V V' to a piece
FEW = 16  # rows of V to draw at least, so that a tall matrix is written in whole cache lines
SUM = 1 << 20  # elements of V to a sum, where V V' has few tiles
LONG = 1 << 15  # terms of a float32 sum at most, as far as that is up to this module
DRAWN = 1 << 19  # elements of V to draw at a time, as far as that leaves enough of them
STACK = 1 << 18  # elements to a piece of anything else
LARGE = 1 << 20  # elements from which one matrix is worth several threads


def fill_orthonormal(weight: Array, key: int, run: Run) -> None:
    """Fill a C-contiguous (blocks, fan_out, fan_in) array with orthonormal matrices; `run` runs independent pieces."""
    blocks, fan_out, fan_in = weight.shape
    if fan_out * fan_in >= LARGE:
        for block in range(blocks):
            _fill_large(weight[block], key, block, run)
    elif min(fan_out, fan_in) > ROWS or max(fan_out, fan_in) > LONG:
        run([partial(_fill_large, weight[block], key, block, run_here) for block in range(blocks)])
    else:
        step = max(1, STACK // (fan_out * fan_in))
        run([partial(_fill_stack, weight[first : first + step], key, first) for first in range(0, blocks, step)])


def _fill_stack(weight: Array, key: int, chunk: int) -> None:
    """Fill a stack (k, fan_out, fan_in) of small matrices, all of them at once."""
    fill_normal(weight, key, chunk)
    v = weight if weight.shape[1] <= weight.shape[2] else weight.transpose(0, 2, 1)
    n = v.shape[1]
    _clear_below(v)
    sign = _reflect_heads(v)
    p = _invert_lower(_half_gram(v @ v.transpose(0, 2, 1))).transpose(0, 2, 1) @ v[:, :, :n]
    p *= sign[:, None, :]
    v[...] = p.transpose(0, 2, 1) @ v
    _diagonal(v)[...] -= sign


def _fill_large(weight: Array, key: int, block: int, run: Run) -> None:
    """Fill one (fan_out, fan_in) matrix in pieces that run side by side; `work` below holds n x n elements."""
    tall = weight.shape[0] > weight.shape[1]
    v = weight.T if tall else weight
    n, m = v.shape
    few = max(FEW, min(ROWS // 4, DRAWN // m))
    short = ROWS // 2 if n <= TILE else ROWS  # less of a triangle is computed in vain, at a lower rate
    width = min(max(COLUMNS // 2, -(-m // (MANY * SHARE)) * SHARE), COLUMNS)
    width *= max(1, STACK // n // width)
    # A small V V' has too few tiles to go round, so its sums are cut as well.
    length = min(SUM // n, LONG) if n <= TILE else m
    sign = np.empty(n, weight.dtype)
    inverse = np.zeros((-(-n // ROWS), ROWS, ROWS), weight.dtype)

    def make_rows(i: int) -> None:
        """Draw a few of the vectors v_k; left of the diagonal there is zero wherever it will be read."""
        rows = slice(i, min(i + few, n))
        part = v[rows, i:]
        fill_normal(part, key, block * n + i)
        v[rows, min(i - i % width, i - i % ROWS) : i] = 0
        _clear_below(part[None])
        sign[rows] = _reflect_heads(part[None])[0]

    def multiply(i: int, j: int, k: int) -> None:
        """Compute one tile of V V', summed over `length` columns of V."""
        rows = slice(i, min(i + ROWS, n))
        columns = rows if j == i else slice(j, min(j + TILE, i))
        summed = slice(max(i, k), k + length)
        np.matmul(v[rows, summed], v[columns, summed].T, out=sums[k // length][rows, columns])

    def invert(i: int) -> None:
        """Complete one block of rows of V V' and invert its part of B on the diagonal."""
        rows = slice(i, min(i + ROWS, n))
        for part in sums[1:]:
            work[rows, : rows.stop] += part[rows, : rows.stop]
        size = rows.stop - i
        inverse[i // ROWS, :size, :size] = _invert_lower(_half_gram(work[None, rows, rows]))[0]

    def solve(i: int) -> None:
        """Solve for one block of rows of D V[:, :n]' B^-1, kept transposed in the upper triangle of `work`."""
        rows = slice(i, min(i + ROWS, n))
        for j in range(i, -1, -ROWS):
            part, below = slice(j, min(j + ROWS, n)), slice(j + ROWS, rows.stop)
            right = v[part, rows] * sign[rows]
            if j < i:
                right -= work[below, part].T @ work[below, rows]
            size = right.shape[0]
            np.matmul(inverse[j // ROWS, :size, :size].T, right, out=work[part, rows])

    def apply(c: int) -> None:
        """Put Q in the place of V, one block of columns, from the last rows up: row k of Q needs rows 1..k of V."""
        columns = slice(c, min(c + width, m))
        for i in reversed(range(0, n, short)):
            rows, upto = slice(i, min(i + short, n)), min(i + short, n, columns.stop)
            if tall:
                weight[columns, rows] = weight[columns, :upto] @ work[:upto, rows]
            else:
                weight[rows, columns] = work[:upto, rows].T @ weight[:upto, columns]

    starts = range(0, n, ROWS)
    tiles = [(i, j, k) for i in starts for j in (*range(0, i, TILE), i) for k in range(0, m, length)]
    run([partial(make_rows, i) for i in range(0, n, few)])
    # Not before: what draws needs memory too.
    work = np.empty((n, n), weight.dtype)
    sums = [work] + [np.empty_like(work) for _ in range(length, m, length)]
    run([partial(multiply, *tile) for tile in tiles])
    run([partial(invert, i) for i in starts])
    run([partial(solve, i) for i in reversed(starts)])
    run([partial(apply, c) for c in reversed(range(0, m, width))])
    _diagonal(v[None])[0][...] -= sign


def _diagonal(stack: Array) -> Array:
    """Return the diagonals of a stack of matrices, writable."""
    n = min(stack.shape[1:])
    strides = (stack.strides[0], stack.strides[1] + stack.strides[2])
    return np.lib.stride_tricks.as_strided(stack, (stack.shape[0], n), strides)


def _clear_below(stack: Array) -> None:
    n = stack.shape[1]
    stack[:, :, :n] *= np.triu(np.ones((n, n), stack.dtype))


def _reflect_heads(stack: Array) -> Array:
    """Turn rows x_k into v_k, in place, and return the signs s_k.

    A row that is zero, which rounding makes possible, counts as (1, 0, ..., 0).
    """
    # An error in |x_k| leaves Q orthonormal but no longer uniform, so long sums are finished in float64.
    squares = np.zeros(stack.shape[:2])
    for c in range(0, stack.shape[2], 4096):
        part = stack[:, :, c : c + 4096]
        squares += np.einsum("kij,kij->ki", part, part)
    squares[squares == 0] = 1
    head = _diagonal(stack)
    sign = np.copysign(np.ones_like(head), head)
    head += sign * np.sqrt(squares).astype(head.dtype)
    return sign


def _half_gram(gram: Array) -> Array:
    """Return B: the strict lower triangle of V V' and half its diagonal."""
    n = gram.shape[1]
    return gram * (np.tri(n, n, -1, dtype=gram.dtype) + np.eye(n, dtype=gram.dtype) / 2)


def _invert_lower(stack: Array) -> Array:
    """Invert a stack of lower triangular matrices, by halves: [A 0; C D]^-1 = [A^-1 0; -D^-1 C A^-1 D^-1]."""
    k, n = stack.shape[:2]
    if n <= 16:
        return np.linalg.inv(stack)
    h, upper, lower = n // 2, slice(None, n // 2), slice(n // 2, None)
    out = np.zeros_like(stack)
    if n == 2 * h:  # both at once: calls are what takes time
        halves = _invert_lower(np.concatenate([stack[:, upper, upper], stack[:, lower, lower]]))
        out[:, upper, upper], out[:, lower, lower] = halves[:k], halves[k:]
    else:
        out[:, upper, upper] = _invert_lower(stack[:, upper, upper])
        out[:, lower, lower] = _invert_lower(stack[:, lower, lower])
    out[:, lower, upper] = -(out[:, lower, lower] @ (stack[:, lower, upper] @ out[:, upper, upper]))
    return out
