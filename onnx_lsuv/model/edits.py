"""What has to change in the bytes of a model, and of its data files, for its new values.

A Constant or ConstantOfShape of a graph whose value is new becomes an initializer of the same name: a ConstantOfShape
cannot hold values, and no training framework trains a Constant. Its node goes, and what only the node used stays. Below
IR version 4 initializers must also be among the graph's inputs. A function body has no initializers, and neither has,
below IR version 4, a subgraph, whose inputs are not free: a Constant there keeps its place. A promoted Constant with
external data stays external.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

import numpy as np
import onnx

from onnx_lsuv.errors import ModelError
from onnx_lsuv.model.elements import Array
from onnx_lsuv.model.external import Place, extent, place_of
from onnx_lsuv.model.loading import Model
from onnx_lsuv.model.payload import chunks, has_payload
from onnx_lsuv.model.splice import Edit
from onnx_lsuv.model.tensors import encode, encode_fixed, to_raw
from onnx_lsuv.model.values import data_file, external_tensors, holds_initializers, label, message, tensors
from onnx_lsuv.model.wire import BYTES, FIXED32, RAW_DATA, Site, Span, children, fields, find, varint


@dataclass(frozen=True, slots=True)
class External:
    """A tensor with external data: its place, and the bytes it takes if it has a new value."""

    tensor: onnx.TensorProto
    place: Place
    key: str  # its file: the normalised location


def promoted(model: Model) -> tuple[Site, ...]:
    """Return the sites among the new values whose node becomes an initializer when the model is saved."""
    return tuple(site for site in sorted(model.values) if _node_of(model, site) is not None)


def externals(model: Model) -> dict[Site, External]:
    """Return the tensors with external data; raise ModelError where a location is not to be trusted."""
    return {
        site: External(tensor, place, os.path.normpath(place.location))
        for site, tensor, place in external_tensors(model)
    }


def external_keys(model: Model) -> list[str]:
    """Return the files with external data, by key; locations that are not to be trusted are left out."""
    found: dict[str, None] = {}
    for _, tensor in tensors(model.proto):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            with suppress(ModelError):
                found[os.path.normpath(place_of(tensor, "").location)] = None
    return list(found)


def model_edits(model: Model, outside: Mapping[Site, External], renamed: Mapping[str, str]) -> list[Edit]:
    """Return the edits of the model's own bytes: new inline values, promoted nodes, `renamed` data files (by key)."""
    edits: list[Edit] = []
    gone = []
    for site in sorted(model.values):
        value, node_site = model.values[site], _node_of(model, site)
        if node_site is not None:
            gone.append(node_site)
            edits += _promote(model, node_site, site, outside.get(site), renamed)
        elif site not in outside:
            edits += _patch(model, site, value)
    for site, one in outside.items():
        location = renamed.get(one.key, one.place.location)
        old = [entry.value for entry in one.tensor.external_data if entry.key == "location"][-1]
        if location != old and not any(site[: len(node)] == node for node in gone):
            edits.append(_relocate(model, site, one.tensor, location))
    return edits


def data_edits(model: Model, outside: Mapping[Site, External]) -> dict[str, list[Edit]]:
    """Return the edits of each external data file, by key; raise ModelError where a new value would change another."""
    edits: dict[str, list[Edit]] = {one.key: [] for one in outside.values()}
    if not any(site in outside for site in model.values):
        return edits
    taken: defaultdict[str, list[tuple[int, int, Site]]] = defaultdict(list)
    for site, one in outside.items():
        where = label(model, site)
        start, end = extent(one.tensor, one.place, len(data_file(model, one.key, where)), where)
        if start < end:
            taken[one.key].append((start, end, site))
    for key, ranges in taken.items():
        ranges.sort()
        last = (0, 0, ranges[0][2])
        for start, end, site in ranges:
            if start < last[1] and (site in model.values or last[2] in model.values):
                raise ModelError(
                    f"{label(model, site)} and {label(model, last[2])} share bytes of {key!r}, so one cannot get "
                    "new values without the other; save the model so that each tensor has its own data"
                )
            last = max(last, (start, end, site), key=lambda one: one[1])
            if site in model.values:
                edits[key].append(Edit(start, end, (to_raw(model.values[site]),), None))
    return edits


def _node_of(model: Model, site: Site) -> Site | None:
    """Return the site of the node that goes when the value at `site` is saved, if it is one that does."""
    if not holds_initializers(model, site):
        return None
    kind, here = message(model, site)
    if kind == "node":
        return site
    if kind == "tensor" and _is_bare(model, cast(onnx.TensorProto, here)):
        return None
    at = {"tensor": site[:-2], "attribute": site[:-1]}[kind]
    if not at or message(model, at)[0] != "node":
        return None
    node = cast(onnx.NodeProto, message(model, at)[1])
    name = node.attribute[site[len(at)][1]].name
    constant = node.op_type == "Constant" and node.domain in ("", "ai.onnx")
    return at if constant and name in ("value", "value_float", "value_floats") else None


def _is_bare(model: Model, tensor: onnx.TensorProto) -> bool:
    """Whether the model's bytes, made by `rewritten`, lack the payload of a tensor."""
    return model._bare and tensor.data_location != onnx.TensorProto.EXTERNAL and not has_payload(tensor)


def _patch(model: Model, site: Site, value: Array) -> list[Edit]:
    kind, here = message(model, site)
    view, spans = model._tree.view, find(model._tree, site)[1]
    if kind == "tensor":
        tensor = cast(onnx.TensorProto, here)
        if _is_bare(model, tensor):
            data, end = to_raw(value), spans[-1].end
            return [Edit(end, end, (bytes([RAW_DATA << 3 | BYTES]) + varint(len(data)), data), spans[-1])]
        return encode(view, spans, tensor, value, label(model, site))
    if value.ndim:
        return encode_fixed(view, chunks(view, spans, 7, FIXED32), to_raw(value), 4)
    cells = [(one.start, one.end, span) for span in spans for one in fields(view, span.start, span.end)
             if one.number == 2 and one.wire == FIXED32]  # fmt: skip
    return [Edit(cells[-1][0], cells[-1][1], (to_raw(value),), cells[-1][2])]


def _promote(
    model: Model, node_site: Site, site: Site, outside: External | None, renamed: Mapping[str, str]
) -> list[Edit]:
    node = cast(onnx.NodeProto, message(model, node_site)[1])
    graph_site, value = node_site[:-1], model.values[site]
    if len(node.output) != 1 or not node.output[0]:
        raise ModelError(f"{label(model, node_site)}, a {node.op_type}, should have one named output")
    name = node.output[0]
    kind, here = message(model, site)
    if kind == "tensor":
        data_type = cast(onnx.TensorProto, here).data_type
    else:
        data_type = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(value.dtype))
    tensor = onnx.TensorProto(dims=value.shape, data_type=data_type, name=name)
    pieces: list[memoryview | bytes]
    if outside is None:
        data = to_raw(value)
        pieces = [tensor.SerializeToString() + bytes([RAW_DATA << 3 | BYTES]) + varint(len(data)), data]
    else:
        tensor.external_data.extend(outside.tensor.external_data)
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = renamed.get(outside.key, outside.place.location)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        pieces = [tensor.SerializeToString()]
    graph: tuple[Span, ...] = find(model._tree, graph_site)[1]
    end = graph[-1].end
    (gone,) = find(model._tree, node_site)[1]
    edits = [
        Edit(gone.tag, gone.end, (), gone.parent),
        Edit(end, end, (bytes([5 << 3 | BYTES]) + varint(sum(map(len, pieces))), *pieces), graph[-1]),
    ]
    if model.proto.ir_version < 4:
        listed = onnx.helper.make_tensor_value_info(name, data_type, value.shape).SerializeToString()
        edits.append(Edit(end, end, (bytes([11 << 3 | BYTES]) + varint(len(listed)), listed), graph[-1]))
    return edits


def _relocate(model: Model, site: Site, tensor: onnx.TensorProto, location: str) -> Edit:
    index = max(index for index, entry in enumerate(tensor.external_data) if entry.key == "location")
    view, entry = model._tree.view, children(model._tree, site)[13][index]
    one = [one for one in fields(view, entry.start, entry.end) if one.number == 2 and one.wire == BYTES][-1]
    value = Span(one.tag, one.size, one.start, one.end, entry, entry.depth + 1)
    return Edit(value.start, value.end, (location.encode(),), value)
