"""What PyTorch's exporters leave of a module's names, and what --state-dict finds: `python tests/frameworks/names.py`.

Six modules of the usual kinds are exported in every way, initialised, and loaded back. It prints the table of
onnx_lsuv/importers/README.md, a row for each way to export, summed over the modules.
"""

from __future__ import annotations

import logging
import math
import sys
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from exports import IMAGE, MODELS, Net, samples
from torch import Tensor, nn
from torch.onnx import TrainingMode

import onnx_lsuv
from onnx_lsuv import StateDict


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.conv2, self.bn2 = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        return self.fc(torch.relu(self.bn2(self.conv2(x))).mean((2, 3)))


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))


MODULES = {
    "mlp": Net(perceptron, 3, (16,)),
    "cnn": Net(Convolutions, 3, IMAGE),
    "resnet": MODELS["resnet"],
    "vit": MODELS["vit, MultiheadAttention"],
    "gpt, tied": MODELS["decoder, tied"],
    "lstm": MODELS["lstm"],
}
PLAIN = {"dynamo": False, "do_constant_folding": False}
WAYS: dict[str, Mapping[str, Any]] = {
    "dynamo=True, optimize=False": {"dynamo": True, "optimize": False},
    "dynamo=True": {"dynamo": True},
    "dynamo=False": {"dynamo": False},
    "dynamo=False, do_constant_folding=False": PLAIN,
    "dynamo=False, do_constant_folding=False, training=TrainingMode.PRESERVE": {
        **PLAIN,
        "training": TrainingMode.PRESERVE,
    },
}
COLUMNS = ("own name", "another's name", "renamed", "in blocks", "norm folded", "not there")


@dataclass
class Row:
    """How many float tensors of a module are found how, and how far the module's outputs are from the file's."""

    counts: Counter[str]
    found: int
    state: StateDict
    difference: float


def measured(net: Net, options: Mapping[str, Any], folder: Path, *, train: bool) -> Row:
    """Export a new module, initialise the file, load what comes back into the module, and compare the outputs."""
    torch.manual_seed(0)
    module, data = net.make().train(train), samples(net, 8)
    path, state_path = folder / "m.onnx", folder / "net.pt"
    torch.save(module.state_dict(), state_path)
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside PyTorch
        torch.onnx.export(module, (data,), path, input_names=["x"], output_names=["y"], verbose=False, **options)
    result = onnx_lsuv.initialize(onnx_lsuv.load(path), {"x": data.numpy()}, seed=0)
    state = onnx_lsuv.state_dict(result, state_path)
    tensors = {name: torch.from_numpy(np.array(each)) for name, each in state.tensors.items()}
    missing, unexpected = module.load_state_dict(tensors, strict=False)
    assert not unexpected
    assert set(missing) == {each.name for each in state.matches if each.how in ("folded", "missing")}
    onnx_lsuv.save(result.model, folder / "new.onnx", force=True)
    session = onnxruntime.InferenceSession(str(folder / "new.onnx"), providers=["CPUExecutionProvider"])
    expected = session.run(["y"], {"x": data.numpy()})[0]
    with torch.no_grad():
        reached = module.eval()(data).numpy()
    sizes = {each.name: math.prod(each.dims) for each in onnx.load(path).graph.initializer}
    counts = kinds(state, sizes)
    found = sum(counts[column] for column in COLUMNS[:4])
    return Row(counts, found, state, float(np.abs(reached - expected).max() / expected.std()))


def kinds(state: StateDict, sizes: Mapping[str, int]) -> Counter[str]:
    """Count the float tensors of a module by what the exporter did to them."""
    holders = Counter(each.tensors for each in state.matches)
    counts: Counter[str] = Counter()
    for each in state.matches:
        if each.how == "carried":
            continue
        if each.how in ("folded", "missing"):
            counts["norm folded" if each.how == "folded" else "not there"] += 1
        elif each.tensors == (each.name,):
            counts["own name"] += 1
        elif sum(sizes[name] for name in each.tensors) != state.tensors[each.name].size:
            counts["in blocks"] += 1
        else:
            counts["another's name" if holders[each.tensors] > 1 else "renamed"] += 1
    return counts


def table(folder: Path) -> list[str]:
    """Return the rows of the table, as Markdown."""
    rows: dict[tuple[str, str], list[str]] = {}
    for way, options in WAYS.items():
        for mode in ("eval", "train"):
            counts = Counter[str]()
            for net in MODULES.values():
                counts += measured(net, options, folder, train=mode == "train").counts
            cells = " | ".join(str(counts[column]) for column in COLUMNS)
            rows.setdefault((way, cells), []).append(mode)
    return [f"| `{way}` | {', '.join(modes)} | {cells} |" for (way, cells), modes in rows.items()]


if __name__ == "__main__":
    with TemporaryDirectory() as where:
        print("\n".join(table(Path(where))))
    sys.exit(0)
