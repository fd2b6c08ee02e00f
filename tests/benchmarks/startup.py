"""What `--help`, `--version` and a small run take, against a Python that does nothing or imports what a run needs."""

from collections.abc import Callable
from functools import partial

from bench import Bench, Case
from processes import ROOT, Ran, in_turn, middle, run, run_command, spread
from rows import Bar, Group, Row

GROUPS = (
    Group(
        "startup",
        "Start-up",
        "command, s",
        "Python, s",
        "seconds",
        "CPU, s",
        (
            "`--help` and `--version` beside `python -c pass`; a small run, `sample_models/mlp.onnx` from start to the "
            "verified file, beside `import numpy, onnx, onnxruntime`.",
        ),
    ),
)
MLP = ROOT / "sample_models" / "mlp.onnx"


def small_run(bench: Bench) -> Ran:
    model = bench.folder / MLP.name
    model.write_bytes(MLP.read_bytes())
    return run_command(model, MLP.with_suffix(".npy"))


def option(name: str, bench: Bench) -> Ran:
    return run(["-m", "onnx_lsuv", f"--{name}"])


def measure(ours: Callable[[Bench], Ran], code: str, case: Case, bench: Bench) -> list[Row]:
    sides = [partial(ours, bench), partial(run, ["-c", code])]
    runs = in_turn(sides, bench.rounds(10))
    ours, other = map(middle, runs)
    details = dict(zip(("ours", "other"), map(spread, runs), strict=True))
    return [Row(case.name, case.title, ours.wall, other.wall, ours.wall, ours.cpu, case.bar, details=details)]


CASES = [
    Case("startup/help", "`--help`", Bar(0.1), partial(measure, partial(option, "help"), "pass")),
    Case("startup/version", "`--version`", None, partial(measure, partial(option, "version"), "pass")),
    Case("startup/run", "a small run", Bar(0.45), partial(measure, small_run, "import numpy, onnx, onnxruntime")),
]
