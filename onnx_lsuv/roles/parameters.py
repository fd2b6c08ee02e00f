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
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from onnx_lsuv.layers.plan import Plan
from onnx_lsuv.model import Array
from onnx_lsuv.operators import WHOLE, of
from onnx_lsuv.program.program import DEFAULT_DOMAINS, FLOAT_TYPES, Constant, Node, Program, stored
from onnx_lsuv.roles.normalised import is_norm_bias, is_norm_scale
from onnx_lsuv.roles.reachability import Flow, flow_of, leads_to_add, leads_to_width
from onnx_lsuv.roles.terms import writable
from onnx_lsuv.sources.tracing import is_constant

VALUES = {"scale": 1.0, "bias": 0.0, "slope": 0.25, "state": 0.0}
_MOVES = WHOLE | {"casts", "takes", "repeats"}
# How far along an axis to look for a rule, and how well it must fit: half precision is off by some 0.4%.
_LOOK, _COLUMNS, _FIT = 64, 4096, 1e-2
_SAMPLE = 1 << 16
_WIDTH_MIN = 8
_RULE_MIN = 6  # four equations for one unknown


@dataclass(frozen=True, slots=True)
class Parameter:
    """A constant that gets its usual starting value."""

    constant: str
    role: str  # "scale", "bias", "slope", "state" or "embedding"
    std: float | None  # of normal numbers; None: all values are VALUES[role]


@dataclass(frozen=True, slots=True)
class Parameters:
    """What is found beside the layers."""

    fresh: tuple[Parameter, ...]
    kept: tuple[str, ...]  # constants that may be trained and keep their values
    zero_scales: tuple[str, ...]  # norm scales of zero at the end of a residual branch, which stay


@dataclass(frozen=True, slots=True)
class _Use:
    node: Node | None  # None: it leaves an inner scope
    position: int
    looked_up: bool  # by a Gather on the way


def find_parameters(plan: Plan, wanted: Callable[..., bool] = lambda *names: True) -> Parameters:
    """Find the trained constants beside those that the plan draws, zeroes or sets.

    Args:
        plan: of the whole program.
        wanted: called with the label of a node that reads a constant, and the constant's; False leaves it alone.
    """
    program = plan.program
    flow = flow_of(plan)
    handled = {name for layer in plan.layers for name in layer.source.touched} | set(plan.zeroed)
    handled |= {name for norm in plan.norms for name in (norm.mean, norm.var)}
    excluded = [left for left in plan.skipped if left.reason == "excluded"]
    labels, nodes = {left.weight for left in excluded}, {left.node for left in excluded}
    fresh, kept, zeros = [], [], []
    for constant in program.constants.values():
        if constant.name in handled or constant.elem_type not in FLOAT_TYPES or not constant.size:
            continue
        if constant.site is None or constant.label in labels:
            continue
        uses = tuple(_uses(program, constant.name))
        if not all(wanted(use.node.label if use.node else "", constant.label) for use in uses):
            continue
        if any(use.node and not nodes.isdisjoint((use.node, *_linear_before(program, flow, use.node))) for use in uses):
            continue  # the bias of a layer that is excluded by its weight's name
        roles = {_role(program, flow, constant, use) for use in uses}
        role, std = _settle(constant, roles)
        if role == "scale" and not stored(program, constant.name).any() and _ends_branch(program, uses):
            zeros.append(constant.name)
        elif role and _writable(constant):
            fresh.append(Parameter(constant.name, role, std))
        elif roles != {"setting"} and constant.size > 1 and not _is_computed(stored(program, constant.name)):
            kept.append(constant.name)
    return Parameters(tuple(fresh), tuple(kept), tuple(zeros))


def _settle(constant: Constant, roles: set[str]) -> tuple[str, float | None]:
    """Return the one role of a constant, "" for none, and the std of its values where they are drawn."""
    if roles == {"embedding"}:
        return "embedding", 1.0
    if roles == {"embedding", "weight"} and len(constant.dims) == 2:
        return "embedding", 1 / math.sqrt(constant.dims[1])
    return (next(iter(roles)), None) if len(roles) == 1 and roles <= VALUES.keys() else ("", None)


def _writable(constant: Constant) -> bool:
    return writable(constant) and (constant.origin != "ConstantOfShape" or constant.scope == "main")


def _uses(program: Program, name: str) -> Iterator[_Use]:
    """Yield who reads a constant in the end, through operators that move or repeat its values."""
    todo: list[_Use | tuple[str, bool]] = [(name, False)]
    seen: set[tuple[str, bool]] = set()
    outputs = {v.name for v in program.body.outputs}
    while todo:
        at = todo.pop()
        if isinstance(at, _Use):
            yield at
            continue
        if at in seen:
            continue
        seen.add(at)
        here, looked_up = at
        below: list[_Use | tuple[str, bool]] = []
        if here in program.exits and here not in outputs:
            below.append(_Use(None, 0, looked_up))
        for node, position in program.consumers.get(here, ()):
            if of(node).reads_shape:
                continue
            table = position == 0 and node.op == "Gather" and is_constant(program, node)
            if table or (position == 0 and of(node).move in _MOVES):
                below += [(output, looked_up or table) for output in node.outputs if output]
            else:
                below.append(_Use(node, position, looked_up))
        todo += reversed(below)


def _role(program: Program, flow: Flow, constant: Constant, use: _Use) -> str:
    """Return what a reader takes a constant for: a role, "weight", "setting", or "" where that is in doubt."""
    node, position = use.node, use.position
    if node is None:
        return ""
    role = of(node).role(position)
    if role:
        return role
    if node.domain not in DEFAULT_DOMAINS or is_constant(program, node):
        return ""
    if node.op_type == "Mul" and is_norm_scale(program, node, position):
        return "scale"
    if node.op_type in ("Add", "Sub") and is_norm_bias(program, node, position):
        return "bias"
    role = _role_by_place(program, flow, constant, use, node)
    if not role:
        return ""
    return "setting" if _is_computed(stored(program, constant.name)) else role


def _role_by_place(program: Program, flow: Flow, constant: Constant, use: _Use, node: Node) -> str:
    """Return the role of an operand of a plain operator, "" where it is in doubt."""
    axes = sum(d != 1 for d in constant.dims)
    others = [name for i, name in enumerate(node.inputs) if i != use.position and name not in program.constants]
    if node.op_type == "Gather":
        index_is_free = not any(name in flow.learned for name in others)
        return "embedding" if use.position == 0 and len(constant.dims) > 1 and index_is_free else ""
    learned = any(name in flow.learned for name in others)
    leads = node.outputs[0] in flow.leading
    if node.op_type == "Add" and use.looked_up and learned:
        return "embedding"
    if node.op_type == "Add" and any(
        _is_bias_of(flow, constant, linear) for linear in _linear_before(program, flow, node)
    ):
        return "bias"
    if node.op_type == "Add" and axes == 1 and learned:
        return "bias" if leads else ""
    if node.op_type == "Mul" and axes == 1 and learned and leads:
        return "scale"
    wide = bool(constant.dims) and constant.dims[-1] >= _WIDTH_MIN
    if node.op_type == "Add" and axes > 1 and wide:
        return "embedding" if leads_to_width(program, flow, node.outputs[0], constant.dims[-1]) else ""
    if node.op_type == "Concat" and len(constant.dims) > 2 and wide and learned:
        axis = node.int_attribute("axis", 0)
        if axis not in (-1, len(constant.dims) - 1):
            return "embedding" if leads_to_width(program, flow, node.outputs[0], constant.dims[-1]) else ""
    return ""


def _is_bias_of(flow: Flow, constant: Constant, linear: Node) -> bool:
    """Say whether a constant has a number for each output of a linear operator."""
    layer = flow.layers.get(linear)
    outputs = layer.matrix.blocks * layer.matrix.fan_out if layer is not None else 0
    return sum(d != 1 for d in constant.dims) == 1 or constant.size == outputs


def _linear_before(program: Program, flow: Flow, add: Node) -> Iterator[Node]:
    """Yield the linear nodes whose outputs, perhaps moved, an Add adds something to."""
    for operand in add.inputs if add.op == "Add" else ():
        name = operand
        while name in program.producers:
            node, _ = program.producers[name]
            if node in flow.linear:
                yield node
            if of(node).move not in _MOVES:
                break
            name = node.inputs[0]


def _ends_branch(program: Program, uses: tuple[_Use, ...]) -> bool:
    return all(use.node is not None and leads_to_add(program, use.node.outputs[0]) for use in uses)


def _is_computed(values: Array) -> bool:
    """Say whether somebody computed these values: all alike, in steps of one half, not finite, sinusoids or ramps."""
    array = values.astype(np.float32) if values.dtype.itemsize == 2 else values
    flat = array.reshape(-1)
    if not np.isfinite(flat).all():
        return True
    # What holds for all holds for the first, which are soon looked at.
    for part in (flat[:_SAMPLE], flat):
        if not (part * 2 == np.rint(part * 2)).all() and not (part == part[0]).all():
            return any(length >= _RULE_MIN and _follows_rule(array, axis) for axis, length in enumerate(array.shape))
    return True


def _follows_rule(array: Array, axis: int) -> bool:
    """Say whether x[p+1] + x[p-1] = c x[p] along an axis, c being free for each row, as of sin(w p + a) and a + b p."""
    rows = np.moveaxis(array, axis, 0)[:_LOOK].reshape(min(_LOOK, array.shape[axis]), -1)[:, :_COLUMNS]
    x = rows.astype(np.float64)
    sums, middle = x[2:] + x[:-2], x[1:-1]
    squares = (middle**2).sum(0)
    c = (sums * middle).sum(0) / np.where(squares == 0, 1, squares)
    errors = ((sums - c * middle) ** 2).sum(0)
    return bool((errors <= _FIT**2 * ((x**2).sum(0) + np.finfo(np.float64).tiny)).all())
