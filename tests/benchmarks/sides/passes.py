"""Count what the nodes of a run read and write of activations; print as JSON how often each value goes by.

    python passes.py MODEL BATCH.npy

ONNX Runtime's profile says what each node read and wrote, of a plain session of the file, of a calibration, and of a
measurement as `--check` does it. What only gives another shape to the same memory is left out, and a convolution with
itself reads once. The batch is cut to a prime number of samples, so that it divides the sizes of activations alone. The
unit is all outputs of layers, once: a chain in which each is written once and read once has 2.
"""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnxruntime

import onnx_lsuv

SAMPLES, LARGE = 31, 1 << 14
SAME = {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"}
LAYERS = {"Conv", "Gemm", "MatMul"}


def main() -> None:
    path, images = Path(sys.argv[1]), np.load(sys.argv[2])[:SAMPLES]
    if len(images) < SAMPLES:  # a quick look
        images = np.resize(images, (SAMPLES, *images.shape[1:]))
    make, sessions = onnxruntime.InferenceSession, []

    def profiled(model: object, options: onnxruntime.SessionOptions, **others: object) -> object:
        options.enable_profiling, options.profile_file_prefix = True, f"{folder}/profile"
        sessions.append(make(model, options, **others))
        return sessions[-1]

    found = {}
    with TemporaryDirectory() as folder:
        session = profiled(str(path), onnxruntime.SessionOptions(), providers=["CPUExecutionProvider"])
        session.run(None, {session.get_inputs()[0].name: images})
        outputs = layers_of(path, images)
        found["plain"] = moved(sessions)
        onnxruntime.InferenceSession = profiled
        sessions.clear()
        onnx_lsuv.initialize(onnx_lsuv.load(path), images, device="cpu")
        found["calibrate"] = moved(sessions)
        sessions.clear()
        onnx_lsuv.measure(onnx_lsuv.load(path), images, device="cpu")
        found["check"] = moved(sessions)
    json.dump({name: values / outputs for name, values in found.items()}, sys.stdout)


def moved(sessions: list[onnxruntime.InferenceSession]) -> int:
    """How many values of activations the nodes of some sessions read and wrote."""
    events = [event for session in sessions for event in json.loads(Path(session.end_profiling()).read_text())]
    nodes = [e["args"] for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
    total = 0
    for node in nodes:
        if node["op_name"] not in SAME:
            read, written = node["input_type_shape"], node["output_type_shape"]
            if node["op_name"] == "Conv":
                read = [*read[:1], *read[3:]]  # without filter and bias
            sizes = [int(np.prod(shape)) for kind in (*read, *written) for shape in kind.values()]
            total += sum(size for size in sizes if is_activation(size))
    return total


def is_activation(size: int) -> bool:
    return size >= LARGE and size % SAMPLES == 0


def layers_of(path: Path, images: np.ndarray) -> int:
    """How many values all outputs of layers have that are activations."""
    proto = onnx.load(path)
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = len(images)
    inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
    dims = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in (*inferred.value_info, *inferred.output)
    }
    sizes = [int(np.prod(dims[node.output[0]])) for node in inferred.node if node.op_type in LAYERS]
    return sum(size for size in sizes if is_activation(size))


if __name__ == "__main__":
    main()
