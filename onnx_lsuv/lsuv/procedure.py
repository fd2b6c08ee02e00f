"""The procedure: find layers -> draw -> calibrate -> rescale, and the measurement of a model as it is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatchcase
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from onnx_lsuv import batches as data
from onnx_lsuv import runtime
from onnx_lsuv.batches import Batch, Batches
from onnx_lsuv.errors import ModelError, UsageError
from onnx_lsuv.graph import COUNT, MEAN, VAR, Record, build, is_random, norm_key, scale_of
from onnx_lsuv.layers import Layer, Left, Plan, expand, find_layers
from onnx_lsuv.lsuv.draw import METHODS, draw, rescale
from onnx_lsuv.lsuv.execute import Progress, execute, quiet
from onnx_lsuv.lsuv.result import Change, LayerReport, LeftReport, Result
from onnx_lsuv.model import Model, promoted, with_values
from onnx_lsuv.runtime import Device

TOLERANCE, TOLERANCE_HALF = 0.005, 0.02
_HALF = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})


def plan_of(model: Model, *, include: Sequence[str] = (), exclude: Sequence[str] = (), keep_bias: bool = False) -> Plan:
    """Find the layers of a model.

    Args:
        model: what to look at.
        include: patterns of node or weight names; where given, others are left alone.
        exclude: patterns of node or weight names to leave alone.
        keep_bias: leave biases as they are.

    Raises:
        UsageError: a pattern matches no layer.
    """
    program = expand(model)
    seen: dict[str, bool] = dict.fromkeys((*include, *exclude), False)

    def matches(patterns: Sequence[str], label: str, weight: str) -> bool:
        hit = False
        for pattern in patterns:
            if fnmatchcase(label, pattern) or fnmatchcase(weight, pattern):
                seen[pattern] = hit = True
        return hit

    def wanted(label: str, weight: str) -> bool:
        included = matches(include, label, weight) or not include
        return not matches(exclude, label, weight) and included

    plan = find_layers(program, wanted=wanted, keep_bias=keep_bias)
    for pattern, hit in seen.items():
        if not hit:
            names = [layer.node.label for layer in plan.layers][:5]
            raise UsageError(
                f"The pattern {pattern!r} matches no layer or weight of the model; its layers are named like "
                f"{', '.join(map(repr, names))}."
            )
    return plan


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
        threads: of the CPU.
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
    clock = _Clock()
    with clock("load"):
        plan = plan_of(model, include=include, exclude=exclude, keep_bias=keep_bias)
        if not plan.layers:
            raise ModelError(nothing(plan))
        checked = _checked(model, batches)
    with clock("draw"):
        drawn = draw(plan, init, seed, where.threads, progress)
    with clock("calibrate"):
        targets = dict.fromkeys(plan.weights, target_std)
        calibration = build(plan, _shapes(checked), rescale=True, staged=len(checked) > 1, targets=targets, seed=seed)
        records = execute(calibration, checked, drawn.values, where, progress)
        scales = {key: s for key in plan.weights if (s := _scale(records.get(key), target_std)) is not None}
        rescale(plan, drawn.values, scales)
        norms = _norm_values(plan, records)
    values = {**drawn.values, **norms}
    program = plan.program
    sites = {program.constants[name].site: array for name, array in values.items()}
    new = with_values(model, {site: array for site, array in sites.items() if site is not None})
    moved = set(promoted(new))
    steps = [step for layer in plan.layers for step in layer.source.companions]
    roles = dict.fromkeys(norms, "statistics") | dict.fromkeys(plan.zeroed, "bias") | dict.fromkeys(steps, "step")
    rows = [_drawn_row(plan, layer, drawn.methods, records, scales, target_std) for layer in plan.layers]
    return Result(
        model=new,
        layers=tuple(rows),
        left=tuple(map(_left, plan.left)),
        stale=tuple(map(_left, plan.stale)),
        changes=tuple(
            Change(c.label, c.scope, roles.get(name, "weight"), c.site in moved)
            for name in values
            if (c := program.constants[name])
        ),
        notes=(*checked.notes, *_chance(plan)),
        settings={
            "seed": seed,
            "init": init,
            "keep_bias": keep_bias,
            "include": list(include),
            "exclude": list(exclude),
        },
        data=checked.describe(),
        device=where.name,
        seconds=clock.seconds,
        target_std=target_std,
        tolerance=None,
    )


def measure(
    model: Model,
    batches: Batches | Iterable[Batch] | Batch,
    *,
    like: Result | None = None,
    target_std: float = 1.0,
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
        tolerance: on the variance relative to its target; None for 0.005, or 0.02 in half precision.
        include: patterns of node or weight names to take; all where empty.
        exclude: patterns of node or weight names to leave alone.
        device: as for `initialize`.
        threads: of the CPU.
        progress: as for `initialize`.
    """
    where = device if isinstance(device, Device) else runtime.open_device(device, threads=threads)
    clock = _Clock()
    with clock("verify"):
        if like is not None:
            include, exclude = like.settings["include"], like.settings["exclude"]
        plan = plan_of(model, include=include, exclude=exclude, keep_bias=True)
        if not plan.layers:
            raise ModelError(nothing(plan))
        checked = _checked(model, batches)
        targets = dict.fromkeys(plan.weights, target_std)
        calibration = build(plan, _shapes(checked), rescale=False, staged=False, targets=targets, seed=0)
        records = execute(calibration, checked, {}, where, progress, "verify")
    if like is not None:
        rows = [
            _verified(row, records.get(layer.weight), tolerance, layer)
            for row, layer in zip(like.layers, plan.layers, strict=True)
        ]
        return replace(like, layers=tuple(rows), seconds={**like.seconds, **clock.seconds}, tolerance=tolerance)
    rows = [
        _verified(_row(plan, layer, "keep", target_std, "scaled"), records.get(layer.weight), tolerance, layer)
        for layer in plan.layers
    ]
    return Result(
        model=model,
        layers=tuple(rows),
        left=tuple(map(_left, plan.left)),
        stale=(),
        changes=(),
        notes=(*checked.notes, *_chance(plan)),
        settings={"include": list(include), "exclude": list(exclude)},
        data=checked.describe(),
        device=where.name,
        seconds=clock.seconds,
        target_std=target_std,
        tolerance=tolerance,
    )


def describe(
    model: Model, *, include: Sequence[str] = (), exclude: Sequence[str] = (), keep_bias: bool = False
) -> Result:
    """Return the layers of a model and what is left alone, without running anything."""
    plan = plan_of(model, include=include, exclude=exclude, keep_bias=keep_bias)
    return Result(
        model=model,
        layers=tuple(_row(plan, layer, "", 1.0, "found") for layer in plan.layers),
        left=tuple(map(_left, plan.left)),
        stale=tuple(map(_left, plan.stale)),
        changes=(),
        notes=(),
        settings={"include": list(include), "exclude": list(exclude), "keep_bias": keep_bias},
        data={},
        device="none",
        seconds={},
        target_std=1.0,
        tolerance=None,
    )


def nothing(plan: Plan) -> str:
    """Return the sentence for a model in which no layer can be initialised."""
    name = plan.program.model.name
    if not plan.left:
        return f"There is nothing to initialise in {name}: it has no linear layer (Conv, Gemm, MatMul, ConvTranspose)."
    reasons: dict[str, list[Left]] = {}
    for left in plan.left:
        reasons.setdefault(left.detail, []).append(left)
    parts = [f"{len(group)} x {group[0].node.op} because {detail}" for detail, group in reasons.items()]
    more = f"; and {len(parts) - 3} reasons more" if len(parts) > 3 else ""
    return f"There is nothing to initialise in {name}: left alone {'; '.join(parts[:3])}{more}."


class _Clock:
    """Seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = perf_counter()
        yield
        self.seconds[phase] = self.seconds.get(phase, 0.0) + perf_counter() - start


def _checked(model: Model, batches: Batches | Iterable[Batch] | Batch) -> Batches:
    if isinstance(batches, Batches):
        return batches
    return data.from_arrays(data.inputs_of(model.proto.graph), batches)


def _shapes(batches: Batches) -> Mapping[str, tuple[int, Sequence[int]]]:
    """Return element type and shape of each input, with dims open that differ between batches."""
    first = batches[0] if len(batches) else {}
    shapes = {name: (int(helper.np_dtype_to_tensor_dtype(a.dtype)), a.shape) for name, a in first.items()}
    if len(batches) > 1:
        last = batches[len(batches) - 1]
        return {n: s for n, s in shapes.items() if last[n].shape == s[1]}
    return shapes


def _scale(record: Record | None, target: float) -> float | None:
    return None if record is None or record[COUNT, 0] == 0 else scale_of(record, target)


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
                wide = np.float32 if constant.elem_type in _HALF else dtype
                array = np.maximum(array, np.finfo(wide).tiny)
            values[name] = array.astype(dtype)
    return values


def _chance(plan: Plan) -> list[str]:
    ops = sorted({node.op for node in plan.program.walk() if is_random(node)})
    if not ops:
        return []
    return [
        f"Chance was taken out while measuring: {', '.join(ops)} ran as identity, in inference form or with a fixed seed."
    ]


def _row(plan: Plan, layer: Layer, init: str, target: float, status: str) -> LayerReport:
    constant = plan.program.constants[layer.source.constant]
    return LayerReport(
        name=layer.node.label,
        op=layer.node.op,
        weight=constant.label,
        scope=constant.scope,
        path=layer.source.path,
        shape=layer.source.shape,
        dtype=TensorProto.DataType.Name(constant.elem_type).lower(),
        blocks=layer.matrix.blocks,
        fan_out=layer.matrix.fan_out,
        fan_in=layer.matrix.fan_in,
        init=init,
        target=target,
        status="shared" if plan.weights[layer.weight].layers[0] is not layer else status,
    )


def _drawn_row(
    plan: Plan,
    layer: Layer,
    methods: Mapping[str, str],
    records: Mapping[str, Record],
    scales: Mapping[str, float],
    target: float,
) -> LayerReport:
    row = _row(plan, layer, methods[layer.weight], target, "scaled")
    if not layer.scaled:
        note = "not rescaled: its gates or its attention bound the output"
        return replace(row, status=row.status if row.status == "shared" else "drawn", note=note)
    record = records.get(layer.weight)
    if record is None or record[COUNT, 0] == 0:
        return replace(row, status="not-reached", note="the data never reach it")
    drawn = math.sqrt(max(float(record[VAR, 0]), 0.0))
    if layer.weight not in scales:
        return replace(row, status="degenerate", std_drawn=drawn, note=_cause(record, target))
    return replace(row, std_drawn=drawn, scale=scales[layer.weight])


def _cause(record: Record, target: float) -> str:
    mean, var, count = float(record[MEAN, 0]), float(record[VAR, 0]), float(record[COUNT, 0])
    if not (math.isfinite(mean) and math.isfinite(var)):
        return "its output is not finite: overflow in the layers before it, or in its own type"
    if count == 1:
        return "its output is a single value over all data: give more than one sample"
    if record.shape[1] == 3 and math.isfinite(float(record[VAR, 1])) and float(record[VAR, 1]) >= target**2:
        return f"what is added to its output alone has a std of {math.sqrt(float(record[VAR, 1])):.3g}: leave '--keep-bias' out"
    return "its output is constant: its input is constant, or everything before it is cut off (dead ReLUs)"


def _verified(row: LayerReport, record: Record | None, tolerance: float | None, layer: Layer) -> LayerReport:
    """Return a row with what was measured on the final weights."""
    if row.status in ("shared", "not-reached") or not layer.scaled:
        return row
    if record is None or record[COUNT, 0] == 0:
        return replace(row, status="not-reached", note="the data never reach it")
    mean, var = float(record[MEAN, 0]), float(record[VAR, 0])
    row = replace(row, mean=mean, std=math.sqrt(max(var, 0.0)) if math.isfinite(var) else var)
    if row.status == "degenerate":
        return row
    if tolerance is None:
        tolerance = TOLERANCE_HALF if layer.source.elem_type in _HALF else TOLERANCE
    if abs(var / row.target**2 - 1) <= tolerance:
        return replace(row, status="ok")
    note = row.note or (_cause(record, row.target) if scale_of(record, 1.0) is None else "")
    return replace(row, status="off", note=note)


def _left(left: Left) -> LeftReport:
    return LeftReport(left.node.label, left.node.op, left.weight, left.shape, left.reason, left.detail)
