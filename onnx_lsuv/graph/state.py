"""What one rewriting of a program knows, in every scope, and the record that decides at a use.

A record (see `records`) travels from use to use of a key, that of a weight or of a BatchNormalization: the first use
that is executed makes it, later ones take it over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field

import numpy as np
from onnx import TensorProto

from onnx_lsuv.graph.builder import GraphBuilder, ScopeBuilder, ScopedRecord, Value
from onnx_lsuv.graph.fusing import Fused
from onnx_lsuv.graph.moments import Moments, Second, moments, moments_in_blocks
from onnx_lsuv.graph.records import (
    COUNT,
    ROWS,
    Part,
    Rough,
    Told,
    first_usable,
    from_record,
    part_of,
    reached_or,
    to_record,
)
from onnx_lsuv.graph.representations import Representations
from onnx_lsuv.graph.samples import Order, Samples
from onnx_lsuv.graph.units import Activation, Units
from onnx_lsuv.layers import Layer, Norm, Plan
from onnx_lsuv.program import Node, walk

# So many executions of a layer in a loop are kept apart (see `rewrite`).
TRAIL = 64


@dataclass(slots=True)
class RewriteContext:
    """One rewriting of a program."""

    plan: Plan
    rescale: bool  # divide by the std and normalise with the data's statistics; else only measure
    staged: bool  # records of the main graph are cuts
    targets: Mapping[str, float | Part | None]  # target std by weight key; None: as it is, or with a std of 0
    values: Mapping[str, Value]
    centred: Mapping[str, int]  # channels of the layers whose channels are to have a mean of 0, by weight key
    shifted: Set[str]  # keys of the records that are measured about the mean
    graph: GraphBuilder
    reps: Representations  # of the main graph's values
    cuts: set[str] = field(default_factory=set)  # records
    uses: dict[str, list[str]] = field(default_factory=dict)  # key -> records of the main graph's uses, when measuring
    given: dict[str, str] = field(default_factory=dict)  # key -> record of the run before, inside what is run again
    again: dict[str, tuple[str, int]] = field(default_factory=dict)  # record -> what it is fed back as, its columns
    repeated: list[frozenset[str]] = field(default_factory=list)  # the outputs of nodes that are run again together
    starts: dict[Node, Layer] = field(default_factory=dict)
    ends: dict[Node, Layer] = field(default_factory=dict)
    norms: dict[Node, Norm] = field(default_factory=dict)
    stored: frozenset[Node] = frozenset()  # of `norms`, those that run with the stored statistics
    measured: dict[str, Moments | None] = field(default_factory=dict)  # of the channels of values in blocks
    second: dict[str, Second] = field(default_factory=dict)  # and their second moments
    written: set[Node] = field(default_factory=set)  # norms that are a part of the layer before them
    outer: frozenset[Node] = frozenset()  # the nodes of the main graph
    rough: dict[str, Rough] = field(default_factory=dict)  # key -> what is asked of its record
    beside: Set[str] = frozenset()  # values of the main graph that are measured too
    samples: Samples | None = None  # how they lie in the data, where the share of signal is measured
    orders: Mapping[str, Order | None] = field(default_factory=dict)  # and in the main graph's values
    # key and use -> sums over the samples (`samples`), and what these tell
    sums: dict[tuple[str, int], tuple[str, Told]] = field(default_factory=dict)
    activations: Mapping[Node, Activation] = field(default_factory=dict)  # that are measured with it (`units`)
    units: dict[tuple[str, int], Units] = field(default_factory=dict)  # key and use -> what they give
    streams: dict[str, Moments] = field(default_factory=dict)  # of values that one batch alone decides, by key
    fused: Fused = field(default_factory=dict)  # what is written in the place of nodes

    def __post_init__(self) -> None:
        self.outer = frozenset(self.plan.program.body.nodes)
        for layer in self.plan.layers:
            if layer.scaled:
                self.starts[layer.node] = layer
                # With its bias at zero a layer can be measured before the Add as well, which saves a case.
                self.ends[layer.node if self.rescale and not layer.stays else layer.end] = layer
        if self.rescale:
            # What the data are before a norm that keeps its statistics tells whether these fit; inside other nodes it
            # would take runs more.
            watched = [norm for norm in self.plan.stored if norm.node in self.outer]
            self.norms = {norm.node: norm for norm in (*self.plan.norms, *watched)}
            self.stored = frozenset(norm.node for norm in watched)

    def keys_inside(self, node: Node) -> dict[str, int]:
        """Return the keys of all records inside a node's scopes, in the order of execution, with their columns."""
        inside = (inner for body in node.bodies.values() for inner in walk(body))
        owners = [owner for inner in inside if (owner := self.ends.get(inner) or self.norms.get(inner))]
        return {key_of(owner): self.columns(owner) for owner in owners}

    def columns(self, owner: Layer | Norm) -> int:
        """Return the number of columns of a record."""
        if isinstance(owner, Norm):
            return self.plan.program.constants[owner.mean].size
        if owner.weight in self.centred:
            return self.centred[owner.weight]
        # Every layer that shares the weight counts: the record's shape must be one for all of them.
        users = [user for user in self.plan.weights[owner.weight].layers if user.scaled]
        if not any(user.stays for user in users):
            return 1
        if self.rescale:
            return 3
        # Where one execution cannot but decide, what the product gives by itself counts only if that is to be nothing.
        return 1 if len(users) == 1 and users[0].node in self.outer and self.targets[owner.weight] else 2

    def use(self, layer: Layer) -> int:
        """Return which of its weight's uses a layer is."""
        return next(i for i, user in enumerate(self.plan.weights[layer.weight].layers) if user is layer)

    def moments_in_blocks(
        self, scope: ScopeBuilder, value: str, image: tuple[int, int, int, int], *keys: str
    ) -> Moments | None:
        """Measure each channel of an image in blocks, once, for the records of some keys."""
        if value not in self.measured:
            shifted = not self.shifted.isdisjoint(keys)
            self.measured[value] = moments_in_blocks(scope, value, image, self.reps.block, shifted=shifted)
        return self.measured[value]

    def decide(self, scope: ScopeBuilder, owner: Layer | Norm, own: Callable[[], Moments]) -> Moments:
        """Return the moments that decide at a use, which `own` measures where no earlier use surely did.

        The scope's record of that weight or norm is from then on the one that decides so far.
        """
        key, width = key_of(owner), self.columns(owner)
        use = self.use(owner) if isinstance(owner, Layer) else 0
        before, layer = scope.records.get(key), key in self.plan.weights
        if before is not None and before.certain:
            return self._decided(scope, key, before.name, width)
        found = own()
        if found.rough is not None:
            # A term that stays may be constant; what it adds is seen in the sum.
            with_term = width == 3 and layer and key not in self.centred
            least = min(found.rough, self.rough[key].large) if key in self.rough else found.rough
            self.rough[key] = Rough(slice(None, None, 2 if with_term else None), least)
        record = to_record(scope, found, use, width)
        trail = _appended(scope, before.trail, record) if before is not None and before.trail is not None else None
        cut = scope.top and self.staged and self.rescale
        if cut:
            self.cuts.add(record)
        if scope.top and not self.rescale:
            self.uses.setdefault(key, []).append(record)
        elif before is not None:
            record = first_usable(scope, before.name, record, width, layer=layer)
        # A first use may say nothing (a recurrent net's zero state), so a layer's later uses are asked too.
        scope.records[key] = ScopedRecord(record, certain=not layer, trail=trail)
        return self._decided(scope, key, record, width) if cut or before is not None else found

    def target(self, scope: ScopeBuilder, layer: Layer) -> float | str | None:
        """Return the std that a layer is to have; the name of what says it where that is a part of a stream's.

        The first layer that asks measures the stream.
        """
        asked = self.targets[layer.weight]
        if not isinstance(asked, Part):
            return asked
        self.reps.materialise(asked.stream)
        key = self.measure(scope, asked.stream, self.values.get(asked.stream, Value(TensorProto.FLOAT, None)))
        found = self.streams.get(key) or from_record(scope, scope.records[key].name, 1)
        return part_of(scope, found, asked.part)

    def measure(self, scope: ScopeBuilder, value: str, known: Value) -> str:
        """Measure a value of the main graph, unless that is done; return the key of its record."""
        key = stream_key(value)
        if key not in scope.records:
            found = moments(scope, value, known.elem_type, known.dims, shifted=key in self.shifted)
            if found.rough is not None:
                self.rough[key] = Rough(slice(None), found.rough)
            record = to_record(scope, found, 0, 1)
            if self.staged and self.rescale:
                self.cuts.add(record)
            else:
                self.streams[key] = found
            scope.records[key] = ScopedRecord(record, certain=True)
        return key

    def _decided(self, scope: ScopeBuilder, key: str, record: str, width: int) -> Moments:
        """Take the pooled record of the run before apart, where there is one and it was reached; else that of this."""
        if key in self.given:
            record = reached_or(scope, self.given[key], record, width)
        return from_record(scope, record, width)


def stream_key(value: str) -> str:
    """Return the key of the record of a value of the main graph, as of a residual stream."""
    return f"stream {value}"


def key_of(owner: Layer | Norm) -> str:
    """Return the key of the record of a layer's weight, or of a BatchNormalization."""
    return owner.weight if isinstance(owner, Layer) else norm_key(owner)


def norm_key(norm: Norm) -> str:
    """Return the key of a BatchNormalization's record."""
    return f"norm {norm.mean} {norm.var}"


def unreached(scope: ScopeBuilder, width: int) -> ScopedRecord:
    """Return a record that nothing has reached."""
    return ScopedRecord(scope.double(np.zeros(ROWS * width)), certain=False)


def empty_trail(scope: ScopeBuilder, width: int) -> str | None:
    """Return a trail without records; None where the opset cannot choose value by value."""
    return scope.double(np.zeros((TRAIL, ROWS * width))) if scope.graph.opset >= 9 else None


def _appended(scope: ScopeBuilder, trail: str, record: str) -> str:
    """Return a trail with a record in the first of its rows that has a count of 0, if there is one."""
    counts = scope.op("Gather", trail, scope.graph.constant(COUNT, np.int64), axis=1)
    filled = scope.cast(scope.op("Greater", counts, scope.double(0)), TensorProto.DOUBLE)
    first = scope.cast(scope.reduce("ReduceSum", filled, (0,), keep=True), TensorProto.INT64)
    place = scope.op("Equal", scope.ints(*range(TRAIL)), first)
    return scope.op("Where", scope.reshape(place, -1, 1), record, trail)
