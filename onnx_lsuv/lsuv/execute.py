"""Run a calibration graph over batches and return its records."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, TypeProto

from onnx_lsuv import runtime
from onnx_lsuv.batches import Batch, Batches
from onnx_lsuv.graph import ROWS, Calibration, Record, Stage, close, executions, first_usable_of, has_bfloat16, widened
from onnx_lsuv.lsuv.scratch import Scratch
from onnx_lsuv.model import bindable, is_hollow, read
from onnx_lsuv.program import Program
from onnx_lsuv.runtime import Device, Session

Array = NDArray[Any]
Progress = Callable[[str, int, int], None]
_Loaded = tuple[Stage, frozenset[str], Session]


def quiet(phase: str, done: int, total: int) -> None:
    """Report no progress."""


def execute(
    calibration: Calibration,
    batches: Batches,
    new: Mapping[str, Array],
    device: Device,
    scratch: Scratch,
    progress: Progress = quiet,
    phase: str = "calibrate",
) -> dict[str, Record]:
    """Run every stage over every batch.

    Args:
        calibration: the graph in stages.
        batches: the data.
        new: values of constants that differ from the file's.
        device: where to run.
        scratch: for what is kept between stages.
        progress: called with a phase, the runs done and their total.
        phase: what to call it.

    Returns:
        The record of each key over all batches.
    """
    program, wide = calibration.program, computes_wide(calibration.program, device)
    element = {value.name: value.type.tensor_type.elem_type for value in program.body.inputs}
    pooled_cuts: dict[str, Record] = {}
    finals: dict[str, list[Array]] = {}
    kept: list[dict[str, _Held]] = [{} for _ in range(len(batches))]
    common: dict[str, _Held] = {}  # kept values that all batches have in common
    total, done = sum(1 if stage.once else len(batches) for stage in calibration.stages), 0
    with closing(_loaded(calibration, new, device, wide=wide)) as loaded:
        for stage, fed, session in loaded:
            # Arrays are kept alive while they are bound.
            fixed = {name: widened(*value_of_constant(program, name, new), wide=wide) for name in fed}
            bound = {name: runtime.value_of(array, e) for name, (array, e) in fixed.items()}
            back = {fed: np.zeros((ROWS, width)) for fed, width in stage.again.values()}
            wanted = tuple(dict.fromkeys((*stage.cuts, *stage.finals, *stage.kept)))
            stores = [common] if stage.once else kept
            # Of records that depend on each other one more is right after each run; the last run is for what is kept.
            for left in range(len(stage.again) + bool(stage.kept), -1, -1):
                known = {**pooled_cuts, **back}
                inputs = {n: runtime.value_of(known[n].reshape(-1), TensorProto.DOUBLE) for n in stage.pooled}
                found: dict[str, list[Array]] = {name: [] for name in (*stage.cuts, *stage.finals)}
                for i, store in enumerate(stores):
                    batch: Batch = batches[i] if stage.inputs else {}
                    given = {name: widened(batch[name], element[name], wide=wide) for name in stage.inputs}
                    data = {name: runtime.value_of(array, e) for name, (array, e) in given.items()}
                    carried = {name: (store.get(name) or common[name]).value for name in stage.carried}
                    out = runtime.run(session, {**bound, **inputs, **data, **carried}, wanted, found.keys())
                    for name, arrays in found.items():
                        arrays.append(runtime.array_of(out[name]))
                    for name in stage.kept:
                        if name in store:
                            scratch.release(store[name].reserved)
                        store[name] = _hold(out[name], device, scratch)
                    if not stage.again:
                        _drop(store, stage.finished, scratch)
                    done += 1
                    progress(phase, done, total)
                pooled_cuts |= {name: first_usable_of(executions(found[name])) for name in stage.cuts}
                before, back = back, {fed: pooled_cuts[cut] for cut, (fed, _) in stage.again.items()}
                if left <= 1 or all(np.array_equal(back[fed], before[fed], equal_nan=True) for fed in back):
                    break
                total += len(stores)
            for store in (*kept, common):
                _drop(store, stage.finished, scratch)
            finals |= {name: found[name] for name in stage.finals}
            del fixed, bound, inputs
    results = {}
    for key, names in calibration.records.items():
        records = [r for n in names for r in ([pooled_cuts[n]] if n in pooled_cuts else executions(finals.get(n, [])))]
        if records:
            results[key] = first_usable_of(records)
    return results


def computes_wide(program: Program, device: Device) -> bool:
    """Say whether a device computes a program's bfloat16 in float32."""
    return device.kind == "cpu" and has_bfloat16(program)


def _loaded(
    calibration: Calibration, new: Mapping[str, Array], device: Device, *, wide: bool
) -> Generator[_Loaded, None, None]:
    """Yield each stage, the constants that are fed to it and its session; while it runs, the next one is loaded."""
    program, types = calibration.program, dict[str, TypeProto]()

    def load(stage: Stage) -> _Loaded:
        fed = frozenset(n for n in stage.constants if n in new or _comes_from_file(program, n))
        return stage, fed, runtime.load(close(calibration, stage, fed, types, wide=wide), device, fold=stage.folds)

    stages = iter(calibration.stages)
    with ThreadPoolExecutor(1, thread_name_prefix="load") as pool:

        def start() -> Future[_Loaded] | None:
            stage = next(stages, None)
            return pool.submit(load, stage) if stage else None

        coming = start()
        while coming:
            stage, fed, session = coming.result()
            made = runtime.output_types(session)
            types |= {name: made[name] for name in stage.kept}
            coming = start()
            yield stage, fed, session


@dataclass(frozen=True, slots=True, eq=False)
class _Held:
    """A value between stages."""

    value: Any
    reserved: int  # bytes of the budget
    array: Array | None = None  # the mapped array that it lives in


def _hold(value: Any, device: Device, scratch: Scratch) -> _Held:
    """Keep a value where it is, or, on the host beyond the budget, in a file."""
    if device.kind != "cpu" or not value.is_tensor() or value.data_type() == "tensor(string)":
        return _Held(value, 0)
    size = value.tensor_size_in_bytes()
    if scratch.reserve(size):
        return _Held(value, size)
    array = scratch.mapped(runtime.array_of(value))
    return _Held(runtime.value_of(array, value.element_type()), 0, array)


def _drop(store: dict[str, _Held], names: Sequence[str], scratch: Scratch) -> None:
    for name in names:
        if name in store:
            scratch.release(store.pop(name).reserved)


def _comes_from_file(program: Program, name: str) -> bool:
    """Say whether the skeleton does not hold a constant's values."""
    constant = program.constants[name]
    if constant.site in program.model.values:
        return True
    return constant.node is None and (constant.tensor is None or is_hollow(constant.tensor))


def value_of_constant(program: Program, name: str, new: Mapping[str, Array]) -> tuple[Array, int]:
    """Return a constant's values, new or stored, in a form that can be bound, and their element type."""
    constant = program.constants[name]
    if name in new:
        return np.ascontiguousarray(new[name]).reshape(constant.dims), constant.elem_type
    assert constant.site is not None
    return bindable(read(program.model, constant.site)), constant.elem_type
