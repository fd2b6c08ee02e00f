"""Drawing orthonormal weights, normal numbers included, against one float32 product A @ A.T of the shape."""

from functools import partial

from bench import Bench, Case
from processes import Ran, middle, run_side
from rows import Bar, Group, Row

GROUPS = (
    Group(
        "draw",
        "Drawing, normal numbers included, against one float32 product A @ A.T of the shape",
        "draw, s",
        "A @ A.T, s",
        "draw / product",
        "of CPU time",
    ),
)
SHAPES = [  # blocks, fan_out, fan_in, bar
    (1, 4096, 25088, Bar(3)),
    (1, 4096, 4096, Bar(4)),
    (1, 2048, 2048, Bar(5)),
    (1, 512, 4608, Bar(8)),
    (1, 64, 576, None),
    (960, 1, 9, None),
]


def measure(blocks: int, fan_out: int, fan_in: int, case: Case, bench: Bench) -> list[Row]:
    cut = 16 if bench.quick and fan_in > 16 else 1
    shape = [str(blocks), *(str(-(-length // cut)) for length in (fan_out, fan_in))]
    found = run_side("draw", *shape, "--seconds", "0.1" if bench.quick else "3").account()
    ours, other = (middle([Ran(**times) for times in found[side]]) for side in ("ours", "other"))
    ratios = {"measured": ours.wall / other.wall, "cpu": ours.cpu / other.cpu}
    return [Row(case.name, case.title, ours.wall, other.wall, **ratios, bar=case.bar, details=found)]


def case_of(blocks: int, fan_out: int, fan_in: int, bar: Bar | None) -> Case:
    name, title = f"{fan_out}x{fan_in}", f"({fan_out}, {fan_in})"
    if blocks > 1:
        name, title = f"{blocks}x{name}", f"{blocks} blocks of {title}"
    return Case(f"draw/{name}", title, bar, partial(measure, blocks, fan_out, fan_in))


CASES = [case_of(*shape) for shape in SHAPES]
