"""What `--help` and `--version` take, against a Python that does nothing."""

from functools import partial

from bench import Bench, Case
from processes import in_turn, middle, run, spread
from rows import Bar, Group, Row

GROUPS = (
    Group("startup", "Start-up: `--help` and `--version`", "command, s", "`python -c pass`, s", "seconds", "CPU, s"),
)


def measure(option: str, case: Case, bench: Bench) -> list[Row]:
    sides = [partial(run, ["-m", "onnx_lsuv", f"--{option}"]), partial(run, ["-c", "pass"])]
    runs = in_turn(sides, bench.rounds(10))
    ours, other = map(middle, runs)
    details = dict(zip(("ours", "other"), map(spread, runs), strict=True))
    return [Row(case.name, case.title, ours.wall, other.wall, ours.wall, ours.cpu, case.bar, details=details)]


CASES = [
    Case(f"startup/{option}", f"`--{option}`", bar, partial(measure, option))
    for option, bar in (("help", Bar(0.3)), ("version", None))
]
