"""Products of data and a constant, and who else reads such a constant in the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from onnx_lsuv.model import function_of
from onnx_lsuv.operators import WHOLE, Matrix, of
from onnx_lsuv.program.program import Constant, Node, Program
from onnx_lsuv.sources.moves import FixedTerm, Source

# Each value of an operand, or of a part of it, is handed on once.
_MOVES = WHOLE | {"casts", "takes", "joins"}


@dataclass(frozen=True, slots=True, eq=False)
class Product:
    """A node that is linear in a constant weight, which is to be drawn."""

    node: Node
    position: int  # which operand the weight is
    source: Source
    matrix: Matrix
    scaled: bool  # the node's output is proportional to the weight
    fixed_term: FixedTerm | None


@dataclass(frozen=True, slots=True, eq=False)
class Skipped:
    """A node that looks like a layer, or a norm, and is left alone."""

    node: Node
    weight: str | None  # the tensor's name in the file, where there is one
    shape: tuple[int, ...] | None
    reason: str  # a key of `layers.REASONS`
    detail: str


@dataclass(frozen=True, slots=True)
class Patterns:
    """What a person chose by patterns; each is called with the labels of a node and of the tensors that it reads."""

    wanted: Callable[..., bool] = lambda *_: True  # False leaves weights, and parameters beside the layers, alone
    # True takes even a fixed transform, a norm before all that changes, and a bias of a layer that is left alone.
    named: Callable[..., bool] = lambda *_: False
    excluded: Callable[..., bool] = lambda *_: False  # True leaves a bias, or a norm's statistics, as they are


def uses(program: Program, name: str) -> Iterator[tuple[Node | None, int]]:
    """Yield who reads a constant in the end, through nodes that move it or depend on constants alone."""

    def passes(node: Node, position: int) -> bool:
        operator = of(node)
        moved = operator.move in _MOVES and (position == 0 or operator.move == "joins")
        return (moved or node in program.static) and not operator.weights

    return program.readers(name, passes)


def writable(constant: Constant) -> bool:
    """Say whether the file has a tensor of this constant's own that could hold new values."""
    return constant.site is not None and not (
        constant.origin == "ConstantOfShape" and function_of(constant.site) is not None
    )
