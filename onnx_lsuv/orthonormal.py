"""Draw random orthonormal matrices, uniformly (Haar) and about as fast as two matrix products.

The mathematics. Let x_k, k = 1..n, be independent normal vectors, x_k of m - k + 1 components, n <= m. With

    v_k = (0, ..., 0, x_k + s_k |x_k| e_1),    s_k = sign(x_k1),    H_k = I - 2 v_k v_k' / v_k'v_k

the rows  q_k = -s_k e_k' H_k H_(k-1) ... H_1  are orthonormal and Haar distributed: they are the rows that Householder's
method finds in the LQ factorisation, with positive diagonal, of a normal n x m matrix, whose reflected rows are again
normal. So nothing needs to be factorised: G. W. Stewart, "The efficient generation of random orthogonal matrices with
an application to condition estimators", SIAM J. Numer. Anal. 17 (1980) 403-409.

All reflections are applied at once. With the v_k as the rows of V (upper trapezoidal), E = [I 0], D = diag(-s_k),

    Q = D E - D V[:, :n]' B^-1 V,    B = strict lower triangle of V V' + half its diagonal

(the compact WY form of R. Schreiber and C. Van Loan, 1989, with its triangular factor written as an inverse:
C. Puglisi, 1992). That is a product V V', a triangular solve, and a product with V: matrix products nearly all of it.
Like every product of reflections it is orthonormal to rounding, so there is nothing to check and nothing to repeat.
Tall matrices are the transposed.

Same bytes for any number of threads: every matrix is cut into pieces by its shape alone, each piece is computed with
one BLAS thread, and pieces run side by side. The bytes depend on NumPy, its BLAS, and the kind of processor.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import threadpoolctl

Array = np.ndarray[Any, np.dtype[Any]]
Run = Callable[[Iterable[Callable[[], None]]], None]

# Sizes of the pieces. They decide the bytes: a change here changes every draw.
ROWS = 256  # rows of V to a block
COLUMNS = 512  # columns of Q to a piece
TILE = 1024  # columns of V V' to a piece
NORMALS = 1 << 15  # normal numbers made at a time, so that they stay in the cache
STACK = 1 << 17  # elements of small matrices to a piece
LARGE = 1 << 19  # elements from which one matrix is worth several threads


@dataclass(frozen=True, slots=True)
class Request:
    """One weight to draw: `blocks` independent matrices of `fan_out` rows and `fan_in` columns."""

    identity: str
    blocks: int
    fan_out: int
    fan_in: int
    method: Literal["orthonormal", "delta", "he", "xavier"] = "orthonormal"
    taps: int = 1
    centre: int = 0
    precision: type[np.float32] | type[np.float64] = np.float32

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.blocks * self.fan_out * self.fan_in


def draw(request: Request, seed: int, threads: int | None = None) -> Array:
    """Return the weight of one request as a C-contiguous (blocks, fan_out, fan_in) array.

    Raises ValueError for sizes that make no sense, and for a delta-orthogonal kernel with more inputs than outputs.
    """
    for _, weight in draw_all([request], seed, threads):
        return weight
    raise AssertionError("one request gives one weight")


def draw_all(requests: Sequence[Request], seed: int, threads: int | None = None) -> Iterator[tuple[int, Array]]:
    """Yield (index, weight) for every request, in order, drawn side by side by `threads` threads (default: every core).

    A weight depends on the seed and its own request alone. What is drawn ahead of the reader is bounded.
    Until the iterator is finished or closed, BLAS runs with one thread in the whole process.
    """
    for request in requests:
        check(request)
    return _draw_in_order(requests, seed, threads if threads is not None else _usable_cores())


def check(request: Request) -> None:
    """Raise ValueError where a request cannot be drawn."""
    r = request
    if min(r.blocks, r.fan_out, r.fan_in) < 0:
        raise ValueError(
            f"sizes must not be negative, found {r.blocks} blocks of {r.fan_out} x {r.fan_in} for {r.identity!r}"
        )
    if r.method == "delta":
        if r.taps < 1 or r.fan_in % r.taps or not 0 <= r.centre < r.taps:
            raise ValueError(
                f"delta needs a fan_in that is a multiple of taps, and centre in 0..taps-1, found fan_in {r.fan_in}, "
                f"taps {r.taps}, centre {r.centre} for {r.identity!r}"
            )
        if r.fan_in // r.taps > r.fan_out:
            raise ValueError(
                f"a delta-orthogonal kernel needs at least as many outputs as inputs, "
                f"found {r.fan_out} outputs and {r.fan_in // r.taps} inputs for {r.identity!r}"
            )


def _draw_in_order(requests: Sequence[Request], seed: int, threads: int) -> Iterator[tuple[int, Array]]:
    alone = threads == 1 or (len(requests) == 1 and requests[0].size < LARGE)
    if alone:
        for index, request in enumerate(requests):
            with _one_blas_thread():
                weight = _draw(request, seed, _run_here)
            yield index, weight
        return
    with _one_blas_thread():
        pool = ThreadPoolExecutor(threads, thread_name_prefix="draw")
        try:
            yield from _draw_side_by_side(requests, seed, pool, threads)
        finally:
            pool.shutdown(cancel_futures=True)


def _draw_side_by_side(
    requests: Sequence[Request], seed: int, pool: ThreadPoolExecutor, threads: int
) -> Iterator[tuple[int, Array]]:
    """Draw small weights ahead, one to a thread; a large one has the pool to itself, piece by piece."""

    def run(pieces: Iterable[Callable[[], None]]) -> None:
        for done in [pool.submit(piece) for piece in pieces]:
            done.result()

    ahead: deque[Future[Array] | None] = deque()
    for index, request in enumerate(requests):
        while len(ahead) < 2 * threads and index + len(ahead) < len(requests):
            later = requests[index + len(ahead)]
            ahead.append(pool.submit(_draw, later, seed, _run_here) if later.size < LARGE else None)
        future = ahead.popleft()
        yield index, future.result() if future else _draw(request, seed, run)


def _run_here(pieces: Iterable[Callable[[], None]]) -> None:
    for piece in pieces:
        piece()


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# The number of BLAS threads belongs to the process, so iterators in different threads have to share the limit:
# the first one sets it, the last one gives it back.
_limit_lock = threading.Lock()
_limit_users = 0
_limit: contextlib.AbstractContextManager[object] = contextlib.nullcontext()


@functools.cache
def _controller() -> threadpoolctl.ThreadpoolController:
    """Find the BLAS libraries once: that takes longer than drawing a small matrix, and NumPy's is loaded by now."""
    return threadpoolctl.ThreadpoolController()


@contextlib.contextmanager
def _one_blas_thread() -> Iterator[None]:
    global _limit_users, _limit  # noqa: PLW0603
    with _limit_lock:
        _limit_users += 1
        if _limit_users == 1:
            _limit = _controller().limit(limits=1, user_api="blas")
            _limit.__enter__()
    try:
        yield
    finally:
        with _limit_lock:
            _limit_users -= 1
            if _limit_users == 0:
                _limit.__exit__(None, None, None)


def _draw(request: Request, seed: int, run: Run) -> Array:
    digest = hashlib.sha256(f"{seed}\0{request.identity}".encode()).digest()
    key = int.from_bytes(digest, "little")
    shape = (request.blocks, request.fan_out, request.fan_in)
    if not request.size:
        return np.empty(shape, request.precision)
    match request.method:
        case "orthonormal":
            return _draw_orthonormal(shape, request.precision, key, run)
        case "delta":
            # L. Xiao et al., "Dynamical isometry and a mean field theory of CNNs", 2018, arXiv 1806.05393
            weight = np.zeros(shape, request.precision)
            at_centre = replace(request, method="orthonormal", fan_in=request.fan_in // request.taps)
            weight[:, :, request.centre :: request.taps] = _draw(at_centre, seed, run)
            return weight
        case "he":  # K. He et al., "Delving deep into rectifiers", 2015
            std = math.sqrt(2 / request.fan_in)
        case "xavier":  # X. Glorot and Y. Bengio, "Understanding the difficulty of training deep ... networks", 2010
            std = math.sqrt(2 / (request.fan_in + request.fan_out))
    return _draw_normal(shape, request.precision, std, key, run)


def _draw_normal(shape: tuple[int, int, int], dtype: Any, std: float, key: int, run: Run) -> Array:
    weight = np.empty(shape, dtype)
    flat = weight.reshape(-1)

    def fill(chunk: int) -> None:
        part = flat[chunk * STACK : (chunk + 1) * STACK]
        _fill_normal(part.reshape(1, -1), key, chunk)
        part *= dtype(std)

    run([functools.partial(fill, chunk) for chunk in range(-(-flat.size // STACK))])
    return weight


def _draw_orthonormal(shape: tuple[int, int, int], dtype: Any, key: int, run: Run) -> Array:
    blocks, fan_out, fan_in = shape
    weight = np.empty(shape, dtype)
    if fan_out * fan_in >= LARGE or min(fan_out, fan_in) > ROWS:
        for block in range(blocks):
            _draw_large(weight[block], key, block, run)
    else:
        step = max(1, STACK // (fan_out * fan_in))
        run(
            [
                functools.partial(_draw_stack, weight[first : first + step], key, first)
                for first in range(0, blocks, step)
            ]
        )
    return weight


def _draw_stack(weight: Array, key: int, chunk: int) -> None:
    """Fill a stack (k, fan_out, fan_in) of small matrices, all of them at once."""
    _fill_normal(weight.reshape(weight.shape[0], -1), key, chunk)
    v = weight if weight.shape[1] <= weight.shape[2] else weight.transpose(0, 2, 1)
    n = v.shape[1]
    _clear_below(v)
    head = _diagonal(v)
    sign, norm = _signs_and_norms(head, np.einsum("kij,kij->ki", v, v))
    head += sign * norm
    p = _invert_lower(_half_gram(v @ v.transpose(0, 2, 1))).transpose(0, 2, 1) @ v[:, :, :n]
    p *= sign[:, None, :]
    v[...] = p.transpose(0, 2, 1) @ v
    _diagonal(v)[...] -= sign


def _draw_large(weight: Array, key: int, block: int, run: Run) -> None:
    """Fill one (fan_out, fan_in) matrix in pieces that run side by side; `work` below holds n x n elements."""
    tall = weight.shape[0] > weight.shape[1]
    v = weight.T if tall else weight
    n, m = v.shape
    starts = range(0, n, ROWS)
    sign = np.empty(n, weight.dtype)
    work = np.empty((n, n), weight.dtype)
    inverse = np.zeros((len(starts), ROWS, ROWS), weight.dtype)

    def make_rows(i: int) -> None:
        """Draw the vectors v_k of one block of rows; what is left of the diagonal is zero where it will be read."""
        rows = slice(i, min(i + ROWS, n))
        _fill_normal(v[rows, i:], key, block * len(starts) + i // ROWS)
        v[rows, i - i % COLUMNS : i] = 0
        _clear_below(v[None, rows, i:])
        head = _diagonal(v[None, rows, i:])[0]
        sign[rows], norm = _signs_and_norms(head, np.einsum("ij,ij->i", v[rows, i:], v[rows, i:]))
        head += sign[rows] * norm

    def multiply(i: int, j: int) -> None:
        """Compute one tile of V V'."""
        rows, columns = slice(i, min(i + ROWS, n)), slice(j, min(j + TILE, i + ROWS, n))
        work[rows, columns] = v[rows, i:] @ v[columns, i:].T

    def invert(i: int) -> None:
        size = min(ROWS, n - i)
        inverse[i // ROWS, :size, :size] = _invert_lower(_half_gram(work[None, i : i + size, i : i + size]))[0]

    def solve(i: int) -> None:
        """Solve for one block of rows of D V[:, :n]' B^-1, kept transposed in the upper triangle of `work`."""
        rows = slice(i, min(i + ROWS, n))
        for j in range(i, -1, -ROWS):
            part, below = slice(j, min(j + ROWS, n)), slice(j + ROWS, rows.stop)
            right = v[part, rows] * sign[rows]
            if j < i:
                right -= work[below, part].T @ work[below, rows]
            size = right.shape[0]
            work[part, rows] = inverse[j // ROWS, :size, :size].T @ right

    def apply(c: int) -> None:
        """Put Q in the place of V, one block of columns, from the last rows up: row k of Q needs rows 1..k of V."""
        columns = slice(c, min(c + COLUMNS, m))
        for i in reversed(starts):
            rows, upto = slice(i, min(i + ROWS, n)), min(i + ROWS, n, columns.stop)
            if tall:
                weight[columns, rows] = weight[columns, :upto] @ work[:upto, rows]
            else:
                weight[rows, columns] = work[:upto, rows].T @ weight[:upto, columns]

    run([functools.partial(make_rows, i) for i in starts])
    run([functools.partial(multiply, i, j) for i in starts for j in range(0, i + 1, TILE)])
    run([functools.partial(invert, i) for i in starts])
    run([functools.partial(solve, i) for i in reversed(starts)])
    run([functools.partial(apply, c) for c in reversed(range(0, m, COLUMNS))])
    _diagonal(v[None])[0][...] -= sign


def _diagonal(stack: Array) -> Array:
    """Return the diagonals of a stack of matrices, writable."""
    n = min(stack.shape[1:])
    strides = (stack.strides[0], stack.strides[1] + stack.strides[2])
    return np.lib.stride_tricks.as_strided(stack, (stack.shape[0], n), strides)


def _clear_below(stack: Array) -> None:
    n = stack.shape[1]
    stack[:, :, :n] *= np.triu(np.ones((n, n), stack.dtype))


def _signs_and_norms(head: Array, squares: Array) -> tuple[Array, Array]:
    """Return s_k and |x_k|; a vector that is zero, which rounding makes possible, counts as (1, 0, ..., 0)."""
    zero = squares == 0
    head[zero] = 1
    return np.copysign(np.ones_like(head), head), np.where(zero, 1, np.sqrt(squares))


def _half_gram(gram: Array) -> Array:
    """Return B: the strict lower triangle of V V' and half its diagonal."""
    n = gram.shape[1]
    return gram * (np.tri(n, n, -1, dtype=gram.dtype) + np.eye(n, dtype=gram.dtype) / 2)


def _invert_lower(stack: Array) -> Array:
    """Invert a stack of lower triangular matrices, by halves: [A 0; C D]^-1 = [A^-1 0; -D^-1 C A^-1 D^-1]."""
    n = stack.shape[1]
    if n <= 16:
        return np.linalg.inv(stack)
    h = n // 2
    out = np.zeros_like(stack)
    out[:, :h, :h] = _invert_lower(stack[:, :h, :h])
    out[:, h:, h:] = _invert_lower(stack[:, h:, h:])
    out[:, h:, :h] = -(out[:, h:, h:] @ (stack[:, h:, :h] @ out[:, :h, :h]))
    return out


def _fill_normal(out: Array, key: int, chunk: int) -> None:
    """Fill a matrix with independent N(0, 1) numbers from the stream of its own that (key, chunk) names."""
    bits = np.random.SFC64(np.random.SeedSequence(key, spawn_key=(chunk,)))
    rows, columns = out.shape
    if columns >= NORMALS // 2 and out.strides[1] == out.itemsize:
        for row in out:
            for first in range(0, columns, NORMALS):
                _box_muller(bits, row[first : first + NORMALS])
        return
    step = max(1, NORMALS // columns)
    buffer = np.empty(step * columns, out.dtype)
    for first in range(0, rows, step):
        part = out[first : first + step]
        _box_muller(bits, buffer[: part.size])
        part[...] = buffer[: part.size].reshape(part.shape)


def _box_muller(bits: np.random.BitGenerator, out: Array) -> None:
    """Fill a vector with N(0, 1) numbers: G. E. P. Box and M. E. Muller, 1958, three times as fast here as a ziggurat.

    The radius has 31 (63) random bits, so that the tails reach 6.6 (9.4) standard deviations; the angle has 32 (64).
    """
    half = (out.size + 1) // 2
    unsigned, signed, width = (np.uint32, np.int32, 32) if out.itemsize == 4 else (np.uint64, np.int64, 64)
    raw = bits.random_raw(half * width // 32).view(unsigned)
    integers = raw[:half]
    integers >>= 1
    radius = integers.view(signed).astype(out.dtype)
    radius += 0.5
    radius *= 2.0 ** (1 - width)
    np.log(radius, out=radius)
    radius *= -2
    np.sqrt(radius, out=radius)
    angle = raw[half:].view(signed).astype(out.dtype)
    angle += 0.5
    angle *= math.pi * 2.0 ** (1 - width)
    np.cos(angle, out=out[:half])
    np.sin(angle[: out.size - half], out=out[half:])
    out[:half] *= radius
    out[half:] *= radius[: out.size - half]
