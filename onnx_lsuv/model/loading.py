"""A model in memory: the bytes of its file, mapped, and a skeleton of it parsed without its large payloads."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import onnx
from google.protobuf.message import DecodeError, EncodeError  # type: ignore[import-untyped]

from onnx_lsuv.errors import ModelError, UsageError
from onnx_lsuv.model.arrays import Array
from onnx_lsuv.model.kinds import recognise
from onnx_lsuv.model.opening import NotRegularError, mapped, open_regular, release
from onnx_lsuv.model.payload import has_payload
from onnx_lsuv.model.sites import Site
from onnx_lsuv.model.splicing import Edit, splice
from onnx_lsuv.model.wire import Tree, WireError, skeleton

# ONNX Runtime may lag behind: what it gets is written in a version that it reads.
IR_MAX = max(14, onnx.IR_VERSION)


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A model file and the new values for some of its tensors.

    proto:  a skeleton, not to be changed: the model without the payloads of dense tensors of more than HOLLOW_BYTES.
    path:   where the file is: its folder resolved, its last part as given (it may be a symbolic link); None: in memory.
    values: what replaces the stored values of which site.
    folder: where external data are looked up; None for a model in memory that was given none.
    absent: tensors without values, each with what became of these; `values` stands in with ones until they are given.
    """

    proto: onnx.ModelProto = field(repr=False)
    path: Path | None
    values: Mapping[Site, Array] = field(repr=False)
    folder: Path | None
    _tree: Tree = field(repr=False)
    _files: dict[str, memoryview] = field(repr=False)  # external data files mapped so far, by location
    _bare: bool = field(default=False, repr=False)  # the bytes lack the payloads that `values` gives; see `rewritten`
    # What `proto` has changed, see `with_initializers`: initializers, by their sites in `proto`; what nodes
    # read, and nodes that are gone, by their sites in the bytes.
    _added: frozenset[Site] = field(default=frozenset(), repr=False)
    _inputs: Mapping[tuple[Site, int], str] = field(default_factory=dict, repr=False)
    _gone: tuple[Site, ...] = field(default=(), repr=False)
    absent: Mapping[Site, str] = field(default_factory=dict, repr=False)
    _searched: bool = field(default=False, repr=False)  # for what is absent; see `architecture`

    @property
    def name(self) -> str:
        """How messages call the model."""
        return "the model in memory" if self.path is None else str(self.path)


def load(path: str | os.PathLike[str]) -> Model:
    """Load a model file without reading its weights; the file must stay as it is while the model is in use.

    Raises ModelError where the file cannot be read or is no ONNX model.
    """
    given = Path(path)
    try:
        with open_regular(given) as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise ModelError(f"{given} should be an ONNX model, but is empty; get or export it again")
            view = mapped(file)
        resolved = given.parent.resolve() / given.name
    except NotRegularError as error:
        kind = "a folder" if error.is_folder else "not a regular file"
        raise ModelError(f"{given} should be an ONNX model file, but is {kind}") from None
    except FileNotFoundError:
        raise ModelError(f"there is no model file {given}") from None
    except (OSError, ValueError) as error:
        raise ModelError(
            f"the model file {str(given)!r} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from None
    return _model(view, resolved, resolved.parent)


def from_proto(proto: onnx.ModelProto, base_dir: str | os.PathLike[str] | None = None) -> Model:
    """Take a model from memory, as a copy; `base_dir` is the folder of its external data, if it has any.

    Raises UsageError for what is no proto, ModelError where it is no complete model or too large to serialise.
    """
    if not isinstance(proto, onnx.ModelProto):
        raise UsageError(f"an onnx.ModelProto is expected, not {type(proto).__name__}: of bytes, onnx.load_from_string")
    try:
        data = proto.SerializeToString()
    except (EncodeError, ValueError) as error:
        raise ModelError(
            f"the model in memory cannot be serialised ({error}); over 2 GiB, save it with external data and load that"
        ) from None
    return _model(memoryview(data), None, None if base_dir is None else Path(base_dir).resolve())


def respliced(model: Model, edits: Iterable[Edit]) -> Model:
    """Return the model that its bytes are once they are edited, with the same new values and data files."""
    data = memoryview(b"".join(splice(model._tree.view, edits)))
    new = _model(data, model.path, model.folder)
    return replace(model, proto=new.proto, _tree=new._tree)


def given_model(given: object) -> Model:
    """Return a model as it is; raise UsageError for what is none, such as a path."""
    if isinstance(given, Model):
        return given
    within = isinstance(getattr(given, "model", None), Model)
    how = "its field 'model' is one" if within else "onnx_lsuv.load makes one of a file, from_proto one of a proto"
    raise UsageError(f"a Model is expected, not {type(given).__name__}: {how}")


def is_hollow(tensor: onnx.TensorProto) -> bool:
    """Whether a tensor of the skeleton is without its values: left out for their size, or external."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return True
    return 0 not in tensor.dims and not has_payload(tensor)


def digest(path: str | os.PathLike[str]) -> str:
    """Return a file's SHA-256 in hexadecimal, read piece by piece; raise ModelError where it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from None


def _model(view: memoryview, path: Path | None, folder: Path | None) -> Model:
    name = "the model in memory" if path is None else str(path)
    try:
        proto = onnx.ModelProto.FromString(skeleton(view))
    except (WireError, DecodeError) as error:
        reason = f" ({error})" if isinstance(error, WireError) else ""
        what = (
            recognise(bytes(view[:512]), len(view)).model
            or f"truncated, damaged, too deeply nested, or no ONNX model at all{reason}; get or export it again"
        )
        raise ModelError(f"{name} should be an ONNX model, but is {what}") from None
    lacks = None
    if not proto.HasField("graph"):
        lacks = "has no graph"
    elif proto.ir_version < 1:
        lacks = "has no IR version" if proto.ir_version == 0 else f"has IR version {proto.ir_version}"
    elif not proto.opset_import:
        lacks = "does not say which opset it uses"
    elif proto.ir_version > IR_MAX:
        raise ModelError(
            f"{name} has IR version {proto.ir_version}, and {IR_MAX} is the newest that onnx {onnx.__version__} knows: "
            "upgrade the packages onnx and onnxruntime, or export the model with an older IR version"
        )
    if lacks:
        kind = recognise(bytes(view[:512]), len(view)).model
        what = f"is {kind}" if kind else f"it {lacks}: it is truncated, or no ONNX model; get or export it again"
        raise ModelError(f"{name} should be an ONNX model, but {what}")
    for inner in _names(proto):
        if not isinstance(inner, str):  # what protobuf gives for a string that is none
            raise ModelError(f"{name} is damaged: the name {inner[:80]!r} in it is not UTF-8; get or export it again")
    values: dict[Site, Any] = {}
    release(view)
    return Model(proto, path, MappingProxyType(values), folder, Tree(view), {})


def _names(model: onnx.ModelProto) -> Iterator[str | bytes]:
    """Yield the names that opsets, values, nodes, attributes and operators have, in all graphs and functions."""
    yield from (imported.domain for imported in model.opset_import)
    scopes: list[onnx.GraphProto | onnx.FunctionProto] = [model.graph, *model.functions]
    while scopes:
        scope = scopes.pop()
        yield scope.name
        if isinstance(scope, onnx.GraphProto):
            yield from (one.name for one in scope.initializer)
            yield from (value.name for value in (*scope.input, *scope.output, *scope.value_info))
        else:
            yield from (*scope.input, *scope.output, scope.domain, scope.overload)
            yield from (imported.domain for imported in scope.opset_import)
        for node in scope.node:
            yield from (*node.input, *node.output, node.name, node.op_type, node.domain, node.overload)
            for attribute in node.attribute:
                yield from (attribute.name, attribute.ref_attr_name)
                if attribute.HasField("g"):
                    scopes.append(attribute.g)
                scopes.extend(attribute.graphs)
