"""Devices: the one of a word, the cores that it may use, how it lays out images."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from numbers import Integral
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from onnx_lsuv.errors import DeviceError, UsageError
from onnx_lsuv.orthonormal import usable_cores
from onnx_lsuv.runtime import blocks
from onnx_lsuv.runtime.package import message_of, package, small_session
from onnx_lsuv.runtime.providers import Provider, providers_of


@dataclass(frozen=True, slots=True)
class Device:
    """Where the model runs."""

    name: str  # a word of `--device`, with a number where the provider's devices have some: "cpu", "cuda:0"
    threads: int  # cores to use
    allow_tf32: bool = False
    custom_ops: tuple[str, ...] = ()
    kept: bool = True  # whether memory is kept between runs
    spared: bool = False  # what is kept between two runs leaves its memory
    automatic: bool = False  # `auto` took it: where it fails, the CPU does the work
    notes: tuple[str, ...] = ()  # why it is this one, and what it took, where that may surprise

    @property
    def provider(self) -> Provider:
        """Its row."""
        return next(providers_of(self.name))[0]

    @property
    def index(self) -> int:
        """Its number among those of its kind."""
        return int(self.name.partition(":")[2] or 0)

    @property
    def kind(self) -> str:
        """ONNX Runtime's name for the kind of memory that its values lie in."""
        return self.provider.memory


def open_device(
    name: str = "auto",
    *,
    threads: int | None = None,
    allow_tf32: bool = False,
    custom_ops: Sequence[str] = (),
    work: float | None = None,
) -> Device:
    """Return the device of a name.

    Args:
        name: "auto" (CUDA where it works, else the CPU), "cpu", "cuda" or "cuda:N".
        threads: how many cores to use (where the system can limit them); None for all.
        allow_tf32: let CUDA round products to TensorFloat-32.
        custom_ops: libraries of custom operators to load.
        work: the numbers in the weights times those in the data, a whole number, which looks up a vector, counted as a
            thousand: "auto" leaves CUDA alone where that is less than what it takes to start. None: much.

    Raises:
        UsageError: the number of cores is none.
        DeviceError: a device is asked for and something it needs is missing.
    """
    if threads is not None and not (isinstance(threads, Integral) and threads > 0):
        raise UsageError(f"threads must be a whole number from 1 on, or None for all, not {threads!r}")
    found = list(providers_of(name))
    for library in custom_ops:
        if not os.path.isfile(library):  # noqa: PTH113  (False where a name is too long)
            raise DeviceError(
                f"The custom-operator library {library!r} is not a file: give the path of a shared library."
            )
    ort = package()  # a missing or doubled package is said now, not after the draw
    cores, why = int(threads or usable_cores()), tuple[str, ...]()
    for provider, index in found:
        if name == "auto" and work is not None and work < provider.worth * cores:
            missing: str | None = f"for so little work {provider.title} would take longer to start"
        elif provider.name in ort.get_available_providers():
            missing = provider.missing(ort, index) or _failure(ort, provider, index)
        else:
            missing = f"the installed ONNX Runtime is built without {provider.title} (install {provider.package!r})"
        if missing is None:
            word = f"{provider.word}:{index}" if provider.numbered else provider.word
            chosen = name == "auto" and provider.memory != "cpu"
            return Device(word, cores, allow_tf32, tuple(custom_ops), automatic=chosen, notes=why)
        # Where there is no such device, nobody misses it.
        why = (left_alone(provider, missing),) if provider.present() else ()
    raise DeviceError(
        f"The device {name!r} was asked for, but {missing}: use '--device cpu' (device='cpu') to run without it."
    )


def left_alone(provider: Provider, why: str) -> str:
    """Return a note on a provider that `auto` tried, or weighed, and did not take."""
    return f"{provider.title} was left alone: {why}"


@lru_cache
def _failure(ort: Any, provider: Provider, index: int) -> str | None:
    """Return why a device does not work, as a trial shows: a convolution, a cast, a sum in double."""
    if provider.memory == "cpu":
        return None
    x, w = (np.arange(n, dtype=np.float32).reshape(n // 27, 3, 3, 3) % 5 for n in (54, 108))
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"]),
        helper.make_node("Cast", ["y"], ["d"], to=TensorProto.DOUBLE),
        helper.make_node("ReduceMean", ["d"], ["m"]),
    ]
    constants = [numpy_helper.from_array(array, name) for name, array in (("x", x), ("w", w))]
    expected = float(np.einsum("nchw,mchw->nm", x, w).mean())
    try:
        options = provider.options(index, False)
        session = small_session(nodes, ["m"], constants, (provider.name, options))
        if session.get_providers()[0] != provider.name:
            return f"ONNX Runtime does not start {provider.title}"
        found = float(session.run(None, {})[0].reshape(()))
    except Exception as error:
        text = message_of(error)
        return cause_of(provider, text) or f"a small trial there fails ({text})"
    return None if abs(found / expected - 1) < 1e-3 else "a small trial there gives wrong numbers"


def cause_of(provider: Provider, text: str) -> str | None:
    """Return what is behind ONNX Runtime's words, None where that is not known."""
    return next((cause for pattern, cause in provider.causes if re.search(pattern, text, re.IGNORECASE)), None)


def device_of(device: str | Device, *, threads: int | None = None, work: float | None = None) -> Device:
    """Return an open device as it is; one that is opened here, by its name, does not keep memory between runs."""
    if isinstance(device, Device):
        return device
    return replace(open_device(device, threads=threads, work=work), kept=False)


def block(device: Device) -> int:
    """Return how many channels ONNX Runtime puts side by side for convolutions on a device; 1 where it does not."""
    return blocks.block() if device.provider.in_blocks else 1


@lru_cache
def room(device: Device) -> int | None:
    """Return how many bytes of a device's own memory were free when it was first asked; None where it has none."""
    return device.provider.room(package(), device.index)


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
