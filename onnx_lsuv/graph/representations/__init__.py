"""How the values of the main graph are represented: divided or not, in blocks or not.

A layer's output is to be multiplied by s = t / std. That pass over the activations can mostly be left out: the output
x goes on as x' with a factor that is still to come, x = f x', and each operator that follows takes x' where it can:

    positively homogeneous      g(f x') = f g(x')                     Relu, pooling, Reshape, Transpose, ...
    clipping                    Clip(f x', lo, hi) = f Clip(x', lo / f, hi / f)
    a sum, maximum, Concat      f x' + g y' = f (x' + (g / f) y')     one operand is multiplied, not all; in blocks
                                                                      a sum and the Relu after it are one pass
    a product                   (f x') (g y') = f g (x' y')           of matrices too, where a weight takes f g
    a product with a number     c (f x') = (c f) x'                   c > 0
    a layer                     W (f x') = (f W) x'                   where the weight is smaller than x

A BatchNormalization takes x' too (see `norms`). What reads x otherwise gets the plain value, written when it is first
asked for. The same goes for the layout (see `blocked`): a value may exist in blocks, and becomes plain when something
asks for it.

    current   the current representation of each value, and how to get another from it
    writing   nodes on them

Only float32 and float64 values wait: half precision has no range to spare.
"""

from onnx_lsuv.graph.representations.current import Representation, Representations
from onnx_lsuv.graph.representations.writing import write_node

__all__ = ["Representation", "Representations", "write_node"]
