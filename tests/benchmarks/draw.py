"""Time of drawing orthonormal weights, normal numbers included, against one float32 product A @ A.T of that shape.

Run `python tests/benchmarks/draw.py`. Both sides use every core; the two are measured in turn, the best of each counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from onnx_lsuv.orthonormal import Request, draw

SHAPES = [  # blocks, fan_out, fan_in, bar
    (1, 4096, 25088, 3),
    (1, 4096, 4096, 4),
    (1, 2048, 2048, 5),
    (1, 512, 4608, 8),
    (1, 64, 64, None),
    (1, 64, 576, None),
    (1, 512, 512, None),
    (1, 2048, 512, None),
    (1, 1000, 2048, None),
    (960, 1, 9, None),
]
SECONDS = 3.0  # to spend on one shape, at least three rounds


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def measure(blocks: int, fan_out: int, fan_in: int) -> tuple[float, float]:
    """Return the best times of the product and of the draw."""
    request = Request(f"{blocks} x {fan_out} x {fan_in}", blocks, fan_out, fan_in)
    a = np.random.default_rng(0).standard_normal((blocks, fan_out, fan_in), dtype=np.float32)
    a = a[0] if blocks == 1 else a
    products, draws = [], []
    end = time.perf_counter() + SECONDS
    while len(draws) < 3 or time.perf_counter() < end:
        products.append(seconds(lambda: a @ a.swapaxes(-1, -2)))
        draws.append(seconds(lambda: draw(request, seed=len(draws))))
    return min(products), min(draws)


def main() -> None:
    print("| shape | A @ A.T, ms | draw, ms | ratio | bar |\n|---|---:|---:|---:|---:|")
    for blocks, fan_out, fan_in, bar in SHAPES:
        product, drawn = measure(blocks, fan_out, fan_in)
        name = f"({fan_out}, {fan_in})" if blocks == 1 else f"{blocks} blocks of ({fan_out}, {fan_in})"
        print(f"| {name} | {product * 1e3:.3f} | {drawn * 1e3:.3f} | {drawn / product:.2f} | {bar or ''} |")


if __name__ == "__main__":
    main()
