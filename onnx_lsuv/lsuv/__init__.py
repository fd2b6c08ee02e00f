"""The procedure: draw -> calibrate -> rescale -> verify; the result."""

from onnx_lsuv.lsuv.measuring import measure
from onnx_lsuv.lsuv.notes import Note, guide
from onnx_lsuv.lsuv.patterns import Targets
from onnx_lsuv.lsuv.prepare import describe, plan_of
from onnx_lsuv.lsuv.procedure import initialize
from onnx_lsuv.lsuv.result import GOOD, STATUSES, Change, LayerReport, Result, SkippedReport

__all__ = [
    "GOOD",
    "STATUSES",
    "Change",
    "LayerReport",
    "Note",
    "Result",
    "SkippedReport",
    "Targets",
    "describe",
    "guide",
    "initialize",
    "measure",
    "plan_of",
]
