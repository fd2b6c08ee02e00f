"""The whole command, from start to the verified file, against its parts, the job layer by layer, and PyTorch."""

import json
from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path

from bench import NETS, Bench, Case, images_of, model_of, title_of
from processes import FailedError, MissingError, Ran, middle, run, run_command, run_side, spread
from rows import Bar, Group, Row, number

GROUPS = (
    Group(
        "parts",
        "Whole command against what it cannot do without, each alone",
        "onnx-lsuv, s",
        "its parts, s",
        "ratio",
        "of CPU time",
        (
            "Its parts: the imports of NumPy, ONNX and ONNX Runtime; drawing all weights; two plain ONNX Runtime "
            "sessions with their first forward pass, one to calibrate and one to verify. Nothing is read or saved.",
        ),
    ),
    Group(
        "layer_by_layer",
        "Whole command against the same job layer by layer",
        "onnx-lsuv, s",
        "layer by layer, s",
        "times faster",
        "of CPU time",
        (
            "Layer by layer: a process too, from start to the saved file: an ONNX Runtime session for each forward "
            "pass, NumPy's SVD, tolerance 0.02 on the variance. It does not verify the file; onnx-lsuv does.",
        ),
    ),
    Group(
        "lsuv",
        "Whole command against `lsuv` on PyTorch, through onnx2torch",
        "onnx-lsuv, s",
        "lsuv, s",
        "times faster",
        "of CPU time",
        (
            "`lsuv`: a process too: import, convert, run LSUVinit with its defaults (tolerance 0.1 on the std), fetch "
            "the weights as arrays. It saves no file, verifies nothing, and leaves MatMul layers as they are.",
        ),
    ),
)
PARTS = [("resnet50", 8, 3), ("vgg16", 8, 1), ("mobilenet_v2", 8, 5), ("vit_tiny", 8, 5), ("fitnet4", 32, 5)]
SLOW = [  # model, batch, rounds, bar
    ("resnet50", 8, 1, Bar(20, least=True)),
    ("vgg16", 8, 1, Bar(25, least=True)),
    ("mobilenet_v2", 8, 1, None),
    ("vit_tiny", 8, 1, None),
    ("fitnet4", 32, 3, None),
]
LSUV = [
    ("resnet50", 8, 1, Bar(10, least=True)),
    ("vgg16", 8, 1, Bar(10, least=True)),
    ("mobilenet_v2", 8, 1, Bar(10, least=True)),
    ("vit_tiny", 8, 1, None),  # it would do 2 of 50 layers
    ("fitnet4", 32, 3, Bar(10, least=True)),
]


def bracketed(
    bench: Bench, model: Path, data: Path, other: Callable[[], Ran], rounds: int
) -> tuple[list[Ran], list[Ran]]:
    """Run the command, then in turn the other side and the command; the file cache is warmed before."""
    if bench.quick:
        return [run_command(model, data)], [other()]
    run_command(model, data)
    ours, others = [run_command(model, data)], []
    for _ in range(rounds):
        others.append(other())
        ours.append(run_command(model, data))
    return ours, others


def row_of(case: Case, runs: tuple[list[Ran], list[Ran]], account: dict, more: str = "") -> Row:
    ours, others = runs
    us, them = middle(ours), middle(others)
    missed = f"; onnx-lsuv: {ours[0].missed}" if ours[0].missed else ""
    return Row(
        case.name,
        case.title,
        us.wall,
        them.wall,
        measured=them.wall / us.wall,
        cpu=them.cpu / us.cpu,
        bar=case.bar,
        note=f"{account['layers']} layers, {account['forwards']} forward passes on the other side{more}{missed}",
        details={
            "ours": spread(ours) | {"said": [ran.output.splitlines()[-4:] for ran in ours]},
            "other": spread(others),
            "other's account": account,
        },
    )


def against_layer_by_layer(net: str, batch: int, rounds: int, case: Case, bench: Bench) -> list[Row]:
    model, data = model_of(bench, net), images_of(bench, NETS[net].size, batch)
    out, account = bench.folder / "slow.onnx", bench.folder / "slow.json"

    def slow() -> Ran:
        return run_side("layer_by_layer", model, "--data", data, "-o", out, "--json", account)

    runs = bracketed(bench, model, data, slow, rounds)
    return [row_of(case, runs, json.loads(account.read_text()))]


def together(runs: Iterable[Ran]) -> Ran:
    """What several processes took one after the other."""
    runs = list(runs)
    return Ran(sum(ran.wall for ran in runs), sum(ran.cpu for ran in runs))


def against_parts(net: str, batch: int, rounds: int, case: Case, bench: Bench) -> list[Row]:
    model, data = model_of(bench, net), images_of(bench, NETS[net].size, batch)
    parts: dict[str, Ran] = {}

    def alone() -> Ran:
        (drawn,) = run_side("draw", model, "--alone").account()["ours"]
        sessions = together(run_side("plain", model, data).part() for _ in range(2))
        imports = run(["-c", "import numpy, onnx, onnxruntime"])
        parts.update({"imports": imports, "drawing": Ran(**drawn), "two sessions": sessions})
        return together(parts.values())

    ours, other = bracketed(bench, model, data, alone, rounds)
    us, them = middle(ours), middle(other)
    note = ", ".join(f"{name} {number(each.wall)} s" for name, each in parts.items())
    ratios = {"measured": us.wall / them.wall, "cpu": us.cpu / them.cpu}
    return [Row(case.name, case.title, us.wall, them.wall, **ratios, note=note)]


@cache
def versions_of(python: str) -> dict[str, str]:
    """What is installed of the packages that this side needs.

    Raises:
        MissingError: something is missing.
    """
    try:
        return run_side("torch_lsuv", python=python).account()
    except (FailedError, OSError) as error:
        raise MissingError(f"torch, onnx2torch and lsuv are not all installed ({error}): see --torch-python") from None


def against_lsuv(net: str, batch: int, rounds: int, case: Case, bench: Bench) -> list[Row]:
    versions = versions_of(bench.torch_python)
    model, data = model_of(bench, net), images_of(bench, NETS[net].size, batch)

    def peer() -> Ran:
        try:
            return run_side("torch_lsuv", model, data, python=bench.torch_python)
        except FailedError as error:  # a limit of that side, not a defect of this one
            raise MissingError(str(error)) from None

    runs = bracketed(bench, model, data, peer, rounds)
    more = "".join(f", {name} {version}" for name, version in versions.items())
    return [row_of(case, runs, runs[1][-1].account(), more)]


CASES = [
    *(Case(f"parts/{net}", title_of(net, n), None, partial(against_parts, net, n, rounds)) for net, n, rounds in PARTS),
    *(
        Case(f"{group}/{net}", title_of(net, batch), bar, partial(how, net, batch, rounds))
        for group, how, table in (("layer_by_layer", against_layer_by_layer, SLOW), ("lsuv", against_lsuv, LSUV))
        for net, batch, rounds, bar in table
    ),
]
