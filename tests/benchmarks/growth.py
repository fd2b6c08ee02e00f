"""How time and memory grow: with the number of layers, of batches, and with the size of the file."""

from functools import partial

import models
import numpy as np
from bench import Bench, Case, images_of, model_of, need_room, settle
from processes import Ran, in_turn, middle, run, run_command, run_side, spread
from rows import Bar, Group, Row

GROUPS = (
    Group(
        "layers",
        "Growth with the number of layers: thin nets, 16 channels, 32 images of 32 x 32",
        "command, s",
        "start-up, s",
        "time per layer, the first is 1",
        "CPU, s",
        (
            "Whole command without start-up: a process that imports what the command imports. Of the CPU time start-up "
            "is a part. The last row does not depend on start-up: 1 is linear.",
            "Rounding grows with depth in a plain net: of 640 layers some miss the tolerance, and changing the images "
            "by 1e-7 moves their stds by per cents. Such a run counts, and its row says so.",
        ),
    ),
    Group(
        "split",
        "Growth with the number of batches: calibrating FitNet-4 on 256 images in so many batches",
        "calibration, s",
        "in one batch, s",
        "ratio",
        "of CPU time",
    ),
    Group(
        "size",
        "Growth with the size of the file: layers 4096 wide, external data, `--memory 1G`, 64 samples",
        "command, s",
        "model, GB",
        "peak memory, GB",
        "CPU, s",
        (
            "Memory: the greatest sum of RssAnon and RssShmem, which no file backs, read from /proc every 10 ms from "
            "start to end. Time includes reading the model, writing the new one and verifying that.",
        ),
    ),
)
START = "import typer, onnx, onnxruntime, onnx_lsuv; onnx_lsuv.initialize"
LAYERS, QUICK_LAYERS = (10, 40, 160, 640), (4, 8, 16, 32)
SPLIT, QUICK_SPLIT = (1, 4, 16, 64), (1, 2, 4)
SIZES = [  # GB, square layers of 4096 x 4096 x 4 bytes, bar
    (0.1, 2, None),
    (0.5, 7, None),
    (1, 15, None),
    (4, 60, Bar(1.5)),
]
GIGABYTE = 1e9


def with_layers(case: Case, bench: Bench) -> list[Row]:
    """The whole command on deeper and deeper nets, in turn."""
    counts = QUICK_LAYERS if bench.quick else LAYERS
    data = images_of(bench, 32, 32)
    # One of the layers is the fully connected one at the end.
    nets = [models.thin_net(bench.folder / f"thin{count}.onnx", count - 1) for count in counts]
    settle(bench)
    sides = [partial(run, ["-c", START]), *(partial(run_command, net, data) for net in nets)]
    every = in_turn(sides, bench.rounds(5), warm=not bench.quick)
    start, *runs = map(middle, every)
    beyond = [ran.wall - start.wall for ran in runs]
    rows = []
    for count, ran, time, kept in zip(counts, runs, beyond, every[1:], strict=True):
        ratio = time / beyond[0] * counts[0] / count
        bar = case.bar if count == counts[-1] else None
        details = {"ours": spread(kept), "other": spread(every[0])}
        title = f"{count} layers"
        rows.append(
            Row(f"layers/{count}", title, ran.wall, start.wall, ratio, ran.cpu, bar, kept[0].missed, details=details)
        )
    slopes = [(beyond[i] - beyond[1]) / (counts[i] - counts[1]) for i in (2, 3)]
    title = f"from {counts[1]} to {counts[3]} against from {counts[1]} to {counts[2]}"
    return [*rows, Row("layers/slope", title, measured=slopes[1] / slopes[0])]


def with_batches(_: Case, bench: Bench) -> list[Row]:
    """The same images in more and more batches."""
    model, data = model_of(bench, "fitnet4"), images_of(bench, 32, 256)
    counts = QUICK_SPLIT if bench.quick else SPLIT

    def calibrate(count: int) -> Ran:
        return run_side("calibrate", model, data, "--batches", str(count)).part()

    sides = [partial(calibrate, count) for count in counts]
    rows, every = [], in_turn(sides, bench.rounds(3), warm=not bench.quick)
    first = middle(every[0])
    for count, runs in zip(counts, every, strict=True):
        ran = middle(runs)
        ratios = {"measured": ran.wall / first.wall, "cpu": ran.cpu / first.cpu}
        rows.append(Row(f"split/{count}", str(count), ran.wall, first.wall, **ratios, details=spread(runs)))
    return rows


def with_size(squares: int, case: Case, bench: Bench) -> list[Row]:
    """A model of external data, once."""
    width, inputs = (256, 64) if bench.quick else (4096, 256)
    bytes_of_model = 4 * width * (squares * width + inputs)
    need_room(bench, round(2.1 * bytes_of_model + GIGABYTE / 4))
    model, data = bench.folder / "mlp.onnx", bench.folder / "samples.npy"
    np.save(data, np.random.default_rng(0).standard_normal((64, inputs), dtype=np.float32))
    try:
        models.wide_mlp(model, width, squares + 2, inputs)
        settle(bench)
        ran = run_command(model, data, "--memory", "64M" if bench.quick else "1G", look=True)
    finally:
        for path in bench.folder.glob("mlp.onnx*"):
            path.unlink()
    return [
        Row(
            case.name,
            case.title,
            ran.wall,
            bytes_of_model / GIGABYTE,
            ran.memory["not files"] / GIGABYTE,
            ran.cpu,
            case.bar,
            ran.missed,
            details={"peaks": ran.memory, "said": ran.output.splitlines()[-4:]},
        )
    ]


CASES = [
    Case("layers/all", "all", Bar(1.3), with_layers),
    Case("split/all", "all", None, with_batches),
    *(Case(f"size/{size:g}", f"{size:g} GB", bar, partial(with_size, squares)) for size, squares, bar in SIZES),
]
