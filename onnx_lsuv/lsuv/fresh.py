"""The full restart: usual starting values for the parameters beside the layers."""

from __future__ import annotations

from collections.abc import Container
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256

import numpy as np
from onnx import helper

from onnx_lsuv.errors import listing
from onnx_lsuv.layers import Plan
from onnx_lsuv.lsuv.result import SkippedReport
from onnx_lsuv.lsuv.scratch import Scratch
from onnx_lsuv.model import Array
from onnx_lsuv.orthonormal.normal import fill_normal
from onnx_lsuv.program import stored
from onnx_lsuv.roles import VALUES, Parameters

_CHUNK = 1 << 18  # numbers with a stream of their own; a change here changes every draw


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
            array = _normal(constant.dims, parameter.std, f"{seed}\0{constant.identity}", threads)
            array = array.astype(dtype, copy=False)
            if before.ndim == 2 and (used := (before != 0).any(1)).any():
                array[~used] = 0
        values[constant.name] = scratch.keep(array)
    return values


def _normal(dims: tuple[int, ...], std: float, identity: str, threads: int) -> Array:
    """Return N(0, std^2) numbers in float32 that depend on the identity alone, not on the number of threads."""
    array = np.empty(dims, np.float32)
    flat = array.reshape(-1)
    key = int.from_bytes(sha256(identity.encode("utf-8", "surrogatepass")).digest(), "little")

    def fill(chunk: int) -> None:
        part = flat[chunk * _CHUNK : (chunk + 1) * _CHUNK]
        fill_normal(part, key, chunk)
        part *= np.float32(std)

    with ThreadPoolExecutor(max(1, threads), thread_name_prefix="draw") as pool:
        list(pool.map(fill, range(-(-flat.size // _CHUNK))))
    return array


def fresh_notes(plan: Plan, found: Parameters) -> list[str]:
    """Return what is left of a trained file's values, so that nobody takes them for fresh ones."""
    fates = {
        "scale the end of a residual branch by zero, as it is often started, and stay so": found.zero_scales,
        "keep their values: their use does not tell whether they are trained or belong to the architecture": found.kept,
    }
    constants = plan.program.constants
    return [
        f"fresh: {listing((constants[name].label for name in names), 5)} {fate}"
        for fate, names in fates.items()
        if names
    ]


def redrawn(row: SkippedReport, plan: Plan, fresh: Container[str]) -> SkippedReport:
    """Return the row of a node that is left alone, with a word where its weight is an embedding that was drawn."""
    drawn = {constant.label for name, constant in plan.program.constants.items() if name in fresh}
    if row.reason == "tied" and row.weight in drawn:
        return replace(row, detail=f"{row.detail}; drawn as an embedding, not rescaled")
    return row
