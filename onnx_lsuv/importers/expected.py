"""What `--portable` is expected to make of a file: foretold from the plan and the skeleton, and nothing rewritten.

It stays on the safe side: where the rewriting might do something, it counts only if an importer trains less then.
What stands in sparse tensors, or behind functions in inner graphs, is not looked at.

    initializers    what Constant nodes make, and what Identity, Cast to the own type and Transpose make of a tensor
    MatMul          becomes a Gemm, perhaps between two Reshapes, which another importer may not read
    norms, Dropout  in inference form
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field

from onnx import NodeProto, TensorProto, defs

from onnx_lsuv.importers.forms import Form, operators_of
from onnx_lsuv.importers.shapes import Lead, Shape, is_bias, lead_of, permutation, rows_unread
from onnx_lsuv.importers.skeleton import (
    FLOAT32_DOMAINS,
    INTEGERS,
    IR_MAX,
    IR_MIN,
    OTHER_FLOATS,
    all_nodes,
    floats_of,
    in_inference_form,
    stored_nodes,
    uses_newer,
)
from onnx_lsuv.importers.table import CURES
from onnx_lsuv.model import HOLLOW_BYTES, all_graphs
from onnx_lsuv.program import Constant, Node, Program, walk
from onnx_lsuv.program.program import FLOAT_TYPES

# Steps that find all there is to do in any file. What the others do depends on the file: it is looked at again.
_WHOLE = frozenset({"inline_functions", "name_domains", "unlist_inputs", "name_nodes"})


def as_expected(saved: Form) -> Form:
    """Return what `--portable` is expected to make of a file."""
    plan, program, proto = saved.plan, saved.plan.program, saved.plan.program.model.proto
    functions = {(f.domain, f.name) for f in proto.functions}
    nodes = [*saved.nodes, *(node for function in proto.functions for node in stored_nodes(function))]
    nodes = [node for node in nodes if (node.domain, node.op_type) not in functions]
    foreign = bool({node.domain for node in nodes} - FLOAT32_DOMAINS)
    widens = not foreign and bool(floats_of(proto) & OTHER_FLOATS)
    main = frozenset(program.body.nodes)
    stored = dict(saved.stored)
    stored.update((name, c.dims) for name, c in program.constants.items() if _becomes_initializer(program, c, main))
    inner = frozenset(name for node in main for body in node.bodies.values() for n in walk(body) for name in n.inputs)
    ways = _Ways(program, stored, FLOAT_TYPES if widens else frozenset({TensorProto.FLOAT}), inner)
    ways.bypass()
    ways.fold()
    gemms, rows = _gemms(ways, saved.shapes)
    gone = {label for label, name in program.names.items() if name in ways.roots and ways.is_open(name)}
    operators = operators_of(program, nodes, stored, gone)
    for op, wanted in (("Gemm", gemms or rows), ("Reshape", rows)):
        if wanted:
            operators[op, defs.get_schema(op, program.opset).since_version] = None
    read = {name for node in nodes for name in node.input}
    read.update(v.name for root in (proto.graph, *proto.functions) for g in all_graphs(root) for v in g.output)
    fixed = {program.constants[name].label for name in stored if name in program.constants}
    used = {node.domain for node in all_nodes(proto)}
    return Form(
        plan=plan,
        shapes=saved.shapes,
        nodes=tuple(_inference_form(node, read, fixed) for node in nodes),
        main=main,
        stored=stored,
        operators=operators,
        ir=saved.ir if saved.ir > IR_MAX and uses_newer(proto) else min(max(saved.ir, IR_MIN), IR_MAX),
        domains=tuple(domain for domain in saved.domains if domain in used),
        portable=True,
        gemms=gemms,
        rows=rows,
        cured=frozenset(kind for kind, steps in CURES.items() if {*steps} <= _WHOLE | ({"widen"} if widens else set())),
    )


def _inference_form(node: NodeProto, read: Container[str], fixed: Container[str]) -> NodeProto:
    if node.op_type not in ("BatchNormalization", "Dropout"):
        return node
    copy = NodeProto()
    copy.CopyFrom(node)
    in_inference_form(copy, read, fixed)
    return copy


def _becomes_initializer(program: Program, constant: Constant, main: frozenset[Node]) -> bool:
    """Say whether a constant that a node of the main graph, or of a function called there, makes is moved."""
    if constant.origin != "Constant" or constant.name in program.exits:
        return False
    readers = program.consumers.get(constant.name, ())
    if constant.scope != "main" and not (constant.scope.startswith("function:") and all(n in main for n, _ in readers)):
        return False
    kind, size = constant.elem_type, constant.size
    return (
        kind in INTEGERS or (kind in FLOAT_TYPES and size > 1) or (kind != TensorProto.STRING and size > HOLLOW_BYTES)
    )


@dataclass(slots=True)
class _Ways:
    """How the values that read as initializers get to their readers, once moves of a whole tensor are gone."""

    program: Program
    stored: dict[str, tuple[int, ...]]
    types: frozenset[int]  # all that are, or become, float32
    inner: frozenset[str]  # values that inner graphs read
    roots: dict[str, str] = field(default_factory=dict)  # by what a move makes of a tensor: that tensor

    def root(self, name: str) -> str:
        return self.roots.get(name, name)

    def kind(self, name: str) -> int:
        return self.program.constants[self.root(name)].elem_type

    def is_open(self, name: str) -> bool:
        """Say whether a value is read by nodes of the main graph alone."""
        return name not in self.program.exits and name not in self.inner

    def readers(self) -> dict[str, list[tuple[Node, int]]]:
        """Return the readers of each tensor, also those behind the moves that are gone."""
        found: dict[str, list[tuple[Node, int]]] = {}
        for node in self.program.walk():
            made = next(iter(node.outputs), "")
            for position, name in enumerate(node.inputs):
                if name in self.stored and not (self.roots.get(made) == self.root(name) and self.is_open(made)):
                    found.setdefault(self.root(name), []).append((node, position))
        return found

    def bypass(self) -> None:
        """Pass each Identity of a tensor, and each Cast to its own type."""
        for node in self.program.body.nodes:
            if node.op not in ("Identity", "Cast") or node.inputs[0] not in self.stored:
                continue
            made, kind = node.outputs[0], self.kind(node.inputs[0])
            to = node.attributes.integer("to", kind)
            if made not in self.program.exits and (to == kind or self.types.issuperset((to, kind))):
                self.stored[made] = self.stored[node.inputs[0]]
                self.roots[made] = self.root(node.inputs[0])

    def fold(self) -> None:
        """Pass the Transposes of a tensor where nothing reads it otherwise."""
        for name, readers in self.readers().items():
            turns = [node for node, _ in readers if node.op == "Transpose" and self.is_open(node.outputs[0])]
            perms = {permutation(node.attributes.integers("perm"), len(self.stored[name])) for node in turns}
            alone = self.is_open(name) and len(turns) == len(readers) and self.kind(name) in FLOAT_TYPES
            if alone and len(perms) == 1:
                shape = tuple(self.stored[name][axis] for axis in perms.pop())
                for node in turns:
                    self.stored[node.outputs[0]], self.roots[node.outputs[0]] = shape, name


def _gemms(ways: _Ways, shapes: Mapping[str, Shape]) -> tuple[frozenset[Node], str | None]:
    """Return each MatMul that surely becomes a Gemm, and the name of one that perhaps does between two Reshapes."""
    program, stored = ways.program, ways.stored
    fixed = {output for node in program.static for output in node.outputs} | set(stored) | set(program.constants)
    unsure = bool(program.model.proto.functions or program.sparse)  # whether more lengths may be known then
    found: dict[Node, str] = {}  # with what it reads as its weight, where that is turned for it
    rows = None
    for node in program.body.nodes:
        if node.op != "MatMul" or node.inputs[1] not in fixed or node.inputs[0] in stored:
            continue
        name = node.inputs[1]
        maker = program.producers[name][0] if name in program.producers else None
        turned = (
            maker is not None
            and maker.op == "Transpose"
            and permutation(maker.attributes.integers("perm"), 2) == (1, 0)
        )
        weight = maker.inputs[0] if turned and maker is not None and name not in stored else name
        dims, shape = stored.get(weight), shapes.get(node.inputs[0])
        if dims is not None and len(dims) != 2:
            continue
        lead = lead_of(shape) if shape is not None and len(shape) > 1 else None
        if (lead or (lead is None and unsure)) and not rows_unread(program.opset):
            rows = rows or node.label
        if dims is None or 0 in dims or lead is None or ways.kind(weight) not in ways.types or program.opset < 11:
            continue
        width = dims[1] if weight == name else dims[0]
        if not lead or (
            not rows_unread(program.opset) and _adds_at_most_a_bias(ways, shapes, fixed, node, lead, width)
        ):
            found[node] = "" if weight != name else ways.root(name)
    readers = ways.readers()
    alone = {""} | {
        weight
        for weight in found.values()
        if weight and ways.is_open(weight) and all(found.get(n) == weight and at == 1 for n, at in readers[weight])
    }
    return frozenset(node for node, weight in found.items() if weight in alone), rows


def _adds_at_most_a_bias(
    ways: _Ways, shapes: Mapping[str, Shape], fixed: Container[str], node: Node, lead: Lead, width: int
) -> bool:
    """Say whether no other constant vector is added to a product than one that its Gemm adds itself."""
    made = node.outputs[0]
    readers = ways.program.consumers.get(made, ())
    if len(readers) != 1 or not ways.is_open(made) or readers[0][0].op != "Add":
        return True
    term = readers[0][0].inputs[1 - readers[0][1]]
    dims = ways.stored.get(term)
    if dims is not None and ways.kind(term) in ways.types and is_bias(dims, lead, width):
        return True
    return term not in fixed or sum(length != 1 for length in dims or shapes.get(term, (None,))) > 1
