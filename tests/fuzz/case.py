"""One broken model, one call of the command in this process, and what fell short."""

from __future__ import annotations

import contextlib
import io
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError, Message
from mutations import mutated, pick
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper
from seeds import seeds

from onnx_lsuv import cli

Array = NDArray[Any]
OPTIONS: tuple[tuple[str, ...], ...] = (
    (), (), (), (), ("--keep-bias",), ("--fresh",), ("--check",), ("--dry-run",), ("--fresh", "--dry-run"),
    ("--portable",), ("--init", "keep"), ("--init", "delta"), ("--no-rescale",), ("--center",), ("--batch-size", "2"),
    ("--report", "r.html"), ("--report", "r.md"), ("--weights-out", "w.npz"), ("--weights-out", "w.safetensors"),
    ("--format", "github"),
)  # fmt: skip
LONGEST = 400  # characters of a sentence
SAMPLES = 4
LARGEST = 1 << 18  # values of an input


def make(number: int, corpus: Path | None, folder: Path) -> tuple[str, list[str]]:
    """Write the model and the data of a case; return what it is, and the command's arguments."""
    rng = np.random.default_rng([20, number])
    models = seeds(corpus)
    name = pick(rng, sorted(models))
    data, done = mutated(models[name], rng)
    (folder / "m.onnx").write_bytes(data)
    options = list(pick(rng, OPTIONS))
    try:
        arrays = data_for(ModelProto.FromString(data), rng)
    except (DecodeError, ValueError):
        arrays = {}
    given = []
    if not arrays:
        given = ["--random"]
    elif "--dry-run" not in options:
        np.savez(folder / "x.npz", **arrays)  # type: ignore[arg-type]
        given = ["--data", "x.npz"]
    if not {"--check", "--dry-run"} & set(options):
        options += ["--report", "r.json"]
    return f"{name} {options[:2]}: {done}", ["m.onnx", "--device", "cpu", "-vv", *given, *options]


def data_for(model: ModelProto, rng: np.random.Generator) -> dict[str, Array]:
    """Return an array for each input that can have one; open dims are small."""
    made: dict[str, Array] = {}
    initializers = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        kind = value.type.tensor_type
        if value.name in initializers or not kind.elem_type:
            continue
        shape = [d.dim_value if 0 < d.dim_value < 1000 else SAMPLES for d in kind.shape.dim][:20]
        if np.prod(shape, dtype=np.float64) > LARGEST or not re.fullmatch(r"[\w.]+", value.name):
            return {}
        if kind.elem_type not in TensorProto.DataType.values():
            return {}
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
        if dtype.kind not in "fiub" or dtype.name.startswith(("bfloat", "float8", "float4", "int4", "uint4")):
            return {}
        whole = rng.integers(0, 2, shape)
        made[value.name] = (rng.standard_normal(shape) if dtype.kind == "f" else whole).astype(dtype)
    return made


def run(number: int, corpus: Path | None, folder: Path) -> tuple[str, list[str]]:
    """Run a case in a folder, which is the current one; return what it is and what fell short."""
    what, arguments = make(number, corpus, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    print(json.dumps({"case": number, "what": what, "arguments": arguments}), flush=True)
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr), warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # it would be a second line on standard error
        status = cli.run(arguments)
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    return what, list(_faults(status, stderr.getvalue(), before, after, arguments))


def _faults(
    status: int, stderr: str, before: Mapping[str, bytes], after: Mapping[str, bytes], arguments: list[str]
) -> Iterator[str]:
    last = stderr.strip().rpartition("\n")[2]
    if status not in range(7):
        yield f"status {status}: {_where(stderr)}"
    if status > 1 and not last.startswith("onnx-lsuv: error: "):
        yield f"status {status} without a sentence: {last[:80]}"
    if status > 1 and len(last) > LONGEST:
        yield f"a sentence of more than {LONGEST} characters: {last[:50]}"
    for name, data in before.items():
        if after.get(name) != data:
            yield f"the input {name} changed"
    new = set(after) - set(before)
    if status > 1 and new and "is saved all the same" not in last:
        yield f"status {status} leaves {sorted(new)}"
    if any(name.startswith(".") for name in new):
        yield f"temporary files left: {sorted(new)}"
    if status < 2 and "m.lsuv.onnx" in after and "--portable" not in arguments:
        yield from _compare(before, after)


def _where(traceback: str) -> str:
    """Return the innermost line of ours in a traceback, and the exception."""
    lines = re.findall(r'File "\S*?/(onnx_lsuv/\S+)", line \d+, in (\w+)', traceback)
    error = re.findall(r"^(\w[\w.]*(?:Error|Exception|Warning|Iteration|Stop)\b.*)", traceback, re.MULTILINE)
    place = "{} {}".format(*lines[-1]) if lines else "?"
    return f"{place}: {error[-1][:60] if error else '?'}"


def _compare(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> Iterator[str]:
    """Yield what differs between a model and its saved form without having been reported, or does not run any more."""
    one, two = ModelProto.FromString(before["m.onnx"]), ModelProto.FromString(after["m.lsuv.onnx"])
    reported = {change["tensor"] for change in json.loads(after["r.json"])["changes"]}
    old, new = dict(_tensors(one)), dict(_tensors(two))
    unsaid = {name for name in old if name in new and old[name] != new[name]} - reported
    if unsaid:
        yield "changed without a word"
    data = dict(np.load(io.BytesIO(before["x.npz"]))) if "x.npz" in before else {}
    if _runs(one, data) and not _runs(two, data):
        yield "ONNX Runtime refuses the output"


def _tensors(message: Message, name: str = "") -> Iterator[tuple[str, list[bytes]]]:
    """Yield every tensor's payload by its name; those in a Constant by the node's output."""
    found: dict[str, list[bytes]] = {}

    def walk(message: Message, name: str) -> None:
        if isinstance(message, TensorProto):
            try:
                found.setdefault(message.name or name, []).append(numpy_helper.to_array(message).tobytes())
            except Exception:  # a tensor that nothing reads may be broken
                found.setdefault(message.name or name, []).append(message.SerializeToString())
            return
        if isinstance(message, onnx.NodeProto) and message.output:
            name = message.output[0]
        for descriptor, value in message.ListFields():
            if descriptor.message_type is not None:
                for each in value if hasattr(value, "add") else (value,):
                    walk(each, name)

    walk(message, name)
    yield from found.items()


def _runs(model: ModelProto, data: Mapping[str, Array]) -> bool:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        session.run(None, dict(data))
    except Exception:
        return False
    return True
