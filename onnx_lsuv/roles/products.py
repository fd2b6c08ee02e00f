"""What roles are asked about: the products of data and a constant, those to be drawn and those left alone."""

from __future__ import annotations

from dataclasses import dataclass

from onnx_lsuv.operators.linear import Matrix
from onnx_lsuv.program.program import Node
from onnx_lsuv.sources.moves import FixedTerm, Source


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
