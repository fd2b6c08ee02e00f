"""How long `onnx-lsuv` takes, against doing the same job layer by layer and against one plain ONNX Runtime session.

    python tests/benchmarks/calibration.py [--model resnet50] [--batch 8] [--repeats 5] [--skip-slow] [--json PATH]

A model without normalisation and a batch of images are made in a temporary folder; then, on the CPU, each in a fresh
process of this checkout and this interpreter:

* the whole command, from the start of Python to the verified, saved file;
* the same job layer by layer (layer_by_layer.py: a session per forward pass, SVD), likewise from start to file;
* ONNX Runtime alone: creating a session of the same model and its first forward pass with the same batch, imports and
  reading the batch left out. It is compared with the command's calibration, session and run together.

The command and the plain session take turns, so that both see the same machine; one round goes before to warm the
file cache and is not counted. Everything uses ONNX Runtime's default number of threads.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import perf_counter

import models
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
MODELS: dict[str, tuple[Callable[[Path], Path], int]] = {
    "resnet50": (models.resnet50_nonorm, 224),
    "vgg16": (models.vgg16, 224),
    "mobilenet_v2": (models.mobilenet_v2, 224),
    "squeezenet": (models.squeezenet, 224),
    "vit_tiny": (models.vit_tiny, 224),
    "fitnet4": (models.fitnet4, 32),
}
PHASES = ("load", "draw", "calibrate", "save", "verify")
PLAIN = """
import json, sys
from time import perf_counter
import numpy, onnxruntime
batch = numpy.load(sys.argv[2])
start = perf_counter()
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
made = perf_counter()
session.run(None, {"image": batch})
json.dump({"session": made - start, "forward": perf_counter() - made}, sys.stdout)
"""


def run(arguments: list[str | Path]) -> tuple[float, str]:
    """Run Python with these arguments; its wall time and standard output."""
    command = [sys.executable, *map(str, arguments)]
    start = perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    seconds = perf_counter() - start
    if done.returncode:
        raise SystemExit(f"exit status {done.returncode} from {' '.join(command)}\n{done.stdout}{done.stderr}")
    return seconds, done.stdout


def run_command(model: Path, data: Path) -> dict[str, float]:
    """Seconds of the whole command, and of its phases by its own report."""
    out, report = model.with_name("out.onnx"), model.with_name("report.json")
    arguments = [model, "--data", data, "-o", out, "--report", report, "--device", "cpu"]
    seconds, _ = run(["-m", "onnx_lsuv", *arguments])
    phases = json.loads(report.read_text())["seconds"]
    out.unlink()
    report.unlink()
    return {"command": seconds, **{phase: phases[phase] for phase in PHASES}}


def run_plain(model: Path, data: Path) -> dict[str, float]:
    """Seconds of one session and its first forward pass."""
    seconds = json.loads(run(["-c", PLAIN, model, data])[1])
    return {"plain": sum(seconds.values()), **seconds}


def run_layer_by_layer(model: Path, data: Path) -> dict:
    """Seconds of the layer-by-layer way as a whole, and its own account."""
    out, report = model.with_name("out.onnx"), model.with_name("report.json")
    script = Path(__file__).with_name("layer_by_layer.py")
    seconds, _ = run([script, model, "--data", data, "-o", out, "--json", report])
    account = json.loads(report.read_text())
    out.unlink()
    report.unlink()
    return {"command": seconds, **account}


def summarise(rounds: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    return {
        "median": {key: median(times[key] for times in rounds) for key in rounds[0]},
        "minimum": {key: min(times[key] for times in rounds) for key in rounds[0]},
    }


def measure(name: str, batch: int, repeats: int, skip_slow: bool) -> dict:
    build, size = MODELS[name]
    load_before = os.getloadavg() if hasattr(os, "getloadavg") else None
    with tempfile.TemporaryDirectory() as folder:
        model, data = build(Path(folder) / f"{name}.onnx"), Path(folder) / "batch.npy"
        np.save(data, models.images(batch, 3, size, size))
        rounds = [run_plain(model, data) | run_command(model, data) for _ in range(repeats + 1)][1:]
        slow = None if skip_slow else run_layer_by_layer(model, data)
    times = summarise(rounds)
    ratios = {f"calibrate / plain, {kind}": t["calibrate"] / t["plain"] for kind, t in times.items()}
    if slow:
        ratios["layer by layer / command, median"] = slow["command"] / times["median"]["command"]
    packages = ("numpy", "onnx", "onnxruntime-gpu", "onnxruntime")
    return {
        "model": name,
        "batch": [batch, 3, size, size],
        "repeats": repeats,
        "seconds": {**times, "rounds": rounds},
        "layer_by_layer": slow,
        "ratios": ratios,
        "machine": {
            "cpus": os.cpu_count(),
            "platform": platform.platform(),
            "python": platform.python_version(),
            "load_average_before": load_before,
            **{package: found for package in packages if (found := installed(package))},
        },
    }


def installed(package: str) -> str | None:
    try:
        return version(package)
    except ModuleNotFoundError:
        return None


def as_markdown(result: dict) -> str:
    middle, least = result["seconds"]["median"], result["seconds"]["minimum"]
    slow, ratios = result["layer_by_layer"], result["ratios"]
    shape = "x".join(map(str, result["batch"]))
    lines = [
        f"{result['model']}, batch {shape}, {result['machine']['cpus']} cores, {result['repeats']} rounds",
        "",
        "| | median, s | minimum, s |",
        "|---|---:|---:|",
    ]
    rows = {"command": "onnx-lsuv, whole command"}
    rows |= {phase: f"- {phase}" for phase in PHASES}
    rows |= {"plain": "plain session and first forward pass", "session": "- session", "forward": "- forward pass"}
    lines += [f"| {title} | {middle[key]:.2f} | {least[key]:.2f} |" for key, title in rows.items()]
    median_ratio, minimum_ratio = (ratios[f"calibrate / plain, {kind}"] for kind in ("median", "minimum"))
    lines.append(f"| **calibrate / plain** | **{median_ratio:.2f}** | **{minimum_ratio:.2f}** |")
    if slow:
        lines.append(f"| layer by layer, whole ({slow['forwards']} forward passes), once | {slow['command']:.2f} | |")
        phases = {phase: value for phase, value in slow["seconds"].items() if phase != "total"}
        lines += [f"| - {phase} | {value:.2f} | |" for phase, value in phases.items()]
        lines.append(f"| **layer by layer / onnx-lsuv** | **{ratios['layer by layer / command, median']:.1f}** | |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="resnet50")
    parser.add_argument("--batch", type=int, default=8, help="images in the batch")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--skip-slow", action="store_true", help="leave the layer-by-layer way out")
    parser.add_argument("--json", type=Path, metavar="PATH")
    args = parser.parse_args()
    result = measure(args.model, args.batch, args.repeats, args.skip_slow)
    print(as_markdown(result))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
