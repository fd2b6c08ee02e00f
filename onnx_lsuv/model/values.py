"""Values by site: read what is stored or what replaces it, and say what is to replace it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from google.protobuf.message import Message  # type: ignore[import-untyped]
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from onnx_lsuv.errors import ModelError, UsageError
from onnx_lsuv.model import arrays, sites
from onnx_lsuv.model.arrays import Array, decode, dtype_of, from_raw, shape_of
from onnx_lsuv.model.external import DataLocation, extent, location_of, open_data
from onnx_lsuv.model.loading import Model
from onnx_lsuv.model.opening import release, whole
from onnx_lsuv.model.payload import has_payload, payload_of
from onnx_lsuv.model.sites import SCHEMA, Site, Step
from onnx_lsuv.model.wire import HOLLOW_BYTES, Span, Tree, find


def message(model: Model, site: Site) -> Message:
    """Return the message at `site`, from the skeleton."""
    kind, here = "model", model.proto
    try:
        for number, index in site:
            name = here.DESCRIPTOR.fields_by_number[number].name
            kind, repeated = SCHEMA[kind][number]
            if not repeated and (index != 0 or not here.HasField(name)):
                raise IndexError(index)
            here = getattr(here, name)[index] if repeated else getattr(here, name)
    except (KeyError, IndexError):
        raise UsageError(f"there is no message at site {site} of {model.name}") from None
    return here


def spans_of(model: Model, site: Site) -> tuple[Span, ...]:
    """Return where in the model's bytes the message at `site` is."""
    return find(model._tree, stored_site(model, site))


def stored_site(model: Model, site: Site) -> Site:
    """Return the site that a message has in the model's bytes, where no node is gone yet."""
    if not model._gone:
        return site
    found: Site = ()
    for step in site:
        nth = step.nth
        for gone in model._gone:
            if gone[:-1] == found and gone[-1].field == step.field and gone[-1].nth <= nth:
                nth += 1
        found = (*found, Step(step.field, nth))
    return found


def label(model: Model, site: Site) -> str:
    """Return how messages call the tensor at `site`: by its own name or that of the value that its node makes."""
    here = message(model, site)
    name = here.name if isinstance(here, TensorProto) else ""
    for length in range(len(site), 0, -1):
        here = message(model, site[:length])
        if isinstance(here, NodeProto):
            made = ", ".join(map(repr, here.output))
            return (
                f"tensor {name!r} in {made} of {model.name}" if name else f"the tensor in node {made} of {model.name}"
            )
        if isinstance(here, GraphProto):
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
    here = message(model, site)
    if isinstance(here, AttributeProto):
        return _read_attribute(here, site)
    if not isinstance(here, TensorProto):
        kind = type(here).__name__.removesuffix("Proto").lower()
        raise UsageError(f"a {kind} at site {site} of {model.name} stores no values")
    where = label(model, site)
    _refuse_segments(here, where)
    if here.data_location != TensorProto.EXTERNAL:
        return decode(whole(model._tree.view, model.name), spans_of(model, site), here, where)
    data = location_of(here, where)
    view = data_file(model, data.location, where)
    start, end = extent(data, len(view), where)
    return from_raw(view[start:end], shape_of(here, where), dtype_of(here.data_type, where), where)


def let_go(model: Model) -> None:
    """Give back the memory of what was read of a model's files; arrays that `read` returned stay what they are."""
    for view in (model._tree.view, *model._files.values()):
        release(view)


def check(model: Model, site: Site) -> None:
    """Raise ModelError where the tensor at `site` cannot have as many values as its dims promise; none is looked at.

    An attribute has no dims to lie with. A data file that is missing is not missed before its values are.
    """
    here = message(model, site)
    if not isinstance(here, TensorProto) or site in model.values or (model._bare and not has_payload(here)):
        return
    where = label(model, site)
    _refuse_segments(here, where)
    if here.data_location != TensorProto.EXTERNAL:
        arrays.check(model._tree.view, spans_of(model, site), here, where)
        return
    view = None
    with suppress(ModelError):
        data = location_of(here, where)
        view = data_file(model, data.location, where)
    if view is not None:
        extent(data, len(view), where)


def is_bare(model: Model, site: Site) -> bool:
    """Whether the model's bytes lack the payload of the tensor at `site`, whose dims promise one."""
    here = message(model, site)
    if not isinstance(here, TensorProto) or here.data_location == TensorProto.EXTERNAL or has_payload(here):
        return False
    if site in model._added:
        return False
    if model._bare:
        return True
    spans = spans_of(model, site)
    if sum(span.end - span.start for span in spans) - here.ByteSize() >= HOLLOW_BYTES:
        return False  # what the skeleton leaves out is the payload; the file need not be read for that
    return 0 not in here.dims and not payload_of(model._tree.view, spans, here.data_type)[2]


def _refuse_segments(tensor: TensorProto, where: str) -> None:
    if tensor.HasField("segment"):
        raise ModelError(f"{where} is stored in segments, which nothing supports; export the model again")


def _read_attribute(attribute: AttributeProto, site: Site) -> Array:
    array: Array
    if attribute.HasField("f"):
        array = np.array(attribute.f, np.float32)
    elif attribute.HasField("i"):
        array = np.array(attribute.i, np.int64)
    elif attribute.ints or attribute.type == AttributeProto.INTS:
        array = np.array(attribute.ints, np.int64)
    elif attribute.floats or attribute.type == AttributeProto.FLOATS:
        array = np.array(attribute.floats, np.float32)
    else:
        raise UsageError(f"attribute {attribute.name!r} at site {site} holds no number")
    array.flags.writeable = False
    return array


def fill(model: Model, site: Site) -> Array:
    """Return what a ConstantOfShape node fills its output with, as an array of shape (); its dtype is the output's."""
    here = message(model, site)
    if not isinstance(here, NodeProto) or here.op_type != "ConstantOfShape":
        raise UsageError(f"at site {site} of {model.name} is no ConstantOfShape node")
    for index, attribute in enumerate(here.attribute):
        if attribute.name == "value" and attribute.HasField("t"):
            value = read(model, (*site, Step(sites.NODE_ATTRIBUTE, index), Step(sites.ATTRIBUTE_TENSOR)))
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
        merged[site] = value.astype(dtype, copy=False).view()
        merged[site].flags.writeable = False
    absent = {site: how for site, how in model.absent.items() if site not in values}
    return replace(model, values=MappingProxyType(merged), absent=absent)


def form_of(model: Model, site: Site) -> tuple[np.dtype[Any], tuple[int, ...] | None]:
    """Return the type and the shape that new values at a site must have; None for a shape that the file leaves open."""
    here, where = message(model, site), label(model, site)
    if isinstance(here, TensorProto):
        if here.data_type == TensorProto.STRING or here.HasField("segment"):
            raise ModelError(f"{where} holds strings or segments, which cannot be replaced")
        return dtype_of(here.data_type, where), shape_of(here, where)
    if isinstance(here, AttributeProto):
        array = _read_attribute(here, site)
        if array.dtype != np.float32:
            raise ModelError(f"{where} holds integers in an attribute, which cannot be replaced")
        return array.dtype, array.shape
    if not holds_initializers(model, site):
        raise ModelError(
            f"{where} is made by a ConstantOfShape in a function, or in a subgraph below IR version 4, which cannot be "
            "replaced there; inline the function (onnx.inliner), or export with IR version 4 or later"
        )
    return fill(model, site).dtype, None


def holds_initializers(model: Model, site: Site) -> bool:
    """Whether the scope around a node or attribute can hold initializers: a graph, below IR version 4 the main one."""
    inner = any(field in (sites.ATTRIBUTE_GRAPH, sites.ATTRIBUTE_GRAPHS) for field, _ in site)
    return site[:1] == sites.MAIN_GRAPH and (model.proto.ir_version >= 4 or not inner)


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


def map_files(model: Model) -> Model:
    """Map a model's data files while they have the names that it knows; return it."""
    for site, data in externals(model).items():
        data_file(model, data.file, label(model, site))
    return model


def externals(model: Model) -> dict[Site, DataLocation]:
    """Return where tensors have external data; raise ModelError where a location is not to be trusted."""
    return {
        site: location_of(tensor, label(model, site))
        for site, tensor in tensors(model.proto)
        if tensor.data_location == TensorProto.EXTERNAL
    }


def data_files(model: Model) -> list[str]:
    """Return the files with external data, normalised; locations that are not to be trusted are left out."""
    found: dict[str, None] = {}
    for _, tensor in tensors(model.proto):
        if tensor.data_location == TensorProto.EXTERNAL:
            with suppress(ModelError):
                found[location_of(tensor, "").file] = None
    return list(found)


def tensors(proto: ModelProto) -> Iterator[tuple[Site, TensorProto]]:
    """Yield every tensor of a model: in graphs, functions and attributes, sparse ones as their two parts."""
    return _below((), "model", proto, "tensor")


def nodes(proto: ModelProto) -> Iterator[tuple[Site, NodeProto]]:
    """Yield every node of a model, those of graphs inside nodes too."""
    return _below((), "model", proto, "node")


def _below(site: Site, kind: str, here: Message, wanted: str) -> Iterator[tuple[Site, Any]]:
    if kind == wanted:
        yield site, here
    if kind == "tensor":
        return
    known = SCHEMA[kind]
    for descriptor, value in here.ListFields():
        if descriptor.number in known:
            below, repeated = known[descriptor.number]
            for index, child in enumerate(value if repeated else (value,)):
                yield from _below((*site, Step(descriptor.number, index)), below, child, wanted)


def rewritten(model: Model, proto: ModelProto, values: Mapping[Site, Array], files: Mapping[str, memoryview]) -> Model:
    """Return a model of another structure, its tensors given by `values` where `proto` does not hold them.

    `proto` is the new skeleton, from now on not to be changed. `files` are the external data files that differ from
    those in the model's folder, by location.
    """
    tree = Tree(memoryview(proto.SerializeToString()))
    new = Model(proto, model.path, MappingProxyType({}), model.folder, tree, {**model._files, **files}, _bare=True)
    return with_values(new, values)
