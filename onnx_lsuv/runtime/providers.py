"""ONNX Runtime's execution providers: a row each, which is all that this package knows of one.

Another provider is one row more: the words of `--device`, what is missing for it, its options, where its values lie and
its layout for images follow from that. Nothing here loads NumPy, ONNX or ONNX Runtime, so that the command line can
check a word before anything else is there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from onnx_lsuv.errors import DeviceError, meant


@dataclass(frozen=True, slots=True)
class Provider:
    """How one kind of device is asked for, found and used."""

    word: str  # what `--device` takes for it
    title: str  # for messages
    name: str  # ONNX Runtime's
    package: str  # what installs ONNX Runtime with it
    memory: str = "cpu"  # where its values lie, in ONNX Runtime's words
    arena: str = "cpu"  # and in those for what it keeps there
    room: Callable[[Any, int], int | None] = lambda ort, index: None  # bytes free there, where it is not the host's
    numbered: bool = False  # there may be several: the word may be followed by ":N"
    automatic: bool = False  # `auto` takes it where it lacks nothing, before those of the rows above
    nicknames: tuple[str, ...] = ()  # words that mean it, for "did you mean"
    needs: str = ""  # what must be so for it to start, beside what `missing` looks for
    missing: Callable[[Any, int], str | None] = lambda ort, index: None  # what the device of a number lacks here
    options: Callable[[int, bool], Mapping[str, str]] = lambda index, tf32: {}  # by number, and whether TF32 is allowed
    nodes: int | None = None  # of a graph that go into a session at most; None for the usual number
    in_blocks: bool = False  # it may have the layout for convolutions that `blocks` tries


def _missing_for_cuda(ort: Any, index: int) -> str | None:
    """Look for CUDA's libraries.

    That is done before ONNX Runtime is asked for them, because it answers a missing one by an error on standard error
    and a silent fall-back to the CPU.
    """
    import contextlib  # noqa: PLC0415
    import ctypes  # noqa: PLC0415
    import io  # noqa: PLC0415
    import sys  # noqa: PLC0415

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


def _room_on_cuda(ort: Any, index: int) -> int | None:
    import ctypes  # noqa: PLC0415
    import sys  # noqa: PLC0415

    major = str(ort.cuda_version).partition(".")[0]
    try:
        library = ctypes.CDLL(f"cudart64_{major}.dll" if sys.platform == "win32" else f"libcudart.so.{major}")
    except OSError:
        return None
    free, total = ctypes.c_size_t(0), ctypes.c_size_t(0)
    failed = library.cudaSetDevice(index) or library.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total))
    return None if failed else free.value


def _cuda_options(index: int, tf32: bool) -> dict[str, str]:
    return {"device_id": str(index), "use_tf32": "1" if tf32 else "0", "cudnn_conv_algo_search": "HEURISTIC"}


PROVIDERS = (
    Provider("cpu", "the CPU", "CPUExecutionProvider", "onnxruntime", automatic=True, in_blocks=True),
    Provider(
        "cuda",
        "CUDA",
        "CUDAExecutionProvider",
        "onnxruntime-gpu",
        memory="cuda",
        arena="gpu",
        room=_room_on_cuda,
        nodes=2500,  # each session makes handles of CUDA's libraries, and a run of it ends with the GPU idle
        numbered=True,
        automatic=True,
        nicknames=("gpu", "nvidia"),
        needs="the CUDA and cuDNN libraries match the installed 'onnxruntime-gpu'",
        missing=_missing_for_cuda,
        options=_cuda_options,
    ),
)


def providers_of(word: str) -> Iterator[tuple[Provider, int]]:
    """Yield the providers that a word of `--device` can stand for, the one to try first first, and a device's number.

    Raises:
        DeviceError: it is no such word.
    """
    check_device(word)
    name, _, index = word.partition(":")
    yield from ((p, int(index or 0)) for p in reversed(PROVIDERS) if p.word == name or (name == "auto" and p.automatic))


def device_words() -> list[str]:
    """Return what `--device` takes, N standing for a number."""
    return ["auto", *(word for p in PROVIDERS for word in [p.word, f"{p.word}:N"][: 1 + p.numbered])]


def check_device(word: str) -> None:
    """Raise DeviceError for a word that no device has."""
    if not isinstance(word, str):
        raise DeviceError(f"the device must be a word such as 'cpu', not {word!r}")
    if _is_known(word):
        return
    wish, words = word.lower(), device_words()
    for provider in PROVIDERS:
        for nickname in provider.nicknames:
            wish = wish.replace(nickname, provider.word)
        if provider.numbered:
            wish = re.sub(rf"^{provider.word}:?(\d+)$", rf"{provider.word}:\1", wish)
    near = f" (did you mean {wish!r}?)" if _is_known(wish) else meant(wish, words)
    raise DeviceError(f"the device must be {', '.join(map(repr, words[:-1]))} or {words[-1]!r}, not {word!r}{near}")


def _is_known(word: str) -> bool:
    return any(re.fullmatch(each.replace(":N", r":\d+"), word) for each in device_words())
