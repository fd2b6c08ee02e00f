"""Which start lets a thin, deep, plain network train: six initialisations, four activations.

    python tests/benchmarks/thin_nets.py --cache FOLDER [--json PATH] [--pictures FOLDER] [--jobs 2]

The network has 30 convolutions of 3x3 with 16 channels (for maxout 2 x 16), no normalisation and no skips, max pooling
after the 5th and the 15th, and a linear classifier; the data are scikit-learn's 8x8 digits: 1197 images to train, 300
to choose the learning rate, 300 to test. Training is SGD with momentum 0.9, 440 steps, batches of 64; the learning
rate is the one of four with the best mean validation accuracy over three seeds, for each cell of the table by itself.

A start takes the way that a user's takes: the network as an ONNX file (made with `onnx.helper`, with the values that
PyTorch gave), a second file from onnx_lsuv, whose initializers are loaded by name into a hand-written PyTorch module.
PyTorch's default and Xavier (`xavier_normal_`, biases zero) are PyTorch's own, and trained from the first file.
The standard deviation of every layer, as onnx_lsuv measures it in the file, must be what PyTorch computes.

All 12 runs of a cell are trained side by side, as groups of one network: no value passes from one group to another, so
each run takes the steps that it would take alone. No run is cut short; one that diverges counts with what it predicts.
Finished cells are kept in the cache folder and used again while their files and settings are the same. Needs PyTorch
and scikit-learn; matplotlib for --pictures.
"""

import argparse
import json
import os
import platform
import re
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from hashlib import sha256
from importlib.metadata import version
from io import StringIO
from itertools import product
from math import isclose
from multiprocessing import get_context
from pathlib import Path
from statistics import mean

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

import onnx_lsuv

DEPTH, WIDTH, POOLED_AFTER = 30, 16, (5, 15)
RATES, SEEDS, STEPS, BATCH, MOMENTUM = (0.03, 0.01, 0.003, 0.001), (0, 1, 2), 440, 64, 0.9
MEASURED_ON = 256  # images
STUCK = 0.15  # no better than guessing, which gives 0.1
# What onnx_lsuv is asked for; nothing where PyTorch's own functions give the values.
INITS: dict[str, dict | None] = {
    "PyTorch default": None,
    "Xavier": None,
    "He": {"init": "he", "rescale": False},
    "orthonormal": {"init": "orthonormal", "rescale": False},
    "LSUV": {},
    "LSUV from He": {"init": "he"},
}
SHOWN = tuple(INITS)[:5]  # in the pictures; the last one lies on LSUV's line
SETTINGS = {"rates": RATES, "seeds": SEEDS, "steps": STEPS, "batch": BATCH, "momentum": MOMENTUM}


@dataclass(frozen=True)
class Activation:
    """An activation in PyTorch, given the number of runs side by side, and as ONNX nodes: (inputs, outputs, name)."""

    torch: Callable[[Tensor, int], Tensor]
    nodes: Callable[[str, str], list[onnx.NodeProto]]
    pieces: int = 1


def maxout(z: Tensor, runs: int) -> Tensor:
    n, channels, *size = z.shape
    return z.view(n, runs, 2, channels // runs // 2, *size).amax(2).flatten(1, 2)


def maxout_nodes(x: str, y: str) -> list[onnx.NodeProto]:
    halves = [f"{y}.first", f"{y}.second"]
    return [helper.make_node("Split", [x], halves, f"{y}.split", axis=1), helper.make_node("Max", halves, [y], y)]


def one_node(op: str, x: str, y: str, **attributes: float) -> list[onnx.NodeProto]:
    return [helper.make_node(op, [x], [y], y, **attributes)]


ACTIVATIONS = {
    "ReLU": Activation(lambda z, runs: torch.relu(z), partial(one_node, "Relu")),
    "tanh": Activation(lambda z, runs: torch.tanh(z), partial(one_node, "Tanh")),
    "leaky ReLU 0.3": Activation(
        lambda z, runs: nn.functional.leaky_relu(z, 0.3), partial(one_node, "LeakyRelu", alpha=0.3)
    ),
    "maxout": Activation(maxout, maxout_nodes, pieces=2),
}


class Thin(nn.Module):
    """`runs` thin networks side by side: images (n, runs, 8, 8) to logits (n, runs, 10)."""

    def __init__(self, activation: Activation, runs: int = 1) -> None:
        super().__init__()
        self.activation, self.runs = activation, runs
        out = runs * WIDTH * activation.pieces
        self.convs = nn.ModuleList(
            nn.Conv2d(runs * (WIDTH if i else 1), out, 3, padding=1, groups=runs) for i in range(DEPTH)
        )
        self.top = nn.Conv2d(runs * WIDTH, runs * 10, 2, groups=runs)

    def forward(self, x: Tensor) -> Tensor:
        for i, conv in enumerate(self.convs, 1):
            x = self.activation.torch(conv(x), self.runs)
            if i in POOLED_AFTER:
                x = nn.functional.max_pool2d(x, 2)
        return self.top(x).view(len(x), self.runs, 10)


def write_onnx(net: Thin, path: Path) -> None:
    """Write the network of one run as an ONNX file; its initializers have the names of the module's state."""
    nodes, x = [], "image"
    for i in range(DEPTH):
        z, y = f"convs.{i}", f"activation.{i}"
        inputs = [x, f"{z}.weight", f"{z}.bias"]
        nodes.append(helper.make_node("Conv", inputs, [z], z, kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
        nodes += net.activation.nodes(z, y)
        x = y
        if i + 1 in POOLED_AFTER:
            x = f"pool.{i}"
            nodes.append(helper.make_node("MaxPool", [y], [x], x, kernel_shape=[2, 2], strides=[2, 2]))
    nodes.append(helper.make_node("Conv", [x, "top.weight", "top.bias"], ["top"], "top", kernel_shape=[2, 2]))
    nodes.append(helper.make_node("Flatten", ["top"], ["logits"], "flatten"))
    graph = helper.make_graph(
        nodes,
        "thin",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(values.numpy(), name) for name, values in net.state_dict().items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def read_state(path: Path) -> dict[str, Tensor]:
    """The initializers of an ONNX file by name."""
    return {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in onnx.load(path).graph.initializer}


@cache
def digits() -> dict[str, tuple[Tensor, Tensor]]:
    """Images (n, 8, 8), standardised by the training images, and labels, for training, validation and test."""
    images, labels = load_digits(return_X_y=True)
    rest, test, rest_labels, test_labels = train_test_split(
        images, labels, test_size=300, random_state=0, stratify=labels
    )
    train, valid, train_labels, valid_labels = train_test_split(
        rest, rest_labels, test_size=300, random_state=0, stratify=rest_labels
    )
    parts = {"train": (train, train_labels), "valid": (valid, valid_labels), "test": (test, test_labels)}
    return {
        part: (torch.from_numpy((x - train.mean()) / train.std()).float().view(-1, 8, 8), torch.from_numpy(y))
        for part, (x, y) in parts.items()
    }


def file_of(folder: Path, activation: str, init: str, seed: int) -> Path:
    return folder / f"{activation} {init} {seed}.onnx".replace(" ", "_")


def initialise(folder: Path, activation: str, init: str, seed: int) -> list[float]:
    """Write the start of one seed as an ONNX file; return the std of each layer's output by onnx_lsuv."""
    batch = {"image": digits()["train"][0][:MEASURED_ON, None].numpy()}
    path = file_of(folder, activation, init, seed)
    how = INITS[init]
    template = path.with_suffix(".template")
    torch.manual_seed(seed)
    net = Thin(ACTIVATIONS[activation])
    if init == "Xavier":
        for parameter in net.parameters():
            (nn.init.xavier_normal_ if parameter.ndim > 1 else nn.init.zeros_)(parameter)
    write_onnx(net, path if how is None else template)
    if how is not None:
        result = onnx_lsuv.initialize(onnx_lsuv.load(template), batch, seed=seed, **how)
        onnx_lsuv.save(result.model, path, force=True)
        template.unlink()
    return [layer.std for layer in onnx_lsuv.measure(onnx_lsuv.load(path), batch).layers]


def spread(folder: Path, activation: str, init: str, seed: int) -> tuple[list[float], list[float]]:
    """Std of each layer's output by PyTorch: over everything, and over the images alone at the same place."""
    net = Thin(ACTIVATIONS[activation])
    net.load_state_dict(read_state(file_of(folder, activation, init, seed)))
    every: list[float] = []
    images: list[float] = []

    def look(module: nn.Module, args: object, output: Tensor) -> None:
        wide = output.double()
        every.append(wide.std(correction=0).item())
        images.append(wide.var(0, correction=0).mean().sqrt().item())

    for conv in (*net.convs, net.top):
        conv.register_forward_hook(look)
    with torch.no_grad():
        net(digits()["train"][0][:MEASURED_ON, None])
    return every, images


def orders(seed: int) -> Tensor:
    """Which training images each step takes, (steps, batch): one shuffled pass after another."""
    shuffle, count = torch.Generator().manual_seed(seed), len(digits()["train"][1])
    passes = [torch.randperm(count, generator=shuffle) for _ in range(-(-STEPS * BATCH // count))]
    return torch.cat(passes)[: STEPS * BATCH].view(STEPS, BATCH)


def train(folder: Path, activation: str, init: str) -> list[dict]:
    """Train one start with every learning rate and seed; what each run came to."""
    runs = list(product(RATES, SEEDS))
    states = {seed: read_state(file_of(folder, activation, init, seed)) for seed in SEEDS}
    net = Thin(ACTIVATIONS[activation], len(runs))
    net.load_state_dict({name: torch.cat([states[seed][name] for _, seed in runs]) for name in states[SEEDS[0]]})
    # Each run's loss carries its learning rate, so that SGD's own is 1: v = 0.9 v + rate * gradient, weight -= v.
    rates = torch.tensor([rate for rate, _ in runs])
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0, momentum=MOMENTUM)
    images, labels = digits()["train"]
    steps = torch.stack([orders(seed) for _, seed in runs], 2)
    losses = []
    for index in steps:
        logits = net(images[index])
        each = nn.functional.cross_entropy(logits.flatten(0, 1), labels[index].flatten(), reduction="none").view(
            index.shape
        )
        loss = each.mean(0)
        optimizer.zero_grad()
        (loss * rates).sum().backward()
        optimizer.step()
        losses.append(loss.detach())
    kept = torch.stack(losses).double()
    scores = {part: evaluate(net, *digits()[part]) for part in ("valid", "test")}
    return [
        {
            "rate": rate,
            "seed": seed,
            "first_loss": float(kept[0, i]),
            "last_loss": float(kept[-10:, i].mean()),  # NaN or infinity: diverged
            "valid": scores["valid"][i],
            "test": scores["test"][i],
        }
        for i, (rate, seed) in enumerate(runs)
    ]


def evaluate(net: Thin, images: Tensor, labels: Tensor) -> list[float]:
    """Accuracy of each run."""
    with torch.no_grad():
        predicted = net(images[:, None].expand(-1, net.runs, -1, -1)).argmax(2)
    return (predicted == labels[:, None]).double().mean(0).tolist()


def run_cell(folder: Path, cell: tuple[str, str]) -> dict:
    """Train a cell of the table, or find it in the cache."""
    torch.set_num_threads(1)
    activation, init = cell
    kept = folder / f"{activation} {init}.json".replace(" ", "_")
    starts = [sha256(file_of(folder, activation, init, seed).read_bytes()).hexdigest() for seed in SEEDS]
    settings = json.loads(json.dumps({**SETTINGS, "torch": version("torch"), "starts": starts}))
    if kept.exists() and (found := json.loads(kept.read_text()))["settings"] == settings:
        return found
    found = {"activation": activation, "init": init, "settings": settings, "runs": train(folder, activation, init)}
    part = kept.with_suffix(".part")
    part.write_text(json.dumps(found, indent=1) + "\n")
    part.replace(kept)
    return found


def choose(runs: list[dict]) -> dict:
    """The learning rate with the best mean validation accuracy, and what it gives on the test images."""
    by_rate = {rate: [run for run in runs if run["rate"] == rate] for rate in RATES}
    rate = max(RATES, key=lambda r: mean(run["valid"] for run in by_rate[r]))
    valid, test = ([run[part] for run in by_rate[rate]] for part in ("valid", "test"))
    return {"rate": rate, "valid": mean(valid), "test": mean(test), "tests": test, "stuck": mean(valid) < STUCK}


def as_markdown(chosen: dict[tuple[str, str], dict]) -> str:
    lines = ["| init | " + " | ".join(ACTIVATIONS) + " |", "|---|" + "---|" * len(ACTIVATIONS)]
    for init in INITS:
        cells = []
        for activation in ACTIVATIONS:
            cell = chosen[activation, init]
            detail = "stuck" if cell["stuck"] else f"({min(cell['tests']):.2f}, {cell['rate']:g})"
            cells.append(f"{cell['test']:.3f} {detail}")
        lines.append(f"| {init} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------------------- plots

GREY = "#808080"  # readable on white and on black
COLOURS = dict(zip(SHOWN, ("#909090", "#c08a20", "#3f9a62", "#4a8fd0", "#d9504a"), strict=True))
DASHES = dict(zip(SHOWN, (":", "-.", "--", (0, (6, 1, 1, 1, 1, 1)), "-"), strict=True))


def prepare_pyplot():
    import matplotlib  # noqa: PLC0415

    matplotlib.use("svg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    plt.rcParams |= {
        "svg.fonttype": "none",  # text stays text
        "svg.hashsalt": "thin",
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "path.simplify": True,
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), GREY),
    }
    return plt


def save_figure(figure, path: Path) -> None:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=len(SHOWN), frameon=False, handlelength=2.5)
    drawn = StringIO()
    figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    # Coordinates have six decimals, text at most two.
    short = re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.1f}", drawn.getvalue())
    path.write_text(re.sub(r"^ +| +$", "", short, flags=re.MULTILINE))


def plot_accuracy(chosen: dict[tuple[str, str], dict], path: Path) -> None:
    plt = prepare_pyplot()
    figure, axes = plt.subplots(figsize=(8, 3.3))
    for i, init in enumerate(SHOWN):
        places = [k + (i - 2) * 0.17 for k in range(len(ACTIVATIONS))]
        cells = [chosen[activation, init] for activation in ACTIVATIONS]
        axes.bar(places, [cell["test"] for cell in cells], 0.15, color=COLOURS[init], alpha=0.6, label=init)
        for place, cell in zip(places, cells, strict=True):
            axes.plot([place] * len(SEEDS), cell["tests"], ".", color=COLOURS[init], markersize=5)
            top = max(cell["tests"]) + 0.025
            axes.text(place, top, f"{cell['test']:.2f}", ha="center", fontsize=8)
    axes.axhline(0.1, color=GREY, linewidth=0.8, linestyle=":")
    axes.set_xticks(range(len(ACTIVATIONS)), list(ACTIVATIONS))
    axes.tick_params(axis="x", length=0)
    axes.set_ylim(0, 1.08)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axes.set_ylabel("test accuracy")
    figure.subplots_adjust(0.08, 0.2, 0.99, 0.98)
    save_figure(figure, path)


def plot_spread(stds: dict[tuple[str, str], dict], path: Path) -> None:
    plt = prepare_pyplot()
    figure, grid = plt.subplots(2, len(ACTIVATIONS), figsize=(8, 4.6), sharex=True, sharey=True)
    titles = ("every", "std"), ("images", "std between images")
    for axes_row, (what, title) in zip(grid, titles, strict=True):
        axes_row[0].set_ylabel(title)
        for axes, activation in zip(axes_row, ACTIVATIONS, strict=True):
            for init in SHOWN:
                values = stds[activation, init][what]
                style = {"color": COLOURS[init], "linestyle": DASHES[init], "linewidth": 1.8, "clip_on": False}
                axes.plot(range(1, len(values) + 1), values, label=init, **style)
            axes.set_yscale("log")
            axes.grid(axis="y", color=GREY, alpha=0.25, linewidth=0.6)
            axes.minorticks_off()
            axes.set_yticks([1e-9, 1e-6, 1e-3, 1], ["1e-9", "1e-6", "1e-3", "1"])
    for axes, activation in zip(grid[0], ACTIVATIONS, strict=True):
        axes.set_title(activation, fontsize=10, color=GREY)
    for axes in grid[1]:
        axes.set_xlabel("layer")
        axes.set_xticks([1, 10, 20, 30])
    figure.subplots_adjust(0.09, 0.19, 0.99, 0.94, wspace=0.1, hspace=0.1)
    save_figure(figure, path)


# -------------------------------------------------------------------------------------------------------------- main


def initialise_all(folder: Path, cells: Iterable[tuple[str, str]]) -> dict[tuple[str, str], dict]:
    """Write every file; the spread through depth of the first seed, as measured twice."""
    stds = {}
    for cell in cells:
        measured, *_ = [initialise(folder, *cell, seed) for seed in SEEDS]
        every, images = spread(folder, *cell, SEEDS[0])
        if not all(isclose(a, b, rel_tol=1e-3) for a, b in zip(measured, every, strict=True)):
            raise SystemExit(f"{cell}: onnx_lsuv measures {measured}, PyTorch {every}")
        stds[cell] = {"every": measured, "images": images}
    return stds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True, metavar="FOLDER", help="for files and finished cells")
    parser.add_argument("--json", type=Path, metavar="PATH")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="write thin_nets.svg and variance.svg there")
    parser.add_argument("--jobs", type=int, default=1, help="processes, of one thread each")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.cache.mkdir(parents=True, exist_ok=True)
    cells = list(product(ACTIVATIONS, INITS))
    stds = initialise_all(args.cache, cells)
    with ProcessPoolExecutor(args.jobs, get_context("spawn")) as pool:
        results = []
        for result in pool.map(partial(run_cell, args.cache), cells):
            results.append(result)
            print(f"{len(results)} of {len(cells)}: {result['activation']}, {result['init']}", file=sys.stderr)
    chosen = {cell: choose(result["runs"]) for cell, result in zip(cells, results, strict=True)}
    print(as_markdown(chosen))
    if args.json:
        packages = ("torch", "scikit-learn", "numpy", "onnx", "onnxruntime-gpu")
        machine = {"cpus": os.cpu_count(), "platform": platform.platform(), "python": platform.python_version()}
        rows = [
            {**result, "chosen": chosen[cell], "std": stds[cell]} for cell, result in zip(cells, results, strict=True)
        ]
        document = {"machine": machine | {name: version(name) for name in packages}, "cells": rows}
        args.json.write_text(json.dumps(document, indent=1) + "\n")
    if args.pictures:
        plot_accuracy(chosen, args.pictures / "thin_nets.svg")
        plot_spread(stds, args.pictures / "variance.svg")


if __name__ == "__main__":
    main()
