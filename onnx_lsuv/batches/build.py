"""The three ways in, paths, arrays and random draws, and the result: a sequence of batches."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from onnx_lsuv.batches.draw import batches_for, complete_shapes, draw_input
from onnx_lsuv.batches.images import BATCH, Preparation
from onnx_lsuv.batches.inputs import Input, show_shape
from onnx_lsuv.batches.memory import check_memory, check_sums, hold
from onnx_lsuv.batches.plan import plan_batches, smaller
from onnx_lsuv.batches.sources import Source, read_sources
from onnx_lsuv.batches.stored import Stored, default_limit, held
from onnx_lsuv.batches.stream import Data, Keep, Progress, copied, walk
from onnx_lsuv.batches.values import INTS, Piece, Stats, check_dtype, read_piece, scan
from onnx_lsuv.errors import DataError, UsageError, quote
from onnx_lsuv.model import Array

Batch = Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Batches:
    """The calibration data, checked against the model: a sequence of batches, read when asked for."""

    inputs: tuple[Input, ...]
    sources: tuple[Source, ...]
    samples: int | None  # None: no input has an axis that counts them
    facts: tuple[str, ...]  # what is to be said beside what the values look like
    converted: Mapping[str, tuple[str, ...]]  # by input: from which types
    stats: Mapping[str, Stats]
    pieces: tuple[Mapping[str, Piece], ...]

    def __len__(self) -> int:
        return len(self.pieces)

    def __getitem__(self, index: int) -> Batch:
        pieces = self.pieces[index]
        return {each.name: read_piece(each, pieces[each.name]) for each in self.inputs}

    def __iter__(self) -> Iterator[Batch]:
        return (self[index] for index in range(len(self)))

    def smaller(self) -> Batches | None:
        """Return the same samples in smaller batches; None where there are none."""
        pieces = smaller(self.inputs, self.pieces)
        return replace(self, pieces=tuple(pieces)) if pieces else None

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be known about the data."""
        return self.notes_for(())

    def notes_for(self, prepared: Container[str]) -> tuple[str, ...]:
        """Return what is to be known about the data, where the model itself prepares some of its inputs."""
        images = {name for source in self.sources if source.kind == "images" for name in source.inputs}
        remarks = [
            _remarks(
                each,
                self.stats[each.name],
                self.converted[each.name],
                prepared=each.name in prepared,
                by=" with '--image-mean' and '--image-std'" if each.name in images else "",
            )
            for each in self.inputs
        ]
        return (*self.facts, *(remark for some in remarks for remark in some))

    def describe(self) -> dict[str, Any]:
        """Return what the data are as JSON holds it: sources, samples, and each input's type, shape and moments."""
        return {
            "batches": len(self),
            "samples": self.samples,
            "sources": [
                {
                    "kind": source.kind,
                    "inputs": list(source.inputs),
                    **({"path": source.path, "files": source.files} if source.path is not None else {}),
                    **({"seed": source.seed} if source.seed is not None else {}),
                }
                for source in self.sources
            ],
            "inputs": {each.name: self._describe_input(each) for each in self.inputs},
        }

    def _describe_input(self, each: Input) -> dict[str, Any]:
        pieces, stats = _distinct(self.pieces, each), self.stats[each.name]
        moments = {"mean": stats.mean, "std": stats.std, "min": stats.low, "max": stats.high}
        return {
            "type": each.type_name,
            "declared": None if each.shape is None else list(each.shape),
            "shape": list(pieces[0].shape),  # of the first batch; only the last may differ in its first length
            "batches": len(pieces),  # 1: the same for every batch
            "values": stats.count,
            **{key: value for key, value in moments.items() if value is not None},
        }


def from_paths(
    inputs: Sequence[Input],
    data: Sequence[str],
    *,
    batch_size: int | None = None,
    samples: int | None = None,
    limit_bytes: int | None = None,
    keep: Keep = copied,
    images: Preparation | None = None,
    progress: Progress | None = None,
) -> Batches:
    """Read the values of repeated `--data [NAME=]PATH`; module:function, which is none, is called.

    `keep` is for what a function gives, as in `from_arrays`; `images` says how images become arrays; `limit_bytes`
    bounds what a batch may be unpacked or converted to, and what of compressed data is held between batches; an eighth
    of the physical memory unless given.
    Raises UsageError for options that do not go together, DataError for data that are broken or do not fit.
    """
    # Running a batch takes several times as much.
    limit = default_limit() // 4 if limit_bytes is None else limit_bytes
    found, sources, notes = read_sources(
        inputs, data, limit, keep=keep, samples=samples, images=images, progress=progress
    )
    if batch_size is None and any(source.kind == "images" for source in sources):
        batch_size = _of_images(inputs, found, limit)
    return _build(inputs, found, sources, notes, batch_size=batch_size, samples=samples, limit=limit)


def _of_images(inputs: Sequence[Input], found: Mapping[str, Sequence[Stored]], limit: int) -> int | None:
    """Return how many images make a batch, so that folders of any size can be run; None where more says so."""
    numbers = {stored.shape[0] for each in inputs for stored in found[each.name] if stored.shape}
    if len(numbers) > 1 or any(each.fixed is not None for each in inputs):
        return None
    row = sum(math.prod(found[each.name][0].shape[1:]) * each.dtype.itemsize for each in inputs)
    return max(1, min(BATCH, limit // (4 * max(row, 1))))


def from_arrays(
    inputs: Sequence[Input],
    data: Data,
    *,
    batch_size: int | None = None,
    samples: int | None = None,
    keep: Keep = copied,
    progress: Progress | None = None,
) -> Batches:
    """Take one batch, or a list, loader, reader or generator of them, by the same rules as files; raises DataError.

    A batch is {input name: array}, or an array for the only input, or such in a tuple or list before labels, which are
    not looked at. Arrays are what NumPy can make one of: PyTorch's tensors, for example. What makes its batches while
    one walks is walked once, and `keep`, as `Scratch.rows`, says where they are then: in memory unless given.
    """
    found, notes = walk(inputs, data, keep=keep, samples=samples, progress=progress)
    source = Source("arrays", tuple(each.name for each in inputs))
    return _build(inputs, found, [source], notes, batch_size=batch_size, samples=samples)


def from_random(
    inputs: Sequence[Input],
    shapes: Mapping[str, Sequence[int]],
    *,
    seed: int,
    batches: int | None = None,
    high: Mapping[str, int] | None = None,
    batch_size: int | None = None,
    samples: int | None = None,
    limit_bytes: int | None = None,
) -> Batches:
    """Draw standard normal floats, integers in [0, high[name]) (2 unless given), fair bools; raises UsageError.

    Unless a number of batches is given, there are several where the model fixes the first axis of every input.
    """
    if batches is not None and batches < 1:
        raise UsageError(f"{batches} batches of random data were asked for; ask for at least 1")
    limit = default_limit() if limit_bytes is None else limit_bytes
    found: dict[str, list[Stored]] = {}
    notes: list[str] = []
    complete = complete_shapes(inputs, shapes)
    if batches is None:
        batches = batches_for(inputs, shapes, complete, samples)
    for each in inputs:
        where = f"the random array for {quote(each.name)}"
        drawn = draw_input(
            each, complete[each.name], seed, batches=batches, high=(high or {}).get(each.name, 2), limit=limit
        )
        found[each.name] = [held(where, array) for array in drawn]
        if each.dtype in INTS and each.name not in (high or {}):
            notes.append(f"input {quote(each.name)} is given random integers 0 and 1; real data will say more")
    sources = [Source("random", tuple(found), seed=seed)]
    return _build(inputs, found, sources, notes, batch_size=batch_size, samples=samples)


def _build(
    inputs: Sequence[Input],
    found: Mapping[str, Sequence[Stored]],
    sources: Sequence[Source],
    notes: Sequence[str],
    *,
    batch_size: int | None,
    samples: int | None,
    limit: int | None = None,
) -> Batches:
    for value, what in ((batch_size, "a batch size"), (samples, "a number of samples")):
        if value is not None and value < 1:
            raise UsageError(f"{what} of {value} was asked for; ask for at least 1")
    # What has to be converted, without repetition.
    every = {each.name: [check_dtype(each, stored) for stored in found[each.name]] for each in inputs}
    converted = {name: tuple(dict.fromkeys(what for what in each if what)) for name, each in every.items()}
    pieces, total = plan_batches(inputs, found, batch_size, samples)
    if limit is not None:  # the data come from files
        check_memory(inputs, pieces, limit)
        check_sums(pieces)
        pieces = hold(inputs, pieces, limit)
    stats = {each.name: scan(each, _distinct(pieces, each)) for each in inputs}
    if len(inputs) == 1 and stats[inputs[0].name].count == 0:
        one = found[inputs[0].name][0]
        raise DataError(f"{one.where} has the shape {show_shape(one.shape)} and so no values; give some")
    facts = list(notes)
    if samples is not None and total is not None and total < samples:
        facts.append(f"{samples} samples were asked for, but there are {total}; all of them are used")
    if total == 1:
        facts.append("there is one sample only, so all statistics are those of one sample; give more where you can")
    return Batches(tuple(inputs), tuple(sources), total, tuple(facts), converted, stats, tuple(pieces))


def _distinct(batches: Sequence[Mapping[str, Piece]], each: Input) -> list[Piece]:
    """Return an input's pieces, one that is repeated for every batch only once."""
    pieces = [batch[each.name] for batch in batches]
    return pieces[:1] if all(piece is pieces[0] for piece in pieces) else pieces


def _remarks(each: Input, stats: Stats, converted: Sequence[str], *, prepared: bool, by: str) -> list[str]:
    name = quote(each.name)
    notes = []
    for what in converted:
        raw = what.startswith("uint8") and (stats.high or 0) > 1 and each.dtype not in INTS and not prepared
        reach = f"; its values reach {stats.high:g}, as pixels do that were not preprocessed" if raw else ""
        notes.append(f"input {name} is converted from {what}{reach}")
    if stats.mean is None or stats.std is None or stats.count < 2:
        return notes
    if stats.low == stats.high:
        notes.append(
            f"input {name} is constant ({stats.mean:.4g} everywhere), so it says nothing about the first layers"
        )
    elif not prepared and (abs(stats.mean) > 0.5 or not 0.5 <= stats.std <= 2):
        low, high = stats.low or 0.0, stats.high or 0.0
        image = each.shape is not None and len(each.shape) > 2
        raw = image and not any(what.startswith("uint8") for what in converted) and low >= 0 and 16 < high <= 255
        pixels = f"; {low:g} to {high:g} looks like raw pixels" if raw else ""
        notes.append(
            f"input {name} has mean {stats.mean:.4g} and std {stats.std:.4g}{pixels}; the first layer sees the data "
            f"raw, so preprocess them as in training{by}, to about zero mean and unit variance"
        )
    return notes
