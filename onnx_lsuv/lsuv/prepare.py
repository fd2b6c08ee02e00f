"""What comes before any run: sizes, data, the seconds of each phase; and what is to be said of a run."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from os import PathLike, fspath
from time import perf_counter
from typing import TypeVar

import numpy as np
from onnx import helper

from onnx_lsuv import batches as kinds
from onnx_lsuv import runtime
from onnx_lsuv.batches import Batches, Data
from onnx_lsuv.errors import DeviceError, DeviceMemoryError, ModelError
from onnx_lsuv.graph import Samples, has_bfloat16, is_random, lookups
from onnx_lsuv.layers import Plan
from onnx_lsuv.lsuv.execute import Progress, quiet
from onnx_lsuv.lsuv.planning import name_notes
from onnx_lsuv.lsuv.scratch import Scratch
from onnx_lsuv.model import Model
from onnx_lsuv.program import Program, stored
from onnx_lsuv.roles import prepared_inputs
from onnx_lsuv.runtime import Device, left_alone

T = TypeVar("T")
_VECTOR = 1000  # values that an integer stands for, as it looks up a vector


def check_sizes(plan: Plan, limit: int) -> None:
    """Raise ModelError for a tensor with new values that this machine has no memory for.

    Args:
        plan: the layers, norms and parameters.
        limit: bytes that one may have; drawing it takes as many again.
    """
    program = plan.program
    names = {name for layer in plan.layers for name in (*layer.source.constants, layer.scaled_constant)}
    names |= {*plan.zeroed, *(each.constant for each in plan.parameters.fresh)}
    for name in sorted(names):
        constant = program.constants[name]
        size = constant.size * constant.dtype.itemsize
        if size > limit:
            raise ModelError(
                f"{constant.label!r} of {program.model.name} has dims {list(constant.dims)}, which is {size} bytes of "
                f"new values, and this machine has memory for {limit}: the model is broken, or too large for it."
            )


def checked(model: Model, data: Batches | Data, scratch: Scratch, progress: Progress = quiet) -> Batches:
    """Return the data, checked against the model's inputs, with the element types that it takes.

    Texts are what the command's `--data` takes. What gives its batches once is kept within half of the budget; the rest
    goes to a file.
    """
    inputs = kinds.inputs_of(model.proto.graph)
    if isinstance(data, Batches):
        same = {each.name for each in data.inputs} == {each.name for each in inputs}
        return replace(data, inputs=inputs) if same else data
    given = data if isinstance(data, list | tuple) else [data]
    paths = [fspath(each) for each in given if isinstance(each, str | PathLike)]
    if paths and len(paths) == len(given):
        limit = scratch.budget // 4
        return kinds.from_paths(inputs, paths, limit_bytes=limit, keep=scratch.rows, progress=progress)
    return kinds.from_arrays(inputs, data, keep=scratch.rows, progress=progress)


def shapes_of(batches: Batches) -> Mapping[str, tuple[int, Sequence[int]]]:
    """Return element type and shape of each input, with dims open that differ between batches."""
    first = batches[0] if len(batches) else {}
    shapes = {name: (int(helper.np_dtype_to_tensor_dtype(a.dtype)), a.shape) for name, a in first.items()}
    # A folder may hold batches of several sizes.
    return {n: s for n, s in shapes.items() if all(pieces[n].shape == s[1] for pieces in batches.pieces)}


def samples_of(batches: Batches) -> Samples | None:
    """Return how samples lie in the data; None where there is but one, or batches have other positions.

    An input counts them whose first axis adds up to their number over all batches.
    """
    shapes = [{name: piece.shape for name, piece in pieces.items()} for pieces in batches.pieces]
    counting = frozenset(
        each.name
        for each in batches.inputs
        if each.counts and shapes[0][each.name] and sum(s[each.name][0] for s in shapes) == batches.samples
    )
    largest = max(shapes, key=lambda one: max((one[name][0] for name in counting), default=1))
    lengths = {tuple(one[name][0] for name in counting) for one in shapes}
    length = max((largest[name][0] for name in counting), default=1)
    rest = {tuple(shape[name in counting :] for name, shape in one.items()) for one in shapes}
    if (length == 1 and len(shapes) == 1) or len(rest) > 1 or any(len(set(each)) > 1 for each in lengths):
        return None
    found = {each.name: (each.elem_type, largest[each.name]) for each in batches.inputs}
    return Samples(found, counting, length, len(shapes), alike=len(lengths) == 1)


def run_notes(plan: Plan, data: Batches | None, device: Device) -> tuple[str, ...]:
    """Return notes on the data, and on what was different while measuring."""
    notes = name_notes(plan)
    if data is not None:
        notes += data.notes_for(prepared_inputs(plan.program))
        if has_bfloat16(plan.program):
            notes.append(
                "bfloat16 was computed in float32, without the rounding between the nodes: ONNX Runtime has few "
                "bfloat16 kernels"
            )
    chance = sorted({node.op for node in plan.program.walk() if is_random(node)})
    if chance:
        notes.append(
            f"chance was taken out while measuring: {', '.join(chance)} ran as identity, in inference form or with a "
            "fixed seed"
        )
    return (*notes, *device.notes)


def check_indices(program: Program, data: Batches, device: Device) -> None:
    """Raise DataError where the data, or what is quickly computed from them, index beyond a constant table.

    The CPU says so itself. CUDA takes zeros instead, and says nothing.
    """
    found = lookups(program) if device.kind != "cpu" else None
    if found is None:
        return
    model, constants, inputs, outputs = found
    try:
        session = runtime.load(model, Device("cpu", device.threads), fold=False)
    except ModelError:  # as on bfloat16: for the CPU there are no kernels
        return
    arrays = {name: np.require(stored(program, name), requirements="C") for name in constants}
    bound = {name: runtime.value_of(array, program.constants[name].elem_type) for name, array in arrays.items()}
    given = tuple(each for each in data.inputs if each.name in inputs)
    for batch in replace(data, inputs=given):
        values = {each.name: runtime.value_of(batch[each.name], each.elem_type) for each in given}
        runtime.run(session, bound | values, outputs, set(outputs))


def early(device: str | Device, threads: int | None) -> str | Device:
    """Return a device, opened so that what it lacks is said before data are read; `auto` has to know the work."""
    return device if device == "auto" else runtime.device_of(device, threads=threads)


def work_of(plan: Plan, data: Batches | None) -> int:
    """Return how much there is to compute, as `runtime.open_device` counts it."""
    if data is None:
        return 0
    weights = {name for layer in plan.layers for name in layer.source.constants}
    values = sum(data.stats[e.name].count * (_VECTOR if e.dtype.kind in "iu" else 1) for e in data.inputs)
    return values * sum(plan.program.constants[name].size for name in weights)


def attempt(work: Callable[[Device, Batches], T], device: Device, data: Batches) -> tuple[T, Device, Batches]:
    """Do some work on a device: once more in smaller batches where its memory ran out.

    What `auto` chose gives way to the CPU where it fails.

    Returns:
        What came of it; the device, with what is to be said of it, and the batches that it came of.
    """
    smaller = None
    try:
        return work(device, data), device, data
    except DeviceError as error:
        smaller = data.smaller() if isinstance(error, DeviceMemoryError) else None
        if smaller is None and not device.automatic:
            raise
        why = str(error)
    gc.collect()  # with the frames of what failed goes the memory that they held
    if smaller is not None:
        note = f"the memory of {device.name} held no whole batch, so {len(data)} became {len(smaller)} smaller ones"
        careful = replace(device, spared=True, notes=(*device.notes, note))
        try:
            return work(careful, smaller), careful, smaller
        except DeviceError as error:
            if not device.automatic:
                raise
            why = str(error)
    note = left_alone(device.provider, why)
    cpu = replace(device, name="cpu", automatic=False, notes=(*device.notes, note))
    return work(cpu, data), cpu, data


class Clock:
    """Seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Add the time spent inside to a phase."""
        start = perf_counter()
        yield
        self.seconds[phase] = self.seconds.get(phase, 0.0) + perf_counter() - start
