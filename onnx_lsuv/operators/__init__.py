"""What this package knows of operators.

    attributes   a node's attributes, read by name and kind
    matrices     a weight W as matrices M (blocks, fan_out, fan_in): y = M x for each block, whatever the operator
    row          the columns of the table: weights and biases, roles of constants, moves, degrees of homogeneity
    table        the rows, one for each operator; `of` finds that of a node

A room asks the row of a node, as `of(node).norm`, and has a set of its own only where it means a union of columns.
Adding an operator, scaled, drawn or fused, is a row and a test.
"""

from onnx_lsuv.operators.attributes import Attributes
from onnx_lsuv.operators.matrices import Matrix
from onnx_lsuv.operators.row import WHOLE, Fused, Operator
from onnx_lsuv.operators.table import MICROSOFT, OPERATORS, bias_position, of

__all__ = ["MICROSOFT", "OPERATORS", "WHOLE", "Attributes", "Fused", "Matrix", "Operator", "bias_position", "of"]
