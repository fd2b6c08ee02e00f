"""Measure a model as it is, and verify one that was initialised: the last of the four verbs."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Unpack

from onnx_lsuv import runtime
from onnx_lsuv.batches import Batches, Data
from onnx_lsuv.errors import UsageError, listing
from onnx_lsuv.graph import Part, Record, Samples, build
from onnx_lsuv.layers import Layer, Plan, tensor_names
from onnx_lsuv.lsuv.absent import completed
from onnx_lsuv.lsuv.baseline import Baseline, aimed_at, stds_of
from onnx_lsuv.lsuv.execute import Progress, execute, quiet, repeat_for_large_means
from onnx_lsuv.lsuv.notes import faint
from onnx_lsuv.lsuv.patterns import Aims, aims_of
from onnx_lsuv.lsuv.planning import find, find_again, require_layers, settings_for
from onnx_lsuv.lsuv.prepare import Clock, checked, run_notes, samples_of, shapes_of
from onnx_lsuv.lsuv.result import LayerReport, Result
from onnx_lsuv.lsuv.rows import noted, row_of, skipped_row, std_of, told_why, tolerances, verified_row
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
    device: str | Device = "cpu",
    threads: int | None = None,
    memory: int | str | None = None,
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
        device: as for `initialize`.
        threads: of the CPU.
        memory: what batches that are given only once may take, as for `initialize`.
        progress: as for `initialize`.
        wanted: as keywords target_std, target, residual, tolerance, include, exclude, strict of `Settings`.

    Raises:
        UsageError: an argument is wrong, a pattern matches no layer, `like` has other layers, or the baseline more.
        ModelError: there is no layer to measure, or ONNX Runtime refuses the model.
        DataError: the data do not fit the model, or the baseline is no report.
        DeviceError: the device is not there.
    """
    if unused := sorted(wanted.keys() - Wanted.__annotations__.keys()):
        raise TypeError(f"measure() has no use for {', '.join(unused)}")
    settings = settings_for(like or model, settings, wanted)
    if like is not None:
        settings = replace(like.settings, tolerance=settings.tolerance)
    had, told = None if baseline is None else stds_of(baseline), tuple[str, ...]()
    where, clock = runtime.device_of(device, threads=threads), Clock()
    with clock("verify"):
        as_it_is = replace(settings, keep_bias=True)
        plan = find(completed(model, batches), as_it_is, like.plan.parting.copies if like else {})
        _check_layers(plan, like)
        data = checked(plan.program.model, batches, scratch := Scratch.within(memory_bytes(memory)), progress)
        aims = aims_of(plan, settings) if like is None else _aims_like(like, plan)
        if had is not None:
            aims, told = aimed_at(aims, plan, had)
        records = _records(plan, data, aims, where, scratch, progress, samples_of(data))
        aims = aims.resolved(records)
    runtime.release(where)

    together = zip(_rows(plan, aims, records, like), plan.layers, tolerances(plan, settings.tolerance), strict=True)
    layers = tuple(verified_row(row, records.get(layer.weight), allowed, layer) for row, layer, allowed in together)
    if like is not None:
        return _verified(like, plan, layers, settings, clock)
    return Result(
        model=plan.program.model,
        plan=plan,
        verb="measure",
        settings=as_it_is,
        layers=tuple(told_why(plan, layers)),
        skipped=tuple(map(skipped_row, plan.skipped)),
        notes=(*run_notes(plan, data), *told, *faint(plan, layers, settings)),
        data=data.describe(),
        device=where.name,
        seconds=clock.seconds,
    )


def _verified(like: Result, plan: Plan, layers: tuple[LayerReport, ...], settings: Settings, clock: Clock) -> Result:
    """Return the result of `initialize` with what was measured."""
    notes = tuple(dict.fromkeys((*like.notes, *faint(plan, layers, settings))))
    seconds = {**like.seconds, **clock.seconds}
    return replace(like, layers=layers, settings=settings, notes=notes, seconds=seconds)


def _rows(plan: Plan, aims: Aims, records: dict[str, Record], like: Result | None) -> list[LayerReport]:
    """Return the rows before their verdict: of weights as they came, or those of `initialize`."""
    if like is not None:
        pairs = zip(like.layers, plan.layers, strict=True)
        return [replace(r, target=aims.stds[e.weight]) if e.weight in aims.streams else r for r, e in pairs]

    def found(layer: Layer) -> LayerReport:
        key, status = layer.weight, "scaled" if layer.scaled else "found"
        return noted(row_of(plan, layer, "keep", aims.stds[key], status, records.get(key)), aims.remarks.get(layer))

    return [found(layer) for layer in plan.layers]


def measure_before(
    result: Result,
    batches: Batches | Data,
    *,
    device: str | Device = "cpu",
    threads: int | None = None,
    memory: int | str | None = None,
    progress: Progress = quiet,
) -> Result:
    """Return the result of `initialize` with `std_before` in its rows: the std with the values that the file came with.

    A file that came without some of its values has none, and the result stays as it is. Arguments and errors as for
    `measure`.
    """
    model = result.plan.program.model
    if model.absent:
        return result
    where, clock = runtime.device_of(device, threads=threads), Clock()
    with clock("before"):
        plan = find_again(result.plan, replace(result.settings, keep_bias=True))
        data = checked(model, batches, scratch := Scratch.within(memory_bytes(memory)), progress)
        records = _records(plan, data, _aims_like(result, plan), where, scratch, progress)
    runtime.release(where)
    together = zip(result.layers, plan.layers, strict=True)
    layers = tuple(replace(row, std_before=std_of(row, records.get(layer.weight), layer)) for row, layer in together)
    return replace(result, layers=layers, seconds={**result.seconds, **clock.seconds})


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
        now, pairs = shares_of(plan, stds), zip(like.plan.layers, plan.layers, strict=True)
        shares = {new.weight: now[new.weight] for old, new in pairs if old.weight in before and new.weight in now}
    return Aims(stds, dict.fromkeys(stds, "keep"), {}, frozenset(), shares)


def _records(
    plan: Plan,
    data: Batches,
    aims: Aims,
    device: Device,
    scratch: Scratch,
    progress: Progress,
    samples: Samples | None = None,
) -> dict[str, Record]:
    """Return the moments of each layer's output, by weight key; before it may stand what the weight gives alone."""
    if not plan.layers:
        return {}
    shapes, block = shapes_of(data), runtime.block(device)
    targets: dict[str, float | Part | None] = {**aims.stds, **aims.streams}
    graph = partial(build, plan, shapes, rescale=False, staged=False, targets=targets, block=block, samples=samples)
    return repeat_for_large_means(
        graph(),
        lambda shifted: graph(shifted=shifted),
        lambda made: execute(made, data, {}, device, scratch, progress, "verify"),
    )
