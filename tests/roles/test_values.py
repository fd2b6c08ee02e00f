"""What values alone tell: no trained number is taken for one that somebody wrote."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_lsuv.roles.values import is_computed, is_grid

WRITTEN = {
    "gelu": (0.044715, math.sqrt(2 / math.pi), 1.702, math.sqrt(0.5)),
    "roots of widths": (1 / math.sqrt(72), 96**-0.25, math.sqrt(768), 288**-0.5, 1 / 64),
    "pictures": (1 / 255, 1 / 127.5, 0.229, 0.485, 2 / 3, 1 / 6),
    "sound": (10 / math.log(10), math.log(1e-5), 2 * math.pi / 360, 1e-10),
    "frequencies": (math.log(10000) / 64, -math.log(10000) / 128),
    "bounds": (3.4028234e38, -65504, 0.0, -1.0, 1e-12, 1e-5),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("numbers", WRITTEN.values(), ids=WRITTEN)
def test_numbers_that_code_holds(numbers: tuple[float, ...], dtype: type) -> None:
    assert [each for each in numbers if not is_computed(np.array([each], dtype))] == []


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numbers_that_were_learned(dtype: type) -> None:
    drawn = np.random.default_rng(0).lognormal(size=2000).astype(dtype)
    assert np.mean([is_computed(each.reshape(1)) for each in drawn]) < 0.03


def test_a_vector_that_training_moved_a_little_is_no_ramp() -> None:
    rng = np.random.default_rng(0)
    for size in (6, 8, 8, 8, 9, 16, 64, 1000):
        for far in (1e-1, 1e-3, 5e-4, 3e-4, 1e-5):
            assert not is_computed((1 + far * rng.standard_normal(size)).astype(np.float32))
            assert not is_computed((1 + far * rng.standard_normal((size, size))).astype(np.float32))
    assert is_computed(np.linspace(0.3, 1.7, 16, dtype=np.float32))
    assert is_computed(np.linspace(100, 101.3, 16, dtype=np.float32))


def test_windows_are_computed() -> None:
    for size in (8, 16, 33, 400):
        angles = 2 * np.pi * np.arange(size) / size
        for window in (np.hanning(size), np.hamming(size), np.kaiser(size, 8), 0.5 - 0.5 * np.cos(angles)):
            assert is_computed(window.astype(np.float32))
            assert is_computed(window.astype(np.float16).reshape(size, 1, 1))
        trained = np.random.default_rng(size).standard_normal((100, size)).astype(np.float16)
        assert not any(map(is_computed, trained))


def boxes(cells: int, sizes: int, rng: np.random.Generator) -> NDArray[np.float32]:
    place = np.stack(np.meshgrid(*[(np.arange(cells) + 0.5) / cells] * 2), -1).reshape(-1, 1, 2)
    size = np.broadcast_to(rng.uniform(0.1, 0.9, (1, sizes, 2)), (cells**2, sizes, 2))
    return np.concatenate([np.broadcast_to(place, size.shape), size], -1).reshape(-1, 4).astype(np.float32)


def test_boxes_of_a_detector_are_a_grid() -> None:
    rng = np.random.default_rng(0)
    for sizes in (2, 3, 5, 9):
        table = np.concatenate([boxes(cells, sizes, rng) for cells in (40, 20, 10)])
        assert is_grid(table)
        assert is_grid(table[None, :, 2:])


def test_what_is_trained_and_rounded_is_no_grid() -> None:
    rng = np.random.default_rng(0)
    trained = rng.standard_normal((500, 8)).astype(np.float32)
    centres = np.sort(rng.standard_normal(16).astype(np.float32))
    rounded = [0.37 * np.sign(trained), np.round(trained * 4) * 0.123, centres[rng.integers(0, 16, trained.shape)]]
    sparse = trained * (rng.random(trained.shape) < 0.05)
    for table in (trained, sparse, *rounded):
        assert not is_grid(np.asarray(table, np.float32))
        assert not is_computed(np.asarray(table, np.float32))
