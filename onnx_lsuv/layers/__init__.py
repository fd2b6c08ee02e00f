"""Which nodes are layers, their weights as matrices, and the Plan: what will happen to every constant.

    find      program -> Plan: products of data and a constant, decided tensor by tensor; asks `roles`
    plan      ... Layer, Weight, Plan; the reasons why something is left alone
    centres   which layers have a bias that can give each channel of their output a mean of zero
    parting   what an exporter merged and is to be parted: the plan of the model with new initializers

A layer's output is W x + b, its weight W blocks of matrices (fan_out, fan_in). One tensor, one decision: it is drawn
only where all that reads it is the weight of a layer. With s W a layer gives s W x + b, so the Plan says of each layer
where that output stands (`end`), which b becomes zero, and which stays (`addend`), as `roles` finds it.
"""

from onnx_lsuv.layers.centres import Centre, channels_last, find_centres
from onnx_lsuv.layers.find import find_layers
from onnx_lsuv.layers.parting import part
from onnx_lsuv.layers.plan import REASONS, Layer, PartedTensor, Plan, Weight, tensor_names
from onnx_lsuv.roles import Addend, Norm, Skipped

__all__ = [
    "REASONS",
    "Addend",
    "Centre",
    "Layer",
    "Norm",
    "PartedTensor",
    "Plan",
    "Skipped",
    "Weight",
    "channels_last",
    "find_centres",
    "find_layers",
    "part",
    "tensor_names",
]
