"""Which dtypes may become which, and one pass over the values: are they finite, and what are mean, std and range.

A conversion is allowed where it keeps what the numbers mean: float to float, int to int where every value fits, int or
bool to float, bool to int. Float to int, anything to bool, and anything with Python objects in it is refused. ONNX
Runtime reads big-endian memory as if it were native and says nothing, so the byte order is settled here.

Moments are taken in float64 chunk by chunk, each about its own mean, and pooled (Chan, Golub, LeVeque 1979):
M2 = M2a + M2b + (mean_b - mean_a)^2 * n_a n_b / n. Sums are NumPy's pairwise ones, never BLAS, whose results change
with the number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx

from onnx_lsuv.batches.inputs import Input
from onnx_lsuv.batches.stored import Stored
from onnx_lsuv.errors import DataError, quote
from onnx_lsuv.model import Array

CHUNK = 1 << 16  # values looked at together: half a megabyte in float64, which stays in the cache
KINDS = {"f": "float", "i": "int", "u": "int", "b": "bool", "c": "complex", "O": "object", "V": "raw"} | dict.fromkeys(
    "UTS", "text"
)
# Float and int types that conversions may end in. Those of ml_dtypes of a byte and less, float8 and int4 and the like,
# are quantised values, which mean nothing without their scale: they have to be given, and taken, as they are.
FLOATS = (np.dtype("f4"), np.dtype("f2"), np.dtype("f8"), np.dtype(ml_dtypes.bfloat16))
INTS = tuple(np.dtype(code) for code in ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"))


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a stored array, `start` to `stop` along its first axis; `stop` None: all of it."""

    stored: Stored
    start: int = 0
    stop: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the part."""
        whole = self.stored.shape
        return whole if self.stop is None else (self.stop - self.start, *whole[1:])


@dataclass(frozen=True, slots=True)
class Stats:
    """What one pass over all values of an input found; None where the type has no such thing or it overflows."""

    count: int
    mean: float | None = None
    std: float | None = None
    low: float | None = None
    high: float | None = None


def check_dtype(target: Input, stored: Stored) -> str | None:
    """Return what is converted, such as "float64 to float32", or None; raises DataError where it may not be."""
    want, have = target.dtype, stored.dtype
    if have.kind != "T":  # text of variable length has no byte order
        have = have.newbyteorder("=")
    text = target.elem_type == onnx.TensorProto.STRING
    kind = _kind(have)
    if kind in ("text", "object"):
        if text:
            return None
    elif have == want and not text:
        return None
    elif (want in FLOATS and kind in ("float", "int", "bool")) or (want in INTS and kind in ("int", "bool")):
        if not (_is_extension(have) and have.itemsize == 1):
            return None if stored.flat else f"{have} to {want}"  # in a table nobody chose the type
    elif kind == "raw" and _is_extension(want) and have.itemsize == want.itemsize:
        return f"{have.itemsize} raw bytes a value, as numpy.save writes {want}, to {want}"
    words = {"structured": "a structured dtype", "object": "Python objects", "raw": "raw bytes", "text": "text"}
    found = words.get(kind, have)
    raise DataError(
        f"{stored.where} holds {found}, but input {quote(target.name)} takes {target.type_name}; "
        + _advice(kind, want, text)
    )


def _advice(kind: str, want: np.dtype[Any], text: bool) -> str:
    if text:
        return "give an array of text, such as x.astype(str)"
    if kind in ("text", "object", "structured", "raw", "other"):
        return "give an array of numbers of that type"
    if kind == "float" and want in INTS:
        return f"convert it with x.astype('{want}') if whole numbers were meant"
    if want == np.bool_:
        return "convert it with x != 0 if a mask was meant"
    if kind == "complex":
        return "give its real part, or two real channels"
    return f"convert it with x.astype('{want}')"


def _kind(dtype: np.dtype[Any]) -> str:
    if dtype.fields is not None or dtype.subdtype is not None:
        return "structured"
    if _is_extension(dtype):
        return "float" if "float" in dtype.name else "int"
    return KINDS.get(dtype.kind, "other")


def _is_extension(dtype: np.dtype[Any]) -> bool:
    return dtype.type.__module__.startswith("ml_dtypes")


def read_piece(target: Input, piece: Piece) -> Array:
    """Return the values of a piece as the input takes them: exact dtype, native byte order, contiguous, aligned."""
    array = _raw(piece)
    with np.errstate(over="ignore", invalid="ignore"):
        array = _converted(target, piece.stored, array)
    # Values mapped from a file may start at any byte.
    return np.require(array, requirements=["C", "A"])


def _raw(piece: Piece) -> Array:
    array = np.asarray(piece.stored.load(piece.start, piece.stop))
    if array.shape != piece.shape or array.dtype != piece.stored.dtype:
        raise DataError(f"{piece.stored.where} changed while it was read; run again when it stays as it is")
    return array


def _converted(target: Input, stored: Stored, array: Array) -> Array:
    want = target.dtype
    if target.elem_type == onnx.TensorProto.STRING:
        return _text(target, stored, array)
    if array.dtype.kind == "V" and not _is_extension(array.dtype):
        return np.ascontiguousarray(array).view(want).reshape(array.shape)
    if array.dtype == np.bool_:  # a file may hold other bytes than 0 and 1
        array = array.view(np.uint8) != 0
    return array.astype(want, order="C", copy=False)


def _text(target: Input, stored: Stored, array: Array) -> Array:
    result = np.empty(array.shape, dtype=object)
    for index in np.ndindex(array.shape):
        value = array[index]
        try:
            value = value.decode() if isinstance(value, bytes) else value
        except UnicodeDecodeError as error:
            raise DataError(f"{stored.where} has bytes at index {list(index)} that are no UTF-8 text") from error
        if not isinstance(value, str):
            raise DataError(
                f"{stored.where} has a {type(value).__name__} at index {list(index)}, but input "
                f"{quote(target.name)} takes text; give str everywhere"
            )
        result[index] = str(value)
    return result


def scan(target: Input, pieces: Iterable[Piece]) -> Stats:
    """Pass over all values of an input once; raises DataError for NaN, infinities and integers that do not fit."""
    want = target.dtype
    count, mean, square = 0, 0.0, 0.0
    low, high = math.inf, -math.inf
    bad, first, floats = 0, "", _kind(want) == "float"
    with np.errstate(all="ignore"):
        for piece in pieces:
            if target.elem_type == onnx.TensorProto.STRING:
                count += read_piece(target, piece).size
                continue
            for at, chunk in _chunks(_raw(piece)):
                if want in INTS:
                    _check_fits(target, piece.stored, chunk, want)
                values = _converted(target, piece.stored, chunk)
                count += values.size
                if want in INTS:
                    low, high = min(low, int(values.min())), max(high, int(values.max()))
                if not floats and want.kind != "c":
                    continue
                wide = values.astype(np.float64) if floats else values
                own = wide.mean()
                if not np.isfinite(own) and (wrong := int((~np.isfinite(wide)).sum())):
                    bad += wrong
                    first = first or _first(piece, at, chunk, wide)
                elif floats:
                    low, high = min(low, float(wide.min())), max(high, float(wide.max()))
                    wide -= own
                    delta, share = float(own) - mean, values.size / count
                    np.square(wide, out=wide)
                    square += float(wide.sum()) + delta * delta * (count - values.size) * share
                    mean += delta * share
    if bad:
        more = f" and {bad - 1} more such values" if bad > 1 else ""
        raise DataError(
            f"input {quote(target.name)} needs finite numbers, but {first}{more}; remove or replace these values"
        )
    if count == 0 or low > high:
        return Stats(count)
    if want in INTS:
        return Stats(count, low=low, high=high)
    found = (mean, math.sqrt(square / count), low, high)
    return Stats(count, *(value if math.isfinite(value) else None for value in found))


def _chunks(array: Array) -> Iterator[tuple[int, Array]]:
    """Yield the values in C order, some at a time, with the number of those before them."""
    if array.flags.c_contiguous or not array.size:
        flat = array.reshape(-1)
        for at in range(0, flat.size, CHUNK):
            yield at, flat[at : at + CHUNK]
        return
    row = math.prod(array.shape[1:])
    step = max(1, CHUNK // row)
    for start in range(0, len(array), step):
        yield start * row, array[start : start + step].reshape(-1)


def _check_fits(target: Input, stored: Stored, chunk: Array, want: np.dtype[Any]) -> None:
    if chunk.dtype.kind in "iu" and not np.can_cast(chunk.dtype, want):
        limits = np.iinfo(want)
        for value in (int(chunk.min()), int(chunk.max())):
            if not int(limits.min) <= value <= int(limits.max):
                raise DataError(
                    f"{stored.where} holds {value}, which does not fit {want}, the type of input "
                    f"{quote(target.name)}; check that this is the right array"
                )


def _first(piece: Piece, at: int, chunk: Array, values: Array) -> str:
    spot = int(np.argmin(np.isfinite(values)))
    found, given = values[spot], chunk[spot]
    index = [int(each) for each in np.unravel_index(at + spot, piece.shape)]
    if index:
        index[0] += piece.start
    if _kind(chunk.dtype) == "float" and np.isfinite(given.astype(np.longdouble)):
        return f"{piece.stored.where} has {given} at index {index}, too large for the input's type,"
    return f"{piece.stored.where} has {found} at index {index}"
