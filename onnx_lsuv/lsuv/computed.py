"""Weights that other constants are computed with: what the layer sees of a draw, and what has to follow it.

    w = g * v / |v|            weight normalisation: v is drawn, and g starts at what makes w the draw itself, or at 0
    w = dq(q(v, step), step)   fake quantisation: step starts at max |v| / reach, as `layers.quantisers` says
    w = mask * v               a product with constants that stay

The expression in the file is computed by ONNX Runtime with the new values. Where an orthonormal draw has rows (or
columns) of different lengths and these are what is divided by, they are first made equal, so that g is alike for all.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from onnx_lsuv import orthonormal, runtime
from onnx_lsuv.errors import LsuvError, listing
from onnx_lsuv.graph import expression
from onnx_lsuv.layers import Layer, Plan, Weight
from onnx_lsuv.lsuv.rows import HALF
from onnx_lsuv.model import Array
from onnx_lsuv.program import Node, Program, stored
from onnx_lsuv.sources import scatter, starting_value
from onnx_lsuv.sources.degrees import degrees

ALTERED = "altered"  # how a weight is called that is no longer what was drawn
_ALIKE, _ALIKE_HALF = 1e-3, 2e-2
_FEW = 3


def set_dependents(program: Program, weight: Weight, method: str, values: dict[str, Array]) -> tuple[str, str]:
    """Set what carries a drawn weight's scale, and what is scaled with it.

    Args:
        program: where the weight stands.
        weight: drawn; its values are in `values`.
        method: how it was drawn.
        values: new values of constants, changed in place.

    Returns:
        How the layer's weight is to be called, and a note where that is not how it was drawn.
    """
    layer, note = weight.layers[0], ""
    scaled_constant = layer.source.scaled_constant
    if method == "zero":
        if scaled_constant and has_gain(layer):
            values[scaled_constant] = np.zeros_like(stored(program, scaled_constant))
        # A step of zero divides by zero, and one that fits a zero weight fits none that training gives: it stays.
        return method, note
    if layer.source.computed:
        drawn = (
            _set_gain(program, layer, scaled_constant, method, values)
            if scaled_constant
            else _is_drawn(program, layer, values)
        )
        if not drawn:
            note, method = f"drawn {method}, {_change(program, layer)}", ALTERED
    steps: dict[str, Array] = {}
    for each in weight.quantiser_steps:
        name = each.operand.constant
        found = {name: np.array(stored(program, name))}
        rounded = _value(program, each.value, values, layer.source.rounding) if each.computed else None
        step = starting_value(each, each.view(values) if rounded is None else rounded)
        if each.operand.computed:
            # As alpha / 127: what it is multiplied by is what comes of a one.
            factor = _value(program, each.name, {name: np.ones_like(found[name])}, ())
            step = step if factor is None else step / factor
        scatter(found, each.operand, step)
        # Of several ways to the weight the one that needs most decides.
        before = steps.get(name, found[name])
        steps[name] = np.where(np.abs(before) > np.abs(found[name]), before, found[name])
    values |= steps
    return method, note


def has_gain(layer: Layer) -> bool:
    """Say whether another constant carries the scale of a layer's weight, as g of g * v / |v|, where v is never 0."""
    return bool(layer.source.computed and layer.source.scaled_constant)


def altered(plan: Plan, methods: Mapping[str, str]) -> list[str]:
    """Return a note on the weights that are no longer what was drawn where their layers see them."""
    found = [plan.weights[key].layers[0].node.label for key, method in methods.items() if method == ALTERED]
    if not found:
        return []
    return [
        f"constants that stay change what was drawn before its layer sees it ({len(found)} of {len(methods)} weights: "
        f"{listing(found, _FEW)}): it has the std asked for, and is not orthonormal"
    ]


def _set_gain(program: Program, layer: Layer, scaled_constant: str, method: str, values: dict[str, Array]) -> bool:
    """Set what carries the scale of v / |v| to what makes their product the draw; else alike for all of v.

    Returns:
        Whether their product is the draw.
    """
    source = layer.source
    before = stored(program, scaled_constant)
    values[scaled_constant] = np.ones_like(before)
    direction = _operand(program, layer, values)
    if direction is None:
        return False
    if method in ("orthonormal", "delta") and _equalise(layer, direction, method, values):
        direction = _operand(program, layer, values)
        assert direction is not None
    drawn = np.asarray(source.view(values), np.float64)
    factor = _factor(direction, drawn)
    if not (np.isfinite(factor) and factor > 0):
        return False
    gain, same = np.full(before.shape, factor), _alike(layer, direction * factor, drawn)
    if not same and before.size > 1:
        values[scaled_constant] = np.arange(1, before.size + 1).reshape(before.shape).astype(before.dtype)
        ramp = _operand(program, layer, values)
        assert ramp is not None
        fitted = _fitted(direction, ramp, drawn, before.size)
        if fitted is not None and _alike(layer, direction * fitted[1], drawn):
            gain, same = fitted[0].reshape(before.shape), True
    values[scaled_constant] = gain.astype(before.dtype)
    return same


def _fitted(direction: Array, ramp: Array, drawn: Array, size: int) -> tuple[Array, Array] | None:
    """Return the gains that take a direction nearest to the draw, and what each of its values is multiplied by.

    Args:
        direction: what the layer sees where every gain is 1.
        ramp: the same where they are 1, 2, 3, ...: it tells by which of them a value is multiplied.
        drawn: what it is to see.
        size: the number of gains.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(direction == 0, 1, ramp / direction)
    index = np.rint(ratio)
    if not (np.abs(ratio - index) < 0.1).all() or not ((index >= 1) & (index <= size)).all():
        return None
    place = index.astype(np.int64) - 1
    products = np.bincount(place.reshape(-1), (direction * drawn).reshape(-1), size)
    squares = np.bincount(place.reshape(-1), (direction * direction).reshape(-1), size)
    gains = np.where(squares > 0, products / np.where(squares > 0, squares, 1), 1)
    return gains, gains[place]


def _equalise(layer: Layer, direction: Array, method: str, values: dict[str, Array]) -> bool:
    """Give an orthonormal draw rows or columns of one length where each is divided by its own; say whether it did."""
    source, matrix = layer.source, layer.matrix
    drawn = matrix.view(np.asarray(source.view(values), np.float64))
    seen = matrix.view(direction)
    for axis in (2, 1) if method == "orthonormal" else (2,):
        squares = (seen * seen).sum(axis, keepdims=True)
        lengths = (seen * drawn).sum(axis, keepdims=True) / np.where(squares > 0, squares, 1)
        if not _alike(layer, lengths * seen, drawn):
            continue
        if np.ptp(lengths) <= _ALIKE * np.abs(lengths).max():
            return False
        turned = drawn if axis == 2 else drawn.swapaxes(1, 2)
        equal = np.stack([orthonormal.equal_rows(block) for block in turned])
        scatter(values, source, matrix.operand(equal if axis == 2 else equal.swapaxes(1, 2), source.shape))
        return True
    return False


def _is_drawn(program: Program, layer: Layer, values: Mapping[str, Array]) -> bool:
    """Say whether a layer sees its draw, scaled, before anything rounds it; what cannot be computed is no draw."""
    seen = _operand(program, layer, values)
    drawn = np.asarray(layer.source.view(values), np.float64)
    return seen is not None and _alike(layer, seen, drawn * _factor(drawn, seen))


def _factor(array: Array, other: Array) -> float:
    """Return what an array has to be multiplied by to be nearest to another."""
    square = float((array * array).sum())
    return float((array * other).sum()) / square if square > 0 else 1.0


def _alike(layer: Layer, one: Array, other: Array) -> bool:
    tolerance = _ALIKE_HALF if layer.source.elem_type in HALF else _ALIKE
    return bool(np.abs(one - other).max() <= tolerance * np.abs(other).max())


def _change(program: Program, layer: Layer) -> str:
    """Return what a draw is changed by, for a note."""
    source = layer.source
    growth = degrees(program, layer.node.inputs[layer.position], source.rounding) or {}
    others = [program.constants[name] for name in growth if name not in (source.constant, source.scaled_constant)]
    labels = [repr(constant.label) for constant in others if constant.size > 1]
    if not labels:
        return "then changed by what normalises it"
    return f"then changed by {', '.join(labels[:_FEW])}{' and others' * (len(labels) > _FEW)}, kept as it was"


def _operand(program: Program, layer: Layer, values: Mapping[str, Array]) -> Array | None:
    """Return what a layer sees of its weight before anything rounds it."""
    return _value(program, layer.node.inputs[layer.position], values, layer.source.rounding)


def _value(program: Program, name: str, values: Mapping[str, Array], exact: Collection[Node]) -> Array | None:
    """Return a value that is computed from constants, in float64; None where ONNX Runtime cannot compute it here."""
    model, constants, output = expression(program, name, exact)
    arrays = {each: np.require(values.get(each, stored(program, each)), requirements="C") for each in constants}
    inputs = {each: runtime.value_of(array, program.constants[each].elem_type) for each, array in arrays.items()}
    try:
        # One thread, so that the bytes are the same for any number of them.
        session = runtime.load(model, runtime.Device("cpu", 1))
        return runtime.array_of(runtime.run(session, inputs, (output,), {output})[output])
    except LsuvError:
        return None
