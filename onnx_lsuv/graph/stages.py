"""Cut a rewritten graph into stages.

A node's level is the greatest level of what it reads; what reads a cut is one level further on. All nodes of a level
are a stage: it runs over all batches, its cuts are pooled, and only what later stages read is kept. So each node runs
once per batch, whatever the number of layers; what comes from constants and cuts alone, such as a filter in another
layout, is a stage of its own that runs once for all batches. A node with records in its scopes is one too, and is run
again until they stay. Without cuts there is one stage, or a few where the graph is long. Nodes that no record depends
on are left out: the model's own outputs, and all that follows its last layer.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from types import MappingProxyType

import numpy as np
from onnx import NodeProto

from onnx_lsuv.graph.builder import GraphBuilder, ScopeBuilder, Value
from onnx_lsuv.graph.fusing import fused
from onnx_lsuv.graph.models import infer, scopes_of
from onnx_lsuv.graph.records import Part, Rough, Told
from onnx_lsuv.graph.representations import Representations
from onnx_lsuv.graph.rewrite import rewrite
from onnx_lsuv.graph.samples import Samples, orders
from onnx_lsuv.graph.shapes import check_runnable, is_mistaken, without_lengths
from onnx_lsuv.graph.state import RewriteContext
from onnx_lsuv.graph.units import Units, activations
from onnx_lsuv.layers import Plan
from onnx_lsuv.operators import of
from onnx_lsuv.program import Program
from onnx_lsuv.roles import before

# The time in which ONNX Runtime makes a session grows faster than the number of nodes; so many at most go into one.
STAGE_NODES = 400
# Numbers of a value that nothing but a report asks for: a language model's logits may be larger than all before them.
LARGEST = 1 << 27
# Within a level: what runs once for all batches, once for each, and again until its records stay.
_ONCE, _EACH, _AGAIN = range(3)


@dataclass(frozen=True, slots=True)
class Stage:
    """Nodes that run together, and what goes in and out."""

    nodes: tuple[NodeProto, ...]
    once: bool  # it gives the same for every batch
    inputs: tuple[str, ...]  # graph inputs
    constants: tuple[str, ...]  # of the program
    pooled: tuple[str, ...]  # cuts of earlier stages
    carried: tuple[str, ...]  # other values of earlier stages
    cuts: tuple[str, ...]  # records to pool after this stage
    # Those of them that are fed back, as what and with how many columns: the stage is run again until they stay.
    again: Mapping[str, tuple[str, int]]
    finals: tuple[str, ...]  # other records that end here
    kept: tuple[str, ...]  # values that later stages carry on
    finished: tuple[str, ...]  # carried values that no later stage reads
    folds: bool  # ONNX Runtime may fold its constants


@dataclass(frozen=True, slots=True)
class Joining:
    """How values that batches give are joined."""

    name: str  # of what they are joined to
    told: Told
    join: np.ufunc


@dataclass(frozen=True, slots=True)
class Calibration:
    """The calibration graph: the stages, and the record of each key."""

    program: Program
    graph: GraphBuilder
    stages: tuple[Stage, ...]
    records: Mapping[str, tuple[str, ...]]  # by key: the records of its uses, the first usable of which decides
    values: Mapping[str, Value]  # what inference found
    rough: Mapping[str, Rough]  # by key: what is asked of a record that must not have a large mean
    # By key and use: sums over the samples, and what these tell: of a single batch their record.
    sums: Mapping[tuple[str, int], tuple[str, Told]]
    units: Mapping[tuple[str, int], Units]  # likewise: what tells dead and saturated units after a layer

    @property
    def joined(self) -> dict[str, list[Joining]]:
        """What is joined of what the batches give, by its name there."""
        found: dict[str, list[Joining]] = {}
        for name, told in self.sums.values():
            found.setdefault(name, []).append(Joining(name, told, np.add))
        for each in self.units.values():
            found.setdefault(each.peaks, []).append(Joining(each.top, each.largest, np.maximum))
            found.setdefault(each.some, []).append(Joining(each.tally, each.counted, np.add))
        return found


@contextmanager
def _uncollected() -> Iterator[None]:
    """Let Python look for garbage later: of thousands of nodes nothing is, and looking takes a third of the time."""
    wanted = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if wanted:
            gc.enable()


@_uncollected()
def build(  # noqa: PLR0913  (what a graph depends on, each by itself)
    plan: Plan,
    shapes: Mapping[str, tuple[int, Sequence[int]]],
    *,
    rescale: bool,
    staged: bool,
    targets: Mapping[str, float | Part | None],
    centred: Mapping[str, int] = MappingProxyType({}),
    shifted: Set[str] = frozenset(),
    block: int = 1,
    longest: int | None = None,
    as_written: bool = False,
    samples: Samples | None = None,
    beside: Set[str] = frozenset(),
) -> Calibration:
    """Return the calibration graph of a plan, or with `rescale=False` the graph that only measures.

    Args:
        plan: the layers of a program.
        shapes: element type and shape of each graph input, of one batch.
        rescale: divide each layer's output by its std and give norms the data's statistics.
        staged: pool records over several batches before going on.
        targets: the std that each weight's layer is to have, by weight key; None where it is not scaled.
        centred: channels of the layers whose channels are to have a mean of 0, by weight key.
        shifted: keys of the records that are measured about the mean.
        block: channels side by side in ONNX Runtime's layout for convolutions; 1 where there is none.
        longest: nodes that go into a stage at most; None for `STAGE_NODES`.
        as_written: convolutions are computed in the plain layout all the same, and each node by itself.
        samples: how they lie in the data, to measure the share of signal beside.
        beside: when only measuring, values of the main graph to measure too, as far as they are known to be floats, and
            not too large where no layer depends on them.
    """
    values = infer(plan.program, shapes)
    check_runnable(plan.program, values)
    if is_mistaken(plan.program, values):
        plan, samples = without_lengths(plan), None
        values = {n: replace(v, dims=v.dims and (None,) * len(v.dims)) for n, v in values.items()}
    program = plan.program
    graph = GraphBuilder(program.opset, _prefix(program), block)
    reps = Representations(
        ScopeBuilder(graph, top=True),
        1 if as_written else block,
        values,
        program.constants,
        plan.number,
        plan.zeroed,
        program.consumers,
    )
    rw = RewriteContext(plan, rescale, staged, targets, values, centred, shifted, graph, reps)
    if beside:
        leading = before(program, {layer.node for layer in plan.layers})
        rw.beside = {name for name in beside if name in leading or _size(values.get(name), samples) <= LARGEST}
    if samples is not None:
        rw.samples, rw.orders = samples, orders(program, samples, values)
        rw.activations = activations(plan, values)
    if not as_written:
        apart = {*rw.starts, *rw.ends, *rw.norms, *rw.activations}
        streams = {target.stream for target in targets.values() if isinstance(target, Part)}
        rw.fused = fused(plan, values, apart, rw.beside | streams)
    nodes, records = rewrite(rw)
    asked = {name for each in rw.units.values() for name in (each.peaks, each.some) if name}
    wanted = {
        *(name for names in records.values() for name in names),
        *rw.cuts,
        *(name for name, _ in rw.sums.values()),
        *asked,
    }
    stages = tuple(_stages(nodes, wanted, rw, longest or STAGE_NODES))
    return Calibration(program, graph, stages, records, values, rw.rough, rw.sums, rw.units)


def _size(value: Value | None, samples: Samples | None) -> int:
    """Return how many numbers a value has in the largest batch, whose samples an axis without a length counts."""
    return prod(dim or (samples.length if samples else 1) for dim in (value.dims if value else None) or ())


def _prefix(program: Program) -> str:
    """Return what no name of a program begins with."""
    names = [*program.constants, *program.producers, *program.consumers]
    prefix = "__lsuv"
    while any(name.startswith(prefix) for name in names):
        prefix += "_"
    return prefix


def reads_of(node: NodeProto) -> Iterable[str]:
    """Yield every name a node reads, scopes inside included (their own names too: all are unique)."""
    yield from filter(None, node.input)
    for scope in scopes_of(node):
        for inner in scope.node:
            yield from reads_of(inner)
        yield from (value.name for value in scope.output)


def _stages(nodes: Sequence[NodeProto], wanted: Set[str], rw: RewriteContext, longest: int) -> Iterable[Stage]:
    program, cuts = rw.plan.program, rw.cuts
    # What a message of protobuf holds is copied each time one asks.
    scoped = [i for i, node in enumerate(nodes) if scopes_of(node)]
    reads = [tuple(filter(None, node.input)) for node in nodes]
    for i in scoped:
        reads[i] = tuple(dict.fromkeys(reads_of(nodes[i])))
    gives = [tuple(filter(None, node.output)) for node in nodes]
    turns = _turns(nodes, reads, gives, wanted, rw, longest)
    made = {name: turn for i, turn in turns.items() for name in gives[i]}
    last_read: dict[str, tuple[int, int]] = {}
    at: dict[tuple[int, int], list[int]] = {}
    for i, turn in turns.items():
        at.setdefault(turn, []).append(i)
        for name in reads[i]:
            if name in made and last_read.get(name, turn) <= turn:
                last_read[name] = turn
    data = {value.name for value in program.body.inputs}
    for turn in sorted(at):
        members = at[turn]
        names = dict.fromkeys(name for i in members for name in reads[i])
        again = {cut: fed for cut, fed in rw.again.items() if made.get(cut) == turn}
        earlier = [n for n in names if n in made and made[n] < turn]
        here = [n for i in members for n in gives[i]]
        yield Stage(
            nodes=tuple(nodes[i] for i in members),
            once=turn[1] == _ONCE,
            inputs=tuple(n for n in names if n in data),
            constants=tuple(n for n in names if n in program.constants),
            pooled=(*(n for n in earlier if n in cuts), *(fed for fed, _ in again.values() if fed in names)),
            carried=tuple(n for n in earlier if n not in cuts),
            cuts=tuple(n for n in here if n in cuts),
            again=again,
            finals=tuple(n for n in here if n in wanted and n not in cuts),
            kept=tuple(n for n in here if n not in cuts and last_read.get(n, turn) > turn),
            finished=tuple(n for n, last in last_read.items() if n not in cuts and made[n] < last == turn),
            # With an If of a constant condition it brings the branch up too, and in a nested one loses its way.
            folds=not any(_nests(nodes[i], 2) for i in scoped if turns.get(i) == turn),
        )


def _turns(
    nodes: Sequence[NodeProto],
    reads: Sequence[Sequence[str]],
    gives: Sequence[Sequence[str]],
    wanted: Set[str],
    rw: RewriteContext,
    longest: int,
) -> dict[int, tuple[int, int]]:
    """Return when each node that something wanted depends on runs: its level, and what comes first in a level."""
    cuts, makers = rw.cuts, {name: i for i, names in enumerate(gives) for name in names}
    sources = [[(makers[n], n in cuts) for n in names if n in makers] for names in reads]  # and whether by a cut
    needed, todo = set[int](), [makers[name] for name in wanted if name in makers]
    while todo:
        if (i := todo.pop()) not in needed:
            needed.add(i)
            todo += [at for at, _ in sources[i]]
    data = {value.name for value in rw.plan.program.body.inputs}
    groups = [sorted({makers[name] for name in outputs}) for outputs in rw.repeated]
    together = {i: group for group in groups for i in group}
    level: dict[int, int] = {}
    moving: set[int] = set()  # what depends on the data, cuts aside
    filled: dict[int, int] = {}
    for i in sorted(needed):
        if cuts:
            fixed = not of(nodes[i]).random and data.isdisjoint(reads[i])
            fixed = fixed and moving.isdisjoint(at for at, cut in sources[i] if not cut and at != i)
            if not fixed or i in together or any(n in wanted for n in gives[i]):
                moving.add(i)
        if i in level:
            continue
        mates = together.get(i, [i])
        before = [source for mate in mates for source in sources[mate]]
        # What is run again gives its values after the last run.
        step = max((level[at] + (cut or at in together) for at, cut in before if at not in mates), default=0)
        while filled.get(step, 0) >= longest:
            step += 1
        level |= dict.fromkeys(mates, step)
        filled[step] = filled.get(step, 0) + len(mates)
    # What is the same for all batches runs once, right before it is first read.
    once = needed - moving if cuts else set()
    if once:
        readers: dict[int, list[int]] = {}
        for i in needed:
            for at, _ in sources[i]:
                readers.setdefault(at, []).append(i)
        for i in sorted(once, reverse=True):
            level[i] = min(level[reader] for reader in readers[i] if reader != i)
    return {i: (level[i], _ONCE if i in once else _AGAIN if i in together else _EACH) for i in sorted(needed)}


def _nests(node: NodeProto, depth: int) -> bool:
    """Say whether so many If nodes stand inside each other."""
    depth -= node.op_type == "If"
    return depth == 0 or any(_nests(inner, depth) for scope in scopes_of(node) for inner in scope.node)
