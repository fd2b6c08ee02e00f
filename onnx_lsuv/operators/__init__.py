"""What this package knows of operators."""

from onnx_lsuv.operators.linear import Matrix, bias_position

__all__ = ["Matrix", "bias_position"]
