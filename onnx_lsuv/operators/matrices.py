"""A weight as independent matrices: the views that the rows of the table name.

A weight is seen as `blocks` matrices of shape (fan_out, fan_in):

    Conv            W (M, C/g, k...)            g blocks of (M/g, C/g * prod k)
    ConvTranspose   W (C, M/g, k...)            g blocks of (M/g, C/g * prod k)
    Gemm            B' (K, N) or A' (M, K)      one block of (N, K) or (M, K)
    MatMul          (..., K, N) or (..., M, K)  a block for each leading index, (N, K) or (M, K)
    Einsum          its axes sorted             also in another operand and the result; kept; summed
    LSTM, GRU, RNN  (D, gates * H, I or H)      a block for each direction and gate
    Attention       (I, 3 H)                    a block each for Q, K and V
    MoE             (E, O, I)                   a block for each expert, for each half of a fused SwiGLU

(ONNX operator specifications; ContribOperators.md of ONNX Runtime for com.microsoft.) `Matrix` keeps the way there as
split -> transpose -> reshape, which turns round. Each view takes the attributes of the node, the position of the
operand and its shape, and is None where the shape does not fit the operator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from onnx_lsuv.operators.attributes import Attributes

Array = NDArray[Any]
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Matrix:
    """A weight's view as (blocks, fan_out, fan_in)."""

    split: Shape  # the operand's shape with grouped axes taken apart
    perm: tuple[int, ...]  # then transposed like this, then reshaped to (blocks, fan_out, fan_in)
    blocks: int
    fan_out: int
    fan_in: int
    taps: int = 1  # kernel positions, the fastest part of fan_in; 1 where there is no kernel
    centre: int = 0  # the middle one
    side_by_side: int = 1  # so many of the blocks give one axis of the output together

    def view(self, operand: Array) -> Array:
        """Return an operand as (blocks, fan_out, fan_in)."""
        return operand.reshape(self.split).transpose(self.perm).reshape(self.blocks, self.fan_out, self.fan_in)

    def operand(self, matrices: Array, shape: Sequence[int]) -> Array:
        """Return matrices (blocks, fan_out, fan_in) as an operand of a shape: the way back of `view`."""
        moved = matrices.reshape([self.split[p] for p in self.perm])
        inverse = sorted(range(len(self.perm)), key=self.perm.__getitem__)
        return moved.transpose(inverse).reshape(tuple(shape))

    def parted(self, parts: int) -> Matrix:
        """Return the view with a matrix's outputs as parts that are matrices of their own, where they are equal."""
        if parts == 1 or len(self.perm) != 2 or self.split[self.perm[0]] != self.fan_out or self.fan_out % parts:
            return self
        (rows, columns), height = self.perm, self.fan_out // parts
        split = (*self.split[:rows], parts, height, *self.split[rows + 1 :])
        perm = (rows, rows + 1, columns + (columns > rows))
        return Matrix(split, perm, parts, height, self.fan_in, side_by_side=parts)


View = Callable[[Attributes, int, Shape], Matrix | None]


def convolution(attributes: Attributes, position: int, shape: Shape) -> Matrix | None:
    """View a filter (M, C/g, k...)."""
    groups = attributes.integer("group", 1)
    if not _is_filter(shape, groups):
        return None
    taps, axes = math.prod(shape[2:]), tuple(range(len(shape)))
    return Matrix(shape, axes, groups, shape[0] // groups, shape[1] * taps, taps, _centre(shape[2:]))


def transposed_convolution(attributes: Attributes, position: int, shape: Shape) -> Matrix | None:
    """View a filter (C, M/g, k...)."""
    groups = attributes.integer("group", 1)
    if not _is_filter(shape, groups):
        return None
    split = (groups, shape[0] // groups, *shape[1:])
    taps, perm = math.prod(shape[2:]), (0, 2, 1, *range(3, len(split)))
    return Matrix(split, perm, groups, shape[1], shape[0] // groups * taps, taps, _centre(shape[2:]))


def _is_filter(shape: Shape, groups: int) -> bool:
    return len(shape) >= 3 and groups >= 1 and not shape[0] % groups


def _centre(kernel: Shape) -> int:
    position = 0
    for length in kernel:
        position = position * length + length // 2
    return position


def product(attributes: Attributes, position: int, shape: Shape) -> Matrix | None:
    """View a factor of a matrix product as (blocks, rows of the result, summed): (..., K, N) or (..., M, K).

    transA and transB say which is stored transposed; a vector is one row.
    """
    if not shape or attributes.integer("transBatchA", 0) or attributes.integer("transBatchB", 0):
        return None
    if len(shape) == 1:
        return Matrix(shape, (0,), 1, 1, shape[0])
    *leading, rows, columns = range(len(shape))
    transposed = bool(attributes.integer("transB" if position == 1 else "transA", 0))
    if transposed == (position == 0):
        rows, columns = columns, rows
    return Matrix(shape, (*leading, rows, columns), math.prod(shape[:-2]), shape[rows], shape[columns])


def gemm(attributes: Attributes, position: int, shape: Shape) -> Matrix | None:
    """View a factor of a Gemm, which has two axes."""
    return product(attributes, position, shape) if len(shape) == 2 else None


def gates(number: int) -> View:
    """Return the view of (directions, gates * H, I) as a matrix for each direction and gate."""

    def view(attributes: Attributes, position: int, shape: Shape) -> Matrix | None:
        if len(shape) != 3 or shape[1] % number:
            return None
        hidden = shape[1] // number
        return Matrix((shape[0], number, hidden, shape[2]), (0, 1, 2, 3), shape[0] * number, hidden, shape[2])

    return view


def packed_attention(attributes: Attributes, position: int, shape: Shape) -> Matrix | None:
    """View (I, Q + K + V) as three matrices, or as one where the parts differ in size."""
    if len(shape) != 2:
        return None
    sizes = attributes.integers("qkv_hidden_sizes")
    if shape[1] % 3 or (sizes and len(set(sizes)) > 1):
        return Matrix(shape, (1, 0), 1, shape[1], shape[0])
    return Matrix((shape[0], 3, shape[1] // 3), (1, 2, 0), 3, shape[1] // 3, shape[0])


def query_groups(attributes: Attributes) -> int:
    """Return how many matrices of the size of K and V are packed for a grouped attention: the queries, K and V."""
    heads, shared = attributes.integer("num_heads", 0), attributes.integer("kv_num_heads", 0)
    return heads // shared + 2 if shared > 0 and not heads % shared else 1


def experts(attributes: Attributes, position: int, shape: Shape) -> Matrix | None:
    """View (E, O, I) as a matrix for each expert; the first weight, with a fused SwiGLU, as two for each.

    Their rows alternate where `swiglu_fusion` is 1; where it is 2, one follows the other.
    """
    fusion = attributes.integer("swiglu_fusion", 0) if position == 2 else 0
    parts = 2 if fusion else 1
    if len(shape) != 3 or shape[1] % parts:
        return None
    number, rows, columns = shape[0], shape[1] // parts, shape[2]
    if fusion == 1:
        return Matrix((number, rows, parts, columns), (0, 2, 1, 3), number * parts, rows, columns)
    return Matrix((number, parts, rows, columns), (0, 1, 2, 3), number * parts, rows, columns)


def einsum(attributes: Attributes, position: int, shape: Shape) -> Matrix | None:
    """Sort a weight's axes: in the result and in some other operand, in the result alone, summed.

    With the other operands at hand, however many, the result is linear in this one: each of its values is a sum over
    the axes that are not in the result, times what the others give there.
    """
    terms, result = _terms(attributes)
    letters = terms[position] if position < len(terms) else ""
    data = "".join(t for i, t in enumerate(terms) if i != position)
    if len(letters) != len(shape) or len(set(letters)) != len(letters) or not letters.isalpha():
        return None
    blocks = [i for i, c in enumerate(letters) if c in data and c in result]
    kept = [i for i, c in enumerate(letters) if c not in data and c in result]
    summed = [i for i, c in enumerate(letters) if c not in result]
    lengths = [math.prod(shape[i] for i in axes) for axes in (blocks, kept, summed)]
    return Matrix(shape, (*blocks, *kept, *summed), *lengths)


def _terms(attributes: Attributes) -> tuple[list[str], str]:
    """Return the letters of each operand of an Einsum, and those of the result."""
    equation = attributes.text("equation").replace(" ", "")
    left, arrow, result = equation.partition("->")
    if not arrow:
        # Without an arrow the result has the letters that occur once, in alphabetical order.
        result = "".join(sorted(c for c in set(left) if c.isalpha() and left.count(c) == 1))
    return left.split(","), result


def misfit(op: str, attributes: Attributes, position: int, shape: Shape) -> str:
    """Return why a weight has no matrix view."""
    if op == "Einsum":
        terms, _ = _terms(attributes)
        letters = terms[position] if position < len(terms) else ""
        if "." in letters:
            return "the weight has axes behind an ellipsis in an Einsum: name them"
        if len(set(letters)) < len(letters):
            return "only a diagonal of the weight is read by an Einsum"
    return f"the weight's shape {shape} does not fit {op}"
