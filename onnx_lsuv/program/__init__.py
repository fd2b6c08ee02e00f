"""The model as ONNX Runtime executes it: functions expanded, one flat name space, constants in one table."""

from onnx_lsuv.program.expansion import expand
from onnx_lsuv.program.program import Body, Constant, Node, Program, known, stored, tensor_type, walk

__all__ = ["Body", "Constant", "Node", "Program", "expand", "known", "stored", "tensor_type", "walk"]
