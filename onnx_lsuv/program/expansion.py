"""Expand a model into a `Program`: functions replaced by their bodies, names made unique, constants gathered."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import onnx
from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, ValueInfoProto

from onnx_lsuv.errors import ModelError
from onnx_lsuv.model import Model, Site, Step, given_model, sites
from onnx_lsuv.operators import Attributes, of
from onnx_lsuv.program.constants import Table
from onnx_lsuv.program.index import exits_of, makers_of, nodes_in_scans, readers_of, static_nodes, trimmed
from onnx_lsuv.program.loops import check_trips, hoisted
from onnx_lsuv.program.order import in_order
from onnx_lsuv.program.program import DEFAULT_DOMAINS, Body, Node, Program
from onnx_lsuv.program.protos import attributes_of, renamed, shapes_in
from onnx_lsuv.program.sequences import as_loop, made_sequences
from onnx_lsuv.program.signature import NEWEST, check_node
from onnx_lsuv.program.unfuse import unfused

Names = dict[str, str]

OPSET_MIN = 7
# Scopes in each other, functions' and graphs'.
DEPTH_MAX = 100
# Graphs in each other, which are three messages each; protobuf's own parsers end at 100 of these.
GRAPHS_MAX = 30
# Functions that call each other twice double with every one: a file of a few kilobytes stands for billions of nodes.
CALLED_MAX = 100_000


def expand(model: Model) -> Program:
    """Return the model as a `Program`.

    Raises:
        UsageError: it is no model.
        ModelError: a value is used before it is made, or a function calls itself.
    """
    model = given_model(model)
    graph, opsets = model.proto.graph, _opsets(model)
    imported = "" in opsets
    # ONNX leaves the default open then; no node of its own can stand in such a file.
    opsets.setdefault("", OPSET_MIN)
    _check_opsets(model, opsets)
    expander = _Expander(
        functions={(f.domain, f.name, f.overload): (i, f) for i, f in enumerate(model.proto.functions)},
        model=model,
        opset=opsets[""],
        imported=imported,
        table=Table(model),
    )
    main = _Scope(sites.MAIN_GRAPH, sites.GRAPH_NODE, "main", {})
    body, constants = trimmed(expander.graph(graph, main)), expander.table.constants
    check_trips(body, constants)
    return Program(
        model=model,
        body=body,
        constants=constants,
        opsets=opsets,
        sparse=frozenset(expander.sparse),
        producers=makers_of(body),
        consumers=readers_of(body),
        exits=exits_of(body),
        old_scans=nodes_in_scans(body) if opsets[""] < 9 else frozenset(),
        static=static_nodes(body, constants),
        declared=shapes_in((*graph.input, *graph.value_info), main.names),
        names=main.names,
        doubled=tuple(expander.doubled),
    )


def _opsets(model: Model) -> dict[str, int]:
    """Return the version of each operator set; the model's own imports count before those of its functions."""
    opsets = {"" if own.domain == "ai.onnx" else own.domain: own.version for own in model.proto.opset_import}
    for function in model.proto.functions:
        for each in function.opset_import:
            opsets.setdefault("" if each.domain == "ai.onnx" else each.domain, each.version)
    return opsets


def _check_opsets(model: Model, opsets: Mapping[str, int]) -> None:
    """Raise ModelError for an opset that nothing runs."""
    for domain, version in opsets.items():
        if not -1 << 31 <= version < 1 << 31:
            raise ModelError(f"{model.name} has opset {version} of {domain or 'ai.onnx'!r}: no such one will ever be.")
    if opsets[""] < OPSET_MIN:
        raise ModelError(
            f"{model.name} has opset {opsets['']}, and ONNX Runtime runs {OPSET_MIN} and later: convert it with "
            "onnx.version_converter."
        )
    if opsets[""] > NEWEST:
        raise ModelError(
            f"{model.name} has opset {opsets['']}, and {NEWEST} is the newest that onnx {onnx.__version__} knows: "
            "upgrade the packages onnx and onnxruntime, or export the model with an older opset."
        )


@dataclass(frozen=True, slots=True)
class _Scope:
    """A graph, or a function's body where the function is called."""

    path: Site
    node_field: int  # the number of the field that its nodes stand in
    name: str
    names: Names  # of the values known in it: unique names by those in the file
    references: Mapping[str, AttributeProto] = field(default_factory=dict)  # the attributes given to the function

    def __str__(self) -> str:
        """Return what messages call it."""
        return "the graph" if self.name == "main" else f"the scope {self.name!r}"

    def inner(self, label: str) -> str:
        """Return what a node in it is called."""
        return label if self.name == "main" else f"{self.name.removeprefix('main/')}/{label}"


@dataclass(slots=True)
class _Expander:
    """The state of one expansion."""

    functions: Mapping[tuple[str, str, str], tuple[int, FunctionProto]]
    model: Model
    opset: int
    imported: bool  # whether the file says which opset that is
    table: Table
    sparse: set[str] = field(default_factory=set)
    sequences: set[str] = field(default_factory=set)
    doubled: dict[tuple[str, str], None] = field(default_factory=dict)
    calls: list[tuple[str, str, str]] = field(default_factory=list)
    depth: int = 0  # scopes around the current one
    called: int = 0  # nodes that came out of functions so far

    def graph(
        self, graph: GraphProto, scope: _Scope, known: Collection[str] = (), dropped: Collection[int] = ()
    ) -> Body:
        """Expand a graph: the main one, or one held by a node's attribute.

        Args:
            graph: with all that is inside it.
            scope: what it is.
            known: formal inputs that always hold an outer value, which the scope has a name for.
            dropped: the positions of outputs that hand these on.
        """
        names, inputs = scope.names, list[ValueInfoProto]()
        given = {*self.initializers(graph, scope), *known}
        for value in graph.input:
            if scope.name == "main" and value.type.WhichOneof("value") is None:
                raise ModelError(f"The input {value.name!r} of the graph has no type: export the model again.")
            if value.name in given:
                continue
            names[value.name] = self.table.unique(value.name)
            inputs.append(renamed(value, names))
            if value.type.HasField("sequence_type"):
                self.sequences.add(names[value.name])
        nodes = self.nodes(graph.node, scope)
        for value in graph.output:
            if value.name not in names:
                raise ModelError(f"The output {value.name!r} of {scope} is made by no node: the model is broken.")
        results = [renamed(value, names) for i, value in enumerate(graph.output) if i not in dropped]
        if scope.name != "main":
            # A scope must make what it returns; a constant, or a value from outside, is returned by an Identity.
            made = {name for node in nodes for name in node.outputs} | {value.name for value in inputs}
            for value in results:
                if value.name not in made:
                    outer, value.name = value.name, self.table.unique(value.name)
                    label = scope.inner(value.name)
                    nodes.append(Node(label, scope.name, "Identity", "", (outer,), (value.name,), Attributes(), {}))
        return Body(tuple(nodes), tuple(inputs), tuple(results))

    def initializers(self, graph: GraphProto, scope: _Scope) -> set[str]:
        """Enter a graph's initializers, and return the names of those that are dense."""
        found: set[str] = set()
        for i, tensor in enumerate(graph.initializer):
            if tensor.name in found:
                self.doubled["initializer", tensor.name] = None
            found.add(tensor.name)
            site = (*scope.path, Step(sites.GRAPH_INITIALIZER, i))
            scope.names[tensor.name] = self.table.initializer(tensor, site, scope.name)
        for sparse in graph.sparse_initializer:
            scope.names[sparse.values.name] = self.table.unique(sparse.values.name)
            self.sparse.add(scope.names[sparse.values.name])
        return found

    def nodes(self, protos: Sequence[NodeProto], scope: _Scope) -> list[Node]:
        """Expand the nodes of a scope."""
        self.depth += 1
        self.called += len(protos) if self.calls else 0
        self.check_size()
        result: list[Node] = []
        labels: set[str] = set()
        given_names: set[str] = set()
        for i, proto in in_order(protos, scope.names, str(scope)):
            first = next((name for name in proto.output if name), f"{proto.op_type}_{i}")
            label = proto.name or first
            if proto.name and proto.name in given_names:
                self.doubled["node", proto.name] = None
            given_names.add(proto.name)
            if label in labels:
                label = f"{label}#{first}"
            labels.add(label)
            site = (*scope.path, Step(scope.node_field, i))
            attributes = attributes_of(proto, scope.references)
            key = (proto.domain, proto.op_type, proto.overload)
            if key not in self.functions:
                check_node(proto, attributes, self.opset if self.imported else None, label, str(scope))
            if self.table.node(proto, attributes, site, scope.name, scope.names):
                continue
            if key in self.functions:
                result += self.call(proto, key, attributes, label, scope)
            else:
                result += self.node(proto, attributes, site, label, scope)
        self.depth -= 1
        return result

    def check_size(self) -> None:
        """Raise ModelError for more than any model needs."""
        for found, most, what in (
            (self.depth, DEPTH_MAX, "scopes in each other"),
            (self.depth - len(self.calls), GRAPHS_MAX, "graphs in each other"),
            (self.called, CALLED_MAX, "nodes"),
        ):
            if found > most:
                raise ModelError(
                    f"{self.model.name} has more than {most} {what} once each call of a function is replaced by what "
                    "it calls: write it with fewer."
                )

    def call(
        self,
        proto: NodeProto,
        key: tuple[str, str, str],
        attributes: Mapping[str, AttributeProto],
        label: str,
        scope: _Scope,
    ) -> list[Node]:
        """Replace a call of a model-local function by the function's nodes."""
        if key in self.calls:
            raise ModelError(f"The function {proto.op_type!r} calls itself, which ONNX does not allow.")
        index, function = self.functions[key]
        given = {a.name: a for a in function.attribute_proto} | dict(attributes)
        actual = (scope.names[name] if name else "" for name in proto.input)
        names = dict.fromkeys(function.input, "") | dict(zip(function.input, actual, strict=False))
        # The scope of the nodes is the call's, so that labels tell two calls apart; a constant's is the function's.
        inner = _Scope((Step(sites.MODEL_FUNCTION, index),), sites.FUNCTION_NODE, f"{scope.name}/{label}", names, given)
        self.calls.append(key)
        nodes = self.nodes(function.node, inner)
        self.calls.pop()
        for formal, name in zip(function.output, proto.output, strict=False):
            if name and formal not in names:
                raise ModelError(f"The output {formal!r} of function {function.name!r} is made by no node.")
            if name:
                scope.names[name] = names[formal]
        return nodes

    def node(
        self, proto: NodeProto, attributes: Mapping[str, AttributeProto], site: Site, label: str, scope: _Scope
    ) -> list[Node]:
        """Expand a node that calls no function, with the graphs inside it."""
        names, own = scope.names, proto.domain in DEFAULT_DOMAINS
        inputs, outputs = list(proto.input), list(proto.output)
        formals: Names = {}
        dropped: frozenset[int] = frozenset()
        if own and proto.op_type in ("Loop", "Scan") and self.opset > 8:
            inputs, outputs, formals, dropped = hoisted(proto, names)
        bodies: dict[str, Body] = {}
        for j, attribute in enumerate(proto.attribute):
            # Graphs of other operators, as the decoder of a BeamSearch, stay closed.
            if of(proto).scopes and attribute.type == AttributeProto.GRAPH:
                path = (*site, Step(sites.NODE_ATTRIBUTE, j), Step(sites.ATTRIBUTE_GRAPH))
                inner = _Scope(path, sites.GRAPH_NODE, f"{scope.name}/{label}.{attribute.name}", names | formals)
                bodies[attribute.name] = self.graph(attribute.g, inner, formals, dropped)
        given = tuple(names[name] if name else "" for name in inputs)
        names |= {name: self.table.unique(name) for name in outputs if name}
        node = Node(
            label=scope.inner(label),
            scope=scope.name,
            op_type=proto.op_type,
            domain="" if own else proto.domain,
            inputs=given,
            outputs=tuple(names[name] if name else "" for name in outputs),
            attributes=Attributes((key, each) for key, each in attributes.items() if key not in bodies),
            bodies=bodies,
        )
        if node.op == "SequenceMap" and bodies:
            made = as_loop(node, f"{scope.name}/{label}.body", self.table.unique, self.sequences)
        else:
            made = unfused(node, self.table.unique, self.table.constants, self.opset)
        for each in made:
            self.sequences.update(made_sequences(each, self.sequences))
        return made
