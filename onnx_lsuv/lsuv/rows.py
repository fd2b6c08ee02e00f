"""Turn plans and records into the rows of a result."""

from __future__ import annotations

import math
from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from onnx import TensorProto

from onnx_lsuv.errors import listing, quote
from onnx_lsuv.graph import COUNT, DEAD, MEAN, SATURATED, SIGNAL, TINY, USE, VAR, Record, scale_of, stream_key
from onnx_lsuv.layers import Layer, Plan, Skipped, tensor_names
from onnx_lsuv.lsuv.result import Change, LayerReport, Result, SkippedReport, SumReport
from onnx_lsuv.lsuv.streams import find_sums
from onnx_lsuv.model import Site
from onnx_lsuv.operators import of
from onnx_lsuv.program import Node, stored, walk
from onnx_lsuv.program.program import DEFAULT_DOMAINS
from onnx_lsuv.roles import before
from onnx_lsuv.runtime import Device

TOLERANCE, TOLERANCE_HALF = 0.005, 0.02
AS_ASKED = {"zero": "zero", "identity": "the identity"}
HALF = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})


def _reached(record: Record | None) -> bool:
    return record is not None and record[COUNT, 0] != 0


def row_of(plan: Plan, layer: Layer, init: str, target: float, status: str, record: Record | None) -> LayerReport:
    """Return the row of a layer, without what was measured; of several uses of a weight the one measured decides."""
    decides = plan.weights[layer.weight].layers[0 if record is None else int(record[USE, 0])]
    constant = plan.program.constants[layer.source.constant]
    return LayerReport(
        name=layer.node.label,
        op=layer.node.op,
        weight=tensor_names(plan.program, layer.source)[0],
        scope=constant.scope,
        path=layer.source.path,
        shape=layer.source.shape,
        dtype=TensorProto.DataType.Name(constant.elem_type).lower(),
        blocks=layer.matrix.blocks,
        fan_out=layer.matrix.fan_out,
        fan_in=layer.matrix.fan_in,
        init=init,
        target=target,
        status=status if decides is layer else "shared",
        note="" if decides is layer else f"its weight is scaled at {decides.node.label!r}",
    )


def noted(row: LayerReport, *more: str | None) -> LayerReport:
    """Return a row with more notes."""
    return replace(row, note="; ".join(filter(None, (row.note, *more))))


def bias_remark(plan: Plan, layer: Layer) -> str | None:
    """Return what becomes of an LSTM's bias, at its first weight; None for other layers."""
    if layer.node.op != "LSTM" or layer.position != 1 or not layer.bias:
        return None
    if plan.zeroed and not set(layer.bias).isdisjoint(plan.zeroed):
        forget = any(not set(layer.bias).isdisjoint(source.constants) for source, _ in plan.forget)
        return "bias zero" + ", and 1 for the forget gate" * forget
    return "bias kept"


def drawn_row(
    row: LayerReport, layer: Layer, record: Record | None, scale: float | None, *, scales: bool
) -> LayerReport:
    """Return the row of a layer after calibration, or where nothing was to be rescaled and it is "drawn" already.

    Where the weight is not one that `scales` it is as asked for, whatever it gives.
    """
    if not layer.scaled:
        note = f"not rescaled: {of(layer.node).unscaled or 'it stands in a Scan of opset 8'}"
        return replace(row, status=row.status if row.status == "shared" else "drawn", note=note)
    if row.status == "shared":
        return row
    if row.status == "drawn":
        return replace(row, note="not rescaled, as asked")
    if record is None or not _reached(record):
        return replace(row, status="not-reached", note="the data never reach it")
    row = replace(row, std_drawn=math.sqrt(max(float(record[VAR, 0]), 0.0)), scale=scale if scales else None)
    if not scales:
        return replace(row, status="drawn", note=f"{AS_ASKED[row.init]}, as asked")
    if scale is not None:
        return row
    if layer.fixed_term is not None and record[VAR, 1] >= row.target**2:
        note = "not rescaled: the other term of its weight alone gives more than the target"
        return replace(row, status="drawn", note=note)
    return replace(row, status="degenerate", note=_cause(record, row.target, drawn=row.init != "keep"))


def _cause(record: Record, target: float, *, drawn: bool = False) -> str:
    mean, var, count = float(record[MEAN, 0]), float(record[VAR, 0]), float(record[COUNT, 0])
    if not (math.isfinite(mean) and math.isfinite(var)):
        return "its output is not finite: overflow in the layers before it, or in its own type"
    if count == 1:
        return "its output is a single value over all data: give more than one sample"
    if record.shape[1] == 3 and math.isfinite(float(record[VAR, 1])) and float(record[VAR, 1]) >= target**2:
        std = math.sqrt(float(record[VAR, 1]))
        return f"what stays added to its output has a std of {std:.3g} alone, which no scale of the weight lowers"
    if 0 < var <= TINY:
        return f"its output has a std of {math.sqrt(var):.3g}, too small to be scaled up in float32"
    again = ", which another seed may mend" if drawn else ""
    return f"its output is constant: its input is constant, or everything before it is cut off (dead ReLUs){again}"


def tolerances(plan: Plan, wanted: float | None) -> list[float]:
    """Return the tolerance of each layer: the usual is more from the first weight rounded to half precision on.

    What is rounded before a layer changes its input, whatever the layer itself is computed in.
    """
    if wanted is not None:
        return [wanted] * len(plan.layers)
    found, rounded = [], False
    for layer in plan.layers:
        types = {plan.program.constants[name].elem_type for name in layer.source.constants}
        types |= {layer.source.elem_type, *(each.operand.elem_type for each in layer.source.quantiser_steps)}
        rounded = rounded or not types.isdisjoint(HALF)
        found.append(TOLERANCE_HALF if rounded else TOLERANCE)
    return found


def std_of(row: LayerReport, record: Record | None, layer: Layer) -> float | None:
    """Return the std of a layer's output by a record; None where the row has none of its own."""
    if row.status in ("shared", "not-reached") or not layer.scaled or record is None or not _reached(record):
        return None
    var = float(record[VAR, -1])
    return math.sqrt(max(var, 0.0)) if math.isfinite(var) else var


def verified_row(row: LayerReport, record: Record | None, tolerance: float, layer: Layer) -> LayerReport:
    """Return a row with what was measured on the final weights.

    Of two columns in the record the first is what the weight alone gives, the second the output.
    """
    if row.status in ("shared", "not-reached") or not layer.scaled:
        return row
    if record is None or not _reached(record):
        return replace(row, status="not-reached", note="the data never reach it")
    output = record[:, -1:]
    mean, var = float(output[MEAN, 0]), float(output[VAR, 0])
    # Where all is rounding noise, a share of it says nothing.
    signal = _share(output, SIGNAL) if scale_of(output, 1.0) is not None else None
    dead, saturated = (_share(output, at) if math.isfinite(var) else None for at in (DEAD, SATURATED))
    row = replace(row, mean=mean, std=std_of(row, record, layer), signal=signal, dead=dead, saturated=saturated)
    if row.status == "degenerate" or (row.status == "drawn" and row.target):
        return row
    if not row.target:
        if not record[MEAN, 0] and not record[VAR, 0]:
            added = "its output is what is added to it" if var else ""
            return noted(replace(row, status="ok"), added)
        return replace(row, status="off", note=row.note if math.isfinite(var) else _cause(output, 1.0))
    if abs(var / row.target**2 - 1) <= tolerance:
        return replace(row, status="ok")
    note = row.note or (_cause(output, row.target) if scale_of(output, 1.0) is None else "")
    return replace(row, status="off", note=note)


def _share(output: Record, at: int) -> float | None:
    """Return a share of an output's record; None where it is not known."""
    share = float(output[at, 0]) if len(output) > at else math.nan
    return None if math.isnan(share) else share


def unscaled_notes(rows: Sequence[LayerReport]) -> list[str]:
    """Return a note on the layers that have a std of their own because their weights are the identity."""
    names = [row.name for row in rows if row.init == "identity" and row.status == "drawn" and row.scale is None]
    return [f"the identity, as asked, and not scaled: {listing(names, 5)}"] if names else []


def overflow_notes(rows: Sequence[LayerReport], device: Device) -> list[str]:
    """Return a note on layers whose output float16 does not hold where it is computed in that type."""

    def measured(row: LayerReport) -> float | None:
        return row.std_drawn if row.std is None else row.std

    names = [row.name for row in rows if row.dtype == "float16" and not math.isfinite(measured(row) or 0)]
    if device.kind == "cpu" or not names:
        return []
    return [
        f"float16, which ends at 65504, does not hold what {listing(names, 5)} gives on {device.name}: prepare the "
        "data to unit variance, or compute in float32 by '--device cpu' (device='cpu')"
    ]


def told_why(plan: Plan, rows: Sequence[LayerReport]) -> list[LayerReport]:
    """Return rows of a plan's layers in which those that give nothing name the zeros that it comes from."""
    zeros = [layer for row, layer in zip(rows, plan.layers, strict=True) if not row.target and row.status != "shared"]
    return [_told_why(plan, *each, zeros) for each in zip(rows, plan.layers, strict=True)]


def _told_why(plan: Plan, row: LayerReport, layer: Layer, zeros: Sequence[Layer]) -> LayerReport:
    if row.good or not row.target or (row.std if row.status == "off" else row.std_drawn):
        return row
    if row.init == "keep" and not stored(plan.program, layer.scaled_constant).any():
        return replace(row, note=f"its weight is zero: --target {quote(f'{row.name}=0')} where that is meant")
    leading = before(plan.program, {layer.node}) if zeros else set()
    if names := [zero.node.label for zero in zeros if zero.end.outputs[0] in leading]:
        are = "are" if names[1:] else "is"
        return replace(row, note=f"its output is constant: its input is, as {listing(names, 2)} before it {are} zero")
    return row


def skipped_row(skipped: Skipped) -> SkippedReport:
    """Return the row of a node that is left alone."""
    return SkippedReport(
        skipped.node.label, skipped.node.op, skipped.weight, skipped.shape, skipped.reason, skipped.detail
    )


@dataclass(frozen=True, slots=True)
class Beside:
    """What is measured beside the layers: sums of residual streams, and what was left alone."""

    values: Mapping[Node, str] = field(default_factory=dict)  # a node of the main graph -> what it gives
    streams: Mapping[Node, int] = field(default_factory=dict)  # a sum -> the number of its stream


def find_beside(plan: Plan) -> Beside:
    """Return what to measure beside the layers; of what no layer depends on, only what every ONNX Runtime runs."""
    sums = find_sums(plan)
    leading, main = before(plan.program, {layer.node for layer in plan.layers}), set(plan.program.body.nodes)
    left = [each.node for each in plan.skipped if each.node in main]
    named = {node: total for node, (_, total) in sums.items()}
    named |= {node: node.outputs[0] for node in left if node.outputs and node.outputs[0]}
    runs = (node for node in named if node.domain in DEFAULT_DOMAINS or not leading.isdisjoint(node.outputs))
    kept = {node: named[node] for node in runs}
    return Beside(kept, {node: stream for node, (stream, _) in sums.items() if node in kept})


def with_beside(result: Result, plan: Plan, beside: Beside, records: Mapping[str, Record]) -> Result:
    """Return a result with what was measured beside the layers of a plan; nodes left alone are found by their names."""
    if not beside.values:
        return result
    found = {node: _moments(records.get(stream_key(name))) for node, name in beside.values.items()}
    left = {each.node.label: found[each.node] for each in plan.skipped if each.node in found}
    layers, place, sums = {layer.node for layer in plan.layers}, 0, []
    for node in walk(plan.program.body, plan.order):
        place += node in layers
        if node in beside.streams:
            sums.append(SumReport(node.label, node.op, beside.streams[node], place, **found[node]))
    skipped = tuple(replace(row, **left.get(row.name, {})) for row in result.skipped)
    return replace(result, skipped=skipped, sums=tuple(sums))


def _moments(record: Record | None) -> dict[str, Any]:
    if record is None or not _reached(record):
        return {"mean": None, "std": None}
    return {"mean": float(record[MEAN, 0]), "std": math.sqrt(max(float(record[VAR, 0]), 0.0))}


def changes_of(plan: Plan, values: Collection[str], moved: Container[Site | None]) -> tuple[Change, ...]:
    """Return what to say of each tensor that changes, or is new.

    Args:
        plan: what was found.
        values: the constants with new values.
        moved: sites whose node becomes an initializer.
    """
    constants, copies = plan.program.constants, plan.parting.copies
    parted = {n: copies[c.label] for n, c in constants.items() if c.label in copies and c.origin == "initializer"}
    found = []
    for name in dict.fromkeys((*values, *parted)):
        constant, copy = constants[name], parted.get(name)
        found.append(
            Change(
                tensor=constant.label,
                scope=constant.scope,
                role=plan.roles[name].role,
                became_initializer=constant.site in moved or (copy is not None and copy.stands_in),
                parted_from=copy.of if copy else None,
                has_new_values=name in values,
                absent=plan.program.is_absent(name),
            )
        )
    return tuple(found)
