"""What each constant is, and by which evidence. An ONNX file does not say what is trained.

    find           ask for all of it: products of data and a constant -> a table of Role, and what a Plan needs
    products       ... what is asked about, what a person chose, and who else reads such a constant in the end
    biases         ... what is added to a product
    sums           ... ... constants, at once or after operators that move it
    norms          ... running statistics, and which are to be calibrated; norms that exporters write out
    parameters     ... trained constants beside these, of norms, activations, tables, states; which start anew if asked
    tables         ... ... the std that embeddings start with, by what they are added to
    zeros          ... ... which scales of zero stay
    table          ... every other constant: its role, what tells it, that it is kept
    absent         ... how constants without values start
    reachability   ... ... what lies before and after layers
    values         ... ... what values tell
    prepared       which inputs the graph prepares itself
    fixed          which transform a weight's values are, if somebody computed them
    index_limits   how large the integers of an input may be

An operand of a known operator is what its place says. All else is told by what is around it, and then by its values.
"""

from onnx_lsuv.roles.biases import Addend
from onnx_lsuv.roles.find import Roles, find_roles
from onnx_lsuv.roles.fixed import fixed_transform, weight_transform
from onnx_lsuv.roles.index_limits import limits_of
from onnx_lsuv.roles.norms import Norm
from onnx_lsuv.roles.parameters import Parameter, Parameters
from onnx_lsuv.roles.prepared import prepared_inputs
from onnx_lsuv.roles.products import Patterns, Product, Skipped
from onnx_lsuv.roles.reachability import before
from onnx_lsuv.roles.table import FATES, ROLES, TRAINED, Role
from onnx_lsuv.roles.values import is_alike, is_computed

__all__ = [
    "FATES",
    "ROLES",
    "TRAINED",
    "Addend",
    "Norm",
    "Parameter",
    "Parameters",
    "Patterns",
    "Product",
    "Role",
    "Roles",
    "Skipped",
    "before",
    "find_roles",
    "fixed_transform",
    "is_alike",
    "is_computed",
    "limits_of",
    "prepared_inputs",
    "weight_transform",
]
