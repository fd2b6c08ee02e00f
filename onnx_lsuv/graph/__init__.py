"""The calibration graph: weights as inputs, statistics after each layer, stages."""

from onnx_lsuv.graph.center import within_channels
from onnx_lsuv.graph.moments import COUNT, MEAN, VAR, Record, first_usable_of, pooled, scale_of
from onnx_lsuv.graph.nodes import is_random
from onnx_lsuv.graph.stages import IR_MAX, Calibration, Stage, build, close
from onnx_lsuv.graph.state import norm_key

__all__ = [
    "COUNT",
    "IR_MAX",
    "MEAN",
    "VAR",
    "Calibration",
    "Record",
    "Stage",
    "build",
    "close",
    "first_usable_of",
    "is_random",
    "norm_key",
    "pooled",
    "scale_of",
    "within_channels",
]
