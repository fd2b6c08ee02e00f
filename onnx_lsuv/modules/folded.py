"""Norms that an exporter folded into the layers before them, and what stands beside known weights."""

from __future__ import annotations

import math
import re
from collections import defaultdict

import numpy as np

from onnx_lsuv.layers import Layer
from onnx_lsuv.model import Array
from onnx_lsuv.modules.search import COLLECTIONS, Match, Search, parted, statistic
from onnx_lsuv.modules.views import Part, View, orders, whole

ROUNDING = {2: 1e-2, 4: 1e-5, 8: 1e-5}  # relative, by bytes of a float; BatchNormalization's variance takes its part


def set_folded(search: Search) -> None:
    """Set the norms apart that the file cannot have: no statistics are left in it."""
    if any(search.held[name] - {0} for name in search.free()):
        return
    kinds = defaultdict[str, set[int]](set)
    for name in search.left():
        kinds[_module(name)].add(statistic(name))
    search.folded.update(name for name in search.left() if kinds[_module(name)] >= {3, 4})


def _module(tensor: str) -> str:
    parent, joint, _ = parted(tensor)
    first, _, rest = parent.partition(joint or ".")
    return rest if first in COLLECTIONS else parent


def by_scaled_value(search: Search) -> None:
    """Find weights into which the exporter folded the norm behind them, and the factor of each channel."""
    if not search.folded:
        return
    free = [name for name in search.free() if len(search.program.constants[name].dims) >= 2]
    for name in search.reference.floats():
        shape, known = search.reference.tensors[name].shape, search.found.get(name)
        if len(shape) < 2 or name in search.folded or (known is not None and known.how != "name"):
            continue
        for constant in free if known is None else known.constants:
            dims = search.program.constants[constant].dims
            fits = [axes for axes in orders(len(dims)) if tuple(dims[i] for i in axes) == shape]
            found = ((axes, _factors(search, name, constant, axes)) for axes in fits)
            axes, factors = next((each for each in found if each[1] is not None), ((), None))
            if factors is not None:
                search.found[name] = known or Match("scaled", whole(constant, dims, axes))
                search.factors[name] = factors
                break
        free = [each for each in free if search.found.get(name) is None or each not in search.found[name].constants]


def _factors(search: Search, tensor: str, constant: str, axes: tuple[int, ...]) -> Array | None:
    """Return what a tensor is multiplied by to be a constant, one factor for each channel; None where there is none.

    Channels lie along one axis, or, of a ConvTranspose with groups, along the first two.
    """
    values, others = search.reference.read(tensor), search.old(constant).transpose(axes)
    rank, rounding = values.ndim, ROUNDING[min(values.itemsize, others.itemsize)]
    for along in [(0,), (1,), (rank - 1,), (0, 1)]:
        rest = tuple(axis for axis in range(rank) if axis not in along)
        if math.prod(values.shape[axis] for axis in rest) < 2:
            continue
        one, other = values.astype(np.float64), others.astype(np.float64)
        norm = (one**2).sum(rest, keepdims=True)
        factor = (one * other).sum(rest, keepdims=True) / np.where(norm > 0, norm, 1)
        most = rounding * np.abs(other).max(rest, initial=0, keepdims=True)
        if factor.any() and (np.abs(one * factor - other) <= most).all():
            # A norm that starts with a scale of 0 lets nothing through, and tells nothing of the scale.
            factor = np.where(factor == 0, 1, factor)
            return factor if np.ptp(factor) > rounding * np.abs(factor).max() else factor.mean(keepdims=True)
    return None


def beside(search: Search) -> None:
    """Find the biases of layers whose weights are known."""
    free = set(search.free())
    for layer in search.plan.layers:
        if len(layer.bias) != 1:
            continue
        for weight in [name for name, each in search.found.items() if each.constants == layer.source.constants]:
            head, joint, tail = parted(weight)
            bias = re.sub("^coefs_", "intercepts_", head) + joint + re.sub("weight|kernel", "bias", tail)
            if bias == weight or bias not in search.reference.tensors:
                continue
            if weight in search.factors and search.factors[weight].size in (1, search.reference.size(bias)):
                search.factors[bias] = search.factors[weight].reshape(-1)
            view = _bias_view(search, layer, weight)
            if bias not in search.found and layer.bias[0] in free and search.reference.size(bias) == view.size:
                search.found[bias] = Match("beside", view)


def _bias_view(search: Search, layer: Layer, weight: str) -> View:
    """Return where a layer's bias lies: of a recurrent one, (directions, 2 gates H), in blocks as its weight's are."""
    constants, bias, parts = search.program.constants, layer.bias[0], search.found[weight].view.parts
    dims, of_weight = constants[bias].dims, constants[layer.source.constant].dims
    if len(of_weight) != 3 or dims != (of_weight[0], 2 * of_weight[1]):
        return whole(bias, dims)
    # Rows of (directions, gates H, inputs), as they come; those of R's biases are behind those of W's.
    at, rows = layer.position - 1, of_weight[1]
    firsts = [divmod(part.start // of_weight[2], rows) for part in parts]
    size = parts[0].size // of_weight[2]
    return View(tuple(Part(bias, (0, 1), (2 * d + at) * rows + row, size) for d, row in firsts))
