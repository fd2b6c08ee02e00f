"""What the measurements share: where models are made, how large, and the networks themselves."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import models
import numpy as np
from processes import MissingError
from rows import Bar, Row


@dataclass(frozen=True, slots=True)
class Bench:
    """A folder for models, data and outputs; whether a quick look is enough; the Python that has PyTorch."""

    folder: Path
    quick: bool
    torch_python: str

    def rounds(self, wanted: int) -> int:
        return 1 if self.quick else wanted


@dataclass(frozen=True, slots=True)
class Case:
    """What is measured at once: its name, of the form group/name, and how. It gives one row or several."""

    name: str
    title: str
    bar: Bar | None
    measure: Callable[["Case", Bench], list[Row]]


@dataclass(frozen=True, slots=True)
class Net:
    title: str
    write: Callable[..., Path]
    size: int  # width and height of an image


NETS = {
    "resnet50": Net("ResNet-50 without normalisation", models.resnet50, 224),
    "resnet50_bn": Net("ResNet-50 with BatchNormalization", partial(models.resnet50, norms=True), 224),
    "vgg16": Net("VGG-16", models.vgg16, 224),
    "mobilenet_v2": Net("MobileNet v2", models.mobilenet_v2, 224),
    "mobilenet_v2_bn": Net("MobileNet v2 with BatchNormalization", partial(models.mobilenet_v2, norms=True), 224),
    "squeezenet": Net("SqueezeNet", models.squeezenet, 224),
    "vit_tiny": Net("ViT-tiny", models.vit_tiny, 224),
    "fitnet4": Net("FitNet-4", models.fitnet4, 32),
}
QUICK = {"thin": 4, "size": 32}


def title_of(name: str, batch: int) -> str:
    return f"{NETS[name].title}, batch {batch}"


def model_of(bench: Bench, name: str) -> Path:
    """The file of a network, made when it is first asked for."""
    path = bench.folder / f"{name}.onnx"
    if not path.exists():
        NETS[name].write(path, **(QUICK if bench.quick else {}))
        settle(bench)
    return path


def images_of(bench: Bench, size: int, count: int) -> Path:
    """A file of so many square images; of at most 8 small ones for a quick look."""
    if bench.quick:
        size, count = QUICK["size"], min(count, 8)
    path = bench.folder / f"{count}x{size}.npy"
    if not path.exists():
        np.save(path, models.images(count, 3, size, size))
    return path


def need_room(bench: Bench, size: int) -> None:
    """See that so many bytes are free on the disk.

    Raises:
        MissingError: they are not.
    """
    free = shutil.disk_usage(bench.folder).free
    if free < size:
        raise MissingError(f"it needs {size / 1e9:.1f} GB on the disk and {free / 1e9:.1f} GB are free: see --folder")


def settle(bench: Bench) -> None:
    """Wait until what was written is on the disk, so that writing does not go on beside a measurement."""
    if not bench.quick:
        os.sync()
