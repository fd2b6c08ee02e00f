"""Draw orthonormal weights, multiply A @ A.T in float32, make normal numbers alone, in turn; print all as JSON.

    python draw.py BLOCKSxFAN_OUTxFAN_IN|MODEL.onnx [...] [--seconds 3] [--alone]

All use every core. At least three rounds, one more before them that is not counted.
"""

import argparse
import json
import sys
from collections.abc import Callable
from time import perf_counter, process_time, sleep

import numpy as np

import onnx_lsuv
from onnx_lsuv.orthonormal import Request, draw_all

PAUSE = 0.1  # seconds: OpenBLAS's threads look out for the next product for a while, and take a core for that


def timed(action: Callable[[], object]) -> dict[str, float]:
    sleep(PAUSE)
    wall, cpu = perf_counter(), process_time()
    action()
    return {"wall": perf_counter() - wall, "cpu": process_time() - cpu}


def shapes_of(text: str) -> list[tuple[int, ...]]:
    """The blocks, rows and columns of a shape, or of each weight of a model."""
    if not text.endswith(".onnx"):
        return [tuple(map(int, text.split("x")))]
    plan = onnx_lsuv.plan(onnx_lsuv.load(text)).plan
    matrices = (weight.layers[0].matrix for weight in plan.weights.values())
    return [(each.blocks, each.fan_out, each.fan_in) for each in matrices]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shapes", nargs="+")
    parser.add_argument("--seconds", type=float, default=3.0, help="for further rounds")
    parser.add_argument("--alone", action="store_true", help="draw once, and multiply nothing")
    args = parser.parse_args()
    shapes = [shape for each in args.shapes for shape in shapes_of(each)]

    def drawn(seed: int, method: str = "orthonormal") -> None:
        for _ in draw_all([Request(f"weight {i}", *shape, method=method) for i, shape in enumerate(shapes)], seed):
            pass

    if args.alone:
        json.dump({"ours": [timed(lambda: drawn(0))]}, sys.stdout)
        return
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape, dtype=np.float32) for shape in shapes]
    arrays = [a[0] if len(a) == 1 else a for a in arrays]  # two axes: NumPy calls syrk, which does half the work

    def multiplied() -> None:
        for a in arrays:
            a @ a.swapaxes(-1, -2)

    ours, other, numbers = [], [], []
    end = perf_counter() + args.seconds
    while len(ours) < 4 or perf_counter() < end:
        other.append(timed(multiplied))
        ours.append(timed(lambda: drawn(len(ours))))
        numbers.append(timed(lambda: drawn(len(ours), "he")))
    json.dump({"ours": ours[1:], "other": other[1:], "numbers": numbers[1:]}, sys.stdout)


if __name__ == "__main__":
    main()
