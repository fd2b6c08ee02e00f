"""The ONNX Runtime that is installed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from onnx import NodeProto, TensorProto, ValueInfoProto, helper

from onnx_lsuv.errors import DeviceError
from onnx_lsuv.runtime.providers import PROVIDERS

# Packages that put their files in the same place.
_PACKAGES = (
    *dict.fromkeys(p.package for p in PROVIDERS),
    "onnxruntime-directml",
    "onnxruntime-openvino",
    "onnxruntime-qnn",
)


def _installed() -> list[str]:
    """Return the packages whose files stand where ONNX Runtime's do, as their installer left their names there."""
    spec = find_spec("onnxruntime")  # `importlib.metadata` finds them too, and loads a mail program's worth of modules
    if spec is None or spec.origin is None:
        return []
    there = {each.name.partition("-")[0] for each in Path(spec.origin).parents[1].glob("onnxruntime*.dist-info")}
    return [name for name in _PACKAGES if name.replace("-", "_") in there]


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
            f"Expected ONNX Runtime, found that it cannot be imported ({error}): run \"pip install 'onnx-lsuv[gpu]'\" "
            f"(CUDA and CPU), or \"pip install 'onnx-lsuv[cpu]'\" (CPU alone, 28 MB)."
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


def small_session(nodes: Sequence[NodeProto], outputs: Sequence[str], constants: Sequence[TensorProto]) -> Any:
    """Return a session, on one thread of the CPU, that computes a few nodes on constants as they are written."""
    graph = helper.make_graph(nodes, "small", [], [ValueInfoProto(name=name) for name in outputs], constants)
    versions = {**dict.fromkeys((node.domain for node in nodes), 1), "": 13}
    opsets = [helper.make_opsetid(domain, version) for domain, version in versions.items()]
    model = helper.make_model(graph, ir_version=8, opset_imports=opsets)
    options = quiet_options()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = package().GraphOptimizationLevel.ORT_DISABLE_ALL
    return package().InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
