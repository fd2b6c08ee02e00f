"""Where a TensorProto's payload lies in the bytes of a message.

The payload is raw_data (little-endian, elements of less than a byte packed from the lowest bit), or one of the typed
lists: float_data and double_data of fixed width, the others varints, packed into one field or an own field for each
element. Which list belongs to which element type is written in onnx.proto.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx

from onnx_lsuv.model.elements import Array
from onnx_lsuv.model.wire import (
    BYTES,
    DOUBLE_DATA,
    FIXED32,
    FIXED64,
    FLOAT_DATA,
    INT32_DATA,
    INT64_DATA,
    PAYLOAD,
    RAW_DATA,
    STRING_DATA,
    UINT64_DATA,
    VARINT,
    Span,
    fields,
    run_end,
)

_T = onnx.TensorProto
WIDTH = {FLOAT_DATA: 4, DOUBLE_DATA: 8}  # typed lists of fixed width; all others hold varints
_FIELD: dict[int, int] = {
    **dict.fromkeys((_T.FLOAT, _T.COMPLEX64), FLOAT_DATA),
    **dict.fromkeys((_T.DOUBLE, _T.COMPLEX128), DOUBLE_DATA),
    **dict.fromkeys((_T.UINT32, _T.UINT64), UINT64_DATA),
    _T.INT64: INT64_DATA,
    _T.STRING: STRING_DATA,
}  # else INT32_DATA


class Chunk(NamedTuple):
    """A part of a payload: a length-delimited field (`span`), or a run of fields of one element each.

    In a run the values are at `cells`; where these are many and alike, they end the rows of `step` bytes instead.
    """

    start: int
    end: int
    span: Span | None
    cells: list[tuple[int, int]]
    owner: Span
    step: int = 0


def chunks(view: memoryview, spans: tuple[Span, ...], number: int, wire: int) -> list[Chunk]:
    """Find where in a message the list in field `number` stands, whose elements have wire type `wire`, in order."""
    found: list[Chunk] = []
    for span in spans:
        at = span.start
        while at < span.end:
            for one in fields(view, at, span.end):
                at = run_end(view, one, span.end)
                if at > one.end:
                    if one.number == number and one.wire == wire:
                        found.append(Chunk(one.tag, at, None, [], span, one.end - one.tag))
                    break  # go on behind the run
                if one.number != number:
                    continue
                if one.wire == BYTES:
                    packed = Span(one.tag, one.size, one.start, one.end, span, span.depth + 1)
                    found.append(Chunk(one.start, one.end, packed, [], span))
                elif one.wire == wire:
                    last = found[-1] if found else None
                    if last is not None and last.cells and last.end == one.tag:
                        last.cells.append((one.start, one.end))
                        found[-1] = last._replace(end=one.end)
                    else:
                        found.append(Chunk(one.tag, one.end, None, [(one.start, one.end)], span))
    return found


def payload_of(view: memoryview, spans: tuple[Span, ...], data_type: int) -> tuple[int, list[Chunk]]:
    """Return the field that holds the values, and where: raw_data if it is there at all, else the type's list."""
    raw = chunks(view, spans, RAW_DATA, BYTES)
    if raw:
        return RAW_DATA, raw[-1:]  # the last one counts
    number = _FIELD.get(data_type, INT32_DATA)
    wire = {FLOAT_DATA: FIXED32, DOUBLE_DATA: FIXED64, STRING_DATA: BYTES}.get(number, VARINT)
    return number, chunks(view, spans, number, wire)


def has_payload(tensor: onnx.TensorProto) -> bool:
    """Whether a parsed tensor has any payload field."""
    return tensor.HasField("raw_data") or any(
        len(getattr(tensor, onnx.TensorProto.DESCRIPTOR.fields_by_number[number].name))
        for number in PAYLOAD - {RAW_DATA}
    )


def bytes_of(view: memoryview, part: Chunk) -> Array:
    """Return a chunk's bytes without the tags between its cells."""
    if part.span is not None:
        return np.frombuffer(view[part.start : part.end], np.uint8)
    if part.step:
        return run_of(view, part)[:, 1:].reshape(-1)
    return np.frombuffer(b"".join(view[start:end] for start, end in part.cells), np.uint8)


def run_of(view: memoryview, part: Chunk) -> Array:
    """Return a run as rows of `step` bytes."""
    return np.frombuffer(view[part.start : part.end], np.uint8).reshape(-1, part.step)
