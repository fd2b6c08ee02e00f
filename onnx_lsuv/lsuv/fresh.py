"""The full restart: usual starting values for the parameters beside the layers."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
from onnx import helper

from onnx_lsuv.layers import Plan
from onnx_lsuv.lsuv.draw import Array
from onnx_lsuv.lsuv.result import SkippedReport
from onnx_lsuv.lsuv.scratch import Scratch
from onnx_lsuv.orthonormal import normals, run_by, seed_of
from onnx_lsuv.program import stored
from onnx_lsuv.roles import VALUES, Parameters

_FEW = 5


def fresh_values(plan: Plan, found: Parameters, seed: int, threads: int, scratch: Scratch) -> dict[str, Array]:
    """Return new values for the parameters that do not have them already, by the constant's name.

    A row of zeros in a table, which stands for padding, stays.
    """
    values: dict[str, Array] = {}
    for parameter in found.fresh:
        constant = plan.program.constants[parameter.constant]
        before = stored(plan.program, constant.name)
        dtype = helper.tensor_dtype_to_np_dtype(constant.elem_type)
        if parameter.std is None:
            array = np.full(constant.dims, VALUES[parameter.role], dtype)
            if np.array_equal(before, array):
                continue
        else:
            with ThreadPoolExecutor(max(1, threads), thread_name_prefix="draw") as pool:
                key = seed_of(f"{seed}\0{constant.identity}")
                array = normals(constant.dims, parameter.std, key, run_by(pool)).astype(dtype, copy=False)
            if before.ndim == 2 and (used := (before != 0).any(1)).any():
                array[~used] = 0
        values[constant.name] = scratch.keep(array)
    return values


def fresh_notes(plan: Plan, found: Parameters) -> list[str]:
    """Return what is left of a trained file's values, so that nobody takes them for fresh ones."""
    notes = []
    if found.zero_scales:
        notes.append(
            f"fresh: {_listed(plan, found.zero_scales)} scale the end of a residual branch by zero, as it is often "
            "started, and stay so"
        )
    if found.kept:
        notes.append(
            f"fresh: {_listed(plan, found.kept)} keep their values: their use does not tell whether they are trained "
            "or belong to the architecture"
        )
    return notes


def _listed(plan: Plan, names: tuple[str, ...]) -> str:
    labels = [repr(plan.program.constants[name].label) for name in names]
    more = f" and {len(labels) - _FEW} more" if len(labels) > _FEW else ""
    return ", ".join(labels[:_FEW]) + more


def redrawn(row: SkippedReport, plan: Plan, values: Mapping[str, Array]) -> SkippedReport:
    """Return the row of a node that is left alone, with a word where its weight is an embedding that was drawn."""
    drawn = {plan.program.constants[name].label for name in values}
    if row.reason == "tied" and row.weight in drawn:
        return replace(row, detail=f"{row.detail}; drawn as an embedding, not rescaled")
    return row
