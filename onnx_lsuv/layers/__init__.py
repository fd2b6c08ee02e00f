"""Which nodes are layers, where their weight comes from, its matrix view; or the reason why not."""

from onnx_lsuv.layers.centres import Centre, channels_last, find_centres
from onnx_lsuv.layers.expand import expand
from onnx_lsuv.layers.find import find_layers
from onnx_lsuv.layers.moves import Companion, Source
from onnx_lsuv.layers.operators import Matrix, bias_position
from onnx_lsuv.layers.parameters import VALUES, Parameter, Parameters, find_parameters
from onnx_lsuv.layers.plan import REASONS, Addend, Layer, Left, Norm, Plan, Weight, tensor_names
from onnx_lsuv.layers.prepared import prepared_inputs
from onnx_lsuv.layers.program import (
    RANDOM_OPS,
    SHAPE_READERS,
    Body,
    Constant,
    Node,
    Program,
    known,
    stored,
    tensor_type,
    walk,
)
from onnx_lsuv.layers.quantisers import starting_value
from onnx_lsuv.layers.sources import scatter
from onnx_lsuv.layers.vocabulary import vocabulary

__all__ = [
    "RANDOM_OPS",
    "REASONS",
    "SHAPE_READERS",
    "VALUES",
    "Addend",
    "Body",
    "Centre",
    "Companion",
    "Constant",
    "Layer",
    "Left",
    "Matrix",
    "Node",
    "Norm",
    "Parameter",
    "Parameters",
    "Plan",
    "Program",
    "Source",
    "Weight",
    "bias_position",
    "channels_last",
    "expand",
    "find_centres",
    "find_layers",
    "find_parameters",
    "known",
    "prepared_inputs",
    "scatter",
    "starting_value",
    "stored",
    "tensor_names",
    "tensor_type",
    "vocabulary",
    "walk",
]
