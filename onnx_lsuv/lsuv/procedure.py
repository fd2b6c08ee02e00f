"""The procedure: find layers -> draw -> calibrate -> rescale."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from onnx_lsuv import runtime
from onnx_lsuv.batches import Batch, Batches, default_limit
from onnx_lsuv.errors import ModelError, UsageError
from onnx_lsuv.graph import COUNT, MEAN, VAR, Record, build, norm_key, put_right
from onnx_lsuv.layers import Plan
from onnx_lsuv.lsuv.draw import METHODS, draw, rescale
from onnx_lsuv.lsuv.execute import Progress, execute, quiet
from onnx_lsuv.lsuv.prepare import Clock, chance, checked, nothing_to_do, plan_of, shapes_of
from onnx_lsuv.lsuv.result import Change, Result
from onnx_lsuv.lsuv.rows import HALF, drawn_row, left_row, usable_scale
from onnx_lsuv.lsuv.scratch import Scratch
from onnx_lsuv.model import Model, promoted, with_values
from onnx_lsuv.runtime import Device


def initialize(
    model: Model,
    batches: Batches | Iterable[Batch] | Batch,
    *,
    seed: int = 0,
    init: str = "orthonormal",
    target_std: float = 1.0,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    keep_bias: bool = False,
    device: str | Device = "cpu",
    threads: int | None = None,
    memory: int | None = None,
    scratch: Path | None = None,
    progress: Progress = quiet,
) -> Result:
    """Give every linear layer a fresh weight and scale it to the target std on the data (LSUV).

    Args:
        model: from `load` or `from_proto`; it is not changed.
        batches: one batch {input name: array}, or several, pooled.
        seed: of the draw.
        init: "orthonormal", "delta", "he", "xavier", or "keep" for the weights as they are.
        target_std: the std that every layer's output is to have.
        include: patterns of node or weight names to take; all where empty.
        exclude: patterns of node or weight names to leave alone.
        keep_bias: leave biases as they are instead of setting them to zero.
        device: "cpu", "cuda", "cuda:N", "auto", or an open device.
        threads: how many cores to use; None for all.
        memory: bytes that new weights, and values kept between batches, may take; the rest goes to a file. None for
            half of what the machine has.
        scratch: the folder of that file; None for the system's own.
        progress: called with a phase, the steps done and their total.

    Returns:
        The result; `result.model` holds the new values.

    Raises:
        ModelError: there is nothing to initialise, or ONNX Runtime refuses the model.
        DataError: the data do not fit the model.
        DeviceError: the device is not there.
    """
    if init not in METHODS:
        raise UsageError(f"Expected an init of {', '.join(METHODS)}, found {init!r}.")
    if not (math.isfinite(target_std) and target_std > 0):
        raise UsageError(f"Expected a target std above 0, found {target_std}.")
    where = device if isinstance(device, Device) else runtime.open_device(device, threads=threads)
    clock = Clock()
    with clock("load"):
        plan = plan_of(model, include=include, exclude=exclude, keep_bias=keep_bias)
        if not plan.layers:
            raise ModelError(nothing_to_do(plan))
        data = checked(model, batches)
    with clock("draw"):
        room = Scratch(memory if memory is not None else default_limit(), scratch)
        drawn = draw(plan, init, seed, where.threads, progress, room)
    with clock("calibrate"):
        targets = dict.fromkeys(plan.weights, target_std)
        calibration = build(plan, shapes_of(data), rescale=True, staged=len(data) > 1, targets=targets, seed=seed)
        records = execute(calibration, data, drawn.values, where, room, progress)
        records = put_right(records, calibration.inherits, targets)
        scales = {key: s for key in plan.weights if (s := usable_scale(records.get(key), target_std)) is not None}
        rescale(plan, drawn.values, scales, room)
        norms = _norm_values(plan, records)
    values = {**drawn.values, **norms}
    program = plan.program
    sites = {program.constants[name].site: array for name, array in values.items()}
    new = with_values(model, {site: array for site, array in sites.items() if site is not None})
    moved = set(promoted(new))
    steps = [step for layer in plan.layers for step in layer.source.companions]
    roles = dict.fromkeys(norms, "statistics") | dict.fromkeys(plan.zeroed, "bias") | dict.fromkeys(steps, "step")
    rows = [drawn_row(plan, layer, drawn.methods, records, scales, target_std) for layer in plan.layers]
    return Result(
        model=new,
        layers=tuple(rows),
        left=tuple(map(left_row, plan.left)),
        stale=tuple(map(left_row, plan.stale)),
        changes=tuple(
            Change(c.label, c.scope, roles.get(name, "weight"), c.site in moved)
            for name in values
            if (c := program.constants[name])
        ),
        notes=(*data.notes, *chance(plan)),
        settings={
            "seed": seed,
            "init": init,
            "keep_bias": keep_bias,
            "include": list(include),
            "exclude": list(exclude),
        },
        data=data.describe(),
        device=where.name,
        seconds=clock.seconds,
        target_std=target_std,
        tolerance=None,
    )


def _norm_values(plan: Plan, records: Mapping[str, Record]) -> dict[str, NDArray[Any]]:
    """Return the statistics to write to the BatchNormalizations."""
    values: dict[str, NDArray[Any]] = {}
    for norm in plan.norms:
        record = records.get(norm_key(norm))
        if record is None or record[COUNT, 0] == 0 or not np.isfinite(record).all():
            continue
        for name, row in ((norm.mean, MEAN), (norm.var, VAR)):
            constant = plan.program.constants[name]
            dtype = helper.tensor_dtype_to_np_dtype(constant.elem_type)
            array = record[row].reshape(constant.dims)
            if row == VAR:
                wide = np.float32 if constant.elem_type in HALF else dtype
                array = np.maximum(array, np.finfo(wide).tiny)
            values[name] = array.astype(dtype)
    return values
