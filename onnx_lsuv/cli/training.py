"""The form that training frameworks read, and what trains where."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from onnx_lsuv.cli.options import Options, memory

if TYPE_CHECKING:
    from onnx_lsuv.batches import Batches
    from onnx_lsuv.lsuv import Result
    from onnx_lsuv.model import Model
    from onnx_lsuv.portable import Portable
    from onnx_lsuv.runtime import Device


def made_portable(
    result: Result, batches: Batches | None, device: Device, options: Options
) -> tuple[Result, Batches | None]:
    """Return the result, and the data, for the portable form of its model; its outputs are compared on the data."""
    from onnx_lsuv import portable  # noqa: PLC0415

    form = portable.make_portable(result.model, memory=memory(options), scratch=options.target_path.parent)
    notes = [*result.notes, *_steps(form), *form.notes, *trains_where(result.model, form.model)]
    if batches is not None and not options.no_verify:
        notes += portable.same_outputs(result.model, form.model, batches, device=device).notes
    carried = replace(portable.carry(result, form), notes=tuple(notes))
    return carried, None if batches is None else portable.suit(batches, form.model)


def _steps(form: Portable) -> list[str]:
    counts = Counter(step.what for step in form.steps)
    done = ", ".join(f"{what} ({n} times)" if n > 1 else what for what, n in counts.items())
    return [f"made portable: {done}" if done else "made portable: nothing had to change"]


def trains_where(model: Model, form: Model) -> list[str]:
    """Return a sentence for each framework's importer: how many weights it trains, and what blocks the others."""
    from onnx_lsuv.lsuv import plan_of  # noqa: PLC0415
    from onnx_lsuv.portable.trains import trains  # noqa: PLC0415

    lines = []
    for each in trains(plan_of(model), plan_of(form)):
        assert each.portable is not None
        best = each.portable
        why = "; ".join(finding.text for finding in best.findings if finding.effect != "note")
        before = "" if each.as_is.trainable == best.trainable else f", {each.as_is.trainable} without --portable"
        lines.append(
            f"{each.importer} {each.version} ({each.framework}) trains {best.trainable} of {best.weights} weights"
            f"{before}{': ' * bool(why)}{why}"
        )
    return lines
