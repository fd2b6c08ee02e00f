"""A model file <-> memory: load without reading weights, read a weight, write values only, save whole or not at all.

    opening     a file that somebody named, opened with care and mapped
    wire        protobuf's bytes: where a message and its parts lie in them; the skeleton
    sites       where a message stands in a model, as named steps down from it
    kinds       what a file is that is no model (or no data), and what to do
    loading     the file mapped, its skeleton parsed: a Model
    payload     where the values of a tensor lie in its bytes, and what puts others there
    arrays      those bytes <-> an array
    external    values in files beside the model, and whether these may be trusted
    values      read the values at a site, or say what is to replace them
    graphs      the graphs in a message, and the names in these
    retyping    other float types in a protobuf become float32
    names       a name that is not taken yet
    absent      what a file has no values for, and what stands in for these
    additions   initializers that a file lacks, and nodes that read them
    splicing    the bytes with some replaced, and the lengths around them put right
    edits       what has to be replaced for a model's new values
    stripping   the bytes without the values of some tensors
    targets     whether the outputs may go where they are to go
    atomic      files that appear whole and together, or not at all
    saving      the model and its data files
    weights     the values alone, for frameworks that read no ONNX

Nothing of a large weight is read before it is asked for. The file is mapped, and `Model.proto` is its skeleton: the
model without the payloads of dense tensors of more than HOLLOW_BYTES, which are called hollow there (`is_hollow`). A
site, the steps from the ModelProto down, means the same in the skeleton and in the bytes:
`((7, 0), (5, 3))`, or MAIN_GRAPH and Step(GRAPH_INITIALIZER, 3), is the fourth initializer.
"""

from __future__ import annotations

from onnx_lsuv.model.absent import check_whole, lacking, with_stand_ins
from onnx_lsuv.model.additions import Addition, with_initializers
from onnx_lsuv.model.arrays import Array, bindable
from onnx_lsuv.model.atomic import Staging, staging
from onnx_lsuv.model.edits import promoted
from onnx_lsuv.model.graphs import all_graphs, all_names, graphs_in, graphs_of
from onnx_lsuv.model.loading import Model, digest, from_proto, given_model, is_hollow, load
from onnx_lsuv.model.names import unused
from onnx_lsuv.model.retyping import in_float32, names_type, retype
from onnx_lsuv.model.saving import load_staged, outputs_of, own_bytes, save, stage, to_bytes, to_proto
from onnx_lsuv.model.sites import Site, Step, function_of
from onnx_lsuv.model.stripping import without_empty_payloads, without_inputs, without_payloads
from onnx_lsuv.model.targets import Output, check_outputs, check_suffix, read_by
from onnx_lsuv.model.values import check, fill, let_go, map_files, message, nodes, read, rewritten, tensors, with_values
from onnx_lsuv.model.weights import (
    DTYPES,
    FLOATS,
    WEIGHTS,
    check_weights,
    named_arrays,
    save_weights,
    stage_arrays,
    stage_weights,
)
from onnx_lsuv.model.wire import HOLLOW_BYTES

__all__ = [
    "DTYPES",
    "FLOATS",
    "HOLLOW_BYTES",
    "WEIGHTS",
    "Addition",
    "Array",
    "Model",
    "Output",
    "Site",
    "Staging",
    "Step",
    "all_graphs",
    "all_names",
    "bindable",
    "check",
    "check_outputs",
    "check_suffix",
    "check_weights",
    "check_whole",
    "digest",
    "fill",
    "from_proto",
    "function_of",
    "given_model",
    "graphs_in",
    "graphs_of",
    "in_float32",
    "is_hollow",
    "lacking",
    "let_go",
    "load",
    "load_staged",
    "map_files",
    "message",
    "named_arrays",
    "names_type",
    "nodes",
    "outputs_of",
    "own_bytes",
    "promoted",
    "read",
    "read_by",
    "retype",
    "rewritten",
    "save",
    "save_weights",
    "stage",
    "stage_arrays",
    "stage_weights",
    "staging",
    "tensors",
    "to_bytes",
    "to_proto",
    "unused",
    "with_initializers",
    "with_stand_ins",
    "with_values",
    "without_empty_payloads",
    "without_inputs",
    "without_payloads",
]
