"""What was measured -> new values: weights multiplied by their scales, biases that centre, statistics of norms."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np

from onnx_lsuv.errors import listing
from onnx_lsuv.graph import COUNT, MEAN, VAR, Record, norm_key, scale_of, variance_limits
from onnx_lsuv.layers import Centre, Plan, Weight
from onnx_lsuv.lsuv.scratch import Scratch
from onnx_lsuv.model import Array
from onnx_lsuv.orthonormal import Run, run_by, run_here
from onnx_lsuv.sources import scatter

PIECE = 1 << 22  # values


def usable_scale(record: Record | None, target: float) -> float | None:
    """Return the scale that a record gives; None where the layer was not reached or has no variance."""
    return scale_of(record, target) if record is not None and record[COUNT, 0] != 0 else None


def multiply(
    plan: Plan, values: dict[str, Array], scales: Mapping[str, float], scratch: Scratch, threads: int = 1
) -> None:
    """Multiply each weight by its scale; the arrays of `values` are replaced or changed in place.

    A weight in half precision may end at infinity, which measuring it tells. Large ones are cut into pieces for several
    threads: half precision takes 4 ns a value, and 7 billion values on a disk want the next pages meanwhile.
    """
    with ThreadPoolExecutor(threads, thread_name_prefix="scale") as pool:
        run = run_by(pool) if threads > 1 else run_here
        # From the last on: of weights in a file the run has just read these, and what is saved begins with the first.
        for key, scale in reversed([*scales.items()]):
            _multiply_one(plan.weights[key], values, scale, scratch, run)


def _multiply_one(weight: Weight, values: dict[str, Array], scale: float, scratch: Scratch, run: Run) -> None:
    first = weight.layers[0]
    source = first.source
    scaled = source.constants if first.scaled_constant == source.constant else (first.scaled_constant,)
    steps = tuple(dict.fromkeys(each.operand.constant for each in weight.quantiser_steps if each.scaled))
    for name in (*scaled, *steps):
        if not values[name].flags.writeable:
            values[name] = scratch.keep(np.array(values[name]))
    factor = np.asarray(scale, np.float64 if values[first.scaled_constant].dtype == np.float64 else np.float32)
    if source.partial and first.scaled_constant == source.constant:
        with np.errstate(over="ignore"):
            scatter(values, source, source.view(values) * factor)
        scaled = ()
    for name in (*scaled, *steps):
        array = values[name]
        flat = array.reshape(-1) if array.flags.c_contiguous else array  # else it would be a copy
        pieces = [flat[i : i + PIECE] for i in range(0, len(flat), PIECE)] if flat.ndim == 1 else [flat]
        (run if len(pieces) > 1 else run_here)([partial(_times, piece, factor) for piece in pieces])


def _times(values: Array, factor: Array) -> None:
    with np.errstate(over="ignore"):  # which each thread has for itself
        np.multiply(values, factor, out=values, casting="unsafe")


def not_centred(plan: Plan, centres: Mapping[str, Centre]) -> list[str]:
    """Return a note on the layers that cannot be centred."""
    without = [layer.node.label for layer in plan.layers if layer.scaled and layer.weight not in centres]
    if not without:
        return []
    return [f"not centred, as they have no bias of one value a channel that is theirs alone: {listing(without, 5)}"]


def biases_that_centre(
    plan: Plan, centres: Mapping[str, Centre], records: Mapping[str, Record], scales: Mapping[str, float]
) -> dict[str, Array]:
    """Return the new biases by constant: minus each channel's mean after scaling, as in fastai's variant of LSUV.

    Args:
        plan: the layers.
        centres: those to centre, by weight key.
        records: of these layers, with a column for each channel.
        scales: by weight key; a layer without one keeps its bias of zero.
    """
    found = {key: centre for key, centre in centres.items() if key in scales}
    means = {centre.bias: -scales[key] / centre.factor * records[key][MEAN] for key, centre in found.items()}
    return {name: _as_stored(plan, name, mean) for name, mean in means.items()}


def norm_values(plan: Plan, records: Mapping[str, Record]) -> dict[str, Array]:
    """Return the statistics to write to the BatchNormalizations, by constant."""
    values: dict[str, Array] = {}
    for norm in plan.norms:
        record = records.get(norm_key(norm))
        if record is not None and record[COUNT, 0] != 0 and np.isfinite(record).all():
            limits = variance_limits(plan.program.constants[norm.var].elem_type)
            values[norm.mean] = _as_stored(plan, norm.mean, record[MEAN])
            values[norm.var] = _as_stored(plan, norm.var, np.clip(record[VAR], *limits))
    return values


def with_fates(plan: Plan, records: Mapping[str, Record]) -> Plan:
    """Return the plan in which statistics that no data reached are not said to be the data's."""
    norms = {name for norm in plan.norms for name in (norm.mean, norm.var)} - norm_values(plan, records).keys()
    fresh = {each.constant for each in plan.parameters.fresh}
    fates = {name: replace(plan.roles[name], fate="fresh" if name in fresh else "kept") for name in norms}
    return replace(plan, roles={**plan.roles, **fates}) if fates else plan


def _as_stored(plan: Plan, name: str, values: Array) -> Array:
    """Return values in the shape and type of a constant."""
    constant = plan.program.constants[name]
    return values.reshape(constant.dims).astype(constant.dtype)
