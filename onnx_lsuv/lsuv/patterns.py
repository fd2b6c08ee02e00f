"""Shell patterns that choose layers and other tensors: which to take, how each starts, the std that it is to have."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from onnx_lsuv.errors import UsageError, meant
from onnx_lsuv.graph import Part, Record, std_of, stream_key
from onnx_lsuv.layers import Layer, PartedTensor, Plan, Weight, tensor_names
from onnx_lsuv.lsuv.neighbours import reads_even_averages
from onnx_lsuv.lsuv.settings import Settings
from onnx_lsuv.lsuv.streams import Share, shares_of
from onnx_lsuv.roles import TRAINED

# Of the usual std, for a last layer that reads averages which hardly vary: 17 thin layers with BatchNormalization after
# each ReLU had 0.390 on CIFAR-10 with it, 0.343 without, and 0.386 from PyTorch's start (three seeds).
EVEN = 0.1


@dataclass(slots=True)
class Choice:
    """The patterns of include and exclude, and which of them matched.

    A tensor that was parted from another has the name of that too, by `parted`.
    """

    include: Sequence[str]
    exclude: Sequence[str]
    parted: Mapping[str, PartedTensor] = field(default_factory=dict)
    matched: set[str] = field(default_factory=set)

    def wanted(self, *names: str) -> bool:
        """Say whether what has these names, a node's and those of the tensor that it reads, is to be touched."""
        included = self._matches(self.include, names) or not self.include
        return not self._matches(self.exclude, names) and included

    def named(self, *names: str) -> bool:
        """Say whether a pattern of include names what has these names."""
        return self._matches(self.include, names)

    def excluded(self, *names: str) -> bool:
        """Say whether exclude names a norm or a bias, by its node or tensors; include leaves those to what changes."""
        self._matches(self.include, names)
        return self._matches(self.exclude, names)

    def _matches(self, patterns: Sequence[str], names: Sequence[str]) -> bool:
        names = _with_old(names, self.parted)
        hits = {pattern for pattern in patterns if any(fnmatchcase(name, pattern) for name in names)}
        self.matched |= hits
        return bool(hits)

    @property
    def unmatched(self) -> list[str]:
        """The patterns that matched nothing so far."""
        return [pattern for pattern in (*self.include, *self.exclude) if pattern not in self.matched]


def _with_old(names: Sequence[str], parted: Mapping[str, PartedTensor]) -> Sequence[str]:
    return (*names, *(parted[name].of for name in names if name in parted))


def _met(pattern: str, plan: Plan) -> Iterator[str]:
    """Yield the constants whose name, or that of a node that reads them, a pattern matches; mere settings last."""
    program = plan.program
    readers = {
        name: [node.label for node, _ in program.consumers.get(name, ())]
        for name, role in plan.roles.items()
        if role.role != "setting"
    }
    for name in sorted(plan.roles, key=lambda name: name not in readers):
        if any(fnmatchcase(each, pattern) for each in (program.constants[name].label, *readers.get(name, ()))):
            yield name


def is_known(pattern: str, plan: Plan) -> bool:
    """Say whether a pattern matches the name of a constant, of a node that reads one, or of one that is left alone."""
    return any(_met(pattern, plan)) or any(fnmatchcase(each.node.label, pattern) for each in plan.skipped)


def no_match(pattern: str, plan: Plan, *, tensors: bool = False) -> str:
    """Return the sentence for a pattern that matches no layer of a plan, or where it may no tensor that is set."""
    for left in plan.skipped:
        if any(fnmatchcase(name, pattern) for name in (left.node.label, left.weight or left.node.label)):
            only = f"{left.node.label!r}, which is left alone: {left.detail}"
            return f"the pattern {pattern!r} matches no layer, but {only}"
    for name in _met(pattern, plan) if tensors else ():
        role = plan.roles[name].role
        how = "give --fresh (fresh=True) too" if role in TRAINED - {"weight"} else "that is never set"
        return f"the pattern {pattern!r} matches no layer, but {plan.program.constants[name].label!r} ({role}): {how}"
    labels = list(dict.fromkeys(layer.node.label for layer in plan.layers))
    named = [name for layer in plan.layers for name in tensor_names(plan.program, layer.source)]
    inside = any(pattern in name for name in (*labels, *named)) and not re.search(r"[*?\[]", pattern)
    if tensors:
        named = [plan.program.constants[name].label for name, role in plan.roles.items() if role.role != "setting"]
    near = f" (did you mean {f'*{pattern}*'!r}?)" if inside else meant(pattern, [*labels, *named])
    which = "layer, norm or tensor" if tensors else "layer or weight"
    return (
        f"the pattern {pattern!r} matches the whole name of no {which}{near}; layers are "
        f"named like {', '.join(map(repr, labels[:5]))}, and '*' stands for anything"
    )


@dataclass(frozen=True, slots=True, eq=False)
class Aims:
    """What is wanted of each weight, by its key; what to say of uses that wanted another std."""

    stds: dict[str, float]  # that its layer is to have
    methods: Mapping[str, str]  # how it is drawn
    remarks: Mapping[Layer, str]
    named: Set[str]  # those whose std a pattern says
    shares: Mapping[str, Share] = field(default_factory=dict)  # those whose std is a part of that of a residual stream
    left: Mapping[Layer, str] = field(default_factory=dict)  # and why that of others at the end of branches is not
    averages: Mapping[str, float] = field(default_factory=dict)  # those of last layers that get EVEN of this std

    def scales(self, key: str) -> bool:
        """Say whether a weight is to be scaled: zero has no scale, and the identity stays unless a target names it."""
        return self.stds[key] > 0 and (self.methods[key] != "identity" or key in self.named)

    @property
    def streams(self) -> dict[str, Part]:
        """The std of each layer whose std is a part of that of a stream that has to be measured."""
        return {
            key: Part(each.stream, each.part) for key, each in self.shares.items() if each.stream and self.scales(key)
        }

    def resolved(self, records: Mapping[str, Record]) -> Aims:
        """Return these with the stds that the streams measured say."""
        stds = {}
        for key, asked in self.streams.items():
            std = std_of(records.get(stream_key(asked.stream)))
            stds[key] = asked.part * (1.0 if std is None else std)
        return replace(self, stds={**self.stds, **stds})

    @property
    def targets(self) -> dict[str, float | Part | None]:
        """The std to scale each layer to, None for one that is not scaled."""
        return {key: std if self.scales(key) else None for key, std in (self.stds | self.streams).items()}


def aims_of(plan: Plan, settings: Settings) -> Aims:
    """Return what the methods and targets ask for; raise UsageError where a pattern decides about no layer.

    A weight has one scale, which its first scaled use decides; so that use's target counts.
    """
    methods = _methods(plan, settings)
    stds = dict.fromkeys(plan.weights, settings.target_std)
    notes: dict[Layer, str] = {}
    effective, named = set[str](), set[str]()
    for key, weight in plan.weights.items():
        first = _decides(weight)
        for pattern, std in settings.targets:
            if (first.scaled or std == 0) and _names(plan, first, pattern):
                stds[key] = std
                effective.add(pattern)
                named.add(key)
        for layer in weight.layers if first.scaled else ():
            own = [std for pattern, std in settings.targets if _names(plan, layer, pattern)]
            if layer is not first and own and own[-1] != stds[key]:
                notes[layer] = f"its target {own[-1]:g} has no effect: {first.node.label!r} decides the weight's scale"
        if methods[key] == "zero" or stds[key] == 0:
            methods[key], stds[key] = "zero", 0.0
    for pattern, _ in settings.targets:
        if plan.layers and pattern not in effective:
            raise UsageError(_no_effect(plan, pattern))
    shares, left, averages = dict[str, Share](), dict[Layer, str](), dict[str, float]()
    if settings.residual == "auto" and settings.rescale:
        kept = {key for key in stds if methods[key] == "identity" and key not in named}
        usual = stds | dict.fromkeys(kept, 0.0)
        shares, left = shares_of(plan, usual, named)
        free = {key: std for key, std in usual.items() if std and key not in named}
        averages = {k: std for k, std in free.items() if reads_even_averages(plan.program, _decides(plan.weights[k]))}
        stds |= {key: EVEN * std for key, std in averages.items()}
        stds |= {key: share.part * share.std for key, share in shares.items()}
        notes |= {layer: f"ends a residual branch at the usual std: {why}" for layer, why in left.items()}
    return Aims(stds, methods, notes, named, shares, left, averages)


def _decides(weight: Weight) -> Layer:
    """Return the use of a weight that its scale is for."""
    return next((layer for layer in weight.layers if layer.scaled), weight.layers[0])


def require_drawable(plan: Plan, methods: Mapping[str, str]) -> None:
    """Raise UsageError for a weight that cannot start as it is to."""
    for key, weight in plan.weights.items():
        if methods[key] == "identity" and weight.layers[0].source.computed:
            raise UsageError(
                f"{weight.layers[0].node.label!r} cannot start as the identity: its weight is computed from several "
                "constants, as by weight normalisation; give it a method of its own, such as orthonormal"
            )


def _methods(plan: Plan, settings: Settings) -> dict[str, str]:
    """Return how each weight is drawn, by its key: as the last pattern says that matches one of its uses."""
    methods, matched = dict[str, str](), {"*"}
    for key, weight in plan.weights.items():
        for pattern, method in settings.inits:
            if any(_names(plan, layer, pattern) for layer in weight.layers):
                methods[key] = method
                matched.add(pattern)
    for pattern, _ in settings.inits:
        if plan.layers and pattern not in matched:
            raise UsageError(no_match(pattern, plan))
    return methods


def _no_effect(plan: Plan, pattern: str) -> str:
    layers = [layer for layer in plan.layers if _names(plan, layer, pattern)]
    if not layers:
        return no_match(pattern, plan)
    first, without = layers[0].node, f"the target for {pattern!r} has no effect:"
    if any(layer.scaled for layer in layers):
        decides = plan.weights[layers[0].weight].layers[0].node
        return (
            f"{without} an earlier use of the same weight decides the scale of {first.label!r}; give the target to "
            f"{decides.label!r}"
        )
    return f"{without} {first.op} {first.label!r} is not rescaled"


def _names(plan: Plan, layer: Layer, pattern: str) -> bool:
    names = _with_old((layer.node.label, *tensor_names(plan.program, layer.source)), plan.parting.copies)
    return any(fnmatchcase(name, pattern) for name in names)
