"""The procedure, four verbs: plan -> draw -> calibrate -> verify, which is `measure` on the saved file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Unpack

from onnx_lsuv import runtime
from onnx_lsuv.batches import Batch, Batches, default_limit
from onnx_lsuv.errors import DataError
from onnx_lsuv.graph import Calibration, Record, build, within_channels
from onnx_lsuv.layers import Centre, find_centres
from onnx_lsuv.lsuv.absent import absent_notes, completed
from onnx_lsuv.lsuv.applying import biases_that_centre, multiply, norm_values, not_centred, usable_scale
from onnx_lsuv.lsuv.computed import altered
from onnx_lsuv.lsuv.draw import Drawn, draw
from onnx_lsuv.lsuv.execute import Progress, execute, quiet, repeat_for_large_means
from onnx_lsuv.lsuv.fresh import fresh_notes, redrawn
from onnx_lsuv.lsuv.notes import guide, misfits
from onnx_lsuv.lsuv.patterns import Aims, aims_of
from onnx_lsuv.lsuv.planning import left_notes, plan, require_layers
from onnx_lsuv.lsuv.prepare import Clock, check_sizes, checked, run_notes, shapes_of
from onnx_lsuv.lsuv.result import Change, Result
from onnx_lsuv.lsuv.rows import drawn_row, noted, row_of, skipped_row
from onnx_lsuv.lsuv.scratch import Scratch
from onnx_lsuv.lsuv.settings import Choices, Settings
from onnx_lsuv.model import Array, Model, promoted, with_values
from onnx_lsuv.runtime import Device


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    """All that is decided before anything is drawn."""

    planned: Result
    aims: Aims
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
        device: "cpu", "cuda", "cuda:N", "auto", or one from `onnx_lsuv.runtime.open_device`, which also takes
            custom operators.
        threads: how many cores to use; None for all.
        memory: bytes that new weights, and values kept between batches, may take; the rest goes to a file. None for
            half of what the machine has.
        scratch: the folder of that file; None for the system's own.
        progress: called with a phase, the steps done and their total.
        choices: fields of `Settings` as keywords, as in `initialize(model, data, seed=1, target={"fc*": 0.1})`.

    Returns:
        The result; `result.model` holds the new values.

    Raises:
        UsageError: an argument is wrong, contradicts another, or a pattern matches no layer.
        ModelError: there is nothing to initialise, or ONNX Runtime refuses the model.
        DataError: the data do not fit the model.
        DeviceError: the device is not there.
    """
    clock = Clock()
    with clock("load"):
        where = runtime.device_of(device, threads=threads)
        planned = plan(completed(model, batches), settings, **choices)
        task = _decide(planned, batches, where, Scratch(default_limit() if memory is None else memory, scratch))
    with ThreadPoolExecutor(1, thread_name_prefix="build") as beside:
        # Drawing leaves Python alone most of the time, so that the graph can be made meanwhile.
        making = [beside.submit(_graph, task)] if task.data is not None and planned.needs_data else []
        with clock("draw"):
            drawn = draw(planned.plan, planned.settings, where.threads, progress, task.scratch)
        records, scales = dict[str, Record](), dict[str, float]()
        if making:
            with clock("calibrate"):
                records, scales = _calibrate(task, making.pop().result(), drawn.values, progress)
        runtime.release(where)
    return _result(task, drawn, records, scales, clock)


def _decide(
    planned: Result, batches: Batches | Iterable[Batch] | Batch | None, device: Device, scratch: Scratch
) -> _Task:
    """Look at what was planned and at the data: whether there is something to do, and whether it can be done."""
    found, settings = planned.plan, planned.settings
    require_layers(found)
    check_sizes(found, default_limit())
    if batches is None and planned.needs_data:
        raise DataError(f"{planned.model.name} has to run on data: give a list of batches {{input name: array}}")
    data = None if batches is None else checked(planned.model, batches)
    return _Task(
        planned, aims_of(found, settings), find_centres(found) if settings.center else {}, data, device, scratch
    )


def _graph(task: _Task, shifted: Set[str] = frozenset()) -> Calibration:
    """Make the calibration graph; `shifted` are keys of the records that are measured about their mean."""
    found = task.planned.plan
    assert task.data is not None
    return build(
        # Without layers in its plan the graph computes them as they are, and only the norms are set.
        found if task.planned.settings.rescale else replace(found, layers=(), weights={}, stored=()),
        shapes_of(task.data),
        rescale=True,
        staged=len(task.data) > 1,
        targets=task.aims.stds,
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
    found, data = task.planned.plan, task.data
    assert data is not None
    records = repeat_for_large_means(
        calibration,
        lambda shifted: _graph(task, shifted),
        lambda graph: execute(graph, data, values, task.device, task.scratch, progress),
    )
    channels = {key: records[key] for key in task.centres if key in records}
    records |= {key: within_channels(record) for key, record in channels.items()}
    scales: dict[str, float] = {}
    if task.planned.settings.rescale:
        usable = {key: usable_scale(records.get(key), std) for key, std in task.aims.stds.items()}
        scales = {key: scale for key, scale in usable.items() if scale is not None}
        multiply(found, values, scales, task.scratch)
        values |= biases_that_centre(found, task.centres, channels, scales)
    values |= norm_values(found, records)
    return records, scales


def _result(
    task: _Task, drawn: Drawn, records: Mapping[str, Record], scales: Mapping[str, float], clock: Clock
) -> Result:
    """Put the new values into the model, and say what happened to each layer."""
    found, settings, aims = task.planned.plan, task.planned.settings, task.aims
    constants = [found.program.constants[name] for name in drawn.values]
    new = with_values(task.planned.model, {each.site: drawn.values[each.name] for each in constants if each.site})
    moved = set(promoted(new))
    rows = []
    for layer in found.layers:
        key, status = layer.weight, "scaled" if settings.rescale else "drawn"
        row = row_of(found, layer, drawn.methods[key], aims.stds[key], status, records.get(key))
        row = drawn_row(row, layer, records.get(key), scales.get(key))
        rows.append(noted(row, drawn.notes.get(key), aims.remarks.get(layer)))
    lowered = {key for key, std in aims.stds.items() if std < settings.target_std}
    return replace(
        task.planned,
        model=new,
        verb="initialize",
        layers=tuple(rows),
        skipped=tuple(redrawn(skipped_row(each), found, drawn.fresh) for each in found.skipped),
        changes=tuple(
            Change(c.label, c.scope, found.roles[c.name].role, c.site in moved, found.program.is_absent(c.name))
            for c in constants
        ),
        notes=(
            *absent_notes(found, "made anew"),
            *run_notes(found, task.data, task.device),
            *altered(found, drawn.methods),
            *left_notes(found),
            *fresh_notes(found),
            *(not_centred(found, task.centres) if settings.center else ()),
            *(map(str, (*misfits(found, records), *guide(found, lowered))) if settings.rescale else ()),
        ),
        data=task.data.describe() if task.data else {},
        device=task.device.name,
        seconds=clock.seconds,
    )
