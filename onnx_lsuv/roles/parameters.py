"""Which constants beside the layers' are trained parameters, and how each of them usually starts.

    scale      of a norm, or of channels in the middle of a network     1
    bias       of a norm, of a layer, or standing free                  0
    slope      of a PRelu                                               0.25
    state      a recurrent layer's first state                          0
    embedding  a table that indices of the data look up, an added
               position embedding, a joined token                       N(0, 1); tied to a layer of width d: N(0, 1/d)

An ONNX file does not say what is trained. An operand of a norm, a PRelu or a layer is a parameter by its place. One of
a plain Add, Mul, Gather or Concat is taken for one only where a layer comes before and after it, so that neither what
prepares the input nor what decodes the output counts; and not if its values show that somebody computed them: numbers
in steps of one half (masks, grids, strides), sinusoids and ramps. What is left in doubt is kept, and named.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass

from onnx_lsuv.operators import WHOLE, of
from onnx_lsuv.program.program import DEFAULT_DOMAINS, FLOAT_TYPES, Constant, Node, Program, stored
from onnx_lsuv.roles.norms import is_norm_bias, is_norm_scale
from onnx_lsuv.roles.products import Product, Skipped, writable
from onnx_lsuv.roles.reachability import Reachability, find_reachability, leads_to_add
from onnx_lsuv.roles.values import is_computed

VALUES = {"scale": 1.0, "bias": 0.0, "slope": 0.25, "state": 0.0}
_MOVES = WHOLE | {"casts", "takes", "repeats"}
_WIDTH_MIN = 8


@dataclass(frozen=True, slots=True)
class Parameter:
    """A constant that gets its usual starting value."""

    constant: str
    role: str  # "scale", "bias", "slope", "state" or "embedding"
    evidence: str  # "operand", "norm" or "place"
    std: float | None  # of normal numbers; None: all are `value`
    value: float = 0.0


@dataclass(frozen=True, slots=True)
class Parameters:
    """What is found beside the layers."""

    fresh: tuple[Parameter, ...] = ()
    kept: tuple[str, ...] = ()  # constants that may be trained and keep their values
    zero_scales: tuple[str, ...] = ()  # norm scales of zero at the end of a residual branch, which stay


def find_parameters(
    program: Program,
    products: Sequence[Product],
    skipped: Sequence[Skipped],
    handled: Set[str],
    wanted: Callable[..., bool],
) -> Parameters:
    """Find the trained constants beside those of layers, biases and statistics; their values are read.

    Args:
        program: all of it.
        products: those that are drawn.
        skipped: nodes that are left alone; what an excluded or fixed one reads, or its bias, is left alone too.
        handled: constants whose role is known.
        wanted: called with the label of a node that reads a constant, and the constant's; False leaves it alone.
    """
    reachability = find_reachability(program, products, skipped)
    excluded = [each for each in skipped if each.reason in ("excluded", "fixed")]
    labels, nodes = {each.weight for each in excluded}, {each.node for each in excluded}
    fresh, kept, zeros = [], [], []
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
        found = dict(role_at(reachability, constant, *use) for use in uses)
        role, std = agreed(constant, found.keys())
        ends_branch = all(node and leads_to_add(program, node.outputs[0]) for node, _ in uses)
        if role == "scale" and ends_branch and not stored(program, constant.name).any():
            zeros.append(constant.name)
        elif role and writable(constant) and (constant.origin != "ConstantOfShape" or constant.scope == "main"):
            fresh.append(Parameter(constant.name, role, found[role], std, VALUES.get(role, 0.0)))
        elif found.keys() != {"setting"} and constant.size > 1 and not is_computed(stored(program, constant.name)):
            kept.append(constant.name)
    return Parameters(tuple(fresh), tuple(kept), tuple(zeros))


def readers_of(program: Program, name: str) -> tuple[tuple[Node | None, int], ...]:
    """Return who reads a parameter in the end."""

    def passes(node: Node, position: int) -> bool:
        return position == 0 and (of(node).move in _MOVES or (node.op == "Gather" and node in program.static))

    return tuple(program.readers(name, passes))


def agreed(constant: Constant, roles: Set[str]) -> tuple[str, float | None]:
    """Return the one role of a constant, "" for none, and the std of its values where they are drawn."""
    if roles == {"embedding"}:
        return "embedding", 1.0
    if roles == {"embedding", "weight"} and len(constant.dims) == 2:
        return "embedding", 1 / math.sqrt(constant.dims[1])
    return (next(iter(roles)), None) if len(roles) == 1 and roles <= VALUES.keys() else ("", None)


def role_at(reachability: Reachability, constant: Constant, node: Node | None, position: int) -> tuple[str, str]:
    """Return what a reader takes a constant for, and by which evidence.

    Returns:
        A role, "weight", "setting", or "" where that is in doubt; and what tells: the "operand" that it is, the "norm"
        before it, its "place" among the layers, or its "values".
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
    role = _role_by_place(reachability, constant, node, position)
    told = role and not program.is_absent(constant.name) and is_computed(stored(program, constant.name))
    return ("setting", "values") if told else (role, "place")


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
        if learned and any(maker.op == "Gather" for maker in program.makers(node.inputs[position])):
            return "embedding"
        if any(_is_bias_of(reachability, constant, linear) for linear in _linear_before(reachability, node)):
            return "bias"
        if axes == 1:
            return "bias" if learned and leads else ""
    last = len(constant.dims) - 1
    joined = kind == "Concat" and last > 1 and learned and node.attributes.integer("axis", 0) not in (-1, last)
    if not (joined or (kind == "Add" and axes > 1)) or constant.dims[-1] < _WIDTH_MIN:
        return ""
    return "embedding" if reachability.leads_to_width(node.outputs[0], constant.dims[-1]) else ""


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
            if of(node).move not in _MOVES:
                break
