"""Images and text, by path, in parts: to train on, to choose a rate by, to report.

CIFAR-10 is read from `cifar10_jpeg.npz` or its own `data_batch_*.bin` and `test_batch.bin`, MNIST from
`mnist_test.npz` or its own `t10k-*-ubyte`, packed or not; text is what Python's documentation holds.
"""

import gzip
from functools import cache
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import torch
from torch import Tensor

Part = tuple[Tensor, Tensor]  # what the net is called with, and what it is to say
Parts = dict[str, Part]
MARKS, GAP, LONG = 8, 64, 256


class NoDataError(Exception):
    """What a net is trained on is not in the folder."""


def raw_cifar(folder: Path) -> tuple[np.ndarray, ...]:
    """Training images (n, 32, 32, 3) and labels, test images and labels."""
    if (path := folder / "cifar10_jpeg.npz").exists():
        held = np.load(path)
        return tuple(held[name] for name in held.files[:4])
    for place in (folder, folder / "cifar-10-batches-bin"):
        if (place / "test_batch.bin").exists():
            read = [*sorted(place.glob("data_batch_*.bin"))], [place / "test_batch.bin"]
            rows = [np.concatenate([np.fromfile(p, np.uint8).reshape(-1, 3073) for p in paths]) for paths in read]
            return tuple(
                each for r in rows for each in (r[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), r[:, 0])
            )
    raise NoDataError(f"neither cifar10_jpeg.npz nor CIFAR-10's own test_batch.bin is in {folder}: see --data")


def raw_mnist(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """MNIST's 10,000 test images (n, 28, 28) and labels."""
    if (path := folder / "mnist_test.npz").exists():
        held = np.load(path)
        return held[held.files[0]], held[held.files[1]]
    for opened, ending in ((open, ""), (gzip.open, ".gz")):
        files = [folder / f"t10k-{name}-ubyte{ending}" for name in ("images-idx3", "labels-idx1")]
        if all(file.exists() for file in files):
            parts = []
            for file in files:
                with opened(file, "rb") as stream:
                    parts.append(np.frombuffer(stream.read(), np.uint8))
            return parts[0][16:].reshape(-1, 28, 28), parts[1][8:]
    raise NoDataError(f"neither mnist_test.npz nor MNIST's own t10k-images-idx3-ubyte is in {folder}: see --data")


def halved(images: np.ndarray) -> np.ndarray:
    """Means of 2x2 pixels of (n, h, w, channels)."""
    n, h, w, c = images.shape
    return images.reshape(n, h // 2, 2, w // 2, 2, c).mean((2, 4))


def prepared(images: np.ndarray, mean: np.ndarray, std: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(((images - mean) / std).transpose(0, 3, 1, 2), np.float32))


def parted(train: tuple, held: tuple, choose: int) -> Parts:
    """Standardise by channels of the training images, and part the held images, which files may hold by class."""
    order = np.random.default_rng(0).permutation(len(held[1]))
    held = held[0][order], held[1][order]
    mean, std = train[0].mean((0, 1, 2)), train[0].std((0, 1, 2))
    images, labels = prepared(held[0], mean, std), torch.from_numpy(held[1].astype(np.int64))
    return {
        "train": (prepared(train[0], mean, std), torch.from_numpy(train[1].astype(np.int64))),
        "choose": (images[:choose], labels[:choose]),
        "report": (images[choose:], labels[choose:]),
    }


@cache
def cifar(folder: Path, *, small: bool = False) -> Parts:
    images, labels, held, held_labels = raw_cifar(folder)
    shrink = halved if small else np.asarray
    some = np.random.default_rng(1).permutation(len(held))[:3000]
    held, held_labels = held[some], held_labels[some]
    return parted((shrink(images) / 255.0, labels.ravel()), (shrink(held) / 255.0, held_labels.ravel()), 1000)


@cache
def mnist(folder: Path) -> Parts:
    images, labels = raw_mnist(folder)
    images = halved(images[..., None]) / 255.0
    return parted((images[:8000], labels[:8000]), (images[8000:], labels[8000:]), 667)


@cache
def text(folder: Path, *, length: int = 64) -> Parts:
    """Contexts of characters, and the characters that follow each; every eighth topic is held out."""
    del folder
    every = [topics[name] for name in sorted(topics)]
    known = {c: i for i, c in enumerate(sorted(set("".join(every))))}
    train, held = ("".join(t for i, t in enumerate(every) if (i % 8 == 7) is out) for out in (False, True))

    def contexts(words: str, count: int | None = None) -> Tensor:
        codes = torch.tensor([known[c] for c in words])
        count = count or (len(codes) - 1) // length
        starts = torch.linspace(0, len(codes) - length - 1, count).long()
        return codes[starts[:, None] + torch.arange(length + 1)]

    chosen = contexts(held, 240 * 64 // length)
    third = len(chosen) // 3
    # A context to choose by lies before all that are reported, so no character is in both.
    parts = {"train": contexts(train), "choose": chosen[:third], "report": chosen[third + 1 :]}
    return {name: (each[:, :-1].contiguous(), each[:, 1:].contiguous()) for name, each in parts.items()}


CHARACTERS = len(set("".join(topics.values())))


@cache
def marks(folder: Path) -> Parts:
    """A task of memory: noise with one of 8 marks about every 64 steps; at each step, the last mark is to be said."""
    del folder
    draw = torch.Generator().manual_seed(0)

    def made(count: int) -> Part:
        noise = torch.randint(MARKS, 2 * MARKS, (count, LONG), generator=draw)
        mark = torch.randint(MARKS, (count, LONG), generator=draw)
        shown = torch.rand(count, LONG, generator=draw) < 1 / GAP
        shown[:, 0] = True
        place = torch.where(shown, torch.arange(LONG), 0).cummax(1).values
        return torch.where(shown, mark, noise), mark.gather(1, place)

    return {"train": made(4096), "choose": made(64), "report": made(128)}
