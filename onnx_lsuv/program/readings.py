"""Constants that the file reads in several places: each place can be given one of its own.

A tensor that is several parameters, as exporters leave it that merge equal ones, looks like one that is used several
times. What the readers are called tells: PyTorch's exporters name the module of each node (`/layers.0/fc/MatMul`, or in
its metadata), and number the calls of one module (`/layers.0/fc_1/MatMul`). Keras numbers its layers in this way, and
its tensors are named after the first of them (`net/dense/MatMul/ReadVariableOp:0`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from onnx import FunctionProto, GraphProto, ModelProto, NodeProto

from onnx_lsuv.model import Model, Site, Step, graphs_in, sites
from onnx_lsuv.operators import of
from onnx_lsuv.program.program import DEFAULT_DOMAINS, FLOAT_TYPES

_SCOPES = "pkg.torch.onnx.name_scopes"  # metadata: the modules around a node, outermost first, and its own name
_REPEATED = re.compile(r"_\d+(?=/|$)")


@dataclass(frozen=True, slots=True)
class Reading:
    """A place where a constant is read."""

    node: Site
    position: int
    role: str  # of the operand, as the table of operators says it
    module: str  # that the reader is of; "" where no name tells
    alias: str = ""  # the name under which an Identity beside the constant hands it on, to all that reads it so

    @property
    def owner(self) -> str:
        """The parameter's own name, as PyTorch names them, or the module that it is of; "" where nothing tells."""
        return self.alias if "." in self.alias and "/" not in self.alias else self.module


@dataclass(frozen=True, slots=True)
class Shared:
    """A constant that is read in several places."""

    label: str
    site: Site  # of its tensor
    graph: Site  # the graph that it stands in
    readings: tuple[Reading, ...]  # in the order of the file
    handed_out: bool  # a graph has it as an output


@dataclass(slots=True)
class _Uses:
    """Who reads what stands at a site: a constant's tensor, or an Identity of one."""

    functions: Mapping[tuple[str, str, str], FunctionProto]
    labels: dict[Site, tuple[str, Site]] = field(default_factory=dict)  # of constants: name and graph
    readers: dict[Site, list[tuple[NodeProto, Site, int]]] = field(default_factory=dict)
    exits: set[Site] = field(default_factory=set)

    def graph(self, graph: GraphProto, path: Site, around: Mapping[str, Site]) -> None:
        """Enter what a graph reads of its own constants and of those around it."""
        known = {**around}
        for value in graph.input:
            known.pop(value.name, None)
        for i, tensor in enumerate(graph.initializer):
            known.pop(tensor.name, None)
            if tensor.data_type in FLOAT_TYPES:
                known[tensor.name] = site = (*path, Step(sites.GRAPH_INITIALIZER, i))
                self.labels[site] = tensor.name, path
        for i, node in enumerate(graph.node):
            place = (*path, Step(sites.GRAPH_NODE, i))
            for name in node.output:
                known.pop(name, None)
            if node.domain in DEFAULT_DOMAINS and node.op_type == "Constant":
                for j, attribute in enumerate(node.attribute):
                    if attribute.name == "value" and attribute.t.data_type in FLOAT_TYPES:
                        site = (*place, Step(sites.NODE_ATTRIBUTE, j), Step(sites.ATTRIBUTE_TENSOR))
                        known[node.output[0]] = site
                        self.labels[site] = node.output[0], path
            elif node.domain in DEFAULT_DOMAINS and node.op_type == "Identity" and len(node.output) == 1:
                known[node.output[0]] = place
        for i, node in enumerate(graph.node):
            place = (*path, Step(sites.GRAPH_NODE, i))
            for position, name in enumerate(node.input):
                if name in known:
                    self.readers.setdefault(known[name], []).append((node, place, position))
            for j, attribute in enumerate(node.attribute):
                inner = (*place, Step(sites.NODE_ATTRIBUTE, j))
                for k, below in enumerate(graphs_in(attribute)):
                    step = Step(sites.ATTRIBUTE_GRAPH) if attribute.HasField("g") else Step(sites.ATTRIBUTE_GRAPHS, k)
                    self.graph(below, (*inner, step), known)
        self.exits.update(known[value.name] for value in graph.output if value.name in known)

    def reading(self, node: NodeProto, place: Site, position: int, *, follow: bool = True) -> Reading:
        """Return what a node reads a constant as; an Identity as what all that reads its output has in common."""
        handed = self.readers.get(place, ()) if node.op_type == "Identity" and follow else ()
        if place in self.exits or not handed:
            return Reading(place, position, self.role(node, position), self.module(node))
        further = [self.reading(*each, follow=False) for each in handed]
        roles, modules = {each.role for each in further}, {each.module for each in further}
        role, module = (found.pop() if len(found) == 1 else "" for found in (roles, modules))
        return Reading(place, position, role, module, node.output[0])

    def role(self, node: NodeProto, position: int, depth: int = 0) -> str:
        """Return the role of an operand, one of a function's call by what reads it inside."""
        function = self.functions.get((node.domain, node.op_type, node.overload))
        if function is None or depth > len(self.functions) or position >= len(function.input):
            return of(node).role(position)
        roles = {
            self.role(inner, at, depth + 1)
            for inner in function.node
            for at, name in enumerate(inner.input)
            if name == function.input[position]
        }
        return roles.pop() if len(roles) == 1 else ""

    def module(self, node: NodeProto) -> str:
        """Return the path of the module that a node is of, or is, where it calls a function or is named as one is."""
        for entry in node.metadata_props:
            if entry.key == _SCOPES:
                return ".".join(re.findall(r"'([^']*)'", entry.value)[-2:-1])
        around, slash, own = node.name.rpartition("/")
        if not slash:
            return ""
        is_call = (node.domain, node.op_type, node.overload) in self.functions
        return str(around if own[:1].isupper() and not is_call else node.name)


def shared_constants(model: Model) -> list[Shared]:
    """Return the floating-point constants of graphs that are read in several places, or by another name."""
    proto: ModelProto = model.proto
    uses = _Uses({(each.domain, each.name, each.overload): each for each in proto.functions})
    uses.graph(proto.graph, sites.MAIN_GRAPH, {})
    found = []
    for site, (label, graph) in uses.labels.items():
        if len(uses.readers.get(site, ())) + (site in uses.exits) < 2 or not _holds(model, graph):
            continue
        readings = [uses.reading(*each) for each in uses.readers[site]]
        readings = [each if each.node[:-1] == graph else replace(each, alias="") for each in readings]
        modules = {each.module for each in readings}
        if not any(module and label.startswith(f"{module}/") for module in modules):  # Keras numbers its layers so
            readings = [replace(each, module=_called_first(each.module, modules)) for each in readings]
        found.append(Shared(label, site, graph, tuple(readings), site in uses.exits))
    # TorchScript's exporter hands on by an Identity what it merges: what is read directly in such a file is tied.
    named = [reading for each in found for reading in each.readings if reading.alias]
    if any(reading.module.startswith("/") or reading.owner == reading.alias for reading in named):
        return [replace(each, readings=_read_directly(each)) for each in found]
    return found


def _read_directly(shared: Shared) -> tuple[Reading, ...]:
    """Return readings of which those by no other name are of the first such module, or of what has the label."""
    first = next((each.module for each in shared.readings if not each.alias), "")
    first = first or (shared.label if "." in shared.label else "")
    return tuple(
        replace(each, module=first) if not each.alias and each.module[:1] in ("", "/") else each
        for each in shared.readings
    )


def _holds(model: Model, graph: Site) -> bool:
    return model.proto.ir_version >= 4 or graph == sites.MAIN_GRAPH


def _called_first(module: str, modules: set[str]) -> str:
    """Return what a module was called when it was called first, where PyTorch has numbered a later call."""
    first = _REPEATED.sub("", module)
    return first if first in modules else module
