"""Draw new weights and put them where the file keeps them; set biases, and what starts anew beside them."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from onnx_lsuv import orthonormal
from onnx_lsuv.layers import Plan, Weight
from onnx_lsuv.lsuv.computed import has_gain, set_dependents
from onnx_lsuv.lsuv.execute import Progress
from onnx_lsuv.lsuv.fresh import fresh_values
from onnx_lsuv.lsuv.scratch import Scratch
from onnx_lsuv.lsuv.settings import Settings
from onnx_lsuv.model import Array
from onnx_lsuv.program import stored
from onnx_lsuv.sources import scatter


@dataclass(frozen=True, slots=True)
class Drawn:
    """New values of constants, by the constant's name; how each weight was drawn, and a note, by its key."""

    values: dict[str, Array]
    methods: dict[str, str]
    notes: dict[str, str]
    fresh: frozenset[str]  # of `values`, those that start anew beside the layers


def draw(
    plan: Plan, settings: Settings, asked: Mapping[str, str], threads: int, progress: Progress, scratch: Scratch
) -> Drawn:
    """Return a new array for each constant that changes; weights that are kept are there only to be scaled.

    Args:
        plan: the layers.
        settings: the seed, and whether weights are scaled.
        asked: the method by weight key.
        threads: for drawing.
        progress: called with "draw", the weights done and their total.
        scratch: for what is drawn.
    """
    weights = [weight for weight in plan.weights.values() if asked[weight.key] != "keep"]
    values: dict[str, Array] = {}
    methods, notes = dict.fromkeys(plan.weights, "keep"), dict[str, str]()
    requests = [_request(weight, asked[weight.key]) for weight in weights]
    # Of the memory allowed goes what draws, casts and products of the largest take; all, where that is more.
    pairs = zip(requests, weights, strict=True)
    room = max((r.size * (2 * r.precision().itemsize + w.constant.dtype.itemsize) for r, w in pairs), default=0)
    scratch.reserve(min(room, scratch.budget - scratch.spent))
    with ThreadPoolExecutor(1, thread_name_prefix="put") as beside:
        # While one is cast and written, the next is drawn.
        putting: Future[None] | None = None
        for i, matrices in orthonormal.draw_all(requests, settings.seed, threads):
            if putting is not None:
                putting.result()
            putting = beside.submit(_put, plan, weights[i], matrices, values, scratch)
            del matrices
            if threads == 1:
                putting.result()
            progress("draw", i + 1, len(weights))
        if putting is not None:
            putting.result()
    for weight, request in zip(weights, requests, strict=True):
        method = "zero" if asked[weight.key] == "zero" else request.method
        methods[weight.key], notes[weight.key] = set_dependents(plan.program, weight, method, values)
    if settings.rescale:
        kept = (weight for weight in plan.weights.values() if asked[weight.key] == "keep")
        names = (name for weight in kept for layer in weight.layers for name in layer.source.touched)
        values |= {name: stored(plan.program, name) for name in dict.fromkeys(names) if name not in values}
    _set_biases(plan, values)
    fresh = fresh_values(plan, settings.seed, threads, scratch)
    return Drawn(values | fresh, methods, notes, frozenset(fresh))


def _request(weight: Weight, method: str) -> orthonormal.Request:
    """Return what to draw for a weight: in the view of the layer that uses it first."""
    first = weight.layers[0]
    matrix = first.matrix
    delta_fits = first.node.op_type == "Conv" and matrix.fan_in // matrix.taps <= matrix.fan_out
    if (method == "delta" and not delta_fits) or (method == "zero" and has_gain(first)):
        method = "orthonormal"
    double = weight.constant.elem_type == TensorProto.DOUBLE
    return orthonormal.Request(
        identity=weight.identity,
        blocks=matrix.blocks,
        fan_out=matrix.fan_out,
        fan_in=matrix.fan_in,
        method=method,  # type: ignore[arg-type]
        taps=matrix.taps,
        centre=matrix.centre,
        precision=np.float64 if double else np.float32,
    )


def _put(plan: Plan, weight: Weight, matrices: Array, values: dict[str, Array], scratch: Scratch) -> None:
    """Write what was drawn into the constants that hold a weight."""
    first, constant = weight.layers[0], weight.constant
    operand = first.matrix.operand(matrices, first.source.shape)
    if not first.source.path:
        values[constant.name] = scratch.keep(np.ascontiguousarray(operand, dtype=constant.dtype))
        return
    for name in first.source.constants:
        if name not in values:
            # A part that no layer uses keeps its values.
            part = first.source.partial
            values[name] = scratch.keep(
                np.array(stored(plan.program, name)) if part else np.empty(constant.dims, constant.dtype)
            )
    scatter(values, first.source, operand)


def _set_biases(plan: Plan, values: dict[str, Array]) -> None:
    for name in plan.zeroed:
        constant = plan.program.constants[name]
        values[name] = np.zeros(constant.dims, constant.dtype)
    for source, hidden in plan.forget:
        # (directions, 8 H): input, output, forget and cell gate of the input's bias, then of the state's.
        bias = np.zeros(source.shape, values[source.constants[0]].dtype)
        bias[:, 2 * hidden : 3 * hidden] = 1
        scatter(values, source, bias)
