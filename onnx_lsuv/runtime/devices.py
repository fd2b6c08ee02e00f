"""Devices: the one of a word, the cores that it may use, how it lays out images."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from numbers import Integral

from onnx_lsuv.errors import DeviceError, UsageError
from onnx_lsuv.orthonormal import usable_cores
from onnx_lsuv.runtime import blocks
from onnx_lsuv.runtime.package import package
from onnx_lsuv.runtime.providers import Provider, providers_of


@dataclass(frozen=True, slots=True)
class Device:
    """Where the model runs."""

    name: str  # a word of `--device`, with a number where the provider's devices have some: "cpu", "cuda:0"
    threads: int  # cores to use
    allow_tf32: bool = False
    custom_ops: tuple[str, ...] = ()
    kept: bool = True  # whether memory is kept between runs

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
    name: str = "auto", *, threads: int | None = None, allow_tf32: bool = False, custom_ops: Sequence[str] = ()
) -> Device:
    """Return the device of a name.

    Args:
        name: "auto" (CUDA where it works, else the CPU), "cpu", "cuda" or "cuda:N".
        threads: how many cores to use (where the system can limit them); None for all.
        allow_tf32: let CUDA round products to TensorFloat-32.
        custom_ops: libraries of custom operators to load.

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
    missing: str | None = None
    for provider, index in found:
        if provider.name in ort.get_available_providers():
            missing = provider.missing(ort, index)
        else:
            missing = f"the installed ONNX Runtime is built without {provider.title} (install {provider.package!r})"
        if missing is None:
            word = f"{provider.word}:{index}" if provider.numbered else provider.word
            return Device(word, int(threads or usable_cores()), allow_tf32, tuple(custom_ops))
    raise DeviceError(
        f"The device {name!r} was asked for, but {missing}: use '--device cpu' (device='cpu') to run without it."
    )


def device_of(device: str | Device, *, threads: int | None = None) -> Device:
    """Return an open device as it is; one that is opened here, by its name, does not keep memory between runs."""
    return device if isinstance(device, Device) else replace(open_device(device, threads=threads), kept=False)


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
