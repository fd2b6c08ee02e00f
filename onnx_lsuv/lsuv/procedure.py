"""The procedure: find layers -> draw -> calibrate -> rescale."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from onnx import helper

from onnx_lsuv import runtime
from onnx_lsuv.batches import Batch, Batches, default_limit
from onnx_lsuv.errors import DataError, ModelError, UsageError
from onnx_lsuv.graph import COUNT, MEAN, VAR, Calibration, Record, build, norm_key, variance_limits, within_channels
from onnx_lsuv.layers import Plan
from onnx_lsuv.lsuv.again import settled
from onnx_lsuv.lsuv.center import Centres, bias_values, centres_of
from onnx_lsuv.lsuv.computed import altered
from onnx_lsuv.lsuv.draw import METHODS, Array, draw, multiply
from onnx_lsuv.lsuv.execute import Progress, execute, quiet
from onnx_lsuv.lsuv.fresh import fresh_notes, fresh_values, redrawn
from onnx_lsuv.lsuv.notes import guide
from onnx_lsuv.lsuv.patterns import Targets, pairs_of, targets_of
from onnx_lsuv.lsuv.prepare import Clock, check_sizes, checked, nothing_to_do, plans_of, run_notes, shapes_of
from onnx_lsuv.lsuv.result import Change, Result
from onnx_lsuv.lsuv.rows import drawn_row, noted, skipped_row, usable_scale
from onnx_lsuv.lsuv.scratch import Scratch
from onnx_lsuv.model import Model, promoted, with_values
from onnx_lsuv.runtime import Device


def initialize(
    model: Model,
    batches: Batches | Iterable[Batch] | Batch | None,
    *,
    seed: int = 0,
    init: str = "orthonormal",
    target_std: float = 1.0,
    target: Targets = (),
    rescale: bool = True,
    fresh: bool = False,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    keep_bias: bool = False,
    center: bool = False,
    device: str | Device = "cpu",
    threads: int | None = None,
    memory: int | None = None,
    scratch: Path | None = None,
    progress: Progress = quiet,
) -> Result:
    """Give every linear layer a fresh weight and scale it to the target std on the data (LSUV).

    Args:
        model: from `load` or `from_proto`; it is not changed.
        batches: one batch {input name: array}, or several, pooled; None where nothing has to run: without `rescale`
            and without BatchNormalizations.
        seed: of the draw.
        init: "orthonormal", "delta", "he", "xavier", or "keep" for the weights as they are.
        target_std: the std that every layer's output is to have.
        target: other stds, by patterns of node or weight names; of several that match a layer the last one counts.
        rescale: False leaves weights as drawn; statistics of BatchNormalizations are set all the same.
        fresh: give every other parameter its usual starting value too; `layers.parameters` says which.
        include: patterns of node or weight names to take; all where empty.
        exclude: patterns of node or weight names to leave alone.
        keep_bias: leave biases as they are instead of setting them to zero.
        center: give biases the value that makes the mean of each channel of a layer's output zero; its std is then
            that about these means. Layers without a bias of their own, and those in branches and loops, are not.
        device: "cpu", "cuda", "cuda:N", "auto", or an open device.
        threads: how many cores to use; None for all.
        memory: bytes that new weights, and values kept between batches, may take; the rest goes to a file. None for
            half of what the machine has.
        scratch: the folder of that file; None for the system's own.
        progress: called with a phase, the steps done and their total.

    Returns:
        The result; `result.model` holds the new values.

    Raises:
        UsageError: an argument is wrong, contradicts another, or a pattern matches no layer.
        ModelError: there is nothing to initialise, or ONNX Runtime refuses the model.
        DataError: the data do not fit the model.
        DeviceError: the device is not there.
    """
    if init not in METHODS:
        raise UsageError(f"Expected an init of {', '.join(METHODS)}, found {init!r}.")
    if fresh and (keep_bias or init == "keep"):
        what = "biases" if keep_bias else "weights"
        raise UsageError(
            f"Fresh values for every parameter and the old {what} exclude each other: ask for one of them."
        )
    if center and (keep_bias or not rescale):
        what = "biases that are kept" if keep_bias else "weights that are not rescaled"
        raise UsageError(
            f"Centring sets biases by the scaled weights, so it has no use for {what}: ask for one of them."
        )
    if target and not rescale:
        raise UsageError("A target has no effect on weights that are not rescaled: ask for one of them.")
    where = runtime.device_of(device, threads=threads)
    clock = Clock()
    with clock("load"):
        plan, found = plans_of(model, include=include, exclude=exclude, keep_bias=keep_bias, fresh=fresh)
        if not plan.layers:
            raise ModelError(nothing_to_do(plan))
        check_sizes(plan, found, default_limit())
        targets, remarks = targets_of(plan, target_std, target)
        centres = centres_of(plan) if center else Centres({}, ())
        if batches is None and (rescale or plan.norms):
            raise DataError(f"{model.name} has to run on data: give a list of batches {{input name: array}}")
        data = None if batches is None else checked(model, batches)
    with ThreadPoolExecutor(1, thread_name_prefix="build") as beside:
        # Drawing leaves Python alone most of the time, so that the graph can be made meanwhile.
        making = None
        if data is not None and (rescale or plan.norms):
            making = beside.submit(_graph, plan, data, where, targets, centres, rescale=rescale)
        with clock("draw"):
            room = Scratch(memory if memory is not None else default_limit(), scratch)
            drawn = draw(plan, init, seed, where.threads, progress, room)
            others = fresh_values(plan, found, seed, where.threads, room) if fresh else {}
            values = {**drawn.values, **others}
            if not rescale:
                values = _without_stored(plan, values, others, init)
        calibration = None
        if making is not None:
            with clock("calibrate"):
                calibration = making.result()
    records: dict[str, Record] = {}
    scales: dict[str, float] = {}
    if data is not None and calibration is not None:
        with clock("calibrate"):
            records = settled(
                calibration,
                lambda shifted: _graph(plan, data, where, targets, centres, rescale=rescale, shifted=shifted),
                lambda graph: execute(graph, data, values, where, room, progress),
            )
            channels = {key: records[key] for key in centres.found if key in records}
            records |= {key: within_channels(record) for key, record in channels.items()}
            if rescale:
                usable = {key: usable_scale(records.get(key), std) for key, std in targets.items()}
                scales = {key: scale for key, scale in usable.items() if scale is not None}
                multiply(plan, values, scales, room)
                values |= bias_values(plan, centres, channels, scales)
            norms = _norm_values(plan, records)
            values |= norms
        runtime.release(where)
    rows = [drawn_row(plan, layer, drawn.methods, records, scales, targets, rescale=rescale) for layer in plan.layers]
    lowered = {key for key, std in targets.items() if std < target_std}
    guidance = map(str, guide(plan, lowered)) if rescale else ()
    new = with_values(model, {s: array for name, array in values.items() if (s := plan.program.constants[name].site)})
    return Result(
        model=new,
        layers=tuple(
            noted(noted(row, drawn.notes.get(layer.weight)), remarks.get(layer))
            for row, layer in zip(rows, plan.layers, strict=True)
        ),
        skipped=tuple(redrawn(skipped_row(each), plan, others) for each in plan.skipped),
        kept_statistics=tuple(map(skipped_row, plan.kept_statistics)),
        changes=_changes(plan, new, values),
        notes=(
            *run_notes(plan, data, where),
            *altered(plan, drawn.methods),
            *fresh_notes(plan, found),
            *centres.notes,
            *guidance,
        ),
        settings={
            "seed": seed,
            "init": init,
            "rescale": rescale,
            "fresh": fresh,
            "keep_bias": keep_bias,
            "center": center,
            "include": list(include),
            "exclude": list(exclude),
            "target": [list(pair) for pair in pairs_of(target)],
        },
        data=data.describe() if data else {},
        device=where.name,
        seconds=clock.seconds,
        target_std=target_std,
        tolerance=None,
    )


def _graph(
    plan: Plan,
    data: Batches,
    device: Device,
    targets: Mapping[str, float],
    centres: Centres,
    *,
    rescale: bool,
    shifted: Set[str] = frozenset(),
) -> Calibration:
    # Without layers in its plan the graph computes them as they are, and only the norms are set.
    measured = plan if rescale else replace(plan, layers=(), weights={})
    return build(
        measured,
        shapes_of(data),
        rescale=True,
        staged=len(data) > 1,
        targets=targets,
        centred=centres.channels,
        shifted=shifted,
        block=runtime.block(device),
    )


def _without_stored(plan: Plan, values: Mapping[str, Array], fresh: Mapping[str, Array], init: str) -> dict[str, Array]:
    """Return the new values without those that are in the file already, as nothing scales them."""
    same = {name for layer in plan.layers for name in layer.source.touched} if init == "keep" else ()
    return {name: array for name, array in values.items() if name not in same or name in fresh}


def _changes(plan: Plan, new: Model, values: Iterable[str]) -> tuple[Change, ...]:
    """Return what became of each tensor that has new values."""
    moved = set(promoted(new))
    constants = [plan.program.constants[name] for name in values]
    return tuple(Change(c.label, c.scope, plan.roles[c.name].role, c.site in moved) for c in constants)


def _norm_values(plan: Plan, records: Mapping[str, Record]) -> dict[str, Array]:
    """Return the statistics to write to the BatchNormalizations."""
    values: dict[str, Array] = {}
    for norm in plan.norms:
        record = records.get(norm_key(norm))
        if record is None or record[COUNT, 0] == 0 or not np.isfinite(record).all():
            continue
        for name, row in ((norm.mean, MEAN), (norm.var, VAR)):
            constant = plan.program.constants[name]
            dtype = helper.tensor_dtype_to_np_dtype(constant.elem_type)
            array = record[row].reshape(constant.dims)
            if row == VAR:
                array = np.clip(array, *variance_limits(constant.elem_type))
            values[name] = array.astype(dtype)
    return values
