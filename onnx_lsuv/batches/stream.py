"""What people hold in Python -> stored arrays: arrays, batches, loaders, calibration readers.

Whatever makes its batches while one walks is walked once, from its beginning as far as it is needed, and each batch is
kept, where the caller says: it may be made at random, from the network, or not a second time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from os import PathLike
from typing import Any, Protocol, cast

import ml_dtypes
import numpy as np

from onnx_lsuv.batches.inputs import Input
from onnx_lsuv.batches.plan import MOST_BATCHES, check_shape, unstacked
from onnx_lsuv.batches.stored import Load, Stored, reason, rows_of
from onnx_lsuv.batches.values import check_dtype
from onnx_lsuv.errors import DataError, listing, meant, quote
from onnx_lsuv.model import Array


class Reader(Protocol):
    """ONNX Runtime's CalibrationDataReader: the next batch, None after the last."""

    def get_next(self) -> Mapping[str, Any] | None:
        """Return {input name: array}."""


Data = Iterable[Any] | Reader | Callable[[], Any] | PathLike[str]
"""One array or batch, many, or what gives them: an iterable, a reader, a function that returns one of these; a path."""
Keep = Callable[[Array], Load]
Progress = Callable[[str, int, int], None]
HINT = "give {input name: array}, or a list, loader or generator of these"


def copied(array: Array) -> Load:
    """Keep an array in memory, as its maker may write the next batch into the same place."""
    return rows_of(array.copy())


def walk(
    inputs: Sequence[Input],
    data: Data,
    source: str = "",
    *,
    keep: Keep = copied,
    samples: int | None = None,
    progress: Progress | None = None,
) -> tuple[dict[str, list[Stored]], list[str]]:
    """Return the arrays of every input, one a batch, as many batches as have so many samples, and notes.

    Args:
        inputs: those to find data for.
        data: what is walked.
        source: what messages call it, such as " of 'data:batches'".
        keep: is given each array that nobody else keeps, and returns how to load it again.
        samples: how many are needed; None for all.
        progress: called with "read", the samples so far, and how many are needed, or 0.

    Raises:
        DataError: what is found does not fit the inputs.
    """
    batches, kept_by_others = _batches(data, source)
    found: dict[str, list[Stored]] = {each.name: [] for each in inputs}
    others: dict[str, None] = {}
    number = seen = 0
    for number, batch in enumerate(batches, 1):
        place = f"batch {number - 1}{source}"
        if number > MOST_BATCHES:
            raise DataError(f"there are more than {MOST_BATCHES} batches{source}; give '--samples' (samples=)")
        named = _named(inputs, batch, place)
        others |= dict.fromkeys(quote(key) for key in named if key not in found)
        counts = []
        for each in inputs:
            where = f"the array for {quote(each.name)} in {place}"
            array = as_array(named[each.name], where)
            stored = Stored(None, where, array.dtype, array.shape, rows_of(array))
            check_dtype(each, stored)
            for one in unstacked(each, stored):
                check_shape(each, one)
                counts += [each.samples_in(one.shape)] if one.shape else []
            load = stored.load if kept_by_others else keep(array)
            found[each.name].append(Stored(None, where, array.dtype, array.shape, load))
        seen += min(counts, default=1)
        if progress is not None and not kept_by_others:
            progress("read", min(seen, samples or seen), samples or 0)
        if samples is not None and seen >= samples:
            break
    if not number:
        raise DataError(f"at least one batch is needed, but none was given{source}; a generator gives each only once")
    left = f"{', '.join(others)} in the batches{source} left out: the model has no such input"
    return found, [left] if others else []


def _batches(data: Any, source: str) -> tuple[Iterable[Any], bool]:
    """Return the batches, and whether they are there already, so that nobody has to keep them."""
    if isinstance(data, Mapping) or _is_array(data):
        return [data], True
    if isinstance(data, list | tuple):
        return data, True
    if isinstance(data, type):
        return _batches(data(), source)
    if callable(getattr(data, "get_next", None)):
        return _read_out(data), False
    if not isinstance(data, str | bytes | PathLike):
        try:
            every = iter(data)
        except TypeError:
            pass
        else:
            # Those of Keras begin anew after the last one.
            return islice(every, _length(data)), False
        if callable(data):
            return _batches(data(), source)
    raise DataError(f"calibration data{source} cannot be of type {type(data).__name__}; {HINT}")


def _length(data: Any) -> int | None:
    try:
        return len(data)
    except Exception:  # whatever a loader of unknown length raises
        return None


def _read_out(reader: Reader) -> Iterator[Mapping[str, Any]]:
    while (batch := reader.get_next()) is not None:
        yield batch


def _is_array(value: Any) -> bool:
    return any(hasattr(value, name) for name in ("__array__", "__array_interface__", "numpy"))


def _named(inputs: Sequence[Input], batch: Any, place: str) -> Mapping[str, Any]:
    """Return the arrays of a batch by input; of a tuple or list, as loaders of (inputs, labels) give, the first."""
    if isinstance(batch, list | tuple) and batch:
        first = batch[0]
        if isinstance(first, Mapping | list | tuple) and not _is_plain(first):
            batch = first
        if isinstance(batch, list | tuple) and not _is_plain(batch):
            # What follows the arrays for the inputs, in their order, are labels.
            batch = dict(zip([each.name for each in inputs], batch, strict=False))
    if not isinstance(batch, Mapping):
        if len(inputs) != 1:
            names = listing(each.name for each in inputs)
            raise DataError(f"{place} is of type {type(batch).__name__}, but the model reads {names}; {HINT}")
        batch = {inputs[0].name: batch}
    for each in inputs:
        if each.name not in batch:
            keys = list(map(str, batch))
            raise DataError(
                f"{place} has no array for input {quote(each.name)} ({each.type_name}){meant(each.name, keys)}, but "
                f"{listing(keys) or 'nothing'}; every batch needs {listing(one.name for one in inputs)}"
            )
    return cast("Mapping[str, Any]", batch)


def _is_plain(values: Any) -> bool:
    """Whether a list is one of numbers, which make one array."""
    return not isinstance(values, Mapping) and all(
        not _is_array(one) and not isinstance(one, Mapping) and (not isinstance(one, list | tuple) or _is_plain(one))
        for one in values
    )


def as_array(value: Any, where: str) -> Array:
    """Return what NumPy makes of a value, a tensor of a framework, for example; raises DataError."""
    try:
        if hasattr(value, "detach"):  # of PyTorch: perhaps with a gradient, or on a GPU
            value = value.detach().cpu()
            if str(getattr(value, "dtype", "")) == "torch.bfloat16":  # which NumPy does not know
                value = value.float().numpy().astype(ml_dtypes.bfloat16)
        if not hasattr(value, "__array__") and hasattr(value, "numpy"):
            value = value.numpy()
        return np.asarray(value)
    except Exception as error:  # whatever a foreign __array__ raises
        raise DataError(f"{where} cannot be made a NumPy array: {reason(error)}; give a numpy.ndarray") from error
