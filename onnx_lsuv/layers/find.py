"""Decide for every node whether it is a layer, and for every tensor what happens to it.

One tensor, one decision: a constant is drawn anew only where everything that reads it is the weight operand of a
layer (or reads just its shape, or hands it out as an output of the main graph). A bias is set to zero only where
everything that reads it uses it as a bias; running statistics are written only where nothing else reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from onnx_lsuv.layers.operators import OPERATORS, Linear, Matrix, matrix
from onnx_lsuv.layers.program import DEFAULT_DOMAINS, MODEL_FUNCTIONS, Constant, Node, Program
from onnx_lsuv.layers.sources import (
    CARRIERS,
    FLOAT_TYPES,
    SHAPE_READERS,
    Source,
    Untraceable,
    overlap,
    region,
    trace,
)

REASONS: dict[str, str] = {
    "computed": "the weight is computed from several constants",
    "constant": "both operands are constant, so no data passes through",
    "decoder": "the weight lies in a decoder graph inside another operator",
    "dynamic": "the weight is computed from the data",
    "empty": "the weight has no values",
    "excluded": "excluded by the user",
    "layout": "the weight has a layout of one runtime only: give the model before it was optimised",
    "quantised": "the weight is quantised: give the float model",
    "random": "the weight is drawn at run time",
    "sparse": "the weight is a sparse tensor: give the model with dense ones",
    "tied": "something that is not a layer reads the weight too",
    "type": "the weight's type is not supported",
}


@dataclass(frozen=True, slots=True, eq=False)
class Addend:
    """A term that stays added to a layer's output."""

    node: Node  # the layer's own node, or the Add after it
    position: int  # the operand that holds the term


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A node that is linear in a constant weight."""

    node: Node
    position: int  # which operand the weight is
    source: Source
    matrix: Matrix
    weight: str  # key of its weight in `Plan.weights`
    end: Node  # the node whose first output is measured: the layer's, or the Add of a constant vector after it
    bias: str | None  # the constant that holds the bias, where there is one
    addend: Addend | None  # an additive term that is not set to zero


@dataclass(frozen=True, slots=True, eq=False)
class Weight:
    """A constant, or a part of one, with the layers that use it in the order of execution."""

    key: str
    constant: Constant
    identity: str  # what its draw is seeded with
    layers: tuple[Layer, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Norm:
    """A BatchNormalization whose running statistics can be written."""

    node: Node
    mean: str  # constants
    var: str


@dataclass(frozen=True, slots=True, eq=False)
class Left:
    """A node that looks like a layer, or a norm, and is left alone."""

    node: Node
    weight: str | None  # the tensor's name in the file, where there is one
    shape: tuple[int, ...] | None
    reason: str  # a key of REASONS
    detail: str


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What will be initialised and what will not."""

    program: Program
    layers: tuple[Layer, ...]  # in the order of execution
    weights: dict[str, Weight]  # by key, in the order of first use
    zeroed: tuple[str, ...]  # constants that become zero
    norms: tuple[Norm, ...]
    left: tuple[Left, ...]
    stale: tuple[Left, ...]  # BatchNormalizations that keep their stored statistics


@dataclass(frozen=True, slots=True)
class _Candidate:
    node: Node
    position: int
    source: Source
    matrix: Matrix


@dataclass(slots=True)
class _Search:
    program: Program
    candidates: list[_Candidate] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)

    def leave(self, node: Node, reason: str, detail: str, source: Source | None = None) -> None:
        constant = self.program.constants[source.constant] if source else None
        self.left.append(
            Left(node, constant.label if constant else None, source.shape if source else None, reason, detail)
        )


def find_layers(
    program: Program, *, wanted: Callable[[str, str], bool] = lambda label, weight: True, keep_bias: bool = False
) -> Plan:
    """Find the layers of a program, their weights and biases, and the norms beside them.

    Args:
        program: the expanded model.
        wanted: called with a node's label and its weight's name; False leaves the weight alone.
        keep_bias: leave biases as they are.
    """
    search = _Search(program)
    for node in program.walk():
        _consider(search, node)
    accepted = _settle(search, wanted)
    layers, zeroed = _with_biases(program, accepted, keep_bias=keep_bias)
    norms, stale = _norms(program)
    weights: dict[str, Weight] = {}
    for key in dict.fromkeys(layer.weight for layer in layers):
        users = tuple(layer for layer in layers if layer.weight == key)
        constant = program.constants[users[0].source.constant]
        part = key.removeprefix(constant.name)
        identity = constant.identity + (f"[{part.strip('[]').rsplit(':', 1)[0]}]" if part else "")
        weights[key] = Weight(key, constant, identity, users)
    return Plan(program, tuple(layers), weights, tuple(zeroed), norms, tuple(search.left), stale)


def _consider(search: _Search, node: Node) -> None:
    """Enter a node as a candidate, or as left alone with the reason."""
    program = search.program
    if (node.domain, node.op_type) not in OPERATORS:
        reason = _lookalike(node)
        if reason:
            search.leave(node, *reason)
        return
    operator = OPERATORS[node.domain, node.op_type]
    found = [(p, trace(program, node.inputs[p])) for p in operator.weights if p < len(node.inputs)]
    sources = [(p, s) for p, s in found if isinstance(s, Source)]
    if not sources:
        why = next(s for _, s in found if isinstance(s, Untraceable))
        # Where one operand is data and the other is something a person would call a weight, name the latter.
        for _, s in found:
            if isinstance(s, Untraceable) and s.reason != "dynamic":
                why = s
        search.leave(node, why.reason, why.detail)
        return
    position, source = sources[0]
    if len(sources) == len(operator.weights) > 1 or any(
        isinstance(s, Untraceable) and s.reason == "computed" for p, s in found if p != position
    ):
        search.leave(node, "constant", REASONS["constant"], source)
        return
    view = matrix(node, position, source.shape)
    constant = program.constants[source.constant]
    if source.elem_type not in FLOAT_TYPES or constant.elem_type not in FLOAT_TYPES:
        search.leave(node, "type", f"{REASONS['type']}: floating point of 16, 32 or 64 bits is", source)
    elif view is None:
        search.leave(node, "type", f"the weight's shape {source.shape} does not fit {node.op}", source)
    elif 0 in source.shape or 0 in constant.dims:
        search.leave(node, "empty", REASONS["empty"], source)
    elif constant.site is None or (constant.origin == "ConstantOfShape" and constant.site[0][0] == MODEL_FUNCTIONS):
        search.leave(node, "computed", "the weight has no tensor of its own in the file that could hold it", source)
    else:
        search.candidates.append(_Candidate(node, position, source, view))


def _lookalike(node: Node) -> tuple[str, str] | None:
    """Return why an operator that carries weights of another kind is left alone; None for any other operator."""
    name = node.op_type
    if name.startswith("QLinear") or name.endswith(("Integer", "NBits", "Bnb4")) or name.startswith("DynamicQuantize"):
        if name in ("QLinearAdd", "QLinearConcat", "QLinearSigmoid", "DynamicQuantizeLinear"):
            return None
        return "quantised", f"{node.op} holds quantised weights: give the float model"
    if node.domain.endswith("nchwc"):
        return "layout", REASONS["layout"]
    if name in ("BeamSearch", "GreedySearch", "Sampling"):
        return "decoder", f"{node.op} holds its weights in a decoder graph: give the decoder itself as a model"
    return None


def _uses(program: Program, name: str) -> Iterator[tuple[Node | None, int]]:
    """Yield who reads a value in the end, through operators that only move it; None is an output of a scope inside."""
    if name in program.exits:
        outputs = {v.name for v in program.body.outputs}
        if name not in outputs:
            yield None, 0
    for node, position in program.consumers.get(name, ()):
        if node.domain in DEFAULT_DOMAINS and node.op_type in SHAPE_READERS:
            continue
        if (
            node.domain in DEFAULT_DOMAINS
            and node.op_type in CARRIERS
            and (position == 0 or node.op_type == "Concat")
            and node.outputs
        ):
            for output in node.outputs:
                if output:
                    yield from _uses(program, output)
        else:
            yield node, position


def _settle(search: _Search, wanted: Callable[[str, str], bool]) -> list[tuple[_Candidate, str]]:
    """Decide tensor by tensor; return the candidates that stay, each with the key of its weight."""
    program = search.program
    by_constant: dict[str, list[_Candidate]] = {}
    for candidate in search.candidates:
        by_constant.setdefault(candidate.source.constant, []).append(candidate)
    accepted: dict[tuple[Node, int], str] = {}
    for name, group in by_constant.items():
        constant = program.constants[name]
        places = {(c.node, c.position) for c in group}
        others = [(n, p) for n, p in _uses(program, name) if n is None or (n, p) not in places]
        if others:
            reader = others[0][0]
            who = f"{reader.op} {reader.label!r}" if reader else "an output of an inner graph"
            for c in group:
                search.leave(c.node, "tied", f"{who} reads the weight too", c.source)
            continue
        keys = {c: region(c.source, constant.size, constant.dims) for c in group}
        parts = {part: c for c, part in keys.items()}
        heads = list(parts.values())
        clash = any(
            overlap(a.source, b.source, constant.size, constant.dims)
            for i, a in enumerate(heads)
            for b in heads[i + 1 :]
        )
        if clash:
            for c in group:
                search.leave(c.node, "tied", "layers use parts of the weight that overlap", c.source)
            continue
        for c in group:
            sharing = [d for d in group if keys[d] == keys[c]]
            if all(wanted(d.node.label, constant.label) for d in sharing):
                accepted[c.node, c.position] = name + (f"[{keys[c]}]" if keys[c] else "")
            else:
                search.leave(c.node, "excluded", REASONS["excluded"], c.source)
    return [(c, accepted[c.node, c.position]) for c in search.candidates if (c.node, c.position) in accepted]


def _with_biases(
    program: Program, accepted: list[tuple[_Candidate, str]], *, keep_bias: bool
) -> tuple[list[Layer], list[str]]:
    """Attach the biases; return the layers and the constants that become zero."""
    found: list[tuple[_Candidate, str, Node, Addend | None, str | None]] = []
    for candidate, key in accepted:
        end, addend, bias = _bias(program, candidate.node, OPERATORS[candidate.node.domain, candidate.node.op_type])
        found.append((candidate, key, end, addend, bias))
    places = {(a.node, a.position) for _, _, _, a, _ in found if a is not None}
    zeroed: dict[str, None] = {}
    layers = []
    for candidate, key, end, addend, bias in found:
        term = addend
        if (
            bias is not None
            and not keep_bias
            and all((n, p) in places for n, p in _uses(program, bias) if n)
            and all(n is not None for n, _ in _uses(program, bias))
        ):
            zeroed[bias] = None
            term = None
        layers.append(
            Layer(candidate.node, candidate.position, candidate.source, candidate.matrix, key, end, bias, term)
        )
    return layers, list(zeroed)


def _bias(program: Program, node: Node, operator: Linear) -> tuple[Node, Addend | None, str | None]:
    """Return the node at which a layer ends, its additive term, and the constant that holds the term if one does."""
    if operator.bias is not None and len(node.inputs) > operator.bias and node.inputs[operator.bias]:
        if node.op_type == "Gemm" and node.float_attribute("beta", 1.0) == 0.0:
            return node, None, None
        return node, Addend(node, operator.bias), _plain_constant(program, node.inputs[operator.bias])
    readers = program.consumers.get(node.outputs[0], ())
    if len(readers) != 1 or node.outputs[0] in program.exits:
        return node, None, None
    after, position = readers[0]
    if after.op != "Add" or after.scope != node.scope:
        return node, None, None
    other = after.inputs[1 - position]
    source = trace(program, other)
    if not isinstance(source, Source) or sum(d != 1 for d in source.shape) > 1:
        return node, None, None
    return after, Addend(after, 1 - position), _plain_constant(program, other)


def _plain_constant(program: Program, name: str) -> str | None:
    """Return the constant that a name is, wholly and writably, through operators that only move it; else None."""
    source = trace(program, name)
    if not isinstance(source, Source) or source.elem_type not in FLOAT_TYPES:
        return None
    constant = program.constants[source.constant]
    if constant.site is None or constant.elem_type not in FLOAT_TYPES or source.partial:
        return None
    if constant.origin == "ConstantOfShape" and constant.site[0][0] == MODEL_FUNCTIONS:
        return None
    return constant.name


def _norms(program: Program) -> tuple[tuple[Norm, ...], tuple[Left, ...]]:
    """Return the BatchNormalizations whose statistics can be written, and those that keep the stored ones."""
    found: list[Norm] = []
    stale: list[Left] = []
    for node in program.walk():
        if node.op != "BatchNormalization" or len(node.inputs) < 5:
            continue
        mean, var = (_plain_constant(program, node.inputs[i]) for i in (3, 4))
        if node.int_attribute("spatial", 1) == 0:
            stale.append(Left(node, None, None, "type", "statistics of each position (spatial=0) are not calibrated"))
        elif mean is None or var is None or mean == var:
            stale.append(Left(node, None, None, "computed", "the statistics are not two constants of their own"))
        else:
            found.append(Norm(node, mean, var))
    norms = []
    for norm in found:
        mates = {(n.node, 3) for n in found if (n.mean, n.var) == (norm.mean, norm.var)}
        mates |= {(n.node, 4) for n in found if (n.mean, n.var) == (norm.mean, norm.var)}
        if all(use in mates for name in (norm.mean, norm.var) for use in _uses(program, name)):
            norms.append(norm)
        else:
            label = program.constants[norm.mean].label
            detail = "something else reads the running mean or variance too, so the stored values stay"
            stale.append(Left(norm.node, label, None, "tied", detail))
    return tuple(norms), tuple(stale)
