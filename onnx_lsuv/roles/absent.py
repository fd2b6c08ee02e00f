"""How constants start that have no values: as a trained one of their role usually does, by their place alone.

What is the weight of a layer that is drawn, a bias that becomes zero, or statistics that are calibrated, has its role
already. A weight that is left alone starts at N(0, 1 / fan_in).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from onnx_lsuv.operators import of
from onnx_lsuv.program.program import Constant, Node
from onnx_lsuv.roles.parameters import VALUES, Parameter, agreed, readers_of, role_at, with_table_stds
from onnx_lsuv.roles.products import Skipped
from onnx_lsuv.roles.reachability import Reachability


def find_starts(
    reachability: Reachability, skipped: Sequence[Skipped], table: Mapping[str, object]
) -> tuple[Parameter, ...]:
    """Return the starts of constants without values; those whose place does not tell one are left out.

    Args:
        reachability: of the program.
        skipped: nodes that are left alone; what is excluded has nothing to keep and gets no start.
        table: the constants that have a role.
    """
    program = reachability.program
    found: list[Parameter] = []
    excluded = {each.weight for each in skipped if each.reason == "excluded"}
    tied = set[str]()
    for constant in program.constants.values():
        if program.is_absent(constant.name) and constant.name not in table and constant.label not in excluded:
            start = _start(reachability, constant, tied)
            found += [start] if start is not None else []
    return with_table_stds(reachability, found, tied)


def _start(reachability: Reachability, constant: Constant, tied: set[str]) -> Parameter | None:
    name, uses = constant.name, readers_of(reachability.program, constant.name)
    found = dict(_role_at(reachability, constant, *use) for use in uses)
    if not uses:
        return Parameter(name, "unknown", "unused", None)
    role = agreed(constant, found.keys())
    if role == "embedding":
        if "weight" in found:
            tied.add(name)
        return Parameter(name, role, found[role], None)
    if found.keys() == {"weight"} and constant.size:
        return Parameter(name, "weight", found["weight"], 1 / math.sqrt(max(1, math.prod(constant.dims[1:]))))
    values = {_usual(_role_at(reachability, constant, *use)[0], use[1]) for use in uses}
    # An exporter that merges equal tensors makes one of a norm's bias and its mean, and one of its scale and variance.
    if len(values) == 1 and (value := values.pop()) is not None:
        role = min(found, key=lambda each: each == "statistics")
        return Parameter(name, role, found[role], None, value)
    return None


def _role_at(reachability: Reachability, constant: Constant, node: Node | None, position: int) -> tuple[str, str]:
    """Return what a reader takes a constant for; what a loop carries on from the start is a state."""
    return ("state", "operand") if node and of(node).scopes else role_at(reachability, constant, node, position)


def _usual(role: str, position: int) -> float | None:
    """Return what a parameter starts at, None where that is open or no number."""
    return float(position == 4) if role == "statistics" else VALUES.get(role)
