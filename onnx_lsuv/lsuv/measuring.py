"""Measure a model as it is, and verify one that was initialised."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from onnx_lsuv import runtime
from onnx_lsuv.batches import Batch, Batches, default_limit
from onnx_lsuv.errors import ModelError, UsageError
from onnx_lsuv.graph import build
from onnx_lsuv.lsuv.again import settled
from onnx_lsuv.lsuv.execute import Progress, execute, quiet
from onnx_lsuv.lsuv.patterns import Targets, pairs_of, targets_of
from onnx_lsuv.lsuv.prepare import Clock, checked, nothing_to_do, plans_of, run_notes, shapes_of
from onnx_lsuv.lsuv.result import Result
from onnx_lsuv.lsuv.rows import noted, row_of, skipped_row, tolerances, verified_row
from onnx_lsuv.lsuv.scratch import Scratch
from onnx_lsuv.model import Model
from onnx_lsuv.runtime import Device


def measure(
    model: Model,
    batches: Batches | Iterable[Batch] | Batch,
    *,
    like: Result | None = None,
    target_std: float = 1.0,
    target: Targets = (),
    tolerance: float | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    device: str | Device = "cpu",
    threads: int | None = None,
    progress: Progress = quiet,
) -> Result:
    """Measure every layer of a model as it is.

    Args:
        model: what to measure.
        batches: the data, pooled.
        like: the result of `initialize` that made the model; its rows get the measured std and a final status.
        target_std: the std wanted, without `like`.
        target: other stds, by patterns of names as for `initialize`, without `like`.
        tolerance: on the variance relative to its target; None for 0.005, or 0.02 from the first weight in half
            precision on.
        include: patterns of node or weight names to take; all where empty.
        exclude: patterns of node or weight names to leave alone.
        device: as for `initialize`.
        threads: of the CPU.
        progress: as for `initialize`.
    """
    if tolerance is not None and not 0 < tolerance < 1:
        raise UsageError(f"Expected a tolerance between 0 and 1, found {tolerance}.")
    where = runtime.device_of(device, threads=threads)
    clock = Clock()
    with clock("verify"):
        if like is not None:
            include, exclude = like.settings["include"], like.settings["exclude"]
        fresh = like is not None and bool(like.settings.get("fresh"))  # its patterns may name other parameters
        plan, _ = plans_of(model, include=include, exclude=exclude, keep_bias=True, fresh=fresh)
        if not plan.layers:
            raise ModelError(nothing_to_do(plan))
        data = checked(model, batches)
        targets, remarks = targets_of(plan, target_std, target)
        block = runtime.block(where)
        options: dict[str, Any] = {"rescale": False, "staged": False, "targets": targets, "block": block}
        records = settled(
            build(plan, shapes_of(data), **options),
            lambda shifted: build(plan, shapes_of(data), **options, shifted=shifted),
            lambda graph: execute(graph, data, {}, where, Scratch(default_limit()), progress, "verify"),
        )
        # What a weight gives alone, which decides between its uses, stands before the output.
        records = {key: record[:, -1:] for key, record in records.items()}
    runtime.release(where)
    bounds = tolerances(plan) if tolerance is None else [tolerance] * len(plan.layers)
    if like is not None:
        rows = [
            verified_row(row, records.get(layer.weight), allowed, layer)
            for row, layer, allowed in zip(like.layers, plan.layers, bounds, strict=True)
        ]
        return replace(like, layers=tuple(rows), seconds={**like.seconds, **clock.seconds}, tolerance=tolerance)
    rows = []
    for layer, allowed in zip(plan.layers, bounds, strict=True):
        status = "scaled" if layer.scaled else "found"
        row = noted(row_of(plan, layer, "keep", targets[layer.weight], status, records), remarks.get(layer))
        rows.append(verified_row(row, records.get(layer.weight), allowed, layer))
    return Result(
        model=model,
        layers=tuple(rows),
        skipped=tuple(map(skipped_row, plan.skipped)),
        kept_statistics=(),
        changes=(),
        notes=run_notes(plan, data, where),
        settings={
            "include": list(include),
            "exclude": list(exclude),
            "target": [list(pair) for pair in pairs_of(target)],
        },
        data=data.describe(),
        device=where.name,
        seconds=clock.seconds,
        target_std=target_std,
        tolerance=tolerance,
    )
