"""What a file lacks: the values of tensors that have dims alone, and external data none of whose files is there.

An architecture without weights is a model all the same. Until its tensors get values, ones stand in for them that take
no memory, and `Model.absent` says which they are: everything that reads a model finds constants of known dims, and
nothing is saved before all have values of their own.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
from onnx import NodeProto, TensorProto

from onnx_lsuv.errors import ModelError, listing, quote
from onnx_lsuv.model import sites
from onnx_lsuv.model.arrays import dtype_of, raw_size, shape_of
from onnx_lsuv.model.external import DataLocation, aligned, place_outside
from onnx_lsuv.model.loading import Model, respliced
from onnx_lsuv.model.names import unused
from onnx_lsuv.model.sites import MAIN_GRAPH, Site
from onnx_lsuv.model.splicing import Edit
from onnx_lsuv.model.values import data_files, externals, form_of, is_bare, label, message, tensors, with_values
from onnx_lsuv.model.wire import find

INLINE = 2**31 - 2**24  # bytes that a model file may have, but for what else it grows by


def lacking(model: Model) -> dict[Site, str]:
    """Return the tensors of the main graph, and of graphs in it, that have no values in any file, and why each.

    Raises ModelError where external data lie where none may.
    """
    found: dict[Site, str] = {}
    every = list(tensors(model.proto))
    external = any(tensor.data_location == TensorProto.EXTERNAL for _, tensor in every)
    outside = externals(model) if external and _absent_files(model) else {}
    if not all(_holds_constant(model, site) for site in outside):
        outside = {}  # a function's too, which nothing could be drawn for
    for site, tensor in every:
        if site in model.values or 0 in tensor.dims or not _holds_constant(model, site):
            continue
        if site in outside:
            found[site] = f"{quote(outside[site].file)} is not there"
        elif tensor.data_location != TensorProto.EXTERNAL and is_bare(model, site):
            found[site] = "dims without data"
    return found


def _absent_files(model: Model) -> list[str]:
    """Return the files with external data, where none of them is there; a set that is not whole is a mistake."""
    files = data_files(model)
    folder = model.folder
    if folder is None or any(file in model._files or os.path.lexists(folder / file) for file in files):
        return []
    return files


def _holds_constant(model: Model, site: Site) -> bool:
    """Whether a tensor is an initializer of a graph, or what a Constant gives."""
    if site[:1] != MAIN_GRAPH:
        return False
    node = message(model, site[:-2])
    return site[-1].field == sites.GRAPH_INITIALIZER or (isinstance(node, NodeProto) and node.op_type == "Constant")


def with_stand_ins(model: Model, absent: Mapping[Site, str]) -> Model:
    """Return the model with ones in the place of tensors without values, which `absent` gives with the reason.

    An external data file that is not there will be as long as its tensors need, and what would make the model file too
    large for protobuf goes to such a file. Raises ModelError where a size is absurd.
    """
    inline = [site for site in absent if is_bare(model, site)]
    if len(model._tree.view) + sum(_size(model, site) for site in inline) > INLINE:
        model = _moved_outside(model, inline)
    sizes: dict[str, int] = {}
    for site, data in externals(model).items():
        if site in absent and data.file not in model._files:
            sizes[data.file] = max(sizes.get(data.file, 0), _end(data, label(model, site)))
    try:
        files = {file: np.zeros(size, np.uint8).data for file, size in sizes.items()}  # whose pages nobody touches
    except (MemoryError, ValueError):
        raise ModelError(
            f"{listing(sizes)} of {model.name} would have {max(sizes.values())} bytes, more than this machine can "
            "make: the model is broken, or too large for it"
        ) from None
    ones = {}
    for site in absent:
        dtype, shape = form_of(model, site)
        ones[site] = np.broadcast_to(np.ones((), dtype), shape or ())
    changed = with_values(replace(model, _files={**model._files, **files}), ones)
    return replace(changed, absent={**model.absent, **absent})


def _size(model: Model, site: Site) -> int:
    dtype, shape = form_of(model, site)
    return raw_size(shape or (), dtype)


def _end(data: DataLocation, where: str) -> int:
    return data.offset + raw_size(shape_of(data.tensor, where), dtype_of(data.tensor.data_type, where))


def _moved_outside(model: Model, inline: Iterable[Site]) -> Model:
    """Return the model with tensors that have no values as external ones, in a file that nothing is called like."""
    location = unused(f"{model.path.name if model.path else 'weights'}.data", data_files(model))
    edits, at = [], 0
    for site in inline:
        place, size = TensorProto(), _size(model, site)
        place_outside(place, location, at, size)
        span = find(model._tree, site)[-1]
        edits.append(Edit(span.end, span.end, (place.SerializeToString(),), span))
        at = aligned(at + size)
    return respliced(model, edits)


def check_whole(model: Model) -> None:
    """Raise ModelError for a model some of whose tensors have no values, which can be neither saved nor run."""
    if model.absent:
        names = (getattr(message(model, site), "name", "") or label(model, site) for site in model.absent)
        raise ModelError(f"{model.name} has no values for {listing(names, 3)}: initialise it first, which makes them")
