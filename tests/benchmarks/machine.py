"""The machine and the versions that a measurement holds for."""

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("onnx-lsuv", "onnxruntime-gpu", "onnxruntime", "onnx", "numpy")


def describe() -> dict[str, object]:
    """CPU, cores, memory, load before the start, system, versions; None for a package that is not installed."""
    return {
        "CPU": processor(),
        "cores": os.cpu_count(),
        "memory GB": memory(),
        "load before": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{package: installed(package) for package in PACKAGES},
    }


def processor() -> str:
    """The CPU's name with its widest vectors, on which ONNX Runtime and BLAS depend."""
    text = Path("/proc/cpuinfo").read_text()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    wide = next((name for name in ("avx512f", "avx2") if re.search(rf"\b{name}\b", text)), "")
    return f"{found[1] if found else platform.machine()} {wide}".strip()


def memory() -> float:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
