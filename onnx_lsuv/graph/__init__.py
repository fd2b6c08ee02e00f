"""The calibration graph: weights as inputs, statistics after each layer, stages."""

from onnx_lsuv.graph.moments import COUNT, MEAN, VAR, Record, first_usable_of, pooled, scale_of
from onnx_lsuv.graph.postpone import put_right
from onnx_lsuv.graph.rewrite import is_random, norm_key
from onnx_lsuv.graph.stages import IR_MAX, Calibration, Stage, build, close

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
    "put_right",
    "scale_of",
]
