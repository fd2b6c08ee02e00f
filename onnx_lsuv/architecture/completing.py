"""A file without weights becomes a model whose constants wait for values."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from onnx import TensorProto

from onnx_lsuv.architecture.places import uses_of
from onnx_lsuv.architecture.training import refuse_training
from onnx_lsuv.architecture.unlisted import with_unlisted
from onnx_lsuv.errors import ModelError, UsageError, listing, meant, quote
from onnx_lsuv.model import Model, Site, given_model, lacking, let_go, message, with_stand_ins, without_empty_payloads
from onnx_lsuv.program.program import FLOAT_TYPES


def complete(
    model: Model,
    data: Collection[str] | Callable[[], Collection[str]] = (),
    shapes: Mapping[str, Sequence[int]] = MappingProxyType({}),
) -> Model:
    """Return a model in which every tensor without values is a constant that waits for them; any other as it is.

    `plan` and `initialize` do it where it was not done; a second time does nothing. `Model.absent` of the result says
    which tensors wait.

    Args:
        model: from `load` or `from_proto`.
        data: inputs that data are given for, which are no weights; or what finds them, called where that is in doubt.
        shapes: of inputs, and of tensors that no shape is known of.

    Raises:
        UsageError: a shape is for nothing that could have it.
        ModelError: a tensor's shape is not known, or it holds settings, which cannot be made; or the graph trains.
    """
    model = given_model(model)
    if model._searched:
        return model
    model = without_empty_payloads(model)
    uses = uses_of(model.proto.graph)
    refuse_training(model.name, uses.nodes)
    absent = lacking(model)
    _refuse_settings(model, absent)
    if absent:
        model = with_stand_ins(model, absent)
    model = with_unlisted(model, uses, data, shapes)
    _check_shapes(model, shapes)
    let_go(model)  # of the pages around what was looked at
    return replace(model, _searched=True)


def _refuse_settings(model: Model, absent: Mapping[Site, str]) -> None:
    tensors = [tensor for site in absent if isinstance(tensor := message(model, site), TensorProto)]
    found = [tensor for tensor in tensors if tensor.data_type not in FLOAT_TYPES]
    if found:
        kinds = ", ".join(sorted({TensorProto.DataType.Name(tensor.data_type).lower() for tensor in found}))
        why = " and ".join(dict.fromkeys(absent.values()))
        raise ModelError(
            f"{model.name} lacks the values of {listing(tensor.name for tensor in found)} ({kinds}; {why}): shapes, "
            "axes and other whole numbers belong to the architecture and cannot be made; give a model with them"
        )


def _check_shapes(model: Model, shapes: Mapping[str, Sequence[int]]) -> None:
    """Raise UsageError for a shape that is given for nothing, or that a tensor does not have."""
    known = {value.name: None for value in model.proto.graph.input}
    dims: dict[str, Sequence[int] | None] = {**known}
    for site in model.absent:
        tensor = message(model, site)
        if isinstance(tensor, TensorProto):
            dims[tensor.name] = tuple(tensor.dims)
    for name, shape in shapes.items():
        if name not in dims:
            raise UsageError(
                f"a shape is given for {quote(name)}, which is neither an input of the model nor a tensor without "
                f"values{meant(name, dims)}"
            )
        wanted = dims[name]
        if wanted is not None and tuple(shape) != wanted:
            raise UsageError(f"the shape {list(shape)} is given for {quote(name)}, which has dims {list(wanted)}")
