"""ONNX Runtime: devices, sessions, bound runs. No other module imports it.

Inputs are bound as OrtValues over the arrays' own memory, so a weight is neither copied nor serialised on the CPU;
what stays between runs stays on the device. CUDA's libraries are looked for before ONNX Runtime is asked for them,
because it answers a missing one by an error on standard error and a silent fall-back to the CPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, TypeProto, helper

from onnx_lsuv.errors import DataError, DeviceError, LsuvError, ModelError

# ONNX Runtime cuts a matrix product into as many parts as it has threads, and the parts' shapes decide the order of
# sums. So the number of parts is the machine's, whatever it is asked to use: how many cores the threads may run on is
# a matter of affinity, and the bytes are the same for any number.
_PARTS = min(os.cpu_count() or 1, 16)

_PACKAGES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino")


def _installed() -> list[str]:
    found = []
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            metadata.version(name)
            found.append(name)
    return found


@lru_cache(maxsize=1)
def _load() -> Any:
    """Import ONNX Runtime, saying clearly when two of its packages overwrote each other."""
    found = _installed()
    if len(found) > 1:
        raise DeviceError(
            f"Expected one ONNX Runtime package, found {' and '.join(found)}, which overwrite each other's files: "
            f"run 'pip uninstall {' '.join(found)}' and install one of them again."
        )
    try:
        import onnxruntime  # noqa: PLC0415
    except ImportError as error:
        raise DeviceError(
            f"ONNX Runtime cannot be imported ({error}): install 'onnxruntime-gpu' or 'onnxruntime'."
        ) from error
    onnxruntime.set_default_logger_severity(4)
    return onnxruntime


@dataclass(frozen=True, slots=True)
class Device:
    """Where the model runs."""

    name: str  # "cpu" or "cuda:N"
    threads: int  # cores to use
    allow_tf32: bool = False
    custom_ops: tuple[str, ...] = ()
    kept: bool = True  # whether memory is kept between runs

    @property
    def index(self) -> int:
        """The GPU's number."""
        return int(self.name.partition(":")[2] or 0)

    @property
    def kind(self) -> str:
        """ONNX Runtime's name for the kind of device."""
        return self.name.partition(":")[0]


@dataclass(frozen=True, slots=True, eq=False)
class Session:
    """A loaded model."""

    session: Any
    device: Device


def version() -> str:
    """Return ONNX Runtime's version."""
    return str(_load().__version__)


def open_device(
    name: str = "auto", *, threads: int | None = None, allow_tf32: bool = False, custom_ops: Sequence[str] = ()
) -> Device:
    """Return the device of a name.

    Args:
        name: "auto" (CUDA where it works, else the CPU), "cpu", "cuda" or "cuda:N".
        threads: how many cores to use (where the system can limit them); None for all.
        allow_tf32: let CUDA round products to TensorFloat-32.
        custom_ops: libraries of custom operators to load.

    Raises:
        DeviceError: CUDA is asked for and something it needs is missing.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise DeviceError(f"the device must be 'auto', 'cpu', 'cuda' or 'cuda:N', not {name!r}")
    for library in custom_ops:
        if not Path(library).is_file():
            raise DeviceError(
                f"The custom-operator library {library!r} is not a file: give the path of a shared library."
            )
    _load()  # a missing or doubled package is said now, not after the draw
    count = threads if threads else _cores()
    cpu = Device("cpu", count, allow_tf32, tuple(custom_ops))
    if name == "cpu":
        return cpu
    index = int(name.partition(":")[2] or 0)
    missing = _missing_for_cuda(index)
    if missing is None:
        return Device(f"cuda:{index}", count, allow_tf32, tuple(custom_ops))
    if name == "auto":
        return cpu
    raise DeviceError(f"The device {name!r} was asked for, but {missing}: use '--device cpu' to run without it.")


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _missing_for_cuda(index: int) -> str | None:
    """Return what CUDA lacks here, or None when it can be used."""
    ort = _load()
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        return "the installed ONNX Runtime is built without CUDA (install 'onnxruntime-gpu')"
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return "no NVIDIA driver is installed (libcuda is not found)"
    if driver.cuInit(0) != 0:
        return "the NVIDIA driver finds no usable GPU"
    count = ctypes.c_int(0)
    if driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value <= index:
        return f"there are {count.value} GPUs, numbered from 0"
    # preload_dlls prints what it does not find; whether the provider works is seen by the session's own list.
    with contextlib.redirect_stdout(io.StringIO()):
        ort.preload_dlls()
    major = str(getattr(ort, "cuda_version", "") or "").partition(".")[0]
    if sys.platform != "win32":
        for library in (f"libcudart.so.{major}", f"libcublas.so.{major}", "libcudnn.so.9"):
            try:
                ctypes.CDLL(library)
            except OSError:
                return f"the library {library} is not found (install 'onnxruntime-gpu[cuda,cudnn]')"
    return None


def device_of(device: str | Device, *, threads: int | None = None) -> Device:
    """Return an open device as it is; one that is opened here, by its name, does not keep memory between runs."""
    return device if isinstance(device, Device) else replace(open_device(device, threads=threads), kept=False)


@contextlib.contextmanager
def _limited(threads: int) -> Iterator[None]:
    """Keep the calling thread, and threads made inside, to the first so many of its cores, where Python can say so."""
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    if threads >= len(before):
        yield
        return
    os.sched_setaffinity(0, sorted(before)[:threads])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@lru_cache(maxsize=1)
def _share_memory() -> None:
    """Make the allocator of host memory that all sessions share."""
    ort = _load()
    host = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    # It grows by what is asked for, not to the next power of two.
    ort.create_and_register_allocator(host, ort.OrtArenaCfg({"arena_extend_strategy": 1}))


def release(device: Device) -> None:
    """Give back the host memory that the runs so far took and no value holds any more, if the device does not keep it.

    It is slow to come again, so a device that a caller opened keeps it for the next run.
    """
    if device.kept:
        return
    ort = _load()
    tensor = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    node = helper.make_node("Identity", ["x"], ["y"])
    graph = helper.make_graph([node], "nothing", [tensor], [onnx.ValueInfoProto(name="y")])
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)])
    session = load(model.SerializeToString(), Device("cpu", 1, False, ()))
    # The allocator is cleared out at the end of a run that asks for it.
    options = ort.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    session.session.run(None, {"x": np.zeros(1, np.float32)}, options)


def load(model: bytes, device: Device) -> Session:
    """Load a serialised model.

    Raises:
        ModelError: ONNX Runtime refuses the model.
        DeviceError: it would not run on the device asked for.
    """
    ort = _load()
    options = ort.SessionOptions()
    options.intra_op_num_threads = _PARTS
    options.log_severity_level = 4
    options.use_deterministic_compute = True
    # Weights are inputs here, so the levels above find nothing to fuse; and some of their passes crash (see README).
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    # Buffers are used once: planning them ahead for the next run is lost work.
    options.enable_mem_pattern = False
    # The next stage takes the memory of the last one: fresh memory is slow to touch.
    _share_memory()
    options.add_session_config_entry("session.use_env_allocators", "1")
    # Threads that wait by spinning take the cores from the next stage's session, and from everybody else.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for library in device.custom_ops:
        try:
            options.register_custom_ops_library(library)
        except Exception as error:
            raise DeviceError(
                f"The custom-operator library {library!r} cannot be loaded: {_message(error)}."
            ) from error
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.kind == "cuda":
        cuda = {
            "device_id": str(device.index),
            "use_tf32": "1" if device.allow_tf32 else "0",
            "cudnn_conv_algo_search": "HEURISTIC",
        }
        providers.insert(0, ("CUDAExecutionProvider", cuda))
    try:
        # The session's threads inherit the affinity of the thread that makes them.
        with _limited(device.threads):
            session = ort.InferenceSession(model, options, providers=providers)
    except Exception as error:
        raise _refused(error) from error
    if device.kind == "cuda" and session.get_providers()[0] != "CUDAExecutionProvider":
        raise DeviceError(
            f"The device {device.name!r} was asked for, but ONNX Runtime could not start CUDA: check that the CUDA and "
            "cuDNN libraries match the installed 'onnxruntime-gpu', or use '--device cpu'."
        )
    return Session(session, device)


def block(device: Device) -> int:
    """Return how many channels ONNX Runtime puts side by side for convolutions on a device; 1 where it does not."""
    return _cpu_block() if device.kind == "cpu" else 1


@lru_cache(maxsize=1)
def _cpu_block() -> int:
    """See what the optimiser makes of the filter of a convolution with one output channel."""
    ort = _load()
    one = helper.make_tensor("w", TensorProto.FLOAT, (1, 1, 1, 1), [1.0])
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 1, 1, 1))
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"])], "probe", [image], [output], [one])
    probe = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.onnx"
        options.optimized_model_filepath = str(path)
        ort.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
        found = onnx.load(path)
    blocked = any(node.domain == "com.microsoft.nchwc" for node in found.graph.node)
    return max((tensor.dims[0] for tensor in found.graph.initializer), default=1) if blocked else 1


def _refused(error: Exception) -> LsuvError:
    text = _message(error)
    unknown = re.search(r"([\w.]*):?(\w+)\(-?\d+\) is not a registered function/op", text)
    if unknown:
        name = ".".join(part for part in unknown.groups() if part)
        return ModelError(
            f"ONNX Runtime does not know the operator {name!r}: name the library that holds it with '--custom-ops'."
        )
    return ModelError(f"ONNX Runtime {version()} cannot load the model: {text}.")


def _message(error: Exception) -> str:
    """Return ONNX Runtime's own words without its code and source positions."""
    text = " ".join(str(error).split())
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"^Error in execution: ", "", text)
    text = re.sub(
        r"^Non-zero status code returned while running (\w+) node\. Name:'([^']*)' Status Message: ", r"\1 '\2': ", text
    )
    # The source position, and what C++ says of the function: "file.cc:12 void f(const Tensor*) [with T = float] ".
    text = re.sub(r"\S*/onnxruntime\S*:\d+ (?:[^\[]*?\)(?: const)? \[with [^\]]*\] )?", "", text)
    # Names of nodes are ours: the label in the file, and the output.
    text = re.sub(r"('[^']*?) -> [^']*'", r"\1'", text)
    return text.rstrip(". ")[:400]


def value_of(array: NDArray[Any], elem_type: int) -> Any:
    """Return an OrtValue over an array's own memory.

    The array must be C-contiguous, in native byte order, and outlive the value.
    """
    ort = _load()
    if elem_type == TensorProto.BFLOAT16:
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), elem_type)
    return ort.OrtValue.ortvalue_from_numpy(array)


def type_of(value: Any) -> TypeProto:
    """Return the type of an OrtValue, its shape left open."""
    result = TypeProto()
    text = value.data_type()
    if value.is_tensor():
        result.tensor_type.elem_type = value.element_type()
        return result
    inner = re.fullmatch(r"seq\(tensor\((\w+)\)\)", text)
    if inner:
        name = {"float": "FLOAT", "double": "DOUBLE"}.get(inner[1], inner[1].upper())
        result.sequence_type.elem_type.tensor_type.elem_type = TensorProto.DataType.Value(name)
        return result
    raise DeviceError(
        f"A value of type {text} lies between two batches' stages, which is not supported: give one batch."
    )


def array_of(value: Any) -> NDArray[Any]:
    """Return an OrtValue's contents on the host."""
    return np.asarray(value.numpy())


def run(session: Session, inputs: Mapping[str, Any], outputs: Sequence[str], on_host: Set[str]) -> dict[str, Any]:
    """Run a session once.

    Args:
        session: what to run.
        inputs: an OrtValue for each input.
        outputs: names to compute.
        on_host: those of them wanted on the host; the others stay on the device.

    Raises:
        DataError: an index in the data lies outside the model's tables.
        DeviceError: anything else that goes wrong while running.
    """
    ort = _load()
    binding = session.session.io_binding()
    for name, value in inputs.items():
        binding.bind_ortvalue_input(name, value)
    device = session.device
    for name in outputs:
        kind = "cpu" if name in on_host else device.kind
        binding.bind_output(name, kind, device.index if kind == "cuda" else 0)
    options = ort.RunOptions()
    options.log_severity_level = 4
    try:
        with _limited(device.threads):
            session.session.run_with_iobinding(binding, options)
    except Exception as error:
        text = _message(error)
        if re.search(
            r"ind(ex|ices).*(bounds|range)|out of (data )?bounds|out of range value in ind", text, re.IGNORECASE
        ):
            raise DataError(f"An index in the data lies outside a table of the model: {text}.") from error
        raise DeviceError(f"ONNX Runtime could not run the model on this data: {text}.") from error
    return dict(zip(outputs, binding.get_outputs(), strict=True))
