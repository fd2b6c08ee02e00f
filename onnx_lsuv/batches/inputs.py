"""The graph inputs that need data, and the words in which messages speak of them.

An input that an initializer of the same name gives a default (every weight in IR 3, overridable ones since IR 4) needs
no data. ONNX's types other than tensors (sequence, map, optional, sparse tensor; onnx.proto, `TypeProto`) cannot be
given as one array.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx

from onnx_lsuv.errors import ModelError, listing, meant, quote, shorten

AXES = 64  # that a NumPy array can have, and so data
SHOWN = 12  # lengths of a shape that a message shows


@dataclass(frozen=True, slots=True)
class Input:
    """One graph input that needs data; a dimension is an int where fixed, a str where named, None where unknown."""

    name: str
    elem_type: int
    shape: tuple[int | str | None, ...] | None  # None: the rank is unknown
    counts: bool = True  # False: the first axis, of a fixed length, surely counts something else than samples

    @property
    def dtype(self) -> np.dtype[Any]:
        """The NumPy dtype that ONNX Runtime takes; text is an object array of str."""
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(self.elem_type))

    @property
    def type_name(self) -> str:
        """The element type as ONNX text writes it, such as "float" or "int64"."""
        return str(onnx.TensorProto.DataType.Name(self.elem_type)).lower()

    @property
    def fixed(self) -> int | None:
        """The length to which the model fixes the first axis, None where it is dynamic or absent."""
        return self.shape[0] if self.shape and isinstance(self.shape[0], int) else None

    def samples_in(self, shape: Sequence[int]) -> int:
        """Return how many samples an array of that shape has, of the input's rank and above 0."""
        return shape[0] if self.counts or self.fixed is None else -(-shape[0] // self.fixed)


def inputs_of(graph: onnx.GraphProto) -> tuple[Input, ...]:
    """Return the inputs of the graph that no initializer gives a value; raises ModelError where one is no tensor."""
    given = {tensor.name for tensor in graph.initializer}
    given.update(sparse.values.name for sparse in graph.sparse_initializer)
    found: dict[str, Input] = {}
    for value in graph.input:
        if value.name in given:
            continue
        if value.name in found:
            raise ModelError(f"the model has two inputs named {quote(value.name)}; each needs its own name")
        found[value.name] = _input(value)
    firsts = _first_lengths(graph)
    return tuple(replace(each, counts=_counts(each, firsts)) for each in found.values())


def _first_lengths(graph: onnx.GraphProto) -> set[int | str | None]:
    """Return the first length of each output, but for scalars, which may be means; None where it is not known."""
    tensors = [value.type.tensor_type for value in graph.output]
    dims = [list(tensor.shape.dim)[:1] if tensor.HasField("shape") else [None] for tensor in tensors]
    return {_dim(first) if first is not None else None for some in dims for first in some}


def _counts(each: Input, firsts: Set[int | str | None]) -> bool:
    """Whether the first axis may count samples: one of fixed length only where an output begins with so many, too."""
    fixed = each.fixed
    return fixed is None or not firsts or any(not isinstance(one, int) or one % fixed == 0 for one in firsts)


def _input(value: onnx.ValueInfoProto) -> Input:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        what = "no type" if kind is None else f"the type {kind.removesuffix('_type').replace('_', ' ')}"
        raise ModelError(
            f"input {quote(value.name)} of the model has {what}, but only tensor inputs can be given calibration data; "
            "export the model with tensor inputs"
        )
    tensor = value.type.tensor_type
    if tensor.elem_type not in onnx.TensorProto.DataType.values() or tensor.elem_type == onnx.TensorProto.UNDEFINED:
        raise ModelError(
            f"input {quote(value.name)} of the model has the element type {tensor.elem_type}, which ONNX "
            f"{onnx.__version__} does not define; export the model again or upgrade the onnx package"
        )
    if not tensor.HasField("shape"):
        return Input(value.name, tensor.elem_type, None)
    if len(tensor.shape.dim) > AXES:
        raise ModelError(
            f"input {quote(value.name)} of the model has {len(tensor.shape.dim)} axes, but arrays have at most {AXES}, "
            "so no data can ever fit; export the model with fewer"
        )
    shape = tuple(_dim(dim) for dim in tensor.shape.dim)
    if shape and shape[0] == 0:
        raise ModelError(
            f"input {quote(value.name)} of the model has a first axis of length 0, so no data can ever fit; "
            "export the model with a batch axis of at least 1"
        )
    return Input(value.name, tensor.elem_type, shape)


def _dim(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    if dim.HasField("dim_value"):
        # Some exporters write -1 for "any"; ONNX Runtime reads it so too.
        return dim.dim_value if dim.dim_value >= 0 else None
    # protobuf gives a text that is no UTF-8 as bytes; only people read the name.
    name: str | bytes = dim.dim_param
    return (name.decode(errors="replace") if isinstance(name, bytes) else name) or None


def closest(name: str, inputs: Sequence[Input]) -> str:
    """Return the clause that a sentence about an unknown input ends with: what there is, and what was perhaps meant."""
    if not inputs:
        return "the model has no inputs that need data"
    names = [each.name for each in inputs]
    plural = "s that need data are" if len(inputs) > 1 else " that needs data is"
    return f"the input{plural} {listing(names)}{meant(name, names)}"


def show_shape(shape: Sequence[int | str | None] | None) -> str:
    """Write a shape as ONNX text does: [N, 3, ?, 224]."""
    if shape is None:
        return "any shape"
    shown = ["?" if dim is None else quote(dim)[1:-1] for dim in shape]
    if len(shown) > SHOWN:
        shown[SHOWN // 2 : -SHOWN // 2] = [f"… {len(shown) - SHOWN} more"]
    return shorten("[" + ", ".join(shown) + "]")
