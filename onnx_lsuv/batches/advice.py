"""What to do about data that do not fit: a shape that looks like another layout, a file that is something else."""

from __future__ import annotations

import glob
import math
import os
import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from onnx_lsuv.errors import meant, quote
from onnx_lsuv.model.kinds import SUFFIXES

NEAR = 4096  # names of a folder that are compared with one that is missing
Dims = Sequence[int | str | None]


def fits(want: Dims, have: Sequence[int]) -> bool:
    """Tell whether an array of these lengths goes where a model wants those; names and unknown lengths fit all."""
    return len(want) == len(have) and all(
        not isinstance(dim, int) or dim == length for dim, length in zip(want, have, strict=True)
    )


def layout_advice(want: Dims, have: Sequence[int]) -> str:
    """Return what an array that does not fit looks like, and what to do; the first axis counts samples."""
    if len(want) == len(have):
        return _same_rank(want, have)
    if len(have) == len(want) - 1:
        if fits(want[1:], have):
            return "the batch axis is missing; give x[None]"
        if have and len(want) > 2 and fits(want[1:], (have[-1], *have[:-1])):
            order = (len(have) - 1, *range(len(have) - 1))
            return f"the batch axis is missing and the channels look to be last; give x.transpose{order}[None]"
        for axis in range(1, len(want)):
            if want[axis] == 1 and fits(want[1:], (*have[1:axis], 1, *have[axis:])):
                return f"axis {axis}, of length 1, is missing; give x[{':, ' * axis}None]"
    if len(have) == len(want) + 1 and fits(want, have[1:]):
        if have[0] == 1:
            return "there is one axis more than the model has; give x[0]"
        return (
            "there is one axis more than the model has; give a folder with one file a batch, or join the first two axes"
        )
    fixed = [dim for dim in want[1:] if isinstance(dim, int)]
    if have and len(fixed) == len(want) - 1 and math.prod(fixed) == math.prod(have[1:]):
        return f"a sample has as many values as the model wants; give x.reshape{(-1, *fixed)}"
    return f"expected {len(want)} axes, found {len(have)}; reshape it or give another array"


def _same_rank(want: Dims, have: Sequence[int]) -> str:
    rank = len(have)
    if rank > 2 and fits(want[1:], (have[-1], *have[1:-1])):
        order = (0, rank - 1, *range(1, rank - 1))
        return f"the channels look to be last (NHWC) where the model wants them first; give x.transpose{order}"
    if rank > 2 and fits(want[1:], (*have[2:], have[1])):
        order = (0, *range(2, rank), 1)
        return f"the channels look to be first (NCHW) where the model wants them last; give x.transpose{order}"
    if rank > 1 and fits(want[1:], have[-2::-1]):
        return "the axes look to be transposed; give x.T"
    if rank > 2 and fits(want[1:], (have[0], *have[2:])):
        return f"the first two axes look to be swapped; give x.transpose{(1, 0, *range(2, rank))}"
    axes = [i for i in range(1, rank) if isinstance(want[i], int) and want[i] != have[i]]
    return f"the length of axis {axes[0]} has to be {want[axes[0]]}, not {have[axes[0]]}"


def file_advice(path: Path, known: Sequence[str]) -> str:
    """Return what is wrong with a data file of another suffix than those known, and what to do."""
    suffix = path.suffix.lower()
    if suffix in SUFFIXES and (kind := SUFFIXES[suffix]).data:
        again = f", and write it with numpy.save as {quote(path.with_suffix('.npy'))}"
        return kind.data if suffix in (".onnx", ".ort", ".py") else kind.data + again
    what = f"an unknown extension {quote(path.suffix)}" if suffix else "no extension"
    return f"has {what}{meant(suffix, known)}; known are {', '.join(known)}"


def missing_advice(path: Path) -> str:
    """Return which file a path that leads nowhere was perhaps meant to name; "" where none is close."""
    if re.match(r"[a-z][a-z0-9+.-]+:[/\\]", str(path), re.IGNORECASE):  # a drive has one letter
        return ": it is an address, and nothing is read from the network; download it, and give the file"
    if glob.has_magic(path.name):
        return "; '*' is left to the shell, which found no such file; to give many files, give their folder"
    if path.is_symlink():
        return ": it is a link that leads nowhere"
    if not path.parent.is_dir():
        return f"; its folder {quote(path.parent)} does not exist either"
    try:
        with os.scandir(path.parent) as entries:
            names = [each.name for each in islice(entries, NEAR)]
    except OSError:
        return ""
    return meant(path.name, names)
