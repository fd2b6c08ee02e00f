"""Compare what two models give for the same data: the check that `make_portable` left the outputs as they were."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from onnx_lsuv import runtime
from onnx_lsuv.batches import Batches, Data, inputs_of
from onnx_lsuv.errors import ModelError
from onnx_lsuv.graph import BFLOAT16, IR_MAX, widened
from onnx_lsuv.importers.skeleton import all_nodes, floats_of
from onnx_lsuv.lsuv.execute import Progress, quiet
from onnx_lsuv.lsuv.prepare import attempt, checked
from onnx_lsuv.lsuv.scratch import Scratch
from onnx_lsuv.model import HOLLOW_BYTES, Model, bindable, in_float32, is_hollow, tensors
from onnx_lsuv.operators import of
from onnx_lsuv.portable.draft import open_draft
from onnx_lsuv.portable.scopes import attribute_of, drop, is_op
from onnx_lsuv.portable.spelling import name_nodes
from onnx_lsuv.program import tensor_type
from onnx_lsuv.runtime import Device, Session

# Relative differences that rounding explains: the same type in another order of sums, and a type that became float32.
TOLERANCE = 1e-5
TOLERANCES: dict[int, float] = {TensorProto.DOUBLE: 1e-4, TensorProto.FLOAT16: 0.02, TensorProto.BFLOAT16: 0.1}


@dataclass(frozen=True, slots=True)
class Comparison:
    """How far the outputs of two models are apart."""

    differences: Mapping[str, float]  # by output: the largest difference over the output's largest magnitude
    tolerance: float
    notes: tuple[str, ...]  # what could not be compared, and why; each a sentence


def same_outputs(
    before: Model,
    after: Model,
    batches: Batches | Data,
    *,
    device: str | Device = "cpu",
    threads: int | None = None,
    tolerance: float | None = None,
    progress: Progress = quiet,
) -> Comparison:
    """Compare the outputs of a model and of the same model rewritten, on the same data.

    A difference is relative to the largest magnitude of the output; for whole numbers, truth values and text it is the
    share of values that differ. Values that overflowed to infinity are left out where `after` has another type.

    Args:
        before: the model as it was.
        after: the model that should give the same.
        batches: the data, as `before` takes them; floats are cast to the type that `after` takes.
        device: as for `initialize`.
        threads: of the CPU.
        tolerance: on each difference; None for 1e-5, or 1e-4, 0.02 and 0.1 where double, float16 and bfloat16 became
            float32.
        progress: called with "compare", the batches done and their total.

    Raises:
        ModelError: an output differs by more, or ONNX Runtime refuses one of the models.
    """
    if tolerance is None:
        lost = floats_of(before.proto) - floats_of(after.proto)
        tolerance = max((TOLERANCES[each] for each in lost & set(TOLERANCES)), default=TOLERANCE)
    if chance := sorted(_chance(before.proto)):
        why = f"The outputs were not compared, as chance or training takes part in them: {', '.join(chance)}."
        return Comparison({}, tolerance, (why,))

    def compare(device: Device, data: Batches) -> dict[str, float]:
        old, new = _open(before, device), _open(after, device)
        names = [name for name in dict.fromkeys(old.outputs) if name in new.outputs]  # a file may name one twice
        differences = dict.fromkeys(names, 0.0)
        for i, batch in enumerate(data):
            found, again = _run(old, batch, names), _run(new, batch, names)
            for name in names:
                differences[name] = max(differences[name], difference(found[name], again[name]))
            progress("compare", i + 1, len(data))
        return differences

    where, data = runtime.device_of(device, threads=threads), checked(before, batches, Scratch.within(None))
    differences, where, _ = attempt(compare, where, data)
    runtime.release(where)
    skipped = [value.name for value in before.proto.graph.output if value.name not in differences]
    worst = max(differences, key=differences.__getitem__, default="")
    if worst and not differences[worst] <= tolerance:
        raise ModelError(
            f"output {worst!r} should be the same after the rewriting of {before.name}, but differs by "
            f"{differences[worst]:.2g} of its largest value, more than {tolerance:g}; save without '--portable', and "
            "report this"
        )
    notes = (f"Not compared, as it is no tensor: {', '.join(map(repr, skipped))}.",) if skipped else ()
    return Comparison(differences, tolerance, notes)


def difference(before: NDArray[Any], after: NDArray[Any]) -> float:
    """Return how far two arrays are apart; infinity where one cannot be the other."""
    if before.shape != after.shape:
        return math.inf
    if before.size == 0:
        return 0.0
    if before.dtype.kind in "biuOSU":
        return float((before != after).mean())
    a, b = np.asarray(before, np.float64), np.asarray(after, np.float64)
    finite = np.isfinite(a) & np.isfinite(b)
    odd = ~finite if before.dtype == after.dtype else np.isfinite(a) & ~finite
    if not np.array_equal(a[odd], b[odd], equal_nan=True):
        return math.inf
    a, b = a[finite], b[finite]
    apart, scale = np.abs(a - b).max(initial=0.0), np.abs(a).max(initial=0.0)
    return float(apart / scale) if scale else (math.inf if apart else 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class _Opened:
    """A model in a session, its large weights bound from outside."""

    session: Session
    weights: dict[str, tuple[Any, NDArray[Any]]]
    types: Mapping[str, int]  # of the inputs that data are for
    outputs: tuple[str, ...]


def _open(model: Model, device: Device) -> _Opened:
    draft = open_draft(model, Scratch.within(None))
    proto, graph = draft.proto, draft.graph
    name_nodes(draft)  # ONNX Runtime wants them unique
    types = {each.name: each.elem_type for each in inputs_of(graph)}
    weights: dict[str, tuple[NDArray[Any], int]] = {}
    for tensor in graph.initializer:
        array = draft.values(tensor)
        if tensor.data_type != TensorProto.STRING and array.nbytes > HOLLOW_BYTES:
            weights[tensor.name] = bindable(array), tensor.data_type
    given = draft.initializers()
    drop(graph.input, lambda value: value.name in given)
    drop(graph.initializer, lambda tensor: tensor.name in weights)
    graph.input.extend(ValueInfoProto(name=n, type=tensor_type(e, a.shape)) for n, (a, e) in weights.items())
    for _, tensor in tensors(proto):
        if draft.is_new(tensor) or is_hollow(tensor):
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(draft.values(tensor)), tensor.name))
    proto.ir_version = min(max(proto.ir_version, 7), IR_MAX)
    in_float32(proto, BFLOAT16)
    outputs = tuple(v.name for v in graph.output if v.type.WhichOneof("value") in (None, "tensor_type"))
    # What is fused depends on which weights are inputs, and rounds otherwise; a network may amplify it a thousandfold.
    session = runtime.load(proto.SerializeToString(), device, optimize=False)
    return _Opened(session, _bound(weights), types, outputs)


def _bound(arrays: Mapping[str, tuple[NDArray[Any], int]]) -> dict[str, tuple[Any, NDArray[Any]]]:
    """Return arrays as a session takes them, each beside its memory."""
    wide = {name: widened(*each) for name, each in arrays.items()}
    return {name: (runtime.value_of(array, elem_type), array) for name, (array, elem_type) in wide.items()}


def _run(opened: _Opened, batch: Mapping[str, NDArray[Any]], names: list[str]) -> dict[str, NDArray[Any]]:
    data = {name: (_cast(batch[name], elem_type), elem_type) for name, elem_type in opened.types.items()}
    inputs = opened.weights | _bound(data)
    out = runtime.run(opened.session, {name: value for name, (value, _) in inputs.items()}, names, set(names))
    return {name: runtime.array_of(value) for name, value in out.items()}


def _cast(array: NDArray[Any], elem_type: int) -> NDArray[Any]:
    dtype = array.dtype if elem_type == TensorProto.STRING else helper.tensor_dtype_to_np_dtype(elem_type)
    return np.require(array, dtype, "C")


def _chance(proto: ModelProto) -> set[str]:
    """Return the operators of a model that draw at random, or use the batch's own statistics."""
    off = {t.name for t in proto.graph.initializer if t.data_type == TensorProto.BOOL and not _truth(t)}
    for node in all_nodes(proto):
        value = attribute_of(node, "value") if is_op(node, "Constant") else None
        if value is not None and value.t.data_type == TensorProto.BOOL and not _truth(value.t):
            off.add(node.output[0])
    opset = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 0)
    return {node.op_type for node in all_nodes(proto) if _is_active(node, off, opset)}


def _truth(tensor: TensorProto) -> bool:
    return is_hollow(tensor) or bool(numpy_helper.to_array(tensor).any())


def _is_active(node: NodeProto, off: set[str], opset: int) -> bool:
    if is_op(node, "Dropout"):
        return opset >= 12 and len(node.input) > 2 and bool(node.input[2]) and node.input[2] not in off
    if is_op(node, "BatchNormalization"):
        mode = attribute_of(node, "training_mode")
        return mode is not None and mode.i != 0 if opset >= 14 else len(node.output) > 1
    return of(node).random
