"""Draw orthonormal weights, normal numbers included, and multiply A @ A.T in float32, in turn; print both as JSON.

    python draw.py BLOCKS FAN_OUT FAN_IN [--seconds 3] [--alone]

Both use every core. At least three rounds, one more before them that is not counted.
"""

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from time import perf_counter, process_time

import numpy as np

from onnx_lsuv.orthonormal import Request, draw


def timed(action: Callable[[], object]) -> dict[str, float]:
    wall, cpu = perf_counter(), process_time()
    action()
    return {"wall": perf_counter() - wall, "cpu": process_time() - cpu}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("blocks", type=int)
    parser.add_argument("fan_out", type=int)
    parser.add_argument("fan_in", type=int)
    parser.add_argument("--seconds", type=float, default=3.0, help="for further rounds")
    parser.add_argument("--alone", action="store_true", help="draw once, and multiply nothing")
    args = parser.parse_args()
    shape = (args.blocks, args.fan_out, args.fan_in)
    request = Request("weight", *shape)
    if args.alone:
        json.dump({"ours": [timed(partial(draw, request, seed=0))]}, sys.stdout)
        return
    a = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    a = a[0] if args.blocks == 1 else a  # two axes: NumPy calls syrk, which does half the work
    ours, other = [], []
    end = perf_counter() + args.seconds
    while len(ours) < 4 or perf_counter() < end:
        other.append(timed(lambda: a @ a.swapaxes(-1, -2)))
        ours.append(timed(lambda: draw(request, seed=len(ours))))
    json.dump({"ours": ours[1:], "other": other[1:]}, sys.stdout)


if __name__ == "__main__":
    main()
