"""What has to change in the bytes of a model, and of its data files, for its new values.

A Constant or ConstantOfShape of a graph whose value is new becomes an initializer of the same name: a ConstantOfShape
cannot hold values, and no training framework trains a Constant. Its node goes, and what only the node used stays. Below
IR version 4 initializers must also be among the graph's inputs. A function body has no initializers, and neither has,
below IR version 4, a subgraph, whose inputs are not free: a Constant there keeps its place. A promoted Constant with
external data stays external. What `additions` added is written in the same way.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, TensorProto

from onnx_lsuv.errors import ModelError
from onnx_lsuv.model import sites
from onnx_lsuv.model.additions import appended
from onnx_lsuv.model.arrays import Array, encode, to_raw
from onnx_lsuv.model.external import DataLocation, extent
from onnx_lsuv.model.loading import Model
from onnx_lsuv.model.payload import chunks, replaced
from onnx_lsuv.model.sites import Site, Step
from onnx_lsuv.model.splicing import Edit, Piece, with_field, without
from onnx_lsuv.model.values import data_file, holds_initializers, is_bare, label, message, spans_of
from onnx_lsuv.model.wire import BYTES, FIXED32, RAW_DATA, fields, find, inside


def promoted(model: Model) -> tuple[Site, ...]:
    """Return the sites among the new values whose node becomes an initializer when the model is saved."""
    return tuple(site for site in sorted(model.values) if _node_of(model, site) is not None)


def model_edits(model: Model, outside: Mapping[Site, DataLocation], renamed: Mapping[str, str]) -> list[Edit]:
    """Return the edits of the model's own bytes: values, initializers, what nodes read, `renamed` data files."""
    edits, gone = node_edits(model), []
    for site in sorted(model.values):
        node_site = _node_of(model, site)
        if node_site is not None:
            gone.append(node_site)
            edits += _promote(model, node_site, site, outside.get(site), renamed)
        elif site in model._added:
            tensor = TensorProto()
            tensor.CopyFrom(message(model, site))
            tensor.ClearField("raw_data")
            edits += initializer_edits(model, site[:-1], tensor, model.values[site], outside.get(site), renamed)
        elif site not in outside:
            edits += _patch(model, site, model.values[site])
    for site, data in outside.items():
        location = renamed.get(data.file, data.location)
        if site in model._added or any(site[: len(node)] == node for node in gone):
            continue
        index, entry = [item for item in enumerate(data.tensor.external_data) if item[1].key == "location"][-1]
        if location != entry.value:
            (span,) = spans_of(model, (*site, Step(sites.TENSOR_EXTERNAL, index)))
            found = fields(model._tree.view, span.start, span.end)
            value = [one for one in found if one[:2] == (sites.ENTRY_VALUE, BYTES)][-1]
            edits.append(Edit(value.start, value.end, (location.encode(),), inside(value, span)))
    return edits


def node_edits(model: Model) -> list[Edit]:
    """Return the edits of the nodes that read other values, or are gone, as `additions` says."""
    edits = [_reading(model, *place, name) for place, name in model._inputs.items()]
    return edits + [without(span) for site in model._gone for span in find(model._tree, site)]


def data_edits(model: Model, outside: Mapping[Site, DataLocation]) -> dict[str, list[Edit]]:
    """Return the edits of each external data file; raise ModelError where a new value would change another."""
    edits: dict[str, list[Edit]] = {data.file: [] for data in outside.values()}
    if not any(site in outside for site in model.values):
        return edits
    taken: defaultdict[str, list[tuple[int, int, Site]]] = defaultdict(list)
    for site, data in outside.items():
        if site in model._added:
            continue
        where = label(model, site)
        start, end = extent(data, len(data_file(model, data.file, where)), where)
        if start < end:
            taken[data.file].append((start, end, site))
    for file, ranges in taken.items():
        ranges.sort()
        last = (0, 0, ranges[0][2])
        for start, end, site in ranges:
            if start < last[1] and (site in model.values or last[2] in model.values):
                raise ModelError(
                    f"{label(model, site)} and {label(model, last[2])} share bytes of {file!r}, so one cannot get "
                    "new values without the other; save the model so that each tensor has its own data"
                )
            last = max(last, (start, end, site), key=lambda one: one[1])
            if site in model.values:
                edits[file].append(Edit(start, end, (to_raw(model.values[site]),), None))
        size = at = len(data_file(model, file, file))
        for site, end in appended(model, file):
            raw = to_raw(model.values[site])
            edits[file].append(Edit(size, size, (bytes(end - len(raw) - at), raw), None))
            at = end
    return edits


def _node_of(model: Model, site: Site) -> Site | None:
    """Return the site of the node that goes when the value at `site` is saved, if it is one that does."""
    if not holds_initializers(model, site):
        return None
    here = message(model, site)
    if isinstance(here, NodeProto):
        return site
    if isinstance(here, TensorProto) and is_bare(model, site):
        return None
    at = site[:-1] if isinstance(here, AttributeProto) else site[:-2]
    node = message(model, at)
    if not isinstance(node, NodeProto):
        return None
    name = node.attribute[site[len(at)][1]].name
    constant = node.op_type == "Constant" and node.domain in ("", "ai.onnx")
    return at if constant and name in ("value", "value_float", "value_floats") else None


def _patch(model: Model, site: Site, value: Array) -> list[Edit]:
    here, view, spans = message(model, site), model._tree.view, spans_of(model, site)
    if isinstance(here, TensorProto):
        if is_bare(model, site):
            return [with_field(spans[-1], RAW_DATA, to_raw(value))]
        return encode(view, spans, here, value, label(model, site))
    if value.ndim:
        return replaced(view, chunks(view, spans, sites.ATTRIBUTE_FLOATS, FIXED32), to_raw(value))
    found = [(one, span) for span in spans for one in fields(view, span.start, span.end)]
    one, span = [(one, span) for one, span in found if one[:2] == (sites.ATTRIBUTE_FLOAT, FIXED32)][-1]
    return [Edit(one.start, one.end, (to_raw(value),), span)]


def _promote(
    model: Model, node_site: Site, site: Site, outside: DataLocation | None, renamed: Mapping[str, str]
) -> list[Edit]:
    node, here, value = message(model, node_site), message(model, site), model.values[site]
    if len(node.output) != 1 or not node.output[0]:
        raise ModelError(f"{label(model, node_site)}, a {node.op_type}, should have one named output")
    if isinstance(here, TensorProto):
        data_type = here.data_type
    else:
        data_type = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(value.dtype))
    tensor = TensorProto(dims=value.shape, data_type=data_type, name=node.output[0])
    if outside is not None:
        tensor.external_data.extend(outside.tensor.external_data)
        tensor.data_location = TensorProto.EXTERNAL
    (gone,) = spans_of(model, node_site)
    return [without(gone), *initializer_edits(model, node_site[:-1], tensor, value, outside, renamed)]


def initializer_edits(
    model: Model,
    graph: Site,
    tensor: TensorProto,
    value: Array | None,
    outside: DataLocation | None = None,
    renamed: Mapping[str, str] = MappingProxyType({}),
) -> list[Edit]:
    """Return the edits that add an initializer to a graph; `tensor` has all but the values, and is changed."""
    payload: tuple[Piece, ...] = ()
    end = spans_of(model, graph)[-1]
    if outside is None and value is not None:
        payload = with_field(end, RAW_DATA, to_raw(value)).pieces
    elif outside is not None:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = renamed.get(outside.file, outside.location)
    edits = [with_field(end, sites.GRAPH_INITIALIZER, tensor.SerializeToString(), *payload)]
    if model.proto.ir_version < 4:
        listed = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims).SerializeToString()
        edits.append(with_field(end, sites.GRAPH_INPUT, listed))
    return edits


def _reading(model: Model, site: Site, position: int, name: str) -> Edit:
    """Return the edit that lets a node read another value."""
    (node,) = find(model._tree, site)
    found = [one for one in fields(model._tree.view, node.start, node.end) if one[:2] == (sites.NODE_INPUT, BYTES)]
    one = found[position]
    return Edit(one.start, one.end, (name.encode(),), inside(one, node))
