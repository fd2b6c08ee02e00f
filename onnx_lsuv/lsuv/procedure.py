"""The procedure, four verbs: plan -> draw -> calibrate -> verify, which is `measure` on the saved file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Unpack

import numpy as np
from onnx import helper

from onnx_lsuv import runtime
from onnx_lsuv.batches import Batch, Batches, default_limit
from onnx_lsuv.errors import DataError
from onnx_lsuv.graph import COUNT, MEAN, VAR, Calibration, Record, build, norm_key, variance_limits, within_channels
from onnx_lsuv.layers import Centre, Layer, Plan, find_centres
from onnx_lsuv.lsuv.center import bias_values, not_centred
from onnx_lsuv.lsuv.computed import altered
from onnx_lsuv.lsuv.draw import Drawn, draw, multiply
from onnx_lsuv.lsuv.execute import Progress, execute, quiet
from onnx_lsuv.lsuv.fresh import fresh_notes, fresh_values, redrawn
from onnx_lsuv.lsuv.notes import guide
from onnx_lsuv.lsuv.patterns import targets_of
from onnx_lsuv.lsuv.planning import find, require_layers, settings_for
from onnx_lsuv.lsuv.prepare import Clock, check_sizes, checked, run_notes, shapes_of
from onnx_lsuv.lsuv.repeating import repeat_for_large_means
from onnx_lsuv.lsuv.result import Change, Result
from onnx_lsuv.lsuv.rows import drawn_row, noted, skipped_row, usable_scale
from onnx_lsuv.lsuv.scratch import Scratch
from onnx_lsuv.lsuv.settings import Choices, Settings
from onnx_lsuv.model import Array, Model, promoted, with_values
from onnx_lsuv.runtime import Device


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    """All that is decided before anything is drawn."""

    settings: Settings
    plan: Plan
    targets: Mapping[str, float]  # by weight key
    remarks: Mapping[Layer, str]
    centres: Mapping[str, Centre]  # by weight key
    data: Batches | None
    device: Device
    scratch: Scratch


def initialize(
    model: Model | Result,
    batches: Batches | Iterable[Batch] | Batch | None,
    settings: Settings | None = None,
    *,
    device: str | Device = "cpu",
    threads: int | None = None,
    memory: int | None = None,
    scratch: Path | None = None,
    progress: Progress = quiet,
    **choices: Unpack[Choices],
) -> Result:
    """Give every linear layer a fresh weight and scale it to the target std on the data (LSUV).

    Args:
        model: from `load` or `from_proto`, which is not changed, or from `plan`, with its settings.
        batches: one batch {input name: array}, or several, pooled; None where nothing has to run: without `rescale`
            and without BatchNormalizations.
        settings: how to do it.
        device: "cpu", "cuda", "cuda:N", "auto", or an open device.
        threads: how many cores to use; None for all.
        memory: bytes that new weights, and values kept between batches, may take; the rest goes to a file. None for
            half of what the machine has.
        scratch: the folder of that file; None for the system's own.
        progress: called with a phase, the steps done and their total.
        choices: fields of the settings as keywords, as in `initialize(model, data, seed=1, target={"fc*": 0.1})`.

    Returns:
        The result; `result.model` holds the new values.

    Raises:
        UsageError: an argument is wrong, contradicts another, or a pattern matches no layer.
        ModelError: there is nothing to initialise, or ONNX Runtime refuses the model.
        DataError: the data do not fit the model.
        DeviceError: the device is not there.
    """
    settings = settings_for(model, settings, choices)
    where = runtime.device_of(device, threads=threads)
    clock = Clock()
    with clock("load"):
        task = _decide(model, batches, settings, where, Scratch(default_limit() if memory is None else memory, scratch))
    records: dict[str, Record] = {}
    scales: dict[str, float] = {}
    with ThreadPoolExecutor(1, thread_name_prefix="build") as beside:
        # Drawing leaves Python alone most of the time, so that the graph can be made meanwhile.
        runs = task.data is not None and (settings.rescale or task.plan.norms)
        making = beside.submit(_graph, task) if runs else None
        with clock("draw"):
            drawn = _draw(task, progress)
        if making is not None:
            with clock("calibrate"):
                records, scales = _calibrate(task, making.result(), drawn.values, progress)
        runtime.release(where)
    return _result(task, drawn, records, scales, clock.seconds)


def _decide(
    model: Model | Result,
    batches: Batches | Iterable[Batch] | Batch | None,
    settings: Settings,
    device: Device,
    scratch: Scratch,
) -> _Task:
    """Plan: find the layers and what each is to come to, and look at the data."""
    plan = find(model, settings)
    require_layers(plan)
    check_sizes(plan, default_limit())
    targets, remarks = targets_of(plan, settings)
    centres = find_centres(plan) if settings.center else {}
    source = plan.program.model
    if batches is None and (settings.rescale or plan.norms):
        raise DataError(f"{source.name} has to run on data: give a list of batches {{input name: array}}")
    data = None if batches is None else checked(source, batches)
    return _Task(settings, plan, targets, remarks, centres, data, device, scratch)


def _draw(task: _Task, progress: Progress) -> Drawn:
    """Draw all weights, and with `fresh` what starts anew beside them."""
    plan, settings, threads = task.plan, task.settings, task.device.threads
    drawn = draw(plan, settings.init, settings.seed, threads, progress, task.scratch)
    others = fresh_values(plan, settings.seed, threads, task.scratch)
    # Where nothing is scaled, weights that are kept are in the file already.
    kept = settings.init == "keep" and not settings.rescale
    same = {name for layer in plan.layers for name in layer.source.touched} if kept else ()
    values = {name: array for name, array in drawn.values.items() if name not in same}
    return replace(drawn, values=values | others, fresh=frozenset(others))


def _graph(task: _Task, shifted: Set[str] = frozenset()) -> Calibration:
    """Make the calibration graph; `shifted` are keys of the records that are measured about their mean."""
    assert task.data is not None
    # Without layers in its plan the graph computes them as they are, and only the norms are set.
    measured = task.plan if task.settings.rescale else replace(task.plan, layers=(), weights={})
    return build(
        measured,
        shapes_of(task.data),
        rescale=True,
        staged=len(task.data) > 1,
        targets=task.targets,
        centred={key: centre.channels for key, centre in task.centres.items()},
        shifted=shifted,
        block=runtime.block(task.device),
    )


def _calibrate(
    task: _Task, calibration: Calibration, values: dict[str, Array], progress: Progress
) -> tuple[dict[str, Record], dict[str, float]]:
    """Run the graph and scale what was drawn; `values` are changed in place.

    Returns:
        What was measured, and the scales, by weight key.
    """
    plan, data, scratch = task.plan, task.data, task.scratch
    assert data is not None
    records = repeat_for_large_means(
        calibration,
        lambda shifted: _graph(task, shifted),
        lambda graph: execute(graph, data, values, task.device, scratch, progress),
    )
    channels = {key: records[key] for key in task.centres if key in records}
    records |= {key: within_channels(record) for key, record in channels.items()}
    scales: dict[str, float] = {}
    if task.settings.rescale:
        usable = {key: usable_scale(records.get(key), std) for key, std in task.targets.items()}
        scales = {key: scale for key, scale in usable.items() if scale is not None}
        multiply(plan, values, scales, scratch)
        values |= bias_values(plan, task.centres, channels, scales)
    values |= _norm_values(plan, records)
    return records, scales


def _norm_values(plan: Plan, records: Mapping[str, Record]) -> dict[str, Array]:
    """Return the statistics to write to the BatchNormalizations."""
    values: dict[str, Array] = {}
    for norm in plan.norms:
        record = records.get(norm_key(norm))
        if record is None or record[COUNT, 0] == 0 or not np.isfinite(record).all():
            continue
        for name, row in ((norm.mean, MEAN), (norm.var, VAR)):
            constant = plan.program.constants[name]
            array = record[row].reshape(constant.dims)
            if row == VAR:
                array = np.clip(array, *variance_limits(constant.elem_type))
            values[name] = array.astype(helper.tensor_dtype_to_np_dtype(constant.elem_type))
    return values


def _result(
    task: _Task, drawn: Drawn, records: Mapping[str, Record], scales: Mapping[str, float], seconds: Mapping[str, float]
) -> Result:
    """Put the new values into the model, and say what happened to each layer."""
    plan, settings = task.plan, task.settings
    sites = {name: plan.program.constants[name].site for name in drawn.values}
    new = with_values(plan.program.model, {site: drawn.values[name] for name, site in sites.items() if site})
    rows = []
    for layer in plan.layers:
        row = drawn_row(plan, layer, drawn.methods, records, scales, task.targets, rescale=settings.rescale)
        rows.append(noted(noted(row, drawn.notes.get(layer.weight)), task.remarks.get(layer)))
    lowered = {key for key, std in task.targets.items() if std < settings.target_std}
    return Result(
        model=new,
        plan=plan,
        verb="initialize",
        settings=settings,
        layers=tuple(rows),
        skipped=tuple(redrawn(skipped_row(each), plan, drawn.fresh) for each in plan.skipped),
        kept_statistics=tuple(map(skipped_row, plan.kept_statistics)),
        changes=_changes(plan, new, drawn.values),
        notes=(
            *run_notes(plan, task.data, task.device),
            *altered(plan, drawn.methods),
            *fresh_notes(plan),
            *(not_centred(plan, task.centres) if settings.center else ()),
            *(map(str, guide(plan, lowered)) if settings.rescale else ()),
        ),
        data=task.data.describe() if task.data else {},
        device=task.device.name,
        seconds=seconds,
    )


def _changes(plan: Plan, new: Model, names: Iterable[str]) -> tuple[Change, ...]:
    """Return what became of each tensor that has new values."""
    moved = set(promoted(new))
    constants = [plan.program.constants[name] for name in names]
    return tuple(Change(c.label, c.scope, plan.roles[c.name].role, c.site in moved) for c in constants)
