"""The ONNX Runtime that is installed."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import lru_cache
from importlib import metadata
from typing import Any

from onnx import NodeProto, TensorProto, ValueInfoProto, helper

from onnx_lsuv.errors import DeviceError
from onnx_lsuv.runtime.providers import PROVIDERS

# Packages that put their files in the same place.
_PACKAGES = (*dict.fromkeys(p.package for p in PROVIDERS), "onnxruntime-directml", "onnxruntime-openvino")


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


def quiet_options() -> Any:
    """Return the options of a session that says nothing."""
    found = package().SessionOptions()
    found.log_severity_level = 4
    return found


def small_session(
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[str],
    constants: Sequence[TensorProto],
    opsets: Sequence[tuple[str, int]] = (("", 13),),
    **settings: Any,
) -> Any:
    """Return a session of a few nodes on one thread of the CPU, under some settings of its options."""
    graph = helper.make_graph(nodes, "small", inputs, [ValueInfoProto(name=name) for name in outputs], constants)
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid(*each) for each in opsets])
    chosen = quiet_options()
    chosen.intra_op_num_threads = 1
    for name, value in settings.items():
        setattr(chosen, name, value)
    return package().InferenceSession(model.SerializeToString(), chosen, providers=["CPUExecutionProvider"])
