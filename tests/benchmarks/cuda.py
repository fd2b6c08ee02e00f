"""CUDA against the CPU and against a plain CUDA session, one batch and eight; what goes to the GPU and how often.

    python tests/benchmarks/cuda.py [--only NAME ...] [--quick] [--rounds N] [--json PATH] [--folder FOLDER]

Each number is the calibration (graph, sessions, run with all statistics) in a process of its own, or the plain
session's making and its forward passes over the same batches; medians of as many rounds as asked for, in turn. It
prints a Markdown table. ONNX Runtime's CUDA provider must open. Where it does by the emulated libraries
(LD_LIBRARY_PATH, see ../shared/cuda_emulation) times mean nothing, and a second table counts what their log holds of
the calibration: sessions (one gives the memory back at the end), handles of cuBLAS and cuDNN, kernels, copies to and
from the device in MB, and the most memory that was taken there. `--quick` takes small models and images; the full ones
are hours of emulation.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import models
import numpy as np
from bench import QUICK
from processes import FailedError, Ran, in_turn, middle, run_side


@dataclass(frozen=True, slots=True)
class Net:
    title: str
    write: Callable[..., Path]
    batches: tuple[int, ...]  # sizes of the whole
    shape: tuple[int, ...] = (3, 224, 224)
    quick: tuple[tuple[str, int], ...] = tuple(QUICK.items())


def wide_mlp(path: Path, seed: int = 0, *, layers: int = 62, width: int = 4096) -> Path:
    return models.wide_mlp(path, width=width, layers=layers, seed=seed)


NETS = {
    "resnet50": Net("ResNet-50", models.resnet50, (32, 256)),
    "resnet50_bn": Net("ResNet-50 with BatchNormalization", partial(models.resnet50, norms=True), (32, 256)),
    "vit_b": Net("ViT-B", partial(models.vit_tiny, width=768, heads=12), (32,)),
    "vgg16": Net("VGG-16", models.vgg16, (32,)),
    "mlp": Net("62 layers of 4096, 4 GB", wide_mlp, (256,), (256,), (("layers", 6), ("width", 64))),
}
PARTS = (1, 8)
SIDES = {"CPU": ("calibrate", "cpu"), "CUDA": ("calibrate", "cuda"), "plain CUDA": ("plain", "cuda")}
COUNTS = ("sessions", "handles", "kernels", "copies up", "MB up", "copies down", "MB down", "peak MB")


@dataclass(frozen=True, slots=True)
class Log:
    """What a process asked of emulated CUDA."""

    sessions: int
    handles: int
    kernels: int
    copies_up: int
    up: int  # bytes
    copies_down: int
    down: int
    peak: int

    def columns(self) -> list[str]:
        numbers = list(asdict(self).values())
        return [f"{n / 1e6:.1f}" if i in (4, 6, 7) else str(n) for i, n in enumerate(numbers)]


def read_log(path: Path) -> Log:
    """Count what is in the log of the emulated libraries: a line for each call, after its thread and time."""
    calls = [words[2:] for words in (line.split() for line in path.read_text(errors="replace").splitlines())]
    up, down = ([int(call[2]) for call in calls if call[0] == kind] for kind in ("H2D", "D2H"))
    return Log(
        sessions=sum(call == ["SYNC", "device"] for call in calls),  # at the end of each one's making
        handles=sum(call[0] == "HANDLE" for call in calls),
        kernels=sum(call[0].startswith(("LAUNCH", "CUDNN", "BLAS")) and "Lt" not in call[1] for call in calls),
        copies_up=len(up),
        up=sum(up),
        copies_down=len(down),
        down=sum(down),
        peak=max((int(call[3]) for call in calls if call[0] == "MALLOC"), default=0),
    )


def calibrated(side: str, model: Path, data: Path, parts: int, log: Path | None = None) -> Ran:
    """Run a side, with its log where one is asked for."""
    name, device = SIDES[side]
    if log:
        os.environ["FAKE_GPU_LOG"] = str(log)
    try:
        return run_side(name, model, data, "--device", device, "--batches", str(parts)).part()
    finally:
        os.environ.pop("FAKE_GPU_LOG", None)


def measure(name: str, folder: Path, rounds: int, *, quick: bool) -> list[dict]:
    """Return a row for each size of the data and each number of batches."""
    net, rows = NETS[name], []
    model = net.write(folder / f"{name}.onnx", **(dict(net.quick) if quick else {}))
    for size in net.batches:
        count = min(size, 16) if quick else size
        shape = (3, QUICK["size"], QUICK["size"]) if quick and len(net.shape) == 3 else net.shape
        np.save(data := folder / "data.npy", images_of(count, shape))
        for parts in PARTS:
            row = {"name": name, "title": f"{net.title}, {parts} of {count // parts}"}
            try:
                sides = [partial(calibrated, side, model, data, parts) for side in SIDES]
                runs = in_turn(sides, rounds, warm=not quick)
                row |= {side: middle(found).wall for side, found in zip(SIDES, runs, strict=True)}
                calibrated("CUDA", model, data, parts, log := folder / "log")
                if log.is_file():
                    row["log"] = asdict(found := read_log(log)) | {"columns": found.columns()}
                    log.unlink()
            except FailedError as error:
                row["failed"] = str(error)
            rows.append(row)
            print(f"{row['title']}: {row.get('failed', 'done')}", file=sys.stderr)
        if quick:  # its sizes are the same
            break
    for path in folder.iterdir():
        path.unlink()
    return rows


def images_of(count: int, shape: Sequence[int]) -> np.ndarray:
    if len(shape) == 3:
        return models.images(count, *shape)
    return np.random.default_rng(0).standard_normal((count, *shape), dtype=np.float32)


def as_markdown(rows: Sequence[dict]) -> str:
    """Times and their ratios, then what the logs hold, if there are some."""
    lines = ["| model, batches | CPU, s | CUDA, s | plain CUDA, s | CUDA / plain | CPU / CUDA |", "|---|" + "---:|" * 5]
    for row in rows:
        if "failed" in row:
            lines.append(f"| {row['title']} | {row['failed']} |" + " |" * 4)
            continue
        cpu, cuda, plain = (row[side] for side in SIDES)
        numbers = (f"{n:.3g}" for n in (cpu, cuda, plain, cuda / plain, cpu / cuda))
        lines.append(f"| {row['title']} | {' | '.join(numbers)} |")
    logged = [row for row in rows if "log" in row]
    if logged:
        lines += ["", f"| calibration, emulated | {' | '.join(COUNTS)} |", "|---|" + "---:|" * len(COUNTS)]
        lines += [f"| {row['title']} | {' | '.join(row['log']['columns'])} |" for row in logged]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=NETS, default=list(NETS), metavar="NAME", help=", ".join(NETS))
    parser.add_argument("--quick", action="store_true", help="small models and images, one round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="PATH", help="write every number there")
    parser.add_argument("--folder", type=Path, help="for models; they are removed (default: the system's own)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        rounds = 1 if args.quick else args.rounds
        rows = [row for name in args.only for row in measure(name, Path(folder), rounds, quick=args.quick)]
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    print(as_markdown(rows))
    raise SystemExit(int(any("failed" in row for row in rows)))


if __name__ == "__main__":
    main()
