"""Measure a model as it is, and verify one that was initialised: the last of the four verbs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

from onnx_lsuv import runtime
from onnx_lsuv.batches import Batches, Data
from onnx_lsuv.errors import UsageError, listing
from onnx_lsuv.graph import Part, Record, build
from onnx_lsuv.layers import Layer, Plan, tensor_names
from onnx_lsuv.lsuv.absent import completed
from onnx_lsuv.lsuv.baseline import Baseline, aimed_at, stds_of
from onnx_lsuv.lsuv.execute import Progress, execute, quiet, repeat_for_large_means
from onnx_lsuv.lsuv.notes import lost, measured_notes
from onnx_lsuv.lsuv.patterns import Aims, aims_of
from onnx_lsuv.lsuv.planning import find, find_again, require_layers, settings_for
from onnx_lsuv.lsuv.prepare import (
    Clock,
    attempt,
    check_indices,
    checked,
    early,
    run_notes,
    samples_of,
    shapes_of,
    work_of,
)
from onnx_lsuv.lsuv.result import LayerReport, Result
from onnx_lsuv.lsuv.rows import (
    Beside,
    find_beside,
    noted,
    overflow_notes,
    row_of,
    skipped_row,
    std_of,
    told_why,
    tolerances,
    verified_row,
    with_beside,
)
from onnx_lsuv.lsuv.scratch import Scratch
from onnx_lsuv.lsuv.settings import Settings, Wanted, memory_bytes
from onnx_lsuv.lsuv.streams import shares_of
from onnx_lsuv.model import Model, check_whole
from onnx_lsuv.runtime import Device


def measure(  # noqa: PLR0913  (what is measured, against what, and where are the caller's)
    model: Model | Result,
    batches: Batches | Data,
    settings: Settings | None = None,
    *,
    like: Result | None = None,
    baseline: Baseline | None = None,
    beside: bool = False,
    device: str | Device = "cpu",
    threads: int | None = None,
    memory: int | str | None = None,
    scratch: Path | None = None,
    progress: Progress = quiet,
    **wanted: Unpack[Wanted],
) -> Result:
    """Measure every layer of a model as it is.

    Args:
        model: what to measure: from `load` or `from_proto`, or from `plan`, with its settings.
        batches: the data, pooled, as for `initialize`.
        settings: of these counts what is wanted: the stds, the tolerance, and of which layers.
        like: the result of `initialize` that made the model; its rows get the measured std and a final status. By its
            settings, but for a tolerance that is given here.
        baseline: an earlier result, the path of its JSON report, or stds by layer: what each layer is to have still,
            within the tolerance, instead of a target. A layer that is new is held against the target, with a note.
        beside: measure the sums of residual streams and the outputs of what was left alone too, as a page shows them.
        memory: what kept values, and batches that are given only once, may take, as for `initialize`.
        device, threads, scratch, progress: as for `initialize`.
        wanted: as keywords target_std, target, residual, tolerance, include, exclude, strict of `Settings`.

    Raises:
        UsageError: an argument is wrong, a pattern matches no layer, `like` has other layers, or the baseline more.
        ModelError: there is no layer to measure, or ONNX Runtime refuses the model.
        DataError: the data do not fit the model, or the baseline is no report.
        DeviceError: the device is not there.
    """
    settings = _settings(model, settings, wanted, like)
    had, told = None if baseline is None else stds_of(baseline), tuple[str, ...]()
    clock, given = Clock(), early(device, threads)
    with clock("verify"):
        as_it_is = replace(settings, keep_bias=True)
        plan = find(completed(model, batches), as_it_is, like.plan.parting.copies if like else {})
        _check_layers(plan, like)
        data = checked(plan.program.model, batches, room := Scratch.within(memory_bytes(memory), scratch), progress)
        aims = aims_of(plan, settings) if like is None else _aims_like(like, plan)
        if had is not None:
            aims, told = aimed_at(aims, plan, had)
        others = find_beside(plan) if beside else Beside()
        where = runtime.device_of(given, threads=threads, work=work_of(plan, data))
        how: dict[str, Any] = {"beside": frozenset(others.values.values()), "as_written": like is not None}
        records, where, data = attempt(partial(_records, plan, aims, room, progress, **how), where, data)
    runtime.release(where)
    layers = _rows(plan, aims := aims.resolved(records), records, like, settings)
    if like is not None:
        return with_beside(_verified(like, plan, layers, settings, clock, where), plan, others, records)
    noticed = (*overflow_notes(layers, where), *measured_notes(plan, layers, aims, settings))
    result = Result(
        model=plan.program.model,
        plan=plan,
        verb="measure",
        settings=as_it_is,
        layers=tuple(told_why(plan, layers)),
        skipped=tuple(map(skipped_row, plan.skipped)),
        notes=(*run_notes(plan, data, where), *told, *noticed),
        data=data.describe(),
        device=where.name,
        device_notes=where.notes,
        seconds=clock.seconds,
    )
    return with_beside(result, plan, others, records)


def _settings(model: Model | Result, settings: Settings | None, wanted: Wanted, like: Result | None) -> Settings:
    """Return by which settings a model is measured."""
    if unused := sorted(wanted.keys() - Wanted.__annotations__.keys()):
        raise TypeError(f"measure() has no use for {', '.join(unused)}")
    found = settings_for(like or model, settings, wanted)
    return found if like is None else replace(like.settings, tolerance=found.tolerance)


def _verified(
    like: Result, plan: Plan, layers: tuple[LayerReport, ...], settings: Settings, clock: Clock, device: Device
) -> Result:
    """Return the result of `initialize` with what was measured."""
    done = _with_notes(like, clock, device, lost(plan, layers, settings))
    return replace(done, layers=layers, settings=settings)


def _with_notes(like: Result, clock: Clock, device: Device, notes: Sequence[str] = ()) -> Result:
    """Return a result with the seconds, the notes and the device's notes of one more measurement."""
    return replace(
        like,
        notes=tuple(dict.fromkeys((*like.notes, *notes, *device.notes))),
        device_notes=tuple(dict.fromkeys((*like.device_notes, *device.notes))),
        seconds={**like.seconds, **clock.seconds},
    )


def _rows(
    plan: Plan, aims: Aims, records: dict[str, Record], like: Result | None, settings: Settings
) -> tuple[LayerReport, ...]:
    """Return the rows, of weights as they came or those of `initialize`, with their verdict."""

    def found(layer: Layer) -> LayerReport:
        key, status = layer.weight, "scaled" if layer.scaled else "found"
        return noted(row_of(plan, layer, "keep", aims.stds[key], status, records.get(key)), aims.remarks.get(layer))

    if like is not None:
        pairs = zip(like.layers, plan.layers, strict=True)
        rows = [replace(r, target=aims.stds[e.weight]) if e.weight in aims.shares else r for r, e in pairs]
    else:
        rows = [found(layer) for layer in plan.layers]
    together = zip(rows, plan.layers, tolerances(plan, settings.tolerance), strict=True)
    return tuple(verified_row(row, records.get(layer.weight), allowed, layer) for row, layer, allowed in together)


def measure_before(
    result: Result,
    batches: Batches | Data,
    *,
    device: str | Device = "cpu",
    threads: int | None = None,
    memory: int | str | None = None,
    scratch: Path | None = None,
    progress: Progress = quiet,
) -> Result:
    """Return the result of `initialize` with `std_before` in its rows: the std with the values that the file came with.

    A file that came without some of its values has none, and the result stays as it is. Arguments and errors as for
    `measure`.
    """
    model = result.plan.program.model
    if model.absent:
        return result
    clock, given = Clock(), early(device, threads)
    with clock("before"):
        plan = find_again(result.plan, replace(result.settings, keep_bias=True))
        data = checked(model, batches, room := Scratch.within(memory_bytes(memory), scratch), progress)
        aims, where = _aims_like(result, plan), runtime.device_of(given, threads=threads, work=work_of(plan, data))
        records, where, _ = attempt(partial(_records, plan, aims, room, progress, share=False), where, data)
    runtime.release(where)
    together = zip(result.layers, plan.layers, strict=True)
    layers = tuple(replace(row, std_before=std_of(row, records.get(layer.weight), layer)) for row, layer in together)
    return replace(_with_notes(result, clock, where), layers=layers)


def _check_layers(plan: Plan, like: Result | None) -> None:
    """Raise ModelError where a layer or values are missing, UsageError where rows are those of other layers."""
    check_whole(plan.program.model)
    if like is None:
        require_layers(plan, "measure")
        return

    def same(row: LayerReport, layer: Layer) -> bool:
        # The portable form keeps the names of weights.
        return row.name == layer.node.label or row.weight in tensor_names(plan.program, layer.source)

    if len(like.layers) != len(plan.layers) or not all(map(same, like.layers, plan.layers)):
        ours, others = (
            listing(names, 3) for names in ([e.node.label for e in plan.layers], [e.name for e in like.layers])
        )
        raise UsageError(f"`like` is the result of another model: its layers are {others}, and not {ours}")


def _aims_like(like: Result, plan: Plan) -> Aims:
    """Return what was wanted of the layers of a result; its patterns need not match names of the portable form."""
    stds = {layer.weight: row.target for row, layer in zip(like.layers, plan.layers, strict=True)}
    shares = {}
    if before := aims_of(like.plan, like.settings).shares:  # else no stream is looked for
        (now, _), pairs = shares_of(plan, stds), zip(like.plan.layers, plan.layers, strict=True)
        shares = {new.weight: now[new.weight] for old, new in pairs if old.weight in before and new.weight in now}
    return Aims(stds, dict.fromkeys(stds, "keep"), {}, frozenset(), shares)


def _records(  # noqa: PLR0913  (what is measured, on what, and how)
    plan: Plan,
    aims: Aims,
    scratch: Scratch,
    progress: Progress,
    device: Device,
    data: Batches,
    *,
    share: bool = True,
    beside: frozenset[str] = frozenset(),
    as_written: bool = True,
) -> dict[str, Record]:
    """Return the moments of each layer's output, by weight key; before it may stand what the weight gives alone.

    What was calibrated in blocks is verified `as_written`.
    """
    if not plan.layers:
        return {}
    check_indices(plan.program, data, device)
    shapes, block, samples = shapes_of(data), runtime.block(device), samples_of(data) if share else None
    targets: dict[str, float | Part | None] = {**aims.stds, **aims.streams}
    how: dict[str, Any] = {"rescale": False, "staged": False, "block": block, "as_written": as_written}
    how |= {"longest": device.provider.nodes, "samples": samples, "beside": beside}
    graph = partial(build, plan, shapes, targets=targets, **how)
    return repeat_for_large_means(
        graph(),
        lambda shifted: graph(shifted=shifted),
        lambda made: execute(made, data, {}, device, scratch, progress, "verify"),
    )
