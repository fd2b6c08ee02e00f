"""Measure a model as `--check` does and print as JSON what it took: reading, session and run with statistics, report.

    python check.py MODEL BATCH.npy

Imports and reading the batch come first and are not counted.
"""

import json
import sys
from pathlib import Path
from time import perf_counter, process_time

import numpy as np

import onnx_lsuv
from onnx_lsuv.report.document import as_json
from onnx_lsuv.report.text import as_text
from onnx_lsuv.runtime import open_device


def main() -> None:
    model, data = sys.argv[1:]
    images = np.load(data)
    device, load, measure = open_device("cpu"), onnx_lsuv.load, onnx_lsuv.measure  # which are loaded on use
    start, cpu = perf_counter(), process_time()
    result = measure(load(Path(model)), images, device=device)
    measured = perf_counter()
    as_text(result, width=160), as_json(result, {})
    end = perf_counter()
    times = {"wall": end - start, "cpu": process_time() - cpu, "report": end - measured, **result.seconds}
    json.dump(times | {"layers": len(result.layers)}, sys.stdout)


if __name__ == "__main__":
    main()
