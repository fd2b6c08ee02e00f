"""Bring a model into the form that most importers train, with the same outputs.

What decides is what importers take as a trainable parameter: a dense float32 initializer, read directly by its layer,
under its own name, not listed among the inputs; dense layers as Gemm with transB=1, alpha = beta = 1 and a bias of
one axis. Each step does what one importer at least needs and none refuses. No step raises an opset or merges equal
tensors, and each leaves the outputs as they are:

    transpose, alpha, beta    alpha * (x @ W) + beta * b = x @ W'.T + b'   with W' = (alpha * W).T, b' = beta * b
    copies                    a tensor that an exporter merged gets a copy for each parameter that it stood for
    functions, Identity, ...  the same nodes, said otherwise

    draft        the model while it changes: the skeleton, and the values that tensors stand for
    scopes       who reads what, in every scope
    header       IR version, listed inputs, domains, opset imports, names
    functions    local functions put in the place of their calls
    precision    float16, bfloat16 and double become float32
    constants    Constant nodes and sparse tensors become initializers
    sharing      Identity and Transpose of a weight folded, merged vectors copied
    inference    BatchNormalization and Dropout in inference form
    dense        MatMul and Add become Gemm, a Gemm loses its factors
    rows         data of more than two axes reshaped to rows for a Gemm, and back
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from onnx_lsuv.batches import default_limit
from onnx_lsuv.lsuv.scratch import Scratch
from onnx_lsuv.model import Model, Site
from onnx_lsuv.portable.constants import make_dense, make_initializers
from onnx_lsuv.portable.dense import join_gemm, normalise_gemm
from onnx_lsuv.portable.draft import Draft, Step, close_draft, open_draft
from onnx_lsuv.portable.functions import inline_functions
from onnx_lsuv.portable.header import (
    drop_opsets,
    drop_stale_shapes,
    name_domains,
    name_nodes,
    settle_ir_version,
    unlist_inputs,
)
from onnx_lsuv.portable.inference import settle_dropouts, settle_norms
from onnx_lsuv.portable.precision import widen
from onnx_lsuv.portable.sharing import bypass_identities, copy_merged, fold_transposes
from onnx_lsuv.program import expand

__all__ = ["Portable", "Step", "make_portable"]

# One of these can make room for another: behind a Transpose that goes there may be an Identity, then a MatMul.
_AGAIN = (bypass_identities, join_gemm, fold_transposes, copy_merged, normalise_gemm)


def _settle_weights(draft: Draft) -> None:
    while True:
        steps, notes = len(draft.steps), len(draft.notes)
        for step in _AGAIN:
            step(draft)
        if len(draft.steps) == steps:
            return
        del draft.notes[notes:]  # the next round says them again


STEPS = (
    name_domains,
    settle_ir_version,
    inline_functions,
    make_dense,
    widen,
    unlist_inputs,
    make_initializers,
    _settle_weights,
    settle_norms,
    settle_dropouts,
    name_nodes,
    drop_opsets,
    drop_stale_shapes,
)


@dataclass(frozen=True, slots=True, eq=False)
class Portable:
    """A model in the form that most importers train.

    model: saves by `onnx_lsuv.save` like any other.
    steps: what was done, where and why, in order.
    notes: what was not done, and why; each a sentence.
    sites: where each tensor of the original now stands.
    """

    model: Model
    steps: tuple[Step, ...]
    notes: tuple[str, ...]
    sites: Mapping[Site, Site] = field(repr=False)


def make_portable(model: Model, *, memory: int | None = None, scratch: Path | None = None) -> Portable:
    """Return a model in the form that most importers train; it gives the same outputs.

    Large tensors are viewed where they are. What has to be stored anew, transposed or as float32, goes to a file once
    `memory` is spent.

    Args:
        model: from `load` or `initialize`; it is not changed.
        memory: bytes that tensors stored anew may take; None for half of what the machine has.
        scratch: the folder of that file; None for the system's own.

    Raises:
        ModelError: the model is broken, or its opset is below 7.
        OutputError: there is no room for the file.
    """
    expand(model)  # raises what is wrong with the model
    draft = open_draft(model, Scratch(memory if memory is not None else default_limit(), scratch))
    for step in STEPS:
        step(draft)
    if draft.steps and draft.proto.training_info:
        draft.notes.append(
            "The file's own training graphs (training_info) stay as they are, and may not fit its parameters any more."
        )
    new, sites = close_draft(draft)
    return Portable(new, tuple(draft.steps), tuple(draft.notes), sites)
