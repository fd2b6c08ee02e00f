"""List what an importer registers: `python registered.py IMPORTER`, in that importer's own environment.

One line of JSON goes to standard output: the version, and of the fields of the importer's row in `table.json` those
that the package itself says. Nothing of onnx-lsuv is needed here.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import json
import re
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any
from urllib.request import urlopen

from onnx import defs

# Where ONNX Runtime says which operators have a gradient; its Python package does not.
GRADIENTS = (
    "https://raw.githubusercontent.com/microsoft/onnxruntime/v{version}/orttraining/orttraining/core/graph/"
    "gradient_builder_registry.cc"
)
# Registered, and yet: the process crashes, or there is no kernel on the CPU. See `table.py`.
UNUSABLE = frozenset({"AveragePool", "ConvTranspose", "GRU"})
# What training makes of an operator before it asks for the gradient; and operators of com.microsoft that files have.
# What else is registered under names that are no operators of ONNX (Send, PythonOp, ...) is in no file.
INTERNAL = {"BatchNormInternal": "BatchNormalization", "LSTMTraining": "LSTM", "GRUTraining": "GRU"}
CONTRIBUTED = frozenset({"BiasGelu", "FastGelu", "FusedMatMul", "QuickGelu", "SimplifiedLayerNormalization"})
STEP = 17  # the opset that onnxsim writes a step of training in
PACKAGES = {"onnxruntime-training": "onnxruntime-training-cpu"}


def onnx2torch() -> dict[str, Any]:
    sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("torchvision._meta_registrations"))
    registry = importlib.import_module("onnx2torch.node_converters.registry")
    found: dict[str, set[int]] = {}
    for each in registry._CONVERTER_REGISTRY:
        found.setdefault(each.operation_type, set()).add(each.version)
    return {"operators": {name: sorted(versions) for name, versions in sorted(found.items())}}


def onnx2pytorch() -> dict[str, Any]:
    sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("torchvision._meta_registrations"))
    operations = importlib.import_module("onnx2pytorch.convert.operations")
    branches = re.findall(r'node\.op_type == "(\w+)"', inspect.getsource(operations.convert_operations))
    return {"operators": sorted(set(branches))}


def onnxruntime_training() -> dict[str, Any]:
    with urlopen(GRADIENTS.format(version=version("onnxruntime-training"))) as answer:
        return {"gradients": gradients(answer.read().decode())}


def gradients(source: str) -> list[str]:
    """Return the operators with a gradient, from the source of the registry."""
    found = set(re.findall(r'REGISTER_GRADIENT_BUILDER\(\s*"(\w+)"', source))
    known = CONTRIBUTED | {schema.name for schema in defs.get_all_schemas()}
    return sorted({INTERNAL.get(name, name) for name in found} & known - UNUSABLE)


def jaxonnxruntime() -> dict[str, Any]:
    importlib.import_module("jaxonnxruntime")
    base = importlib.import_module("jaxonnxruntime.core.handler").Handler

    def kinds(kind: type) -> Iterator[type]:
        for each in kind.__subclasses__():
            yield each
            yield from kinds(each)

    found = {
        each.OP_TYPE: sorted(int(name.removeprefix("version_")) for name in dir(each) if name.startswith("version_"))
        for each in kinds(base)
        if each.OP_TYPE and each.DOMAIN == ""
    }
    return {"operators": dict(sorted(found.items()))}


def tinygrad() -> dict[str, Any]:
    module = importlib.import_module("tinygrad.nn.onnx")
    return {"operators": sorted(module.onnx_ops), "domains": sorted(each.value for each in module.Domain)}


def onnx2keras() -> dict[str, Any]:
    return {"operators": sorted(importlib.import_module("onnx2keras.layers").AVAILABLE_CONVERTERS)}


def onnxsim() -> dict[str, Any]:
    """List the operators with a gradient, and the versions whose nodes its step, in opset 17, can hold as they are."""
    schemas: dict[str, list[Any]] = {}
    for each in defs.get_all_schemas_with_history():
        if each.domain == "":
            schemas.setdefault(each.name, []).append(each)
    found = {}
    for op in sorted(importlib.import_module("onnxsim.graph_grad").supported_ops()):
        step = defs.get_schema(op, STEP)
        found[op] = sorted(
            each.since_version
            for each in schemas[op]
            if each.max_input <= step.max_input
            and all(
                name in step.attributes and a.default_value == step.attributes[name].default_value
                for name, a in each.attributes.items()
            )
        )
    return {"operators": found}


def onnx2tf() -> dict[str, Any]:
    return {}


LISTS: dict[str, Callable[[], dict[str, Any]]] = {
    "onnx2torch": onnx2torch,
    "onnx2pytorch": onnx2pytorch,
    "onnxruntime-training": onnxruntime_training,
    "jaxonnxruntime": jaxonnxruntime,
    "tinygrad": tinygrad,
    "onnx2keras": onnx2keras,
    "onnxsim": onnxsim,
    "onnx2tf": onnx2tf,
}


def version(importer: str) -> str:
    return importlib.metadata.version(PACKAGES.get(importer, importer))


if __name__ == "__main__":
    print(json.dumps({"version": version(sys.argv[1]), **LISTS[sys.argv[1]]()}))
