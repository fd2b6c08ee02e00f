"""Make an ONNX Runtime session and run the model once, with nothing else; print as JSON what it took.

    python plain.py MODEL BATCH.npy [--device cpu] [--batches K]

Imports and reading the batch come first and are not counted. The session has ONNX Runtime's default options. The images
go through in K batches of equal size.
"""

import argparse
import json
import sys
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
import onnxruntime

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--batches", type=int, default=1)
    parser.add_argument("--device", choices=PROVIDERS, default="cpu")
    args = parser.parse_args()
    batches = np.split(np.load(args.data), args.batches)
    if args.device == "cuda":
        onnxruntime.preload_dlls()
    start, cpu = perf_counter(), process_time()
    session = onnxruntime.InferenceSession(args.model, providers=[PROVIDERS[args.device]])
    made, used = perf_counter(), process_time()
    name = session.get_inputs()[0].name
    for images in batches:
        session.run(None, {name: images})
    end = perf_counter()
    times = {"wall": end - start, "cpu": process_time() - cpu, "session": made - start}
    json.dump(times | {"forward": end - made, "forward cpu": process_time() - used}, sys.stdout)


if __name__ == "__main__":
    main()
