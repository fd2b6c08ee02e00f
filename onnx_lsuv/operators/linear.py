"""The linear operators: which operand can be the weight, and its matrix view.

A weight is seen as `blocks` independent matrices of shape (fan_out, fan_in):

    Conv            W (M, C/g, k...)            g blocks of (M/g, C/g * prod k)
    ConvTranspose   W (C, M/g, k...)            g blocks of (M/g, C/g * prod k)
    Gemm            B' (K, N) or A' (M, K)      one block of (N, K) or (M, K)
    MatMul          (..., K, N) or (..., M, K)  a block for each leading index, (N, K) or (M, K)
    Einsum          its axes sorted             also in another operand and the result; kept; summed
    LSTM, GRU, RNN  (D, gates * H, I or H)      a block for each direction and gate
    Attention       (I, 3 H)                    a block each for Q, K and V

(ONNX operator specifications; ContribOperators.md of ONNX Runtime for com.microsoft.) `Matrix`
keeps the way there as split -> transpose -> reshape, which turns round.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

if TYPE_CHECKING:
    from onnx_lsuv.program import Node

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Matrix:
    """A weight's view as (blocks, fan_out, fan_in)."""

    split: tuple[int, ...]  # the operand's shape with grouped axes taken apart
    perm: tuple[int, ...]  # then transposed like this, then reshaped to (blocks, fan_out, fan_in)
    blocks: int
    fan_out: int
    fan_in: int
    taps: int = 1  # kernel positions, the fastest part of fan_in; 1 where there is no kernel
    centre: int = 0  # the middle one

    def view(self, operand: Array) -> Array:
        """Return an operand as (blocks, fan_out, fan_in)."""
        return operand.reshape(self.split).transpose(self.perm).reshape(self.blocks, self.fan_out, self.fan_in)

    def operand(self, matrices: Array, shape: Sequence[int]) -> Array:
        """Return matrices (blocks, fan_out, fan_in) as an operand of a shape: the way back of `view`."""
        moved = matrices.reshape([self.split[p] for p in self.perm])
        inverse = sorted(range(len(self.perm)), key=self.perm.__getitem__)
        return moved.transpose(inverse).reshape(tuple(shape))


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear operator's operands."""

    weights: tuple[int, ...]  # operand positions that may hold the weight, likeliest first; none: any
    bias: int | None  # operand position of an additive term
    every: bool = False  # each of these positions holds a weight of its own
    scaled: bool = True  # its output is proportional to the weight


OPERATORS: dict[tuple[str, str], Linear] = {
    ("", "Conv"): Linear((1,), 2),
    ("", "ConvTranspose"): Linear((1,), 2),
    ("", "DeformConv"): Linear((1,), 3),
    ("", "Gemm"): Linear((1, 0), 2),
    ("", "MatMul"): Linear((1, 0), None),
    ("", "Einsum"): Linear((), None),
    ("com.microsoft", "FusedMatMul"): Linear((1, 0), None),
    ("", "LSTM"): Linear((1, 2), 3, every=True, scaled=False),
    ("", "GRU"): Linear((1, 2), 3, every=True, scaled=False),
    ("", "RNN"): Linear((1, 2), 3, every=True, scaled=False),
    ("com.microsoft", "Attention"): Linear((1,), 2, scaled=False),
    ("com.microsoft", "DecoderMaskedSelfAttention"): Linear((1,), 2, scaled=False),
    ("com.microsoft", "PackedAttention"): Linear((1,), 2, scaled=False),
}
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def operator_of(node: Node) -> Linear | None:
    """Return what is known of a node's operands, or None where it is no linear operator."""
    found = OPERATORS.get((node.domain, node.op_type))
    return replace(found, weights=tuple(range(len(node.inputs)))) if found and not found.weights else found


def bias_position(node: Node) -> int | None:
    """Return which operand of a linear operator is its own bias, where it has one."""
    operator = operator_of(node)
    if operator is None or operator.bias is None or len(node.inputs) <= operator.bias:
        return None
    return operator.bias if node.inputs[operator.bias] else None


def matrix(node: Node, position: int, shape: Sequence[int]) -> Matrix | None:
    """Return the matrix view of a weight, or None where its shape does not fit the operator.

    Args:
        node: a node of one of the `OPERATORS`.
        position: which operand the weight is.
        shape: the operand's shape.
    """
    shape = tuple(shape)
    match node.op_type:
        case "Conv" | "DeformConv":
            return _convolution(shape, node.int_attribute("group", 1))
        case "ConvTranspose":
            return _transposed_convolution(shape, node.int_attribute("group", 1))
        case "Gemm":
            transposed = bool(node.int_attribute("transB" if position == 1 else "transA", 0))
            return _plain(shape, swap=transposed == (position == 0)) if len(shape) == 2 else None
        case "MatMul":
            return _plain(shape, swap=position == 1)
        case "FusedMatMul":
            if node.int_attribute("transBatchA", 0) or node.int_attribute("transBatchB", 0):
                return None
            transposed = bool(node.int_attribute("transB" if position == 1 else "transA", 0)) and len(shape) > 1
            return _plain(shape, swap=transposed == (position == 0))
        case "Einsum":
            return _einsum(node, position, shape)
        case "LSTM" | "GRU" | "RNN":
            return _gates(shape, _GATES[node.op_type])
        case _:
            return _packed_attention(node, shape)


def _gates(shape: tuple[int, ...], gates: int) -> Matrix | None:
    """View (directions, gates * H, I) as a matrix for each direction and gate."""
    if len(shape) != 3 or shape[1] % gates:
        return None
    hidden = shape[1] // gates
    return Matrix((shape[0], gates, hidden, shape[2]), (0, 1, 2, 3), shape[0] * gates, hidden, shape[2])


def _packed_attention(node: Node, shape: tuple[int, ...]) -> Matrix | None:
    """View (I, Q + K + V) as three matrices, or as one where the parts differ in size."""
    if len(shape) != 2:
        return None
    sizes = node.ints_attribute("qkv_hidden_sizes")
    if shape[1] % 3 or (sizes and len(set(sizes)) > 1):
        return Matrix(shape, (1, 0), 1, shape[1], shape[0])
    return Matrix((shape[0], 3, shape[1] // 3), (1, 2, 0), 3, shape[1] // 3, shape[0])


def _terms(node: Node) -> tuple[list[str], str]:
    """Return the letters of each operand of an Einsum, and those of the result."""
    equation = node.text_attribute("equation").replace(" ", "")
    left, arrow, result = equation.partition("->")
    if not arrow:
        # Without an arrow the result has the letters that occur once, in alphabetical order.
        result = "".join(sorted(c for c in set(left) if c.isalpha() and left.count(c) == 1))
    return left.split(","), result


def _einsum(node: Node, position: int, shape: tuple[int, ...]) -> Matrix | None:
    """Sort a weight's axes: in the result and in some other operand, in the result alone, summed.

    With the other operands at hand, however many, the result is linear in this one: each of its values is a sum over
    the axes that are not in the result, times what the others give there.
    """
    terms, result = _terms(node)
    letters = terms[position] if position < len(terms) else ""
    data = "".join(t for i, t in enumerate(terms) if i != position)
    if len(letters) != len(shape) or len(set(letters)) != len(letters) or not letters.isalpha():
        return None
    blocks = [i for i, c in enumerate(letters) if c in data and c in result]
    kept = [i for i, c in enumerate(letters) if c not in data and c in result]
    summed = [i for i, c in enumerate(letters) if c not in result]
    lengths = [math.prod(shape[i] for i in axes) for axes in (blocks, kept, summed)]
    return Matrix(shape, (*blocks, *kept, *summed), *lengths)


def misfit(node: Node, position: int, shape: Sequence[int]) -> str:
    """Return why a weight has no matrix view."""
    if node.op_type == "Einsum":
        terms, _ = _terms(node)
        letters = terms[position] if position < len(terms) else ""
        if "." in letters:
            return "the weight has axes behind an ellipsis in an Einsum: name them"
        if len(set(letters)) < len(letters):
            return "only a diagonal of the weight is read by an Einsum"
    return f"the weight's shape {tuple(shape)} does not fit {node.op}"


def _convolution(shape: tuple[int, ...], groups: int) -> Matrix | None:
    if len(shape) < 3 or groups < 1 or shape[0] % groups:
        return None
    taps = math.prod(shape[2:])
    return Matrix(
        shape, tuple(range(len(shape))), groups, shape[0] // groups, shape[1] * taps, taps, _centre(shape[2:])
    )


def _transposed_convolution(shape: tuple[int, ...], groups: int) -> Matrix | None:
    if len(shape) < 3 or groups < 1 or shape[0] % groups:
        return None
    split = (groups, shape[0] // groups, *shape[1:])
    perm = (0, 2, 1, *range(3, len(split)))
    taps = math.prod(shape[2:])
    return Matrix(split, perm, groups, shape[1], shape[0] // groups * taps, taps, _centre(shape[2:]))


def _centre(kernel: tuple[int, ...]) -> int:
    position = 0
    for length in kernel:
        position = position * length + length // 2
    return position


def _plain(shape: tuple[int, ...], *, swap: bool) -> Matrix | None:
    """View (..., rows, columns) as (blocks, rows, columns), or swapped; a vector is one row."""
    if not shape:
        return None
    if len(shape) == 1:
        return Matrix(shape, (0,), 1, 1, shape[0])
    blocks = math.prod(shape[:-2])
    perm = tuple(range(len(shape)))
    if swap:
        return Matrix(shape, (*perm[:-2], perm[-1], perm[-2]), blocks, shape[-1], shape[-2])
    return Matrix(shape, perm, blocks, shape[-2], shape[-1])
