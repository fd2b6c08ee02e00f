"""Biases that give each channel of a layer's output a mean of zero, as in fastai's variant of LSUV."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from onnx import helper

from onnx_lsuv.graph import MEAN, Record
from onnx_lsuv.layers import Centre, Plan, find_centres


@dataclass(frozen=True, slots=True)
class Centres:
    """The layers to centre."""

    found: Mapping[str, Centre]  # by weight key
    notes: tuple[str, ...]

    @property
    def channels(self) -> dict[str, int]:
        """Channels by weight key."""
        return {key: centre.channels for key, centre in self.found.items()}


def centres_of(plan: Plan) -> Centres:
    """Return the layers of a plan that can be centred, and a note on those that cannot."""
    found = find_centres(plan)
    without = [layer.node.label for layer in plan.layers if layer.scaled and layer.weight not in found]
    if not without:
        return Centres(found, ())
    names = ", ".join(map(repr, without[:5])) + (f" and {len(without) - 5} more" if len(without) > 5 else "")
    note = f"not centred, as they have no bias of one value a channel that is theirs alone: {names}"
    return Centres(found, (note,))


def bias_values(
    plan: Plan, centres: Centres, records: Mapping[str, Record], scales: Mapping[str, float]
) -> dict[str, NDArray[Any]]:
    """Return the new biases by constant: minus each channel's mean after scaling.

    Args:
        plan: the layers.
        centres: those to centre.
        records: of these layers, with a column for each channel.
        scales: by weight key; a layer without one keeps its bias of zero.
    """
    values: dict[str, NDArray[Any]] = {}
    for key, centre in centres.found.items():
        if key in scales:
            constant = plan.program.constants[centre.bias]
            bias = -scales[key] / centre.factor * records[key][MEAN]
            values[centre.bias] = bias.reshape(constant.dims).astype(
                helper.tensor_dtype_to_np_dtype(constant.elem_type)
            )
    return values
