"""The portable form of a model with the check that its outputs are the same, and a result said of that form."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from dataclasses import replace
from glob import escape
from pathlib import Path

from onnx_lsuv.architecture import complete
from onnx_lsuv.batches import Batches, Data
from onnx_lsuv.errors import ModelError, UsageError
from onnx_lsuv.layers import Layer, Plan
from onnx_lsuv.lsuv.planning import find, merged_notes
from onnx_lsuv.lsuv.result import Change, LayerReport, Result
from onnx_lsuv.lsuv.rows import row_of, skipped_row
from onnx_lsuv.lsuv.settings import Settings, memory_bytes
from onnx_lsuv.model import Model
from onnx_lsuv.portable.comparing import same_outputs
from onnx_lsuv.portable.rewriting import Portable, rewrite
from onnx_lsuv.program import expand
from onnx_lsuv.runtime import Device

# What a row says of the layer's place in the file, not of what happened to it.
_PLACE = ("name", "op", "weight", "scope", "path", "shape", "dtype", "blocks", "fan_out", "fan_in")


def make_portable(
    model: Model | Result,
    batches: Batches | Data | None = None,
    *,
    device: str | Device = "cpu",
    threads: int | None = None,
    memory: int | str | None = None,
    scratch: Path | None = None,
) -> Portable:
    """Return a model in the form that most importers train; it gives the same outputs.

    Large tensors are viewed where they are. What has to be stored anew, transposed or as float32, goes to a file once
    `memory` is spent.

    Args:
        model: from `load`, or a result, whose model is meant; it is not changed.
        batches: data on which the outputs of the two forms are compared; None to compare nothing.
        device: where to run for that.
        threads: of the CPU.
        memory: bytes, or a size such as "2G", that tensors stored anew may take; None for half of what the machine has.
        scratch: the folder of that file; None for the system's own.

    Returns:
        `model`, which saves like any other; `steps`, what was done, where and why; `notes`, what was not done.

    Raises:
        UsageError: what is given is no model, or no size.
        ModelError: the model is broken, its opset is below 7, or an output is not the same.
        OutputError: there is no room for the file.
    """
    budget = memory_bytes(memory)
    if isinstance(model, Result):
        model = model.model  # that it is whole was seen when it was planned
    else:
        model = complete(model)
        expand(model)
    form = rewrite(model, memory=budget, scratch=scratch)
    if batches is None:
        return form
    notes = same_outputs(model, form.model, batches, device=device, threads=threads).notes
    return replace(form, notes=(*form.notes, *notes))


def made_notes(form: Portable) -> list[str]:
    """Return what is to be known of a portable form: the steps that led to it, and what was not done."""
    counts = Counter(step.what for step in form.steps)
    done = ", ".join(f"{what} ({n} times)" if n > 1 else what for what, n in counts.items())
    return [f"made portable: {done}" if done else "made portable: nothing had to change", *form.notes]


def plan_form(model: Model, result: Result) -> Result:
    """Find all layers of a result in its portable form, whatever they are called there; without rows and notes.

    What a pattern took although it is a fixed transform is one still where its values were kept.
    """
    settings = Settings(keep_bias=True, include=("*",) if result.settings.include else ())
    found = find(model, settings)
    return Result(found.program.model, found, "plan", settings, layers=(), skipped=(), notes=())


def carry(result: Result, form: Portable, planned: Result | None = None) -> Result:
    """Return a result in the names of the portable form, for `measure(saved form, data, like=...)`.

    A layer is found again by the tensor that holds its weight, and among several uses by their order.

    Args:
        result: of `initialize`; `form` was made of its model.
        form: from `make_portable`.
        planned: the form, in memory or as it was saved, from `plan_form`; None for that in memory.

    Raises:
        ModelError: a layer is not found again.
    """
    planned = planned or plan_form(form.model, result)
    old, new = result.plan, planned.plan
    uses: defaultdict[tuple[object, ...], deque[int]] = defaultdict(deque)
    for at, layer in enumerate(new.layers):
        there = (new.program.constants[name].site for name in layer.source.constants)
        uses[tuple(form.origins.get(site) if site is not None else None for site in there)].append(at)
    rows: dict[int, LayerReport] = {}
    for row, layer in zip(result.layers, old.layers, strict=True):
        found = uses[tuple(old.program.constants[name].site for name in layer.source.constants)]
        if not found:
            raise ModelError(
                f"layer {row.name!r} should be in the portable form of {result.model.name}, but no layer there has its "
                f"weight {row.weight!r}; save without '--portable', and report this"
            )
        at = found.popleft()
        rows[at] = _moved(row, new, new.layers[at])
    layers = tuple(rows[at] for at in sorted(rows))
    settings, chosen = _choice(planned, result.settings, [row.name for row in layers])
    return replace(
        result,
        model=form.model,
        settings=settings,
        layers=layers,
        skipped=tuple(map(skipped_row, chosen.skipped)),
        kept_statistics=tuple(map(skipped_row, chosen.kept_statistics)),
        changes=(*result.changes, *_copied(result, form)),
        notes=(*_still_true(result, form), *made_notes(form)),
    )


def _copied(result: Result, form: Portable) -> Iterator[Change]:
    """Yield the vectors of the portable form that were one with another tensor, whose values they have."""
    roles = {each.tensor: each.role for each in result.roles}
    new = {each.tensor for each in result.changes if each.has_new_values}
    for name, old in form.copies.items():
        yield Change(name, "main", roles.get(old, "unknown"), False, parted_from=old, has_new_values=old in new)


def _still_true(result: Result, form: Portable) -> list[str]:
    """Return the notes, that on merged tensors only of those that the portable form has not parted."""
    told = merged_notes(result.plan, result.settings)
    left = merged_notes(result.plan, result.settings, form.copies.values())
    return [*(note for note in result.notes if note not in told or note in left), *(n for n in left if n not in told)]


def _choice(planned: Result, settings: Settings, wanted: list[str]) -> tuple[Settings, Plan]:
    """Return settings that choose these layers of the portable form, and its plan: the same, if they still do."""
    as_it_is = replace(settings, keep_bias=True)
    try:
        chosen = find(planned, as_it_is)
        if [layer.node.label for layer in chosen.layers] == wanted:
            return settings, chosen
    except UsageError:
        pass
    # Names changed, or there are layers now that were none before: take these by name.
    names = tuple(escape(name) for name in dict.fromkeys(wanted))
    chosen = find(planned, replace(as_it_is, include=names, exclude=()))
    return replace(settings, include=names, exclude=()), chosen


def _moved(row: LayerReport, plan: Plan, layer: Layer) -> LayerReport:
    there = row_of(plan, layer, row.init, row.target, row.status, None)
    return replace(row, **{name: getattr(there, name) for name in _PLACE})
