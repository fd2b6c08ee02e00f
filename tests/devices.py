"""The suite on another device: what `pytest --device cuda` turns, and what the emulation of CUDA cannot serve.

What runs on the CPU by its name or by default runs on the device instead, in this process, and in those of their own
where the command line names the CPU. A test that is about the CPU itself is marked `cpu`, and left out.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from onnx_lsuv import runtime
from onnx_lsuv.runtime import devices

# Kernels that the emulated libraries do not have, each with the tests that need it: their ids, "*" for any text.
MISSING: dict[str, list[str]] = json.loads(Path(__file__).with_name("not_emulated.json").read_text(encoding="utf-8"))
WRONG = " wrong"  # how the names end of those that they have, and that compute something else


def turn(word: str) -> None:
    """Make the CPU's name mean another device, for the library and for commands that are started."""
    opened, start = devices.open_device, subprocess.Popen.__init__

    def open_device(name: str = "auto", **options: Any) -> devices.Device:
        return opened(word if name == "cpu" else name, **options)

    def begin(self: Any, args: Any, *more: Any, **options: Any) -> None:
        start(self, _turned(args, word), *more, **options)

    devices.open_device = runtime.open_device = open_device  # type: ignore[assignment]
    subprocess.Popen.__init__ = begin  # type: ignore[method-assign]


def _turned(args: Any, word: str) -> Any:
    """Return a command, as a line or in words, with the device turned."""
    if isinstance(args, str):
        return args.replace("--device cpu", f"--device {word}")
    if not isinstance(args, Sequence) or isinstance(args, bytes):
        return args
    pairs = zip([None, *args], args, strict=False)
    return [word if (before, each) == ("--device", "cpu") else _turned(each, word) for before, each in pairs]


def lacked() -> tuple[int, str] | None:
    """Return how often this process asked the emulation for kernels that it lacks, and the name of the last one.

    None without the emulation: where there is no CUDA, or NVIDIA's own.
    """
    try:
        library = ctypes.CDLL("libcudart.so.13")
        count, name = ctypes.c_int.in_dll(library, "fc_noops"), (ctypes.c_char * 512).in_dll(library, "fc_last_noop")
    except (OSError, ValueError):
        return None
    return count.value, name.value.decode()


def settle(test: str, before: int) -> None:
    """Skip a test that asked for a kernel under which it is listed, whatever came of it; fail one that is not listed.

    Args:
        test: its id.
        before: how often kernels had been lacking when it began.
    """
    count, kernel = lacked() or (before, "")
    names = {each: [name.replace("[", "[[]") for name in tests] for each, tests in MISSING.items()}
    listed = [each for each, tests in names.items() if any(fnmatchcase(test, name) for name in tests)]
    if wrong := [each for each in listed if each.endswith(WRONG)]:
        pytest.skip(f"the emulation of CUDA has {wrong[0]}")
    if count > before:
        if any(each in kernel for each in listed):
            pytest.skip(f"the emulation of CUDA lacks {kernel}")
        pytest.fail(f"the emulation of CUDA lacks {kernel}, under which not_emulated.json does not list {test}")
    if listed:
        pytest.fail(f"not_emulated.json lists {test} under {listed[0]}, but it needs no kernel that is lacking")
