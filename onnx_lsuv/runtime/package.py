"""The ONNX Runtime that is installed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from onnx import NodeProto, TensorProto, ValueInfoProto, helper

from onnx_lsuv.errors import DeviceError, shorten
from onnx_lsuv.runtime.providers import PROVIDERS

# Packages that put their files in the same place.
_PACKAGES = (
    *dict.fromkeys(p.package for p in PROVIDERS),
    "onnxruntime-directml",
    "onnxruntime-openvino",
    "onnxruntime-qnn",
)

_LONGEST = 280  # characters of its words that a message repeats
# What is replaced in them, in this order.
_CLEARER = (
    (r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", ""),
    (r"^Error in execution: ", ""),
    (r"^Non-zero status code returned while running (\w+) node\. Name:'([^']*)' Status Message: ", r"\1 '\2': "),
    # The source position, and what C++ says of the function: "file.cc:12 void f(const Tensor*) [with T = float] ",
    (r"\S*/onnxruntime\S*:\d+ (?:[^\[]*?\)(?: const)? \[with [^\]]*\] )?", ""),
    # or "virtual Status onnxruntime::Reshape::Compute(OpKernelContext*) const ".
    (
        r"(?:(?:virtual|static|void|bool|[\w:<>&*]*::[\w:<>&*]+) )*onnxruntime::[\w:~]+\((?:[^()]|\([^()]*\))*\)"
        r"(?: const)?(?: \[with [^\]]*\])? ",
        "",
    ),
    # Names of nodes are ours: the label in the file, and the output.
    (r"('[^']*?) -> [^']*'", r"\1'"),
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


def small_session(
    nodes: Sequence[NodeProto],
    outputs: Sequence[str],
    constants: Sequence[TensorProto],
    provider: tuple[str, Mapping[str, str]] = ("CPUExecutionProvider", {}),
) -> Any:
    """Return a session, on one thread and one provider, that computes a few nodes on constants as they are written."""
    graph = helper.make_graph(nodes, "small", [], [ValueInfoProto(name=name) for name in outputs], constants)
    versions = {**dict.fromkeys((node.domain for node in nodes), 1), "": 13}
    opsets = [helper.make_opsetid(domain, version) for domain, version in versions.items()]
    model = helper.make_model(graph, ir_version=8, opset_imports=opsets)
    options = quiet_options()
    options.intra_op_num_threads = 1
    options.use_deterministic_compute = True
    options.graph_optimization_level = package().GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_cpu_ep_fallback", str(int(provider[0] != "CPUExecutionProvider")))
    return package().InferenceSession(model.SerializeToString(), options, providers=[provider], enable_fallback=0)


def message_of(error: Exception) -> str:
    """Return ONNX Runtime's own words without its code and source positions."""
    # A name may have megabytes, and the patterns take the square of a text's length.
    text = shorten(" ".join(shorten(word, _LONGEST // 2) for word in str(error).split()), 20 * _LONGEST)
    for pattern, instead in _CLEARER:
        text = re.sub(pattern, instead, text)
    text = text.rstrip(". ")
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
