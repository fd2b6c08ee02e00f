"""What the bridges to the frameworks share: export, feed, and the way back; none of them is imported here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

from onnx_lsuv.errors import LsuvError, ModelError, UsageError, listing
from onnx_lsuv.lsuv import Result
from onnx_lsuv.model import Array, Model
from onnx_lsuv.modules.state import state_dict

T = TypeVar("T")


@contextmanager
def exporting(what: str) -> Iterator[None]:
    """Turn whatever an exporter raises into a ModelError of one sentence, which starts with `what`."""
    try:
        yield
    except LsuvError:
        raise
    except Exception as error:
        said = (str(error.__cause__ or error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{what}: {said}") from error


def feed(model: Model, arrays: Sequence[T], what: str, whose: str = "the exported module") -> dict[str, T]:
    """Return the arrays of a batch by the names of the inputs that they became, in order; raises UsageError."""
    names = [each.name for each in model.proto.graph.input]
    if len(names) != len(arrays):
        raise UsageError(f"the batch has {len(arrays)} {what}, but {whose} has {len(names)} inputs ({listing(names)})")
    return dict(zip(names, arrays, strict=True))


def taken_back(result: Result, own: Mapping[str, Any]) -> tuple[Mapping[str, Array], Result]:
    """Return the new values by the module's names, and the result with the notes on what was not found."""
    state = state_dict(result, own)
    return state.tensors, replace(result, notes=(*result.notes, *state.notes[1:]))  # the first: how many were found
