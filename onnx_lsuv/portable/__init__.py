"""The opt-in rewriting for training frameworks: the same outputs, in the form that most importers train.

What decides is what importers take as a trainable parameter: a dense float32 initializer, read directly by its layer,
under its own name, not listed among the inputs; dense layers as Gemm with transB=1, alpha = beta = 1 and a bias of
one axis. Each step does what one importer at least needs and none refuses. No step raises an opset or merges equal
tensors, and each leaves the outputs as they are:

    transpose, alpha, beta    alpha * (x @ W) + beta * b = x @ W'.T + b'   with W' = (alpha * W).T, b' = beta * b
    copies                    a tensor that an exporter merged gets a copy for each parameter that it stood for
    functions, Identity, ...  the same nodes, said otherwise

`make_portable`, in carrying, opens a draft, runs the steps of rewriting on it, and compares both forms:

    draft        the model while it changes: the skeleton, and the values that tensors stand for
    scopes       who reads what, in every scope
    spelling     domains, IR version, inputs, names, functions, types, inference form
    constants    Constant nodes and sparse tensors become initializers
    sharing      Identity and Transpose of a weight folded, merged vectors copied
    gemm         MatMul and Add become Gemm, on rows where the data have more axes; a Gemm loses its factors
    rewriting    the steps in their order
    comparing    what both forms give for the same data
    carrying     the form with that check, and what is known of the model before, said of the one after
"""

from onnx_lsuv.portable.carrying import carry, made_notes, make_portable, plan_form
from onnx_lsuv.portable.comparing import Comparison, same_outputs
from onnx_lsuv.portable.draft import Step
from onnx_lsuv.portable.rewriting import Portable

__all__ = ["Comparison", "Portable", "Step", "carry", "made_notes", "make_portable", "plan_form", "same_outputs"]
