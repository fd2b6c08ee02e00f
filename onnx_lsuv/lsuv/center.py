"""Biases that give each channel of a layer's output a mean of zero, as in fastai's variant of LSUV."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import helper

from onnx_lsuv.errors import listing
from onnx_lsuv.graph import MEAN, Record
from onnx_lsuv.layers import Centre, Plan
from onnx_lsuv.model import Array


def not_centred(plan: Plan, centres: Mapping[str, Centre]) -> list[str]:
    """Return a note on the layers that cannot be centred."""
    without = [layer.node.label for layer in plan.layers if layer.scaled and layer.weight not in centres]
    if not without:
        return []
    return [f"not centred, as they have no bias of one value a channel that is theirs alone: {listing(without, 5)}"]


def bias_values(
    plan: Plan, centres: Mapping[str, Centre], records: Mapping[str, Record], scales: Mapping[str, float]
) -> dict[str, Array]:
    """Return the new biases by constant: minus each channel's mean after scaling.

    Args:
        plan: the layers.
        centres: those to centre, by weight key.
        records: of these layers, with a column for each channel.
        scales: by weight key; a layer without one keeps its bias of zero.
    """
    values: dict[str, Array] = {}
    for key, centre in centres.items():
        if key in scales:
            constant = plan.program.constants[centre.bias]
            bias = (-scales[key] / centre.factor * records[key][MEAN]).reshape(constant.dims)
            values[centre.bias] = bias.astype(helper.tensor_dtype_to_np_dtype(constant.elem_type))
    return values
