"""The new values by the names of the module that the file came from: in its orientation, in its types."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnx_lsuv.errors import UsageError, listing, quote
from onnx_lsuv.lsuv import Result
from onnx_lsuv.model import FLOATS, Array, read_by, stage_arrays, staging
from onnx_lsuv.model.targets import Read
from onnx_lsuv.modules.matching import match
from onnx_lsuv.modules.reference import Reference, read_reference
from onnx_lsuv.modules.search import Search

# How a tensor was found, and, from "folded" on, why it was not.
HOWS: dict[str, str] = {
    "name": "by name",
    "value": "by value",
    "order": "by their order among equal ones",
    "tied": "as tied ones",
    "scaled": "up to a factor a channel",
    "beside": "beside their weight",
    "carried": "no floats, carried over",
    "folded": "which the exporter folded into other tensors",
    "missing": "which the file holds neither by name nor by value",
}


@dataclass(frozen=True, slots=True)
class TensorMatch:
    """Where a tensor of the module is in the file.

    Attributes:
        name: in the module.
        how: a key of `HOWS`.
        tensors: that hold it in the file.
    """

    name: str
    how: str
    tensors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StateDict:
    """A module's tensors with their new values.

    Attributes:
        tensors: arrays by the module's names, of its shapes and types. Those that were not found are not there.
        matches: a `TensorMatch` for each tensor of the module.
        unmatched: weights of layers that no tensor of the module takes.
        notes: what there is to say; each a sentence.
    """

    tensors: Mapping[str, Array]
    matches: tuple[TensorMatch, ...]
    unmatched: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def good(self) -> bool:
        """Whether the module takes the weight of every layer."""
        return not self.unmatched

    def as_dict(self) -> dict[str, Any]:
        """Return how the tensors were matched, as plain values."""
        tensors = {each.name: each.how for each in self.matches}
        return {"good": self.good, "tensors": tensors, "unmatched": list(self.unmatched)}


def state_dict(result: Result, reference: str | os.PathLike[str] | Mapping[str, Any] | Reference) -> StateDict:
    """Return the new values of a file by the names of the module that it came from.

    Args:
        result: from `initialize`, or from `plan`, which says what would be matched.
        reference: the module's tensors as they were exported: a .safetensors, .npz or .pt file, or arrays by name, as
            `module.state_dict()` gives them. Their names, shapes, types and values are read.

    Raises UsageError for a result of `measure`, which has no old values to find, and for a file of another kind;
    DataError for a file that cannot be read; ModelError where a stored tensor cannot be read.
    """
    if result.verb == "measure":
        raise UsageError(
            "state_dict takes the result of 'initialize' or 'plan': 'measure' does not know the old values"
        )
    given = read_reference(reference)
    search = match(result.plan, given)
    tensors, matches = dict[str, Array](), list[TensorMatch]()
    for name, each in given.tensors.items():
        found = search.found.get(name)
        if each.dtype.name not in FLOATS:
            tensors[name] = given.read(name)
            matches.append(TensorMatch(name, "carried"))
        elif found is None:
            matches.append(TensorMatch(name, "folded" if name in search.folded else "missing"))
        else:
            tensors[name] = _new(result, search, name)
            labels = tuple(search.program.constants[constant].label for constant in found.constants)
            matches.append(TensorMatch(name, found.how, labels))
    weights, others = _unmatched(result, search)
    return StateDict(tensors, tuple(matches), weights, tuple(_notes(given, search, matches, weights, others)))


def save_state_dict(
    result: Result,
    reference: str | os.PathLike[str] | Mapping[str, Any],
    path: str | os.PathLike[str],
    *,
    force: bool = False,
) -> StateDict:
    """Write what `state_dict` gives to a .safetensors or .npz file, whole or not at all; return it.

    Raises what `state_dict` and `save_weights` raise. An existing file is replaced only with `force`.
    """
    given = read_reference(reference)
    found = state_dict(result, given)
    with staging(force) as staged:
        own: list[Read] = [] if given.path is None else [(given.path, "the state dict that is read")]
        stage_arrays(staged, found.tensors, path, (*read_by(result.model), *own))
        staged.commit()
    return found


def _new(result: Result, search: Search, name: str) -> Array:
    """Return the new values of a tensor in its own type; where they are the old ones, as the module has them."""
    given = search.reference.tensors[name]

    def values(constant: str) -> Array:
        site = search.program.constants[constant].site
        new = None if site is None else result.model.values.get(site)
        return search.old(constant) if new is None else new

    new = search.found[name].view.tensor(given.shape, values)
    if name in search.factors:
        return (new / search.factors[name]).astype(given.dtype)
    with np.errstate(over="ignore"):
        if new.dtype != given.dtype and np.array_equal(new, (old := search.reference.read(name)).astype(new.dtype)):
            return old
        return new.astype(given.dtype, copy=False)


def _unmatched(result: Result, search: Search) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the weights that no tensor of the module takes, and what else changed and would be lost."""
    program, roles, values = search.program, search.plan.roles, result.model.values
    free = [program.constants[name] for name in search.free() if name in search.changing]
    weights = [each.label for each in free if roles[each.name].role == "weight"]
    others = [each.label for each in free if each.label not in weights and np.any(values.get(each.site or (), 0))]
    return tuple(weights), tuple(others)


def _notes(
    reference: Reference, search: Search, matches: Sequence[TensorMatch], weights: Sequence[str], others: Sequence[str]
) -> Iterator[str]:
    groups = defaultdict[str, list[str]](list)
    for each in matches:
        groups[each.how].append(each.name)
    found = [f"{len(names)} {HOWS[how]}" for how, names in groups.items() if how not in ("folded", "missing")]
    count = len(matches) - len(groups["folded"]) - len(groups["missing"])
    found_all = "all" if count == len(matches) else f"{count} of"
    yield f"{found_all} {len(matches)} tensors of {reference.where} are found: {', '.join(found) or 'none'}"
    for how in ("folded", "missing"):
        if names := groups[how]:
            yield (
                f"the new state dict lacks {listing(names)}, {HOWS[how]}: the module keeps what it has there (in "
                "PyTorch, load with strict=False, or export with dynamo=True, optimize=False)"
            )
    constants = search.program.constants
    for copy, kept in search.copies.items():
        if copy in search.changing:
            one, other = quote(constants[kept].label), quote(constants[copy].label)
            yield (
                f"the module has one tensor ({listing(groups['tied'])}) where the file has {one} and, for a layer, "
                f"{other}: it gets the values of the first; --exclude {other} leaves the second as it is"
            )
    if others:
        yield f"the module has no tensor for {listing(others)}, whose new values are not in the new state dict"
    if weights:
        yield f"no tensor of {reference.where} is the weight {listing(weights)}: give that of the module as exported"
