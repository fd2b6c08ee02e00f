"""A model file <-> memory: load without reading weights, read a weight, write values only, save whole or not at all.

A tensor is addressed by a site, (protobuf field number, occurrence index) steps from the ModelProto down:
((7, 0), (5, 3)) is the fourth initializer, ((7, 0), (1, 2), (5, 0), (5, 0)) the tensor in the first attribute of the
third node. The indices are those of `Model.proto`, a skeleton of the model without its large payloads.
"""

from __future__ import annotations

from onnx_lsuv.model.atomic import Staging, staging
from onnx_lsuv.model.edits import promoted
from onnx_lsuv.model.loading import Model, digest, from_proto, is_hollow, load
from onnx_lsuv.model.names import unused
from onnx_lsuv.model.retyping import graphs_in, in_float32, names_type, retype, retype_attribute
from onnx_lsuv.model.saving import load_staged, outputs_of, save, stage, to_bytes
from onnx_lsuv.model.sites import Site, Step, function_of
from onnx_lsuv.model.targets import Output, check_outputs, read_by
from onnx_lsuv.model.tensors import Array, bindable
from onnx_lsuv.model.values import check, fill, message, read, rewritten, tensors, with_values
from onnx_lsuv.model.weights import WEIGHTS, check_weights, save_weights, stage_weights
from onnx_lsuv.model.wire import HOLLOW_BYTES

__all__ = [
    "HOLLOW_BYTES",
    "WEIGHTS",
    "Array",
    "Model",
    "Output",
    "Site",
    "Staging",
    "Step",
    "bindable",
    "check",
    "check_outputs",
    "check_weights",
    "digest",
    "fill",
    "from_proto",
    "function_of",
    "graphs_in",
    "in_float32",
    "is_hollow",
    "load",
    "load_staged",
    "message",
    "names_type",
    "outputs_of",
    "promoted",
    "read",
    "read_by",
    "retype",
    "retype_attribute",
    "rewritten",
    "save",
    "save_weights",
    "stage",
    "stage_weights",
    "staging",
    "tensors",
    "to_bytes",
    "unused",
    "with_values",
]
