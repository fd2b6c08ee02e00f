"""Run a calibration graph over batches and return its records; once more where a mean is too large for float32 sums.

The values of most networks lie around zero, and their statistics need no more than float32 sums of x and x^2. Where a
record's mean turns out to be large (see `graph.moments`), the graph is made and run once more, that record measured
about the mean. If what follows from it moves another mean too far, all records are measured so.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Set
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from onnx import TensorProto, TypeProto

from onnx_lsuv import runtime
from onnx_lsuv.batches import Batches
from onnx_lsuv.graph import (
    ROWS,
    USE,
    Calibration,
    Record,
    Stage,
    close,
    executions,
    first_usable_of,
    has_bfloat16,
    widened,
    with_signal,
)
from onnx_lsuv.lsuv.scratch import Scratch
from onnx_lsuv.model import Array, bindable, is_hollow, read
from onnx_lsuv.program import Program
from onnx_lsuv.runtime import Device, Session

Progress = Callable[[str, int, int], None]
_Loaded = tuple[Stage, frozenset[str], Session]  # with the constants that are fed to the stage


def quiet(phase: str, done: int, total: int) -> None:
    """Report no progress."""


def repeat_for_large_means(
    calibration: Calibration, build: Callable[[Set[str]], Calibration], run: Callable[[Calibration], dict[str, Record]]
) -> dict[str, Record]:
    """Run a calibration graph until no record's mean is too large for how it was measured; return the last records.

    Args:
        calibration: the graph.
        build: makes it again, with the keys of the records to measure about their mean.
        run: runs it.
    """
    shifted: Set[str] = frozenset()
    while True:
        records = run(calibration)
        rough = calibration.rough
        far = {key for key, asked in rough.items() if key in records and asked.is_far(records[key])}
        if not far:
            return records
        shifted = far if not shifted else shifted | rough.keys()
        calibration = build(shifted)


@dataclass(frozen=True, slots=True, eq=False)
class _CarriedValue:
    """A value between stages."""

    value: Any
    reserved: int = 0  # bytes of the budget
    array: Array | None = None  # the mapped array that it lives in


_Carried = dict[str, _CarriedValue]


@dataclass(slots=True)
class _Run:
    """A calibration graph while it runs."""

    calibration: Calibration
    batches: Batches
    new: Mapping[str, Array]
    device: Device
    scratch: Scratch
    wide: bool  # bfloat16 is computed in float32
    elements: Mapping[str, int]  # types of the inputs
    carried: list[_Carried]  # by batch
    common: _Carried = field(default_factory=dict)  # what all batches have in common
    cuts: dict[str, Record] = field(default_factory=dict)  # pooled
    finals: dict[str, list[Array]] = field(default_factory=dict)
    sums: dict[str, Array] = field(default_factory=dict)  # over the samples of the batches so far


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
        The record of each key over all batches, when measuring with the share of signal.
    """
    program = calibration.program
    elements = {value.name: value.type.tensor_type.elem_type for value in program.body.inputs}
    carried: list[_Carried] = [{} for _ in range(len(batches))]
    run = _Run(calibration, batches, new, device, scratch, has_bfloat16(program), elements, carried)
    total, done = sum(1 if stage.once else len(batches) for stage in calibration.stages), 0
    with closing(_loaded(run)) as loaded:
        for stage, fed, session in loaded:
            for more in _run_stage(run, stage, fed, session):
                total, done = total + more, done + 1
                progress(phase, done, total)
            for store in (*carried, run.common):
                _drop(run, store, stage.finished)
    results = {}
    for key, names in calibration.records.items():
        found = [[run.cuts[name]] if name in run.cuts else executions(run.finals.get(name, [])) for name in names]
        if records := [record for each in found for record in each]:
            results[key] = first_usable_of(records)
    if calibration.sums:
        for key, record in results.items():
            sums = run.sums.get(calibration.sums.get((key, int(record[USE, 0])), ""))
            results[key] = with_signal(record, sums, single=len(batches) == 1)
        scratch.release(sum(sums.nbytes for sums in run.sums.values() if not isinstance(sums, np.memmap)))
    return results


def _run_stage(run: _Run, stage: Stage, fed: Set[str], session: Session) -> Iterator[int]:
    """Run a stage over the batches, again and again where its records depend on each other.

    Yields after each run how many more there are than one a batch, since the run before.
    """
    # Arrays are kept alive while they are bound.
    fixed = {name: widened(*_values_of(run, name)) for name in stage.constants if name in fed}
    bound = {name: runtime.value_of(array, elem_type) for name, (array, elem_type) in fixed.items()}
    back = {name: np.zeros((ROWS, width)) for name, width in stage.again.values()}
    stores, more, sums = [run.common] if stage.once else run.carried, 0, set(run.calibration.sums.values())
    # One more of these records is right after each run; the last run is for what is kept.
    for left in range(len(stage.again) + bool(stage.kept), -1, -1):
        known = {**run.cuts, **back}
        pooled = {n: runtime.value_of(known[n].reshape(-1), TensorProto.DOUBLE) for n in stage.pooled}
        found: dict[str, list[Array]] = {name: [] for name in (*stage.cuts, *stage.finals)}
        for i, store in enumerate(stores):
            for name, array in _run_once(run, stage, session, bound | pooled, i, store).items():
                if name in sums:
                    _add(run, name, array)
                else:
                    found[name].append(array)
            if not stage.again:
                _drop(run, store, stage.finished)
            yield more
            more = 0
        run.cuts |= {name: first_usable_of(executions(found[name])) for name in stage.cuts}
        before, back = back, {name: run.cuts[cut] for cut, (name, _) in stage.again.items()}
        if left <= 1 or all(np.array_equal(back[name], before[name], equal_nan=True) for name in back):
            break
        more = len(stores)
    run.finals |= {name: found[name] for name in stage.finals}


def _add(run: _Run, name: str, array: Array) -> None:
    """Add the sums of a batch to those before, or, where there are other positions in it, leave that no sums."""
    before, array = run.sums.get(name), array.reshape(-1)
    if before is None:
        run.sums[name] = run.scratch.keep(array.astype(np.float64))
    elif before.size == array.size:
        np.add(before, array, out=before)
    else:
        run.sums[name] = np.zeros(0)


def _run_once(
    run: _Run, stage: Stage, session: Session, bound: Mapping[str, Any], i: int, store: _Carried
) -> dict[str, Array]:
    """Run a stage over a batch; return its records, and keep what later stages read."""
    batch = run.batches[i] if stage.inputs else {}
    given = {name: widened(batch[name], run.elements[name]) for name in stage.inputs}
    data = {name: runtime.value_of(array, elem_type) for name, (array, elem_type) in given.items()}
    carried = {name: (store.get(name) or run.common[name]).value for name in stage.carried}
    records = dict.fromkeys((*stage.cuts, *stage.finals))
    out = runtime.run(session, {**bound, **data, **carried}, tuple(records | dict.fromkeys(stage.kept)), records.keys())
    for name in stage.kept:
        _drop(run, store, [name])
        store[name] = _carry(run, out[name])
    return {name: runtime.array_of(out[name]) for name in records}


def _loaded(run: _Run) -> Generator[_Loaded, None, None]:
    """Yield each stage with its session; while it runs, the next one is loaded."""
    calibration, types = run.calibration, dict[str, TypeProto]()

    def load(stage: Stage) -> _Loaded:
        fed = frozenset(n for n in stage.constants if n in run.new or _comes_from_file(calibration.program, n))
        model = close(calibration, stage, fed, types, wide=run.wide)
        return stage, fed, runtime.load(model, run.device, fold=stage.folds)

    stages, coming = iter(calibration.stages), deque[Future[_Loaded]]()
    with ThreadPoolExecutor(1, thread_name_prefix="load") as pool:

        def start() -> None:
            coming.extend(pool.submit(load, stage) for stage in islice(stages, 1))

        start()
        while coming:
            stage, fed, session = coming.popleft().result()
            made = runtime.output_types(session)
            types |= {name: made[name] for name in stage.kept}
            start()
            yield stage, fed, session


def _carry(run: _Run, value: Any) -> _CarriedValue:
    """Keep a value where it is, or, on the host beyond the budget, in a file."""
    if run.device.kind != "cpu" or not value.is_tensor() or value.data_type() == "tensor(string)":
        return _CarriedValue(value)
    size = value.tensor_size_in_bytes()
    if run.scratch.reserve(size):
        return _CarriedValue(value, size)
    array = run.scratch.mapped(runtime.array_of(value))
    return _CarriedValue(runtime.value_of(array, value.element_type()), 0, array)


def _drop(run: _Run, store: _Carried, names: Iterable[str]) -> None:
    for name in names:
        if name in store:
            run.scratch.release(store.pop(name).reserved)


def _comes_from_file(program: Program, name: str) -> bool:
    """Say whether the skeleton does not hold a constant's values."""
    constant = program.constants[name]
    if constant.site in program.model.values:
        return True
    return constant.node is None and (constant.tensor is None or is_hollow(constant.tensor))


def _values_of(run: _Run, name: str) -> tuple[Array, int]:
    """Return a constant's values, new or stored, in a form that can be bound, and their element type."""
    constant = run.calibration.program.constants[name]
    if name in run.new:
        return np.ascontiguousarray(run.new[name]).reshape(constant.dims), constant.elem_type
    assert constant.site is not None
    return bindable(read(run.calibration.program.model, constant.site)), constant.elem_type
