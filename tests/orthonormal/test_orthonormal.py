from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import threadpoolctl
from scipy import stats

from onnx_lsuv.orthonormal import Request, draw, draw_all, drawing, haar, normal

Array = np.ndarray[Any, np.dtype[Any]]
Fill = Callable[[int, int, int], Array]

SHAPES = [
    (1, 1, 1),
    (5, 1, 1),
    (3, 1, 7),
    (3, 7, 1),
    (2, 5, 5),
    (4, 3, 9),
    (4, 9, 3),
    (960, 1, 9),
    (7, 17, 17),
    (1, 64, 576),
    (1, 256, 300),
    (1, 257, 257),
    (2, 300, 513),
    (1, 513, 300),
    (1, 700, 1100),
    (1, 1100, 700),
    (1, 1030, 1030),
    (2, 3, 180_000),
    (1, 180_000, 3),
    (1, 1, 600_000),
    (1, 1, 500_000),
    (2, 2, 40_000),
]


def defect(weight: Array) -> float:
    """Return the largest |Q Q' - I| of a stack of matrices, in float64, rows or columns."""
    q = weight.astype(np.float64)
    if q.shape[1] > q.shape[2]:
        q = q.transpose(0, 2, 1)
    return float(np.abs(q @ q.transpose(0, 2, 1) - np.eye(q.shape[1])).max())


def sha(weight: Array) -> str:
    return hashlib.sha256(weight.tobytes()).hexdigest()


@pytest.mark.parametrize("shape", SHAPES)
def test_rows_or_columns_are_orthonormal(shape: tuple[int, int, int]) -> None:
    weight = draw(Request("a", *shape), seed=0)
    assert weight.shape == shape
    assert weight.dtype == np.float32
    assert weight.flags.c_contiguous
    assert defect(weight) < 1e-5
    weight = draw(Request("a", *shape, precision=np.float64), seed=0)
    assert weight.dtype == np.float64
    assert defect(weight) < 1e-12


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0), (0, 0, 0)])
@pytest.mark.parametrize("method", ["orthonormal", "he", "xavier"])
def test_nothing_to_draw_gives_an_empty_array(shape: tuple[int, int, int], method: Any) -> None:
    assert draw(Request("a", *shape, method=method), seed=0).shape == shape


def test_wrong_sizes_are_named() -> None:
    with pytest.raises(ValueError, match=r"must not be negative, found 1 blocks of -2 x 3 for 'w'"):
        draw(Request("w", 1, -2, 3), seed=0)
    with pytest.raises(ValueError, match="at least one thread, found 0"):
        draw(Request("w", 1, 2, 3), seed=0, threads=0)


# The distribution, for every way a matrix can be made.


def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the pieces of a large matrix so small that a 7 x 11 one has many."""
    for name, size in {"ROWS": 2, "COLUMNS": 4, "TILE": 4, "FEW": 1, "STACK": 8, "SUM": 12, "LARGE": 1}.items():
        monkeypatch.setattr(haar, name, size)


@pytest.fixture(params=["stack", "large", "large in small pieces", "large, sums uncut"])
def fill(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Fill:
    """Return a function that gives `count` matrices made in one of the ways."""
    if "small" in request.param or "uncut" in request.param:
        small_pieces(monkeypatch)
    if "uncut" in request.param:
        monkeypatch.setattr(haar, "TILE", 2)

    def in_a_stack(count: int, rows: int, columns: int) -> Array:
        weight = np.empty((count, rows, columns), np.float32)
        haar._fill_stack(weight, 1, 0)
        return weight

    def one_by_one(count: int, rows: int, columns: int) -> Array:
        weight = np.empty((count, rows, columns), np.float32)
        for block in range(count):
            haar._fill_large(weight[block], 1, block, haar.run_here)
        return weight

    return in_a_stack if request.param == "stack" else one_by_one


COUNT = 1500


def mean_is(samples: Array, expected: float) -> bool:
    """Whether the mean of samples is as expected, within 4 standard errors."""
    return bool(abs(samples.mean() - expected) < 4 * samples.std() / math.sqrt(len(samples)))


def test_moments_of_traces_and_determinants_are_those_of_the_orthogonal_group(fill: Fill) -> None:
    # P. Diaconis and M. Shahshahani, "On the eigenvalues of random matrices", 1994
    q = fill(COUNT, 4, 4).astype(np.float64)
    trace = np.trace(q, axis1=1, axis2=2)
    assert mean_is(trace, 0)
    assert mean_is(trace**2, 1)
    assert mean_is(trace**4, 3)
    assert mean_is(np.trace(q @ q, axis1=1, axis2=2), 1)
    determinant = np.linalg.det(q)
    np.testing.assert_allclose(abs(determinant), 1, atol=1e-5)
    assert mean_is(determinant, 0)
    neighbours = np.einsum("kij,kij->k", q[1:], q[:-1])
    assert mean_is(neighbours, 0)
    assert mean_is(neighbours**2, 1)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 3), (3, 3), (3, 5), (5, 3), (2, 9)])
def test_every_entry_has_the_law_of_a_coordinate_on_the_sphere(fill: Fill, shape: tuple[int, int]) -> None:
    q = fill(COUNT, *shape)
    half = (max(shape) - 1) / 2
    for entry in q.reshape(COUNT, -1).T:
        assert stats.kstest((entry + 1) / 2, stats.beta(half, half).cdf).pvalue > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(3, 3), (3, 5), (5, 3)])
def test_a_rotation_from_either_side_changes_nothing(fill: Fill, shape: tuple[int, int]) -> None:
    q = fill(2 * COUNT, *shape).astype(np.float64)
    one, other = q[:COUNT], q[COUNT:]
    left, right = (stats.ortho_group.rvs(n, random_state=n) for n in shape)
    for rotated in (other @ right, left @ other):
        for statistic in (
            lambda q: q[:, 0, 0] + q[:, 1, 1] + q[:, 2, 2],
            lambda q: q[:, 0, 0] * q[:, 1, 1] - q[:, 0, 1] * q[:, 1, 0],
            lambda q: q[:, 0, 0] * q[:, 1, 2] * q[:, 2, 1],
            lambda q: q[:, 0, 0] - q[:, -1, -1],
            lambda q: np.abs(q).max((1, 2)),
        ):
            assert stats.ks_2samp(statistic(one), statistic(rotated)).pvalue > 1e-4


def test_one_by_one_is_plus_or_minus_one_with_equal_chance() -> None:
    signs = draw(Request("a", 10_000, 1, 1), seed=0).ravel()
    np.testing.assert_allclose(abs(signs), 1, atol=1e-6)
    assert mean_is(signs, 0)


def reflections(x: Array) -> Array:
    """Return -s_k e_k' H_k ... H_1 for the vectors x_k on and right of the diagonal of x, one after the other."""
    n, m = x.shape
    q = np.zeros((n, m))
    for row in range(n):
        q[row, row] = -math.copysign(1, x[row, row])
        for k in range(row, -1, -1):
            v = np.zeros(m)
            v[k:] = x[k, k:]
            v[k] += math.copysign(np.linalg.norm(v), v[k])
            q[row] -= 2 * (q[row] @ v) / (v @ v) * v
    return q


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (7, 11), (11, 7), (9, 9), (40, 60), (60, 40), (300, 520), (3, 9000)])
def test_all_reflections_at_once_are_the_reflections_one_by_one(
    shape: tuple[int, int], small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    n, m = min(shape), max(shape)
    x = np.random.default_rng(0).standard_normal((n, m))
    if small:
        small_pieces(monkeypatch)

    def given(out: Array, key: int, chunk: int) -> None:
        if out.ndim == 3:
            out[0] = x if out.shape[1] <= out.shape[2] else x.T
        else:
            out[...] = x[chunk : chunk + out.shape[0], chunk:]

    monkeypatch.setattr(haar, "fill_normal", given)
    expected = reflections(x) if shape == (n, m) else reflections(x).T
    weight = np.empty((1, *shape))
    haar._fill_large(weight[0], 0, 0, haar.run_here)
    np.testing.assert_allclose(weight[0], expected, atol=1e-12)
    haar._fill_stack(weight, 0, 0)
    np.testing.assert_allclose(weight[0], expected, atol=1e-12)


def test_a_vector_that_rounds_to_zero_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    def zero(out: Array, key: int, chunk: int) -> None:
        out[...] = 0

    monkeypatch.setattr(haar, "fill_normal", zero)
    weight = np.empty((2, 3, 3), np.float32)
    haar._fill_stack(weight, 0, 0)
    assert defect(weight) < 1e-6
    haar._fill_large(weight[0], 0, 0, haar.run_here)
    assert defect(weight) < 1e-6


# Normal numbers.


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_normal_numbers_are_normal_and_independent(dtype: Any) -> None:
    x = np.empty(3 * normal.NORMALS + 1001, dtype)
    normal.fill_normal(x, 7, 0)
    x = x.astype(np.float64)
    assert stats.kstest(x, "norm").pvalue > 1e-3
    for power, expected in ((1, 0), (2, 1), (3, 0), (4, 3), (6, 15), (8, 105)):
        assert mean_is(x**power, expected)
    assert mean_is((abs(x) > 3.5).astype(float), 2 * stats.norm.sf(3.5))
    half = normal.NORMALS // 2
    for lag in (1, 2, half - 1, half, half + 1, normal.NORMALS):  # a pair lies half a chunk apart
        assert mean_is(x[lag:] * x[:-lag], 0)
        assert mean_is(x[lag:] ** 2 * x[:-lag] ** 2, 1)
    other = np.empty(len(x), dtype)
    normal.fill_normal(other, 7, 1)
    assert mean_is(x * other, 0)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 5, normal.NORMALS - 1, normal.NORMALS + 1])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_number_is_written(size: int, dtype: Any) -> None:
    x = np.full(size, np.nan, dtype)
    normal.fill_normal(x, 7, 0)
    assert np.isfinite(x).all()
    view = np.full((size, 2), np.nan, dtype)[:, 1]
    normal.fill_normal(view, 7, 0)
    np.testing.assert_array_equal(view, x)


@pytest.mark.parametrize("raw", [0, 2**64 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**63 - 1])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_extreme_bits_give_finite_numbers(raw: int, dtype: Any) -> None:
    class Bits:
        def random_raw(self, size: int) -> Array:
            return np.full(size, raw, np.uint64)

    x = np.empty(4, dtype)
    normal._box_muller(Bits(), x)  # type: ignore[arg-type]
    assert np.isfinite(x).all()


# The other methods.


@pytest.mark.parametrize(("method", "variance"), [("he", 2 / 40), ("xavier", 2 / 140)])
def test_he_and_xavier_are_normal_with_their_variance(method: Any, variance: float) -> None:
    x = draw(Request("a", 200, 100, 40, method=method), seed=0).ravel()
    assert stats.kstest(x[::10] / math.sqrt(variance), "norm").pvalue > 1e-3
    assert mean_is(x.astype(np.float64) ** 2, variance)


def test_delta_is_orthonormal_at_the_centre_and_zero_elsewhere() -> None:
    weight = draw(Request("a", 2, 6, 4 * 9, method="delta", taps=9, centre=4), seed=0).reshape(2, 6, 4, 3, 3)
    assert defect(weight[:, :, :, 1, 1].copy()) < 1e-6
    assert weight[:, :, :, 1, 1].shape == (2, 6, 4)
    weight[:, :, :, 1, 1] = 0
    assert not weight.any()


def test_delta_refuses_more_inputs_than_outputs() -> None:
    with pytest.raises(ValueError, match="found 6 outputs and 7 inputs for 'c'"):
        draw(Request("c", 1, 6, 7 * 9, method="delta", taps=9, centre=4), seed=0)
    with pytest.raises(ValueError, match="multiple of taps"):
        draw(Request("c", 1, 6, 7, method="delta", taps=2), seed=0)
    with pytest.raises(ValueError, match=r"centre in 0\.\.taps-1"):
        draw(Request("c", 1, 6, 6, method="delta", taps=3, centre=3), seed=0)


# The same bytes.

MIXED = [
    Request("conv", 1, 64, 576),
    Request("wide", 1, 600, 1300),
    Request("depthwise", 960, 1, 9),
    Request("tall", 1, 1300, 600),
    Request("grouped", 4, 300, 310),
    Request("square", 1, 1040, 1040),
    Request("double", 1, 730, 740, precision=np.float64),
    Request("flat", 1, 3, 300_000),
    Request("he", 3, 500, 700, method="he"),
    Request("delta", 1, 64, 576, method="delta", taps=9, centre=4),
    *(Request(f"small{i}", 1, 20 + i, 30) for i in range(20)),
]


@pytest.fixture(scope="module")
def alone() -> list[str]:
    return [sha(draw(request, seed=3, threads=1)) for request in MIXED]


@pytest.mark.parametrize("threads", [1, 2, 3, None])
def test_bytes_do_not_depend_on_threads_or_company(threads: int | None, alone: list[str]) -> None:
    found = [(index, sha(weight)) for index, weight in draw_all(MIXED, seed=3, threads=threads)]
    assert found == list(enumerate(alone))
    backwards = [sha(weight) for _, weight in draw_all(MIXED[::-1], seed=3, threads=threads)]
    assert backwards[::-1] == alone
    assert [sha(draw(request, seed=3, threads=threads)) for request in MIXED[:4]] == alone[:4]


@pytest.mark.parametrize("blas_threads", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_bytes_are_the_same_in_another_process(blas_threads: str, alone: list[str]) -> None:
    code = (
        "import hashlib\nfrom onnx_lsuv.orthonormal import draw_all\nfrom test_orthonormal import MIXED\n"
        "for _, w in draw_all(MIXED, seed=3): print(hashlib.sha256(w.tobytes()).hexdigest())"
    )
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])  # noqa: PTH120
    environment = os.environ | {"OPENBLAS_NUM_THREADS": blas_threads, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == alone


def test_bytes_do_not_depend_on_other_draws_at_the_same_time(alone: list[str]) -> None:
    found: dict[int, list[str]] = {}

    def work(name: int) -> None:
        found[name] = [sha(weight) for _, weight in draw_all(MIXED, seed=3, threads=2)]

    workers = [threading.Thread(target=work, args=(name,)) for name in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == dict.fromkeys(range(3), alone)


def test_seed_and_identity_change_the_draw() -> None:
    draws = [
        sha(draw(Request(identity, 1, 30, 40), seed))
        for seed, identity in [
            (0, "a"),
            (0, "b"),
            (1, "a"),
            (-1, "a"),
            (0, ""),
            (0, "a\0"),
            (2**70, "a"),
            (0, "\ud800"),
            (1, "0a"),
            (10, "a"),
        ]
    ]
    assert len(set(draws)) == len(draws)
    blocks = draw(Request("a", 2, 800, 800), seed=0)
    assert not np.array_equal(blocks[0], blocks[1])
    filters = draw(Request("a", 70_000, 1, 9), seed=0)[:, 0]
    assert len(np.unique(filters[:, :3], axis=0)) == 70_000


# What a draw costs the process around it.


def blas_threads() -> list[int]:
    return [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]


def test_the_number_of_blas_threads_comes_back() -> None:
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        list(draw_all(MIXED[:3], seed=0, threads=2))
        assert blas_threads() == before
        draws = draw_all(MIXED, seed=0, threads=2)
        next(draws)
        other = draw_all(MIXED, seed=0, threads=2)
        next(other)
        draws.close()  # type: ignore[attr-defined]
        assert set(blas_threads()) == {1}
        other.close()  # type: ignore[attr-defined]
        assert blas_threads() == before


def test_an_error_in_a_piece_reaches_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError("no room")

    before = blas_threads()
    monkeypatch.setattr(haar, "fill_normal", fail)
    for request in MIXED[:2]:
        with pytest.raises(MemoryError, match="no room"):
            draw(request, seed=0, threads=2)
    assert blas_threads() == before


@pytest.mark.parametrize("shape", [(512, 4608), (4608, 512), (700, 1500), (600, 5000), (1300, 4100), (257, 9000)])
def test_what_the_memory_held_before_is_not_read(shape: tuple[int, int]) -> None:
    weight = np.full((1, *shape), np.nan, np.float32)
    haar.fill_orthonormal(weight, 1, haar.run_here)
    rows = weight[0].astype(np.float64) if shape[0] < shape[1] else weight[0].T.astype(np.float64)
    assert rows @ rows.T == pytest.approx(np.eye(min(shape)), abs=1e-5)


@pytest.mark.parametrize("shape", [(768, 4704), (4704, 768), (1500, 1500), (1024, 12000)])
def test_peak_memory_is_the_weight_and_one_copy(shape: tuple[int, int]) -> None:
    request = Request("a", 1, *shape)
    draw(request, seed=0, threads=2)
    tracemalloc.start()
    draw(request, seed=0, threads=2)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    scratch = 2 * 4 * 4 * haar.STACK  # two threads, a few arrays of one piece each
    assert peak < 2 * 4 * request.size + scratch


def test_few_weights_are_drawn_ahead_of_a_slow_reader() -> None:
    requests = [Request(f"w{i}", 1, 64, 1024) for i in range(400)]
    tracemalloc.start()
    draws = draw_all(requests, seed=0, threads=2)
    next(draws)
    time.sleep(0.5)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    draws.close()  # type: ignore[attr-defined]
    assert peak < 30 * 4 * requests[0].size


def test_at_least_one_core_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert drawing.usable_cores() >= 1
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert drawing.usable_cores() == 1
