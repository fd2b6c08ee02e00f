"""The linear operators: which operand can be the weight, and its matrix view.

A weight is seen as `blocks` independent matrices of shape (fan_out, fan_in):

    Conv            W (M, C/g, k...)            g blocks of (M/g, C/g * prod k)
    ConvTranspose   W (C, M/g, k...)            g blocks of (M/g, C/g * prod k)
    Gemm            B' (K, N) or A' (M, K)      one block of (N, K) or (M, K)
    MatMul          (..., K, N) or (..., M, K)  a block for each leading index, (N, K) or (M, K)

(ONNX operator specifications.) `Matrix` keeps the way there as split -> transpose -> reshape, which turns round.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from onnx_lsuv.layers.program import Node

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

    weights: tuple[int, ...]  # operand positions that may hold the weight, likeliest first
    bias: int | None  # operand position of an additive term
    channel_axis: int  # of the output, along which a bias vector runs


OPERATORS: dict[tuple[str, str], Linear] = {
    ("", "Conv"): Linear((1,), 2, 1),
    ("", "ConvTranspose"): Linear((1,), 2, 1),
    ("", "Gemm"): Linear((1, 0), 2, -1),
    ("", "MatMul"): Linear((1, 0), None, -1),
}


def matrix(node: Node, position: int, shape: Sequence[int]) -> Matrix | None:
    """Return the matrix view of a weight, or None where its shape does not fit the operator.

    Args:
        node: a node of one of the `OPERATORS`.
        position: which operand the weight is.
        shape: the operand's shape.
    """
    shape = tuple(shape)
    match node.op_type:
        case "Conv":
            return _convolution(shape, node.int_attribute("group", 1))
        case "ConvTranspose":
            return _transposed_convolution(shape, node.int_attribute("group", 1))
        case "Gemm":
            transposed = bool(node.int_attribute("transB" if position == 1 else "transA", 0))
            return _plain(shape, swap=transposed == (position == 0)) if len(shape) == 2 else None
        case "MatMul":
            return _plain(shape, swap=position == 1)
    return None


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
