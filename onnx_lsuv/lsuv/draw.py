"""Draw new weights and put them where the file keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from onnx_lsuv import orthonormal
from onnx_lsuv.layers import Plan, Weight, scatter
from onnx_lsuv.lsuv.execute import Progress
from onnx_lsuv.model import fill, read

Array = NDArray[Any]

METHODS = ("orthonormal", "delta", "he", "xavier", "keep")


@dataclass(frozen=True, slots=True)
class Drawn:
    """New values of constants, by the constant's name, and how each weight was drawn, by its key."""

    values: dict[str, Array]
    methods: dict[str, str]


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


def draw(plan: Plan, method: str, seed: int, threads: int, progress: Progress) -> Drawn:
    """Draw all weights of a plan, side by side, and set the biases to zero.

    Returns:
        A new array for each constant that changes. With the method "keep" the weights are those of the file.
    """
    program = plan.program
    weights = list(plan.weights.values())
    values: dict[str, Array] = {}
    methods: dict[str, str] = {}
    if method == "keep":
        for weight in weights:
            values.setdefault(weight.constant.name, stored(plan, weight.constant.name))
            methods[weight.key] = "keep"
    else:
        requests = [request(weight, method) for weight in weights]
        for done, (i, matrices) in enumerate(orthonormal.draw_all(requests, seed, threads), 1):
            weight, first = weights[i], weights[i].layers[0]
            methods[weight.key] = requests[i].method
            constant = weight.constant
            dtype = helper.tensor_dtype_to_np_dtype(constant.elem_type)
            operand = first.matrix.operand(matrices, first.source.shape)
            if not first.source.path:
                values[constant.name] = np.ascontiguousarray(operand, dtype=dtype)
            else:
                if constant.name not in values:
                    # A part that no layer uses keeps its values.
                    values[constant.name] = (
                        np.array(stored(plan, constant.name))
                        if first.source.partial
                        else np.empty(constant.dims, dtype)
                    )
                scatter(values[constant.name], first.source, operand)
            progress("draw", done, len(weights))
    for name in plan.zeroed:
        constant = program.constants[name]
        values[name] = np.zeros(constant.dims, helper.tensor_dtype_to_np_dtype(constant.elem_type))
    return Drawn(values, methods)


def stored(plan: Plan, name: str) -> Array:
    """Return the values that the file holds for a constant."""
    constant = plan.program.constants[name]
    assert constant.site is not None
    if constant.origin == "ConstantOfShape":
        return np.full(constant.dims, fill(plan.program.model, constant.site))
    return read(plan.program.model, constant.site)


def rescale(plan: Plan, values: dict[str, Array], scales: Mapping[str, float]) -> None:
    """Multiply each weight by its scale; the arrays of `values` are replaced or changed in place."""
    for key, scale in scales.items():
        weight = plan.weights[key]
        name, source = weight.constant.name, weight.layers[0].source
        array = values[name]
        if not source.partial and array.flags.writeable:
            np.multiply(array, np.asarray(scale, _wide(array)), out=array, casting="unsafe")
        elif not source.partial:
            values[name] = (array * np.asarray(scale, _wide(array))).astype(array.dtype, copy=False)
        else:
            if not array.flags.writeable:
                values[name] = array = np.array(array)
            operand = source.view(array)
            scatter(array, source, operand * np.asarray(scale, _wide(array)))


def _wide(array: Array) -> Any:
    """Return the type to multiply in: never less than float32."""
    return np.float64 if array.dtype == np.float64 else np.float32
