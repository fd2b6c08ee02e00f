"""Images, by Pillow: a file is a sample, and the files of a folder, or of its folders, are one array.

Each is decoded when it is asked for: turned as its camera says, brought to the model's channels and size (scaled to
cover it, and cut around its middle), and x becomes (scale x - mean) / std, channel by channel. The model's shape says
which axis its channels are: [N, 3, H, W] or [N, H, W, 3], [N, H, W] for grey ones, and the same without N.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from onnx_lsuv.batches.inputs import Input, show_shape
from onnx_lsuv.batches.stored import Stored, open_file, optional, reason
from onnx_lsuv.batches.values import FLOATS
from onnx_lsuv.errors import DataError, UsageError, listing, quote
from onnx_lsuv.model import Array

BATCH = 32  # images run together where nobody says
MODES = {1: "L", 3: "RGB", 4: "RGBA"}


@dataclass(frozen=True, slots=True)
class Preparation:
    """How images become arrays.

    Attributes:
        size: height and width; None for the model's, or else those of the images.
        mean: of each channel, or one for all; none where empty.
        std: likewise.
        scale: of the pixels, 0 to 255; None for 1/255, or 1 where the model takes whole numbers.
    """

    size: tuple[int, int] | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    scale: float | None = None


def parse_preparation(size: str | None, mean: str | None, std: str | None, scale: str | None) -> Preparation:
    """Read "224" or "224x320" (height, width), "0.485,0.456,0.406", and "1/255" or a number; raises UsageError."""
    found = re.fullmatch(r"([1-9]\d{0,5})(?:[x,]([1-9]\d{0,5}))?", size.strip().lower()) if size else None
    if size is not None and not found:
        raise UsageError(f"--image-size takes a height and width such as 224 or 224x320, not {quote(size)}")
    pair = (int(found[1]), int(found[2] or found[1])) if found else None
    stds, scales = _numbers("std", std, "0.229,0.224,0.225"), _numbers("scale", scale, "1/255")
    if 0 in stds or 0 in scales or len(scales) > 1:
        raise UsageError("--image-std and --image-scale take numbers other than 0, the scale a single one")
    return Preparation(pair, _numbers("mean", mean, "0.485,0.456,0.406"), stds, scales[0] if scales else None)


def _numbers(name: str, text: str | None, example: str) -> tuple[float, ...]:
    found = []
    for part in text.split(",") if text else ():
        above, _, below = part.partition("/")
        try:
            number = float(above) / float(below or 1)
        except (ValueError, ZeroDivisionError):
            number = math.nan
        if not math.isfinite(number):
            raise UsageError(f"--image-{name} takes numbers such as {example}, not {quote(text)}")
        found.append(number)
    return tuple(found)


def taking_turns(folders: Sequence[Sequence[Path]]) -> tuple[Path, ...]:
    """Return the first of each folder, then the second of each, so that the first few are of every class."""
    return tuple(path for path in chain.from_iterable(zip_longest(*folders)) if path is not None)


@dataclass(frozen=True, slots=True)
class _Layout:
    channels: int
    axis: int | None  # of the channels in (height, width, channels) as the model has it; None: there is none
    size: tuple[int, int] | None


def read_images(inputs: Sequence[Input], name: str | None, paths: Sequence[Path], how: Preparation) -> Stored:
    """Return the images as one array for the input of that name, or the only one that takes some.

    Raises UsageError where it is open which input is meant, DataError for images that cannot be read or do not fit.
    """
    target, layout = _target(inputs, name, paths[0])
    for what, numbers in (("mean", how.mean), ("std", how.std)):
        if len(numbers) not in (0, 1, layout.channels):
            raise UsageError(f"--image-{what} has {len(numbers)} numbers for {layout.channels} channels; give as many")
    image: Any = optional("PIL.Image", f"the image {quote(paths[0])}", "onnx-lsuv[images]")
    ops: Any = optional("PIL.ImageOps", f"the image {quote(paths[0])}", "onnx-lsuv[images]")
    floats = target.dtype in FLOATS or how.scale not in (None, 1) or bool(how.mean or how.std)
    dtype = np.dtype(np.float32 if floats else np.uint8)

    def opened(path: Path) -> Any:
        with open_file(path) as file:
            try:
                read = ops.exif_transpose(image.open(file))
                if read.mode[0] in "IF":
                    raise ValueError("its pixels have more than 8 bits; load it in a function, module:function")
                return read.convert(MODES[layout.channels])
            except Exception as error:  # Pillow's decoders raise whatever they meet
                raise DataError(f"the image {quote(path)} cannot be read: {reason(error)}") from error

    wanted = how.size or layout.size
    height, width = wanted or opened(paths[0]).size[::-1]

    def decoded(path: Path) -> Array:
        read = opened(path)
        if wanted is not None:
            read = ops.fit(read, (width, height), image.Resampling.BILINEAR)
        elif read.size != (width, height):
            raise DataError(
                f"the image {quote(path)} has {read.height} x {read.width} pixels and {quote(paths[0])} {height} x "
                f"{width}; give '--image-size' for a model that leaves the size open"
            )
        values = np.asarray(read).reshape(height, width, layout.channels)
        if floats:
            scaled = values * (1 / 255 if how.scale is None else how.scale)
            values = (scaled - np.asarray(how.mean or 0.0)) / np.asarray(how.std or 1.0)
        return values.transpose(2, 0, 1) if layout.axis == 0 else values if layout.axis else values[..., 0]

    shape = {0: (layout.channels, height, width), 2: (height, width, layout.channels), None: (height, width)}

    def load(start: int, stop: int | None) -> Array:
        some = paths[start:stop]
        array = np.empty((len(some), *shape[layout.axis]), dtype)
        for index, path in enumerate(some):
            array[index] = decoded(path)
        return array

    where = f"the image {quote(paths[0])}" if len(paths) == 1 else f"the images from {quote(paths[0])} on"
    return Stored(target.name, where, dtype, (len(paths), *shape[layout.axis]), load, packed=True)


def _target(inputs: Sequence[Input], name: str | None, path: Path) -> tuple[Input, _Layout]:
    able = [(each, layout) for each in inputs if name in (None, each.name) and (layout := _layout(each))]
    if len(able) == 1:
        return able[0]
    if able:
        which = listing(each.name for each, _ in able)
        raise UsageError(f"the image {quote(path)} could be for any of {which}; say which with NAME=PATH")
    shapes = ", ".join(f"{quote(each.name)} {show_shape(each.shape)}" for each in inputs if name in (None, each.name))
    raise DataError(
        f"the image {quote(path)} fits no input ({shapes}): images go to [N, C, H, W] or [N, H, W, C] with 1, 3 or 4 "
        "channels; for others give a function, module:function"
    )


def _layout(each: Input) -> _Layout | None:
    """Return where an input has channels, height and width; None where it takes no images."""
    dims = each.shape or ()
    if len(dims) not in (3, 4) or each.dtype.kind not in "fiuV":
        return None
    one, two, three = (dim if isinstance(dim, int) else None for dim in dims[-3:])
    if len(dims) == 3 and one not in MODES and three not in MODES:
        return _Layout(1, None, _pair(two, three))
    if one in MODES or (one is None and three not in MODES):
        return _Layout(one or 3, 0, _pair(two, three))
    return _Layout(three or 3, 2, _pair(one, two)) if three in MODES else None


def _pair(height: int | None, width: int | None) -> tuple[int, int] | None:
    return (height, width) if height and width else None
