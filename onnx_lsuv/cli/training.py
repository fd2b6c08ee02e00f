"""The form that training frameworks read, and what trains where."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from onnx_lsuv.cli.options import Options, memory

if TYPE_CHECKING:
    from onnx_lsuv.batches import Batches
    from onnx_lsuv.cli.ending import Ending
    from onnx_lsuv.lsuv import Result
    from onnx_lsuv.model import Model
    from onnx_lsuv.portable import Portable
    from onnx_lsuv.runtime import Device


def made_portable(
    result: Result, batches: Batches | None, device: Device, options: Options
) -> tuple[Result, Batches | None, list[dict[str, Any]]]:
    """Return the result, and the data, for the portable form of its model, and what trains where.

    The outputs of the two forms are compared on the data.
    """
    from onnx_lsuv import portable  # noqa: PLC0415

    form = portable.make_portable(result.model, memory=memory(options), scratch=options.scratch)
    notes = [*result.notes, *made_of(form), *form.notes]
    if batches is not None and not options.no_verify:
        notes += portable.same_outputs(result.model, form.model, batches, device=device).notes
    carried = replace(portable.carry(result, form), notes=tuple(notes))
    suited = None if batches is None else portable.suit(batches, form.model)
    return carried, suited, _trains(result.model, form.model)


def made_of(form: Portable) -> list[str]:
    """Return a note on the steps that led to a portable form."""
    counts = Counter(step.what for step in form.steps)
    done = ", ".join(f"{what} ({n} times)" if n > 1 else what for what, n in counts.items())
    return [f"made portable: {done}" if done else "made portable: nothing had to change"]


def portable_beforehand(ending: Ending, options: Options) -> Ending:
    """Return what a dry run came to, with what would be done to make the model portable, and what trains where."""
    from onnx_lsuv.portable import make_portable  # noqa: PLC0415

    result = ending.result
    form = make_portable(result.model, memory=memory(options), scratch=options.scratch)
    notes = (*result.notes, *made_of(form), *form.notes)
    return replace(ending, result=replace(result, notes=notes), trains=_trains(result.model, form.model))


def _trains(model: Model, form: Model) -> list[dict[str, Any]]:
    """Return for each framework's importer how it takes a model and its portable form, as plain values."""
    from onnx_lsuv.importers import forecast  # noqa: PLC0415

    return [each.as_dict() for each in forecast(model, form)]
