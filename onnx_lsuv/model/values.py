"""Values by site: read what is stored or what replaces it, and say what is to replace it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import numpy as np
import onnx
from google.protobuf.message import Message  # type: ignore[import-untyped]

from onnx_lsuv.errors import ModelError, UsageError
from onnx_lsuv.model.elements import Array
from onnx_lsuv.model.external import Place, extent, open_data, place_of, whole
from onnx_lsuv.model.loading import Model
from onnx_lsuv.model.payload import has_payload
from onnx_lsuv.model.tensors import check as check_payload
from onnx_lsuv.model.tensors import decode, dtype_of, from_raw, shape_of
from onnx_lsuv.model.wire import SCHEMA, Site, Tree, find


def message(model: Model, site: Site) -> tuple[str, Message]:
    """Return what kind of message (a key of wire.SCHEMA) is at `site` and the message itself, from the skeleton."""
    kind, here = "model", cast(Message, model.proto)
    try:
        for number, index in site:
            name = here.DESCRIPTOR.fields_by_number[number].name
            kind, repeated = SCHEMA[kind][number]
            if not repeated and (index != 0 or not here.HasField(name)):
                raise IndexError(index)
            here = getattr(here, name)[index] if repeated else getattr(here, name)
    except (KeyError, IndexError):
        raise UsageError(f"there is no message at site {site} of {model.name}") from None
    return kind, here


def label(model: Model, site: Site) -> str:
    """Return how messages call the tensor at `site`: by its own name or that of the value that its node makes."""
    kind, here = message(model, site)
    name = getattr(here, "name", "") if kind == "tensor" else ""
    for length in range(len(site), 0, -1):
        kind, here = message(model, site[:length])
        if kind == "node":
            made = ", ".join(map(repr, cast(onnx.NodeProto, here).output))
            return (
                f"the tensor in node {made} of {model.name}"
                if not name
                else f"tensor {name!r} in {made} of {model.name}"
            )
        if kind == "graph":
            break
    return f"tensor {name!r} of {model.name}"


def read(model: Model, site: Site) -> Array:
    """Return the values at `site`, with the tensor's dims as shape: the new ones if there are any, else the stored.

    The array is read-only and of native byte order. Little-endian raw bytes, in the model or external, are viewed
    where they are (mapped from the file, and perhaps not aligned to the element size); others are decoded into a copy.
    At an attribute: its float or int, of shape (), or floats or ints. A ConstantOfShape node has no values of its own
    unless new ones were given; see `fill`. Raises ModelError where what is stored cannot be read.
    """
    if site in model.values:
        return model.values[site]
    kind, here = message(model, site)
    if kind == "tensor":
        return _read_tensor(model, site, cast(onnx.TensorProto, here))
    if kind == "attribute":
        return _read_attribute(cast(onnx.AttributeProto, here), site)
    raise UsageError(f"a {kind} at site {site} of {model.name} stores no values")


def _read_tensor(model: Model, site: Site, tensor: onnx.TensorProto) -> Array:
    where = label(model, site)
    if tensor.HasField("segment"):
        raise ModelError(f"{where} is stored in segments, which nothing supports; export the model again")
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return decode(whole(model._tree.view, model.name), find(model._tree, site)[1], tensor, where)
    place = place_of(tensor, where)
    view = data_file(model, place.location, where)
    start, end = extent(tensor, place, len(view), where)
    return from_raw(view[start:end], shape_of(tensor, where), dtype_of(tensor.data_type, where), where)


def check(model: Model, site: Site) -> None:
    """Raise ModelError where the tensor at `site` cannot have as many values as its dims promise; none is looked at.

    An attribute has no dims to lie with. A data file that is missing is not missed before its values are.
    """
    kind, here = message(model, site)
    if kind != "tensor" or site in model.values:
        return
    tensor, where = cast(onnx.TensorProto, here), label(model, site)
    if model._bare and not has_payload(tensor):
        return
    if tensor.HasField("segment"):
        raise ModelError(f"{where} is stored in segments, which nothing supports; export the model again")
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        check_payload(model._tree.view, find(model._tree, site)[1], tensor, where)
        return
    view = None
    with suppress(ModelError):
        view = data_file(model, place_of(tensor, where).location, where)
    if view is not None:
        extent(tensor, place_of(tensor, where), len(view), where)


def _read_attribute(attribute: onnx.AttributeProto, site: Site) -> Array:
    array: Array
    if attribute.HasField("f"):
        array = np.array(attribute.f, np.float32)
    elif attribute.HasField("i"):
        array = np.array(attribute.i, np.int64)
    elif attribute.ints or attribute.type == onnx.AttributeProto.INTS:
        array = np.array(attribute.ints, np.int64)
    elif attribute.floats or attribute.type == onnx.AttributeProto.FLOATS:
        array = np.array(attribute.floats, np.float32)
    else:
        raise UsageError(f"attribute {attribute.name!r} at site {site} holds no number")
    array.flags.writeable = False
    return array


def fill(model: Model, site: Site) -> Array:
    """Return what a ConstantOfShape node fills its output with, as an array of shape (); its dtype is the output's."""
    kind, here = message(model, site)
    if kind != "node" or cast(onnx.NodeProto, here).op_type != "ConstantOfShape":
        raise UsageError(f"at site {site} of {model.name} is no ConstantOfShape node")
    for index, attribute in enumerate(cast(onnx.NodeProto, here).attribute):
        if attribute.name == "value" and attribute.HasField("t"):
            value = read(model, (*site, (5, index), (5, 0)))
            if value.size != 1:
                raise ModelError(f"{label(model, site)} should have one value to fill with, but has {value.size}")
            return value.reshape(())
    zero = np.zeros((), np.float32)
    zero.flags.writeable = False
    return zero


def with_values(model: Model, values: Mapping[Site, Array]) -> Model:
    """Return the model with new values at some sites, beside those it has; nothing is copied.

    A site ends at a tensor or a float(s) attribute, whose shape and dtype the value must have, or at a ConstantOfShape
    node. Raises UsageError where a value does not fit, ModelError where the model cannot hold it.
    """
    merged = dict(model.values)
    for site, given in values.items():
        value = np.asarray(given)
        dtype, shape = form_of(model, site)
        if value.dtype.newbyteorder("=") != dtype or (shape is not None and value.shape != shape):
            raise UsageError(
                f"{label(model, site)} should get {dtype.name} values of shape "
                f"{value.shape if shape is None else shape}, but got {value.dtype.name} of {value.shape}"
            )
        held = value.astype(dtype, copy=False).view()
        held.flags.writeable = False
        merged[site] = held
    return replace(model, values=MappingProxyType(merged))


def form_of(model: Model, site: Site) -> tuple[np.dtype[Any], tuple[int, ...] | None]:
    """Return the type and the shape that new values at a site must have; None for a shape that the file leaves open."""
    kind, here = message(model, site)
    where = label(model, site)
    if kind == "tensor":
        tensor = cast(onnx.TensorProto, here)
        if tensor.data_type == onnx.TensorProto.STRING or tensor.HasField("segment"):
            raise ModelError(f"{where} holds strings or segments, which cannot be replaced")
        return dtype_of(tensor.data_type, where), shape_of(tensor, where)
    if kind == "attribute":
        stored = _read_attribute(cast(onnx.AttributeProto, here), site)
        if stored.dtype != np.float32:
            raise ModelError(f"{where} holds integers in an attribute, which cannot be replaced")
        return stored.dtype, stored.shape
    if not holds_initializers(model, site):
        raise ModelError(
            f"{where} is made by a ConstantOfShape in a function, or in a subgraph below IR version 4, which cannot be "
            "replaced there; inline the function (onnx.inliner), or export with IR version 4 or later"
        )
    return fill(model, site).dtype, None


def holds_initializers(model: Model, site: Site) -> bool:
    """Whether the scope around a node or attribute can hold initializers: a graph, below IR version 4 the main one."""
    return site[0][0] == 7 and (model.proto.ir_version >= 4 or all(number not in (6, 11) for number, _ in site))


def data_file(model: Model, location: str, where: str) -> memoryview:
    """Return an external data file of the model, mapped once; raise ModelError where it cannot be trusted."""
    location = str(Path(location))
    if location not in model._files:
        if model.folder is None:
            raise ModelError(
                f"{where} has its data in the file {location!r}, but a model in memory has no folder to find it in; "
                "give base_dir"
            )
        model._files[location] = open_data(model.folder, location, model.path, where)
    return whole(model._files[location], f"the external data file {location!r}")


def external_tensors(model: Model) -> Iterator[tuple[Site, onnx.TensorProto, Place]]:
    """Yield every tensor with external data: in graphs, functions and attributes; raise ModelError at a bad place."""
    for site, tensor in tensors(model.proto):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            yield site, tensor, place_of(tensor, label(model, site))


def tensors(proto: onnx.ModelProto) -> Iterator[tuple[Site, onnx.TensorProto]]:
    """Yield every tensor of a model: in graphs, functions and attributes, sparse ones as their two parts."""

    def walk(site: Site, kind: str, here: Message) -> Iterator[tuple[Site, onnx.TensorProto]]:
        if kind == "tensor":
            yield site, cast(onnx.TensorProto, here)
            return
        known = SCHEMA[kind]
        for descriptor, value in here.ListFields():
            if descriptor.number in known:
                below, repeated = known[descriptor.number]
                for index, child in enumerate(value if repeated else (value,)):
                    yield from walk((*site, (descriptor.number, index)), below, child)

    return walk((), "model", proto)


def rewritten(
    model: Model, proto: onnx.ModelProto, values: Mapping[Site, Array], files: Mapping[str, memoryview]
) -> Model:
    """Return a model of another structure, its tensors given by `values` where `proto` does not hold them.

    `proto` is the new skeleton, from now on not to be changed. `files` are the external data files that differ from
    those in the model's folder, by location.
    """
    tree = Tree(memoryview(proto.SerializeToString()))
    new = Model(proto, model.path, MappingProxyType({}), model.folder, tree, {**model._files, **files}, _bare=True)
    return with_values(new, values)
