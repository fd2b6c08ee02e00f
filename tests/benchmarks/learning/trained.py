"""One training."""

import warnings
from functools import lru_cache
from math import cos, isfinite, pi
from pathlib import Path
from time import perf_counter, process_time

import torch
from torch import Tensor, nn
from torch.nn import functional

from learning.cells import Cell
from learning.nets import NETS, Net
from learning.starts import STARTS, started


def loss_of(logits: Tensor, wanted: Tensor) -> Tensor:
    return functional.cross_entropy(logits.flatten(0, -2), wanted.flatten())


@lru_cache(maxsize=4)
def initial(name: str, start: str, seed: int, folder: Path) -> tuple[nn.Module, float]:
    """A net at its start, and the seconds that it took; trainings copy it."""
    net = NETS[name]
    batch = net.data(folder)["train"][0]
    some = batch[torch.randperm(len(batch), generator=torch.Generator().manual_seed(seed))[: net.calibrated_on]]
    begun = perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's
        module = started(net, STARTS[start], seed, some)
    return module, perf_counter() - begun


def optimizer_of(net: Net, module: nn.Module, rate: float) -> torch.optim.Optimizer:
    if net.optimizer == "SGD":
        return torch.optim.SGD(module.parameters(), rate, momentum=0.9, weight_decay=net.decay)
    made = {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW}[net.optimizer]
    return made(module.parameters(), rate, weight_decay=net.decay)


def factor(step: int, steps: int, warm: float) -> float:
    """What a step's rate is multiplied by: growing at first, then falling to zero as a cosine."""
    return min(1.0, (step + 1) / max(1.0, warm * steps)) * (1 + cos(pi * step / steps)) / 2


def train(cell: Cell, folder: Path, device: str) -> dict:
    """Train a cell; its worth on both held parts, and times. A net whose loss is not finite stops there."""
    net = NETS[cell.net]
    first, initialising = initial(cell.net, cell.start, cell.seed, folder)
    module = net.make()
    module.load_state_dict(first.state_dict())
    module.to(device).train()
    parts = {name: (x.to(device), y.to(device)) for name, (x, y) in net.data(folder).items()}
    inputs, wanted = parts["train"]
    optimizer = optimizer_of(net, module, cell.rate)
    plan = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor(step, cell.steps, net.warm))
    draw = torch.Generator().manual_seed(1000 + cell.seed)
    passes = -(-cell.steps * net.batch // len(inputs))
    order = torch.cat([torch.randperm(len(inputs), generator=draw) for _ in range(passes)])
    curve, wall, cpu = [], perf_counter(), process_time()
    for step in range(cell.steps):
        index = order[step * net.batch : (step + 1) * net.batch].to(device)
        loss = loss_of(module(inputs[index]), wanted[index])
        optimizer.zero_grad()
        loss.backward()
        if net.clip is not None:
            nn.utils.clip_grad_norm_(module.parameters(), net.clip)
        optimizer.step()
        plan.step()
        curve.append(loss.item())
        if not isfinite(curve[-1]):
            break
    wall, cpu = perf_counter() - wall, process_time() - cpu
    result = {part: evaluate(module, *parts[part], net.measure) for part in ("choose", "report")}
    return result | {
        "measure": net.measure,
        "first loss": curve[0] if isfinite(curve[0]) else None,
        "diverged": not isfinite(curve[-1]),
        "initialising": initialising,
        "step": wall / len(curve),
        "step cpu": cpu / len(curve),
        "epoch": len(inputs) // net.batch,
        "device": device,
    }


@torch.no_grad()
def evaluate(module: nn.Module, inputs: Tensor, wanted: Tensor, measure: str) -> float | None:
    """Accuracy or loss; None where the net gives no finite number."""
    module.eval()
    logits = torch.cat([module(each) for each in inputs.split(200)])
    if measure == "accuracy":
        return (logits.argmax(-1) == wanted).double().mean().item() if bool(logits.isfinite().all()) else None
    loss = loss_of(logits, wanted).item()
    return loss if isfinite(loss) else None
