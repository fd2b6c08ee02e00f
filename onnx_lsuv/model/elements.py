"""Elements of a tensor in the forms that are no numpy array: varints, and several elements to a byte."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnx_lsuv.errors import ModelError

Array = np.ndarray[Any, np.dtype[Any]]
BLOCK = 1 << 20  # bytes decoded together: one byte takes some forty while it is


def element_bits(dtype: np.dtype[Any]) -> int:
    """Return how many bits an element takes in raw_data (numpy gives the small types of ml_dtypes a byte each)."""
    name = dtype.name
    for bits in (2, 4, 6):
        if name.startswith((f"int{bits}", f"uint{bits}", f"float{bits}_")) and dtype.itemsize == 1:
            return bits
    return dtype.itemsize * 8


def from_varints(data: Array, where: str) -> Array:
    """Decode packed varints as uint64; no parser has looked at the ones that the skeleton leaves out."""
    out = np.empty(np.count_nonzero(data < 0x80), np.uint64)
    at = done = 0
    while at < len(data):
        stop = at + BLOCK
        while stop < min(at + BLOCK + 10, len(data)) and data[stop - 1] >= 0x80:  # to the end of a number
            stop += 1
        part = _decode(data[at:stop], where)
        out[done : done + len(part)] = part
        at, done = stop, done + len(part)
    return out


def _decode(data: Array, where: str) -> Array:
    ends = np.flatnonzero(data < 0x80)
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
    lengths = ends - starts + 1
    if lengths.max(initial=0) > 10 or (len(data) and (not len(ends) or ends[-1] != len(data) - 1)):
        raise ModelError(f"{where} has a list of values that is no row of varints; export the model again")
    out = np.zeros(len(ends), np.uint64)
    for nth in range(int(lengths.max(initial=0))):
        rows = np.flatnonzero(lengths > nth)
        out[rows] |= (data[starts[rows] + nth].astype(np.uint64) & np.uint64(0x7F)) << np.uint64(7 * nth)
    return out


def to_varints(numbers: Array) -> Array:
    """Encode uint64 as packed varints, shortest forms."""
    lengths = np.ones(len(numbers), np.int64)
    for nth in range(1, 10):
        lengths += numbers >= np.uint64(1 << 7 * nth)
    starts = np.cumsum(lengths) - lengths
    out = np.empty(int(lengths.sum()), np.uint8)
    for nth in range(int(lengths.max(initial=0))):
        rows = np.flatnonzero(lengths > nth)
        septets = (numbers[rows] >> np.uint64(7 * nth)).astype(np.uint8) & np.uint8(0x7F)
        out[starts[rows] + nth] = septets | ((lengths[rows] > nth + 1).astype(np.uint8) << np.uint8(7))
    return out


def to_numbers(array: Array) -> Array:
    """Return the numbers, as uint64, that a typed list of varints holds for the elements."""
    bits = element_bits(array.dtype)
    flat = np.ascontiguousarray(array).reshape(-1)
    if bits in (2, 4):
        return pack(flat.view(np.uint8), bits).astype(np.uint64)
    if flat.dtype.kind == "i" and bits >= 8:
        return flat.astype(np.int64).view(np.uint64)  # negative numbers are sign-extended
    return flat.view(f"u{flat.dtype.itemsize}").astype(np.uint64)


def unpack(data: Array, size: int, bits: int) -> Array:
    """Spread `size` elements of `bits` bits, packed from the lowest bit, to a byte each."""
    cells = np.unpackbits(data, count=size * bits, bitorder="little").reshape(size, bits)
    return np.packbits(cells, axis=1, bitorder="little").reshape(size)


def pack(data: Array, bits: int) -> Array:
    """Pack the lowest `bits` bits of each byte, the inverse of `unpack`."""
    cells = np.unpackbits(data.reshape(-1, 1), axis=1, count=bits, bitorder="little")
    return np.packbits(cells.reshape(-1), bitorder="little")


def bindable(array: Array) -> Array:
    """Return an array in C order; elements of less than a byte packed at the beginning of as many bytes.

    So they have the shape of the values and, up to where it ends, the memory that ONNX Runtime expects.
    """
    array = np.require(array, requirements="C")
    bits = element_bits(array.dtype)
    if bits >= 8:
        return array
    packed = pack(array.view(np.uint8), bits)
    out = np.zeros(array.shape, np.uint8)
    out.reshape(-1)[: packed.size] = packed
    return out
