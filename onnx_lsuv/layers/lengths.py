"""Small integer vectors that a graph computes from shapes: the bounds of a Slice, the target of a Reshape."""

from __future__ import annotations

import operator
from collections.abc import Callable

from onnx_lsuv.layers.program import DEFAULT_DOMAINS, Program, integers

Ints = tuple[int | None, ...]  # None: not known

_ARITHMETIC: dict[str, Callable[[int, int], int]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "Div": lambda a, b: int(a / b) if b else 0,
}
_PASS = frozenset({"Identity", "Cast", "Squeeze", "Unsqueeze", "Reshape", "Flatten"})


def lengths(program: Program, name: str) -> Ints | None:
    """Return what is known of an integer vector or scalar, or None where nothing is."""
    known = integers(program.constants, name)
    if known is not None:
        return known
    if name not in program.producers:
        return None
    node, _ = program.producers[name]
    if node.domain not in DEFAULT_DOMAINS:
        return None
    if node.op_type == "Shape":
        constant = program.constants.get(node.inputs[0])
        dims: Ints | None = constant.dims if constant is not None else program.declared.get(node.inputs[0])
        return None if dims is None else dims[node.int_attribute("start", 0) : node.int_attribute("end", len(dims))]
    if node.op_type == "Size":
        constant = program.constants.get(node.inputs[0])
        return None if constant is None else (constant.size,)
    given = [lengths(program, each) for each in node.inputs if each]
    parts = [part for part in given if part is not None]
    if node.op_type in _PASS:
        return given[0]
    if len(parts) < len(given):
        return None
    if node.op_type == "Concat":
        return tuple(value for part in parts for value in part)
    if node.op_type == "Gather" and node.int_attribute("axis", 0) == 0:
        return tuple(parts[0][i] if i is not None and -len(parts[0]) <= i < len(parts[0]) else None for i in parts[1])
    if node.op_type == "Slice" and len(parts) >= 3 and all(len(p) == 1 and p[0] is not None for p in parts[1:]):
        step = parts[4][0] if len(parts) > 4 else 1
        return parts[0][parts[1][0] : parts[2][0] : step]
    if node.op_type in _ARITHMETIC and len(parts) == 2:
        count = max(map(len, parts))
        left, right = (part * count if len(part) == 1 else part for part in parts)
        act = _ARITHMETIC[node.op_type]
        return tuple(None if a is None or b is None else act(a, b) for a, b in zip(left, right, strict=False))
    return None
