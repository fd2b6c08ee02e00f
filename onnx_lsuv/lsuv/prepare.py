"""What comes before any run: the plan of a model, and its data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import numpy as np
from onnx import helper

from onnx_lsuv import batches as kinds
from onnx_lsuv.batches import Batch, Batches
from onnx_lsuv.errors import ModelError, UsageError
from onnx_lsuv.graph import is_random
from onnx_lsuv.layers import Plan, Skipped, find_layers
from onnx_lsuv.lsuv.execute import computes_wide
from onnx_lsuv.lsuv.fresh import fresh_notes
from onnx_lsuv.lsuv.notes import guide
from onnx_lsuv.lsuv.patterns import Choice, no_match
from onnx_lsuv.lsuv.result import Result
from onnx_lsuv.lsuv.rows import row_of, skipped_row
from onnx_lsuv.model import Model
from onnx_lsuv.program import expand
from onnx_lsuv.roles import Parameters, prepared_inputs
from onnx_lsuv.runtime import Device


def plan_of(model: Model, *, include: Sequence[str] = (), exclude: Sequence[str] = (), keep_bias: bool = False) -> Plan:
    """Find the layers of a model; see `plans_of`."""
    return plans_of(model, include=include, exclude=exclude, keep_bias=keep_bias, fresh=False)[0]


def plans_of(
    model: Model, *, include: Sequence[str], exclude: Sequence[str], keep_bias: bool, fresh: bool
) -> tuple[Plan, Parameters]:
    """Find the layers of a model, and with `fresh` the parameters beside them.

    Args:
        model: what to look at.
        include: patterns of node or weight names; where given, others are left alone.
        exclude: patterns of node or weight names to leave alone.
        keep_bias: leave biases as they are.
        fresh: look for other parameters too; the patterns are also for these.

    Raises:
        UsageError: a pattern matches no layer.
    """
    program = expand(model)
    choice = Choice(include, exclude)
    plan = find_layers(program, wanted=choice.wanted, keep_bias=keep_bias, fresh=fresh)
    for pattern in choice.unmatched:
        raise UsageError(no_match(pattern, find_layers(program).layers))
    return plan, plan.parameters


def describe(
    model: Model,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    keep_bias: bool = False,
    fresh: bool = False,
) -> Result:
    """Return the layers of a model and what is left alone, without running anything."""
    wanted: dict[str, Any] = {"include": include, "exclude": exclude, "keep_bias": keep_bias, "fresh": fresh}
    return described(*plans_of(model, **wanted), wanted)


def described(plan: Plan, found: Parameters, wanted: Mapping[str, Any]) -> Result:
    """Return what `describe` does of a plan that was found with certain arguments."""
    return Result(
        model=plan.program.model,
        layers=tuple(row_of(plan, layer, "", 1.0, "found", {}) for layer in plan.layers),
        skipped=tuple(map(skipped_row, plan.skipped)),
        kept_statistics=tuple(map(skipped_row, plan.kept_statistics)),
        changes=(),
        notes=(*name_notes(plan), *fresh_notes(plan, found), *map(str, guide(plan))),
        settings={key: list(value) if isinstance(value, Sequence) else value for key, value in wanted.items()},
        data={},
        device="none",
        seconds={},
        target_std=1.0,
        tolerance=None,
    )


def nothing_to_do(plan: Plan) -> str:
    """Return the sentence for a model in which no layer can be initialised."""
    name = plan.program.model.name
    if not plan.skipped:
        return f"There is nothing to initialise in {name}: it has no linear layer (Conv, Gemm, MatMul, ConvTranspose)."
    reasons: dict[str, list[Skipped]] = {}
    for left in plan.skipped:
        reasons.setdefault(left.detail, []).append(left)
    parts = [
        f"{len(group)} x {', '.join(dict.fromkeys(left.node.op for left in group))} because {detail}"
        for detail, group in reasons.items()
    ]
    more = f"; and {len(parts) - 3} reasons more" if len(parts) > 3 else ""
    return f"There is nothing to initialise in {name}: left alone {'; '.join(parts[:3])}{more}."


def check_sizes(plan: Plan, found: Parameters, limit: int) -> None:
    """Raise ModelError for a tensor with new values that this machine has no memory for.

    Args:
        plan: the layers and norms.
        found: the other parameters.
        limit: bytes that one may have; drawing it takes as many again.
    """
    program = plan.program
    names = {name for layer in plan.layers for name in layer.source.constants}
    names |= (
        {layer.scaled_constant for layer in plan.layers} | set(plan.zeroed) | {each.constant for each in found.fresh}
    )
    for name in sorted(names):
        constant = program.constants[name]
        size = constant.size * np.dtype(helper.tensor_dtype_to_np_dtype(constant.elem_type)).itemsize
        if size > limit:
            raise ModelError(
                f"{constant.label!r} of {program.model.name} has dims {list(constant.dims)}, which is {size} bytes of "
                f"new values, and this machine has memory for {limit}: the model is broken, or too large for it."
            )


def run_notes(plan: Plan, data: Batches | None, device: Device) -> tuple[str, ...]:
    """Return notes on the data, and on what was different while measuring."""
    of_data = () if data is None else (*data.notes_for(prepared_inputs(plan.program)), *_precision(plan, device))
    return (*name_notes(plan), *of_data, *_chance(plan))


def name_notes(plan: Plan) -> list[str]:
    """Return notes on names that several nodes or initializers of one graph have."""
    notes = []
    for kind, which in (
        ("node", "all but the first are called NAME#OUTPUT here; ONNX Runtime loads no such file"),
        ("initializer", "the last one counts, as for ONNX Runtime; the others are left as they are"),
    ):
        names = [name for what, name in plan.program.doubled if what == kind]
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            notes.append(f"several {kind}s of a graph have one name ({', '.join(map(repr, names[:3]))}{more}): {which}")
    return notes


def _chance(plan: Plan) -> list[str]:
    """Return a note on the nodes that chance was taken out of."""
    ops = sorted({node.op for node in plan.program.walk() if is_random(node)})
    if not ops:
        return []
    return [
        f"chance was taken out while measuring: {', '.join(ops)} ran as identity, in inference form or with a fixed "
        "seed"
    ]


def _precision(plan: Plan, device: Device) -> list[str]:
    """Return a note where values were computed in another type than theirs."""
    if not computes_wide(plan.program, device):
        return []
    return [
        "bfloat16 was computed in float32, without the rounding between the nodes: ONNX Runtime has next to no "
        "bfloat16 kernels for the CPU"
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
    # A folder may hold batches of several sizes.
    return {n: s for n, s in shapes.items() if all(pieces[n].shape == s[1] for pieces in batches.pieces)}
