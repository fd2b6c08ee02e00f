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
    present: Callable[[], bool] = lambda: True  # whether the machine has such a device, as far as that is easily seen
    missing: Callable[[Any, int], str | None] = lambda ort, index: None  # what the device of a number lacks here
    worth: float = 0.0  # the work for each core, as `open_device` counts it, below which `auto` does without it
    causes: tuple[tuple[str, str], ...] = ()  # what is behind ONNX Runtime's words: a pattern, and a sentence's end
    options: Callable[[int, bool], Mapping[str, str]] = lambda index, tf32: {}  # by number, and whether TF32 is allowed
    nodes: int | None = None  # of a graph that go into a session at most; None for the usual number
    in_blocks: bool = False  # it may have the layout for convolutions that `blocks` tries


# What belongs together: the major version of CUDA that ONNX Runtime is built for -> NVIDIA's oldest driver for it, and
# the libraries that it loads, each after those that it needs itself. `onnxruntime-gpu` 1.31 is for CUDA 13 and cuDNN 9.
CUDA = {
    "12": ("525", "libcudart.so.12 libcublasLt.so.12 libcublas.so.12 libcurand.so.10 libcudnn.so.9"),
    "13": ("580", "libcudart.so.13 libcublasLt.so.13 libcublas.so.13 libcurand.so.10 libcudnn.so.9"),
}
MEMORY = (
    r"failed to allocate memory|out of memory|MemoryAllocation|ALLOC_FAILED|bad_alloc|bad allocation|"
    "smaller than requested bytes"
)
# What the driver answers where it starts no GPU.
_DRIVER = {
    100: "it finds no GPU; CUDA_VISIBLE_DEVICES may hide it",
    803: "its library and its kernel module differ; restart the machine",
    804: "it is too old for the CUDA compatibility package that is installed",
}


def _driver() -> Any:
    """Return NVIDIA's driver; raises OSError where there is none."""
    import ctypes  # noqa: PLC0415
    import sys  # noqa: PLC0415

    return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")


def _has_driver() -> bool:
    try:
        return _driver() is not None
    except OSError:
        return False


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
        driver = _driver()
    except OSError:
        return "no NVIDIA driver is installed (libcuda is not found)"
    if (answer := driver.cuInit(0)) != 0:
        return f"the NVIDIA driver does not start ({_DRIVER.get(answer, 'see what nvidia-smi says')}; error {answer})"
    count, supported = ctypes.c_int(0), ctypes.c_int(0)
    if driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value <= index:
        return f"there are {count.value} GPUs, numbered from 0"
    major = str(getattr(ort, "cuda_version", "") or "").partition(".")[0]
    oldest, libraries = CUDA.get(major, ("", ""))
    driver.cuDriverGetVersion(ctypes.byref(supported))
    if oldest and supported.value // 1000 < int(major):
        return (
            f"the NVIDIA driver is for CUDA {supported.value // 1000}, and onnxruntime-gpu {ort.__version__} for CUDA "
            f"{major} (install a driver from {oldest} on)"
        )
    # preload_dlls prints what it does not find; whether the provider works is seen by a trial.
    with contextlib.redirect_stdout(io.StringIO()):
        ort.preload_dlls()
    for library in libraries.split() if sys.platform != "win32" else ():
        try:
            ctypes.CDLL(library)
        except OSError:
            return (
                f"the library {library} cannot be loaded; onnxruntime-gpu {ort.__version__} takes those of CUDA "
                f"{major} and cuDNN 9 (pip install 'onnxruntime-gpu[cuda,cudnn]')"
            )
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
        present=_has_driver,
        missing=_missing_for_cuda,
        worth=7e13,
        causes=(
            (MEMORY, "the GPU's memory is full (end what else runs there)"),
            (
                "NoKernelImage|no kernel image|ARCH_MISMATCH",
                "the installed onnxruntime-gpu has no kernels for this GPU (install a release that has)",
            ),
            (
                "InsufficientDriver|driver version",
                "the NVIDIA driver is too old for the installed onnxruntime-gpu (install one from "
                f"{', '.join(f'{driver} on for CUDA {major}' for major, (driver, _) in CUDA.items())})",
            ),
            ("DevicesUnavailable|busy or unavailable", "the GPU is busy: another process has it to itself"),
        ),
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
