"""Calibration, or `--check` alone, against a plain ONNX Runtime session and its first forward pass."""

from functools import partial
from pathlib import Path

import numpy as np
import onnx
from bench import NETS, Bench, Case, images_of, model_of, title_of
from onnx import helper, numpy_helper
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
        "passes",
        "How often a value of an activation goes by: written, or read",
        "calibration",
        "plain session",
        "calibration beside the floor of 2",
        "`--check`",
        (
            "By ONNX Runtime's profiles, over all outputs of layers: a chain in which each is written once and read "
            "once has 2.",
        ),
    ),
    Group(
        "look",
        "What it takes to look at each layer's output once, in a plain ONNX Runtime session",
        "with their sums, s",
        "plain, s",
        "ratio",
        "of CPU time",
        (
            "The same session of the same file, one side with one node more after each layer that sums its output: "
            "GlobalAveragePool after a convolution, whose activation, and a BatchNormalization, then stand apart; a "
            "product with ones, over the images, after a MatMul. No measurement by ONNX Runtime's operators of what "
            "each layer gave can cost less than about that.",
        ),
    ),
    Group("batches", "Calibration on batches of 4 against one batch", "of 4, s", "one, s", "ratio", "of CPU time"),
)
PLAIN = [  # model, batch, rounds, bar
    ("resnet50", 32, 5, Bar(1.15)),
    ("vgg16", 8, 4, Bar(0.5)),
    ("squeezenet", 32, 7, Bar(1.6)),
    ("mobilenet_v2", 32, 7, Bar(1.15)),
    ("resnet50_bn", 32, 5, Bar(1.4)),
    ("mobilenet_v2_bn", 32, 7, Bar(2)),
    ("vit_tiny", 32, 5, Bar(1.1)),
    ("fitnet4", 128, 7, Bar(1.2)),
]
CHECK = [
    ("resnet50", 32, 5),
    ("squeezenet", 32, 7),
    ("mobilenet_v2", 32, 7),
    ("mobilenet_v2_bn", 32, 7),
    ("vit_tiny", 32, 5),
    ("vgg16", 8, 4),
]
CHECK_BAR = Bar(1.15)
LOOK = [
    ("resnet50", 5),
    ("resnet50_bn", 5),
    ("squeezenet", 7),
    ("mobilenet_v2", 7),
    ("mobilenet_v2_bn", 7),
    ("vit_tiny", 5),
    ("fitnet4", 7),
]
PASSES = ["resnet50", "resnet50_bn", "mobilenet_v2", "mobilenet_v2_bn", "vit_tiny", "squeezenet", "fitnet4"]
BATCHES = [("resnet50", 256, 2, Bar(1.15)), ("squeezenet", 32, 5, None)]


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


def count_passes(net: str, case: Case, bench: Bench) -> list[Row]:
    ran = run_side("passes", model_of(bench, net), images_of(bench, NETS[net].size, 32)).account()
    ours, plain = ran["calibrate"], ran["plain"]
    return [Row(case.name, case.title, ours=ours, other=plain, measured=ours / 2, cpu=ran["check"])]


def look(net: str, rounds: int, case: Case, bench: Bench) -> list[Row]:
    model, data = model_of(bench, net), images_of(bench, NETS[net].size, 32)
    sides = [
        lambda path=path: run_side("plain", path, data).part() for path in (looked_at(model, len(np.load(data))), model)
    ]
    return [Row(case.name, case.title, **compare(*in_turn(sides, bench.rounds(rounds), warm=not bench.quick)))]


def looked_at(model: Path, images: int) -> Path:
    """The file of a model that gives sums of the output of each layer too, for so many images."""
    proto = onnx.load(model)
    graph = proto.graph
    constants = {tensor.name for tensor in graph.initializer}
    graph.initializer.append(numpy_helper.from_array(np.ones((1, images), np.float32), "ones"))
    graph.initializer.append(numpy_helper.from_array(np.array([images, -1]), "a row for each"))
    for node in list(graph.node):
        name = node.output[0]
        if node.op_type == "Conv":
            graph.node.append(helper.make_node("GlobalAveragePool", [name], [f"sums of {name}"]))
        elif node.op_type == "MatMul" and node.input[1] in constants:
            graph.node.append(helper.make_node("Reshape", [name, "a row for each"], [f"rows of {name}"]))
            graph.node.append(helper.make_node("MatMul", ["ones", f"rows of {name}"], [f"sums of {name}"]))
        else:
            continue
        graph.output.append(helper.make_empty_tensor_value_info(f"sums of {name}"))
    path = model.with_name(f"{model.stem}_looked_at.onnx")
    onnx.save(proto, path)
    return path


def split_up(net: str, images: int, rounds: int, case: Case, bench: Bench) -> list[Row]:
    model, data = model_of(bench, net), images_of(bench, NETS[net].size, images)
    parts = str((min(images, 8) if bench.quick else images) // 4)
    sides = [lambda k=k: run_side("calibrate", model, data, "--batches", k).part() for k in (parts, "1")]
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
    *(Case(f"passes/{net}", title_of(net, 31), None, partial(count_passes, net)) for net in PASSES),
    *(Case(f"look/{net}", title_of(net, 32), None, partial(look, net, rounds)) for net, rounds in LOOK),
    *(
        Case(f"batches/{net}", title_of(net, images), bar, partial(split_up, net, images, rounds))
        for net, images, rounds, bar in BATCHES
    ),
]
