"""What is known of where a module's tensors are: what was found, and what the names of tensors and the file tell."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from onnx_lsuv.layers import Plan
from onnx_lsuv.model import Array
from onnx_lsuv.modules.reference import Reference
from onnx_lsuv.modules.views import View
from onnx_lsuv.operators import of
from onnx_lsuv.program import Program, stored
from onnx_lsuv.program.program import FLOAT_TYPES

# How frameworks call the statistics of a BatchNormalization, by the place that ONNX gives them.
STATISTICS = {"running_mean": 3, "moving_mean": 3, "running_var": 4, "moving_variance": 4}
FLAX = {"mean": 3, "var": 4}  # in a collection of their own
COLLECTIONS = ("params", "batch_stats")


@dataclass(frozen=True, slots=True)
class Match:
    """Where a tensor's values are."""

    how: str
    view: View

    @property
    def constants(self) -> tuple[str, ...]:
        """The constants that hold it, by their names in the program."""
        return tuple(dict.fromkeys(part.constant for part in self.view.parts))


@dataclass
class Search:
    """What is known so far."""

    plan: Plan
    reference: Reference
    found: dict[str, Match] = field(default_factory=dict)  # by tensor
    folded: set[str] = field(default_factory=set)  # tensors of norms that the file has no more
    factors: dict[str, Array] = field(default_factory=dict)  # of a tensor, by which these norms are folded into it
    copies: dict[str, str] = field(default_factory=dict)  # constants that the module has no place for: what it has

    @property
    def program(self) -> Program:
        """The file as it was given."""
        return self.plan.program

    @cached_property
    def changing(self) -> frozenset[str]:
        """The constants that do not keep their values."""
        return frozenset(self.plan.changing)

    @cached_property
    def tables(self) -> set[str]:
        """The constants of which indices pick rows, as of an embedding."""
        nodes = (node for node in self.program.walk() if of(node).move == "picks")
        return {behind_identities(self.program, node.inputs[0]) for node in nodes if node.inputs}

    @cached_property
    def uses(self) -> list[tuple[str, int]]:
        """The uses of float constants, in the order of execution, each as which statistic of a norm, or 0."""
        found, constants = [], self.program.constants
        for node in self.program.walk():
            roles = of(node).roles
            for i, name in enumerate(node.inputs):
                root = behind_identities(self.program, name)
                if node.op != "Identity" and root in constants and constants[root].elem_type in FLOAT_TYPES:
                    found.append((root, i if roles.get(i) == "statistics" else 0))
        return found

    @cached_property
    def held(self) -> dict[str, set[int]]:
        """The float constants in the order of their first use, and as what each is used."""
        places = defaultdict[str, set[int]](set)
        for name, place in self.uses:
            places[name].add(place)
        return dict(places)

    def old(self, constant: str) -> Array:
        """Return the values that the file was given with."""
        return stored(self.program, constant)

    def left(self) -> list[str]:
        """Return the tensors that are not found yet."""
        return [name for name in self.reference.floats() if name not in self.found and name not in self.folded]

    def free(self) -> list[str]:
        """Return the constants that no tensor has yet."""
        taken = {constant for match in self.found.values() for constant in match.constants}
        return [name for name in self.held if name not in taken and name not in self.copies]

    def fits(self, tensor: str, constant: str) -> bool:
        """Whether a tensor may be that constant by what its name says of statistics."""
        return statistic(tensor) in self.held[constant]


def behind_identities(program: Program, name: str) -> str:
    """Return the value that a name stands for: nodes that only give another name are seen through."""
    while name in program.producers and program.producers[name][0].op == "Identity":
        name = program.producers[name][0].inputs[0]
    return name


def statistic(tensor: str) -> int:
    """Return which operand of a BatchNormalization a tensor is by its name, 3 or 4; 0 for all that is no statistic."""
    words = FLAX if tensor.startswith(COLLECTIONS[1]) else STATISTICS
    return words.get(parted(tensor)[2], 0)


def parted(name: str) -> tuple[str, str, str]:
    """Return a tensor's name as that of its module, a dot or slash, and the rest."""
    at = max(name.rfind("."), name.rfind("/"))
    return name[: max(at, 0)], name[at : at + 1] if at >= 0 else "", name[at + 1 :]


def long_axes(shape: Sequence[int]) -> list[int]:
    """Return the lengths other than 1."""
    return [length for length in shape if length != 1]


def as_type(values: Array, other: Array) -> Array:
    """Return values in the type of others, rounded as an exporter rounds them."""
    with np.errstate(over="ignore"):
        return values.astype(other.dtype, copy=False)
