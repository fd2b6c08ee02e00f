"""The full restart: usual starting values for the parameters beside the layers."""

from __future__ import annotations

from collections.abc import Container, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from onnx_lsuv.errors import listing
from onnx_lsuv.layers import Plan
from onnx_lsuv.lsuv.result import Remaining, SkippedReport
from onnx_lsuv.lsuv.scratch import Scratch
from onnx_lsuv.lsuv.settings import Settings
from onnx_lsuv.model import Array
from onnx_lsuv.orthonormal import normals, run_by, seed_of
from onnx_lsuv.program import stored


def fresh_values(plan: Plan, seed: int, threads: int, scratch: Scratch) -> dict[str, Array]:
    """Return new values for the parameters that do not have them already, by the constant's name.

    A row of zeros in a table, which stands for padding, stays.
    """
    values: dict[str, Array] = {}
    for parameter in plan.parameters.fresh:
        constant = plan.program.constants[parameter.constant]
        absent = plan.program.is_absent(constant.name)
        before = stored(plan.program, constant.name)
        dtype = constant.dtype
        if parameter.std is None:
            array = np.full(constant.dims, parameter.value, dtype)
            if not absent and np.array_equal(before, array):
                continue
        else:
            with ThreadPoolExecutor(max(1, threads), thread_name_prefix="draw") as pool:
                key = seed_of(f"{seed}\0{constant.identity}")
                array = normals(constant.dims, parameter.std, key, run_by(pool)).astype(dtype, copy=False)
            if not absent and before.ndim == 2 and (used := (before != 0).any(1)).any():
                array[~used] = 0
        values[constant.name] = scratch.keep(array)
    return values


def fresh_notes(plan: Plan, left: Sequence[Remaining], settings: Settings) -> list[str]:
    """Return what is left of a trained file's values, so that nobody takes them for fresh ones; all if strict."""
    zeros = [plan.program.constants[name].label for name in plan.parameters.zero_scales]
    fates = {"scale the end of a residual branch by zero, as it is often started, and stay so": zeros} if zeros else {}
    for each in left:
        fates.setdefault(f"keep their values: {each.cause}", []).append(each.tensor)
    return [
        f"fresh: {', '.join(map(repr, names)) if settings.strict else listing(names, 5)} {fate}"
        for fate, names in fates.items()
    ]


def redrawn(row: SkippedReport, plan: Plan, fresh: Container[str]) -> SkippedReport:
    """Return the row of a node that is left alone, with a word where its weight is an embedding that was drawn."""
    drawn = {constant.label for name, constant in plan.program.constants.items() if name in fresh}
    if row.reason == "tied" and row.weight in drawn:
        return replace(row, detail=f"{row.detail}; drawn as an embedding, not rescaled")
    return row
