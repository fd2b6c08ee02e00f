"""What each constant is, and by which evidence."""

from onnx_lsuv.roles.index_limits import vocabulary
from onnx_lsuv.roles.parameters import VALUES, Parameter, Parameters, find_parameters
from onnx_lsuv.roles.prepared import prepared_inputs

__all__ = ["VALUES", "Parameter", "Parameters", "find_parameters", "prepared_inputs", "vocabulary"]
