"""Draw new weights and put them where the file keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto, helper

from onnx_lsuv import orthonormal
from onnx_lsuv.layers import Plan, Weight
from onnx_lsuv.lsuv.computed import settle
from onnx_lsuv.lsuv.execute import Progress
from onnx_lsuv.lsuv.scratch import Scratch
from onnx_lsuv.model import Array
from onnx_lsuv.program import stored
from onnx_lsuv.sources import scatter


@dataclass(frozen=True, slots=True)
class Drawn:
    """New values of constants, by the constant's name; how each weight was drawn, and a note, by its key."""

    values: dict[str, Array]
    methods: dict[str, str]
    notes: dict[str, str]
    fresh: frozenset[str] = frozenset()  # of `values`, those that start anew beside the layers


def request(weight: Weight, method: str) -> orthonormal.Request:
    """Return what to draw for a weight: in the view of the layer that uses it first."""
    first = weight.layers[0]
    matrix = first.matrix
    delta_fits = first.node.op_type == "Conv" and matrix.fan_in // matrix.taps <= matrix.fan_out
    if method == "delta" and not delta_fits:
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


def draw(plan: Plan, method: str, seed: int, threads: int, progress: Progress, scratch: Scratch) -> Drawn:
    """Draw all weights of a plan, side by side, and set the biases to zero.

    Returns:
        A new array for each constant that changes. With the method "keep" the weights are those of the file.
    """
    drawn = Drawn({}, {}, {})
    if method == "keep":
        for key, weight in plan.weights.items():
            for name in (name for layer in weight.layers for name in layer.source.touched):
                drawn.values.setdefault(name, stored(plan.program, name))
            drawn.methods[key] = "keep"
    else:
        weights = list(plan.weights.values())
        requests = [request(weight, method) for weight in weights]
        for done, (i, matrices) in enumerate(orthonormal.draw_all(requests, seed, threads), 1):
            _put(plan, weights[i], matrices, drawn.values, scratch)
            progress("draw", done, len(weights))
        for weight, asked in zip(weights, requests, strict=True):
            found = settle(plan.program, weight, asked.method, drawn.values)
            drawn.methods[weight.key], drawn.notes[weight.key] = found
    _set_biases(plan, drawn.values)
    return drawn


def _put(plan: Plan, weight: Weight, matrices: Array, values: dict[str, Array], scratch: Scratch) -> None:
    """Write what was drawn into the constants that hold a weight."""
    first, constant = weight.layers[0], weight.constant
    dtype = helper.tensor_dtype_to_np_dtype(constant.elem_type)
    operand = first.matrix.operand(matrices, first.source.shape)
    if not first.source.path:
        values[constant.name] = scratch.keep(np.ascontiguousarray(operand, dtype=dtype))
        return
    for name in first.source.constants:
        if name not in values:
            # A part that no layer uses keeps its values.
            part = first.source.partial
            values[name] = scratch.keep(
                np.array(stored(plan.program, name)) if part else np.empty(constant.dims, dtype)
            )
    scatter(values, first.source, operand)


def _set_biases(plan: Plan, values: dict[str, Array]) -> None:
    for name in plan.zeroed:
        constant = plan.program.constants[name]
        values[name] = np.zeros(constant.dims, helper.tensor_dtype_to_np_dtype(constant.elem_type))
    for source, hidden in plan.forget:
        # (directions, 8 H): input, output, forget and cell gate of the input's bias, then of the state's.
        bias = np.zeros(source.shape, values[source.constants[0]].dtype)
        bias[:, 2 * hidden : 3 * hidden] = 1
        scatter(values, source, bias)


def multiply(plan: Plan, values: dict[str, Array], scales: Mapping[str, float], scratch: Scratch) -> None:
    """Multiply each weight by its scale; the arrays of `values` are replaced or changed in place.

    A weight in half precision may end at infinity, which measuring it tells.
    """
    with np.errstate(over="ignore"):
        for key, scale in scales.items():
            _multiply_one(plan.weights[key], values, scale, scratch)


def _multiply_one(weight: Weight, values: dict[str, Array], scale: float, scratch: Scratch) -> None:
    first = weight.layers[0]
    source = first.source
    carriers = source.constants if first.scaled_constant == source.constant else (first.scaled_constant,)
    steps = tuple(dict.fromkeys(each.operand.constant for each in weight.quantiser_steps if each.scaled))
    for name in (*carriers, *steps):
        if not values[name].flags.writeable:
            values[name] = scratch.keep(np.array(values[name]))
    factor = np.asarray(scale, np.float64 if values[first.scaled_constant].dtype == np.float64 else np.float32)
    if source.partial and first.scaled_constant == source.constant:
        scatter(values, source, source.view(values) * factor)
        carriers = ()
    for name in (*carriers, *steps):
        np.multiply(values[name], factor, out=values[name], casting="unsafe")
