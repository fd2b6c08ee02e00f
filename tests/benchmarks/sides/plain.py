"""Make an ONNX Runtime session and run the model once, with nothing else; print as JSON what it took.

    python plain.py MODEL BATCH.npy

Imports and reading the batch come first and are not counted. The session has ONNX Runtime's default options.
"""

import json
import sys
from time import perf_counter, process_time

import numpy as np
import onnxruntime


def main() -> None:
    model, data = sys.argv[1:]
    batch = np.load(data)
    start, cpu = perf_counter(), process_time()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    made, used = perf_counter(), process_time()
    session.run(None, {session.get_inputs()[0].name: batch})
    end = perf_counter()
    times = {"wall": end - start, "cpu": process_time() - cpu, "session": made - start}
    json.dump(times | {"forward": end - made, "forward cpu": process_time() - used}, sys.stdout)


if __name__ == "__main__":
    main()
