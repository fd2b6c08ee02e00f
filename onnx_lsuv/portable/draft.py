"""The model while it changes: the skeleton as a protobuf of its own, and the values that its tensors stand for.

A tensor carries a mark in its metadata, so it can be moved, copied and inlined with the messages around it; its values
are looked up only when they are needed. Two tensors with one mark are one tensor. A node that makes a constant without
a tensor carries one too, which says where that constant was.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnx_lsuv.errors import OutputError
from onnx_lsuv.lsuv.scratch import Scratch
from onnx_lsuv.model import (
    HOLLOW_BYTES,
    Array,
    Model,
    Site,
    all_names,
    is_hollow,
    message,
    nodes,
    read,
    rewritten,
    sites,
    tensors,
    unused,
)
from onnx_lsuv.model.external import aligned, place_outside
from onnx_lsuv.portable.scopes import drop, is_op, remove_nodes
from onnx_lsuv.program.program import DEFAULT_DOMAINS

_MARK = "onnx_lsuv.mark"


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was done to the model."""

    what: str
    where: str  # the name of a node, a value or a domain
    why: str


@dataclass(slots=True)
class Draft:
    """A model under way."""

    model: Model
    proto: ModelProto
    scratch: Scratch
    steps: list[Step] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    marks: dict[Site, int] = field(default_factory=dict)
    homes: list[Site | None] = field(default_factory=list)  # by mark: where the tensor, or what a node makes, was
    new: dict[int, Array] = field(default_factory=dict)  # by mark: what replaces the stored values
    aliases: dict[tuple[str, int], str] = field(default_factory=dict)  # by reader: the name that it read a tensor under
    copies: dict[str, str] = field(default_factory=dict)  # new initializers, and the tensor that each was one with
    taken: set[str] = field(default_factory=set)  # names of values, once `fresh` was asked

    @property
    def graph(self) -> GraphProto:
        """The main graph."""
        return self.proto.graph

    @property
    def opset(self) -> int:
        """The version of ONNX's own operator set."""
        return next((o.version for o in self.proto.opset_import if o.domain in DEFAULT_DOMAINS), 0)

    def did(self, what: str, where: str, why: str) -> None:
        """Enter a step."""
        self.steps.append(Step(what, where, why))

    def values(self, tensor: TensorProto) -> Array:
        """Return the values that a tensor stands for."""
        mark = mark_of(tensor)
        if mark in self.new:
            return self.new[mark]
        home = self.homes[mark]
        assert home is not None
        return read(self.model, home)

    def is_new(self, tensor: TensorProto) -> bool:
        """Say whether a tensor has other values than are stored."""
        return mark_of(tensor) in self.new

    def put(self, tensor: TensorProto, values: Array) -> None:
        """Give a tensor other values, and with them their shape and type."""
        tensor.dims[:] = values.shape
        tensor.data_type = helper.np_dtype_to_tensor_dtype(values.dtype)
        self.new[mark_of(tensor)] = self.scratch.keep(values)

    def tensor(self, name: str, values: Array, home: Site | None = None) -> TensorProto:
        """Return a new tensor; `home` is the place in the original model that it stands for."""
        tensor = TensorProto(name=name)
        self.mark(tensor, home)
        self.put(tensor, values)
        return tensor

    def home(self, node: NodeProto) -> Site | None:
        """Return where what a node makes without a tensor was in the original model."""
        return next((self.homes[int(e.value)] for e in node.metadata_props if e.key == _MARK), None)

    def mark(self, message: TensorProto | NodeProto, home: Site | None) -> None:
        """Give a tensor or a node the next mark."""
        mark = len(self.homes)
        self.homes.append(home)
        if home is not None:
            self.marks[home] = mark
        message.metadata_props.add(key=_MARK, value=str(mark))

    def add(self, wanted: str, values: Array) -> TensorProto:
        """Return a new initializer of the main graph, named as wanted or with a number behind it."""
        tensor: TensorProto = self.graph.initializer.add()
        tensor.CopyFrom(self.tensor(self.fresh(wanted), values))
        return tensor

    def fresh(self, wanted: str) -> str:
        """Return a name that no value has yet: the wanted one, or with a number behind it."""
        self.taken = self.taken or all_names(self.graph)
        name = unused(wanted, self.taken, "_")
        self.taken.add(name)
        return name

    def initializers(self) -> dict[str, TensorProto]:
        """Return the main graph's dense initializers by name."""
        return {tensor.name: tensor for tensor in self.graph.initializer}


def mark_of(tensor: TensorProto) -> int:
    """Return a tensor's mark."""
    return next(int(entry.value) for entry in tensor.metadata_props if entry.key == _MARK)


def open_draft(model: Model, scratch: Scratch) -> Draft:
    """Return a draft of a model, its new values in place."""
    proto = ModelProto()
    proto.CopyFrom(model.proto)
    draft = Draft(model, proto, scratch)
    for site, tensor in tensors(proto):
        draft.mark(tensor, site)
    for site, node in nodes(proto):
        place = _place_of(node, site)
        if place is not None:
            draft.mark(node, place)
    copy = replace(model, proto=proto)
    gone: list[tuple[GraphProto, NodeProto]] = []
    for site, value in model.values.items():
        here = message(copy, site)
        if isinstance(here, TensorProto):
            draft.new[draft.marks[site]] = value
        elif isinstance(here, AttributeProto):
            tensor = draft.tensor("", value, site)
            here.Clear()
            here.CopyFrom(helper.make_attribute("value", tensor))
        else:
            node, graph = here, message(copy, site[:-1])
            graph.initializer.append(draft.tensor(node.output[0], value, site))
            gone.append((graph, node))
    for graph, node in gone:
        remove_nodes(graph, [node])
    return draft


def _place_of(node: NodeProto, site: Site) -> Site | None:
    """Return the place of a constant that a node makes without a tensor, as a program says it."""
    if is_op(node, "ConstantOfShape"):
        return site
    if is_op(node, "Constant"):
        for j, attribute in enumerate(node.attribute):
            if attribute.name.startswith("value_") and not attribute.ref_attr_name:
                return (*site, sites.Step(sites.NODE_ATTRIBUTE, j))
    return None


def close_draft(draft: Draft) -> tuple[Model, Mapping[Site, Site]]:
    """Return the model that a draft has become, and where in the original each of its constants stood."""
    values: dict[Site, Array] = {}
    replaced: dict[Site, Array] = {}  # of external data
    origins: dict[Site, Site] = {}
    outside: list[TensorProto] = []
    resized = False  # or new, so that the data file has no place for it
    for site, tensor in tensors(draft.proto):
        mark = mark_of(tensor)
        home = draft.homes[mark]
        if home is not None:
            origins[site] = home
        if tensor.data_location == TensorProto.EXTERNAL:
            outside.append(tensor)
            if mark in draft.new and home is not None:
                replaced[site] = draft.new[mark]
                new = home in draft.model._added
                resized |= new or draft.new[mark].nbytes != read(draft.model, home).nbytes
        elif mark in draft.new or is_hollow(tensor):
            array = draft.values(tensor)
            if not _takes_in(tensor, array):
                values[site] = array
    files = _one_file(draft, outside) if resized else {}
    for _, tensor in tensors(draft.proto):
        drop(tensor.metadata_props, lambda entry: entry.key == _MARK)
    for site, node in nodes(draft.proto):
        home, place = draft.home(node), _place_of(node, site)
        if home is not None and place is not None:
            origins[place] = home
        drop(node.metadata_props, lambda entry: entry.key == _MARK)
    return rewritten(draft.model, draft.proto, values if resized else values | replaced, files), origins


def _takes_in(tensor: TensorProto, array: Array) -> bool:
    """Take the payload off a tensor, or put a small one in; return whether the tensor has its values now."""
    for name in ("float_data", "int32_data", "string_data", "int64_data", "raw_data", "double_data", "uint64_data"):
        tensor.ClearField(name)
    if tensor.data_type == TensorProto.STRING:
        tensor.string_data.extend(str(each).encode() for each in array.reshape(-1))
    elif array.nbytes <= HOLLOW_BYTES:
        tensor.raw_data = numpy_helper.from_array(array).raw_data
    return tensor.data_type == TensorProto.STRING or array.nbytes <= HOLLOW_BYTES


def _one_file(draft: Draft, outside: Sequence[TensorProto]) -> dict[str, memoryview]:
    """Write all external data anew, to a file that goes with its mapping, under the location of the first tensor.

    What was float16 takes twice the room now, so the old places do not fit; and what was parted has none.
    """
    location = os.path.normpath([e.value for e in outside[0].external_data if e.key == "location"][-1])
    places: dict[int, tuple[int, int]] = {}
    folder = draft.scratch.folder
    try:
        with tempfile.TemporaryFile(dir=folder, prefix=".onnx-lsuv-") as file:
            for tensor in outside:
                mark = mark_of(tensor)
                if mark not in places:
                    file.write(bytes(aligned(file.tell()) - file.tell()))
                    data = numpy_helper.from_array(draft.values(tensor)).raw_data
                    places[mark] = file.tell(), len(data)
                    file.write(data)
                place_outside(tensor, location, *places[mark])
            file.flush()
            mapped = np.memmap(file, dtype=np.uint8, mode="r") if file.tell() else np.zeros(0, np.uint8)
    except OSError as error:
        raise OutputError(
            f"scratch space was needed in {str(folder or tempfile.gettempdir())!r} for external data as float32: "
            f"{error.strerror}; free some"
        ) from error
    return {location: mapped.data}
