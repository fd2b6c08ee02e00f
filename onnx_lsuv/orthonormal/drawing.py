"""Draw the weights that are asked for, side by side."""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Literal

import numpy as np
import threadpoolctl

from onnx_lsuv.model import Array
from onnx_lsuv.orthonormal.haar import LARGE, fill_orthonormal
from onnx_lsuv.orthonormal.normal import Precision, Run, normals, run_by, run_here, seed_of


@dataclass(frozen=True, slots=True)
class Request:
    """One weight to draw: `blocks` independent matrices of `fan_out` rows and `fan_in` columns."""

    identity: str
    blocks: int
    fan_out: int
    fan_in: int
    method: Literal["orthonormal", "delta", "he", "xavier", "zero", "identity"] = "orthonormal"
    taps: int = 1
    centre: int = 0
    precision: Precision = np.float32

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.blocks * self.fan_out * self.fan_in


def draw(request: Request, seed: int, threads: int | None = None) -> Array:
    """Return the weight of one request as a C-contiguous (blocks, fan_out, fan_in) array.

    Raises ValueError for sizes that make no sense, and for a delta-orthogonal kernel with more inputs than outputs.
    """
    ((_, weight),) = draw_all([request], seed, threads)
    return weight


def draw_all(requests: Sequence[Request], seed: int, threads: int | None = None) -> Iterator[tuple[int, Array]]:
    """Yield (index, weight) for every request, in order, drawn side by side by `threads` threads (default: every core).

    A weight depends on the seed and its own request alone. What is drawn ahead of the reader is bounded.
    Until the iterator is finished or closed, BLAS runs with one thread in the whole process.
    """
    if threads is not None and threads < 1:
        raise ValueError(f"drawing needs at least one thread, found {threads}")
    for request in requests:
        check(request)
    return _draw_in_order(requests, seed, threads if threads is not None else usable_cores())


def check(request: Request) -> None:
    """Raise ValueError where a request cannot be drawn."""
    r = request
    if min(r.blocks, r.fan_out, r.fan_in) < 0:
        raise ValueError(
            f"sizes must not be negative, found {r.blocks} blocks of {r.fan_out} x {r.fan_in} for {r.identity!r}"
        )
    if r.method in ("delta", "identity"):
        if r.taps < 1 or r.fan_in % r.taps or not 0 <= r.centre < r.taps:
            raise ValueError(
                f"{r.method} needs a fan_in that is a multiple of taps, and centre in 0..taps-1, found fan_in "
                f"{r.fan_in}, taps {r.taps}, centre {r.centre} for {r.identity!r}"
            )
        if r.method == "delta" and r.fan_in // r.taps > r.fan_out:
            raise ValueError(
                f"a delta-orthogonal kernel needs at least as many outputs as inputs, "
                f"found {r.fan_out} outputs and {r.fan_in // r.taps} inputs for {r.identity!r}"
            )


def _draw_in_order(requests: Sequence[Request], seed: int, threads: int) -> Iterator[tuple[int, Array]]:
    if threads == 1 or (len(requests) == 1 and requests[0].size < LARGE):
        for index, request in enumerate(requests):
            with _one_blas_thread():
                weight = _draw(request, seed, run_here)
            yield index, weight
        return
    with _one_blas_thread(), contextlib.ExitStack() as stack:
        pool = ThreadPoolExecutor(threads, thread_name_prefix="draw")
        stack.callback(pool.shutdown, cancel_futures=True)
        # Small weights are drawn ahead, one to a thread; a large one has the pool to itself, piece by piece.
        ahead = deque[Callable[[], Array]]()
        for index in range(len(requests)):
            while len(ahead) < 2 * threads and index + len(ahead) < len(requests):
                later = requests[index + len(ahead)]
                small = later.size < LARGE
                ahead.append(
                    pool.submit(_draw, later, seed, run_here).result
                    if small
                    else partial(_draw, later, seed, run_by(pool))
                )
            yield index, ahead.popleft()()


def usable_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# The number of BLAS threads belongs to the process, so iterators in different threads have to share the limit:
# the first one sets it, the last one gives it back.
_limit_lock = threading.Lock()
_limit_users = 0
_limit: contextlib.AbstractContextManager[object] = contextlib.nullcontext()


@cache
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
    r, key = request, seed_of(f"{seed}\0{request.identity}")
    shape = (r.blocks, r.fan_out, r.fan_in)
    if not r.size:
        return np.empty(shape, r.precision)
    match r.method:
        case "orthonormal":
            weight = np.empty(shape, r.precision)
            fill_orthonormal(weight, key, run)
        case "delta":
            weight = np.zeros(shape, r.precision)
            # L. Xiao et al., "Dynamical isometry and a mean field theory of CNNs", 2018, arXiv 1806.05393
            at_centre = replace(r, method="orthonormal", fan_in=r.fan_in // r.taps)
            weight[:, :, r.centre :: r.taps] = _draw(at_centre, seed, run)
        case "zero":
            weight = np.zeros(shape, r.precision)
        case "identity":
            weight = np.zeros(shape, r.precision)
            weight[:, :, r.centre :: r.taps] = np.eye(r.fan_out, r.fan_in // r.taps, dtype=r.precision)
        case "he":
            # K. He et al., "Delving deep into rectifiers", 2015, arXiv 1502.01852
            weight = normals(shape, math.sqrt(2 / r.fan_in), key, run, r.precision)
        case "xavier":
            # X. Glorot and Y. Bengio, "Understanding the difficulty of training deep feedforward networks", 2010.
            # Going back, an input meets every place of the kernel too; of a grouped convolution, its own group's
            # outputs alone (PyTorch counts those of all groups there).
            std = math.sqrt(2 / (r.fan_in + r.fan_out * r.taps))
            weight = normals(shape, std, key, run, r.precision)
    return weight
