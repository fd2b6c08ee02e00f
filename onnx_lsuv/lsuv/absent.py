"""Tensors that the file has no values for: whether each gets some, and what is said of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onnx_lsuv.architecture import INPUT, complete
from onnx_lsuv.batches import Batches, Data
from onnx_lsuv.errors import ModelError, UsageError, listing
from onnx_lsuv.layers import Plan
from onnx_lsuv.lsuv.result import Result
from onnx_lsuv.model import Model, given_model
from onnx_lsuv.model.values import label


def completed(model: Model | Result, batches: Batches | Data | None) -> Model | Result:
    """Return a model that is `complete`, inputs with data being none of its weights; a result as it is."""
    if isinstance(model, Result):
        return model
    names, shapes = _given_data(batches)
    inputs = {value.name for value in given_model(model).proto.graph.input}  # data for others are refused as data
    return complete(model, names, {name: shape for name, shape in shapes.items() if name in inputs})


def _given_data(batches: Batches | Data | None) -> tuple[list[str], dict[str, tuple[int, ...]]]:
    """Return the inputs that data are given for, with the shapes of these, as far as that is known before all is read.

    Of data that can be read once only nothing is looked at.
    """
    if isinstance(batches, Batches):
        return [each.name for each in batches.inputs], {}
    first = batches[0] if isinstance(batches, Sequence) and batches else batches
    if not isinstance(first, Mapping):
        return [], {}
    return list(first), {name: array.shape for name, array in first.items() if isinstance(array, np.ndarray)}


def check_absent(plan: Plan, methods: Mapping[str, str]) -> None:
    """Raise an error for a tensor without values that would get none; `methods` are those of weights, by their keys.

    Raises:
        UsageError: what is chosen would keep it, and there is nothing to keep.
        ModelError: nothing tells how it starts.
    """
    program = plan.program
    if not program.model.absent:
        return
    constants = {site: each for site, each in program.by_site.items() if site in program.model.absent}
    stays = {name for layer in plan.layers if methods[layer.weight] == "keep" for name in layer.source.touched}
    kept = [program.constants[name].label for name in stays if program.is_absent(name)]
    if kept:
        raise UsageError(
            f"the weights of {program.model.name} cannot be kept, as it has no values for {listing(sorted(kept), 3)}: "
            "choose another init than 'keep'"
        )
    excluded = {each.weight for each in plan.skipped if each.reason == "excluded"}
    if barred := [each.label for each in constants.values() if each.label in excluded]:
        raise UsageError(
            f"{listing(barred, 3)} cannot be left alone, as {program.model.name} has no values for them: leave out the "
            "pattern that excludes them"
        )
    absent = program.model.absent
    if lost := [site for site in absent if site not in constants or plan.roles[constants[site].name].fate == "kept"]:
        more = f" (nor that of {len(lost) - 1} more)" if len(lost) > 1 else ""
        where = "; if it is data, give them: --data NAME=PATH" if absent[lost[0]] == INPUT else ""
        raise ModelError(
            f"{label(program.model, lost[0])} has no values, and its place does not tell how it starts{more}: give a "
            f"model that has them{where}"
        )


def absent_notes(plan: Plan, fate: str) -> list[str]:
    """Return what is said of tensors without values: what becomes of them, as "made anew", and how it comes."""
    groups: dict[str, list[str]] = {}
    constants = plan.program.by_site
    for site, why in plan.program.model.absent.items():
        groups.setdefault(why, []).append(constants[site].label)
    return [
        f"{fate}, as the file has no values for {'it' if len(names) == 1 else 'them'}: {listing(names, 5)} ({why})"
        for why, names in groups.items()
    ]
