"""Calibration, or `--check` alone, against a plain ONNX Runtime session and its first forward pass."""

from functools import partial

from bench import NETS, Bench, Case, images_of, model_of, title_of
from processes import Ran, in_turn, middle, run_side
from rows import Bar, Group, Row

GROUPS = (
    Group(
        "calibration",
        "Calibration against a plain ONNX Runtime session and its first forward pass",
        "calibration, s",
        "plain, s",
        "ratio",
        "of CPU time",
        (
            "Both in fresh processes, imports and reading the images left out. The calibration makes the graph and the "
            "session, runs it with its statistics, and scales the weights; drawing them is left out. The plain session "
            "has ONNX Runtime's default options: its threads wait by spinning, which counts as CPU time.",
        ),
    ),
    Group(
        "check",
        "`--check` alone against a plain ONNX Runtime session and its first forward pass",
        "check, s",
        "plain, s",
        "ratio",
        "of CPU time",
        (
            "Both in fresh processes, imports and reading the images left out. The check reads the model, looks for "
            "layers, makes the graph and its sessions, runs them with all statistics, and writes both reports.",
        ),
    ),
    Group(
        "batches",
        "Calibration on 8 batches of 4 against one batch of 32",
        "8 of 4, s",
        "1 of 32, s",
        "ratio",
        "of CPU time",
    ),
)
PLAIN = [  # model, batch, rounds, bar
    ("resnet50", 32, 5, Bar(1.2)),
    ("vgg16", 8, 4, Bar(0.5)),
    ("squeezenet", 32, 7, Bar(1.6)),
    ("mobilenet_v2", 32, 7, Bar(1.6)),
    ("resnet50_bn", 32, 3, None),
    ("mobilenet_v2_bn", 32, 5, None),
    ("vit_tiny", 32, 5, None),
    ("fitnet4", 128, 7, None),
]
CHECK = [("resnet50", 32, 5), ("squeezenet", 32, 7), ("mobilenet_v2", 32, 7), ("vit_tiny", 32, 5), ("vgg16", 8, 4)]
CHECK_BAR = Bar(1.15)
BATCHES = [("resnet50", 3, Bar(2)), ("squeezenet", 5, Bar(2))]


def compare(ours: list[Ran], other: list[Ran]) -> dict[str, object]:
    """The fields of a row that its runs decide."""
    us, them = middle(ours), middle(other)
    return {
        "ours": us.wall,
        "other": them.wall,
        "measured": us.wall / them.wall,
        "cpu": us.cpu / them.cpu,
        "details": {"ours": [ran.account() for ran in ours], "other": [ran.account() for ran in other]},
    }


def against_plain(ours: str, net: str, batch: int, rounds: int, case: Case, bench: Bench) -> list[Row]:
    model, data = model_of(bench, net), images_of(bench, NETS[net].size, batch)
    sides = [lambda side=side: run_side(side, model, data).part() for side in (ours, "plain")]
    runs = in_turn(sides, bench.rounds(rounds), warm=not bench.quick)
    return [Row(case.name, case.title, bar=case.bar, **compare(*runs))]


def split_up(net: str, rounds: int, case: Case, bench: Bench) -> list[Row]:
    model, data = model_of(bench, net), images_of(bench, NETS[net].size, 32)
    sides = [lambda k=k: run_side("calibrate", model, data, "--batches", k).part() for k in ("8", "1")]
    runs = in_turn(sides, bench.rounds(rounds), warm=not bench.quick)
    return [Row(case.name, case.title, bar=case.bar, **compare(*runs))]


CASES = [
    *(
        Case(f"calibration/{net}", title_of(net, batch), bar, partial(against_plain, "calibrate", net, batch, rounds))
        for net, batch, rounds, bar in PLAIN
    ),
    *(
        Case(f"check/{net}", title_of(net, batch), CHECK_BAR, partial(against_plain, "check", net, batch, rounds))
        for net, batch, rounds in CHECK
    ),
    *(Case(f"batches/{net}", NETS[net].title, bar, partial(split_up, net, rounds)) for net, rounds, bar in BATCHES),
]
