"""The benchmark of trainings plans, goes on and reports as it says; nothing is trained here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import numpy as np
import pytest

FOLDER = Path(__file__).with_name("benchmarks")
RATES = (0.01, 0.03, 0.1)


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    return import_module("learning.cells")


@pytest.fixture
def table(cells: ModuleType) -> ModuleType:
    return import_module("learning.table")


@pytest.fixture
def plan(cells: ModuleType):
    return cells.Plan("net", "start", RATES, (0, 1, 2), 240, "as it was")


def came_to(choose: float | None, report: float | None = None, measure: str = "accuracy", **more: object) -> dict:
    times = {"step": 0.02, "step cpu": 0.02, "initialising": 0.5, "epoch": 100, "diverged": report is None}
    return {"choose": choose, "report": report, "measure": measure, **times, **more}


def test_two_seeds_choose_the_rate(cells: ModuleType, plan, tmp_path: Path) -> None:
    """What the first seed prefers, .01, is worse than its runner-up by both; the reported samples say nothing."""
    scores = {(0.01, 0): 0.5, (0.03, 0): 0.4, (0.1, 0): 0.1, (0.01, 1): 0.1, (0.03, 1): 0.4, (0.03, 2): 0.2}
    order = []

    def train(cell) -> dict:
        order.append((cell.rate, cell.seed))
        return came_to(scores[cell.rate, cell.seed], 1 - scores[cell.rate, cell.seed])

    finished = cells.Finished(tmp_path / "f" / "cells.jsonl")
    cells.run([plan], finished, train)
    assert order == [(0.01, 0), (0.03, 0), (0.1, 0), (0.01, 1), (0.03, 1), (0.03, 2)]
    assert cells.chosen(plan, finished.found) == 0.03


def test_it_goes_on_where_it_was_ended(cells: ModuleType, plan, tmp_path: Path) -> None:
    path, calls = tmp_path / "cells.jsonl", []

    def train(cell) -> dict:
        calls.append(cell)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return came_to(cell.rate, cell.rate)

    with pytest.raises(KeyboardInterrupt):
        cells.run([plan], cells.Finished(path), train)
    whole = path.read_text()
    path.write_text(whole + whole.splitlines()[0][:40])  # a line that the end of a process cut off
    cells.run([plan], cells.Finished(path), train)
    assert len(calls) == 4 + 3  # nothing that was finished is trained again
    read = cells.Finished(path)
    assert cells.missing(plan, read.found) is None
    assert len(read.found) == 6
    cells.run([plan], read, train)
    assert len(calls) == 7
    other = cells.Plan("net", "start", RATES, (0, 1, 2), 240, "otherwise")
    assert cells.missing(other, read.found) == other.cell(0.01, 0)


def test_losses_are_better_small_and_a_diverged_net_is_worst(cells: ModuleType, plan) -> None:
    found = {
        plan.cell(0.01, 0): came_to(2.0, 2.0, "loss"),
        plan.cell(0.03, 0): came_to(1.5, 1.5, "loss"),
        plan.cell(0.1, 0): came_to(None, None, "loss"),
    }
    assert cells.chosen(plan, found) is None  # the second seed is not there
    assert cells.ranked(plan, found, [0]) == [0.03, 0.01, 0.1]
    assert cells.missing(plan, found) == plan.cell(0.03, 1)


@pytest.fixture
def reported(cells: ModuleType, plan) -> Iterator[tuple[list, dict]]:
    other = cells.Plan("net", "<other>", (0.1, 0.3, 1.0), (0, 1, 2), 240, "as it was")
    found = {}
    for each, best in ((plan, 0.01), (other, 0.3)):
        for rate in each.rates:
            found |= {each.cell(rate, seed): came_to(float(rate == best), 0.5 + seed / 10) for seed in each.seeds}
    found[other.cell(0.3, 2)] = came_to(None)
    return [plan, other], found


def test_table(table: ModuleType, reported: tuple[list, dict]) -> None:
    plans, found = reported
    lines = table.as_markdown(plans, found).splitlines()
    assert lines[2] == "| net | start | 0.600 | 0.500 to 0.700 | 3 | 0.01* | 240 | 20.0 ms | 0.50 s | 25.0% |"
    assert lines[3].startswith("| net | <other> | 1 diverged | 0.500 to 0.600 | 3 | 0.3 | 240 |")
    assert len(table.as_markdown(plans, {}).splitlines()) == 4  # no line for what is not finished


def test_plot(table: ModuleType, reported: tuple[list, dict]) -> None:
    drawn = ElementTree.fromstring(table.as_svg(*reported))
    marks = [each.tag.rpartition("}")[2] for each in drawn.iter()]
    assert marks.count("circle") == 5
    texts = [each.text for each in drawn.iter() if each.tag.endswith("text")]
    assert texts == ["net: start", "0.600", "net: <other>", "0.550"]


def test_every_start_of_every_net_is_known(cells: ModuleType) -> None:
    pytest.importorskip("torch")
    training, nets, starts = (import_module(name) for name in ("training", "learning.nets", "learning.starts"))
    plans = training.plans_of([], 3, None, long=True)
    assert {plan.start for plan in plans} <= starts.STARTS.keys()
    assert len({json.dumps([plan.net, plan.start]) for plan in plans}) == len(plans)
    assert not any(plan.net.startswith("fitnet4") for plan in training.plans_of([], 3, None, long=False))
    assert {plan.start for plan in training.plans_of(["gpt/*customary"], 3, 9, long=False)} == {
        *("customary", "lsuv on customary", "auto on customary")
    }
    with pytest.raises(SystemExit, match="No training is called 'nothing'"):
        training.plans_of(["nothing"], 3, None, long=False)
    for net in nets.NETS.values():
        net.customary(net.make())


def test_parts_share_no_sample(cells: ModuleType) -> None:
    torch = pytest.importorskip("torch")
    data = import_module("learning.data")
    parts = data.text(Path())
    sizes = {name: len(x) for name, (x, _) in parts.items()}
    assert sizes["choose"] == 80
    assert sizes["report"] == 159
    for x, y in parts.values():
        assert torch.equal(x[:, 1:], y[:, :-1])
    x, y = data.marks(Path())["report"]
    assert torch.equal(y[:, 0], x[:, 0])
    held = torch.where(x < data.MARKS, x, -1)
    last = held[:, 0].clone()
    for step in range(data.LONG):
        last = torch.where(held[:, step] >= 0, held[:, step], last)
        assert torch.equal(last, y[:, step])


def test_images_by_class_are_shuffled(cells: ModuleType, tmp_path: Path) -> None:
    """A file that holds its images class by class has every class in the part that chooses."""
    pytest.importorskip("torch")
    data = import_module("learning.data")
    labels = np.repeat(np.arange(10, dtype=np.uint8), 300)
    images = np.broadcast_to(labels[:, None, None, None], (3000, 32, 32, 3))
    values = {"train_x": images, "train_y": labels, "test_x": images, "test_y": labels}
    np.savez(tmp_path / "cifar10_jpeg.npz", **values)
    parts = data.cifar(tmp_path, small=True)
    assert len(parts["choose"][1].unique()) == 10
    for x, y in parts.values():
        ranks = x[:, 0, 0, 0].argsort()
        assert bool((y[ranks].diff() >= 0).all())  # images and labels moved together
