"""The calibration graph: weights as inputs, statistics after each layer, stages.

A program and its plan pass through these modules in this order:

    models           the program as a model, for shape inference and as what is run; bfloat16 without kernels for it
    shapes           where inference and ONNX Runtime's kernels do not agree
    fusing           nodes that are written as one operator
    rewrite          the nodes of every scope are written again; records go into scopes and come out of them
    scaling          layers, with their std and the division by it
    norms            BatchNormalizations, with the statistics of the data
    pointwise        convolutions of one tap, whose statistics are told from what they read
    representations  values whose division waits, or that are in ONNX Runtime's layout for convolutions
    stages           what was written is cut where records are pooled over batches
    closing          stages are closed into models

on these:

    builder          nodes and constants as protobuf, in any opset
    samples          where samples lie in a value
    shares           what of a variance depends on them
    units            what the activation after a layer silences and saturates
    state            what a rewriting knows; which record decides
    moments          count, mean and variance of a value
    records          what a record is, in the graph and as an array; the scale that it gives
    blocked          convolutions in blocks of channels

`build`, in stages, calls the others. The mathematics: with z = W x a layer's product and s its scale to a std of t,

    s = t / std(z),                W' = s W,  since (s W) x = s z
    s^2 Var(z) + 2 s Cov(z, b) + Var(b) = t^2             where a term b stays added
    n = sum n_i,  m = sum n_i m_i / n,  v = sum n_i (v_i + (m_i - m)^2) / n          over batches (Chan et al. 1979)
"""

from onnx_lsuv.graph.builder import is_random
from onnx_lsuv.graph.closing import close, likeness
from onnx_lsuv.graph.models import BFLOAT16, IR_MAX, expression, has_bfloat16, lookups, widened
from onnx_lsuv.graph.norms import variance_limits
from onnx_lsuv.graph.records import (
    COUNT,
    DEAD,
    MEAN,
    ROWS,
    SATURATED,
    SIGNAL,
    TINY,
    USE,
    VAR,
    Part,
    Record,
    executions,
    first_usable_of,
    scale_of,
    signal,
    std_of,
    with_shares,
    within_channels,
)
from onnx_lsuv.graph.samples import Samples
from onnx_lsuv.graph.stages import Calibration, Joining, Stage, build
from onnx_lsuv.graph.state import norm_key, stream_key
from onnx_lsuv.graph.units import dead, saturated

__all__ = [
    "BFLOAT16",
    "COUNT",
    "DEAD",
    "IR_MAX",
    "MEAN",
    "ROWS",
    "SATURATED",
    "SIGNAL",
    "TINY",
    "USE",
    "VAR",
    "Calibration",
    "Joining",
    "Part",
    "Record",
    "Samples",
    "Stage",
    "build",
    "close",
    "dead",
    "executions",
    "expression",
    "first_usable_of",
    "has_bfloat16",
    "is_random",
    "likeness",
    "lookups",
    "norm_key",
    "saturated",
    "scale_of",
    "signal",
    "std_of",
    "stream_key",
    "variance_limits",
    "widened",
    "with_shares",
    "within_channels",
]
