"""The networks, each with its data, optimiser, rates, and the start that is customary for it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from learning import data

PATCH = 4


@dataclass(frozen=True)
class Net:
    """How a net is made and trained; with another version its cells are trained anew."""

    make: Callable[[], nn.Module]
    data: Callable[[Path], data.Parts]
    customary: Callable[[nn.Module], None]
    rates: tuple[float, ...]
    starts: tuple[str, ...]
    batch: int = 32
    optimizer: str = "SGD"  # with momentum 0.9
    decay: float = 0.0
    warm: float = 0.0  # part of the steps in which the rate grows
    clip: float | None = None
    measure: str = "accuracy"
    calibrated_on: int = 256
    steps: int = 240
    long: bool = False  # for a GPU
    version: int = 1

    @property
    def definition(self) -> str:
        how = (self.optimizer, self.batch, self.decay, self.warm, self.clip, self.calibrated_on, self.version)
        return " ".join(map(str, how))


def he(net: nn.Module) -> None:
    for name, values in net.named_parameters():
        if values.ndim > 1:
            nn.init.kaiming_normal_(values, nonlinearity="relu")
        elif name.endswith("bias"):
            nn.init.zeros_(values)


class Maxout(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.maximum(*x.chunk(2, 1))


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "leaky": partial(nn.LeakyReLU, 1 / 3),
    "maxout": Maxout,
}


def thin(depth: int, activation: str, norm: str = "", *, channels: int = 1, wide: int = 1) -> nn.Sequential:
    """Convolutions of 3x3 in three groups of 16, 24 and 32 channels, max pooling between, mean and a classifier."""
    layers: list[nn.Module] = []
    first = depth * 5 // 17
    each = (first, (depth - first) // 2, depth - first - (depth - first) // 2)
    for group, (count, width) in enumerate(zip(each, (16 * wide, 24 * wide, 32 * wide), strict=True)):
        layers += [nn.MaxPool2d(2)] * (group > 0)
        for _ in range(count):
            out = width * (1 + (activation == "maxout"))
            layers.append(nn.Conv2d(channels, out, 3, padding=1, bias=norm != "before"))
            layers += [nn.BatchNorm2d(out)] * (norm == "before") + [ACTIVATIONS[activation]()]
            layers += [nn.BatchNorm2d(width)] * (norm == "after")
            channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


class Block(nn.Module):
    def __init__(self, channels: int, out: int, *, norm: bool) -> None:
        super().__init__()
        made = partial(nn.BatchNorm2d, out) if norm else nn.Identity
        stride = 1 + (channels != out)
        self.first = nn.Conv2d(channels, out, 3, stride, 1, bias=not norm)
        self.last = nn.Conv2d(out, out, 3, 1, 1, bias=not norm)
        self.norm1, self.norm2 = made(), made()
        self.skip = nn.Conv2d(channels, out, 1, stride) if channels != out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.last(torch.relu(self.norm1(self.first(x)))))
        return torch.relu(self.skip(x) + y)


def resnet20(*, norm: bool) -> nn.Sequential:
    start = [nn.Conv2d(3, 16, 3, 1, 1, bias=not norm), *([nn.BatchNorm2d(16)] * norm), nn.ReLU()]
    widths = [16, 16, 16, 16, 32, 32, 32, 64, 64, 64]
    blocks = [Block(a, b, norm=norm) for a, b in pairwise(widths)]
    return nn.Sequential(*start, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def zero_branches(net: nn.Module) -> None:
    """He, and what ends a branch is zero: the norm's scale where there is one, else the convolution."""
    he(net)
    for block in net.modules():
        if isinstance(block, Block):
            nn.init.zeros_(block.norm2.weight if isinstance(block.norm2, nn.BatchNorm2d) else block.last.weight)


class Attention(nn.Module):
    """A block of attention and two dense layers, with LayerNorm before each."""

    def __init__(self, width: int, *, causal: bool, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        n, t, width = y.shape
        q, k, v = (each(y).view(n, t, self.heads, -1).transpose(1, 2) for each in (self.q, self.k, self.v))
        scores = q @ k.transpose(2, 3) * (width // self.heads) ** -0.5
        if self.causal:
            scores = scores + torch.full((t, t), -1e9, device=x.device).triu(1)
        y = (scores.softmax(3) @ v).transpose(1, 2).reshape(n, t, width)
        x = x + self.out(y)
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class ViT(nn.Module):
    def __init__(self, width: int = 64, depth: int = 6) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, PATCH, PATCH)
        self.place = nn.Parameter(0.02 * torch.randn(1, 64, width))
        self.blocks = nn.Sequential(*(Attention(width, causal=False) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2) + self.place
        return self.head(self.norm(self.blocks(x)).mean(1))


class GPT(nn.Module):
    def __init__(self, *, tied: bool, width: int = 64, depth: int = 6) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(data.CHARACTERS, width), nn.Embedding(64, width)
        self.blocks = nn.Sequential(*(Attention(width, causal=True) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, data.CHARACTERS, bias=False)
        if tied:
            self.head.weight = self.token.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.token(x) + self.place(torch.arange(x.shape[1], device=x.device))
        return self.head(self.norm(self.blocks(x)))


def small_normal(net: nn.Module, *, scaled: bool) -> None:
    """Normal numbers of 0.02, cut off at two of them for ViT; for GPT-2 what ends a branch over sqrt(branches)."""
    for name, values in net.named_parameters():
        if values.ndim > 1:
            last = scaled and name.endswith(("out.weight", "down.weight"))
            std = 0.02 / (2 * 6) ** 0.5 if last else 0.02
            nn.init.normal_(values, std=std) if scaled else nn.init.trunc_normal_(values, std=std, a=-0.04, b=0.04)
        elif name.endswith("bias"):
            nn.init.zeros_(values)


class Next(nn.Module):
    """A block of ConvNeXt, with layer scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.deep, self.norm = nn.Conv2d(width, width, 7, padding=3, groups=width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(torch.full((width,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.deep(x).permute(0, 2, 3, 1))
        return x + (self.gamma * self.down(functional.gelu(self.up(y)))).permute(0, 3, 1, 2)


def convnext() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 40, 4, 4),
        *(Next(40) for _ in range(3)),
        nn.Conv2d(40, 80, 2, 2),
        *(Next(80) for _ in range(3)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(80), nn.Linear(80, 10)),
    )


class Recurrent(nn.Module):
    def __init__(self, kind: Callable[..., nn.Module], words: int, layers: int, out: int) -> None:
        super().__init__()
        self.token, self.head = nn.Embedding(words, 64), nn.Linear(128, out)
        self.rnn = kind(64, 128, layers, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.token(x))[0])


def recurrent(net: nn.Module) -> None:
    """Xavier for the input, orthogonal for the state, biases zero, an LSTM's forget bias 1."""
    for name, values in net.named_parameters():
        if "weight_hh" in name:
            for gate in values.split(128):
                nn.init.orthogonal_(gate)
        elif "weight_ih" in name or name == "head.weight":
            nn.init.xavier_uniform_(values)
        elif "bias" in name:
            nn.init.zeros_(values)
            if isinstance(net.rnn, nn.LSTM) and "bias_ih" in name:
                nn.init.ones_(values[128:256])


SMALL: dict[str, Any] = {"data": partial(data.cifar, small=True), "version": 2}
MAIN = ("framework", "customary", "lsuv", "auto", "center")
ADAM: dict[str, Any] = {"data": data.cifar, "optimizer": "AdamW", "decay": 0.05, "warm": 0.1, "version": 2}
TEXT = ADAM | {"data": data.text, "batch": 12, "measure": "loss", "calibrated_on": 64, "version": 1}
TRANSFORMER_RATES = (0.00015, 0.0005, 0.0015, 0.005, 0.015)
GPT_RATES = (0.0007, 0.002, 0.006, 0.02, 0.05)
RNN_RATES = (0.002, 0.006, 0.02, 0.05)
RNN: dict[str, Any] = {
    **{"optimizer": "Adam", "batch": 16, "clip": 1.0, "measure": "loss", "calibrated_on": 64},
    **{"customary": recurrent, "rates": RNN_RATES, "starts": ("framework", "customary", "lsuv", "kept bias")},
}

NETS: dict[str, Net] = {
    "gpt": Net(
        partial(GPT, tied=False),
        customary=partial(small_normal, scaled=True),
        rates=GPT_RATES,
        starts=("framework", "customary", "lsuv", "auto", "lsuv on customary", "auto on customary"),
        **TEXT,
    ),
    "gpt tied": Net(
        partial(GPT, tied=True),
        customary=partial(small_normal, scaled=True),
        rates=GPT_RATES,
        starts=("framework", "customary", "lsuv", "auto", "lsuv on customary", "auto on customary"),
        **TEXT,
    ),
    "resnet20": Net(
        partial(resnet20, norm=False),
        customary=zero_branches,
        rates=(0.003, 0.01, 0.03, 0.1),
        starts=("framework", "customary", "lsuv", "auto", "center", "auto center"),
        **SMALL,
    ),
    "vit": Net(
        ViT, customary=partial(small_normal, scaled=False), rates=TRANSFORMER_RATES, starts=MAIN[:4], batch=16, **ADAM
    ),
    "convnext": Net(
        convnext, customary=partial(small_normal, scaled=False), rates=TRANSFORMER_RATES, starts=MAIN[:4], **ADAM
    ),
    "resnet20 bn": Net(
        partial(resnet20, norm=True),
        customary=zero_branches,
        rates=(0.01, 0.03, 0.1, 0.3),
        decay=5e-4,
        starts=("framework", "customary", "he", "lsuv", "auto"),
        **SMALL,
    ),
    "lstm": Net(partial(Recurrent, nn.LSTM, data.CHARACTERS, 2, data.CHARACTERS), data=data.text, **RNN),
    "lstm marks": Net(partial(Recurrent, nn.LSTM, 2 * data.MARKS, 1, data.MARKS), data=data.marks, **RNN),
    "gru": Net(partial(Recurrent, nn.GRU, data.CHARACTERS, 2, data.CHARACTERS), data=data.text, **RNN),
    "lstm 256": Net(
        partial(Recurrent, nn.LSTM, data.CHARACTERS, 1, data.CHARACTERS),
        data=partial(data.text, length=data.LONG),
        **RNN,
    ),
}
for depth in (17, 30):
    for activation in ACTIVATIONS:
        NETS[f"thin{depth} {activation}"] = Net(
            partial(thin, depth, activation),
            data=data.mnist,
            customary=he,
            rates=(0.0015, 0.006, 0.025),
            starts=("framework", "he", "lsuv", "center"),
            steps=300,
        )
    for norm in ("before", "after"):
        NETS[f"thin{depth} relu bn {norm}"] = Net(
            partial(thin, depth, "relu", norm, channels=3),
            customary=he,
            rates=(0.006, 0.025, 0.1),
            starts=("framework", "he", "lsuv", *(["auto"] if norm == "after" else [])),  # elsewhere they are the same
            steps=600,
            **SMALL,
        )
# The paper's size: FitNet-4 has 17 convolutions of 32 to 128 channels; 30 epochs of CIFAR-10.
for activation, norm in (("relu", ""), ("relu", "before"), ("maxout", ""), ("maxout", "before")):
    NETS[f"fitnet4 {activation}{' bn' * bool(norm)}"] = Net(
        partial(thin, 17, activation, norm, channels=3, wide=3),
        data=data.cifar,
        customary=he,
        rates=(0.003, 0.01, 0.03, 0.1),
        starts=("framework", "he", "lsuv"),
        batch=128,
        decay=5e-4,
        steps=30 * 50000 // 128,
        long=True,
    )
