"""A model's floating-point tensors as a file of named arrays, for a training framework that reads no ONNX.

    .safetensors   8 bytes little-endian N, N bytes of JSON {name: {dtype, shape, data_offsets}}, then the arrays' bytes
                   without gaps (https://github.com/huggingface/safetensors). The JSON ends in spaces up to a multiple
                   of 8 and wider types come first, so that every array is aligned.
    .npz           a zip archive, nothing compressed, of `<name>.npy` (numpy.lib.format)

An initializer of the main graph has its own name, which is the state_dict name where the exporter kept it. One of an
inner graph has the path to it in front, `<node>.<attribute>/<name>`, one of a function `function:<name>/`. Where no
initializer can be (function bodies, inner graphs below IR version 4), Constants of more than one value are taken.
The arrays are written one after the other, so that no second copy of them is in memory; equal input gives equal bytes.
"""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import ml_dtypes
import numpy as np
import onnx

from onnx_lsuv.errors import OutputError, quote
from onnx_lsuv.model import sites
from onnx_lsuv.model.absent import check_whole
from onnx_lsuv.model.arrays import Array, to_raw
from onnx_lsuv.model.atomic import Staging, staging
from onnx_lsuv.model.edits import promoted
from onnx_lsuv.model.loading import Model, given_model
from onnx_lsuv.model.names import unused
from onnx_lsuv.model.sites import Site, Step
from onnx_lsuv.model.splicing import Piece
from onnx_lsuv.model.targets import Output, Read, check_outputs, check_suffix, named, read_by
from onnx_lsuv.model.values import form_of, holds_initializers, read

# The types of .safetensors, by its words for them.
DTYPES: dict[str, Any] = {
    **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1"},
    **{"U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?", "C64": "<c8"},
    **{"BF16": ml_dtypes.bfloat16, "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2},
}
_WORDS = {np.dtype(dtype).name: word for word, dtype in DTYPES.items()}
FLOATS = frozenset({"float64", "float32", "float16", "bfloat16"})
_CHUNK = 1 << 24
_NAME_BYTES = 1 << 15  # zip has 16 bits for a name's length


class _Entry(NamedTuple):
    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    load: Callable[[], Array]

    @property
    def size(self) -> int:
        """The number of bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def save_weights(model: Model, path: str | os.PathLike[str], *, force: bool = False) -> Path:
    """Write every floating-point initializer, with its new values, to a .safetensors or .npz file; return its path.

    Whole or not at all, as `save` does; an existing file is replaced only with `force`. Types are kept: float16, 32,
    64, and in .safetensors bfloat16. Raises UsageError for another kind of file, OutputError where the file cannot be
    written or cannot hold a tensor, ModelError where a stored tensor cannot be read.
    """
    with staging(force) as staged:
        target = stage_weights(staged, given_model(model), path)
        staged.commit()
    return target


def named_arrays(model: Model) -> dict[str, Array]:
    """Return what `save_weights` writes as arrays of the caller's own, of any float type."""
    check_whole(given_model(model))
    return {entry.name: np.array(entry.load()).reshape(entry.shape) for entry in _entries(model)}


def stage_weights(staged: Staging, model: Model, path: str | os.PathLike[str]) -> Path:
    """Write the file of `save_weights`, which is put into place with all others; return where."""
    check_whole(model)
    return _staged(staged, _entries(model), path, read_by(model))


def stage_arrays(
    staged: Staging, arrays: Mapping[str, Array], path: str | os.PathLike[str], read: Iterable[Read]
) -> Path:
    """Write arrays by name to such a file, which may not be one of those that are read; return where."""
    return _staged(staged, _entries_of(arrays), path, read)


def check_weights(model: Model, path: str | os.PathLike[str]) -> None:
    """Raise UsageError or OutputError where the file could not give back each tensor under its own name."""
    _check(_entries(model), path)


def _staged(staged: Staging, entries: list[_Entry], path: str | os.PathLike[str], read: Iterable[Read]) -> Path:
    _check(entries, path)
    target = check_outputs([Output(named(path))], read, force=staged.force)[0]
    return staged.add(target.parent, target.name, _WRITERS[Path(path).suffix.lower()](entries))


def _entries_of(arrays: Mapping[str, Array]) -> list[_Entry]:
    return [_Entry(name, each.dtype, each.shape, partial(arrays.__getitem__, name)) for name, each in arrays.items()]


def _entries(model: Model) -> list[_Entry]:
    found: dict[str, _Entry] = {}
    for label, site in _sites(model):
        dtype, shape = form_of(model, site)
        if dtype.name not in FLOATS:
            continue
        name, shape = unused(label, found), model.values[site].shape if shape is None else shape
        found[name] = _Entry(name, dtype, shape, partial(read, model, site))
    return list(found.values())


def _sites(model: Model) -> Iterator[tuple[str, Site]]:
    """Yield the name and site of every initializer, of any type but strings, and of what becomes or stands for one."""
    moved = frozenset(promoted(model))
    yield from _scope(model, model.proto.graph, sites.MAIN_GRAPH, "", moved)
    for i, function in enumerate(model.proto.functions):
        yield from _scope(model, function, (Step(sites.MODEL_FUNCTION, i),), f"function:{function.name}/", moved)


def _scope(
    model: Model, here: onnx.GraphProto | onnx.FunctionProto, site: Site, prefix: str, moved: frozenset[Site]
) -> Iterator[tuple[str, Site]]:
    if isinstance(here, onnx.GraphProto):
        for i, tensor in enumerate(here.initializer):
            if tensor.data_type != onnx.TensorProto.STRING:
                yield prefix + tensor.name, (*site, Step(sites.GRAPH_INITIALIZER, i))
    labels: set[str] = set()
    for i, node in enumerate(here.node):
        place = (*site, Step(sites.GRAPH_NODE if isinstance(here, onnx.GraphProto) else sites.FUNCTION_NODE, i))
        made = next((name for name in node.output if name), f"{node.op_type}_{i}")
        label = node.name or made
        if label in labels:
            label = f"{label}#{made}"
        labels.add(label)
        if place in moved:
            yield prefix + made, place
        for j, attribute in enumerate(node.attribute):
            value: Site = (*place, Step(sites.NODE_ATTRIBUTE, j))
            if attribute.HasField("g"):
                inner, path = (*value, Step(sites.ATTRIBUTE_GRAPH)), f"{prefix}{label}.{attribute.name}/"
                yield from _scope(model, attribute.g, inner, path, moved)
            elif node.op_type == "Constant" and node.domain in ("", "ai.onnx") and not attribute.ref_attr_name:
                if attribute.name == "value" and attribute.t.data_type != onnx.TensorProto.STRING:
                    value, size = (*value, Step(sites.ATTRIBUTE_TENSOR)), math.prod(attribute.t.dims)
                elif attribute.name in ("value_float", "value_floats"):
                    size = len(attribute.floats)
                else:
                    continue
                if value in moved or (size > 1 and not holds_initializers(model, place)):
                    yield prefix + made, value


def _check(entries: list[_Entry], path: str | os.PathLike[str]) -> None:
    suffix, target = check_suffix(path, "weights are", WEIGHTS), quote(path)
    names = {entry.name for entry in entries}
    for entry in entries:
        name = entry.name
        if suffix == ".safetensors":
            if entry.dtype.name not in _WORDS:
                raise OutputError(f"{target} cannot hold {quote(name)}: .safetensors knows no {entry.dtype.name}")
            if name == "__metadata__":
                raise OutputError(f"{target} cannot hold a tensor called {name!r}, a word of the format; write an .npz")
            continue
        if entry.dtype.name == "bfloat16":
            raise OutputError(f"{target} cannot hold {quote(name)}: .npz knows no bfloat16; write a .safetensors file")
        # numpy.load reads "a.npy" as the member of that name before it looks for "a.npy.npy".
        taken = name.endswith(".npy") and name.removesuffix(".npy") in names
        parts = name.replace("\\", "/").split("/")
        if taken or "\0" in name or "\\" in name or ".." in parts or len(name.encode()) > _NAME_BYTES:
            raise OutputError(
                f"{target} cannot hold a tensor called {quote(name)}: as a file's name in an archive it would "
                "be read as another, or lead out of a folder; write a .safetensors file"
            )


def _safetensors(entries: list[_Entry]) -> Iterator[Piece]:
    entries = sorted(entries, key=lambda entry: -entry.dtype.itemsize)
    header, end = {}, 0
    for entry in entries:
        about = {"dtype": _WORDS[entry.dtype.name], "shape": list(entry.shape)}
        header[entry.name] = about | {"data_offsets": [end, end := end + entry.size]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for entry in entries:
        yield to_raw(entry.load())


def _npz(entries: list[_Entry]) -> Iterator[Piece]:
    sink = _Sink()
    with zipfile.ZipFile(cast(Any, sink), "w", zipfile.ZIP_STORED) as archive:
        for entry in entries:
            # ZipInfo's own date, 1980, instead of the clock's keeps equal input giving equal bytes.
            with archive.open(zipfile.ZipInfo(f"{entry.name}.npy"), "w", force_zip64=True) as member:
                about = {"descr": entry.dtype.newbyteorder("<").str, "fortran_order": False, "shape": entry.shape}
                np.lib.format.write_array_header_1_0(member, about)
                data = to_raw(entry.load())
                for at in range(0, len(data), _CHUNK):
                    member.write(data[at : at + _CHUNK])
                    yield from sink.take()
            yield from sink.take()
    yield from sink.take()


class _Sink(list[bytes]):
    """What zipfile writes to: a stream without a way back."""

    def write(self, data: bytes | memoryview) -> int:
        self.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing waits."""

    def take(self) -> list[bytes]:
        """Return what was written since the last time."""
        taken = list(self)
        self.clear()
        return taken


_WRITERS: dict[str, Callable[[list[_Entry]], Iterator[Piece]]] = {".safetensors": _safetensors, ".npz": _npz}
WEIGHTS = tuple(_WRITERS)
