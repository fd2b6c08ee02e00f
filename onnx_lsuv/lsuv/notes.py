"""Notes that guide: where unit variance does not do what one might think.

One note a kind, however many layers it is about:

    norm      a layer feeds normalisations alone: they cancel its scale, in training as well
    gate      a layer feeds a gate: its std decides how far the gate opens and closes
    residual  layers end the branches of a residual stream: they get less, or why not
    average   last layers read averages of what a BatchNormalization gives, which hardly vary: they get less

And by what was measured: norms before scaled layers whose stored statistics are not those of the data, last layers of
which next to nothing depends on the input, activations that silence, or saturate, most of what they get, and layers
that were scaled as others although they get less.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from onnx_lsuv.errors import listing
from onnx_lsuv.graph import COUNT, MEAN, VAR, Record, norm_key
from onnx_lsuv.layers import Layer, Norm, Plan
from onnx_lsuv.lsuv.neighbours import feeds_gate, feeds_norms_alone
from onnx_lsuv.lsuv.patterns import EVEN, Aims
from onnx_lsuv.lsuv.result import LayerReport
from onnx_lsuv.lsuv.settings import Settings, Spell, keyword
from onnx_lsuv.program import stored
from onnx_lsuv.roles import before

SECTION = "What the notes say"  # of README
FEW = 3
MISFIT = 3.0  # times the std that a norm promises, from which on its statistics are not those of the data
# Of the variance at the last layer: nets that trained at once had more of it that depends on the input, and those that
# stuck or were slow less (17-layer ReLU and maxout nets, ResNet-20 without norms; MNIST, CIFAR-10; 0.01 to 0.21 there,
# 0.99 once centred).
FAINT = 0.2
USUAL = 0.01  # how near to the std of other layers one is that was scaled to it
MOST = 0.5  # of a layer's units, or values: thin ReLU nets of 30 layers are seen to silence 0.06 at most


@dataclass(frozen=True, slots=True)
class Note:
    """One thing to know about a model."""

    kind: str  # "norm", "gate", "residual" or "average"
    text: str
    section: str = SECTION  # where README says more

    def __str__(self) -> str:
        return f"{self.text} (README: {self.section})"


def guide(plan: Plan, aims: Aims, lowered: Collection[str] = (), spell: Spell = keyword) -> list[Note]:
    """Return what is to be known about a model's layers.

    Args:
        plan: the layers.
        aims: what is wanted of them.
        lowered: keys of the weights whose target is below the others' already.
        spell: how a choice is called.
    """
    texts: dict[str, str] = {}
    scaled = [layer for layer in plan.layers if layer.scaled]
    if normed := [layer for layer in scaled if feeds_norms_alone(plan.program, layer)]:
        texts["norm"] = (
            f"{_count(normed, scaled)} a normalisation and nothing else ({_listed(normed)}): it cancels their "
            "scale, in training as well, so what counts there is the orthonormal draw"
        )
    if gates := [layer for layer in scaled if layer.weight not in lowered and feeds_gate(plan.program, layer)]:
        texts["gate"] = (
            f"{_count(gates, scaled)} a gate ({_listed(gates)}): their std decides how far it opens and closes; "
            f"a smaller one, as by {spell('target', dict.fromkeys(_only(plan, gates), 0.1))}, starts it nearly constant"
        )
    if residual := _residual(aims, scaled, spell):
        texts["residual"] = residual
    if means := [layer for layer in scaled if layer.weight in aims.averages]:
        usual = dict.fromkeys(_only(plan, means), aims.averages[means[0].weight])
        texts["average"] = (
            f"{_count(means, scaled, 'read')} averages of what a BatchNormalization gives ({_listed(means)}), which "
            f"hardly vary: a last layer there gets {EVEN:g} of the usual std, and was seen to train better; "
            f"{spell('target', usual)} or {spell('residual', 'off')} gives it all"
        )
    return [Note(kind, text) for kind, text in texts.items()]


def _residual(aims: Aims, scaled: Sequence[Layer], spell: Spell) -> str:
    """Return what was done at the ends of residual branches, and why not at others."""
    parts, left = list[str](), dict[str, list[Layer]]()
    if ends := [layer for layer in scaled if layer.weight in aims.shares]:
        parts.append(
            f"{_count(ends, scaled, 'end')} residual branches ({_listed(ends)}): where L join a stream, each gets its "
            f"std / sqrt(L), so that it does not grow with depth; {spell('residual', 'off')} gives them the usual std"
        )
    for layer, why in aims.left.items():
        left.setdefault(why, []).append(layer)
    for why, layers in left.items():
        parts.append(f"{_count(layers, scaled, 'end')} residual branches at the usual std ({_listed(layers)}): {why}")
    return "; ".join(parts)


def measured_notes(plan: Plan, rows: Sequence[LayerReport], aims: Aims, settings: Settings) -> list[str]:
    """Return notes on a model that was measured as it is: `lost`, and whether layers have the std that others get."""
    usual = [
        layer
        for row, layer in zip(rows, plan.layers, strict=True)
        if row.std and not row.good and abs(row.std / settings.target_std - 1) < USUAL
    ]
    found, off = lost(plan, rows, settings), settings.spell("residual", "off")
    if ends := [layer for layer in usual if layer.weight in aims.shares]:
        do = "ends a residual branch" if len(ends) == 1 else "end residual branches"
        found.append(f"{_listed(ends)}: {do}, with the usual std; give {off} where the model was initialised so")
    if means := [layer for layer in usual if layer.weight in aims.averages]:
        do = "reads" if len(means) == 1 else "read"
        given = settings.spell("target", dict.fromkeys(_only(plan, means), settings.target_std))
        found.append(
            f"{_listed(means)}: {do} averages of what a BatchNormalization gives, with the usual std; give {given} or "
            f"{off} where the model was initialised so"
        )
    return found


def misfits(plan: Plan, records: Mapping[str, Record], spell: Spell = keyword) -> list[str]:
    """Return a note on norms before scaled layers that keep statistics which do not fit the data.

    Args:
        plan: the layers and norms.
        records: of what goes into the norms, by key.
        spell: how a choice is called.
    """
    leading = before(plan.program, {layer.node for layer in plan.layers if layer.scaled})
    norms = [norm for norm in plan.stored if norm.node.outputs[0] in leading and norm_key(norm) in records]
    stds = {norm: _promised(plan, norm, records[norm_key(norm)]) for norm in norms}
    off = {norm: std for norm, std in stds.items() if not 1 / MISFIT <= std <= MISFIT}
    if not off:
        return []
    worst = max(off, key=lambda norm: abs(math.log(max(off[norm], 1e-9))) if off[norm] < math.inf else math.inf)
    unchanged = {each.node for each in plan.kept_statistics if each.reason == "unchanged"}
    free = any(norm.node in unchanged for norm in off)
    cure = f"{spell('recalibrate', True)} to set them" if free else f"leave out {spell('exclude', None)}"
    return [
        f"the stored statistics of {len(off)} of {len(norms)} BatchNormalizations before scaled layers do not fit the "
        f"data ({listing((norm.node.label for norm in off), FEW)}): what {worst.node.label!r} should bring to a std of "
        f"1 has one of {off[worst]:.3g}; give data prepared as in training, or {cure}"
    ]


def lost(plan: Plan, rows: Sequence[LayerReport], settings: Settings) -> list[str]:
    """Return notes on what a start loses on the way: what depends on the sample, and what activations let through.

    What has learned may well give that, so nothing is said of weights that were kept, nor of a model that was measured
    as it is and has other stds than a start.
    """
    kept = all(row.init == "keep" and not (row.status == "ok" and row.scale is None) for row in rows)
    if kept or not all(row.good for row in rows):
        return []
    return [*_faint(plan, rows, settings), *_stopped(rows, settings)]


def _stopped(rows: Sequence[LayerReport], settings: Settings) -> Iterator[str]:
    """Yield notes on activations that give nothing for most units, or give their end for most values."""
    center = settings.spell("center", True)
    for key, what, cure in (
        ("dead", "units give nothing for any sample", f"initialised with {center} all do for some"),
        ("saturated", "values are at an end of its activation", f"a lower {settings.spell('target_std', None)} helps"),
    ):
        shares = {row.name: getattr(row, key) or 0.0 for row in rows if row.signal is not None}
        if most := sorted((name for name, share in shares.items() if share > MOST), key=lambda name: -shares[name]):
            worst, *others = most
            more = f" (and most after {listing(others, FEW)})" * bool(others)
            hint = "" if key == "dead" and settings.center else f"; {cure}"
            yield f"after layer {worst!r} {shares[worst]:.0%} of the {what}{more}, and no gradient passes there{hint}"


def _faint(plan: Plan, rows: Sequence[LayerReport], settings: Settings) -> list[str]:
    """Return a note on last layers whose output is nearly the same for every sample."""
    leading = before(plan.program, {layer.node for layer in plan.layers})
    last = [row for row, layer in zip(rows, plan.layers, strict=True) if layer.end.outputs[0] not in leading]
    low = {row.name: row.signal for row in last if row.signal is not None and row.signal < FAINT}
    if not low:
        return []
    worst, *others = sorted(low, key=lambda name: low[name])
    cure = "give it a learning rate 2 to 4 times lower"
    if not settings.center:
        made = f"initialised with {settings.spell('center', True)}"
        cure = f"{made} it keeps more, and wants a learning rate 2 to 4 times lower"
    return [
        f"at the last layer {worst!r} only {low[worst]:.0%} of the variance depends on the input, the rest is the same "
        f"for every sample{f' (nor does much more at {listing(others, FEW)})' * bool(others)}: below {FAINT:.0%} nets "
        f"start slowly, or not at all; {cure}"
    ]


def _promised(plan: Plan, norm: Norm, record: Record) -> float:
    """Return what the std about 0 of a normalised channel is, which should be 1, in the middle of all channels."""
    if record[COUNT, 0] == 0:
        return 1.0
    mean, var = (stored(plan.program, name).astype(np.float64).reshape(-1) for name in (norm.mean, norm.var))
    square = record[VAR] + (record[MEAN] - mean) ** 2
    with np.errstate(all="ignore"):
        found = np.sqrt(square / (var + norm.node.attributes.real("epsilon", 1e-5)))
    return float(np.median(found)) if np.isfinite(found).all() else math.inf


def _count(some: Sequence[Layer], every: Sequence[Layer], does: str = "feed") -> str:
    return f"{len(some)} of {len(every)} layers {does}{'s' * (len(some) == 1)}"


def _listed(layers: Sequence[Layer]) -> str:
    return listing((layer.node.label for layer in layers), FEW)


def _only(plan: Plan, layers: Sequence[Layer]) -> list[str]:
    """Return patterns for the names of layers that match no other layer, few where that can be."""
    labels = [layer.node.label for layer in layers]
    others = {layer.node.label for layer in plan.layers} - {*labels}
    patterns = _patterns(labels)
    exact = not any(fnmatchcase(name, pattern) for name in others for pattern in patterns)
    return patterns if exact else [_quoted(label) for label in dict.fromkeys(labels)]


def _patterns(labels: Sequence[str]) -> list[str]:
    """Return patterns for names, one for those that differ in numbers only: there a star stands for what differs."""
    groups: dict[tuple[str, ...], list[list[str]]] = {}
    for label in labels:
        words = re.split(r"(\d+)", label)
        groups.setdefault(tuple(words[::2]), []).append(words)
    found = []
    for rows in groups.values():
        columns = [set(column) for column in zip(*rows, strict=True)]
        found.append("".join(_quoted(one.pop()) if len(one) == 1 else "*" for one in columns))
    return found


def _quoted(label: str) -> str:
    """Return the pattern that matches a name alone."""
    return re.sub(r"[\[?*]", r"[\g<0>]", label)
