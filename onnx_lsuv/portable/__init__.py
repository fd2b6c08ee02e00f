"""The opt-in rewriting for training frameworks, and what trains where."""

from onnx_lsuv.portable.carrying import carry, made_notes, make_portable
from onnx_lsuv.portable.comparing import Comparison, same_outputs
from onnx_lsuv.portable.rewriting import Portable, Step

__all__ = ["Comparison", "Portable", "Step", "carry", "made_notes", "make_portable", "same_outputs"]
