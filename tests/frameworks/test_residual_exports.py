"""The ends of residual branches in PyTorch's exports: those named by hand are chosen, with the stds of the rule.

The stds are those of a plain session on the saved file. Needs the extra `train`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto

import onnx_lsuv

pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'onnx-lsuv[train]'")

import exports
import oracle
import torch
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
from learning import nets

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]
WAYS = ["dynamo, not optimised", "TorchScript, as README says"]
IMAGE, TEXT = (3, 16, 16), (12,)


class Beside(nn.Module):
    """A block of GPT-J: attention and MLP read the same value."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(width), exports.Attention(width, 4, causal=True)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return self.attention(y) + self.down(functional.gelu(self.up(y))) + x


class Words(nn.Module):
    def __init__(self, blocks: nn.Module, times: int = 1) -> None:
        super().__init__()
        self.words, self.blocks, self.head, self.times = nn.Embedding(50, 32), blocks, nn.Linear(32, 50), times

    def forward(self, x: Tensor) -> Tensor:
        x = self.words(x)
        for _ in range(self.times):
            x = self.blocks(x)
        return self.head(x)


class UNet(nn.Module):
    """Two residual blocks on each level; the long skip is added."""

    def __init__(self) -> None:
        super().__init__()
        block = partial(nets.Block, norm=False)
        self.stem, self.one = nn.Conv2d(3, 8, 3, padding=1), nn.Sequential(block(8, 8), block(8, 8))
        self.down, self.two = nn.Conv2d(8, 16, 2, 2), nn.Sequential(block(16, 16), block(16, 16))
        self.up, self.three = nn.ConvTranspose2d(16, 8, 2, 2), nn.Sequential(block(8, 8), block(8, 8))
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.one(self.stem(x))
        return self.head(self.three(self.up(self.two(self.down(skip))) + skip))


class DenseNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3 + 8 * i, 8, 3, padding=1) for i in range(4))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, torch.relu(layer(x))], 1)
        return x


def convnext(scale: float) -> nn.Module:
    net = nets.convnext()
    for module in net.modules():
        if isinstance(module, nets.Next):
            module.gamma.data.fill_(scale)
    return net


TRANSFORMER = [[f"blocks.{i}.{end}" for i in range(3) for end in ("out", "down")]]
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int, list[list[str]]]] = {
    "GPT": (partial(nets.GPT, tied=False, depth=3), TEXT, 103, TRANSFORMER),
    "GPT, tied": (partial(nets.GPT, tied=True, depth=3), TEXT, 103, TRANSFORMER),
    "GPT-J": (
        lambda: Words(nn.Sequential(Beside(), Beside())),
        TEXT,
        50,
        [[f"blocks.{i}.{end}" for i in range(2) for end in ("attention.out", "down")]],
    ),
    "ViT": (partial(nets.ViT, depth=3), (3, 32, 32), 0, TRANSFORMER),
    "ResNet-20": (
        partial(nets.resnet20, norm=False),
        IMAGE,
        0,
        [[f"{i}.last" for i in range(start, start + 3)] for start in (2, 5, 8)],
    ),
    "ResNet-20, BatchNormalization": (partial(nets.resnet20, norm=True), IMAGE, 0, []),
    "ConvNeXt": (partial(convnext, 1.0), IMAGE, 0, [[f"{i}.down" for i in range(s, s + 3)] for s in (1, 5)]),
    "ConvNeXt, layer scale": (partial(convnext, 1e-6), IMAGE, 0, []),
    "U-Net": (UNet, IMAGE, 0, [[f"{level}.{i}.last" for i in (0, 1)] for level in ("one", "two", "three")]),
    "DenseNet": (DenseNet, IMAGE, 0, []),
}


def stream(model: ModelProto, name: str, ends: Collection[str]) -> str:
    """Return what the value of a layer, moved or scaled, is added to; other ends of branches may come before."""
    known = {each.name for each in model.graph.initializer}
    known |= {node.output[0] for node in model.graph.node if node.op_type == "Constant"}
    while True:
        (node,) = (node for node in model.graph.node if name in node.input)
        others = [each for each in node.input if each != name and each not in known]
        if node.op_type == "Add" and others and others[0] not in ends:
            return others[0]
        name = node.output[0]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES)
def test_the_ends_named_by_hand(tmp_path: Path, case: str, way: str) -> None:
    make, shape, words, named = CASES[case]
    net, path = exports.Net(make, 0, shape, words=words), tmp_path / "m.onnx"
    exports.export(net, exports.WAYS[way], path, free=True)
    x = exports.samples(net, 16).numpy()
    batches = [{"x": x[:6]}, {"x": x[6:]}]
    result = onnx_lsuv.initialize(onnx_lsuv.load(path), batches)
    onnx_lsuv.save(result.model, tmp_path / "o.onnx")
    layers = zip(result.layers, result.plan.layers, strict=True)
    outputs = {row.weight.removesuffix(".weight"): layer.end.outputs[0] for row, layer in layers}
    usual = onnx_lsuv.plan(onnx_lsuv.load(path), residual="off").layers
    lowered = {row.weight for row, other in zip(result.layers, usual, strict=True) if row.target != other.target}
    assert {name.removesuffix(".weight") for name in lowered} == {name for each in named for name in each}

    saved = onnx.load(tmp_path / "o.onnx")
    for ends in named:
        start = stream(saved, outputs[ends[0]], [outputs[name] for name in ends])
        found = oracle.values(tmp_path / "o.onnx", batches, [start, *(outputs[name] for name in ends)])
        stds = {
            name: np.concatenate([v.astype(np.float64).ravel() for v in each]).std() for name, each in found.items()
        }
        for name in ends:
            assert stds[outputs[name]] == pytest.approx(stds[start] / math.sqrt(len(ends)), rel=0.005), name
    assert onnx_lsuv.measure(onnx_lsuv.load(tmp_path / "o.onnx"), batches).good
    told = [row.note for row in result.layers if "ends a residual branch" in row.note]
    held = "ends a residual branch at the usual std: a layer scale of 1e-06 holds it"
    assert told == ([held] * 6 if case == "ConvNeXt, layer scale" else [])


def test_a_block_that_is_called_several_times(tmp_path: Path) -> None:
    """As ALBERT's: its weights are scaled at their first use, for as many branches as there are calls."""
    net = exports.Net(lambda: Words(Beside(), times=3), 0, TEXT, words=50)
    exports.export(net, exports.WAYS["dynamo, not optimised"], tmp_path / "m.onnx", free=True)
    batch = {"x": exports.samples(net, 16).numpy()}
    result = onnx_lsuv.initialize(onnx_lsuv.load(tmp_path / "m.onnx"), batch)
    onnx_lsuv.save(result.model, tmp_path / "o.onnx")
    found = onnx_lsuv.measure(onnx_lsuv.load(tmp_path / "o.onnx"), batch)
    ends = [row for row in found.layers if row.weight in ("blocks.attention.out.weight", "blocks.down.weight")]
    assert [row.status for row in ends] == ["ok", "ok", *["shared"] * 4]
    saved = onnx.load(tmp_path / "o.onnx")
    outputs = [layer.end.outputs[0] for layer in result.plan.layers if layer.weight in {"blocks.down.weight"}]
    (words,) = (
        node.output[0] for node in saved.graph.node if node.op_type == "Gather" and "words.weight" in node.input
    )
    values = oracle.values(tmp_path / "o.onnx", [batch], [words, outputs[0]])
    own, whole = (np.std(values[name][0].astype(np.float64)) for name in (outputs[0], words))
    assert own == pytest.approx(whole / math.sqrt(6), rel=0.005)
