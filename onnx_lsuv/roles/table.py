"""A role for every constant, what tells it, and what happens to it.

What reads a constant tells what it is; where that is a plain operator, what is around it; and then its values, which
say whether somebody computed them. Of a large table some rows are read, and all only where these look computed. Values
that are all alike are a usual start as well, as of position tables, so they tell nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from onnx import TensorProto

from onnx_lsuv.errors import ModelError
from onnx_lsuv.operators import of
from onnx_lsuv.program.program import DEFAULT_DOMAINS, FLOAT_TYPES, Constant, Node, Program, stored
from onnx_lsuv.roles.parameters import is_number, is_written, readers_of, role_at
from onnx_lsuv.roles.products import uses
from onnx_lsuv.roles.reachability import Reachability
from onnx_lsuv.roles.values import is_alike, is_computed

# What a constant is; of several that it is at once the first counts.
ROLES = {
    "embedding": "a table that indices look up, or that is added to one",
    "weight": "of a layer",
    "step": "of what rounds a weight, or a bound of what cuts it off",
    "bias": "added to what a layer gives, or standing free",
    "scale": "of a norm, or of channels in the middle of a network",
    "shift": "added by a norm",
    "slope": "of a PRelu",
    "state": "a recurrent layer's first state",
    "token": "joined to a sequence",
    "statistics": "the running mean and variance of a BatchNormalization",
    "fixed": "a transform, mask, grid or table that somebody computed, or what normalises the input",
    "setting": "no parameter: integers, single numbers, shapes, bounds, what a quantiser reads",
    "unknown": "in doubt: nothing tells whether it is trained",
}
TRAINED = frozenset({"embedding", "weight", "bias", "scale", "shift", "slope", "state", "token"})
FATES = {
    "drawn": "new values, scaled where its layer is",
    "scaled": "multiplied, or set to fit what is drawn",
    "zero": "set to zero (an LSTM's forget bias to 1)",
    "centred": "set so that each channel's mean is zero",
    "calibrated": "set to the statistics of the data",
    "fresh": "its usual starting value",
    "kept": "stays as it is",
}
_WORDS = {"weight": "product", "statistics": "norm"}  # how the evidence of an operand is called
_PLAIN = frozenset({"Add", "Sub", "Mul", "Div"})
_WHOLE_NUMBERS = frozenset({TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL, TensorProto.STRING})
_ROWS = 64  # of a table, to look at


@dataclass(frozen=True, slots=True)
class Role:
    """What a constant is, what tells it, and what happens to it."""

    role: str  # a key of ROLES
    # What reads it: a "product", "quantiser", "sum", "norm", or another operator that takes it as this "operand"; its
    # "place" among the layers; its "values", or which fixed transform they are; its "type"; that it is one "number";
    # that it is "unused"; or "none".
    evidence: str
    fate: str = "kept"  # a key of FATES


def role_of_each(reachability: Reachability, decided: Mapping[str, Role]) -> dict[str, Role]:
    """Return the role of every constant, in the order of the program's.

    Args:
        reachability: of the program.
        decided: roles that are known; a weight that is kept may be something more than that.
    """
    program = reachability.program
    kept = Role("weight", "product")
    return {
        name: _renamed(program, name, decided[name])
        if decided.get(name, kept) != kept
        else _judge(reachability, constant, {"weight": "product"} if name in decided else {})
        for name, constant in program.constants.items()
    }


def _renamed(program: Program, name: str, role: Role) -> Role:
    """Return a role with the word for it: a norm's bias is its shift, and a token is no table."""
    if role.role not in ("bias", "embedding") or role.evidence == "sum":
        return role
    readers = [node for node, _ in readers_of(program, name)]
    if role.role == "bias" and (role.evidence == "norm" or all(n and "scale" in of(n).roles.values() for n in readers)):
        return replace(role, role="shift")
    if role.role == "embedding" and all(node and node.op == "Concat" for node in readers):
        return replace(role, role="token")
    return role


def _judge(reachability: Reachability, constant: Constant, found: dict[str, str]) -> Role:
    """Return the role of a constant that keeps its values; `found` are roles that it has, with their evidence."""
    program = reachability.program
    if constant.elem_type in _WHOLE_NUMBERS:
        return Role("setting", "type")
    readers = readers_of(program, constant.name)
    for node, position in readers:
        for role, evidence in _seen_by(reachability, constant, node, position):
            found.setdefault(role, evidence)
    if constant.elem_type not in FLOAT_TYPES:
        return Role("weight", "product") if "weight" in found else Role("setting", "type")
    role = next((role for role in ROLES if role in found), "")
    if role and role != "setting":
        if is_number(program, constant, role, found[role]):
            return Role("setting", "number")
        several = constant.size > 1
        if found[role] in ("place", "factor")[not several :] and _tells(program, constant):
            return Role("fixed", "values") if several else Role("setting", "number")
        evidence = "product" if found[role] == "factor" else _WORDS.get(role, found[role])
        return _renamed(program, constant.name, Role(role, evidence))
    if role or not constant.size or (constant.size == 1 and _tells(program, constant)):
        return Role("setting", found.get(role, "number"))
    if not readers:
        return Role("unknown", "unused")
    if _tells(program, constant, lambda: is_written(reachability, constant, [node for node, _ in readers if node])):
        return Role("fixed", "values")
    if any(_prepares(reachability, node, position) for node, position in readers):
        return Role("fixed", "place")
    return Role("unknown", "none")


def _seen_by(reachability: Reachability, constant: Constant, node: Node | None, position: int) -> list[tuple[str, str]]:
    """Return what a reader takes a constant for, and by which evidence; "factor" is that of a weight's part."""
    program = reachability.program
    if node is None:
        return []
    operator = of(node)
    if operator.left == "quantised" and constant.elem_type in FLOAT_TYPES:
        return [("step" if constant.size > 1 else "setting", "operand")]
    if operator.left and len(constant.dims) > 1:
        return [("weight", "operand")]
    if node in program.static and not operator.weights and not (position and operator.settings):
        ends = [(of(end).role(at), of(end)) for end, at in uses(program, node.outputs[0]) if end]
        moved = operator.settings or operator.move
        told = [role for role, end in ends if role and end.weights]
        if ends and all(role == "setting" for role, _ in ends):
            told = ["setting"]
        return [(role, "operand" if moved else "factor") for role in told]
    role, evidence = role_at(reachability, constant, node, position)
    return [(role, evidence)] if role else []


def _tells(program: Program, constant: Constant, otherwise: Callable[[], bool] = lambda: False) -> bool:
    """Say whether the values of a constant show that somebody computed them, or `otherwise` does; several that are
    alike may be a start.
    """
    if not constant.size:
        return False
    with suppress(ModelError):  # what is missing is missed where it is needed
        values = stored(program, constant.name)
        rows = values.reshape(-1, values.shape[-1])[:_ROWS] if values.ndim > 1 else values
        if rows.size > 1 and is_alike(rows):
            return False
        return (is_computed(rows) and (rows.size == values.size or is_computed(values))) or otherwise()
    return False


def _prepares(reachability: Reachability, node: Node | None, position: int) -> bool:
    """Say whether a node shifts or scales data by a constant before any layer."""
    if node is None or node.domain not in DEFAULT_DOMAINS or node.op_type not in _PLAIN:
        return False
    other = node.inputs[1 - position]
    return other not in reachability.learned and node.outputs[0] in reachability.leading
