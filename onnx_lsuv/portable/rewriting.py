"""Bring a model into the form that most importers train, with the same outputs: the steps, in their order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from onnx_lsuv.lsuv.scratch import Scratch
from onnx_lsuv.model import Model, Site
from onnx_lsuv.portable import spelling
from onnx_lsuv.portable.constants import make_dense, make_initializers
from onnx_lsuv.portable.draft import Draft, Step, close_draft, open_draft
from onnx_lsuv.portable.gemm import join_gemm, normalise_gemm
from onnx_lsuv.portable.sharing import bypass_identities, copy_merged, fold_transposes

# One of these can make room for another: behind a Transpose that goes there may be an Identity, then a MatMul.
_AGAIN = (bypass_identities, join_gemm, fold_transposes, copy_merged, normalise_gemm)


def free_weights(draft: Draft) -> None:
    """Let each layer read its parameters itself, dense layers as Gemm."""
    while True:
        steps, notes = len(draft.steps), len(draft.notes)
        for step in _AGAIN:
            step(draft)
        if len(draft.steps) == steps:
            return
        del draft.notes[notes:]  # the next round says them again


# The steps, by the names by which the table of importers says what each of them cures.
STEPS: Mapping[str, Callable[[Draft], None]] = {
    step.__name__: step
    for step in (
        spelling.name_domains,
        spelling.limit_ir_version,
        spelling.inline_functions,
        make_dense,
        spelling.widen,
        spelling.unlist_inputs,
        make_initializers,
        free_weights,
        spelling.infer_norms,
        spelling.infer_dropouts,
        spelling.name_nodes,
        spelling.drop_opsets,
        spelling.drop_stale_shapes,
    )
}


@dataclass(frozen=True, slots=True, eq=False)
class Portable:
    """A model in the form that most importers train.

    model: saves by `onnx_lsuv.save` like any other.
    steps: what was done, where and why, in order.
    notes: what was not done, and why; each a sentence.
    origins: where in the original each constant of the model stood, if it stood there.
    copies: new initializers, and the tensor that each was one with.
    """

    model: Model
    steps: tuple[Step, ...]
    notes: tuple[str, ...]
    origins: Mapping[Site, Site] = field(repr=False)
    copies: Mapping[str, str] = field(repr=False, default_factory=dict)


def rewrite(model: Model, *, memory: int | None = None, scratch: Path | None = None) -> Portable:
    """Return a model, which is known to be whole, in the form that most importers train; see `make_portable`."""
    draft = open_draft(model, Scratch.within(memory, scratch))
    for step in STEPS.values():
        step(draft)
    if draft.steps and draft.proto.training_info:
        draft.notes.append(
            "The file's own training graphs (training_info) stay as they are, and may not fit its parameters any more."
        )
    new, origins = close_draft(draft)
    new = replace(new, absent={site: model.absent[home] for site, home in origins.items() if home in model.absent})
    return Portable(new, tuple(draft.steps), tuple(draft.notes), origins, draft.copies)
