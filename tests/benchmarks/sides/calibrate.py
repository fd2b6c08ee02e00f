"""Calibrate a model as the command does and print as JSON what the calibration took: session and run with statistics.

    python calibrate.py MODEL BATCH.npy [--batches K] [--device cpu]

The images go through in K batches of equal size. Reading the model and drawing the weights come first and are not
counted. The graph's making, the sessions, the runs and the rescaling of the weights are; the graph is made while the
weights are drawn, and counted all the same, by the time of its thread.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import process_time, thread_time

import numpy as np

import onnx_lsuv
from onnx_lsuv.lsuv import procedure


class Clock(procedure.Clock):
    """The package's own clock, with the time of all cores beside its wall time."""

    cpu: dict[str, float] = {}  # noqa: RUF012

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = process_time()
        with super().__call__(phase):
            yield
        self.cpu[phase] = self.cpu.get(phase, 0.0) + process_time() - start


def main() -> None:
    graph = 0.0

    def timed(*args: object, **options: object) -> object:
        nonlocal graph
        start = thread_time()
        calibration = build(*args, **options)
        graph = thread_time() - start
        return calibration

    build, procedure.build = procedure.build, timed
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--batches", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    images = np.load(args.data)
    procedure.Clock = Clock
    batches = [{"image": part} for part in np.split(images, args.batches)]
    result = onnx_lsuv.initialize(onnx_lsuv.load(args.model), batches, device=args.device)
    times = {"wall": result.seconds["calibrate"] + graph, "cpu": Clock.cpu["calibrate"] + graph}
    json.dump(times | {"phases": {**result.seconds, "graph": graph}, "layers": len(result.layers)}, sys.stdout)


if __name__ == "__main__":
    main()
