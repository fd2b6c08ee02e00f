"""Where an operand's values come from: constants, seen through operators that move, round or combine them.

    tracing      from an operand back to its constants, and new values forth again
    moves        one operator further on, as a function from arrays to views of them
    quantisers   steps and bounds that are scaled with a weight: round(w / s) s for t w is t round(w / s) s with t s
    degrees      d in f(t c) = t^d f(c), for an expression f of constants c: which of them can carry a scale

`trace` goes back from the operand; each operator on the way adds its move to the source it found, a QuantizeLinear and
its DequantizeLinear a step; where other constants multiply the weight, degrees say which one is scaled. `scatter`
writes an operand's new values into its constants.
"""

from onnx_lsuv.sources.moves import QuantiserStep, Source
from onnx_lsuv.sources.quantisers import starting_value
from onnx_lsuv.sources.tracing import scatter

__all__ = ["QuantiserStep", "Source", "scatter", "starting_value"]
