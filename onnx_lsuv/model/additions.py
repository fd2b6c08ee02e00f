"""Initializers that a file does not have, and nodes that read them instead of what they read.

What is added stands behind the other initializers of its graph, so that the sites of all else stay as they are; its
values are among the model's new ones, so that nothing has to be copied before it is saved. A copy of a tensor with
external data has its own at the end of the same data file.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from onnx_lsuv.errors import UsageError
from onnx_lsuv.model import sites
from onnx_lsuv.model.arrays import Array, to_raw
from onnx_lsuv.model.external import aligned, location_of, place_outside
from onnx_lsuv.model.loading import Model
from onnx_lsuv.model.sites import MAIN_GRAPH, Site, Step
from onnx_lsuv.model.values import data_file, holds_initializers, label, message, stored_site
from onnx_lsuv.model.wire import HOLLOW_BYTES


@dataclass(frozen=True, slots=True)
class Addition:
    """An initializer that a file does not have."""

    name: str
    values: Array
    graph: Site = MAIN_GRAPH  # the graph that gets it
    like: Site | None = None  # a tensor: if its data are external, so are these


def with_initializers(
    model: Model,
    added: Iterable[Addition],
    inputs: Mapping[tuple[Site, int], str] = MappingProxyType({}),
    gone: Collection[Site] = (),
) -> Model:
    """Return the model with initializers that it does not have, and nodes that read them.

    Args:
        model: what gets them; it is not changed, and sites are its own.
        added: named as nothing else is that is known where they are read.
        inputs: what nodes are to read, by a node's site and which of its inputs it is.
        gone: nodes that go, as an initializer has the name of what they make; others get another site by that.

    Raises:
        UsageError: a graph can hold no initializers: a function's body, or below IR version 4 an inner graph.
        ModelError: the place of external data is not to be trusted.
    """
    proto = ModelProto()
    proto.CopyFrom(model.proto)
    renamed = {(stored_site(model, site), position): name for (site, position), name in inputs.items()}
    left = (*model._gone, *(stored_site(model, site) for site in gone))
    changed = replace(model, proto=proto)
    for (reader, position), name in inputs.items():
        node = message(changed, reader)
        assert isinstance(node, NodeProto)
        node.input[position] = name
    values: dict[Site, Array] = {}
    absent = dict(model.absent)
    ends: dict[str, int] = {}
    for each in added:
        graph = message(changed, each.graph)
        if not isinstance(graph, GraphProto) or not holds_initializers(model, each.graph):
            raise UsageError(f"no initializer {each.name!r} can be added at site {each.graph} of {model.name}")
        tensor = _add(model, graph, each)
        array = each.values.view()
        array.flags.writeable = False
        values[place := (*each.graph, Step(sites.GRAPH_INITIALIZER, len(graph.initializer) - 1))] = array
        if each.like in absent:
            absent[place] = absent[each.like]
        if each.like is not None and _is_outside(model, each.like):
            _append(model, tensor, each, ends)
        elif 0 < each.values.nbytes <= HOLLOW_BYTES:
            tensor.raw_data = bytes(to_raw(each.values))  # as a skeleton has it
    for site in sorted(gone, reverse=True):
        graph = message(changed, site[:-1])
        assert isinstance(graph, GraphProto)
        del graph.node[site[-1].nth]

    def moved(site: Site) -> Site:
        return _moved(site, gone)

    return replace(
        changed,
        values=MappingProxyType({moved(site): value for site, value in {**model.values, **values}.items()}),
        absent={moved(site): why for site, why in absent.items()},
        _added=frozenset(map(moved, model._added | values.keys())),
        _inputs={**model._inputs, **renamed},
        _gone=tuple(sorted(left)),
    )


def _add(model: Model, graph: GraphProto, added: Addition) -> TensorProto:
    """Add a tensor without its values to a graph, and return it."""
    data_type = onnx.helper.np_dtype_to_tensor_dtype(added.values.dtype)
    tensor: TensorProto = graph.initializer.add(name=added.name, dims=added.values.shape, data_type=data_type)
    if model.proto.ir_version < 4:
        graph.input.append(onnx.helper.make_tensor_value_info(added.name, data_type, added.values.shape))
    return tensor


def _moved(site: Site, gone: Collection[Site]) -> Site:
    """Return where a message is once some nodes are gone."""
    return tuple(
        Step(
            field, nth - sum(each[:-1] == site[:at] and each[-1].field == field and each[-1].nth < nth for each in gone)
        )
        for at, (field, nth) in enumerate(site)
    )


def _is_outside(model: Model, site: Site) -> bool:
    tensor = message(model, site)
    return isinstance(tensor, TensorProto) and tensor.data_location == TensorProto.EXTERNAL


def _append(model: Model, tensor: TensorProto, added: Addition, ends: dict[str, int]) -> None:
    """Give a new tensor the next place at the end of the data file of another; `ends` are those of the files so far."""
    assert added.like is not None
    where = label(model, added.like)
    other = message(model, added.like)
    assert isinstance(other, TensorProto)
    data = location_of(other, where)
    if data.file not in ends:
        ends[data.file] = max((end for _, end in appended(model, data.file)), default=0)
        ends[data.file] = max(ends[data.file], len(data_file(model, data.location, where)))
    start = aligned(ends[data.file])
    ends[data.file] = start + added.values.nbytes
    place_outside(tensor, data.location, start, added.values.nbytes)


def appended(model: Model, file: str) -> list[tuple[Site, int]]:
    """Return the additions to a data file in their order, each with the offset where it ends."""
    found = []
    for site in sorted(model._added):
        if _is_outside(model, site):
            tensor = message(model, site)
            assert isinstance(tensor, TensorProto)
            data = location_of(tensor, label(model, site))
            if data.file == file:
                found.append((site, data.offset + model.values[site].nbytes))
    return sorted(found, key=lambda one: one[1])
