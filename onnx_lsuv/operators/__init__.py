"""What this package knows of operators."""

from onnx_lsuv.operators.attributes import Attributes
from onnx_lsuv.operators.linear import Matrix, bias_position

__all__ = ["Attributes", "Matrix", "bias_position"]
