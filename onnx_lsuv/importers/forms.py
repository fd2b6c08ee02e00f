"""A file as importers meet it: as it is saved, or as `expected` foretells it."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass

from onnx import NodeProto, defs

from onnx_lsuv.importers.shapes import Shape, is_flat
from onnx_lsuv.importers.skeleton import stored_nodes
from onnx_lsuv.layers import Plan
from onnx_lsuv.program import Node, Program
from onnx_lsuv.program.program import DEFAULT_DOMAINS


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """What importers are asked about, found once."""

    plan: Plan
    shapes: Mapping[str, Shape]
    nodes: tuple[NodeProto, ...]  # as the file has them, those of inner graphs too
    main: frozenset[Node]  # the nodes of the main graph
    stored: Mapping[str, tuple[int, ...]]  # what reads as an initializer of the main graph, with its shape
    operators: Mapping[tuple[str, int], None]  # (name with its domain, since_version), in the file's order
    ir: int
    domains: tuple[str, ...]  # operator sets that are imported, besides those of the file's functions
    portable: bool = False
    gemms: frozenset[Node] = frozenset()  # each MatMul that becomes a Gemm
    rows: str | None = None  # a MatMul whose data a Reshape may join to rows
    cured: frozenset[str] = frozenset()  # kinds of traits that are gone


def as_saved(plan: Plan, shapes: Mapping[str, Shape]) -> Form:
    """Return the file that is saved: a weight or bias that a node of the main graph made is an initializer there."""
    program, proto = plan.program, plan.program.model.proto
    moved = {n for layer in plan.layers for n in (*layer.source.constants, *layer.bias)}
    moved.update(n for norm in plan.norms for n in (norm.mean, norm.var))
    stored = {
        name: c.dims
        for name, c in program.constants.items()
        if c.scope == "main" and (c.origin == "initializer" or name in moved)
    }
    nodes = tuple(stored_nodes(proto.graph))
    functions = {function.domain for function in proto.functions}
    return Form(
        plan=plan,
        shapes=shapes,
        nodes=nodes,
        main=frozenset(node for node in program.body.nodes if node.scope == "main"),
        stored=stored,
        operators=operators_of(program, nodes, stored),
        ir=proto.ir_version,
        domains=tuple(entry.domain for entry in proto.opset_import if entry.domain not in functions),
    )


def has_vector_bias(form: Form, node: Node) -> bool:
    """Say whether a Gemm's bias is a vector, or becomes one; also where it has none, or none that is a constant."""
    name = node.inputs[2] if len(node.inputs) > 2 else ""
    constant = form.plan.program.constants.get(name)
    dims = form.stored.get(name, constant.dims if constant is not None else (1,))
    if len(dims) == 1 or not form.portable:
        return len(dims) == 1
    weight = form.stored.get(node.inputs[1], ())
    return name in form.stored and len(weight) == 2 and is_flat(dims, weight[1 - node.attributes.integer("transB", 0)])


def operators_of(
    program: Program, nodes: Iterable[NodeProto], stored: Iterable[str], gone: Container[str] = ()
) -> dict[tuple[str, int], None]:
    """Return the operators of nodes, but for constants that are stored, and for values that are gone."""
    moved = {c.label for name in stored if (c := program.constants.get(name)) and c.origin != "initializer"}
    found: dict[tuple[str, int], None] = {}
    for node in nodes:
        constant = node.op_type in ("Constant", "ConstantOfShape")
        if (constant and node.output[0] in moved) or (node.output and node.output[0] in gone):
            continue
        if node.domain not in DEFAULT_DOMAINS:
            found[f"{node.domain}.{node.op_type}", 1] = None
            continue
        try:
            version = defs.get_schema(node.op_type, program.opset).since_version
        except defs.SchemaError:
            version = program.opset
        found[node.op_type, version] = None
    return found
