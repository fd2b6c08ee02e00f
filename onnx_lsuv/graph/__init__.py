"""The calibration graph: weights as inputs, statistics after each layer, stages."""

from onnx_lsuv.graph.models import IR_MAX, expression
from onnx_lsuv.graph.nodes import is_random
from onnx_lsuv.graph.norms import variance_limits
from onnx_lsuv.graph.precision import BFLOAT16, has_bfloat16, widened
from onnx_lsuv.graph.records import (
    COUNT,
    MEAN,
    ROWS,
    TINY,
    USE,
    VAR,
    Record,
    executions,
    first_usable_of,
    scale_of,
    within_channels,
)
from onnx_lsuv.graph.stages import Calibration, Stage, build, close
from onnx_lsuv.graph.state import norm_key

__all__ = [
    "BFLOAT16",
    "COUNT",
    "IR_MAX",
    "MEAN",
    "ROWS",
    "TINY",
    "USE",
    "VAR",
    "Calibration",
    "Record",
    "Stage",
    "build",
    "close",
    "executions",
    "expression",
    "first_usable_of",
    "has_bfloat16",
    "is_random",
    "norm_key",
    "scale_of",
    "variance_limits",
    "widened",
    "within_channels",
]
