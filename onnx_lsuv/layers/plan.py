"""What is found in a program: layers, weights, norms, and what is left alone with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnx_lsuv.model import Model
from onnx_lsuv.operators import Matrix
from onnx_lsuv.program.program import Body, Constant, Node, Program, number
from onnx_lsuv.roles import Addend, Norm, Parameters, Role, Skipped
from onnx_lsuv.sources.moves import FixedTerm, QuantiserStep, Source

REASONS: dict[str, str] = {
    "attribute": "the weight is an attribute of the node, which no framework trains",
    "computed": "the weight is computed from several constants",
    "constant": "both operands are constant, so no data passes through",
    "decoder": "the weight lies in a decoder graph inside another operator",
    "dynamic": "the weight is computed from the data",
    "empty": "the weight has no values",
    "excluded": "excluded by the user",
    "fixed": "the weight is a fixed transform, as a DFT or a blur: its values show that somebody computed them",
    "layout": "the weight has a layout of one runtime only: give the model before it was optimised",
    "operator": "the operator holds weights in a form that is not supported",
    "quantised": "the weight is quantised: give the float model",
    "random": "the weight is drawn at run time",
    "sparse": "the weight is a sparse tensor: give the model with dense ones",
    "training": "the node belongs to a training graph: give the forward model",
    "tied": "something that is not a layer reads the weight too",
    "type": "the weight's type is not supported",
    "unchanged": "no changed weight lies before it",
}


def tensor_names(program: Program, source: Source) -> tuple[str, ...]:
    """Return what a weight is called: its tensor's name, or all of them joined, and then each alone."""
    names = tuple(program.constants[name].label for name in source.constants)
    return names if len(names) == 1 else (" + ".join(names), *names)


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A node that is linear in a constant weight."""

    node: Node
    position: int  # which operand the weight is
    source: Source
    matrix: Matrix
    weight: str  # key of its weight in `Plan.weights`
    end: Node  # the node whose first output is measured: the layer's, or the Add of a constant after it
    bias: tuple[str, ...]  # the constants that hold the bias, where there is one
    addend: Addend | None  # an additive term that is not set to zero
    scaled: bool  # its output is proportional to the weight
    fixed_term: FixedTerm | None = None

    @property
    def stays(self) -> bool:
        """Whether something stays added to its output."""
        return self.addend is not None or self.fixed_term is not None

    @property
    def moved(self) -> bool:
        """Whether something moves its product before its bias is added."""
        return self.end is not self.node and self.node.outputs[0] not in self.end.inputs

    @property
    def scaled_constant(self) -> str:
        """The constant that is multiplied by the scale."""
        return self.source.scaled_constant or self.source.constant


@dataclass(frozen=True, slots=True, eq=False)
class Weight:
    """A constant, or a part of one, with the layers that use it in the order of execution."""

    key: str
    constant: Constant
    identity: str  # what its draw is seeded with
    layers: tuple[Layer, ...]

    @property
    def quantiser_steps(self) -> tuple[QuantiserStep, ...]:
        """What is scaled with it, in the order of the ways to its layers."""
        return tuple(each for layer in self.layers for each in layer.source.quantiser_steps)

    @property
    def scaled(self) -> bool:
        """Whether some layer's output is proportional to it."""
        return any(layer.scaled for layer in self.layers)


@dataclass(frozen=True, slots=True)
class PartedTensor:
    """A tensor that was parted from another."""

    of: str  # the name of that
    stands_in: bool  # for a node that handed the other one on under its name


@dataclass(frozen=True, slots=True, eq=False)
class Parting:
    """What became of tensors that an exporter merged."""

    model: Model | None  # as it was given; None where nobody asked
    copies: Mapping[str, PartedTensor]  # by name, in the main graph or in an inner one
    merged: Mapping[str, int]  # those that stay merged, with how many parameters each is
    tied: tuple[str, ...]  # weights that are read in several places, which nothing tells apart


NOT_PARTED = Parting(None, {}, {}, ())


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What will be initialised and what will not."""

    program: Program
    layers: tuple[Layer, ...]  # in the order of execution
    weights: dict[str, Weight]  # by key, in the order of first use
    zeroed: tuple[str, ...]  # constants that become zero
    forget: tuple[tuple[Source, int], ...]  # an LSTM's bias operand and hidden size: its forget gate's bias becomes 1
    left_terms: Mapping[str, Node]  # constants that are added behind the end of a layer, and stay: the layer
    norms: tuple[Norm, ...]  # whose statistics are calibrated
    stored: tuple[Norm, ...]  # whose statistics could be, and are kept
    skipped: tuple[Skipped, ...]
    kept_statistics: tuple[Skipped, ...]  # BatchNormalizations that keep their stored statistics
    parameters: Parameters  # beside the layers, that have no values, or with `fresh` start anew or might
    roles: Mapping[str, Role]  # of every constant: what it is, what tells, and what happens to it
    order: Mapping[Body, tuple[Node, ...]]  # of the nodes of scopes that use a weight more than once
    parting: Parting = NOT_PARTED

    @property
    def changing(self) -> tuple[str, ...]:
        """The constants that are not kept as they are."""
        return tuple(name for name, role in self.roles.items() if role.fate != "kept")

    def number(self, name: str) -> float | None:
        """Return the value of a constant of one element that nothing has changed or will, or None."""
        role, constant = self.roles.get(name), self.program.constants.get(name)
        if role is None or role.fate != "kept" or constant is None or constant.site in self.program.model.values:
            return None
        return number(self.program.constants, name)
