"""The opt-in rewriting for training frameworks, and what trains where."""

from onnx_lsuv.portable.carrying import carry, suit
from onnx_lsuv.portable.comparing import Comparison, same_outputs
from onnx_lsuv.portable.rewriting import Portable, Step, make_portable

__all__ = ["Comparison", "Portable", "Step", "carry", "make_portable", "same_outputs", "suit"]
