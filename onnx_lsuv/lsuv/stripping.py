"""An architecture without weights: what may be learned loses its values, what belongs to the architecture keeps them.

Integers, single numbers, settings (shapes, bounds, what a quantiser divides by) and what somebody computed (a DFT, a
mask, what normalises the input) stay. A float tensor in doubt does not, unless all its values are alike. What may be
learned and has no place that could be empty, as in a function's body or among integers, is named.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from onnx import AttributeProto, GraphProto, NodeProto

from onnx_lsuv.architecture import complete
from onnx_lsuv.errors import ModelError, listing
from onnx_lsuv.layers import Plan, find_layers
from onnx_lsuv.lsuv.remaining import foreign_nodes, tensors_beside
from onnx_lsuv.lsuv.result import Result
from onnx_lsuv.model import Model, Site, function_of, given_model, message, without_payloads
from onnx_lsuv.program import Constant, Program, expand, stored
from onnx_lsuv.program.program import FLOAT_TYPES
from onnx_lsuv.roles import is_alike

_STAYS = frozenset({"fixed", "setting", "step"})
_WHY = {"fixed": "kept, as somebody computed them", "setting": "kept, as they belong to the architecture"}
_FEW, _MANY = 5, 8
# Why a layer was left alone whose weight is not among the float tensors.
_FUNCTION = "a function's body cannot be without: inline it, onnx.inliner"
_HELD = {"quantised": "integers of a quantised model", "sparse": "sparse", "attribute": "attributes of nodes"}


@dataclass(frozen=True, slots=True)
class Architecture:
    """A model without what it learned.

    Attributes:
        model: with its tensors' names, dims and types, which `save` writes.
        removed: the role of each tensor that has no values any more, by name; "unknown" where that is in doubt.
        kept: the role of each float tensor of several numbers that keeps them.
        left: what may be learned and stays, by name, and where it lies.
    """

    model: Model
    removed: Mapping[str, str]
    kept: Mapping[str, str]
    left: Mapping[str, str]

    @property
    def good(self) -> bool:
        """Whether nothing that may be learned is left."""
        return not self.left

    def notes(self, most: int | None = _FEW) -> list[str]:
        """Return what lost its values and what keeps them, each a sentence; None for all names."""
        counted = ", ".join(f"{n} x {role}" for role, n in Counter(self.removed.values()).items())
        found = [f"without values: {counted or 'nothing'}"]
        told = [
            ("unknown", self.removed, "in doubt, so without values"),
            *((r, self.kept, why) for r, why in _WHY.items()),
        ]
        told += [
            (where, self.left, f"may be learned, and kept ({where})") for where in dict.fromkeys(self.left.values())
        ]
        for role, roles, words in told:
            if names := [name for name, its in roles.items() if its == role]:
                found.append(f"{words}: {listing(names, most or len(names))}")
        return found


def without_values(model: Model | Result) -> Architecture:
    """Return a model without the values of all that may be learned; the file to share is a few kilobytes.

    Raises ModelError where the model is broken, or external data that stay are missing.
    """
    model = complete(given_model(model.model if isinstance(model, Result) else model))
    program = expand(model)
    plan = find_layers(program)
    bare = dict[Site, tuple[int, ...]]()
    removed, kept, left = dict[str, str](), dict[str, str](), dict[str, str]()
    for constant in program.constants.values():
        if constant.elem_type not in FLOAT_TYPES or constant.origin == "ConstantOfShape":
            continue
        role = plan.roles[constant.name].role
        if role == "unknown" and constant.size:
            role = _in_doubt(program, constant)
        if role in _STAYS or (not constant.dims and constant.origin == "Constant"):  # as the 0 that fills a bias
            if constant.size > 1:
                kept[constant.name] = "setting" if role == "step" else role
        elif constant.site is None or function_of(constant.site) is not None:
            left[constant.name] = _FUNCTION
        else:
            removed[constant.name] = role
            bare[constant.site] = constant.dims
    for site, tensor in tensors_beside(program):
        if tensor.data_type not in FLOAT_TYPES:
            continue
        name, where = tensor.name or str(len(removed)), _why_it_stays(model, site)
        (left if where else removed)[name] = where or "unknown"
        if not where:
            bare[site] = tuple(tensor.dims)
    left |= _held(plan, removed)
    return Architecture(without_payloads(model, bare), removed, kept, left)


def _in_doubt(program: Program, constant: Constant) -> str:
    """Return the role of a constant of which nothing tells it: what is all alike belongs to the architecture."""
    with suppress(ModelError):  # what is missing is gone already
        if is_alike(stored(program, constant.name)):
            return "setting"
    return "unknown"


def _why_it_stays(model: Model, site: Site) -> str:
    """Return why a tensor that is no constant of the program cannot be without values, "" where it can."""
    if function_of(site) is not None:
        return _FUNCTION
    inside = message(model, site[:-1])
    node = message(model, site[:-2])
    constant = isinstance(node, NodeProto) and node.op_type == "Constant"
    if isinstance(inside, GraphProto) or constant:
        return ""
    return _HELD["attribute" if isinstance(inside, AttributeProto) else "sparse"]


def _held(plan: Plan, removed: Mapping[str, str]) -> dict[str, str]:
    """Return what may be learned and is no float tensor of a graph."""
    found = {}
    for each in plan.skipped:
        name = each.weight or each.node.label
        if each.reason in ("quantised", "attribute") and name not in removed:
            found[name] = _HELD[each.reason]
    for _, node in foreign_nodes(plan.program.model):
        numbers = max((len(each.floats) + math.prod(each.t.dims) for each in node.attribute), default=0)
        if numbers > _MANY:
            found[node.name or ", ".join(node.output)] = _HELD["attribute"]
    return found
