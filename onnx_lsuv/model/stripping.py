"""A model without some of its inputs, or without the values of some tensors; all else stays, byte for byte.

A Constant that gives a list of floats becomes one that gives a tensor, which has dims. External data of the tensors
that keep their values come into the file, so that it stands alone. What `additions` added is there from then on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import replace
from types import MappingProxyType

from onnx import AttributeProto, TensorProto

from onnx_lsuv.model import sites
from onnx_lsuv.model.arrays import to_raw
from onnx_lsuv.model.edits import initializer_edits, node_edits
from onnx_lsuv.model.loading import Model, respliced
from onnx_lsuv.model.sites import MAIN_GRAPH, Site
from onnx_lsuv.model.splicing import Edit, with_field
from onnx_lsuv.model.values import message, read, spans_of, tensors
from onnx_lsuv.model.wire import PAYLOAD, RAW_DATA, runs

# A tensor's payload, and where it is if that is another file.
_VALUES = PAYLOAD | {sites.TENSOR_EXTERNAL, TensorProto.DATA_LOCATION_FIELD_NUMBER}


def without_payloads(model: Model, bare: Mapping[Site, Sequence[int]]) -> Model:
    """Return the model without the values at some sites, which are tensors or float(s) attributes, each with its dims.

    Raises ModelError where external data that stay cannot be read.
    """
    left = {*bare, *model._added}
    edits, values = node_edits(model), {site: value for site, value in model.values.items() if site not in left}
    for site, tensor in tensors(model.proto):
        if site in model._added:
            form = TensorProto(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type)
            edits += initializer_edits(model, site[:-1], form, None if site in bare else model.values[site])
        elif site in bare:
            edits += _dropped(model, site, _VALUES)
        elif tensor.data_location == TensorProto.EXTERNAL:
            end = spans_of(model, site)[-1]
            edits += [*_dropped(model, site, _VALUES), with_field(end, RAW_DATA, to_raw(read(model, site)))]
            values.pop(site, None)
    for site, dims in bare.items():
        attribute = message(model, site)
        if isinstance(attribute, AttributeProto):
            tensor = TensorProto(dims=dims, data_type=TensorProto.FLOAT)
            made = AttributeProto(name="value", type=AttributeProto.TENSOR, t=tensor, doc_string=attribute.doc_string)
            (span,) = spans_of(model, site)
            edits.append(Edit(span.start, span.end, (made.SerializeToString(),), span))
    new = respliced(
        replace(model, values=MappingProxyType(values), absent=MappingProxyType({}), _searched=False), edits
    )
    return replace(new, _added=frozenset(), _inputs=MappingProxyType({}), _gone=())


def without_empty_payloads(model: Model) -> Model:
    """Return the model without payloads that are there and empty, as Polygraphy's weight-strip leaves them."""
    found = [
        site
        for site, tensor in tensors(model.proto)
        if tensor.HasField("raw_data") and not tensor.raw_data and 0 not in tensor.dims and site not in model.values
    ]
    return respliced(model, [edit for site in found for edit in _dropped(model, site, {RAW_DATA})]) if found else model


def without_inputs(model: Model, names: Collection[str]) -> Model:
    """Return the model without some of its inputs."""
    inputs = zip(_dropped(model, MAIN_GRAPH, {sites.GRAPH_INPUT}), model.proto.graph.input, strict=True)
    return respliced(model, [edit for edit, value in inputs if value.name in names])


def _dropped(model: Model, site: Site, numbers: Set[int]) -> list[Edit]:
    """Return the edits that leave out all fields of these numbers of a message."""
    return [
        Edit(one.tag, end, (), span)
        for span in spans_of(model, site)
        for one, end in runs(model._tree.view, span.start, span.end)
        if one.number in numbers
    ]
