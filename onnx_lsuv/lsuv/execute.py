"""Run a calibration graph over batches and return its records; once more where a mean is too large for float32 sums.

The values of most networks lie around zero, and their statistics need no more than float32 sums of x and x^2. Where a
record's mean turns out to be large (see `graph.moments`), the graph is made and run once more, that record measured
about the mean. If what follows from it moves another mean too far, all records are measured so.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Set
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, TypeProto

from onnx_lsuv import runtime
from onnx_lsuv.batches import Batches
from onnx_lsuv.errors import DeviceMemoryError, LsuvError
from onnx_lsuv.graph import (
    ROWS,
    USE,
    Calibration,
    Joining,
    Record,
    Stage,
    close,
    dead,
    executions,
    first_usable_of,
    has_bfloat16,
    likeness,
    saturated,
    signal,
    widened,
    with_shares,
)
from onnx_lsuv.lsuv.scratch import Joined, Scratch
from onnx_lsuv.model import Array, bindable, is_hollow, read
from onnx_lsuv.program import Program
from onnx_lsuv.runtime import Device, Session

Progress = Callable[[str, int, int], None]
_Loaded = tuple[Stage, Session]
# Sessions kept for later stages that differ in names alone, as those of repeated blocks do, which are not far apart.
_SHARED = 16


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
    scratch: Scratch | None = None  # whose budget
    array: Array | None = None  # the array that it lives in


_Carried = dict[str, _CarriedValue]


@dataclass(slots=True)
class _Run:
    """A calibration graph while it runs."""

    calibration: Calibration
    batches: Batches
    new: Mapping[str, Array]
    device: Device
    scratch: Scratch
    near: Scratch  # the budget of the device's own memory, or the same
    wide: bool  # bfloat16 is computed in float32
    elements: Mapping[str, int]  # types of the inputs
    carried: list[_Carried]  # by batch
    common: _Carried = field(default_factory=dict)  # what all batches have in common
    cuts: dict[str, Record] = field(default_factory=dict)  # pooled
    finals: dict[str, list[Array]] = field(default_factory=dict)
    joins: Mapping[str, list[Joining]] = field(default_factory=dict)  # what is joined, by what the batches give
    joined: dict[str, Joined] = field(default_factory=dict)
    types: dict[str, TypeProto] = field(default_factory=dict)  # of what is carried


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
        The record of each key over all batches, when measuring with shares of signal, of dead and saturated units.
    """
    program = calibration.program
    elements = {value.name: value.type.tensor_type.elem_type for value in program.body.inputs}
    carried: list[_Carried] = [{} for _ in range(len(batches))]
    wide, room = has_bfloat16(program), runtime.room(device)
    near = scratch if room is None else Scratch(0 if device.spared else min(scratch.budget, room // 2))
    run = _Run(calibration, batches, new, device, scratch, near, wide, elements, carried, joins=calibration.joined)
    total, done = sum(1 if stage.once else len(batches) for stage in calibration.stages), 0
    with closing(_loaded(run)) as loaded:
        for stage, session in loaded:
            for more in _run_stage(run, stage, session):
                total, done = total + more, done + 1
                progress(phase, done, total)
            for store in (*carried, run.common):
                _drop(run, store, stage.finished)
    results = {}
    for key, names in calibration.records.items():
        found = [[run.cuts[name]] if name in run.cuts else executions(run.finals.get(name, [])) for name in names]
        if records := [record for each in found for record in each]:
            results[key] = first_usable_of(records)
    if run.joins:
        joined = {name: values for name, each in run.joined.items() if (values := each.values()) is not None}
        for key, record in results.items():
            at = key, int(record[USE, 0])
            (name, _), units = calibration.sums.get(at, ("", np.ravel)), calibration.units.get(at)
            share = signal(record, joined.get(name), single=len(batches) == 1)
            results[key] = with_shares(record, share, dead(units, joined), saturated(units, joined))
        scratch.release(sum(each.held for each in run.joined.values()))
    return results


def _run_stage(run: _Run, stage: Stage, session: Session) -> Iterator[int]:
    """Run a stage over the batches, again and again where its records depend on each other.

    Yields after each run how many more there are than one a batch, since the run before.
    """
    # Arrays are kept alive while they are bound.
    fixed = {name: widened(*_values_of(run, name)) for name in _fed(run, stage)}
    given = {name: runtime.value_of(array, elem_type) for name, (array, elem_type) in fixed.items()}
    session = runtime.keeping(session)
    back = {name: np.zeros((ROWS, width)) for name, width in stage.again.values()}
    stores, more = [run.common] if stage.once else run.carried, 0
    # One more of these records is right after each run; the last run is for what is kept.
    for left in range(len(stage.again) + bool(stage.kept), -1, -1):
        known = {**run.cuts, **back}
        given |= {n: runtime.value_of(known[n].reshape(-1), TensorProto.DOUBLE) for n in stage.pooled}
        found: dict[str, list[Array]] = {name: [] for name in (*stage.cuts, *stage.finals)}
        for i, store in enumerate(stores):
            for name, array in _run_once(run, stage, session, given, i, store).items():
                for how in run.joins.get(name, ()):
                    run.joined.setdefault(how.name, Joined(how.join, scratch=run.scratch)).add(how.told(array))
                if name not in run.joins:
                    found[name].append(array)
            if not stage.again:
                _drop(run, store, stage.finished)
            yield more
            more, given = 0, {}
        run.cuts |= {name: first_usable_of(executions(found[name])) for name in stage.cuts}
        before, back = back, {name: run.cuts[cut] for cut, (name, _) in stage.again.items()}
        if left <= 1 or all(np.array_equal(back[name], before[name], equal_nan=True) for name in back):
            break
        more = len(stores)
    run.finals |= {name: found[name] for name in stage.finals}


def _run_once(
    run: _Run, stage: Stage, session: Session, given: Mapping[str, Any], i: int, store: _Carried
) -> dict[str, Array]:
    """Run a stage over a batch, given what is new for all; return its records, and keep what later stages read."""
    batch = run.batches[i] if stage.inputs else {}
    arrays = {name: widened(batch[name], run.elements[name]) for name in stage.inputs}
    data = {name: runtime.value_of(array, elem_type) for name, (array, elem_type) in arrays.items()}
    carried = {name: (store.get(name) or run.common[name]).value for name in stage.carried}
    records = dict.fromkeys((*stage.cuts, *stage.finals))
    names = tuple(records | dict.fromkeys(stage.kept))
    try:
        out = runtime.run(session, {**given, **data, **carried}, names, records.keys())
    except DeviceMemoryError:
        raise
    except LsuvError:
        if not session.names:
            raise
        # One that was made for another stage speaks of that one's nodes.
        own = runtime.load(_close(run, stage).SerializeToString(), run.device, fold=stage.folds)
        out = runtime.run(own, session.given, names, records.keys())
    for name in stage.kept:
        _drop(run, store, [name])
        store[name] = _carry(run, out[name])
    # What is joined may be added to; what is kept must stay.
    return {n: runtime.array_of(out[n]).copy() if n in stage.kept else runtime.array_of(out[n]) for n in records}


def _loaded(run: _Run) -> Generator[_Loaded, None, None]:
    """Yield each stage with its session; while it runs on the CPU, the next one is loaded.

    On a GPU not: it may still read what the running session has given back, and no other must take that meanwhile.
    """
    shared: OrderedDict[bytes, tuple[Session, tuple[str, ...]]] = OrderedDict()
    stages = iter(run.calibration.stages)
    if run.device.kind != "cpu":
        yield from (_load(run, stage, shared) for stage in stages)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="load") as pool:

        def started() -> list[Future[_Loaded]]:
            return [pool.submit(_load, run, stage, shared) for stage in islice(stages, 1)]

        coming = started()
        while coming:
            loaded = coming.pop().result()  # an error knows this frame, which must not know its future
            coming = started()
            yield loaded


def _load(run: _Run, stage: Stage, shared: OrderedDict[bytes, tuple[Session, tuple[str, ...]]]) -> _Loaded:
    """Load a stage, or take the session of one that is like it, from those with their names that are kept."""
    model = _close(run, stage)
    # One batch has few stages, of hundreds of nodes, which are seldom alike; their sessions are not worth their memory.
    like = likeness(model) if len(run.batches) > 1 else None
    if like and like[0] in shared:
        shared.move_to_end(like[0])
        session, names = shared[like[0]]
        session = replace(session, names=dict(zip(like[1], names, strict=True)))
    else:
        session = runtime.load(model.SerializeToString(), run.device, fold=stage.folds)
        if like:
            shared[like[0]] = session, like[1]
            if len(shared) > _SHARED:
                shared.popitem(last=False)
    made = runtime.output_types(session)
    run.types |= {name: made[name] for name in stage.kept}
    return stage, session


def _close(run: _Run, stage: Stage) -> ModelProto:
    return close(run.calibration, stage, frozenset(_fed(run, stage)), run.types, wide=run.wide)


def _fed(run: _Run, stage: Stage) -> list[str]:
    """Return the constants that are fed to a stage; the others stand in it."""
    program = run.calibration.program
    return [name for name in stage.constants if name in run.new or _comes_from_file(program, name)]


def _carry(run: _Run, value: Any) -> _CarriedValue:
    """Keep a value where it is, beyond the budget of that memory on the host, and beyond that budget in a file."""
    if not runtime.has_array(value):
        return _CarriedValue(value)
    size = value.tensor_size_in_bytes()
    if run.near.reserve(size):
        return _CarriedValue(value, size, run.near)
    array = run.scratch.keep(runtime.array_of(value))
    reserved = 0 if isinstance(array, np.memmap) else size
    return _CarriedValue(runtime.value_of(array, value.element_type()), reserved, run.scratch, array)


def _drop(run: _Run, store: _Carried, names: Iterable[str]) -> None:
    for name in names:
        if name in store:
            dropped = store.pop(name)
            if dropped.scratch:
                dropped.scratch.release(dropped.reserved)


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
