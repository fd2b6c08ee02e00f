"""What came out: one row a layer, and what was left alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from onnx_lsuv.layers import Plan, find_layers
from onnx_lsuv.lsuv.patterns import Choice
from onnx_lsuv.lsuv.settings import Settings
from onnx_lsuv.model import Model

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
    """What happened to one layer."""

    name: str
    op: str
    weight: str
    scope: str
    path: tuple[str, ...]  # operators between the weight's tensor and the layer
    shape: tuple[int, ...]  # of the weight as the layer sees it
    dtype: str
    blocks: int
    fan_out: int
    fan_in: int
    init: str  # how the weight was drawn
    target: float  # std wanted
    status: str  # a key of STATUSES
    std_drawn: float | None = None  # of the output with the weight as drawn
    scale: float | None = None  # what the drawn weight was multiplied by
    mean: float | None = None  # of the output, measured on the final weights
    std: float | None = None  # likewise
    note: str = ""

    @property
    def good(self) -> bool:
        """Whether the layer does not count against the exit status."""
        return self.status in GOOD


@dataclass(frozen=True, slots=True)
class SkippedReport:
    """A node that was left alone, and why."""

    name: str
    op: str
    weight: str | None
    shape: tuple[int, ...] | None
    reason: str  # a key of layers.REASONS
    detail: str


@dataclass(frozen=True, slots=True)
class Change:
    """A tensor whose values changed."""

    tensor: str
    scope: str
    # "weight", "bias", "statistics", "step" (of a quantiser, or a bound before it), "scale", "slope", "embedding" or
    # "state"
    role: str
    became_initializer: bool


@dataclass(frozen=True, slots=True)
class Result:
    """A planned, initialised, or measured model."""

    model: Model
    plan: Plan = field(repr=False)  # of the model as it was given
    verb: str  # "plan", "initialize" or "measure"
    settings: Settings
    layers: tuple[LayerReport, ...]
    skipped: tuple[SkippedReport, ...]
    notes: tuple[str, ...]
    kept_statistics: tuple[SkippedReport, ...] = ()  # BatchNormalizations that keep their stored statistics
    changes: tuple[Change, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    device: str = "none"
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        """Whether every layer that was to be scaled is."""
        return all(layer.good for layer in self.layers)

    @property
    def needs_data(self) -> bool:
        """Whether anything has to be measured: layers, or the statistics of BatchNormalizations."""
        return self.settings.rescale or bool(self.plan.norms)

    @property
    def whole_plan(self) -> Plan:
        """The plan with all layers, fixed transforms where a pattern names them, and with biases to be set."""
        chosen = self.settings.include or self.settings.exclude or self.settings.keep_bias
        return find_layers(self.plan.program, named=Choice(self.settings.include, ()).named) if chosen else self.plan

    @property
    def target_std(self) -> float:
        """The std wanted of every layer without a target of its own."""
        return self.settings.target_std

    @property
    def tolerance(self) -> float | None:
        """On the variance relative to its target; None for the usual ones."""
        return self.settings.tolerance
