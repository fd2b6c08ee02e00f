"""What comes before any run: the plan of a model, and its data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from time import perf_counter

from onnx import helper

from onnx_lsuv import batches as kinds
from onnx_lsuv.batches import Batch, Batches
from onnx_lsuv.errors import UsageError
from onnx_lsuv.graph import is_random
from onnx_lsuv.layers import Left, Plan, expand, find_layers
from onnx_lsuv.lsuv.result import Result
from onnx_lsuv.lsuv.rows import left_row, row_of
from onnx_lsuv.model import Model


def plan_of(model: Model, *, include: Sequence[str] = (), exclude: Sequence[str] = (), keep_bias: bool = False) -> Plan:
    """Find the layers of a model.

    Args:
        model: what to look at.
        include: patterns of node or weight names; where given, others are left alone.
        exclude: patterns of node or weight names to leave alone.
        keep_bias: leave biases as they are.

    Raises:
        UsageError: a pattern matches no layer.
    """
    program = expand(model)
    seen: dict[str, bool] = dict.fromkeys((*include, *exclude), False)

    def matches(patterns: Sequence[str], label: str, weight: str) -> bool:
        hit = False
        for pattern in patterns:
            if fnmatchcase(label, pattern) or fnmatchcase(weight, pattern):
                seen[pattern] = hit = True
        return hit

    def wanted(label: str, weight: str) -> bool:
        included = matches(include, label, weight) or not include
        return not matches(exclude, label, weight) and included

    plan = find_layers(program, wanted=wanted, keep_bias=keep_bias)
    for pattern, hit in seen.items():
        if not hit:
            names = [layer.node.label for layer in find_layers(program).layers][:5]
            raise UsageError(
                f"the pattern {pattern!r} matches the whole name of no layer or weight; layers are named like "
                f"{', '.join(map(repr, names))}, and '*' stands for anything"
            )
    return plan


def describe(
    model: Model, *, include: Sequence[str] = (), exclude: Sequence[str] = (), keep_bias: bool = False
) -> Result:
    """Return the layers of a model and what is left alone, without running anything."""
    plan = plan_of(model, include=include, exclude=exclude, keep_bias=keep_bias)
    return Result(
        model=model,
        layers=tuple(row_of(plan, layer, "", 1.0, "found") for layer in plan.layers),
        left=tuple(map(left_row, plan.left)),
        stale=tuple(map(left_row, plan.stale)),
        changes=(),
        notes=(),
        settings={"include": list(include), "exclude": list(exclude), "keep_bias": keep_bias},
        data={},
        device="none",
        seconds={},
        target_std=1.0,
        tolerance=None,
    )


def nothing_to_do(plan: Plan) -> str:
    """Return the sentence for a model in which no layer can be initialised."""
    name = plan.program.model.name
    if not plan.left:
        return f"There is nothing to initialise in {name}: it has no linear layer (Conv, Gemm, MatMul, ConvTranspose)."
    reasons: dict[str, list[Left]] = {}
    for left in plan.left:
        reasons.setdefault(left.detail, []).append(left)
    parts = [
        f"{len(group)} x {', '.join(dict.fromkeys(left.node.op for left in group))} because {detail}"
        for detail, group in reasons.items()
    ]
    more = f"; and {len(parts) - 3} reasons more" if len(parts) > 3 else ""
    return f"There is nothing to initialise in {name}: left alone {'; '.join(parts[:3])}{more}."


def chance(plan: Plan) -> list[str]:
    """Return a note on the nodes that chance was taken out of."""
    ops = sorted({node.op for node in plan.program.walk() if is_random(node)})
    if not ops:
        return []
    return [
        f"chance was taken out while measuring: {', '.join(ops)} ran as identity, in inference form or with a fixed "
        "seed"
    ]


class Clock:
    """Seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Add the time spent inside to a phase."""
        start = perf_counter()
        yield
        self.seconds[phase] = self.seconds.get(phase, 0.0) + perf_counter() - start


def checked(model: Model, batches: Batches | Iterable[Batch] | Batch) -> Batches:
    """Return the data, checked against the model's inputs."""
    if isinstance(batches, Batches):
        return batches
    return kinds.from_arrays(kinds.inputs_of(model.proto.graph), batches)


def shapes_of(batches: Batches) -> Mapping[str, tuple[int, Sequence[int]]]:
    """Return element type and shape of each input, with dims open that differ between batches."""
    first = batches[0] if len(batches) else {}
    shapes = {name: (int(helper.np_dtype_to_tensor_dtype(a.dtype)), a.shape) for name, a in first.items()}
    if len(batches) > 1:
        last = batches[len(batches) - 1]
        return {n: s for n, s in shapes.items() if last[n].shape == s[1]}
    return shapes
