"""A model without the values of some tensors: their names, dims and types stay, and all else, byte for byte.

A Constant that gives a list of floats becomes one that gives a tensor, which has dims. External data of the tensors
that keep their values come into the file, so that it stands alone. What `additions` added is there from then on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from onnx import AttributeProto, TensorProto

from onnx_lsuv.model import sites
from onnx_lsuv.model.arrays import to_raw
from onnx_lsuv.model.edits import initializer_edits, node_edits
from onnx_lsuv.model.loading import Model, respliced
from onnx_lsuv.model.sites import Site
from onnx_lsuv.model.splicing import Edit
from onnx_lsuv.model.values import message, read, spans_of, tensors
from onnx_lsuv.model.wire import BYTES, PAYLOAD, RAW_DATA, runs, varint

_OUTSIDE = frozenset({sites.TENSOR_EXTERNAL, TensorProto.DATA_LOCATION_FIELD_NUMBER})


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
            edits += _without(model, site)
        elif tensor.data_location == TensorProto.EXTERNAL:
            raw, end = to_raw(read(model, site)), spans_of(model, site)[-1]
            field = varint(RAW_DATA << 3 | BYTES) + varint(len(raw)), raw
            edits += [*_without(model, site), Edit(end.end, end.end, field, end)]
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


def _without(model: Model, site: Site) -> list[Edit]:
    """Return the edits that take a tensor's payload away, and where it is if that is another file."""
    return [
        Edit(one.tag, end, (), span)
        for span in spans_of(model, site)
        for one, end in runs(model._tree.view, span.start, span.end)
        if one.number in PAYLOAD or one.number in _OUTSIDE
    ]
