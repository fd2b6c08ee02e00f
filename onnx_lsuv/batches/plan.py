"""Stored arrays -> pieces, one for each input and batch.

Which axis counts samples: the first, as in every exported model. Three kinds of input follow from the model's shape:

    first axis dynamic          one array is one batch, or is cut every `batch_size` samples (the last may be smaller)
    first axis fixed to n       an array of k*n is cut into k batches; a remainder is an error
    no sample axis              rank 0, or an array of just the model's fixed first length: a state, a sampling rate;
                                given once it goes with every batch

An array with one axis more than an input whose first length is fixed, or that has no axes, is that many batches.

Inputs are put together by position: every input has as many batches as the others, or a single one that is repeated.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, islice

import numpy as np

from onnx_lsuv.batches.advice import fits, layout_advice
from onnx_lsuv.batches.inputs import Input, show_shape
from onnx_lsuv.batches.stored import Stored, held
from onnx_lsuv.batches.values import Piece
from onnx_lsuv.errors import DataError, UsageError, listing, quote
from onnx_lsuv.model import Array

Pieces = dict[str, list[Piece]]
MOST_BATCHES = 1_000_000
PARTS = 8  # of a batch that some memory does not hold


def plan_batches(
    inputs: Sequence[Input],
    given: Mapping[str, Sequence[Stored]],
    batch_size: int | None = None,
    samples: int | None = None,
) -> tuple[list[dict[str, Piece]], int | None]:
    """Return each batch's pieces by input name, and the number of samples (None: nothing counts them).

    Raises DataError where shapes or numbers do not fit the model or one another.
    """
    given = {each.name: [one for stored in given[each.name] for one in unstacked(each, stored)] for each in inputs}
    for each in inputs:
        for stored in given[each.name]:
            check_shape(each, stored)
    pieces = {
        each.name: _cut(given[each.name], _cut_length(each, inputs, given, batch_size), samples) for each in inputs
    }
    number = max((len(cuts) for cuts in pieces.values()), default=1)
    _check_counts(pieces, number)
    # The input whose first axis counts the samples: one that surely has such an axis, else the first.
    able = [each for each in inputs if len(pieces[each.name]) == number and given[each.name][0].shape]
    counting = next((each for each in able if not _stateless(each, given[each.name])), able[0] if able else None)
    if samples is not None:
        pieces = _limit(inputs, pieces, counting, samples)
    _check_remainders(inputs, pieces, samples)
    total = None if counting is None else sum(counting.samples_in(piece.shape) for piece in pieces[counting.name])
    number = max((len(cuts) for cuts in pieces.values()), default=1)
    # A generator of 10^5 batches is fine; the pieces are small.
    batches = [{name: cuts[index if len(cuts) > 1 else 0] for name, cuts in pieces.items()} for index in range(number)]
    _check_named(inputs, batches)
    return batches, total


def unstacked(each: Input, stored: Stored) -> list[Stored]:
    """Return an array (k, *shape), of k batches of an input of that shape, without its first axis; others as they are.

    The first two axes become one, which is cut where the model's first length is; scalars are one array each. Rows of a
    table are brought to the shape of a sample before.
    """
    want = each.shape
    if stored.flat and want is not None:
        stored = _shaped(each, want, stored)
    have = stored.shape
    if want is None or len(have) != len(want) + 1 or not 0 < have[0] <= MOST_BATCHES or not fits(want, have[1:]):
        return [stored]
    if not want:
        return [held(stored.where, np.asarray(value), stored.key) for value in stored.load(0, None)]
    size = each.fixed
    if size is None:
        return [stored]

    def load(start: int, stop: int | None) -> Array:
        first = start // size
        rows = stored.load(first, None if stop is None else -(-stop // size))
        rows = rows.reshape(-1, *have[2:])
        return rows if stop is None else rows[start - first * size : stop - first * size]

    return [replace(stored, shape=(have[0] * size, *have[2:]), load=load)]


def _shaped(each: Input, want: Sequence[int | str | None], stored: Stored) -> Stored:
    """Return a table with its rows in the shape of a sample, or as it is where they have another number of values."""
    rows, width = stored.shape
    for sample in (want[1:], want if each.fixed else ("",)):
        lengths = [dim for dim in sample if isinstance(dim, int)]
        if len(lengths) == len(sample) and math.prod(lengths) == width:
            load = stored.load
            return replace(
                stored,
                shape=(rows, *lengths),
                load=lambda start, stop: (part := load(start, stop)).reshape(len(part), *lengths),  # noqa: B023
                flat=False,
            )
    return stored


def check_shape(each: Input, stored: Stored) -> None:
    """Raise DataError unless the array has the input's rank and, but for the first, its fixed lengths."""
    want, have = each.shape, stored.shape
    found = f"{stored.where} has the shape {show_shape(have)}"
    if have and have[0] == 0:
        raise DataError(f"{found}, that is no samples; give at least one")
    if want is None:
        return
    if not fits(want[1:], have[1:]) or bool(want) != bool(have):
        advice = layout_advice(want, have)
        raise DataError(f"input {quote(each.name)} expects {show_shape(want)}, but {found}: {advice}")


def _stateless(each: Input, stored: Sequence[Stored]) -> bool:
    """Tell whether the first axis may count something else than samples, and the arrays leave that open."""
    return all(not array.shape or array.shape[0] == each.fixed for array in stored)


def _cut_length(
    each: Input, inputs: Sequence[Input], given: Mapping[str, Sequence[Stored]], batch_size: int | None
) -> int | None:
    """Return after how many samples to cut the arrays of an input, None for not at all."""
    mine = given[each.name]
    if _stateless(each, mine):
        takers = [other for other in inputs if other.fixed in (None, batch_size) and given[other.name][0].shape]
        if batch_size is not None and not takers:
            raise DataError(
                f"a batch size of {batch_size} was asked for, but input {quote(each.name)} has it fixed: "
                f"{show_shape(each.shape)}; leave the batch size out, or export the model with a dynamic batch axis"
            )
        return None
    if each.fixed is not None:
        if batch_size not in (None, each.fixed):
            raise DataError(
                f"a batch size of {batch_size} was asked for, but input {quote(each.name)} has it fixed to "
                f"{each.fixed}: {show_shape(each.shape)}; give {each.fixed}, or export the model with a dynamic batch "
                "axis"
            )
        return each.fixed
    others = [other for other in inputs if not _stateless(other, given[other.name]) and len(given[other.name]) == 1]
    if batch_size is None:
        # Next to an input whose fixed axis cuts its array, a dynamic one with as many samples is cut alike.
        lengths = {other.fixed for other in others} - {None}
        batch_size = lengths.pop() if len(lengths) == 1 else None
    if batch_size is not None and len(mine) == 1:
        for other in others:
            if (there := given[other.name][0].shape[0]) != (here := mine[0].shape[0]):
                raise DataError(
                    f"to be cut into batches of {batch_size}, the inputs need the same number of samples, but "
                    f"{quote(each.name)} has {here} and {quote(other.name)} has {there}; give the same number, "
                    "or a folder with one file a batch"
                )
    return batch_size


def _cut(arrays: Sequence[Stored], size: int | None, samples: int | None) -> list[Piece]:
    pieces = (
        Piece(stored, start, None if size is None else min(start + size, stored.shape[0]))
        for stored in arrays
        for start in (range(1) if size is None else range(0, stored.shape[0], size))
    )
    number = len(arrays) if size is None else sum(-(-stored.shape[0] // size) for stored in arrays)
    # A batch has at least one sample, so the first N samples lie in the first N batches of perhaps billions.
    number = number if samples is None else min(number, samples)
    if number > MOST_BATCHES:
        raise DataError(
            f"{arrays[0].where} makes more than {MOST_BATCHES} batches{'' if size is None else f' of {size}'}; give "
            "fewer samples, such as '--samples 1000', or larger batches"
        )
    return list(islice(pieces, number))


def smaller(inputs: Sequence[Input], batches: Sequence[Mapping[str, Piece]]) -> list[dict[str, Piece]] | None:
    """Return the same samples in batches of an eighth of the size, from one sample on.

    None where there are no smaller ones: the model fixes their size, inputs have several open lengths, or each batch is
    one sample.
    """
    found: list[dict[str, Piece]] = []
    for batch in batches:
        cut = [each.name for each in inputs if each.fixed is None and batch[each.name].shape]
        lengths = {batch[name].shape[0] for name in cut}
        if len(lengths) != 1 or any(each.fixed in lengths for each in inputs):
            return None
        length = lengths.pop()
        size = -(-length // PARTS)
        for start in range(0, length, size):
            parts = {n: (batch[n].start + start, batch[n].start + min(start + size, length)) for n in cut}
            found.append({n: Piece(p.stored, *parts[n]) if n in parts else p for n, p in batch.items()})
    return found if len(found) > len(batches) else None


def _check_counts(pieces: Pieces, number: int) -> None:
    for name, cuts in pieces.items():
        if len(cuts) not in (1, number):
            most = next(name for name, cuts in pieces.items() if len(cuts) == number)
            raise DataError(
                f"every input needs the same number of batches, but {quote(most)} has {number} and "
                f"{quote(name)} has {len(cuts)}; give as many, or a single one for all batches"
            )


def _limit(inputs: Sequence[Input], pieces: Pieces, counting: Input | None, samples: int) -> Pieces:
    if counting is None:
        raise UsageError(
            f"the first {samples} samples were asked for, but no input has an axis that counts samples "
            f"({listing(each.name for each in inputs)}); leave the number out"
        )
    ends = list(accumulate(counting.samples_in(piece.shape) for piece in pieces[counting.name]))
    kept = bisect_right(ends, samples)
    if kept == len(ends):
        return pieces
    seen = ends[kept - 1] if kept else 0
    result: Pieces = {}
    for each in inputs:
        cuts = pieces[each.name]
        if len(cuts) == 1 and len(ends) > 1:
            result[each.name] = cuts
            continue
        result[each.name] = cuts[:kept]
        if seen < samples:
            last = cuts[kept]
            whole = bool(last.shape) and last.shape[0] == ends[kept] - seen
            if whole and (each.fixed is None or each is counting):
                last = Piece(last.stored, last.start, last.start + samples - seen)
            result[each.name].append(last)
    return result


def _check_remainders(inputs: Sequence[Input], pieces: Pieces, samples: int | None) -> None:
    for each in inputs:
        fixed = each.fixed
        odd = next((piece for piece in pieces[each.name] if fixed is not None and piece.shape[0] != fixed), None)
        if fixed is None or odd is None:
            continue
        total = sum(piece.shape[0] for piece in pieces[each.name])
        low = total // fixed * fixed
        choices = f"{low} or {low + fixed}" if low else f"{fixed}"
        if total % fixed == 0:
            choices = f"multiples of {fixed} in every file"
        limited = " that were asked for" if samples == total else ""
        raise DataError(
            f"the {total} samples{limited} of {odd.stored.where} do not divide into batches of {fixed}, to "
            f"which input {quote(each.name)} is fixed: {show_shape(each.shape)}; give {choices}, "
            "or export the model with a dynamic batch axis"
        )


def _check_named(inputs: Sequence[Input], batches: Sequence[Mapping[str, Piece]]) -> None:
    # A name stands for one length. Only names of first axes are held to it: there a difference surely is a mistake,
    # while exporters also write one word, such as "None" or "unk", for whatever they do not know.
    names = {each.shape[0] for each in inputs if each.shape and isinstance(each.shape[0], str)}
    names = {name for name in names if name.isidentifier() and name.lower() not in ("none", "unk", "unknown")}
    places = [(each, axis) for each in inputs for axis, dim in enumerate(each.shape or ()) if dim in names]
    for index, batch in enumerate(batches):
        seen: dict[object, tuple[Input, int, int]] = {}
        for each, axis in places:
            name = (each.shape or ())[axis]
            length = batch[each.name].shape[axis]
            other, where, before = seen.setdefault(name, (each, axis, length))
            if length != before:
                raise DataError(
                    f"the model has one length {quote(name)} for axis {where} of {quote(other.name)} and axis {axis} "
                    f"of {quote(each.name)}, but batch {index} has {before} and {length} there; give both alike, "
                    "in a folder with one file a batch where batches differ"
                )
