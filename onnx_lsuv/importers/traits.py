"""What of a file matters to importers: each trait is a kind of `importers.KINDS` and the detail that was found.

Only the skeleton and the plan are looked at: no weight is read.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator

from onnx import GraphProto, NodeProto, TensorProto, numpy_helper

from onnx_lsuv.importers.shapes import shapes_of
from onnx_lsuv.layers import Plan
from onnx_lsuv.model import is_hollow
from onnx_lsuv.program import walk
from onnx_lsuv.program.program import DEFAULT_DOMAINS, FLOAT_TYPES, integers

Traits = dict[str, tuple[str, str]]  # by name: a key of KINDS, and the detail

# Operands that jaxonnxruntime wants as initializers: shapes, pads, counts.
_STATIC = {"Reshape": (1,), "Expand": (1,), "Pad": (1,), "TopK": (1,), "Trilu": (1,), "Range": (0, 1, 2)}
# Attributes that onnx2keras reads without knowing their defaults.
_SPELT = {"Elu": "alpha", "LeakyRelu": "alpha", "Softmax": "axis", "InstanceNormalization": "epsilon", "LRN": "bias"}
# Attributes of LSTM, GRU and RNN that are refused, even with their defaults.
_UNCOMMON = frozenset({"activations", "activation_alpha", "activation_beta", "clip"})
# Names that PyTorch's exporters give to weights with a BatchNormalization folded in.
_FOLDED = re.compile(r"onnx::Conv_\d+|.*\.weight_bias|.*_fused_bn(_\d+)?|.*\.bn_folded")


def stored_nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """Yield the nodes of a graph as the file has them, and of the graphs inside it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                yield from stored_nodes(inner)


def counted(names: Iterable[str]) -> str:
    """Return names with how often each occurs, the first four of them: `MatMul (3), Conv`."""
    found = Counter(names)
    parts = [name if n == 1 else f"{name} ({n})" for name, n in found.items()]
    return ", ".join(parts[:4]) + (f" and {len(parts) - 4} more" if len(parts) > 4 else "")


def traits(plan: Plan, own: frozenset[str]) -> Traits:
    """Return what of a file some importer stumbles over, or handles in a way worth knowing.

    Args:
        plan: of the model.
        own: its `initializers`.
    """
    parts = (_of_file(plan), _of_types(plan), _of_norms(plan), _of_nodes(plan, own), _of_rows(plan), _of_layers(plan))
    return {name: found for part in parts for name, found in part.items()}


def _of_file(plan: Plan) -> Traits:
    model, found = plan.program.model.proto, Traits()
    graph = model.graph
    stored = list(stored_nodes(graph))
    if model.functions:
        found["functions"] = "functions", counted(f.name for f in model.functions)
    if plan.program.sparse:
        found["sparse"] = "sparse", counted(sorted(plan.program.sparse))
    if any(o.domain == "ai.onnx" for o in model.opset_import) or any(n.domain == "ai.onnx" for n in stored):
        found["domain"] = "domain", "ai.onnx"
    initializers = {t.name for t in graph.initializer}
    if listed := [v.name for v in graph.input if v.name in initializers]:
        found["inputs"] = "inputs", f"{len(listed)} of {len(initializers)}"
    names = Counter(n.name for n in graph.node if n.name)
    if twice := [name for name, n in names.items() if n > 1]:
        found["names"] = "names", counted(twice)
    for value in graph.input:
        if value.name in initializers or not value.type.HasField("tensor_type"):
            continue
        if not value.type.tensor_type.HasField("shape"):
            found.setdefault("shape", ("shape", repr(value.name)))
        elif any(d.WhichOneof("value") is None or d.dim_value < 0 for d in value.type.tensor_type.shape.dim):
            found.setdefault("open", ("open", repr(value.name)))
    if any(not v.type.tensor_type.HasField("shape") for v in graph.output if v.type.HasField("tensor_type")):
        found["output-shape"] = "shape", "an output"
    made = set(initializers) | {v.name for v in graph.input} | {t.values.name for t in graph.sparse_initializer}
    for node in graph.node:
        if not made.issuperset(filter(None, node.input)):
            found.setdefault("order", ("order", repr(node.name or node.output[0])))
        made.update(node.output)
    norms = {"BatchNormalization", "LayerNormalization", "InstanceNormalization"}
    if "shape" in found and any(n.op_type in norms for n in stored):
        found["norm-shape"] = found["shape"]
    last = {name: node for node in graph.node for name in node.output}
    ends = [last[v.name].op_type for v in graph.output if v.name in last]
    if soft := [op for op in ends if op in ("Softmax", "LogSoftmax", "Sigmoid")]:
        found["softmax"] = "softmax", counted(soft)
    if folded := [name for name in initializers if _FOLDED.fullmatch(name)]:
        found["folded"] = "folded", counted(sorted(folded))
    return found


def _of_types(plan: Plan) -> Traits:
    constants = plan.program.constants.values()
    inputs = plan.program.body.inputs
    types = {c.elem_type for c in constants if c.size > 1} | {v.type.tensor_type.elem_type for v in inputs}
    names = {t: TensorProto.DataType.Name(t).lower() for t in types & FLOAT_TYPES - {TensorProto.FLOAT}}
    found = Traits()
    if half := [name for t, name in names.items() if t != TensorProto.DOUBLE]:
        found["half"] = "type", ", ".join(sorted(half))
    if TensorProto.DOUBLE in names:
        found["double"] = "type", "double"
    if TensorProto.BFLOAT16 in names:
        found["bfloat16"] = "type", "bfloat16"
    return found


def _of_norms(plan: Plan) -> Traits:
    """Look at norms and Dropout as the file has them: a plan leaves out outputs that nothing reads."""
    program, found = plan.program, Traits()
    for node in stored_nodes(program.model.proto.graph):
        outputs = sum(map(bool, node.output))
        attributes = {a.name: a for a in node.attribute}
        if node.domain not in DEFAULT_DOMAINS:
            continue
        if node.op_type == "BatchNormalization":
            training = "training_mode" in attributes and attributes["training_mode"].i == 1
            if "training_mode" in attributes:
                found["training-mode"] = "training", "BatchNormalization has the attribute training_mode"
            if training or outputs > 1:
                found["norm-training"] = "training", "BatchNormalization"
            momentum = attributes["momentum"].f if "momentum" in attributes else 0.9
            found["frozen"] = "frozen", "BatchNormalization"
            found["momentum"] = "momentum", f"{momentum:.3g}"
        elif node.op_type == "Dropout":
            if outputs > 1:
                found["mask"] = "outputs", "Dropout has its mask output"
            elif len(node.input) > 1:
                found["no-mask"] = "outputs", "Dropout has inputs for its ratio, and lacks its mask output"
            if len(node.input) > 2 and node.input[2]:
                found["dropout-training"] = "training", "Dropout has the input training_mode"
        elif node.op_type == "LayerNormalization":
            found["norm"] = "norm", "LayerNormalization"
            if outputs > 1:
                found["norm-outputs"] = "outputs", "LayerNormalization has outputs beyond the first"
            if outputs < 3:
                found["norm-output"] = "outputs", "LayerNormalization lacks its second and third output"
    return found


def _of_nodes(plan: Plan, own: frozenset[str]) -> Traits:
    """Look at operands: where they come from decides in several importers."""
    program, found = plan.program, Traits()

    def note(trait: str, kind: str, detail: str) -> None:
        found.setdefault(trait, (kind, detail))

    fixed = {output for node in program.static for output in node.outputs} | set(program.constants)
    graph = program.model.proto.graph
    typed = {v.name for v in (*graph.value_info, *graph.input, *graph.output)}
    for node in walk(program.body):
        if node.domain not in DEFAULT_DOMAINS:
            continue
        stored = [not name or name in own for name in node.inputs]
        if node.op_type == "Reshape" and node.int_attribute("allowzero", 0):
            note("allowzero", "operand", "Reshape has allowzero=1")
        for i in _STATIC.get(node.op_type, ()):
            if i < len(node.inputs) and node.inputs[i] and not stored[i]:
                note("static", "static", f"{node.op_type} {node.label!r}")
        if node.op_type in ("Cast", "CastLike") and not stored[0] and node.inputs[0] not in typed:
            note("static", "static", f"the file does not say which type {node.op_type} {node.label!r} reads")
        if node.op_type in ("Conv", "ConvTranspose") and not all(stored[1:]):
            note("conv-operand", "operand", f"{node.op_type} {node.label!r} has an operand that is no initializer")
        elif node.op_type == "Gemm":
            if not all(stored[1:]):
                note("gemm-operand", "operand", f"Gemm {node.label!r} has an operand that is no initializer")
            if {node.float_attribute("alpha", 1.0), node.float_attribute("beta", 1.0)} != {1.0}:
                note("factors", "wrong", f"Gemm {node.label!r} has alpha or beta")
            bias = program.constants.get(node.inputs[2]) if len(node.inputs) > 2 else None
            if bias is not None and len(bias.dims) != 1:
                note("bias-matrix", "operand", f"Gemm {node.label!r} has a bias that is no vector")
        elif node.op_type == "MatMul":
            if stored[0] or (stored[1] and len(program.constants[node.inputs[1]].dims) != 2):
                note("matmul-operand", "operand", f"MatMul {node.label!r} has a weight on its left, or no matrix")
            if not fixed & set(node.inputs):
                note("computed-product", "operand", f"MatMul {node.label!r} multiplies two computed values")
        elif node.op_type in ("LSTM", "GRU", "RNN"):
            states = [name for name, given in zip(node.inputs[5:], stored[5:], strict=True) if name and given]
            if states:
                note("states", "operand", f"{node.op_type} {node.label!r} has constant initial states")
            if _UNCOMMON & set(node.attributes):
                note(
                    "rare",
                    "operand",
                    f"{node.op_type} {node.label!r} has {', '.join(sorted(_UNCOMMON & set(node.attributes)))}",
                )
            if node.op_type == "LSTM" and len([name for name in node.inputs[5:7] if name]) < 2:
                note("bare", "operand", f"LSTM {node.label!r} lacks its initial states")
            if "direction" in node.attributes and node.attributes["direction"].s != b"forward":
                note("direction", "gradient", f"{node.op_type} {node.label!r} does not run forward")
        elif node.op_type == "Transpose" and node.inputs[0] not in fixed and (node.ints_attribute("perm") or (1,))[0]:
            note("batch-moved", "operand", f"Transpose {node.label!r} moves the first axis")
        elif node.op_type == "Sum" and len(node.inputs) != 2:
            note("sum", "operand", f"Sum {node.label!r} has {len(node.inputs)} operands")
        if _SPELT.get(node.op_type, "epsilon") not in node.attributes and node.op_type in _SPELT:
            note("defaults", "operand", f"{node.op_type} {node.label!r} leaves {_SPELT[node.op_type]} to its default")
    return found


def _of_rows(plan: Plan) -> Traits:
    """Look for a Reshape that joins the first axis with others, or parts it, as a Gemm on more than two axes needs."""
    program = plan.program
    shapes = shapes_of(program.model.proto, lambda tensor: None if is_hollow(tensor) else numpy_helper.to_array(tensor))
    for node in program.body.nodes:
        if node.op_type != "Reshape" or node.domain not in DEFAULT_DOMAINS:
            continue
        given, wanted = shapes.get(node.inputs[0], (None,))[1:], (integers(program.constants, node.inputs[1]) or ())[1:]
        known = [length for length in given if length is not None]
        if len(known) == len(given) and min(wanted, default=0) > 0 and math.prod(known) != math.prod(wanted):
            return {"rows": ("rows", f"Reshape {node.label!r}")}
    return {}


def _of_layers(plan: Plan) -> Traits:
    found = Traits()
    if tied := [w.constant.label for w in plan.weights.values() if len(w.layers) > 1]:
        found["tied"] = "tied", counted(tied)
    if added := [layer.end.label for layer in plan.layers if layer.end is not layer.node]:
        found["bias"] = "bias", f"{len(added)}"
    return found


def initializers(plan: Plan) -> frozenset[str]:
    """Return the constants that are initializers of the main graph in the file that is saved.

    A layer's weight or bias that a node of the main graph made is one there.
    """
    constants = plan.program.constants
    moved = {n for layer in plan.layers for n in (*layer.source.constants, *layer.bias)}
    moved.update(n for norm in plan.norms for n in (norm.mean, norm.var))
    return frozenset(
        name for name, c in constants.items() if c.scope == "main" and (c.origin == "initializer" or name in moved)
    )
