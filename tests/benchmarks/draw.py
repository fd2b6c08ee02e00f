"""Drawing orthonormal weights, normal numbers included, against one float32 product A @ A.T of each."""

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
        (
            "Both of its triangular products take as many operations as A @ A.T, which is symmetric: nothing that ends "
            "in them and starts from normal numbers can be below 2 and what these take alone, which is said below.",
        ),
    ),
)
Shape = tuple[int, int, int]  # blocks, fan_out, fan_in
RESNET: list[Shape] = [(1, c, 9 * c) for c, times in ((64, 3), (128, 4), (256, 6), (512, 3)) for _ in range(times)]
SHAPES: list[tuple[str, str, list[Shape], Bar | None]] = [
    ("4096x25088", "(4096, 25088)", [(1, 4096, 25088)], Bar(2)),
    ("4096x4096", "(4096, 4096)", [(1, 4096, 4096)], Bar(4)),
    ("2048x2048", "(2048, 2048)", [(1, 2048, 2048)], Bar(5)),
    ("512x4608", "(512, 4608)", [(1, 512, 4608)], Bar(3)),
    ("64x576", "(64, 576)", [(1, 64, 576)], None),
    ("960x1x9", "960 blocks of (1, 9)", [(960, 1, 9)], None),
    ("resnet50", "all 3x3 convolutions of ResNet-50", RESNET, Bar(1.5)),
]


def measure(shapes: list[Shape], case: Case, bench: Bench) -> list[Row]:
    if bench.quick:
        shapes = [(blocks, -(-out // 16), -(-fan_in // 16)) for blocks, out, fan_in in shapes]
    sizes = ["x".join(map(str, shape)) for shape in shapes]
    found = run_side("draw", *sizes, "--seconds", "0.1" if bench.quick else "6").account()
    ours, other, numbers = (middle([Ran(**times) for times in found[side]]) for side in ("ours", "other", "numbers"))
    ratios = {"measured": ours.wall / other.wall, "cpu": ours.cpu / other.cpu}
    note = f"normal numbers alone {numbers.wall / other.wall:.2f}"
    return [Row(case.name, case.title, ours.wall, other.wall, **ratios, bar=case.bar, note=note, details=found)]


CASES = [Case(f"draw/{name}", title, bar, partial(measure, shapes)) for name, title, shapes, bar in SHAPES]
