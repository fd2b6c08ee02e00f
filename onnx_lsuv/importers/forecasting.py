"""What trains where, of a file as it is and in its portable form."""

from __future__ import annotations

from onnx_lsuv.importers.forecast import Trains, trains
from onnx_lsuv.layers import Plan, find_layers
from onnx_lsuv.program import expand


def forecast(model: Plan, portable: Plan | None = None) -> tuple[Trains, ...]:
    """Say what trains where."""
    from onnx_lsuv.portable.rewriting import rewrite  # noqa: PLC0415

    return trains(model, portable or find_layers(expand(rewrite(model.program.model).model)))
