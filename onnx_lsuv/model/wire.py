"""The protobuf wire format, as far as it is needed to find a tensor's payload in a file without reading it.

A message is a row of fields, each a tag (field number and wire type, one varint) and a value: a varint (wire type 0),
8 bytes (1), a length varint and so many bytes (2), a group between two tags (3, 4; long out of use), or 4 bytes (5).
Fields may stand in any order. A singular message field that occurs several times is the merger of its occurrences,
which is the message one gets by joining their bytes; so a message is a tuple of spans here. Source:
https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from onnx import TensorProto

from onnx_lsuv.model.sites import ATTRIBUTE_TENSOR, SCHEMA, Site

HOLLOW_BYTES = 1024
"""A dense tensor with a larger payload is without it in the skeleton."""

VARINT, FIXED64, BYTES, GROUP, GROUP_END, FIXED32 = range(6)
MAX_DEPTH = 100  # what protobuf's own parsers allow

RAW_DATA = TensorProto.RAW_DATA_FIELD_NUMBER
# The lists of a tensor's payload, by the wire type of their elements.
LISTS = {
    TensorProto.FLOAT_DATA_FIELD_NUMBER: FIXED32,
    TensorProto.INT32_DATA_FIELD_NUMBER: VARINT,
    TensorProto.STRING_DATA_FIELD_NUMBER: BYTES,
    TensorProto.INT64_DATA_FIELD_NUMBER: VARINT,
    TensorProto.DOUBLE_DATA_FIELD_NUMBER: FIXED64,
    TensorProto.UINT64_DATA_FIELD_NUMBER: VARINT,
}
PAYLOAD = frozenset({RAW_DATA, *LISTS})


class WireError(Exception):
    """The bytes are no protobuf message; the message says why and at which byte."""


class Field(NamedTuple):
    """One field as it stands in the bytes."""

    number: int
    wire: int
    tag: int  # offset of the tag
    size: int  # offset of the length varint (wire type 2; else of the value)
    start: int  # offset of the value
    end: int  # offset behind the value


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """One occurrence of a length-delimited field, or the whole file (`parent` None): offsets of its parts."""

    tag: int
    size: int
    start: int
    end: int
    parent: Span | None
    depth: int


@dataclass(frozen=True, slots=True, eq=False)
class Tree:
    """The bytes of a model, and what has been found in them so far (a cache: it only ever grows)."""

    view: memoryview
    found: dict[Site, dict[int, list[Span]]] = field(default_factory=dict)


def varint(value: int) -> bytes:
    """Encode a number from 0 to 2**64 - 1, shortest form."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def fields(view: memoryview, start: int, end: int, groups: int = 0) -> Iterator[Field]:
    """Yield the fields of the message in `view[start:end]`, which lies in so many groups.

    Raises WireError where the bytes are not a message.
    """
    at = start
    while at < end:
        tag_at = at
        tag = view[at]
        at += 1
        if tag > 0x7F:
            tag, at = _varint(view, tag_at, end)
        number, wire = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:
            raise WireError(f"field number {number} at byte {tag_at}")
        size_at = at
        if wire == BYTES:
            if at >= end:
                raise WireError(f"end of data at byte {at}")
            length = view[at]
            at += 1
            if length > 0x7F:
                length, at = _varint(view, size_at, end)
            value_at = at
            at += length
        elif wire == VARINT:
            value_at = at
            _, at = _varint(view, at, end)
        elif wire in (FIXED32, FIXED64):
            value_at = at
            at += 4 if wire == FIXED32 else 8
        elif wire == GROUP:
            value_at = at
            at = _group_end(view, at, end, number, groups + 1)
        elif wire == GROUP_END and groups:
            value_at = at
        else:
            raise WireError(f"wire type {wire} at byte {tag_at}")
        if at > end:
            raise WireError(f"a value at byte {value_at} ends {at - end} bytes behind its message")
        yield Field(number, wire, tag_at, size_at, value_at, at)


def runs(view: memoryview, start: int, end: int) -> Iterator[tuple[Field, int]]:
    """Yield the fields of a message, each with its end; of a row of fields alike the first, with the end of the last.

    A list of fixed-width numbers that is not packed is millions of fields, which are gone past without a step for each.
    """
    at = start
    while at < end:
        for one in fields(view, at, end):
            at = _run_end(view, one, end)
            yield one, at
            if at > one.end:
                break  # go on behind the row


def _run_end(view: memoryview, first: Field, end: int) -> int:
    """Return where the row of fields like `first` ends that begins with it: same one-byte tag, same fixed width."""
    step, at, rows = first.end - first.tag, first.end, 16
    if first.wire not in (FIXED32, FIXED64) or first.start != first.tag + 1:
        return at
    while rows := min(rows * 2, (end - at) // step):
        others = np.flatnonzero(np.frombuffer(view[at : at + rows * step], np.uint8)[::step] != view[first.tag])
        if len(others):
            return at + int(others[0]) * step
        at += rows * step
    return at


def _varint(view: memoryview, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise WireError(f"end of data at byte {at}")
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
    raise WireError(f"a varint of more than ten bytes at byte {at - 10}")


def _group_end(view: memoryview, start: int, end: int, number: int, depth: int) -> int:
    """Return the offset behind a group whose fields begin at `start`."""
    if depth > MAX_DEPTH:
        raise WireError(f"groups nested more than {MAX_DEPTH} deep at byte {start}")
    for one in fields(view, start, end, depth):
        if one.wire == GROUP_END:
            if one.number != number:
                break
            return one.end
    raise WireError(f"a group without its end at byte {start}")


def root(view: memoryview) -> Span:
    """Return the whole of some bytes as a message."""
    return Span(0, -1, 0, len(view), None, 0)


def inside(one: Field, parent: Span) -> Span:
    """Return a field of a message as a message (or packed list) in it."""
    return Span(one.tag, one.size, one.start, one.end, parent, parent.depth + 1)


def find(tree: Tree, site: Site) -> tuple[Span, ...]:
    """Return the spans of the message at `site`; LookupError if there is none."""
    kind = "model"
    spans: tuple[Span, ...] = (root(tree.view),)
    for step, (number, nth) in enumerate(site):
        below = tree.found.get(site[:step])
        if below is None:
            below = tree.found[site[:step]] = _below(tree.view, spans, SCHEMA[kind])
        kind, repeated = SCHEMA[kind][number]
        spans = (below[number][nth],) if repeated else tuple(below[number])
    return spans


def _below(view: memoryview, spans: tuple[Span, ...], known: Container[int]) -> dict[int, list[Span]]:
    """Return the messages right below another: field number -> occurrences, in the order of the file."""
    found: dict[int, list[Span]] = {}
    for span in spans:
        for one in fields(view, span.start, span.end):
            if one.wire == BYTES and one.number in known:
                found.setdefault(one.number, []).append(inside(one, span))
    return found


def skeleton(view: memoryview, kind: str = "model", limit: int = HOLLOW_BYTES) -> bytes:
    """Return a message's bytes without the payloads of dense tensors that have more than `limit` bytes of them.

    A payload is skipped, not read, so a mapped file's weights stay on the disk. Raises WireError.
    """
    pieces = _strip(view, 0, len(view), kind, limit=limit, depth=1)
    return bytes(view) if pieces is None else b"".join(pieces)


def _strip(
    view: memoryview, start: int, end: int, kind: str, *, limit: int, depth: int
) -> list[memoryview | bytes] | None:
    """Return the pieces of the message without large payloads; None where nothing is to be left out."""
    if depth > MAX_DEPTH:
        raise WireError(f"messages nested more than {MAX_DEPTH} deep at byte {start}")
    if kind == "tensor":
        return _strip_tensor(view, start, end, limit)
    known = SCHEMA[kind]
    if kind == "attribute" and limit:
        # a tensor in several pieces is left whole or without any payload
        parts = [one for one in fields(view, start, end) if one.number == ATTRIBUTE_TENSOR and one.wire == BYTES]
        if len(parts) > 1 and sum(one.end - one.start for one in parts) > limit:
            limit = 0
    pieces: list[memoryview | bytes] = []
    kept = start
    for number, wire, _, size, begin, stop in fields(view, start, end):
        if wire != BYTES or number not in known or stop - begin <= limit or known[number][0] == "sparse":
            continue
        inner = _strip(view, begin, stop, known[number][0], limit=limit, depth=depth + 1)
        if inner is not None:
            pieces += [view[kept:size], varint(sum(map(len, inner))), *inner]
            kept = stop
    if kept == start:
        return None
    pieces.append(view[kept:end])
    return pieces


def _strip_tensor(view: memoryview, start: int, end: int, limit: int) -> list[memoryview | bytes] | None:
    pieces: list[memoryview | bytes] = []
    kept, payload = start, 0
    for one, stop in runs(view, start, end):
        if one.number in PAYLOAD:
            payload += stop - one.start
            if one.tag > kept:
                pieces.append(view[kept : one.tag])
            kept = stop
    if payload <= limit:
        return None
    pieces.append(view[kept:end])
    return pieces
