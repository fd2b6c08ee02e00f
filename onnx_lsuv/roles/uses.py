"""Who reads a constant in the end, and whether it could hold other values."""

from __future__ import annotations

from collections.abc import Iterator

from onnx_lsuv.operators.linear import operator_of
from onnx_lsuv.program.constants import MODEL_FUNCTIONS
from onnx_lsuv.program.program import DEFAULT_DOMAINS, Constant, Node, Program
from onnx_lsuv.sources.moves import MOVES
from onnx_lsuv.sources.tracing import is_constant


def uses(program: Program, name: str) -> Iterator[tuple[Node | None, int]]:
    """Yield who reads a constant in the end, through nodes that move it or depend on constants alone."""

    def passes(node: Node, position: int) -> bool:
        place = position == 0 or node.op_type == "Concat"
        moved = node.domain in DEFAULT_DOMAINS and node.op_type in MOVES - {"Gather"} and place
        return (moved or is_constant(program, node)) and operator_of(node) is None

    return program.readers(name, passes)


def writable(constant: Constant) -> bool:
    """Say whether the file has a tensor of this constant's own that could hold new values."""
    return constant.site is not None and not (
        constant.origin == "ConstantOfShape" and constant.site[0][0] == MODEL_FUNCTIONS
    )
