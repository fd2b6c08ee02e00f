"""Architectures without weights become models with constants that wait for values.

    training    graphs that compute gradients, which are no architecture
    places      who reads a value, and what its place says of it; inputs that are weights, names that nothing makes
    shapes      the dims of these, from what the file says and from what is around them
    unlisted    ... both become initializers
    completing  `complete`: all of it, before a model is expanded

What is absent, and how it is seen:

    dims and no data         an initializer, or a Constant, whose payload is missing
    external data            no file of the set is there; a set that is not whole is an error
    an input without value   all that read it take it as a parameter, and no data are given for it
    made by nothing          a name that nodes read and that no node, input or initializer has

The last two are weights only in a file that holds no layer's weight: elsewhere an input is data, and such a name a
mistake. What to draw for them, `roles` says.
"""

from onnx_lsuv.architecture.completing import complete
from onnx_lsuv.architecture.unlisted import INPUT

__all__ = ["INPUT", "complete"]
