"""Decide for every node whether it is a layer, and for every tensor what happens to it.

One tensor, one decision: a constant is drawn anew only where everything that reads it is the weight operand of a
layer (or reads just its shape, or hands it out as an output of the main graph).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from onnx import GraphProto

from onnx_lsuv.layers.plan import REASONS, Layer, Plan, Skipped, Weight, tensor_names
from onnx_lsuv.model import graphs_in
from onnx_lsuv.operators import Matrix, of
from onnx_lsuv.operators.matrices import misfit
from onnx_lsuv.program.order import settled_order
from onnx_lsuv.program.program import FLOAT_TYPES, Node, Program, walk
from onnx_lsuv.roles.terms import bias_of, find_norms, settle_biases, uses, writable
from onnx_lsuv.sources.moves import FixedTerm, Source, Untraceable
from onnx_lsuv.sources.tracing import overlap, region, trace, trace_sum

_ALONE = "serves something else too, and cannot follow two scales"


@dataclass(frozen=True, slots=True)
class _Candidate:
    node: Node
    position: int
    source: Source
    matrix: Matrix
    scaled: bool
    fixed_term: FixedTerm | None


@dataclass(slots=True)
class _Search:
    program: Program
    candidates: list[_Candidate] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    def skip(self, node: Node, reason: str, detail: str, source: Source | None = None) -> None:
        constant = self.program.constants[source.constant] if source else None
        self.skipped.append(
            Skipped(node, constant.label if constant else None, source.shape if source else None, reason, detail)
        )


def find_layers(
    program: Program, *, wanted: Callable[..., bool] = lambda *names: True, keep_bias: bool = False
) -> Plan:
    """Find the layers of a program, their weights and biases, and the norms beside them.

    Args:
        program: the expanded model.
        wanted: called with a node's label and the names of its weight; False leaves the weight alone.
        keep_bias: leave biases as they are.
    """
    search = _Search(program)
    for node in program.walk():
        _consider(search, node)
    layers = []
    for candidate, key in _settle(search, wanted):
        end, addend, bias = bias_of(program, candidate.node, candidate.position)
        if candidate.fixed_term and end is not candidate.node:
            # Two terms that stay, of two nodes, are one too many: the layer ends before its Add.
            end, addend, bias = candidate.node, None, ()
        layers.append(
            Layer(
                node=candidate.node,
                position=candidate.position,
                source=candidate.source,
                matrix=candidate.matrix,
                weight=key,
                end=end,
                bias=bias,
                addend=addend,
                scaled=candidate.scaled,
                fixed_term=candidate.fixed_term,
            )
        )
    layers, zeroed, forget = settle_biases(program, layers, keep_bias=keep_bias)
    norms, kept_statistics = find_norms(program)
    used: dict[Node, list[str]] = {}
    for layer in layers:
        used.setdefault(layer.node, []).append(layer.weight)
    for norm in norms:
        used.setdefault(norm.node, []).append(f"{norm.mean} {norm.var}")
    order = settled_order(program.body, used, {layer.node: layer.end for layer in layers})
    turns = {node: turn for turn, node in enumerate(walk(program.body, order))}
    layers.sort(key=lambda layer: turns[layer.node])
    users_of: dict[str, list[Layer]] = {}
    for layer in layers:
        users_of.setdefault(layer.weight, []).append(layer)
    weights: dict[str, Weight] = {}
    for key, users in users_of.items():
        constant = program.constants[users[0].source.constant]
        part = key.removeprefix(constant.name)
        joined = len(users[0].source.constants) > 1
        identity = constant.identity + (f"[{part.strip('[]').rsplit(':', 1)[0]}]" if part and not joined else part)
        weights[key] = Weight(key, constant, identity, tuple(users))
    return Plan(program, tuple(layers), weights, zeroed, forget, norms, tuple(search.skipped), kept_statistics, order)


def _consider(search: _Search, node: Node) -> None:
    """Enter a node as a candidate, or as left alone with the reason."""
    program = search.program
    operator = of(node)
    if not operator.weights:
        reason = _lookalike(node)
        if reason:
            search.skip(node, *reason)
        return
    # A state of such a Scan has a batch axis, and each sequence starts anew: no record can travel with it.
    scaled = not operator.unscaled and node not in program.old_scans
    found = [
        (p, trace(program, node.inputs[p], several=True))
        for p in operator.weights
        if p < len(node.inputs) and node.inputs[p]
    ]
    if operator.every:
        for position, source in found:
            if isinstance(source, Source):
                _enter(search, node, position, source, scaled=scaled)
            else:
                search.skip(node, source.reason, source.detail)
        return
    sources = [(p, s) for p, s in found if isinstance(s, Source)]
    if not sources:
        sums = [(p, each) for p, _ in found if (each := trace_sum(program, node.inputs[p]))]
        if len(sums) == 1 and scaled:
            position, (source, fixed_term) = sums[0]
            _enter(search, node, position, source, scaled=True, fixed_term=fixed_term)
            return
        reasons = [s for _, s in found if isinstance(s, Untraceable)]
        # Where one operand is data and the other is something a person would call a weight, name the latter.
        why = next((s for s in reasons if s.reason != "dynamic"), reasons[0])
        search.skip(node, why.reason, why.detail)
        return
    position, source = sources[0]
    data = [s for p, s in found if p != position]
    if data and all(isinstance(s, Source) or s.reason == "computed" for s in data):
        if position == operator.weights[0] and not _makes_weight(program, node):
            # A table that a layer maps, as a position bias: the table is the layer's data.
            _enter(search, node, position, source, scaled=scaled)
        else:
            search.skip(node, "constant", REASONS["constant"], source)
    elif len(sources) > 1:
        search.skip(node, "computed", "the weight is a product of several constants", source)
    else:
        _enter(search, node, position, source, scaled=scaled)


def _makes_weight(program: Program, node: Node) -> bool:
    """Say whether a node's output is, through constant nodes, another layer's weight."""
    for reader, position in uses(program, node.outputs[0]):
        if reader is not None and position in of(reader).weights:
            return True
    return False


def _enter(
    search: _Search, node: Node, position: int, source: Source, *, scaled: bool, fixed_term: FixedTerm | None = None
) -> None:
    program = search.program
    matrix = of(node).matrix
    view = matrix(node.attributes, position, source.shape) if matrix else None
    view = view and view.parted(_parts(program, node))
    constant = program.constants[source.constant]
    touched = [program.constants[name] for name in source.touched]
    if source.elem_type not in FLOAT_TYPES or constant.elem_type not in FLOAT_TYPES:
        search.skip(node, "type", f"{REASONS['type']}: floating point of 16, 32 or 64 bits is", source)
    elif view is None:
        search.skip(node, "type", misfit(node.op, node.attributes, position, source.shape), source)
    elif 0 in source.shape or 0 in constant.dims:
        search.skip(node, "empty", REASONS["empty"], source)
    elif not all(map(writable, touched)):
        search.skip(node, "computed", "the weight has no tensor of its own in the file that could hold it", source)
    else:
        search.candidates.append(_Candidate(node, position, source, view, scaled, fixed_term))


def _parts(program: Program, node: Node) -> int:
    """Return how many matrices a product has packed into one for the only operator that reads it."""
    readers = program.consumers.get(node.outputs[0], ())
    if len(readers) == 1 and readers[0][0].op == "Add":
        readers = program.consumers.get(readers[0][0].outputs[0], ())
    packed = of(readers[0][0]).packed if len(readers) == 1 and readers[0][1] == 0 else None
    return packed(readers[0][0].attributes) if packed and not any(readers[0][0].inputs[1:3]) else 1


def _lookalike(node: Node) -> tuple[str, str] | None:
    """Return why an operator that carries weights of another kind is left alone; None for any other operator."""
    reason = of(node).left
    if not reason and any(_holds_layer(graph) for each in node.attributes.values() for graph in graphs_in(each)):
        reason = "operator"
    details = {
        "quantised": f"{node.op} holds quantised weights: give the float model",
        "operator": f"{REASONS['operator']} ({node.op})",
        "decoder": f"{node.op} holds its weights in a decoder graph: give the decoder itself as a model",
    }
    return (reason, details.get(reason, REASONS[reason])) if reason else None


def _holds_layer(graph: GraphProto) -> bool:
    """Say whether some operator of a graph, or of those inside it, is linear in a weight."""
    return any(
        of(node).weights or any(_holds_layer(inner) for attribute in node.attribute for inner in graphs_in(attribute))
        for node in graph.node
    )


def _settle(search: _Search, wanted: Callable[..., bool]) -> list[tuple[_Candidate, str]]:
    """Decide tensor by tensor; return the candidates that stay, each with the key of its weight."""
    program = search.program
    places = {(c.node, c.position) for c in search.candidates}
    # A candidate that falls may take others with it: what reads one tensor stands or falls together.
    groups: dict[str, list[_Candidate]] = {}
    for candidate in search.candidates:
        groups.setdefault(candidate.source.constant, []).append(candidate)
    accepted: dict[tuple[Node, int], str] = {}
    for name, group in groups.items():
        constant = program.constants[name]
        fault = _fault(program, name, group, places)
        if fault:
            for c in group:
                search.skip(c.node, *fault, c.source)
            continue
        keys = {c: region(c.source, constant.dims) for c in group}
        for c in group:
            sharing = [d for d in group if keys[d] == keys[c]]
            if all(wanted(d.node.label, *tensor_names(program, d.source)) for d in sharing):
                accepted[c.node, c.position] = name + (f"[{keys[c]}]" if keys[c] else "")
            else:
                search.skip(c.node, "excluded", REASONS["excluded"], c.source)
    return [(c, accepted[c.node, c.position]) for c in search.candidates if (c.node, c.position) in accepted]


def _fault(
    program: Program, name: str, group: list[_Candidate], places: set[tuple[Node, int]]
) -> tuple[str, str] | None:
    """Return the reason and the detail why the layers that read a constant cannot have it drawn, or None."""
    own = {(c.node, c.position) for c in group}
    quantiser_steps = {each.operand.constant: each.node for c in group for each in c.source.quantiser_steps}
    for each in dict.fromkeys(n for c in group for n in c.source.touched):
        for node, position in uses(program, each):
            if (node, position) in own:
                continue
            if each in quantiser_steps:
                return "quantised", f"{quantiser_steps[each].op}'s {program.constants[each].label!r} {_ALONE}"
            if node is None:
                return "tied", "an output of an inner graph hands the weight on"
            what = "the weight too" if (node, position) not in places else "it together with another weight"
            return "tied", f"{node.op} {node.label!r} reads {what}"
    if len({c.source.scaled_constant for c in group}) > 1:
        return "tied", "layers compute their weights from it in different ways"
    constant = program.constants[name]
    parts: dict[str, _Candidate] = {region(c.source, constant.dims): c for c in group}
    heads = list(parts.values())
    if len(heads) > 1 and any(c.source.scaled_constant for c in group):
        return "tied", "layers compute their weights from parts of it"
    served: dict[str, str] = {}
    for c in group:
        for one in c.source.quantiser_steps:
            step, part = one.operand.constant, region(c.source, constant.dims)
            if served.setdefault(step, part) != part:
                label = program.constants[step].label
                return "quantised", f"{one.node.op}'s {label!r} {_ALONE}"
    if any(len(c.source.constants) > 1 for c in group):
        return None if len(parts) == 1 else ("tied", "layers join it with other constants in different ways")
    for i, a in enumerate(heads):
        if any(overlap(a.source, b.source, constant.dims) for b in heads[i + 1 :]):
            return "tied", "layers use parts of the weight that overlap"
    return None
