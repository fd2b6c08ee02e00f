"""Where an operand's values come from: constants, seen through operators that move, round or combine them."""

from onnx_lsuv.sources.moves import QuantiserStep, Source
from onnx_lsuv.sources.quantisers import starting_value
from onnx_lsuv.sources.tracing import scatter

__all__ = ["QuantiserStep", "Source", "scatter", "starting_value"]
