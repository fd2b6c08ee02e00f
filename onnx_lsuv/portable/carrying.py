"""Say of a rewritten model what is known of the model before: the rows of a result, and its data."""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import replace
from glob import escape

from onnx_lsuv.batches import Batches, inputs_of
from onnx_lsuv.errors import ModelError, UsageError
from onnx_lsuv.layers import Layer, Plan
from onnx_lsuv.lsuv.prepare import plan_of, plans_of
from onnx_lsuv.lsuv.result import LayerReport, Result
from onnx_lsuv.lsuv.rows import row_of, skipped_row
from onnx_lsuv.model import Model
from onnx_lsuv.portable.rewriting import Portable

# What a row says of the layer's place in the file, not of what happened to it.
_PLACE = ("name", "op", "weight", "scope", "path", "shape", "dtype", "blocks", "fan_out", "fan_in")


def carry(result: Result, portable: Portable) -> Result:
    """Return a result in the names of the portable model, for `measure(portable model, data, like=...)`.

    A layer is found again by the tensor that holds its weight, and among several uses by their order.

    Args:
        result: of `initialize`; `portable` was made of its model.
        portable: from `make_portable`.

    Raises:
        ModelError: a layer is not found again.
    """
    include, exclude = result.settings["include"], result.settings["exclude"]
    fresh = bool(result.settings.get("fresh"))  # its patterns may name other parameters
    old, _ = plans_of(result.model, include=include, exclude=exclude, keep_bias=True, fresh=fresh)
    new = plan_of(portable.model, keep_bias=True)
    uses: defaultdict[tuple[object, ...], deque[int]] = defaultdict(deque)
    for at, layer in enumerate(new.layers):
        uses[tuple(new.program.constants[name].site for name in layer.source.constants)].append(at)
    rows: dict[int, LayerReport] = {}
    for row, layer in zip(result.layers, old.layers, strict=True):
        sites = (old.program.constants[name].site for name in layer.source.constants)
        found = uses[tuple(portable.sites.get(site) if site is not None else None for site in sites)]
        if not found:
            raise ModelError(
                f"layer {row.name!r} should be in the portable form of {result.model.name}, but no layer there has its "
                f"weight {row.weight!r}; save without '--portable', and report this"
            )
        at = found.popleft()
        rows[at] = _moved(row, new, new.layers[at])
    settings = dict(result.settings)
    wanted = [rows[at].name for at in sorted(rows)]
    chosen = _chosen(portable.model, include, exclude, fresh, wanted)
    if chosen is None:
        # Names changed, or there are layers now that were none before: take these by name.
        settings |= {"include": [escape(name) for name in dict.fromkeys(wanted)], "exclude": []}
        chosen = plan_of(portable.model, include=settings["include"], keep_bias=True)
    return replace(
        result,
        model=portable.model,
        layers=tuple(rows[at] for at in sorted(rows)),
        skipped=tuple(map(skipped_row, chosen.skipped)),
        kept_statistics=tuple(map(skipped_row, chosen.kept_statistics)),
        settings=settings,
    )


def suit(batches: Batches, model: Model) -> Batches:
    """Return the data with the element types that a model takes, as after float16 became float32."""
    return replace(batches, inputs=inputs_of(model.proto.graph))


def _chosen(model: Model, include: list[str], exclude: list[str], fresh: bool, wanted: list[str]) -> Plan | None:
    """Return the plan of the same patterns, if they still choose the same layers."""
    try:
        plan, _ = plans_of(model, include=include, exclude=exclude, keep_bias=True, fresh=fresh)
    except UsageError:
        return None
    return plan if [layer.node.label for layer in plan.layers] == wanted else None


def _moved(row: LayerReport, plan: Plan, layer: Layer) -> LayerReport:
    there = row_of(plan, layer, row.init, row.target, row.status, {})
    return replace(row, **{name: getattr(there, name) for name in _PLACE})
