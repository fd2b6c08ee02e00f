"""The ONNX Runtime that is installed."""

from __future__ import annotations

import contextlib
from functools import lru_cache
from importlib import metadata
from typing import Any

from onnx_lsuv.errors import DeviceError

_PACKAGES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino")


def _installed() -> list[str]:
    found = []
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            metadata.version(name)
            found.append(name)
    return found


@lru_cache(maxsize=1)
def package() -> Any:
    """Return ONNX Runtime, saying clearly when two of its packages overwrote each other."""
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


def version() -> str:
    """Return ONNX Runtime's version."""
    return str(package().__version__)
