"""LSUV layer by layer, the way the published implementations do it, on an ONNX model: the reference to compare with.

    python layer_by_layer.py MODEL --data BATCH.npy -o OUT [--json PATH]

For each Conv, Gemm and MatMul with an initializer as its weight, in execution order: draw the weight orthonormal by
the singular value decomposition of a float64 Gaussian and set the bias to zero, as LSUVinit does; then run the whole
network up to ten times, each time dividing the weight by the layer's standard deviation, until the variance is within
0.02 of one. An ONNX Runtime session cannot change its weights, so each run needs a new session. What can be shared
is: the model is parsed once, only the tensors that change are written again, only the one output is fetched.
The decompositions use one BLAS thread unless `blas_threads` says otherwise: with more, OpenBLAS is several times slower
on a machine that also does something else. ONNX Runtime has all cores. Models up to 2 GiB, float32.
"""

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import onnx
import onnxruntime
from onnx import NodeProto, TensorProto, numpy_helper
from threadpoolctl import threadpool_limits

PROVIDERS = ["CPUExecutionProvider"]
LAYERS = {"Conv": (1,), "Gemm": (1, 0), "MatMul": (1, 0)}  # the inputs that may be the weight


@dataclass(frozen=True, slots=True)
class Layer:
    """A node, and the initializers that are its weight and its bias."""

    output: str
    weight: TensorProto
    bias: TensorProto | None


class Stopwatch(dict[str, float]):
    """Seconds by phase."""

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = perf_counter()
        try:
            yield
        finally:
            self[phase] = self.get(phase, 0.0) + perf_counter() - start


def find_layers(graph: onnx.GraphProto) -> list[Layer]:
    """The layers in execution order; a weight used twice counts with its first use."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    layers, seen = [], set()
    for node in graph.node:
        names = [node.input[i] for i in LAYERS.get(node.op_type, ()) if node.input[i] in tensors]
        if not names or names[0] in seen:
            continue
        seen.add(names[0])
        bias = node.input[2] if len(node.input) > 2 else None
        if node.op_type == "MatMul":
            adds = [reader for reader in readers.get(node.output[0], []) if reader.op_type == "Add"]
            bias = next((name for add in adds for name in add.input if name in tensors), None)
        layers.append(Layer(node.output[0], tensors[names[0]], tensors.get(bias)))
    return layers


def draw_orthonormal(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """A weight whose rows, or columns where there are more rows, are orthonormal; the first axis against the rest."""
    flat = rng.standard_normal((shape[0], int(np.prod(shape[1:]))))
    left, _, right = np.linalg.svd(flat, full_matrices=False)
    return (left if left.shape == flat.shape else right).reshape(shape)


def put(tensor: TensorProto, values: np.ndarray) -> None:
    """Replace a tensor's values in place."""
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def initialise(
    model_path: Path,
    batch: dict[str, np.ndarray],
    out_path: Path,
    *,
    tolerance: float = 0.02,
    attempts: int = 10,
    blas_threads: int = 1,
    seed: int = 0,
) -> dict:
    """Initialise the model's weights by LSUV and save it; returns the seconds of each phase and the forward passes."""
    start, seconds = perf_counter(), Stopwatch()
    rng = np.random.default_rng(seed)
    forwards, missed = 0, []
    with seconds("load"):
        model = onnx.load(model_path)
        layers = find_layers(model.graph)
    outputs = list(model.graph.output)
    with threadpool_limits(blas_threads, user_api="blas"):
        for layer in layers:
            with seconds("orthonormal"):
                values = draw_orthonormal(tuple(layer.weight.dims), rng).astype(np.float32)
            put(layer.weight, values)
            if layer.bias is not None:
                put(layer.bias, np.zeros(layer.bias.dims, np.float32))
            watched = all(layer.output != output.name for output in outputs)
            if watched:
                model.graph.output.add(name=layer.output)
            for attempt in range(attempts + 1):
                with seconds("serialise"):
                    serialised = model.SerializeToString()
                with seconds("session"):
                    session = onnxruntime.InferenceSession(serialised, providers=PROVIDERS)
                with seconds("forward"):
                    (output,) = session.run([layer.output], batch)
                forwards += 1
                with seconds("statistics"):
                    variance = float(np.var(output))
                del session, output
                if abs(variance - 1) < tolerance:
                    break
                if attempt == attempts or not np.isfinite(variance) or variance == 0:
                    missed.append(layer.weight.name)
                    break
                values /= np.float32(np.sqrt(variance))
                put(layer.weight, values)
            if watched:
                del model.graph.output[-1]
    with seconds("save"):
        onnx.save(model, out_path)
    total = perf_counter() - start
    return {
        "seconds": {**seconds, "total": total},
        "forwards": forwards,
        "layers": len(layers),
        "missed": missed,
        "blas_threads": blas_threads,
    }


def load_batch(model_path: Path, data: Path) -> dict[str, np.ndarray]:
    """A .npz by input name, or a .npy for the model's only input."""
    if data.suffix == ".npz":
        return dict(np.load(data))
    graph = onnx.load(model_path, load_external_data=False).graph
    stored = {tensor.name for tensor in graph.initializer}
    (name,) = (value.name for value in graph.input if value.name not in stored)
    return {name: np.load(data)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True, metavar="NPY")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--blas-threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    batch = load_batch(args.model, args.data)
    result = initialise(args.model, batch, args.output, blas_threads=args.blas_threads)
    for phase, value in result["seconds"].items():
        print(f"{phase:12} {value:8.2f} s")
    print(f"{result['layers']} layers, {result['forwards']} forward passes, {result['blas_threads']} BLAS thread(s)")
    if result["missed"]:
        print("not within tolerance:", ", ".join(result["missed"]))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
