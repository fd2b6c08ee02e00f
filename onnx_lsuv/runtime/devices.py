"""Devices: which there are, what they lack, how they lay out images.

CUDA's libraries are looked for before ONNX Runtime is asked for them, because it answers a missing one by an error on
standard error and a silent fall-back to the CPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from onnx_lsuv.errors import DeviceError
from onnx_lsuv.model.atomic import unbroken
from onnx_lsuv.orthonormal import usable_cores
from onnx_lsuv.runtime.package import package


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
        if not os.path.isfile(library):  # noqa: PTH113  (False where a name is too long)
            raise DeviceError(
                f"The custom-operator library {library!r} is not a file: give the path of a shared library."
            )
    package()  # a missing or doubled package is said now, not after the draw
    count = threads if threads else usable_cores()
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


def _missing_for_cuda(index: int) -> str | None:
    """Return what CUDA lacks here, or None when it can be used."""
    ort = package()
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
def limited(threads: int) -> Iterator[None]:
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


def block(device: Device) -> int:
    """Return how many channels ONNX Runtime puts side by side for convolutions on a device; 1 where it does not."""
    return _cpu_block() if device.kind == "cpu" else 1


@lru_cache(maxsize=1)
def _cpu_block() -> int:
    """See what the optimiser makes of the filter of a convolution with one output channel."""
    ort = package()
    one = helper.make_tensor("w", TensorProto.FLOAT, (1, 1, 1, 1), [1.0])
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 1, 1, 1))
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"])], "probe", [image], [output], [one])
    probe = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    with unbroken, tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.onnx"
        options.optimized_model_filepath = str(path)
        ort.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
        found = onnx.load(path)
    blocked = any(node.domain == "com.microsoft.nchwc" for node in found.graph.node)
    return max((tensor.dims[0] for tensor in found.graph.initializer), default=1) if blocked else 1
