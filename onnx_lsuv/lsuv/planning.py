"""What would happen to a model: its layers are found once, and everything after asks what was found here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Container, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Unpack

from onnx_lsuv.architecture import complete
from onnx_lsuv.errors import ModelError, UsageError, listing, quote
from onnx_lsuv.layers import Layer, PartedTensor, Plan, Skipped, find_centres, find_layers, part
from onnx_lsuv.lsuv.absent import absent_notes, check_absent
from onnx_lsuv.lsuv.fresh import fresh_notes
from onnx_lsuv.lsuv.notes import guide
from onnx_lsuv.lsuv.patterns import Aims, Choice, aims_of, is_known, no_match, require_drawable
from onnx_lsuv.lsuv.remaining import remaining
from onnx_lsuv.lsuv.result import LayerReport, Result
from onnx_lsuv.lsuv.rows import bias_remark, noted, row_of, skipped_row
from onnx_lsuv.lsuv.settings import Choices, Settings, Wanted
from onnx_lsuv.model import Model
from onnx_lsuv.program import Program, expand
from onnx_lsuv.roles import Patterns

# What is said of methods that draw nothing.
_STARTS = {"keep": "kept", "zero": "set to zero", "identity": "set to the identity"}


def plan(model: Model | Result, settings: Settings | None = None, **choices: Unpack[Choices]) -> Result:
    """Say what would happen to each layer and what would be left alone, and why; run nothing.

    `initialize` and `measure` take the result in the model's place, and do not look for the layers again.

    Args:
        model: from `load` or `from_proto`.
        settings: how it would be initialised.
        choices: fields of `Settings` as keywords, as in `plan(model, keep_bias=True)`.

    Raises:
        UsageError: a setting is wrong, contradicts another, or a pattern matches no layer.
        ModelError: the model is broken.
    """
    settings = settings_for(model, settings, choices)
    found = find(model, settings)
    if not found.parting.model:
        untie, center, fresh = settings.untie, settings.center, settings.fresh
        found = part(found, lambda *parted: _layers(settings, *parted)[0], untie=untie, center=center, fresh=fresh)
    return described(found, settings)


def described(found: Plan, settings: Settings) -> Result:
    """Return what is to be said of a plan before anything runs; raise UsageError where a target decides nothing."""
    aims = aims_of(found, settings)
    check_absent(found, aims.methods)
    require_drawable(found, aims.methods)
    centred = find_centres(found) if settings.center else {}
    rows = []
    for layer in found.layers:
        row = row_of(found, layer, aims.methods[layer.weight], aims.stds[layer.weight], "found", None)
        scaled = _aim(aims, layer.weight) if settings.rescale else "not scaled"
        row = replace(row, note=_fate(found, layer, row, scaled, centred))
        rows.append(noted(row, bias_remark(found, layer), aims.remarks.get(layer)))
    fresh = (name for name, role in found.roles.items() if role.fate == "fresh" and not found.program.is_absent(name))
    roles = Counter(found.roles[name].role for name in fresh)
    counted = ", ".join(f"{count} x {role}" for role, count in sorted(roles.items()))
    started = [f"fresh: {counted} would get their usual starting values"] if roles else []
    left = remaining(found, settings, found.changing) if settings.fresh else ()
    return Result(
        model=found.program.model,
        plan=found,
        verb="plan",
        settings=settings,
        layers=tuple(rows),
        skipped=tuple(map(skipped_row, found.skipped)),
        kept_statistics=tuple(map(skipped_row, found.kept_statistics)),
        remaining=left,
        notes=(
            *absent_notes(found, "would be made anew"),
            *started,
            *name_notes(found),
            *parting_notes(found, settings),
            *left_notes(found),
            *fresh_notes(found, left, settings),
            *map(str, guide(found, aims, aims.shares.keys(), settings.spell)),
        ),
    )


def settings_for(model: Model | Result, settings: Settings | None, choices: Choices | Wanted) -> Settings:
    """Return what is chosen, as a whole or by keywords, which count where both are given; a result brings its own.

    Raises UsageError for what is wrong with it.
    """
    given = settings or (model.settings if isinstance(model, Result) else Settings())
    if not isinstance(given, Settings):
        raise UsageError(f"settings have to be onnx_lsuv.Settings, or keywords, not {type(given).__name__}")
    return replace(given, **choices).check()


def find(model: Model | Result, settings: Settings, parted: Mapping[str, PartedTensor] = MappingProxyType({})) -> Plan:
    """Return the layers of a model, and with `fresh` the parameters beside them.

    Of a result whose plan is that of its model only the program is looked at, or nothing at all.

    Args:
        model: the model.
        settings: which layers to find.
        parted: tensors of it that were parted from others, by name.

    Raises:
        UsageError: a pattern matches no layer.
    """
    program = None
    if isinstance(model, Result):
        given = model.model
        if model.plan.program.model is given:
            if _chooses(model.settings) == _chooses(settings):
                return model.plan
            parting = model.plan.parting
            given, program = (parting.model or given, None) if parting.copies else (given, model.plan.program)
        model = given
    found, choice = _layers(settings, program or expand(complete(model)), parted)
    for pattern in choice.unmatched:
        # To leave alone what stays as it is anyway is no mistake; to take it is one.
        if pattern in settings.include or not is_known(pattern, found):
            raise UsageError(no_match(pattern, find_layers(found.program), tensors=True))
    return found


def find_again(plan: Plan, settings: Settings) -> Plan:
    """Return the layers of the program of a plan, which is not made anew, by other settings."""
    return _layers(settings, plan.program, plan.parting.copies)[0]


def _layers(settings: Settings, program: Program, parted: Mapping[str, PartedTensor]) -> tuple[Plan, Choice]:
    """Return the layers of a program that settings choose, and which of their patterns matched."""
    choice = Choice(settings.include, settings.exclude, parted)
    found = find_layers(
        program,
        Patterns(choice.wanted, choice.named, choice.excluded),
        keep_bias=settings.kept_biases,
        fresh=settings.fresh,
        recalibrate=settings.all_statistics,
    )
    return found, choice


def _chooses(settings: Settings) -> tuple[object, ...]:
    """Return what a plan goes by."""
    chosen = settings.include, settings.exclude, settings.kept_biases, settings.fresh, settings.all_statistics
    return *chosen, settings.untie, settings.center


def require_layers(found: Plan, what: str = "initialise") -> None:
    """Raise ModelError for a model in which nothing can be initialised, or no layer measured: `what` was wanted."""
    if found.layers or (what == "initialise" and found.changing):
        return
    nothing = f"There is nothing to {what} in {found.program.model.name}:"
    if not found.skipped:
        raise ModelError(f"{nothing} it has no linear layer (Conv, Gemm, MatMul, ConvTranspose).")
    reasons: dict[str, list[Skipped]] = {}
    for left in found.skipped:
        reasons.setdefault(left.detail, []).append(left)
    parts = [
        f"{len(group)} x {', '.join(dict.fromkeys(left.node.op for left in group))} because {detail}"
        for detail, group in reasons.items()
    ]
    more = f"; and {len(parts) - 3} reasons more" if len(parts) > 3 else ""
    raise ModelError(f"{nothing} left alone {'; '.join(parts[:3])}{more}.")


def name_notes(found: Plan) -> list[str]:
    """Return notes on names that several nodes or initializers of one graph have."""
    notes = []
    for kind, which in (
        ("node", "all but the first are called NAME#OUTPUT here; ONNX Runtime loads no such file"),
        ("initializer", "the last one counts, as for ONNX Runtime; the others are left as they are"),
    ):
        names = [name for what, name in found.program.doubled if what == kind]
        if names:
            notes.append(f"several {kind}s of a graph have one name ({listing(names, 3)}): {which}")
    return notes


def parting_notes(found: Plan, settings: Settings) -> list[str]:
    """Return notes on tensors that an exporter merged: those that were parted, and those that are still one."""
    parting, notes = found.parting, list[str]()
    if parting.copies:
        old = listing(dict.fromkeys(copy.of for copy in parting.copies.values()), 3)
        why = "as asked" if settings.untie else "as their readers need different values"
        made = f"{len(parting.copies)} new initializer{'s' * (len(parting.copies) > 1)} ({listing(parting.copies, 3)})"
        notes.append(f"an exporter merged equal tensors: {old} parted, {why}: {made}")
    notes += merged_notes(found, settings)
    if parting.tied and settings.untie:
        notes.append(f"used several times and left so, as no name tells the uses apart: {listing(parting.tied, 3)}")
    return notes


def merged_notes(found: Plan, settings: Settings, parted: Collection[str] = ()) -> list[str]:
    """Return a note on tensors that are still one, but for those that are parted otherwise."""
    merged = {name: count for name, count in found.parting.merged.items() if name not in parted}
    if not merged:
        return []
    return [
        f"an exporter merged equal tensors: {listing(merged, 3)} {'is' if len(merged) == 1 else 'are'} "
        f"{sum(merged.values())} parameters, which training would keep alike: part them by "
        f"{settings.spell('untie', True)}, or export again, in PyTorch with optimize=False (dynamo=True) or "
        "training=TrainingMode.TRAINING (dynamo=False)"
    ]


def left_notes(found: Plan) -> list[str]:
    """Return a note on constants that are added to a layer's product, keep their values, and are not measured."""
    left = {name: node for name, node in found.left_terms.items() if found.roles[name].fate == "kept"}
    if not left:
        return []
    after = f"layer {listing(dict.fromkeys(node.label for node in left.values()), 3)}"
    named = listing((found.program.constants[name].label for name in left), 3)
    few = "it is" if len(left) == 1 else "they are"
    return [f"added after {after} and left as {few}: {named}; the std is measured before that"]


def _aim(aims: Aims, key: str) -> str:
    """Return what a weight would be scaled to."""
    if not aims.scales(key):
        return "not scaled"
    share = aims.shares.get(key)
    if share is None or share.stream is None:
        return f"scaled to std {aims.stds[key]:g}"
    return f"scaled to {share.part:.3g} of the std of {quote(share.stream)}"


def _fate(found: Plan, layer: Layer, row: LayerReport, scaled: str, centred: Container[str]) -> str:
    """Return what would happen to a layer."""
    if row.status == "shared":
        return f"uses the weight of {found.weights[layer.weight].layers[0].node.label!r}, which decides its scale"
    drawn = _STARTS.get(row.init, f"drawn ({row.init})")
    if layer.source.computed and not layer.source.scaled_constant and row.init not in _STARTS:
        drawn += " before other constants multiply it"
    if not layer.scaled:
        return f"{drawn}, not scaled, as its gates, its attention or an old Scan bound or hide its output"
    if any(name in found.zeroed for name in layer.bias):
        return f"{drawn}, {scaled}, bias set to {'centre its channels' if layer.weight in centred else 'zero'}"
    return f"{drawn}, {scaled}" + (", what is added to its output stays" if layer.stays else "")
