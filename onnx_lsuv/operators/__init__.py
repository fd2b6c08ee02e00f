"""What this package knows of operators.

    attributes   a node's attributes, read by name and kind
    matrices     a weight as matrices (blocks, fan_out, fan_in), for each kind of operator
    table        a row an operator: its weights, roles, moves, degrees; `of` finds the row of a node

A room asks the row of a node, `of(node).norm`, and names operators itself only where it means these and no others.
Adding an operator is a row and a test.
"""

from onnx_lsuv.operators.attributes import Attributes
from onnx_lsuv.operators.matrices import Matrix
from onnx_lsuv.operators.table import MICROSOFT, OPERATORS, WHOLE, Fused, Operator, bias_position, of

__all__ = ["MICROSOFT", "OPERATORS", "WHOLE", "Attributes", "Fused", "Matrix", "Operator", "bias_position", "of"]
