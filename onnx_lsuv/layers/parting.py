"""Tensors that an exporter merged: which of them are to be parted, and the plan of the model where they are.

Exporters store equal tensors once. Of a new network these are the zeros and ones that its norms and biases start with,
and the matrices of layers that are copies of each other; trained on, they would stay one. A vector of equal numbers is
parted where its readers need different values, which a plan of the model with all of them parted tells: the statistics
of each norm are its own, and so is a bias that centres. Whatever else is one tensor stays so, unless it is asked for:
then each parameter gets its own, a matrix where the names of its readers are those of different modules.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Hashable, Mapping, Sequence
from dataclasses import replace

from onnx_lsuv.errors import ModelError
from onnx_lsuv.layers.centres import find_centres
from onnx_lsuv.layers.plan import PartedTensor, Parting, Plan
from onnx_lsuv.model import Addition, Model, Site, all_names, read, with_initializers
from onnx_lsuv.program.expansion import expand
from onnx_lsuv.program.program import Constant, Program, stored
from onnx_lsuv.program.readings import Reading, Shared, shared_constants
from onnx_lsuv.roles import is_alike

_PARAMETERS = frozenset({"scale", "bias", "slope", "state", "embedding", "statistics"})
_KEEP: Hashable = "keep"
_STATISTICS = {3: "running_mean", 4: "running_var"}  # as PyTorch calls them, by the operand of a BatchNormalization
_Parts = Sequence[tuple[Shared, list[Reading]]]  # what gets a tensor of its own


def part(
    plan: Plan, find: Callable[[Program, Mapping[str, PartedTensor]], Plan], *, untie: bool, center: bool, fresh: bool
) -> Plan:
    """Return the plan of a model in which merged tensors are parted, or the same plan where none has to be.

    Args:
        plan: of the model as it was given.
        find: what made it; it is told which tensors are copies.
        untie: part every tensor that stands for several parameters.
        center: biases are to centre.
        fresh: parameters beside the layers are to start anew.
    """
    model, constants = plan.program.model, plan.program.by_site
    shared = [each for each in shared_constants(model) if each.site in constants]
    vectors = [each for each in shared if _is_merged_vector(plan.program, constants[each.site], each)]
    matrices = _merged_matrices(plan, [each for each in shared if each not in vectors])
    tried = [(each, [reading]) for each in vectors for reading in each.readings]
    chosen = [(each, group) for each in matrices for group in _others(_by_owner(each), each)] if untie else []
    if chosen or any(untie or center or fresh or _may_differ(plan, constants[each.site], each) for each in vectors):
        trial, copies = _parted(model, [*tried, *chosen])
        needs = _Needs(find(expand(trial), copies), list(copies), untie=untie, center=center)
        plan = _explained(plan, needs.plan)
        groups: dict[Site, dict[Hashable, list[Reading]]] = {each.site: {} for each in vectors}
        for at, (each, (reading,)) in enumerate(tried):
            groups[each.site].setdefault(needs.of(at, reading), []).append(reading)
        chosen += [(each, group) for each in vectors for group in _others(groups[each.site], each)]
        if chosen:
            new, copies = _parted(model, chosen)
            found = find(expand(new), copies)
            return replace(
                _explained(found, needs.plan), parting=Parting(model, copies, *_left(found, shared_constants(new)))
            )
    return replace(plan, parting=Parting(model, {}, *_left(plan, shared)))


def _explained(plan: Plan, trial: Plan) -> Plan:
    """Return a plan in which norms whose statistics stay merged say why they would stay anyhow."""
    why = {each.node.label: each for each in trial.kept_statistics}
    kept = tuple(
        replace(each, reason=why[each.node.label].reason, detail=why[each.node.label].detail)
        if each.reason == "tied" and each.node.label in why
        else each
        for each in plan.kept_statistics
    )
    return replace(plan, kept_statistics=kept)


def _is_merged_vector(program: Program, constant: Constant, shared: Shared) -> bool:
    """Say whether a constant may be several parameters: by equal numbers, with which they start, or by their names."""
    if sum(length != 1 for length in constant.dims) > 1 or not constant.size:
        return False
    if constant.size == 1 and not any(reading.role in _PARAMETERS for reading in shared.readings):
        return False
    try:
        alike = is_alike(stored(program, constant.name))
    except ModelError:  # said where the values are needed
        return False
    return alike or _differs(shared)


def _may_differ(plan: Plan, constant: Constant, shared: Shared) -> bool:
    """Say whether readers of a vector may need different values without being asked: statistics, or a bias of 0."""
    roles = {reading.role for reading in shared.readings}
    if "statistics" in roles or constant.name in plan.zeroed or roles.isdisjoint(("bias", "")):
        return "statistics" in roles
    return bool(stored(plan.program, constant.name).any())


def _merged_matrices(plan: Plan, shared: Sequence[Shared]) -> list[Shared]:
    """Return the weights that readers of several names have."""
    drawn = {plan.program.constants[name].site for layer in plan.layers for name in layer.source.touched}
    return [each for each in shared if each.site in drawn and _differs(each) and not _is_named_late(each)]


def _is_named_late(shared: Shared) -> bool:
    """Say whether a tensor has the name of a later reader: of tied parameters torch.export keeps the last one's."""
    modules = [reading.module for reading in shared.readings]
    own = shared.label.rpartition(".")[0]
    return own in modules and own != modules[0]


def _differs(shared: Shared) -> bool:
    """Say whether readers are named as those of different parameters are."""
    return len({reading.owner for reading in shared.readings} - {""}) > 1


def _by_owner(shared: Shared) -> dict[Hashable, list[Reading]]:
    found: dict[Hashable, list[Reading]] = {}
    for reading in shared.readings:
        found.setdefault(reading.owner, []).append(reading)
    return found


def _others(groups: dict[Hashable, list[Reading]], shared: Shared) -> list[list[Reading]]:
    """Return the groups of readings that do not keep the tensor; what nothing is known of does, or the first."""
    keeps = next((key for key in (_KEEP, "") if key in groups), None)
    if keeps is None and not shared.handed_out:
        keeps = next(
            (key for key, group in groups.items() if not all(each.alias for each in group)), next(iter(groups))
        )
    return [group for key, group in groups.items() if key != keeps]


class _Needs:
    """What readings need, by the plan in which each of them has a tensor of its own."""

    def __init__(self, plan: Plan, labels: Sequence[str], *, untie: bool, center: bool) -> None:
        self.plan, self.untie = plan, untie
        constants = plan.program.constants
        by_label = {each.label: name for name, each in constants.items() if each.origin == "initializer"}
        self.names = [by_label[label] for label in labels]
        self.centred = {each.bias for each in find_centres(plan).values()} if center else set[str]()
        self.statistics = {name: i for norm in plan.norms for i, name in enumerate((norm.mean, norm.var))}
        self.forget = {name for source, _ in plan.forget for name in source.constants}
        self.fresh = {each.constant: each for each in plan.parameters.fresh}
        self.layers = {name: layer.weight for layer in plan.layers for name in layer.bias}

    def role(self, at: int, reading: Reading) -> str:
        """Return what a reading is, "" where it is no parameter."""
        found = self.plan.roles[self.names[at]]
        if found.fate != "kept" or reading.role in _PARAMETERS:
            return found.role
        # A norm that is written out is not looked for; its parameters may have names of their own.
        named = bool(reading.alias) and reading.owner == reading.alias
        return "" if not named else "bias" if reading.alias.endswith("bias") else "scale"

    def of(self, at: int, reading: Reading) -> Hashable:
        """Return a key that readings have in common where they can have one tensor; `at` is the number of the trial."""
        name, role = self.names[at], self.role(at, reading)
        own = reading.owner or at
        if name in self.statistics:
            return "statistics", self.statistics[name], own
        if name in self.centred:
            return "centre", at
        if name in self.forget:
            return "forget", at if self.untie else 0
        if self.untie and role:
            return role, reading.owner or self.layers.get(name) or at
        parameter = self.fresh.get(name)
        if parameter is not None and parameter.std is not None:
            return "drawn", own
        value = parameter.value if parameter is not None else 0.0 if name in self.plan.zeroed else None
        # Layers' biases and other parameters do not become the same value by the same rule.
        kind = parameter.role if parameter is not None else ""
        return _KEEP if value is None or (stored(self.plan.program, name) == value).all() else (kind, value)


def _parted(model: Model, parts: _Parts) -> tuple[Model, dict[str, PartedTensor]]:
    """Return a model in which some readings have a tensor of their own, and these by name.

    An Identity of the tensor gives its name to what stands in for it.
    """
    taken, tried = all_names(model.proto.graph), dict[str, int]()
    made: dict[str, PartedTensor] = {}
    added, inputs, gone = [], dict[tuple[Site, int], str](), list[Site]()
    for shared, group in parts:
        stands = next((each for each in group if each.alias), None)
        label = stands.alias if stands else _name(shared, group[0], taken, tried)
        taken.add(label)
        made[label] = PartedTensor(shared.label, stands_in=stands is not None)
        added.append(Addition(label, read(model, shared.site), shared.graph, like=shared.site))
        gone += [stands.node] if stands else []
        inputs |= {(each.node, each.position): label for each in group if each is not stands}
    return with_initializers(model, added, inputs, gone), made


def _name(shared: Shared, reading: Reading, taken: Container[str], tried: dict[str, int]) -> str:
    """Return a name for what is parted: as the other's own, in the reader's module, or the other's with a number."""
    statistics = _STATISTICS.get(reading.position) if reading.role == "statistics" else None
    for other in shared.readings:
        last = shared.label.removeprefix(f"{other.module}.")
        if other.module and last != shared.label and (statistics or other.role == reading.role) and reading.module:
            name = f"{reading.module}.{statistics or last}"
            if name not in taken:
                return name
    number = tried.get(shared.label, 0) + 1
    while f"{shared.label}.{number}" in taken:
        number += 1
    tried[shared.label] = number
    return f"{shared.label}.{number}"


def _left(plan: Plan, shared: Sequence[Shared]) -> tuple[dict[str, int], tuple[str, ...]]:
    """Return the tensors that are still several parameters, with how many, and weights that are used several times."""
    program, constants = plan.program, plan.program.by_site
    biases = {name: {layer.weight for layer in plan.layers if name in layer.bias} for name in plan.zeroed}
    merged = {each.label: len(_by_owner(each).keys() - {""}) for each in _merged_matrices(plan, shared)}
    fixed, tied = {each.node for each in plan.skipped if each.reason == "fixed"}, []
    for each in shared:
        constant = constants.get(each.site)
        if constant is None or each.label in merged:
            continue
        readers = {node for node, _ in program.consumers.get(constant.name, ())}
        if readers and readers <= fixed:
            continue  # as the zeros beside filters that somebody computed
        if any(constant.name in layer.source.touched for layer in plan.layers):
            tied.append(each.label)
        elif _is_merged_vector(program, constant, each) and (_differs(each) or len(biases.get(constant.name, ())) != 1):
            owners = {
                (reading.role, reading.owner or at)
                for at, reading in enumerate(each.readings)
                if reading.role in _PARAMETERS or constant.name in biases or reading.owner == (reading.alias or None)
            }
            if len(owners) > 1:
                merged[each.label] = len(owners)
    return merged, tuple(tied)
