"""Which constants beside the layers' are trained parameters, and how each of them usually starts.

    scale      of a norm, or of channels in the middle of a network     1
    bias       of a norm, of a layer, of attention, or standing free    0
    slope      of a PRelu                                               0.25
    state      a recurrent layer's first state                          0
    embedding  a table that indices of the data look up, an added
               position embedding, a token that is joined or masked in  normal, of the std that `tables` says

An ONNX file does not say what is trained. An operand of a norm, a PRelu or a layer is a parameter by its place. One of
a plain Add, Mul, Gather, Concat or Where is taken for one only where a layer comes before and after it, so that neither
what prepares the input nor what decodes the output counts; and not if its values show that somebody computed them:
numbers in steps of one half (masks, grids, strides), sinusoids, ramps and windows, a single number that is short. What
is left in doubt is kept, and named.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, replace

import numpy as np

from onnx_lsuv.operators import WHOLE, of
from onnx_lsuv.program.program import DEFAULT_DOMAINS, FLOAT_TYPES, Constant, Node, Program, stored
from onnx_lsuv.roles.norms import is_norm_bias, is_norm_scale
from onnx_lsuv.roles.products import Skipped, writable
from onnx_lsuv.roles.reachability import Reachability, leads_to_add
from onnx_lsuv.roles.tables import GATHERS, table_stds
from onnx_lsuv.roles.values import is_computed, is_grid, is_listed
from onnx_lsuv.roles.zeros import living_zeros

VALUES = {"scale": 1.0, "bias": 0.0, "slope": 0.25, "state": 0.0}
MOVES = WHOLE | {"casts", "likens", "takes", "repeats"}
_WIDTH_MIN = 8


@dataclass(frozen=True, slots=True)
class Parameter:
    """A constant that gets its usual starting value."""

    constant: str
    role: str  # a key of VALUES, or "embedding"; of one without values also "weight", "statistics" or "unknown"
    evidence: str  # as in `Role`
    std: float | None  # of normal numbers; None: all are `value`
    value: float = 0.0


@dataclass(frozen=True, slots=True)
class Parameters:
    """What is found beside the layers."""

    fresh: tuple[Parameter, ...] = ()
    kept: tuple[str, ...] = ()  # constants that may be trained and keep their values
    zero_scales: tuple[str, ...] = ()  # norm scales of zero at the end of a residual branch, which stay


def find_parameters(
    reachability: Reachability, skipped: Sequence[Skipped], handled: Set[str], wanted: Callable[..., bool]
) -> Parameters:
    """Find the trained constants beside those of layers, biases and statistics; their values are read.

    Args:
        reachability: of the program.
        skipped: nodes that are left alone; what an excluded or fixed one reads, or its bias, is left alone too.
        handled: constants whose role is known.
        wanted: called with the label of a node that reads a constant, and the constant's; False leaves it alone.
    """
    program = reachability.program
    excluded = [each for each in skipped if each.reason in ("excluded", "fixed")]
    labels, nodes = {each.weight for each in excluded}, {each.node for each in excluded}
    fresh: list[Parameter] = []
    tied, zeros, kept = set[str](), dict[str, None](), list[str]()
    for constant in program.constants.values():
        if constant.name in handled or constant.elem_type not in FLOAT_TYPES or not constant.size:
            continue
        if program.is_absent(constant.name):
            continue  # see `absent`
        if constant.site is None or constant.label in labels:
            continue
        uses = readers_of(program, constant.name)
        if not all(wanted(node.label if node else "", constant.label) for node, _ in uses):
            continue
        if any(node and not nodes.isdisjoint((node, *_linear_before(reachability, node))) for node, _ in uses):
            continue  # the bias of a layer that is excluded by its weight's name
        found = dict(_role(reachability, constant, *use) for use in uses)
        role = agreed(constant, found.keys())
        if role and writable(constant) and (constant.origin != "ConstantOfShape" or constant.scope == "main"):
            fresh.append(Parameter(constant.name, role, found[role], None, VALUES.get(role, 0.0)))
            if "weight" in found:
                tied.add(constant.name)
            ends_branch = all(node and leads_to_add(program, node.outputs[0]) for node, _ in uses)
            if role == "scale" and ends_branch and not stored(program, constant.name).any():
                zeros[constant.name] = None
        elif not (
            found.keys() == {"setting"}
            or is_computed(stored(program, constant.name))
            or is_written(reachability, constant, [node for node, _ in uses if node])
        ):
            kept.append(constant.name)
    stay = living_zeros(program, zeros.keys())
    started = with_table_stds(reachability, [each for each in fresh if each.constant not in stay], tied)
    return Parameters(started, tuple(kept), tuple(filter(stay.__contains__, zeros)))


def readers_of(program: Program, name: str) -> tuple[tuple[Node | None, int], ...]:
    """Return who reads a constant in the end, through nodes that hand on it alone."""

    def passes(node: Node, position: int) -> bool:
        return position == 0 and (of(node).move in MOVES or (node.op in GATHERS and node in program.static))

    return tuple(program.readers(name, passes))


def with_table_stds(reachability: Reachability, found: Sequence[Parameter], tied: Set[str]) -> tuple[Parameter, ...]:
    """Return parameters in which the tables have a std; those that are `tied` are a layer's weight too."""
    constants = reachability.program.constants
    tables = {each.constant: constants[each.constant] for each in found if each.role == "embedding"}
    stds = table_stds(reachability, tables, tied)
    return tuple(replace(each, std=stds.get(each.constant, each.std)) for each in found)


def agreed(constant: Constant, roles: Set[str]) -> str:
    """Return the one role of a constant, "" for none; a table may be a layer's weight too."""
    if roles == {"embedding"} or (roles == {"embedding", "weight"} and len(constant.dims) == 2):
        return "embedding"
    return next(iter(roles)) if len(roles) == 1 and roles <= VALUES.keys() else ""


def is_written(reachability: Reachability, constant: Constant, readers: Sequence[Node]) -> bool:
    """Say whether a constant before all layers, as what prepares the input, is a list of written numbers, or one behind
    all a grid, as the boxes of a detector.
    """
    starts = reachability.learned.isdisjoint(name for node in readers for name in node.inputs)
    ends = reachability.leading.isdisjoint(name for node in readers for name in node.outputs)
    if not readers or not (starts or ends):
        return False
    values = stored(reachability.program, constant.name)
    return (starts and is_listed(values)) or (ends and is_grid(values))


def _role(reachability: Reachability, constant: Constant, node: Node | None, position: int) -> tuple[str, str]:
    """Return what a reader takes a constant for, see `role_at`, unless values show that it is a "setting"."""
    role, evidence = role_at(reachability, constant, node, position)
    if role and evidence == "place" and is_computed(stored(reachability.program, constant.name)):
        return "setting", "values"
    if role and is_number(reachability.program, constant, role, evidence):
        return "setting", "number"
    return role, evidence


def is_number(program: Program, constant: Constant, role: str, evidence: str) -> bool:
    """Say whether one number behind a norm was written down, as the half of a GELU, and is no start of the norm's."""
    if evidence != "norm" or constant.size != 1 or program.is_absent(constant.name):
        return False
    values = stored(program, constant.name)
    return is_computed(values) and values.item() != VALUES[role]


def role_at(reachability: Reachability, constant: Constant, node: Node | None, position: int) -> tuple[str, str]:
    """Return what a reader takes a constant for, and by which evidence; no value is read.

    Returns:
        A role, "weight", "setting", or "" where that is in doubt; and what tells: the "operand" that it is, the "norm"
        before it, or its "place" among the layers.
    """
    if node is None:
        return "", ""
    program = reachability.program
    if role := of(node).role(position):
        return role, "operand"
    if node.domain not in DEFAULT_DOMAINS or node in program.static:
        return "", ""
    if node.op_type == "Mul" and is_norm_scale(program, node, position):
        return "scale", "norm"
    if node.op_type in ("Add", "Sub") and is_norm_bias(program, node, position):
        return "bias", "norm"
    return _role_by_place(reachability, constant, node, position), "place"


def _role_by_place(reachability: Reachability, constant: Constant, node: Node, position: int) -> str:
    """Return the role of an operand of a plain operator, "" where it is in doubt."""
    program, kind = reachability.program, node.op_type
    axes = sum(d != 1 for d in constant.dims)
    others = [name for i, name in enumerate(node.inputs) if i != position and name not in program.constants]
    learned = any(name in reachability.learned for name in others)
    leads = node.outputs[0] in reachability.leading
    if kind == "Gather":
        return "embedding" if position == 0 and len(constant.dims) > 1 and not learned else ""
    if kind == "Mul":
        return "scale" if axes == 1 and learned and leads else ""
    if kind == "Add":
        if learned and any(maker.op in GATHERS for maker in program.makers(node.inputs[position])):
            return "embedding"
        if any(_is_bias_of(reachability, constant, linear) for linear in _linear_before(reachability, node)):
            return "bias"
        if axes == 1:
            return "bias" if learned and leads else ""
        if learned and leads and axes > 1 and _adds_to_attention(program, node):
            return _attention_bias(program, constant)
    last = len(constant.dims) - 1
    joined = kind == "Concat" and last > 1 and learned and node.attributes.integer("axis", 0) not in (-1, last)
    masked = kind == "Where" and axes and position and node.inputs[3 - position] in reachability.learned
    if not (joined or masked or (kind == "Add" and axes > 1)) or constant.dims[-1] < _WIDTH_MIN:
        return ""
    return "embedding" if reachability.leads_to_width(node.outputs[0], constant.dims) else ""


def _adds_to_attention(program: Program, add: Node) -> bool:
    """Say whether a sum is the logits of attention, perhaps after masks."""
    readers = list(program.readers(add.outputs[0], lambda node, _: node.op == "Add" or of(node).move in MOVES))
    return bool(readers) and all(node is not None and node.op == "Softmax" for node, _ in readers)


def _attention_bias(program: Program, constant: Constant) -> str:
    """Return "bias" for a table that positions look up, where an exporter folded the look-up; "setting" for a distance
    times a slope for each head.
    """
    dims = [d for d in constant.dims if d != 1]
    if program.is_absent(constant.name):
        return "bias"
    if len(dims) == 2 and dims[0] == dims[1]:
        return ""
    values = stored(program, constant.name).astype(np.float64)
    heads = values.reshape(-1, math.prod(dims[-2:])) if len(dims) > 2 else values.reshape(dims).T
    sizes = np.linalg.norm(heads, axis=1)
    along = np.abs(heads @ heads[sizes.argmax()]) / sizes.max(initial=1e-300)
    if not np.allclose(along, sizes, rtol=1e-3):
        return "bias"
    return "" if np.allclose(sizes, sizes[0], rtol=1e-3) else "setting"


def _is_bias_of(reachability: Reachability, constant: Constant, linear: Node) -> bool:
    """Say whether a constant has a number for each output of a linear operator."""
    matrix = reachability.matrices.get(linear)
    outputs = matrix.blocks * matrix.fan_out if matrix is not None else 0
    return sum(d != 1 for d in constant.dims) == 1 or constant.size == outputs


def _linear_before(reachability: Reachability, add: Node) -> Iterator[Node]:
    """Yield the linear nodes whose outputs, perhaps moved, an Add adds something to."""
    for operand in add.inputs if add.op == "Add" else ():
        for node in reachability.program.makers(operand):
            if node in reachability.linear:
                yield node
            if of(node).move not in MOVES:
                break
