"""Weights that are no initializers: inputs without values, and names that nothing makes; they become initializers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field

import numpy as np
from onnx import GraphProto, TensorProto, ValueInfoProto, helper

from onnx_lsuv.architecture.places import SURE, Uses, closure, holds_weights, places_of, unmade, weights_among
from onnx_lsuv.architecture.shapes import Dims, dims_of, infer, setting
from onnx_lsuv.architecture.training import refuse_training
from onnx_lsuv.errors import ModelError, listing, quote
from onnx_lsuv.model import Addition, Array, Model, message, sites, with_initializers, with_stand_ins, without_inputs
from onnx_lsuv.program.program import FLOAT_TYPES

INPUT = "inputs that no data are given for, now initializers"
_UNMADE = "nothing made these names"


@dataclass(slots=True)
class _Told:
    """What is known of names that nothing makes."""

    kinds: dict[str, tuple[int, Sequence[int]]] = field(default_factory=dict)  # of weights: element type and dims
    settings: dict[str, Array] = field(default_factory=dict)  # whole numbers that the shapes around them tell


def with_unlisted(
    model: Model, uses: Uses, data: Collection[str] | Callable[[], Collection[str]], shapes: Mapping[str, Sequence[int]]
) -> Model:
    """Return the model with initializers for inputs that are weights, and for names that nothing makes.

    Only where no layer has a weight with values. Arguments as for `complete`; raises ModelError.
    """
    graph, names = model.proto.graph, unmade(uses)
    given = {tensor.name for tensor in graph.initializer}
    if not names and len([value for value in graph.input if value.name not in given]) < 2:
        return model  # the only input is data
    if holds_weights(uses, _absent_initializers(model)):
        return model
    inputs = weights_among(uses, data() if callable(data) else data, names)
    if inputs:
        refuse_training(model.name, uses.nodes, lossy=True)
    parameters = closure(uses, {*inputs, *names, *given})
    found = {name: places_of(uses, name, parameters) for name in names}
    told = _Told()
    if any(each and each <= SURE for each in found.values()):
        told = _tell(model, uses, found, parameters, shapes)
    elif not inputs:
        return model  # which is broken, as a name that nothing makes tells
    kinds = {value.name: _kind(value) for value in graph.input if value.name in inputs} | told.kinds
    added = [Addition(name, values) for name, values in told.settings.items()]
    waiting = [Addition(name, np.broadcast_to(_one(kind), tuple(dims))) for name, (kind, dims) in kinds.items()]
    changed = with_initializers(without_inputs(model, inputs), [*added, *waiting])
    first = len(graph.initializer) + len(added)
    new = {(*sites.MAIN_GRAPH, sites.Step(sites.GRAPH_INITIALIZER, first + i)): name for i, name in enumerate(kinds)}
    for site in new:
        message(changed, site).ClearField("raw_data")  # which holds no values of its own
    return with_stand_ins(changed, {site: INPUT if name in inputs else _UNMADE for site, name in new.items()})


def _one(kind: int) -> Array:
    return np.ones((), helper.tensor_dtype_to_np_dtype(kind))


def _absent_initializers(model: Model) -> set[str]:
    """Return the initializers of the main graph that have no values."""
    main = [site for site in model.absent if site[:-1] == sites.MAIN_GRAPH]
    return {model.proto.graph.initializer[site[-1].nth].name for site in main}


def _kind(value: ValueInfoProto) -> tuple[int, tuple[int, ...]]:
    kind = value.type.tensor_type
    return kind.elem_type, tuple(dim.dim_value for dim in kind.shape.dim)


def _tell(
    model: Model, uses: Uses, places: Mapping[str, set[str]], parameters: Set[str], shapes: Mapping[str, Sequence[int]]
) -> _Told:
    """Find out what the names that nothing makes stand for.

    Args:
        model: what they are missing in.
        uses: of its graph.
        places: where they are read.
        parameters: values that depend on weights and constants alone.
        shapes: that were given, by name.
    """
    graph, told = model.proto.graph, _Told()
    kind = next(filter(FLOAT_TYPES.__contains__, _types(graph)), TensorProto.FLOAT)
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info)}
    weights = [name for name, found in places.items() if found and "data" not in found]
    known: dict[str, tuple[int, Sequence[int | None]]]
    known = {name: (types.get(name) or kind, dims) for name, dims in shapes.items() if name in types or name in weights}
    while True:  # what is known of one may tell of another
        seen = infer(model.proto, known)
        dims = {name: seen.get(name) or dims_of(uses, name, parameters, seen) for name in weights if name not in known}
        new = {name: (types.get(name) or kind, each) for name, each in dims.items() if each and None not in each}
        known = {**known, **new}
        if not new:
            break
    for name in places.keys() - set(weights):
        values = {tuple(numbers) for reader in uses.readers[name] if (numbers := setting(reader, seen)) is not None}
        if len(values) == 1:
            told.settings[name] = np.array(values.pop(), np.int64)
    if lost := [name for name in places if name not in weights and name not in told.settings]:
        node, _ = uses.readers[lost[0]][0]
        raise ModelError(
            f"{model.name} lacks {listing(lost, 3)}, which nothing makes and which {node.op_type} "
            f"{quote(node.name or node.output[0])} reads as a setting: settings belong to the architecture, so export "
            "the model with its initializers"
        )
    if open_names := {name: each for name, each in dims.items() if name not in known}:
        raise _unknown(model, uses, open_names)
    told.kinds = {name: (known[name][0], [length or 0 for length in known[name][1]]) for name in weights}
    return told


def _types(graph: GraphProto) -> Iterable[int]:
    return (value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info, *graph.output))


def _unknown(model: Model, uses: Uses, names: Mapping[str, Dims | None]) -> ModelError:
    """Return the error for tensors whose dims nothing tells."""
    name, dims = next(iter(names.items()))
    node, _ = uses.readers[name][0]
    reader = f"{node.op_type} {quote(node.name or node.output[0])}"
    partly = "" if dims is None else f" beyond [{', '.join('?' if each is None else str(each) for each in dims)}]"
    others = f" (and so of {listing(list(names)[1:], 3)})" if len(names) > 1 else ""
    return ModelError(
        f"{model.name} has no values for {quote(name)}, which {reader} reads, and nothing around it tells its "
        f"shape{partly}{others}: give '--shape {name}=...' with its dims, "
        f"in Python complete(model, shapes={{{name!r}: [...]}})"
    )
