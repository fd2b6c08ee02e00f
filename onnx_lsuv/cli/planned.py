"""The dry run: what would happen to every layer, and why, without running anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from onnx_lsuv.cli.options import Options, targets
from onnx_lsuv.errors import ModelError

if TYPE_CHECKING:
    from onnx_lsuv.layers import Layer, Plan
    from onnx_lsuv.lsuv import LayerReport, Result
    from onnx_lsuv.model import Model


def planned(model: Model, options: Options) -> Result:
    """Return the layers, each with a note on what would happen to it, and what would be left alone."""
    from onnx_lsuv.layers import find_centres  # noqa: PLC0415
    from onnx_lsuv.lsuv.patterns import targets_of  # noqa: PLC0415
    from onnx_lsuv.lsuv.prepare import described, nothing_to_do, plans_of  # noqa: PLC0415

    wanted: dict[str, Any] = {"include": options.include or (), "exclude": options.exclude or ()}
    wanted |= {"keep_bias": options.keep_bias, "fresh": options.fresh}
    plan, parameters = plans_of(model, **wanted)
    if not plan.layers:
        raise ModelError(nothing_to_do(plan))
    found = described(plan, parameters, wanted)
    stds, remarks = targets_of(plan, options.target_std, targets(options))
    centred = find_centres(plan) if options.center else {}
    rows = []
    for row, layer in zip(found.layers, plan.layers, strict=True):
        aimed = replace(row, target=stds[layer.weight], init=options.init.value)
        notes = [_note(plan, layer, aimed, options, centred), remarks.get(layer, "")]
        rows.append(replace(aimed, note="; ".join(filter(None, notes))))
    roles = Counter(parameter.role for parameter in parameters.fresh)
    if roles:
        counted = ", ".join(f"{count} x {role}" for role, count in sorted(roles.items()))
        found = replace(found, notes=(f"fresh: {counted} would get their usual starting values", *found.notes))
    return replace(found, layers=tuple(rows), target_std=options.target_std, tolerance=options.tolerance)


def _note(plan: Plan, layer: Layer, row: LayerReport, options: Options, centred: Container[str]) -> str:
    if row.status == "shared":
        return f"uses the weight of {plan.weights[layer.weight].layers[0].node.label!r}, which decides its scale"
    drawn = "kept" if options.init == "keep" else f"drawn ({row.init})"
    if layer.source.computed and not layer.source.scaled_constant and options.init != "keep":
        drawn += " before other constants multiply it"
    if not layer.scaled:
        return f"{drawn}, not scaled, as its gates, its attention or an old Scan bound or hide its output"
    scaled = "not scaled" if options.no_rescale else f"scaled to std {row.target:g}"
    if any(name in plan.zeroed for name in layer.bias):
        return f"{drawn}, {scaled}, bias set to {'centre its channels' if layer.weight in centred else 'zero'}"
    return f"{drawn}, {scaled}" + (", what is added to its output stays" if layer.stays else "")
