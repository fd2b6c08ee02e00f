"""Decide for every node whether it is a layer, and for every tensor what happens to it.

One tensor, one decision: a constant is drawn anew only where everything that reads it is the weight operand of a
layer (or reads just its shape, or hands it out as an output of the main graph).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import combinations

from onnx_lsuv.layers.plan import REASONS, Layer, Plan, Weight, tensor_names
from onnx_lsuv.model import all_graphs, graphs_in
from onnx_lsuv.operators import of
from onnx_lsuv.operators.matrices import misfit
from onnx_lsuv.program.order import execution_order
from onnx_lsuv.program.program import FLOAT_TYPES, Body, Constant, Node, Program, walk
from onnx_lsuv.roles import Norm, Patterns, Product, Skipped, find_roles, weight_transform
from onnx_lsuv.roles.products import uses, writable
from onnx_lsuv.sources.moves import FixedTerm, Source, Untraceable
from onnx_lsuv.sources.tracing import overlap, region, trace, trace_sum

_ALL = Patterns()
_ALONE = "serves something else too, and cannot follow two scales"


def find_layers(
    program: Program,
    patterns: Patterns = _ALL,
    *,
    keep_bias: Collection[str] = (),
    fresh: bool = False,
    recalibrate: bool = False,
) -> Plan:
    """Find the layers of a program, their weights and biases, the norms beside them, and every constant's role.

    Args:
        program: the expanded model.
        patterns: what a person chose by patterns.
        keep_bias: operators whose biases stay as they are, "*" for all.
        fresh: find the parameters beside the layers too, which reads values.
        recalibrate: calibrate the statistics of norms also where nothing changes before them.
    """
    found = [each for node in program.walk() for each in _consider(program, node)]
    skipped = [each for each in found if isinstance(each, Skipped)]
    candidates = [each for each in found if isinstance(each, Product)]
    chosen = dict(_chosen(program, candidates, skipped, patterns))
    roles = find_roles(
        program,
        list(chosen),
        [each for each in candidates if each not in chosen],
        skipped,
        patterns,
        keep_bias=keep_bias,
        fresh=fresh,
        recalibrate=recalibrate,
    )
    layers = [
        Layer(
            node=product.node,
            position=product.position,
            source=product.source,
            matrix=product.matrix,
            weight=key,
            end=term.end,
            bias=term.constants,
            addend=term.addend,
            scaled=product.scaled,
            fixed_term=product.fixed_term,
        )
        for (product, key), term in zip(chosen.items(), roles.biases.terms, strict=True)
    ]
    order = _order(program, layers, (*roles.norms, *roles.stored))
    turns = {node: turn for turn, node in enumerate(walk(program.body, order))}
    layers.sort(key=lambda layer: turns[layer.node])
    return Plan(
        program=program,
        layers=tuple(layers),
        weights=_weights(program, layers),
        zeroed=roles.biases.zeroed,
        forget=roles.biases.forget,
        left_terms=roles.biases.left,
        norms=roles.norms,
        stored=roles.stored,
        skipped=tuple(skipped),
        kept_statistics=roles.kept_statistics,
        parameters=roles.parameters,
        roles=roles.table,
        order=order,
    )


def _order(program: Program, layers: Sequence[Layer], norms: Sequence[Norm]) -> Mapping[Body, tuple[Node, ...]]:
    """Return the order of nodes where a weight, or statistics, have several uses: each after the first one."""
    used: dict[Node, list[str]] = {}
    for layer in layers:
        used.setdefault(layer.node, []).append(layer.weight)
    for norm in norms:
        used.setdefault(norm.node, []).append(f"{norm.mean} {norm.var}")
    return execution_order(program.body, used, {layer.node: layer.end for layer in layers})


def _weights(program: Program, layers: Sequence[Layer]) -> dict[str, Weight]:
    """Return the weights of layers in the order of execution, by key."""
    users: dict[str, list[Layer]] = {}
    for layer in layers:
        users.setdefault(layer.weight, []).append(layer)
    weights: dict[str, Weight] = {}
    for key, group in users.items():
        constant = program.constants[group[0].source.constant]
        part = key.removeprefix(constant.name)
        joined = len(group[0].source.constants) > 1
        identity = constant.identity + (f"[{part.strip('[]').rsplit(':', 1)[0]}]" if part and not joined else part)
        weights[key] = Weight(key, constant, identity, tuple(group))
    return weights


def _consider(program: Program, node: Node) -> list[Product | Skipped]:
    """Return what a node multiplies by a constant, or why that is left alone; nothing for other nodes."""
    operator = of(node)
    if not operator.weights:
        reason = _lookalike(node)
        return [Skipped(node, None, None, *reason)] if reason else []
    # A state of such a Scan has a batch axis, and each sequence starts anew: no record can travel with it.
    scaled = not operator.unscaled and node not in program.old_scans
    places = [p for p in operator.weights if p < len(node.inputs) and node.inputs[p]]
    found = {p: trace(program, node.inputs[p], several=True) for p in places}
    sources = [(p, source) for p, source in found.items() if isinstance(source, Source)]
    missing = [source for source in found.values() if isinstance(source, Untraceable)]
    if operator.every:
        return [
            _product(program, node, p, source, scaled=scaled)
            if isinstance(source, Source)
            else Skipped(node, None, None, source.reason, source.detail)
            for p, source in found.items()
        ]
    if not sources:
        sums = [(p, each) for p in places if (each := trace_sum(program, node.inputs[p]))]
        if len(sums) == 1 and scaled:
            position, (source, fixed_term) = sums[0]
            return [_product(program, node, position, source, scaled=True, fixed_term=fixed_term)]
        # Where one operand is data and the other is something a person would call a weight, name the latter.
        why = next((each for each in missing if each.reason != "dynamic"), missing[0])
        return [Skipped(node, None, None, why.reason, why.detail)]
    position, source = sources[0]
    if len(found) > 1 and all(each.reason == "computed" for each in missing):
        # A table that a layer maps, as a position bias, is the layer's data.
        if position != operator.weights[0] or _makes_weight(program, node):
            return [_skipped(program, node, source, "constant", REASONS["constant"])]
    elif len(sources) > 1:
        return [_skipped(program, node, source, "computed", "the weight is a product of several constants")]
    return [_product(program, node, position, source, scaled=scaled)]


def _makes_weight(program: Program, node: Node) -> bool:
    """Say whether a node's output is, through constant nodes, another layer's weight."""
    for reader, position in uses(program, node.outputs[0]):
        if reader is not None and position in of(reader).weights:
            return True
    return False


def _product(
    program: Program, node: Node, position: int, source: Source, *, scaled: bool, fixed_term: FixedTerm | None = None
) -> Product | Skipped:
    matrix = of(node).matrix
    view = matrix(node.attributes, position, source.shape) if matrix else None
    view = view and view.parted(_parts(program, node))
    constant = program.constants[source.constant]
    if not FLOAT_TYPES.issuperset((source.elem_type, constant.elem_type)):
        why = "type", f"{REASONS['type']}: floating point of 16, 32 or 64 bits is"
    elif view is None:
        why = "type", misfit(node.op, node.attributes, position, source.shape)
    elif 0 in (*source.shape, *constant.dims):
        why = "empty", REASONS["empty"]
    elif not all(writable(program.constants[name]) for name in source.touched):
        why = "computed", "the weight has no tensor of its own in the file that could hold it"
    else:
        return Product(node, position, source, view, scaled, fixed_term)
    return _skipped(program, node, source, *why)


def _skipped(program: Program, node: Node, source: Source, reason: str, detail: str) -> Skipped:
    return Skipped(node, program.constants[source.constant].label, source.shape, reason, detail)


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
    inside = [graph for each in node.attributes.values() for held in graphs_in(each) for graph in all_graphs(held)]
    if not reason and any(of(held).weights for graph in inside for held in graph.node):
        reason = "operator"
    details = {
        "quantised": f"{node.op} holds quantised weights: give the float model",
        "operator": f"{REASONS['operator']} ({node.op})",
        "decoder": f"{node.op} holds its weights in a decoder graph: give the decoder itself as a model",
    }
    return (reason, details.get(reason, REASONS[reason])) if reason else None


def _chosen(
    program: Program, candidates: Sequence[Product], skipped: list[Skipped], patterns: Patterns
) -> list[tuple[Product, str]]:
    """Decide tensor by tensor: skip candidates; return those that stay, each with the key of its weight."""
    places = {(c.node, c.position) for c in candidates}
    # A candidate that falls may take others with it: what reads one tensor stands or falls together.
    groups: dict[str, list[Product]] = {}
    for candidate in candidates:
        groups.setdefault(candidate.source.constant, []).append(candidate)
    keys: dict[Product, str] = {}
    for name, group in groups.items():
        fault = _fault(program, name, group, places)
        regions = {} if fault else {c: region(c.source, program.constants[name].dims) for c in group}
        transforms: dict[str, str] = {}
        for c in group:
            sharing = [(d.node.label, *tensor_names(program, d.source)) for d in regions if regions[d] == regions[c]]
            if fault:
                skipped.append(_skipped(program, c.node, c.source, *fault))
            elif not all(patterns.wanted(*names) for names in sharing):
                skipped.append(_skipped(program, c.node, c.source, "excluded", REASONS["excluded"]))
            elif not any(patterns.named(*names) for names in sharing) and (
                what := _transform(program, c, regions, transforms)
            ):
                skipped.append(_skipped(program, c.node, c.source, "fixed", f"the weight is a fixed transform: {what}"))
            else:
                keys[c] = name + (f"[{regions[c]}]" if regions[c] else "")
    return [(c, keys[c]) for c in candidates if c in keys]


def _transform(program: Program, candidate: Product, regions: dict[Product, str], transforms: dict[str, str]) -> str:
    """Return which fixed transform a weight is, or ""; of those that share a region the first to be asked decides."""
    region = regions[candidate]
    if region not in transforms:
        transforms[region] = weight_transform(program, candidate.source)
    return transforms[region]


def _fault(program: Program, name: str, group: list[Product], places: set[tuple[Node, int]]) -> tuple[str, str] | None:
    """Return the reason and the detail why the layers that read a constant cannot have it drawn, or None."""
    return _read_elsewhere(program, group, places) or _used_differently(program, program.constants[name], group)


def _read_elsewhere(program: Program, group: list[Product], places: set[tuple[Node, int]]) -> tuple[str, str] | None:
    own = {(c.node, c.position) for c in group}
    quantiser_steps = {each.operand.constant: each.node for c in group for each in c.source.quantiser_steps}
    for name in dict.fromkeys(each for c in group for each in c.source.touched):
        for node, position in uses(program, name):
            if (node, position) in own:
                continue
            if name in quantiser_steps:
                return "quantised", f"{quantiser_steps[name].op}'s {program.constants[name].label!r} {_ALONE}"
            if node is None:
                return "tied", "an output of an inner graph hands the weight on"
            what = "the weight too" if (node, position) not in places else "it together with another weight"
            return "tied", f"{node.op} {node.label!r} reads {what}"
    return None


def _used_differently(program: Program, constant: Constant, group: list[Product]) -> tuple[str, str] | None:
    scaled = {c.source.scaled_constant for c in group}
    if len(scaled) > 1:
        return "tied", "layers compute their weights from it in different ways"
    parts = {region(c.source, constant.dims): c.source for c in group}
    if len(parts) > 1 and any(scaled):
        return "tied", "layers compute their weights from parts of it"
    served: dict[str, str] = {}
    for c in group:
        for one in c.source.quantiser_steps:
            step, part = one.operand.constant, region(c.source, constant.dims)
            if served.setdefault(step, part) != part:
                return "quantised", f"{one.node.op}'s {program.constants[step].label!r} {_ALONE}"
    if any(len(c.source.constants) > 1 for c in group):
        return None if len(parts) == 1 else ("tied", "layers join it with other constants in different ways")
    if any(overlap(one, other, constant.dims) for one, other in combinations(parts.values(), 2)):
        return "tied", "layers use parts of the weight that overlap"
    return None
