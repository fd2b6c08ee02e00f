"""Export new PyTorch networks in every way there is and run the command on each: `python tests/frameworks/exports.py`.

    python tests/frameworks/exports.py [--json PATH] [MODEL ...]

A person who starts a network writes it in PyTorch and exports it as it is, untrained. `MODELS` are such networks, small
ones, each of one kind; `WAYS` the ways to export them; `RUNS` the ways to call onnx-lsuv. It prints a row for each
file: how many layers the runs found, and what they left alone, but for products of two values that depend on the data.
The status is 1 if a run failed, missed a layer or left one alone. Those of transformers need that package.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.onnx import TrainingMode
from torch.onnx.errors import UnsupportedOperatorError

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from commands import invoke

BATCH = 4
SAMPLES = 16


# ---------------------------------------------------------------------------------------------------------- networks


def conv(channels: int, out: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    padding = kernel // 2
    layer = nn.Conv2d(channels, out, kernel, stride, padding, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(out))


class Residual(nn.Module):
    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(conv(channels, out, 3, stride), nn.ReLU(), conv(out, out))
        same = stride == 1 and channels == out
        self.skip = nn.Identity() if same else conv(channels, out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.branch(x) + self.skip(x))


def resnet() -> nn.Module:
    stem = [conv(3, 16, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    blocks = [Residual(*shape) for shape in ((16, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1))]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


class Inverted(nn.Module):
    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        wide = 4 * channels
        self.branch = nn.Sequential(
            conv(channels, wide, 1), nn.ReLU6(), conv(wide, wide, 3, stride, wide), nn.ReLU6(), conv(wide, out, 1)
        )
        self.adds = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x) if self.adds else self.branch(x)


def mobilenet() -> nn.Module:
    blocks = [Inverted(*shape) for shape in ((8, 8, 1), (8, 16, 2), (16, 16, 1))]
    ends = [conv(16, 64, 1), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(64, 10)]
    return nn.Sequential(conv(3, 8, 3, 2), nn.ReLU6(), *blocks, *ends)


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        widths = (3, 8, 16, 32)
        self.down = nn.ModuleList(self.block(a, b) for a, b in pairwise(widths))
        self.up = nn.ModuleList([nn.ConvTranspose2d(32, 16, 2, 2), nn.ConvTranspose2d(16, 8, 2, 2)])
        self.joined = nn.ModuleList([self.block(32, 16), self.block(16, 8)])
        self.head = nn.Conv2d(8, 2, 1)

    @staticmethod
    def block(channels: int, out: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(channels, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(), nn.Conv2d(out, out, 3, padding=1),
            nn.BatchNorm2d(out), nn.ReLU(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        first = self.down[0](x)
        second = self.down[1](functional.max_pool2d(first, 2))
        x = self.down[2](functional.max_pool2d(second, 2))
        for up, joined, skip in zip(self.up, self.joined, (second, first), strict=True):
            x = joined(torch.cat([up(x), skip], 1))
        return self.head(x)


class Attention(nn.Module):
    """Self-attention, the products of query, key and value in one layer."""

    def __init__(self, width: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, width = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        x = functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(x.transpose(1, 2).reshape(n, t, width))


class Block(nn.Module):
    def __init__(self, width: int, attention: nn.Module) -> None:
        super().__init__()
        self.norm1, self.norm2, self.attention = nn.LayerNorm(width), nn.LayerNorm(width), attention
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width), nn.Dropout(0.1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + (self.attention(y, y, y)[0] if isinstance(self.attention, nn.MultiheadAttention) else self.attention(y))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    def __init__(self, attention: Callable[[], nn.Module], width: int = 32) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, 8)
        self.token, self.place = nn.Parameter(torch.zeros(1, 1, width)), nn.Parameter(0.02 * torch.randn(1, 17, width))
        self.blocks = nn.Sequential(*(Block(width, attention()) for _ in range(2)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.place
        return self.head(self.norm(self.blocks(x))[:, 0])


class Decoder(nn.Module):
    """Of the kind of GPT-2; with `tied` the table of embeddings is the output layer too."""

    def __init__(self, *, tied: bool, width: int = 32, words: int = 50) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(words, width), nn.Embedding(16, width)
        self.blocks = nn.Sequential(*(Block(width, Attention(width, 4, causal=True)) for _ in range(2)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, words, bias=False)
        if tied:
            self.head.weight = self.words.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.words(tokens) + self.places(torch.arange(tokens.shape[1], device=tokens.device))
        return self.head(self.norm(self.blocks(x)))


class Recurrent(nn.Module):
    def __init__(self, kind: Callable[..., nn.Module], **options: Any) -> None:
        super().__init__()
        self.cells = kind(8, 16, batch_first=True, **options)
        self.head = nn.Linear(16 * (2 if options.get("bidirectional") else 1), 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cells(x)[0][:, -1])


def of_transformers(kind: str) -> nn.Module:
    """A network of the package transformers, without its weights.

    Raises:
        ImportError: it is not installed.
    """
    import transformers  # noqa: PLC0415 - not everybody has it

    if kind == "vit":
        config = transformers.ViTConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            image_size=32,
            patch_size=8,
        )
        return First(transformers.ViTForImageClassification(config))
    config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=50, n_positions=16, use_cache=False)
    return First(transformers.GPT2LMHeadModel(config))


class First(nn.Module):
    """The first output of a network of transformers."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x, return_dict=False)[0]


@dataclass(frozen=True)
class Net:
    make: Callable[[], nn.Module]
    layers: int  # nodes that are one
    shape: tuple[int, ...]  # of a sample
    tied: int = 0  # more of them, whose weight is an embedding too
    words: int = 0  # the samples are numbers below this


IMAGE = (3, 32, 32)
MODELS = {
    "resnet": Net(resnet, 11, IMAGE),
    "mobilenet": Net(mobilenet, 12, IMAGE),
    "unet": Net(UNet, 13, IMAGE),
    "vit": Net(lambda: ViT(lambda: Attention(32, 4, causal=False)), 10, IMAGE),
    "vit, MultiheadAttention": Net(lambda: ViT(lambda: nn.MultiheadAttention(32, 4, batch_first=True)), 10, IMAGE),
    "decoder": Net(lambda: Decoder(tied=False), 9, (12,), words=50),
    "decoder, tied": Net(lambda: Decoder(tied=True), 8, (12,), tied=1, words=50),
    "lstm": Net(lambda: Recurrent(nn.LSTM, num_layers=2, bidirectional=True), 5, (9, 8)),
    "gru": Net(lambda: Recurrent(nn.GRU, num_layers=2), 5, (9, 8)),
    "transformers vit": Net(lambda: of_transformers("vit"), 14, IMAGE),
    "transformers gpt2": Net(lambda: of_transformers("gpt2"), 8, (12,), tied=1, words=50),
}


# ------------------------------------------------------------------------------------------------------------- export


@dataclass(frozen=True)
class Way:
    options: Mapping[str, Any]
    train: bool = False  # the module is in training mode, as a new one is


SCRIPT = {"dynamo": False, "opset_version": 17}
KEPT = {**SCRIPT, "do_constant_folding": False}
WAYS = {
    "dynamo": Way({"dynamo": True}),
    "dynamo, not optimised": Way({"dynamo": True, "optimize": False}),
    "TorchScript, eval": Way(SCRIPT),
    "TorchScript, training": Way({**KEPT, "training": TrainingMode.TRAINING}, train=True),
    "TorchScript, as README says": Way({**KEPT, "training": TrainingMode.PRESERVE}, train=True),
    "TorchScript, initializers as inputs": Way(
        {**KEPT, "training": TrainingMode.PRESERVE, "keep_initializers_as_inputs": True}, train=True
    ),
    "TorchScript, in eval mode as README says": Way({**KEPT, "training": TrainingMode.PRESERVE}),
}


def samples(net: Net, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    if net.words:
        return torch.randint(0, net.words, (count, *net.shape), generator=generator)
    return torch.randn(count, *net.shape, generator=generator)


def export(net: Net, way: Way, path: Path, *, free: bool) -> None:
    """Write a new network as ONNX; its batch axis is free, or fixed to `BATCH`."""
    torch.manual_seed(0)
    module, options = net.make().train(way.train), dict(way.options)
    if free and options["dynamo"]:
        options["dynamic_shapes"] = ({0: torch.export.Dim("batch", min=2)},)
    elif free:
        options["dynamic_axes"] = {"x": {0: "batch"}, "y": {0: "batch"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside PyTorch
        given = (samples(net, BATCH),)
        torch.onnx.export(module, given, path, input_names=["x"], output_names=["y"], verbose=False, **options)


# ---------------------------------------------------------------------------------------------------------------- run

SEVERAL = ("--batch-size", str(BATCH))
RUNS: dict[str, tuple[str, ...]] = {
    "one batch": (),
    "several": SEVERAL,
    "portable": ("--portable",),
    "center": ("--center",),
    "keep-bias": ("--keep-bias", *SEVERAL),
    "fresh": ("--fresh",),
}


@dataclass
class Row:
    """What came of a file: for each run its status and what was left alone, and what is wrong with that."""

    model: str
    way: str
    free: bool
    cells: dict[str, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


def tried(name: str, way: str, folder: Path, *, free: bool, runs: Iterable[str] = RUNS) -> Row:
    """Export a network and run the command on it."""
    net, row = MODELS[name], Row(name, way, free)
    path, data, out = folder / "m.onnx", folder / "x.npy", folder / "o.onnx"
    export(net, WAYS[way], path, free=free)
    np.save(data, samples(net, SAMPLES).numpy())

    def call(run: str, *arguments: str, check: bool = True) -> None:
        report = folder / "report.json"
        ran = invoke([*arguments, "--report", str(report), "--force", "-q"])
        if ran.status or not report.exists():
            row.cells[run] = f"exit {ran.status}"
            row.wrong.append(f"{run}: exit {ran.status}: {ran.stderr.strip()[-400:]}")
            return
        found = json.loads(report.read_text())
        report.unlink()
        # A product of two values that depend on the data, as attention has, is no layer.
        left = [each for each in found["left"] if each["weight"] is not None or each["reason"] != "dynamic"]
        named = dict.fromkeys(f"{each['op']} {each['reason']}" for each in left)
        kept = len(found["statistics_kept"])
        row.cells[run] = ", ".join([str(len(found["layers"])), *named, *([f"{kept} statistics kept"] if kept else [])])
        # An exporter that folds constants writes a tied weight's transpose as a tensor of its own.
        tied = sum(each["reason"] == "tied" for each in left)
        if len(found["layers"]) + tied != net.layers + net.tied:
            row.wrong.append(f"{run}: {len(found['layers'])} layers and {tied} tied, not {net.layers} and {net.tied}")
        if len(left) > min(tied, net.tied):
            row.wrong += [f"{run}: left {each['name']!r}: {each['reason']}, {each['detail']}" for each in left]
        bad = [each for each in found["layers"] if check and each["status"] not in ("ok", "drawn", "shared", "found")]
        row.wrong += [f"{run}: {each['name']} is {each['status']}" for each in bad]

    call("dry run", str(path), "--dry-run")
    # A fixed batch axis cuts the data into batches by itself.
    given = ("-d", str(data), "-o", str(out))
    for run in runs:
        options = RUNS[run] if free else tuple(o for o in RUNS[run] if o not in SEVERAL)
        few = ("--samples", str(BATCH)) if not free and SEVERAL[0] not in RUNS[run] else ()
        call(run, str(path), *given, *options, *few)
        if run in ("one batch", "several") and f"{run}: exit" not in "".join(row.wrong):
            call(f"check {run}", str(out), "-d", str(data), "--check", "--tolerance", "0.01", *options, *few)
    return row


def rows(names: Iterable[str], folder: Path) -> Iterator[Row]:
    for name in names:
        for way in WAYS:
            for free in (True, False):
                try:
                    yield tried(name, way, folder, free=free)
                except UnsupportedOperatorError as error:
                    yield Row(name, way, free, {"export": f"PyTorch refuses it: {str(error).partition(' to ONNX')[0]}"})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(MODELS), metavar="MODEL", help=", ".join(MODELS))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found = []
    with TemporaryDirectory() as folder:
        for row in rows(args.models, Path(folder)):
            found.append(row)
            same = dict.fromkeys(row.cells.values())
            cells = next(iter(same)) if len(same) == 1 else "; ".join(f"{k}: {v}" for k, v in row.cells.items())
            print(f"| {row.model} | {row.way} | {'free' if row.free else 'fixed'} | {cells} |", flush=True)
            lines = dict.fromkeys(line.partition(": ")[2] for line in row.wrong)
            for line in lines:
                print(f"    {line}", flush=True)
    if args.json:
        args.json.write_text(json.dumps([vars(row) for row in found], indent=1))
    return int(any(row.wrong for row in found))


if __name__ == "__main__":
    sys.exit(main())
