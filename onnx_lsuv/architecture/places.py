"""Who reads a value, and what its place says of it: a layer's weight, a norm's scale, a table, or data.

A name is followed through operators that move values, and through those that read parameters alone, to what reads it in
the end. There the table of operators says what an operand is. An operand of a plain Add, Mul, Gather or Concat may be a
parameter, and so may a start state: it is taken for one where it is listed behind the data, as exporters list inputs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Set
from dataclasses import dataclass

from onnx import GraphProto, NodeProto, ValueInfoProto

from onnx_lsuv.model import graphs_of
from onnx_lsuv.operators import OPERATORS, WHOLE, Operator, of
from onnx_lsuv.program.program import DEFAULT_DOMAINS, FLOAT_TYPES
from onnx_lsuv.program.protos import dims_in

SURE = frozenset({"weight", "bias", "scale", "statistics", "slope", "embedding"})
_MOVES = WHOLE | {"casts", "takes", "repeats"}
_IN_DOUBT = frozenset({"Add", "Sub", "Mul", "Div", "Gather", "Concat", "Expand"})
Reader = tuple[NodeProto, int]


@dataclass(frozen=True, slots=True)
class Uses:
    """Who reads and makes the values of a main graph, in the graphs inside it too."""

    graph: GraphProto
    nodes: tuple[NodeProto, ...]
    readers: Mapping[str, list[Reader]]
    makers: Mapping[str, NodeProto]
    vectors: Set[str]  # inputs with one axis that is longer than 1

    def ends(self, name: str, parameters: Set[str]) -> Iterator[Reader]:
        """Yield who reads a value in the end, where `parameters` are all values that depend on such alone."""
        todo, seen = [name], {name}
        while todo:
            for node, position in self.readers.get(todo.pop(), ()):
                moved = position == 0 and of(node).move in _MOVES
                if _row(node).weights or of(node).norm or not (moved or parameters >= set(node.output)):
                    yield node, position
                else:
                    new = [output for output in node.output if output and output not in seen]
                    seen.update(new)
                    todo += new


def uses_of(graph: GraphProto) -> Uses:
    """Return who reads and makes the values of a graph."""
    nodes = tuple(_nodes(graph))
    readers: dict[str, list[Reader]] = {}
    for node in nodes:
        for position, name in enumerate(node.input):
            readers.setdefault(name, []).append((node, position))
    makers = {name: node for node in nodes for name in node.output if name}
    vectors = {v.name for v in graph.input if sum(length != 1 for length in dims_in(v) or ()) == 1}
    return Uses(graph, nodes, readers, makers, vectors)


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for inner in graphs_of(node) if of(node).scopes else ():
            yield from _nodes(inner)


def unmade(uses: Uses) -> tuple[str, ...]:
    """Return the names that nodes, or the graph's outputs, read and that nothing makes, in the order of use."""
    known = {"", *uses.makers}
    for graph in (uses.graph, *(inner for node in uses.nodes if of(node).scopes for inner in graphs_of(node))):
        known.update(value.name for value in (*graph.input, *graph.initializer))
        known.update(sparse.values.name for sparse in graph.sparse_initializer)
    return tuple(name for name in uses.readers if name not in known)


def holds_weights(uses: Uses, absent: Collection[str]) -> bool:
    """Say whether a layer of the graph has a weight with values: then no input is one, and no name is missing."""
    floats = (tensor for tensor in uses.graph.initializer if tensor.data_type in FLOAT_TYPES and len(tensor.dims) > 1)
    constants = {tensor.name for tensor in floats} - set(absent)
    constants |= {name for node in uses.nodes if node.op_type == "Constant" for name in node.output}
    found = (reader for name in constants for reader in uses.ends(name, frozenset()))
    return any(position in _row(node).weights for node, position in found)


def weights_among(uses: Uses, data: Collection[str], names: Collection[str] = ()) -> tuple[str, ...]:
    """Return the inputs without values that are weights, in their order.

    Args:
        uses: of the graph.
        data: inputs that data are given for.
        names: those that nothing makes, which are parameters like them.
    """
    given = {tensor.name for tensor in uses.graph.initializer}
    inputs = [value for value in uses.graph.input if value.name not in given]
    order = {value.name: turn for turn, value in enumerate(inputs)}
    free = {value.name for value in inputs if _may_be_weight(value) and value.name not in data}
    while True:
        parameters = closure(uses, free | given | set(names))
        found = {name: places_of(uses, name, parameters) for name in free}
        if not (others := {name for name in free if not found[name] or "data" in found[name]}):
            break
        free -= others
    sure = {name for name in free if found[name] <= SURE}
    if not sure:
        return ()
    # Exporters list what a network reads before its parameters.
    first = min(order[name] for name in sure)
    behind = max((turn for name, turn in order.items() if name not in free and turn < first), default=-1)
    return tuple(name for name, turn in order.items() if name in sure or (name in free and turn > behind))


def _may_be_weight(value: ValueInfoProto) -> bool:
    dims = dims_in(value)
    return value.type.tensor_type.elem_type in FLOAT_TYPES and dims is not None and None not in dims


def closure(uses: Uses, start: Set[str]) -> Set[str]:
    """Return all values that depend on parameters and constants alone."""
    found = {"", *start}
    for node in uses.nodes:
        if not (_row(node).weights or of(node).norm or of(node).random) and found.issuperset(node.input):
            found.update(node.output)
    return found


def places_of(uses: Uses, name: str, parameters: Set[str], *, alone: bool = True) -> set[str]:
    """Return the places that a name is read at, where `parameters` are all values that depend on such alone.

    A place is the role of an operand, "?" where that is open, "data" for all that is no parameter. Of two operands that
    could be the weight the second one is, unless they are not `alone` in it: together they make another layer's.
    """
    found = set()
    for node, position in uses.ends(name, parameters):
        if _row(node).role(position) == "weight" and position == 0 and any(n in parameters for n in node.input[1:2]):
            made = closure(uses, {*parameters, node.output[0]}) if alone else frozenset[str]()
            inner = alone and places_of(uses, node.output[0], made, alone=False) == {"weight"}
            found.add("weight" if inner else "data")
        else:
            found.add(_place(uses, node, position, parameters))
    return found


def _place(uses: Uses, node: NodeProto, position: int, parameters: Set[str]) -> str:
    role = _row(node).role(position)
    if role in SURE or role == "state":
        return role
    if node.op_type == "Add" and node.input[position] in uses.vectors:
        other = uses.makers.get(node.input[1 - position])
        if other is not None and any(other.input[i] in parameters for i in _row(other).weights if i < len(other.input)):
            return "bias"
    doubt = not role and node.domain in DEFAULT_DOMAINS and node.op_type in _IN_DOUBT
    return "?" if doubt and not (node.op_type == "Gather" and position) else "data"


def _row(node: NodeProto) -> Operator:
    """Return what is known of an operator; of a fused one, of what it computes first."""
    fused = of(node).fused
    return of(node) if fused is None else OPERATORS["", fused.linear]
