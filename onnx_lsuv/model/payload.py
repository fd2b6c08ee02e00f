"""Where a TensorProto's payload lies in the bytes of a message, and how new values take its place.

The payload is raw_data (little-endian, elements of less than a byte packed from the lowest bit), or one of the typed
lists: float_data and double_data of fixed width, the others varints, packed into one field or an own field for each
element. Which list belongs to which element type is written in onnx.proto.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import onnx

from onnx_lsuv.model.splicing import Edit
from onnx_lsuv.model.wire import BYTES, FIXED32, FIXED64, LISTS, PAYLOAD, RAW_DATA, Span, fields, inside, runs

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
WIDTH = {FIXED32: 4, FIXED64: 8}
BLOCK = 1 << 20  # numbers encoded together: each is a Python object for as long


class Chunk(NamedTuple):
    """A part of a payload that lies together: the value of a field, which holds one element or many.

    With `step` it is a row of fields of one element each, so many bytes apart, whose values are at their ends.
    """

    start: int
    end: int
    owner: Span
    step: int = 0


def field_of(data_type: int) -> str:
    """Return the name of the typed list that holds a type's elements."""
    try:
        return str(onnx.helper.tensor_dtype_to_field(data_type))
    except KeyError:  # a type that onnx does not know, which is said where it is read
        return "int32_data"


def chunks(view: memoryview, spans: tuple[Span, ...], number: int, wire: int) -> list[Chunk]:
    """Find where in a message the list in field `number` stands, whose elements have wire type `wire`, in order."""
    found = []
    for span in spans:
        for one, end in runs(view, span.start, span.end):
            if one.number != number or one.wire not in (BYTES, wire):
                continue
            if end > one.end:
                found.append(Chunk(one.tag, end, span, one.end - one.tag))
            else:
                found.append(Chunk(one.start, end, inside(one, span) if one.wire == BYTES else span))
    return found


def payload_of(view: memoryview, spans: tuple[Span, ...], data_type: int) -> tuple[int, int, list[Chunk]]:
    """Return the field that holds the values, its wire type, and where: raw_data if it is there, or the type's list."""
    raw = chunks(view, spans, RAW_DATA, BYTES)
    if raw:
        return RAW_DATA, BYTES, raw[-1:]  # the last one counts
    number = onnx.TensorProto.DESCRIPTOR.fields_by_name[field_of(data_type)].number
    return number, LISTS[number], chunks(view, spans, number, LISTS[number])


def has_payload(tensor: onnx.TensorProto) -> bool:
    """Whether a parsed tensor has any payload field."""
    return any(field.number in PAYLOAD for field, _ in tensor.ListFields())


def bytes_of(view: memoryview, part: Chunk) -> Bytes:
    """Return a chunk's values without the tags between them."""
    data = np.frombuffer(view[part.start : part.end], np.uint8)
    return data.reshape(-1, part.step)[:, 1:].reshape(-1) if part.step else data


def replaced(view: memoryview, parts: list[Chunk], data: memoryview) -> list[Edit]:
    """Return the edits that put `data` in the place of raw bytes or of a list of fixed width, as long as they were."""
    edits, at = [], 0
    for part in parts:
        new = data[at : at + len(bytes_of(view, part))]
        at += len(new)
        if part.step:
            rows = np.frombuffer(view[part.start : part.end], np.uint8).reshape(-1, part.step).copy()
            rows[:, 1:] = np.frombuffer(new, np.uint8).reshape(len(rows), -1)
            new = rows.reshape(-1).data
        edits.append(Edit(part.start, part.end, (new,), part.owner))
    return edits


def renumbered(view: memoryview, parts: list[Chunk], numbers: np.ndarray[Any, np.dtype[np.uint64]]) -> list[Edit]:
    """Return the edits that put varints of `numbers` in the place of a list of as many."""
    edits, at = [], 0
    for part in parts:
        stop = at + int(np.count_nonzero(bytes_of(view, part) < 0x80))
        new = tuple(_varints(numbers[first : min(first + BLOCK, stop)]) for first in range(at, stop, BLOCK))
        edits.append(Edit(part.start, part.end, new, part.owner))
        at = stop
    return edits


def _varints(numbers: np.ndarray[Any, np.dtype[np.uint64]]) -> bytes:
    """Return numbers as protobuf packs them, which is the same in every list of varints."""
    data: bytes = onnx.TensorProto(uint64_data=numbers.tolist()).SerializeToString()
    return data[next(fields(memoryview(data), 0, len(data))).start :]
