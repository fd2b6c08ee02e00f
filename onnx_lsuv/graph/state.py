"""What one rewriting of a program knows, in every scope."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field

from onnx_lsuv.graph.builder import Book, GraphBuilder, Value
from onnx_lsuv.graph.forms import Forms
from onnx_lsuv.graph.moments import Moments, moments_in_blocks
from onnx_lsuv.graph.pooling import Rough
from onnx_lsuv.layers import Layer, Norm, Plan
from onnx_lsuv.program import Node, walk


@dataclass(frozen=True, slots=True)
class Kept:
    """A record in the scope being written."""

    name: str
    certain: bool  # it was surely reached
    trail: str | None = None  # the records of the first executions, a row each, where they are kept apart


@dataclass(slots=True)
class Rewriter:
    """One rewriting of a program."""

    plan: Plan
    rescale: bool  # divide by the std and normalise with the data's statistics; else only measure
    staged: bool  # records of the main graph are cuts
    targets: Mapping[str, float]  # target std by weight key
    values: Mapping[str, Value]
    centred: Mapping[str, int]  # channels of the layers whose channels are to have a mean of 0, by weight key
    shifted: Set[str]  # keys of the records that are measured about the mean
    book: Book
    forms: Forms  # of the main graph's values
    cuts: dict[str, str] = field(default_factory=dict)  # record name -> key
    uses: dict[str, list[str]] = field(default_factory=dict)  # key -> records of the main graph's uses, when measuring
    given: dict[str, str] = field(default_factory=dict)  # key -> record of the run before, inside what is run again
    again: dict[str, tuple[str, int]] = field(default_factory=dict)  # record -> what it is fed back as, its columns
    repeated: list[frozenset[str]] = field(default_factory=list)  # the outputs of nodes that are run again together
    starts: dict[Node, Layer] = field(default_factory=dict)
    ends: dict[Node, Layer] = field(default_factory=dict)
    norms: dict[Node, Norm] = field(default_factory=dict)
    measured: dict[str, Moments | None] = field(default_factory=dict)  # of the channels of values in blocks
    outer: frozenset[Node] = frozenset()  # the nodes of the main graph
    rough: dict[str, Rough] = field(default_factory=dict)  # key -> what is asked of its record

    def __post_init__(self) -> None:
        self.outer = frozenset(self.plan.program.body.nodes)
        for layer in self.plan.layers:
            if not layer.scaled:
                continue
            self.starts[layer.node] = layer
            # With its bias at zero a layer can be measured before the Add as well, which saves a case.
            end = layer.node if self.rescale and not layer.stays else layer.end
            self.ends[end] = layer
        if self.rescale:
            self.norms = {norm.node: norm for norm in self.plan.norms}

    def norms_on(self, name: str) -> list[str]:
        """Return the keys of the BatchNormalizations that read a value."""
        readers = (node for node, _ in self.plan.program.consumers.get(name, ()))
        return [norm_key(self.norms[node]) for node in readers if node in self.norms]

    def moments_in_blocks(
        self, builder: GraphBuilder, value: str, image: tuple[int, int, int, int], *keys: str
    ) -> Moments | None:
        """Measure each channel of an image in blocks, once, for the records of some keys."""
        if value not in self.measured:
            shifted = not self.shifted.isdisjoint(keys)
            self.measured[value] = moments_in_blocks(builder, value, image, self.forms.block, shifted=shifted)
        return self.measured[value]


def norm_key(norm: Norm) -> str:
    """Return the key of a BatchNormalization's record."""
    return f"norm {norm.mean} {norm.var}"


def keys_inside(rw: Rewriter, node: Node) -> dict[str, int]:
    """Return the keys of all records inside a node's scopes, in the order of execution, with their columns."""
    keys: dict[str, int] = {}
    for body in node.bodies.values():
        for inner in walk(body):
            if inner in rw.ends:
                layer = rw.ends[inner]
                keys.setdefault(layer.weight, columns(rw, layer))
            elif inner in rw.norms:
                norm = rw.norms[inner]
                keys.setdefault(norm_key(norm), channels(rw, norm))
    return keys


def columns(rw: Rewriter, layer: Layer) -> int:
    """Return the number of columns of a layer's record."""
    if layer.weight in rw.centred:
        return rw.centred[layer.weight]
    # Every layer that shares the weight counts: the record's shape must be one for all of them.
    users = [user for user in rw.plan.weights[layer.weight].layers if user.scaled]
    if not any(user.stays for user in users):
        return 1
    if rw.rescale:
        return 3
    # Where one execution cannot but decide, what the product gives by itself is of no interest.
    return 1 if len(users) == 1 and users[0].node in rw.outer else 2


def use_of(rw: Rewriter, layer: Layer) -> int:
    """Return which of its weight's layers this is."""
    return next(i for i, user in enumerate(rw.plan.weights[layer.weight].layers) if user is layer)


def channels(rw: Rewriter, norm: Norm) -> int:
    """Return the number of columns of a norm's record."""
    return rw.plan.program.constants[norm.mean].size
