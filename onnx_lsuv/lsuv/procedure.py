"""The procedure, four verbs: plan -> draw -> calibrate -> verify, which is `measure` on the saved file."""

from __future__ import annotations

from collections.abc import Mapping, Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Unpack

from onnx_lsuv import runtime
from onnx_lsuv.batches import Batches, Data, default_limit
from onnx_lsuv.errors import DataError
from onnx_lsuv.graph import Calibration, Record, build, within_channels
from onnx_lsuv.layers import Centre, find_centres
from onnx_lsuv.lsuv.absent import absent_notes, completed
from onnx_lsuv.lsuv.applying import biases_that_centre, multiply, norm_values, not_centred, usable_scale, with_fates
from onnx_lsuv.lsuv.computed import altered
from onnx_lsuv.lsuv.draw import Drawn, draw
from onnx_lsuv.lsuv.execute import Progress, execute, quiet, repeat_for_large_means
from onnx_lsuv.lsuv.fresh import fresh_notes, redrawn
from onnx_lsuv.lsuv.notes import guide, misfits
from onnx_lsuv.lsuv.patterns import Aims, aims_of
from onnx_lsuv.lsuv.planning import left_notes, parting_notes, plan, require_layers
from onnx_lsuv.lsuv.prepare import (
    Clock,
    attempt,
    check_indices,
    check_sizes,
    checked,
    early,
    run_notes,
    shapes_of,
    work_of,
)
from onnx_lsuv.lsuv.remaining import remaining
from onnx_lsuv.lsuv.result import Result
from onnx_lsuv.lsuv.rows import (
    bias_remark,
    changes_of,
    drawn_row,
    noted,
    overflow_notes,
    row_of,
    skipped_row,
    told_why,
    unscaled_notes,
)
from onnx_lsuv.lsuv.scratch import Scratch
from onnx_lsuv.lsuv.settings import Choices, Settings, memory_bytes
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
    batches: Batches | Data | None,
    settings: Settings | None = None,
    *,
    device: str | Device = "cpu",
    threads: int | None = None,
    memory: int | str | None = None,
    scratch: Path | None = None,
    progress: Progress = quiet,
    **choices: Unpack[Choices],
) -> Result:
    """Give every linear layer a fresh weight and scale it to the target std on the data (LSUV).

    Args:
        model: from `load` or `from_proto`, which is not changed, or from `plan`, with its settings.
        batches: the data, pooled: one batch, or a list, DataLoader, CalibrationDataReader, generator or function that
            gives them. A batch is {input name: array}, an array for the only input, or a tuple that begins with one.
            Or what `--data` takes: "samples.npy", or ["x=a.npy", "y=b.npy"]. None where nothing has to run: without
            `rescale` and without BatchNormalizations.
        settings: how to do it.
        device: "cpu", "cuda", "cuda:N", "auto", or one from `onnx_lsuv.runtime.open_device`, which also takes
            custom operators.
        threads: how many cores to use; None for all.
        memory: bytes, or a size such as "2G", that new weights, values kept between batches, and batches that are given
            only once may take; the rest goes to a file. None for half of what the machine has.
        scratch: the folder of that file; None for the system's own.
        progress: called with a phase, the steps done and their total: 0 while a loader of unknown length is read.
        choices: fields of `Settings` as keywords, as in `initialize(model, data, seed=1, target={"fc*": 0.1})`.

    Returns:
        The result; `result.model` holds the new values.

    Raises:
        UsageError: an argument is wrong, contradicts another, or a pattern matches no layer.
        ModelError: there is nothing to initialise, or ONNX Runtime refuses the model.
        DataError: the data do not fit the model.
        DeviceError: the device is not there.
    """
    clock, budget = Clock(), memory_bytes(memory)
    with clock("load"):
        given = early(device, threads)
        planned = plan(completed(model, batches), settings, **choices)
        task = _decide(planned, batches, given, threads, Scratch.within(budget, scratch), progress)
    with ThreadPoolExecutor(1, thread_name_prefix="build") as beside:
        # Drawing leaves Python alone most of the time, so that the graph can be made meanwhile.
        making = [beside.submit(_graph, task)] if task.data is not None and planned.needs_data else []
        with clock("draw"):
            drawn = draw(planned.plan, planned.settings, task.aims.methods, task.device.threads, progress, task.scratch)
        records, scales = dict[str, Record](), dict[str, float]()
        if making:
            with clock("calibrate"):
                records, scales, task = _calibrate(task, making, drawn.values, progress)
        runtime.release(task.device)
    return _result(task, drawn, records, scales, clock)


def _decide(
    planned: Result,
    batches: Batches | Data | None,
    device: str | Device,
    threads: int | None,
    scratch: Scratch,
    progress: Progress,
) -> _Task:
    """Look at what was planned and at the data: whether there is something to do, and whether it can be done."""
    found, settings = planned.plan, planned.settings
    require_layers(found)
    check_sizes(found, default_limit())
    if batches is None and planned.needs_data:
        raise DataError(f"{planned.model.name} has to run on data: give a batch {{input name: array}}, or several")
    data = None if batches is None else checked(planned.model, batches, scratch, progress)
    where = runtime.device_of(device, threads=threads, work=work_of(found, data))
    if data is not None:
        check_indices(found.program, data, where)
    centres = find_centres(found) if settings.center else {}
    return _Task(planned, aims_of(found, settings), centres, data, where, scratch)


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
        targets=task.aims.targets,
        centred={key: centre.channels for key, centre in task.centres.items()},
        shifted=shifted,
        block=runtime.block(task.device),
        longest=task.device.provider.nodes,
    )


def _calibrate(
    task: _Task, making: list[Future[Calibration]], values: dict[str, Array], progress: Progress
) -> tuple[dict[str, Record], dict[str, float], _Task]:
    """Run the graph and scale what was drawn; `values` are changed in place.

    Returns:
        What was measured, and the scales, by weight key; the task, as the device could do it.
    """

    def run(device: Device, data: Batches) -> dict[str, Record]:
        now = replace(task, device=device, data=data)
        return repeat_for_large_means(
            making.pop().result() if making else _graph(now),
            lambda shifted: _graph(now, shifted),
            lambda graph: execute(graph, data, values, device, task.scratch, progress),
        )

    found = task.planned.plan
    assert task.data is not None
    records, device, data = attempt(run, task.device, task.data)
    channels = {key: records[key] for key in task.centres if key in records}
    records |= {key: within_channels(record) for key, record in channels.items()}
    scales: dict[str, float] = {}
    if task.planned.settings.rescale:
        usable = {key: usable_scale(records.get(key), std) for key, std in task.aims.resolved(records).stds.items()}
        fixed = {key for key in usable if not task.aims.scales(key)}
        scales = {key: 1.0 if key in fixed else scale for key, scale in usable.items() if scale is not None}
        multiply(found, values, scales, task.scratch, task.device.threads)
        values |= biases_that_centre(found, task.centres, channels, scales)
    values |= norm_values(found, records)
    return records, scales, replace(task, device=device, data=data)


def _result(
    task: _Task, drawn: Drawn, records: Mapping[str, Record], scales: Mapping[str, float], clock: Clock
) -> Result:
    """Put the new values into the model, and say what happened to each layer."""
    found, settings, aims = task.planned.plan, task.planned.settings, task.aims.resolved(records)
    spell = settings.spell
    constants = [found.program.constants[name] for name in drawn.values]
    new = with_values(task.planned.model, {each.site: drawn.values[each.name] for each in constants if each.site})
    moved = set(promoted(new))
    rows = []
    for layer in found.layers:
        key, status = layer.weight, "scaled" if settings.rescale else "drawn"
        row = row_of(found, layer, drawn.methods[key], aims.stds[key], status, records.get(key))
        row = drawn_row(row, layer, records.get(key), scales.get(key), scales=aims.scales(key))
        rows.append(noted(row, bias_remark(found, layer), drawn.notes.get(key), aims.remarks.get(layer)))
    left = remaining(found, settings, drawn.values) if settings.fresh else ()
    lowered = {key for key, std in aims.stds.items() if std < settings.target_std} | aims.shares.keys()
    return replace(
        task.planned,
        model=new,
        plan=with_fates(found, records),
        verb="initialize",
        layers=tuple(told_why(found, rows)),
        skipped=tuple(redrawn(skipped_row(each), found, drawn.fresh) for each in found.skipped),
        changes=changes_of(found, drawn.values, moved),
        remaining=left,
        notes=(
            *absent_notes(found, "made anew"),
            *run_notes(found, task.data, task.device),
            *altered(found, drawn.methods),
            *unscaled_notes(rows),
            *overflow_notes(rows, task.device),
            *parting_notes(found, settings),
            *left_notes(found),
            *fresh_notes(found, left, settings),
            *(not_centred(found, task.centres) if settings.center else ()),
            *(
                map(str, (*misfits(found, records, spell), *guide(found, aims, lowered, spell)))
                if settings.rescale
                else ()
            ),
        ),
        data=task.data.describe() if task.data else {},
        device=task.device.name,
        device_notes=task.device.notes,
        seconds=clock.seconds,
    )
