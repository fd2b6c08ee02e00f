"""Expand a model into a `Program`: functions replaced by their bodies, names made unique, constants gathered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnx
from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, TensorProto

from onnx_lsuv.errors import ModelError
from onnx_lsuv.model import Model, Site, check, unused
from onnx_lsuv.operators import Attributes, of
from onnx_lsuv.program.order import check_trips, in_order, invariant_states
from onnx_lsuv.program.program import (
    DEFAULT_DOMAINS,
    Body,
    Constant,
    Node,
    Program,
    integers,
    nodes_in_scans,
    static_nodes,
    trimmed,
    walk,
)
from onnx_lsuv.program.protos import MODEL_FUNCTIONS, Names, attributes_of, home_of, renamed, scope_name, tensor_of
from onnx_lsuv.program.sequences import as_loop, made_sequences
from onnx_lsuv.program.signature import NEWEST, check_node
from onnx_lsuv.program.unfuse import unfused

# Protobuf field numbers on the way from a ModelProto to a tensor (onnx.proto).
MODEL_GRAPH = 7
GRAPH_NODE, GRAPH_INITIALIZER = 1, 5
FUNCTION_NODE = 7
NODE_ATTRIBUTE = 5
ATTRIBUTE_T, ATTRIBUTE_G = 5, 6

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
        ModelError: a value is used before it is made, or a function calls itself.
    """
    proto = model.proto
    opsets = {"" if o.domain == "ai.onnx" else o.domain: o.version for o in proto.opset_import}
    for function in proto.functions:
        for o in function.opset_import:
            opsets.setdefault("" if o.domain == "ai.onnx" else o.domain, o.version)
    imported = "" in opsets
    if not imported:
        # ONNX leaves the default open then; no node of its own can stand in such a file.
        opsets[""] = OPSET_MIN
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
    expander = _Expander(
        functions={(f.domain, f.name, f.overload): (i, f) for i, f in enumerate(proto.functions)},
        model=model,
        opset=opsets[""],
        imported=imported,
    )
    names: Names = {}
    body = trimmed(expander.graph(proto.graph, ((MODEL_GRAPH, 0),), "main", names))
    check_trips(body, expander.constants)
    producers: dict[str, tuple[Node, int]] = {}
    consumers: dict[str, list[tuple[Node, int]]] = {}
    exits: set[str] = {v.name for v in body.outputs}
    for node in walk(body):
        for i, name in enumerate(node.outputs):
            producers[name] = (node, i)
        for i, name in enumerate(node.inputs):
            if name:
                consumers.setdefault(name, []).append((node, i))
        for inner in node.bodies.values():
            exits.update(v.name for v in inner.outputs)
    return Program(
        model=model,
        body=body,
        constants=expander.constants,
        opsets=opsets,
        sparse=frozenset(expander.sparse),
        producers=producers,
        consumers={k: tuple(v) for k, v in consumers.items()},
        exits=frozenset(exits),
        old_scans=nodes_in_scans(body) if opsets[""] < 9 else frozenset(),
        static=static_nodes(body, expander.constants),
        declared={
            names[v.name]: tuple(d.dim_value if d.HasField("dim_value") else None for d in v.type.tensor_type.shape.dim)
            for v in (*proto.graph.input, *proto.graph.value_info)
            if v.name in names and v.type.tensor_type.HasField("shape")
        },
        names=names,
        doubled=tuple(expander.doubled),
    )


@dataclass(slots=True)
class _Expander:
    """The state of one expansion: names given out so far, constants found so far."""

    functions: Mapping[tuple[str, str, str], tuple[int, FunctionProto]]
    model: Model
    opset: int
    imported: bool  # whether the file says which opset that is
    constants: dict[str, Constant] = field(default_factory=dict)
    by_site: dict[Site, str] = field(default_factory=dict)
    sparse: set[str] = field(default_factory=set)
    sequences: set[str] = field(default_factory=set)
    doubled: dict[tuple[str, str], None] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)
    tried: dict[str, int] = field(default_factory=dict)
    calls: list[tuple[str, str, str]] = field(default_factory=list)
    depth: int = 0  # scopes around the current one
    called: int = 0  # nodes that came out of functions so far

    def unique(self, name: str) -> str:
        """Return the name itself, or with a suffix where another scope has it already."""
        free = unused(name, self.taken, tried=self.tried)
        self.taken.add(free)
        return free

    def graph(
        self,
        graph: GraphProto,
        path: Site,
        scope: str,
        outer: Names,
        invariant: Mapping[str, str] | None = None,
        dropped: frozenset[int] = frozenset(),
    ) -> Body:
        """Expand a graph: the main one, or one held by a node's attribute.

        invariant: formal inputs that always hold an outer value; dropped: the positions of outputs that hand them on.
        """
        # The main graph's names are also what the caller gets.
        names = outer if scope == "main" else {**outer, **(invariant or {})}
        initializers: set[str] = set()
        for i, tensor in enumerate(graph.initializer):
            if tensor.name in initializers:
                self.doubled["initializer", tensor.name] = None
            initializers.add(tensor.name)
            site = (*path, (GRAPH_INITIALIZER, i))
            names[tensor.name] = self.constant(tensor, site, "initializer", tensor.name, scope)
        for sparse in graph.sparse_initializer:
            names[sparse.values.name] = self.unique(sparse.values.name)
            self.sparse.add(names[sparse.values.name])
        inputs = []
        for value in graph.input:
            if scope == "main" and value.type.WhichOneof("value") is None:
                raise ModelError(f"The input {value.name!r} of the graph has no type: export the model again.")
            if value.name in initializers or (invariant and value.name in invariant):
                continue
            names[value.name] = self.unique(value.name)
            inputs.append(renamed(value, names))
            if value.type.HasField("sequence_type"):
                self.sequences.add(names[value.name])
        nodes = self.nodes(graph.node, path, GRAPH_NODE, scope, names, {})
        for value in graph.output:
            if value.name not in names:
                raise ModelError(
                    f"The output {value.name!r} of {scope_name(scope)} is made by no node: the model is broken."
                )
        results = [renamed(v, names) for i, v in enumerate(graph.output) if i not in dropped]
        if scope != "main":
            # A scope must make what it returns; a constant, or a value from outside, is returned by an Identity.
            made = {name for node in nodes for name in node.outputs} | {value.name for value in inputs}
            for value in results:
                if value.name not in made:
                    nodes.append(_identity(scope, value.name, own := self.unique(value.name)))
                    value.name = own
        return Body(tuple(nodes), tuple(inputs), tuple(results))

    def nodes(
        self,
        protos: Sequence[NodeProto],
        path: Site,
        field_number: int,
        scope: str,
        names: Names,
        references: Mapping[str, AttributeProto],
    ) -> list[Node]:
        """Expand a list of nodes; `references` are the attributes given to the function they stand in."""
        result: list[Node] = []
        labels: set[str] = set()
        given_names: set[str] = set()
        self.depth += 1
        self.called += len(protos) if self.calls else 0
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
        for i, proto in in_order(protos, names, scope_name(scope)):
            first = next((name for name in proto.output if name), f"{proto.op_type}_{i}")
            label = proto.name or first
            if proto.name and proto.name in given_names:
                self.doubled["node", proto.name] = None
            given_names.add(proto.name)
            if label in labels:
                label = f"{label}#{first}"
            labels.add(label)
            site = (*path, (field_number, i))
            attributes = attributes_of(proto, references)
            key = (proto.domain, proto.op_type, proto.overload)
            if key not in self.functions:
                check_node(proto, attributes, self.opset if self.imported else None, label, scope_name(scope))
            if self.lifted(proto, attributes, site, scope, names):
                continue
            if key in self.functions:
                result += self.call(proto, key, attributes, label, scope, names)
                continue
            bodies: dict[str, Body] = {}
            given, made_outputs = list(proto.input), list(proto.output)
            invariant: dict[str, str] = {}
            dropped: frozenset[int] = frozenset()
            if proto.op_type in ("Loop", "Scan") and proto.domain in DEFAULT_DOMAINS and self.opset > 8:
                same = invariant_states(proto)
                first_in, first_formal, first_out = (2, 2, 1) if proto.op_type == "Loop" else (0, 0, 0)
                body = next(a.g for a in proto.attribute if a.name == "body")
                invariant = {body.input[first_formal + k].name: names[given[first_in + k]] for k in same}
                dropped = frozenset(first_out + k for k in same)
                for k in reversed(same):
                    outside = names[given.pop(first_in + k)]
                    if k < len(made_outputs) and (left := made_outputs.pop(k)):
                        names[left] = outside
            # Graphs of other operators, as the decoder of a BeamSearch, stay closed.
            if of(proto).scopes:
                for j, attribute in enumerate(proto.attribute):
                    if attribute.type == AttributeProto.GRAPH:
                        inner = (*site, (NODE_ATTRIBUTE, j), (ATTRIBUTE_G, 0))
                        bodies[attribute.name] = self.graph(
                            attribute.g, inner, f"{scope}/{label}.{attribute.name}", names, invariant, dropped
                        )
            inputs = tuple(names[n] if n else "" for n in given)
            for name in made_outputs:
                if name:
                    names[name] = self.unique(name)
            node = Node(
                label=label if scope == "main" else f"{scope.removeprefix('main/')}/{label}",
                scope=scope,
                op_type=proto.op_type,
                domain="" if proto.domain == "ai.onnx" else proto.domain,
                inputs=inputs,
                outputs=tuple(names[n] if n else "" for n in made_outputs),
                attributes=Attributes((k, a) for k, a in attributes.items() if k not in bodies),
                bodies=bodies,
            )
            if node.op == "SequenceMap" and bodies:
                made = as_loop(node, f"{scope}/{label}.body", self.unique, self.sequences)
            else:
                made = unfused(node, self.unique, self.constants, self.opset)
            for each in made:
                self.sequences.update(made_sequences(each, self.sequences))
            result += made
        self.depth -= 1
        return result

    def call(
        self,
        proto: NodeProto,
        key: tuple[str, str, str],
        attributes: Mapping[str, AttributeProto],
        label: str,
        scope: str,
        names: Names,
    ) -> list[Node]:
        """Replace a call of a model-local function by the function's nodes."""
        if key in self.calls:
            raise ModelError(f"The function {proto.op_type!r} calls itself, which ONNX does not allow.")
        index, function = self.functions[key]
        given = {a.name: a for a in function.attribute_proto} | dict(attributes)
        formals = dict.fromkeys(function.input, "")
        formals.update((formal, names[n] if n else "") for formal, n in zip(function.input, proto.input, strict=False))
        inner: Names = formals
        self.calls.append(key)
        # The scope of the nodes is the call's, so that labels tell two calls apart; a constant's is the function's.
        nodes = self.nodes(function.node, ((MODEL_FUNCTIONS, index),), FUNCTION_NODE, f"{scope}/{label}", inner, given)
        self.calls.pop()
        for formal, actual in zip(function.output, proto.output, strict=False):
            if actual:
                if formal not in inner:
                    raise ModelError(f"The output {formal!r} of function {function.name!r} is made by no node.")
                names[actual] = inner[formal]
        return nodes

    def lifted(
        self, proto: NodeProto, attributes: Mapping[str, AttributeProto], site: Site, scope: str, names: Names
    ) -> bool:
        """Put a node that holds a constant into the table; return whether it was one."""
        if proto.domain not in DEFAULT_DOMAINS or len(proto.output) != 1:
            return False
        if proto.op_type == "ConstantOfShape" and proto.input:
            dims = integers(self.constants, names[proto.input[0]])
            if dims is None:
                return False
            value = attributes["value"].t if "value" in attributes else None
            elem_type = value.data_type if value is not None else TensorProto.FLOAT
            node = NodeProto()
            node.CopyFrom(proto)
            node.input[0] = names[proto.input[0]]
            name = self.by_site.get(site)
            if name is None:
                name = self.unique(proto.output[0])
                node.output[0] = name
                label = proto.output[0]
                self.constants[name] = Constant(
                    name, label, home_of(scope, site, self.model), proto.op_type, elem_type, dims, site, None, node
                )
                self.by_site[site] = name
            names[proto.output[0]] = name
            return True
        if proto.op_type != "Constant":
            return False
        if "sparse_value" in attributes:
            return False
        for j, stored in enumerate(proto.attribute):
            attribute = attributes[stored.name]
            place: Site | None = (*site, (NODE_ATTRIBUTE, j))
            tensor = tensor_of(attribute)
            if tensor is None:
                continue
            if attribute.name == "value" and place is not None:
                place = (*place, (ATTRIBUTE_T, 0))
            if stored.ref_attr_name:
                # The value is an argument of the call; it has no place in the function's body.
                place = None
            names[proto.output[0]] = self.constant(tensor, place, "Constant", proto.output[0], scope)
            return True
        return False

    def constant(self, tensor: TensorProto, site: Site | None, origin: str, label: str, scope: str) -> str:
        """Enter a tensor into the table, once for each place in the file, and return its unique name."""
        if site is not None and site in self.by_site:
            return self.by_site[site]
        if site is not None:
            check(self.model, site)
        name = self.unique(label)
        self.constants[name] = Constant(
            name=name,
            label=label,
            scope=home_of(scope, site, self.model),
            origin=origin,
            elem_type=tensor.data_type,
            dims=tuple(tensor.dims),
            site=site,
            tensor=tensor,
        )
        if site is not None:
            self.by_site[site] = name
        return name


def _identity(scope: str, before: str, after: str) -> Node:
    return Node(f"{scope.removeprefix('main/')}/{after}", scope, "Identity", "", (before,), (after,), Attributes(), {})
