"""What is trained, in which order, and the file of what is finished. Needs no PyTorch.

A rate is chosen for each net and start by itself, on samples that are not reported: every rate by the first seed, the
best two of them by the second as well, since one seed alone has misled; the others follow at the rate chosen.
"""

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from math import inf, isfinite
from pathlib import Path
from statistics import mean

CHOOSING = 2  # seeds, and rates that are tried by all of these


@dataclass(frozen=True)
class Cell:
    """One training; `definition` says what net and start were, so that a change of either is another cell."""

    net: str
    start: str
    rate: float
    seed: int
    steps: int
    definition: str


@dataclass(frozen=True)
class Plan:
    """All trainings of one net from one start."""

    net: str
    start: str
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    steps: int
    definition: str

    def cell(self, rate: float, seed: int) -> Cell:
        return Cell(self.net, self.start, rate, seed, self.steps, self.definition)


class Finished:
    """Cells and what they came to, a line each in a file; a line that was cut off by an end is not there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[Cell, dict] = {}
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            self.found[Cell(**{field.name: row[field.name] for field in fields(Cell)})] = row

    def add(self, cell: Cell, result: dict) -> dict:
        row = asdict(cell) | result
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # One write at the end of the file, after a line that may have been cut off, so that processes can share it.
        cut = self.path.exists() and not self.path.read_bytes().endswith(b"\n") and self.path.stat().st_size
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(handle, (("\n" if cut else "") + json.dumps(row) + "\n").encode())
        finally:
            os.close(handle)
        self.found[cell] = row
        return row


def worth(row: dict, part: str) -> float:
    """What a training came to, more being better: an accuracy, or a loss with its sign turned."""
    value = row[part]
    if value is None or not isfinite(value):
        return -inf
    return value if row["measure"] == "accuracy" else -value


def ranked(plan: Plan, found: dict[Cell, dict], seeds: Iterable[int]) -> list[float]:
    """Rates that all of these seeds were trained at, the best on the choosing part first."""
    scores = {}
    for rate in plan.rates:
        rows = [found.get(plan.cell(rate, seed)) for seed in seeds]
        if None not in rows:
            scores[rate] = mean(worth(row, "choose") for row in rows)
    return sorted(scores, key=scores.get, reverse=True)


def chosen(plan: Plan, found: dict[Cell, dict]) -> float | None:
    """The rate that is reported; None where the trainings that choose it are not finished."""
    seeds = plan.seeds[:CHOOSING]
    if any(plan.cell(rate, seeds[0]) not in found for rate in plan.rates):
        return None
    # Rates that were not among the best by the first seed have no second.
    first = ranked(plan, found, seeds[:1])[:CHOOSING]
    if any(plan.cell(rate, seed) not in found for rate in first for seed in seeds):
        return None
    return next(rate for rate in ranked(plan, found, seeds) if rate in first)


def missing(plan: Plan, found: dict[Cell, dict]) -> Cell | None:
    """The training that comes next; None where all are finished."""
    seeds = plan.seeds[:CHOOSING]
    cells = [plan.cell(rate, seeds[0]) for rate in plan.rates]
    if all(cell in found for cell in cells):
        cells = [plan.cell(rate, seed) for rate in ranked(plan, found, seeds[:1])[:CHOOSING] for seed in seeds]
        if (rate := chosen(plan, found)) is not None:
            cells = [plan.cell(rate, seed) for seed in plan.seeds]
    return next((cell for cell in cells if cell not in found), None)


def edge(plan: Plan, rate: float) -> bool:
    """Whether a rate is the least or the largest of its list, so that a better one may lie beyond."""
    return rate in (min(plan.rates), max(plan.rates))


def run(plans: Iterable[Plan], finished: Finished, train: Callable[[Cell], dict]) -> None:
    """Train what is missing, net by net and start by start."""
    for plan in plans:
        while (cell := missing(plan, finished.found)) is not None:
            finished.add(cell, train(cell))
