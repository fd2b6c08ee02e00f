"""What a model is compared with where it is to be as it was: the stds of an earlier run, by layer."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from onnx_lsuv.errors import DataError, UsageError, listing, quote
from onnx_lsuv.layers import Plan, tensor_names
from onnx_lsuv.lsuv.patterns import Aims
from onnx_lsuv.lsuv.result import Result

Baseline = Result | str | os.PathLike[str] | Mapping[str, float | None]
_REPORT = "expected a report that '--report check.json' wrote"


def stds_of(baseline: Baseline) -> dict[str, float | None]:
    """Return the std that each layer had, by the layer's name.

    Args:
        baseline: a result, the path of a JSON report, or stds by name.

    Raises:
        DataError: the file cannot be read, or is no report of a run that measured.
    """
    if isinstance(baseline, Result):
        return {row.name: row.std for row in baseline.layers}
    if isinstance(baseline, Mapping):
        return dict(baseline)
    where = f"the baseline {quote(str(baseline))}"
    try:
        document = json.loads(Path(baseline).read_bytes())
    except OSError as error:
        raise DataError(f"{where} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is no JSON: {_REPORT}") from error
    try:
        rows = [(row["name"], row["std"]) for row in document["layers"]]
    except (KeyError, TypeError) as error:
        raise DataError(f"{where} has no layers with a name and a std: {_REPORT}") from error
    if not all(isinstance(name, str) and (std is None or _is_std(std)) for name, std in rows):
        raise DataError(f"{where} has stds that are no numbers: {_REPORT}")
    stds = dict(rows)
    if not any(std is not None for std in stds.values()):
        raise DataError(f"{where} has no std, as of a run that measured nothing: {_REPORT}")
    return stds


def _is_std(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")


def aimed_at(aims: Aims, plan: Plan, stds: Mapping[str, float | None]) -> tuple[Aims, tuple[str, ...]]:
    """Return aims at the stds that the layers had, and notes; a std that a pattern of `target` says stays.

    What is new, or had no std, keeps the target that it has without a baseline. Raises UsageError where a layer that
    had a std is gone.
    """
    labels = {layer.node.label: layer for layer in plan.layers}
    for layer in reversed(plan.layers):
        labels |= {name: layer for name in tensor_names(plan.program, layer.source) if name not in labels}
    left = {each.node.label for each in plan.skipped}
    if gone := [name for name, std in stds.items() if std is not None and name not in labels and name not in left]:
        raise UsageError(
            f"the baseline has a std of {listing(gone, 3)}, and the model has no such layer: if that is on "
            "purpose, write the report that is the baseline anew"
        )
    had = {labels[name].weight: std for name, std in stds.items() if std is not None and name in labels}
    new = [layer.node.label for layer in plan.layers if layer.weight not in had]
    note = f"not in the baseline, and so against the target: {listing(new, 3)}"
    wanted = {key: std for key, std in had.items() if key not in aims.named}
    shares = {key: share for key, share in aims.shares.items() if key not in wanted}
    averages = {key: std for key, std in aims.averages.items() if key not in wanted}
    aims = replace(aims, stds={**aims.stds, **wanted}, shares=shares, averages=averages)
    return aims, (note,) if new else ()
