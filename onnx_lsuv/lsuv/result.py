"""What came out: one row a layer, and what was left alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from onnx_lsuv.errors import quote
from onnx_lsuv.layers import Plan, find_centres, find_layers
from onnx_lsuv.lsuv.patterns import Choice
from onnx_lsuv.lsuv.settings import Settings
from onnx_lsuv.model import Array, Model, named_arrays
from onnx_lsuv.roles import Patterns

# A layer's status. The first six do not count against the exit status.
STATUSES: dict[str, str] = {
    "ok": "drawn and scaled, and measured within the tolerance",
    "drawn": "drawn; not rescaled, as this kind of layer, or the user, wants",
    "scaled": "drawn and scaled, not measured again",
    "found": "found; nothing was run",
    "shared": "uses the weight of another layer, which decides its scale",
    "not-reached": "drawn; the data never reach the layer",
    "off": "measured outside the tolerance",
    "degenerate": "its output has no finite, positive variance to scale by",
}
GOOD = frozenset({"ok", "drawn", "scaled", "found", "shared", "not-reached"})


@dataclass(frozen=True, slots=True)
class LayerReport:
    """What happened to one layer.

    Attributes:
        name: of the node.
        op: its operator.
        weight: the tensor that holds its weight.
        scope: the graph or function that the node is in.
        path: operators between that tensor and the layer.
        shape: of the weight as the layer sees it.
        dtype: of the weight.
        blocks: how many matrices the weight is.
        fan_out: rows of each.
        fan_in: columns of each.
        init: how the weight was drawn.
        target: the std wanted.
        status: "ok", "drawn", "scaled", "found", "shared" or "not-reached", which are good; "off" or "degenerate".
        std_drawn: of the output with the weight as drawn.
        scale: what the drawn weight was multiplied by.
        mean: of the output, measured on the final weights.
        std: likewise.
        signal: the share of that variance that depends on the input: the mean, over the positions of the output, of the
            variance over the samples, by the variance over everything. None where that is not known: of one sample,
            inside If, Loop and Scan, where the samples' axis cannot be followed.
        dead: the share of units, channels or features, of which the activation after the layer gives nothing for any
            sample and position. None where it is no half rectifier, or does not follow as such.
        saturated: the share of values for which that activation is at its end: beyond 0.99 of what it can give. None
            where it has none.
        std_before: of the output in the file as it came, from `measure_before`.
        note: what else there is to say.
    """

    name: str
    op: str
    weight: str
    scope: str
    path: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    blocks: int
    fan_out: int
    fan_in: int
    init: str
    target: float
    status: str  # a key of STATUSES
    std_drawn: float | None = None
    scale: float | None = None
    mean: float | None = None
    std: float | None = None
    signal: float | None = None
    dead: float | None = None
    saturated: float | None = None
    std_before: float | None = None
    note: str = ""

    @property
    def good(self) -> bool:
        """Whether the layer does not count against the exit status."""
        return self.status in GOOD


@dataclass(frozen=True, slots=True)
class SkippedReport:
    """A node that was left alone, and why.

    Attributes:
        name: of the node.
        op: its operator.
        weight: the tensor that may be its weight, if there is one.
        shape: of that.
        reason: a word, such as "excluded" or "tied"; a key of `onnx_lsuv.layers.REASONS`.
        detail: the reason in words.
        mean: of its output, from `measure(beside=True)`; None where that is no float, or inside other nodes.
        std: likewise.
    """

    name: str
    op: str
    weight: str | None
    shape: tuple[int, ...] | None
    reason: str
    detail: str
    mean: float | None = None
    std: float | None = None


@dataclass(frozen=True, slots=True)
class SumReport:
    """A sum at which a branch joins a residual stream.

    Attributes:
        name: of the node.
        op: its operator.
        stream: which stream it belongs to, from 1 on.
        place: how many layers come before it in the order of execution.
        mean: of what it gives, None where it was not reached.
        std: likewise.
    """

    name: str
    op: str
    stream: int
    place: int
    mean: float | None
    std: float | None


@dataclass(frozen=True, slots=True)
class Change:
    """A tensor whose values changed, or one that is new.

    Attributes:
        tensor: its name.
        scope: the graph or function that it is in.
        role: a key of `onnx_lsuv.roles.ROLES`.
        became_initializer: whether a node made it before.
        parted_from: the tensor that it was one with, as an exporter had merged them; None where it was there before.
        has_new_values: whether it has other values than before; only one that was parted may have none.
        absent: whether the file had no values for it.
    """

    tensor: str
    scope: str
    role: str
    became_initializer: bool
    parted_from: str | None = None
    has_new_values: bool = True
    absent: bool = False


@dataclass(frozen=True, slots=True)
class RoleReport:
    """What a constant tensor is, and what happens to it.

    Attributes:
        tensor: its name.
        scope: the graph or function that it is in.
        role: a key of `onnx_lsuv.roles.ROLES`.
        evidence: what tells, in a word.
        fate: what happens to it, or did; a key of `onnx_lsuv.roles.FATES`.
        dims: its shape.
    """

    tensor: str
    scope: str
    role: str
    evidence: str
    fate: str
    dims: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Remaining:
    """A tensor that keeps what it may have learned, after a full restart.

    Attributes:
        tensor: its name, or that of the node that holds it.
        scope: the graph or function that it is in.
        cause: why it stays, in words.
    """

    tensor: str
    scope: str
    cause: str


@dataclass(frozen=True, slots=True)
class Result:
    """A planned, initialised, or measured model.

    Attributes:
        model: with its new values, and initializers where merged tensors were parted, which `save` and `save_weights`
            write.
        plan: of that model before its values changed, for `forecast`; its `parting` has the one that was given.
        verb: what made the result: "plan", "initialize" or "measure".
        settings: by which.
        layers: a `LayerReport` for each layer, in the order of execution.
        skipped: a `SkippedReport` for each node that looks like a layer and was left alone.
        notes: what else there is to say; each a sentence.
        kept_statistics: a `SkippedReport` for each BatchNormalization that keeps its stored statistics.
        changes: a `Change` for each tensor that has new values, or is new.
        sums: from `measure(beside=True)`, a `SumReport` for each sum of a residual stream, in the order of execution.
        remaining: with `fresh`, a `Remaining` for each tensor that keeps, or may keep, what it learned.
        data: batches, samples and inputs, as in a JSON report.
        device: where it ran: "cpu" or "cuda:N"; "none" where nothing ran.
        device_notes: those of the notes that say why there, and what it took.
        seconds: of each phase.
    """

    model: Model
    plan: Plan = field(repr=False)
    verb: str
    settings: Settings
    layers: tuple[LayerReport, ...]
    skipped: tuple[SkippedReport, ...]
    notes: tuple[str, ...]
    kept_statistics: tuple[SkippedReport, ...] = ()
    changes: tuple[Change, ...] = ()
    sums: tuple[SumReport, ...] = ()
    remaining: tuple[Remaining, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    device: str = "none"
    device_notes: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        """Whether every layer that was to be scaled is, and with `strict` nothing is in doubt."""
        return all(layer.good for layer in self.layers) and not self.doubts

    @property
    def doubts(self) -> tuple[str, ...]:
        """With `strict`, a sentence for each thing in doubt: what `measure` notes, but of the device, or remains."""
        if not self.settings.strict:
            return ()
        if self.verb == "measure":
            return tuple(note for note in self.notes if note not in self.device_notes)
        return tuple(f"{quote(each.tensor)} may keep what it learned: {each.cause}" for each in self.remaining)

    def weights(self) -> dict[str, Array]:
        """Return every floating-point initializer by its name, with its new values: what `save_weights` writes.

        The arrays are copies; bfloat16 has the type of ml_dtypes. Raises ModelError where one cannot be read.
        """
        return named_arrays(self.model)

    @property
    def roles(self) -> tuple[RoleReport, ...]:
        """A `RoleReport` for each constant of the model as it was given."""
        fates, constants = self._fates(), self.plan.program.constants
        return tuple(
            RoleReport(each.label, each.scope, role.role, role.evidence, fates.get(name, role.fate), each.dims)
            for (name, role), each in zip(self.plan.roles.items(), constants.values(), strict=True)
        )

    def _fates(self) -> dict[str, str]:
        """Return what happens to constants where the settings make it another thing than the plan says."""
        if self.verb == "measure":
            return dict.fromkeys(self.plan.roles, "kept")
        fates: dict[str, str] = {}
        for layer, row in zip(self.plan.layers, self.layers, strict=False):  # the portable form has no rows
            scaled = self.settings.rescale and self.plan.weights[layer.weight].scaled
            if row.init in ("keep", "zero"):
                fate = "zero" if row.init == "zero" else "scaled" if scaled else "kept"
                fates |= dict.fromkeys(layer.source.touched, fate)
        if self.settings.center:
            fates |= {centre.bias: "centred" for centre in find_centres(self.plan).values()}
        return fates

    @property
    def needs_data(self) -> bool:
        """Whether anything has to be measured: layers, or the statistics of BatchNormalizations."""
        return self.settings.rescale or bool(self.plan.norms)

    @property
    def whole_plan(self) -> Plan:
        """The plan with all layers, fixed transforms where a pattern names them, and with biases to be set."""
        kept = self.settings.kept_biases & {"*", *(layer.node.op for layer in self.plan.layers)}
        chosen = self.settings.include or self.settings.exclude or kept
        named = Patterns(named=Choice(self.settings.include, ()).named)
        return find_layers(self.plan.program, named) if chosen else self.plan

    @property
    def target_std(self) -> float:
        """The std wanted of every layer without a target of its own."""
        return self.settings.target_std

    @property
    def tolerance(self) -> float | None:
        """On the variance relative to its target; None for the usual ones."""
        return self.settings.tolerance
