"""Which nodes are layers, where their weight comes from, its matrix view; or the reason why not."""

from onnx_lsuv.layers.centres import Centre, channels_last, find_centres
from onnx_lsuv.layers.find import find_layers
from onnx_lsuv.layers.plan import REASONS, Layer, Plan, Weight, tensor_names
from onnx_lsuv.roles import Addend, Norm, Skipped

__all__ = [
    "REASONS",
    "Addend",
    "Centre",
    "Layer",
    "Norm",
    "Plan",
    "Skipped",
    "Weight",
    "channels_last",
    "find_centres",
    "find_layers",
    "tensor_names",
]
