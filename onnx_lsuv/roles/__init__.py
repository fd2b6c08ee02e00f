"""What each constant is, and by which evidence; what the layers' own are is told, all else is found.

find           ask for all of it
products       what is asked about: products of data and a constant, those to be drawn and those left alone
uses           who reads a constant in the end, and whether it could hold other values
biases         what is added to a product: y = W x + b
norms          running statistics of norms
parameters     trained constants beside those: of norms, activations, tables, states; asked for only where they matter
normalised     ... norms that exporters write out
reachability   ... what lies before and after layers
values         ... what values tell
prepared       which inputs the graph prepares itself
index_limits   how large the integers of an input may be
"""

from onnx_lsuv.roles.biases import Addend
from onnx_lsuv.roles.find import Role, Roles, find_roles
from onnx_lsuv.roles.index_limits import limits_of
from onnx_lsuv.roles.norms import Norm
from onnx_lsuv.roles.parameters import VALUES, Parameter, Parameters
from onnx_lsuv.roles.prepared import prepared_inputs
from onnx_lsuv.roles.products import Product, Skipped

__all__ = [
    "VALUES",
    "Addend",
    "Norm",
    "Parameter",
    "Parameters",
    "Product",
    "Role",
    "Roles",
    "Skipped",
    "find_roles",
    "limits_of",
    "prepared_inputs",
]
