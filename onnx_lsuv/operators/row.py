"""What a row of the table of operators says.

A column that a row does not give says that the operator has nothing of the kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from onnx_lsuv.operators.attributes import Attributes
from onnx_lsuv.operators.matrices import View

# What an operator does with the values of its first operand (a join: of all), when it does no arithmetic with them.
Move = Literal[
    "",
    "keeps",  # hands them on as they are
    "casts",  # changes their type
    "likens",  # changes it to that of another value
    "drops",  # hands them on outside of training
    "reshapes",  # changes the shape, not their order
    "permutes",  # changes their order
    "rearranges",  # changes it by blocks of an image
    "takes",  # takes each of a part of them once
    "picks",  # takes those that an index names
    "repeats",
    "joins",
    "clips",
    "pads",  # at the borders, or cuts off there
    "resizes",  # to another number of points between the same borders
]
# Every value goes on, once and unchanged.
WHOLE: frozenset[Move] = frozenset({"keeps", "reshapes", "permutes"})


@dataclass(frozen=True, slots=True)
class Fused:
    """What a fused operator computes: activation(linear(first operands) + another operand)."""

    linear: str
    operands: int  # of the linear operator
    added: int | None = None  # position of the term that is added after it
    activation: str = ""  # of the same domain; "": the attribute `activation` names one of ONNX's, if any


@dataclass(frozen=True, slots=True)
class Operator:
    """What is known of one operator."""

    op_type: str
    domain: str = ""
    # Weights
    weights: Sequence[int] = ()  # positions of operands that may hold the weight, likeliest first
    biases: tuple[int, ...] = ()  # positions of additive terms: one for each weight, or one for all
    matrix: View | None = None
    every: bool = False  # each of these positions holds a weight of its own
    unscaled: str = ""  # why its weights are drawn and not rescaled; "": its output is proportional to the weight
    bilinear: bool = False  # proportional to its one other operand too
    channels: int | None = None  # axis of the output along which the bias lies
    packed: Callable[[Attributes], int] | None = None  # how many matrices' outputs its first operand is, all in one
    fused: Fused | None = None
    left: str = ""  # a reason of layers.plan.REASONS why what it holds is left alone
    # Constant operands
    roles: Mapping[int, str] = field(default_factory=dict)  # by position: scale, bias, slope, ...
    settings: bool = False  # its other constant operands are no parameters, but for the first where it moves that
    vectors: tuple[int, ...] = ()  # positions of operands that must be vectors, which shape inference does not look at
    # Values
    move: Move = ""
    degree: float | None = None  # of homogeneity in the first operand, where weights are computed by it
    sums: bool = False  # a factor that all its operands have, its output has
    products: bool = False  # multiplies its operands
    waits: bool = False  # proportional to its first operand for factors above 0, which can as well be applied after it
    pointwise: bool = False  # treats every value alike, whatever its place, and gives a finite number for 0
    on_stream: bool = False  # may stand on a residual stream, which it leaves at about its size
    # The slope of an activation is (nearly) zero below the first of these numbers, and above the second.
    flat: Callable[[Attributes], tuple[float, float]] | None = None
    silent: bool = False  # and below the first it gives nothing
    gate: bool = False  # gives numbers from 0 to 1
    norm: Literal["", "own", "sum"] = ""  # normalises its operand, or the sum of two
    normed: int | None = None  # the output that, where it is asked for, is what was normalised as it is
    keeps_width: bool = False  # the last axis means before and after it the same
    windows: bool = False  # pools over windows
    averages: bool = False  # over places
    blocked: bool = False  # ONNX Runtime's CPU has it for its blocked layout as well
    scopes: bool = False  # its graph attributes are scopes, which see the values around them
    makes_sequence: bool = False
    random: bool = False
    reads_shape: bool = False  # reads the shape of its operand alone
    no_gradient: bool = False

    def role(self, position: int) -> str:
        """Return what a constant operand is: a role, "weight", "setting", or "" where the place does not tell."""
        if position in self.roles:
            return self.roles[position]
        if position in self.biases:
            return "bias"
        if position in self.weights:
            return "weight"
        return "setting" if self.settings and (position or not self.move) else ""
