"""How a constant expression grows with each of its constants.

An expression f is homogeneous of degree d in a constant c where f(t c) = t^d f(c). What has degree 1 can carry a
scale; what has degree 0, as v in g * v / |v|, is a mere direction.
"""

from __future__ import annotations

from onnx import TensorProto
from onnx.numpy_helper import to_array

from onnx_lsuv.layers.program import DEFAULT_DOMAINS, Program

_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16})
# Operators whose output grows as their first input does.
_SAME = frozenset({
    "Identity", "Cast", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split", "Expand", "Tile",
    "ReduceL1", "ReduceL2", "ReduceSum", "ReduceMean", "ReduceMax", "Abs", "Neg",
})  # fmt: skip


def degrees(program: Program, name: str) -> dict[str, float] | None:
    """Return the degree in which a constant expression is homogeneous in each of its constants; None if in none."""
    if name in program.constants:
        return {name: 1.0} if program.constants[name].elem_type in _FLOATS else {}
    if name not in program.producers:
        return None
    node, _ = program.producers[name]
    if node.domain not in DEFAULT_DOMAINS or node.bodies:
        return None
    parts = [degrees(program, each) for each in node.inputs if each]
    if not parts or any(p is None for p in parts):
        return None
    known = [p for p in parts if p is not None]
    names = {each for p in known for each in p}
    first, rest = known[0], known[1:]
    match node.op_type:
        case "Mul" | "MatMul":
            return {n: sum(p.get(n, 0.0) for p in known) for n in names}
        case "Div":
            return {n: first.get(n, 0.0) - rest[0].get(n, 0.0) for n in names}
        case "Sqrt":
            return {n: d / 2 for n, d in first.items()}
        case "Reciprocal":
            return {n: -d for n, d in first.items()}
        case "ReduceSumSquare":
            return {n: 2 * d for n, d in first.items()}
        case "Pow":
            constant = program.constants.get(node.inputs[1])
            if constant is None or constant.tensor is None or constant.size != 1:
                return None
            power = float(to_array(constant.tensor).reshape(-1)[0])
            return {n: d * power for n, d in first.items()}
        case "Add" | "Sub" | "Max" | "Min" | "Sum":
            # A sum is homogeneous only in what all its terms share to one degree.
            return first if all(p == first for p in rest) else None
        case "Concat":
            return {n: first.get(n, 0.0) for n in names} if all(p == first for p in rest) else None
        case op if op in _SAME:
            return first
    return None
