"""Random data, and the shapes for it.

Every input has a generator of its own, seeded by SHA-256 of the seed and the input's name: what one input is given
depends on no other, and not on the order of the inputs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from onnx_lsuv.batches.advice import fits
from onnx_lsuv.batches.inputs import Input, closest, show_shape
from onnx_lsuv.batches.stored import Layout
from onnx_lsuv.errors import UsageError, listing, quote
from onnx_lsuv.model import Array
from onnx_lsuv.orthonormal import seed_of

SAMPLES = 32  # drawn where no shape says how many
ENOUGH = 1 << 28  # bytes of all samples together from which on fewer will do: each of them is large


def parse_shape(text: str) -> tuple[str | None, tuple[int, ...]]:
    """Read "NAME=1,3,8,8", or "1,3,8,8" for the only input; "NAME=" followed by "scalar" is rank 0; UsageError.

    Lengths may stand apart by 'x' or spaces too, and in brackets: as shapes are written.
    """
    name, equals, lengths = text.rpartition("=")
    if equals and not name:
        raise UsageError(f"the shape {quote(text)} lacks the name; give NAME=1,3,8,8")
    if lengths.strip() == "scalar":
        return name or None, ()
    bare = lengths.strip()
    bare = bare[1:-1].removesuffix(",") if bare[:1] + bare[-1:] in ("()", "[]") else bare
    apart = re.sub(r"\s*[,x]\s*|\s+", ",", bare.strip(), flags=re.IGNORECASE)
    lengths = apart if re.fullmatch(r"[0-9]+(,[0-9]+)*", apart) else lengths
    shape = []
    for part in lengths.split(","):
        digits = part.strip()
        if not (digits.isascii() and digits.isdigit()) or len(digits) > 18:
            raise UsageError(
                f"the shape {quote(text)} has {quote(digits)} where a length is expected; give NAME=1,3,8,8"
            )
        shape.append(int(digits))
    if shape[0] == 0:
        raise UsageError(f"the shape {quote(text)} means no samples; give a first length of at least 1")
    return name or None, tuple(shape)


def parse_shapes(inputs: Sequence[Input], texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Read all values of `--shape` and settle which inputs they are for; raises UsageError."""
    shapes: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, shape = parse_shape(text)
        if name is None and len(inputs) != 1:
            raise UsageError(
                f"the shape {quote(text)} could be for any of {listing(each.name for each in inputs)}; give NAME={text}"
                if inputs
                else f"the shape {quote(text)} is for no input: the model has none that needs data; leave it out"
            )
        name = inputs[0].name if name is None else name
        if name in shapes:
            raise UsageError(f"input {quote(name)} is given a shape twice, again by {quote(text)}; give it once")
        shapes[name] = shape
    _check_names(inputs, shapes)
    return shapes


def _check_names(inputs: Sequence[Input], shapes: Mapping[str, object]) -> None:
    for name in shapes:
        if name not in {each.name for each in inputs}:
            raise UsageError(f"a shape is given for {quote(name)}, but {closest(name, inputs)}")


def complete_shapes(inputs: Sequence[Input], shapes: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    """Return a shape for every input: the given one, or the model's with its dynamic lengths filled in.

    A name that a given shape settles is settled everywhere; what is left open is filled in only where it is the first
    axis, with as many samples as the given shapes agree on, else 32. Raises UsageError where more is open.
    """
    _check_names(inputs, shapes)
    known: dict[str, int] = {}
    firsts: set[int] = set()
    for each in inputs:
        if each.name in shapes:
            _check_given(each, shapes[each.name])
            given, dims = shapes[each.name], each.shape or ()
            # One axis more than the model has counts batches.
            for dim, length in zip(dims, given[len(given) - len(dims) :], strict=True):
                if isinstance(dim, str):
                    known.setdefault(dim, length)
            if each.shape and each.fixed is None:
                firsts.add(shapes[each.name][0])
    samples = firsts.pop() if len(firsts) == 1 else SAMPLES
    for each in inputs:
        if each.name not in shapes and each.shape and isinstance(each.shape[0], str):
            known.setdefault(each.shape[0], samples)
    return {each.name: _complete(each, shapes.get(each.name), known, samples) for each in inputs}


def _complete(each: Input, given: Sequence[int] | None, known: Mapping[str, int], samples: int) -> tuple[int, ...]:
    if given is not None:
        return tuple(given)
    shape = [known.get(dim) if isinstance(dim, str) else dim for dim in each.shape or ()]
    if shape and shape[0] is None:
        shape[0] = samples
    if each.shape is None or None in shape:
        lengths = [dim if isinstance(dim, int) else 8 * axis for axis, dim in enumerate(each.shape or (), 1)]
        example = ",".join(map(str, lengths)) or "1,3,224,224, for example"
        raise UsageError(
            f"input {quote(each.name)} is declared with {show_shape(each.shape)}, so random data need its shape; "
            f"give --shape {each.name}={example}"
        )
    return tuple(length for length in shape if length is not None)


def batches_for(
    inputs: Sequence[Input],
    given: Mapping[str, Sequence[int]],
    shapes: Mapping[str, Sequence[int]],
    samples: int | None,
) -> int:
    """Return how many batches to draw, so that a model whose first axes are all fixed gets as many samples as others.

    `given` are the shapes that a caller gave, one of which is perhaps longer than the model's first axis and so says
    how many samples; `shapes` are those of all inputs.
    """
    counted = [each for each in inputs if each.shape]
    lengths = [each.samples_in([each.fixed]) for each in counted if each.fixed]
    longer = any(
        given[each.name][0] != each.fixed or len(given[each.name]) > len(each.shape or ())
        for each in counted
        if each.name in given
    )
    if len(lengths) < len(counted) or not lengths or longer:
        return 1
    size = sum(math.prod(shapes[each.name]) * each.dtype.itemsize for each in inputs)
    return max(1, min(-(-(samples or SAMPLES) // min(lengths)), ENOUGH // max(size, 1)))


def _check_given(each: Input, given: Sequence[int]) -> None:
    want = each.shape
    shown = f"the shape {show_shape(given)} is given for input {quote(each.name)}"
    if any(length < 0 for length in given) or (len(given) > 0 and given[0] == 0):
        raise UsageError(f"{shown}, but a length cannot be below 0, nor the first one 0; give positive lengths")
    if want is None:
        return
    several = bool(each.fixed and given) and given[0] % (each.fixed or 1) == 0
    stacked = each.fixed is not None and fits((None, *want), given)
    if not stacked and not fits((None, *want[1:]) if several else want, given):
        raise UsageError(f"{shown}, but the model expects {show_shape(want)}; give one that fits")


def draw_input(each: Input, shape: Sequence[int], seed: int, *, batches: int, high: int, limit: int) -> list[Array]:
    """Draw `batches` arrays: floats standard normal, integers in [0, high), bools fair; raises UsageError."""
    dtype = each.dtype
    what = f"random data of shape {show_shape(shape)} for input {quote(each.name)}"
    try:
        needed = Layout(dtype, tuple(shape)).size * batches
    except ValueError as error:
        raise UsageError(f"{what} would have {error}; give another shape") from error
    if needed > limit:
        raise UsageError(
            f"{what} would take {needed} bytes, more than the limit of {limit}; give a smaller shape or fewer batches"
        )
    generator = np.random.Generator(np.random.PCG64(seed_of(f"{seed}:{each.name}")))
    return [_draw(each, dtype, shape, generator, high) for _ in range(batches)]


def _draw(each: Input, dtype: np.dtype[Any], shape: Sequence[int], generator: np.random.Generator, high: int) -> Array:
    if each.elem_type == onnx.TensorProto.BOOL:
        return generator.integers(0, 2, size=shape, dtype=np.uint8).astype(np.bool_)
    if dtype == np.float64:
        return np.asarray(generator.standard_normal(shape))
    if "complex" in dtype.name or dtype.kind == "O":
        raise UsageError(
            f"random data cannot be drawn for input {quote(each.name)} of type {each.type_name}; give data of your own"
        )
    if "float" in dtype.name:
        return np.asarray(generator.standard_normal(shape, dtype=np.float32)).astype(dtype)
    try:
        fits = int(np.asarray(high - 1).astype(dtype)) == high - 1
    except OverflowError:
        fits = False
    if high < 1 or not fits:
        raise UsageError(
            f"integers in [0, {high}) cannot be drawn for input {quote(each.name)} of type "
            f"{each.type_name}; give a range that the type holds"
        )
    return generator.integers(0, high, size=shape, dtype=np.int64).astype(dtype)
