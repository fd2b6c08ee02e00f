"""Run a calibration graph over batches and return its records."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, TypeProto

from onnx_lsuv import runtime
from onnx_lsuv.batches import Batch, Batches
from onnx_lsuv.graph import Calibration, Record, Stage, close, first_usable_of, pooled
from onnx_lsuv.layers import Program
from onnx_lsuv.lsuv.scratch import Scratch
from onnx_lsuv.model import is_hollow, read
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
    program = calibration.program
    element = {value.name: value.type.tensor_type.elem_type for value in program.body.inputs}
    pooled_cuts: dict[str, Record] = {}
    finals: dict[str, list[Array]] = {}
    kept: list[dict[str, _Held]] = [{} for _ in range(len(batches))]
    common: dict[str, _Held] = {}  # kept values that all batches have in common
    total, done = sum(1 if stage.once else len(batches) for stage in calibration.stages), 0
    with closing(_loaded(calibration, new, device)) as loaded:
        for stage, fed, session in loaded:
            fixed = {name: value_of_constant(program, name, new) for name in fed}  # kept alive while bound
            inputs = {name: runtime.value_of(array, e) for name, (array, e) in fixed.items()}
            inputs |= {
                name: runtime.value_of(pooled_cuts[name].reshape(-1), TensorProto.DOUBLE) for name in stage.pooled
            }
            collected: dict[str, list[Array]] = {name: [] for name in stage.cuts}
            for i, store in enumerate([common] if stage.once else kept):
                batch: Batch = batches[i] if stage.inputs else {}
                data = {name: runtime.value_of(batch[name], element[name]) for name in stage.inputs}
                carried = {name: (store.get(name) or common[name]).value for name in stage.carried}
                wanted = tuple(dict.fromkeys((*stage.cuts, *stage.finals, *stage.kept)))
                out = runtime.run(session, {**inputs, **data, **carried}, wanted, {*stage.cuts, *stage.finals})
                for name in stage.cuts:
                    collected[name].append(runtime.array_of(out[name]).reshape(3, -1))
                for name in stage.finals:
                    finals.setdefault(name, []).append(runtime.array_of(out[name]).reshape(3, -1))
                for name in stage.kept:
                    store[name] = _hold(out[name], device, scratch)
                for name in stage.finished:
                    if name in store:
                        scratch.release(store.pop(name).reserved)
                done += 1
                progress(phase, done, total)
            for name in common.keys() & set(stage.finished):
                scratch.release(common.pop(name).reserved)
            pooled_cuts |= {name: pooled(records) for name, records in collected.items()}
            del fixed, inputs
    results = {}
    for key, names in calibration.records.items():
        found = [
            pooled_cuts[n] if n in pooled_cuts else pooled(finals[n]) for n in names if n in pooled_cuts or n in finals
        ]
        if found:
            results[key] = first_usable_of(found)
    return results


def _loaded(calibration: Calibration, new: Mapping[str, Array], device: Device) -> Generator[_Loaded, None, None]:
    """Yield each stage, the constants that are fed to it and its session; while it runs, the next one is loaded."""
    program, types = calibration.program, dict[str, TypeProto]()

    def load(stage: Stage) -> _Loaded:
        fed = frozenset(n for n in stage.constants if n in new or _comes_from_file(program, n))
        return stage, fed, runtime.load(close(calibration, stage, fed, types), device)

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
    array = read(program.model, constant.site)
    return np.require(array, requirements=["C"]), constant.elem_type
