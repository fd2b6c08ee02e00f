"""What came out: one row a layer, and what was left alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
    """An initialised, or measured, model."""

    model: Model
    layers: tuple[LayerReport, ...]
    skipped: tuple[SkippedReport, ...]
    kept_statistics: tuple[SkippedReport, ...]  # BatchNormalizations that keep their stored statistics
    changes: tuple[Change, ...]
    notes: tuple[str, ...]
    settings: Mapping[str, Any]
    data: Mapping[str, Any]
    device: str
    seconds: Mapping[str, float]
    target_std: float
    tolerance: float | None

    @property
    def good(self) -> bool:
        """Whether every layer that was to be scaled is."""
        return all(layer.good for layer in self.layers)
