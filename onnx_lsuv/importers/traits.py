"""What of a form matters to importers: each trait is a kind of `KINDS` and the detail that was found."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence

from onnx import TensorProto

from onnx_lsuv.importers.forms import Form, has_vector_bias
from onnx_lsuv.importers.skeleton import OTHER_FLOATS
from onnx_lsuv.operators import Attributes
from onnx_lsuv.program import Node, walk
from onnx_lsuv.program.program import DEFAULT_DOMAINS, integers

Traits = dict[str, tuple[str, str]]  # by name: a key of KINDS, and the detail
_Found = Iterator[tuple[str, str, str]]  # name, kind and detail

# Operands that jaxonnxruntime wants as initializers: shapes, pads, counts.
_STATIC = {"Reshape": (1,), "Expand": (1,), "Pad": (1,), "TopK": (1,), "Trilu": (1,), "Range": (0, 1, 2)}
_NORMS = frozenset({"BatchNormalization", "LayerNormalization", "InstanceNormalization"})
# Attributes that onnx2keras reads without knowing their defaults.
_SPELT = {"Elu": "alpha", "LeakyRelu": "alpha", "Softmax": "axis", "InstanceNormalization": "epsilon", "LRN": "bias"}
# Attributes of LSTM, GRU and RNN that are refused, even with their defaults.
_UNCOMMON = frozenset({"activations", "activation_alpha", "activation_beta", "clip"})
# Names that PyTorch's exporters give to weights with a BatchNormalization folded in.
_FOLDED = re.compile(r"onnx::Conv_\d+|.*\.weight_bias|.*_fused_bn(_\d+)?|.*\.bn_folded")


def counted(names: Iterable[str]) -> str:
    """Return names with how often each occurs, the first four of them: `MatMul (3), Conv`."""
    found = Counter(names)
    parts = [name if n == 1 else f"{name} ({n})" for name, n in found.items()]
    return ", ".join(parts[:4]) + (f" and {len(parts) - 4} more" if len(parts) > 4 else "")


def traits(form: Form) -> Traits:
    """Return what of a form some importer stumbles over, or handles in a way worth knowing: the first place of each."""
    found = Traits()
    for part in (_of_file, _of_values, _of_types, _of_norms, _of_nodes, _of_rows, _of_layers):
        for trait, kind, detail in part(form):
            if kind not in form.cured:
                found.setdefault(trait, (kind, detail))
    return found


def _of_file(form: Form) -> _Found:
    program = form.plan.program
    model, graph = program.model.proto, program.model.proto.graph
    if model.functions:
        yield "functions", "functions", counted(f.name for f in model.functions)
    if program.sparse:
        yield "sparse", "sparse", counted(sorted(program.sparse))
    if any(each.domain == "ai.onnx" for each in (*model.opset_import, *form.nodes)):
        yield "domain", "domain", "ai.onnx"
    initializers = {t.name for t in graph.initializer}
    if listed := [v.name for v in graph.input if v.name in initializers]:
        yield "inputs", "inputs", f"{len(listed)} of {len(initializers)}"
    if twice := [name for name, n in Counter(n.name for n in graph.node if n.name).items() if n > 1]:
        yield "names", "names", counted(twice)


def _of_values(form: Form) -> _Found:
    """Look at the names, inputs and outputs of the main graph, and at the order of its nodes."""
    graph = form.plan.program.model.proto.graph
    initializers = {t.name for t in graph.initializer}
    tensors = [v for v in graph.input if v.name not in initializers and v.type.HasField("tensor_type")]
    shapeless = [repr(v.name) for v in tensors if not v.type.tensor_type.HasField("shape")]
    for value in tensors:
        if repr(value.name) in shapeless:
            yield "shape", "shape", repr(value.name)
        elif any(d.WhichOneof("value") is None or d.dim_value < 0 for d in value.type.tensor_type.shape.dim):
            yield "open", "open", repr(value.name)
    if any(not v.type.tensor_type.HasField("shape") for v in graph.output if v.type.HasField("tensor_type")):
        yield "output-shape", "shape", "an output"
    made = initializers | {v.name for v in graph.input} | {t.values.name for t in graph.sparse_initializer}
    for node in graph.node:
        if not made.issuperset(filter(None, node.input)):
            yield "order", "order", repr(node.name or node.output[0])
        made.update(node.output)
    if shapeless and any(n.op_type in _NORMS for n in form.nodes):
        yield "norm-shape", "shape", shapeless[0]
    last = {name: node.op_type for node in graph.node for name in node.output}
    ends = [last[v.name] for v in graph.output if v.name in last]
    if soft := [op for op in ends if op in ("Softmax", "LogSoftmax", "Sigmoid")]:
        yield "softmax", "softmax", counted(soft)
    if folded := [name for name in initializers if _FOLDED.fullmatch(name)]:
        yield "folded", "folded", counted(sorted(folded))


def _of_types(form: Form) -> _Found:
    constants, inputs = form.plan.program.constants.values(), form.plan.program.body.inputs
    types = {c.elem_type for c in constants if c.size > 1} | {v.type.tensor_type.elem_type for v in inputs}
    names = {t: TensorProto.DataType.Name(t).lower() for t in types & OTHER_FLOATS}
    if half := [name for t, name in names.items() if t != TensorProto.DOUBLE]:
        yield "half", "type", ", ".join(sorted(half))
    if TensorProto.DOUBLE in names:
        yield "double", "type", "double"
    if TensorProto.BFLOAT16 in names:
        yield "bfloat16", "type", "bfloat16"


def _of_norms(form: Form) -> _Found:
    """Look at norms and Dropout as the file has them: a plan leaves out outputs that nothing reads."""
    plain = [node for node in form.nodes if node.domain in DEFAULT_DOMAINS]
    nodes = [(node, Attributes((a.name, a) for a in node.attribute)) for node in plain]
    norms = [attributes for node, attributes in nodes if node.op_type == "BatchNormalization"]
    for node, attributes in nodes:
        outputs = sum(map(bool, node.output))
        if node.op_type == "BatchNormalization":
            if "training_mode" in attributes:
                yield "training-mode", "training", "BatchNormalization has the attribute training_mode"
            if attributes.integer("training_mode", 0) == 1 or outputs > 1:
                yield "norm-training", "training", "BatchNormalization"
            yield "frozen", "frozen", "BatchNormalization"
            yield "momentum", "momentum", f"{norms[-1].real('momentum', 0.9):.3g}"
        elif node.op_type == "Dropout":
            if outputs > 1:
                yield "mask", "outputs", "Dropout has its mask output"
            elif len(node.input) > 1:
                yield "no-mask", "outputs", "Dropout has inputs for its ratio, and lacks its mask output"
            if len(node.input) > 2 and node.input[2]:
                yield "dropout-training", "training", "Dropout has the input training_mode"
        elif node.op_type == "LayerNormalization":
            yield "norm", "norm", "LayerNormalization"
            if outputs > 1:
                yield "norm-outputs", "outputs", "LayerNormalization has outputs beyond the first"
            if outputs < 3:
                yield "norm-output", "outputs", "LayerNormalization lacks its second and third output"


def _of_nodes(form: Form) -> _Found:
    """Look at operands: where they come from decides in several importers."""
    program = form.plan.program
    graph = program.model.proto.graph
    typed = {v.name for v in (*graph.value_info, *graph.input, *graph.output)}
    fixed = {output for node in program.static for output in node.outputs} | set(program.constants)
    for node in walk(program.body):
        if node.domain in DEFAULT_DOMAINS and node not in form.gemms:
            stored = [not name or name in form.stored for name in node.inputs]
            yield from _of_node(form, node, stored, fixed, typed)


def _of_node(form: Form, node: Node, stored: Sequence[bool], fixed: Container[str], typed: Container[str]) -> _Found:
    """Look at a node.

    Args:
        form: the file that it is in.
        node: one of ONNX's own operators.
        stored: of each operand whether it is an initializer, or absent.
        fixed: the values that do not depend on inputs.
        typed: the values whose type the file says.
    """
    op, inputs, label = node.op_type, node.inputs, f"{node.op_type} {node.label!r}"
    for i in _STATIC.get(op, ()):
        if i < len(inputs) and not stored[i]:
            yield "static", "static", label
    if op in _SPELT and _SPELT[op] not in node.attributes:
        yield "defaults", "operand", f"{label} leaves {_SPELT[op]} to its default"
    match op:
        case "Reshape" if node.attributes.integer("allowzero", 0):
            yield "allowzero", "operand", "Reshape has allowzero=1"
        case "Cast" | "CastLike" if not stored[0] and inputs[0] not in typed:
            yield "static", "static", f"the file does not say which type {label} reads"
        case "Conv" | "ConvTranspose" if not all(stored[1:]):
            yield "conv-operand", "operand", f"{label} has an operand that is no initializer"
        case "Gemm":
            if not all(stored[1:]):
                yield "gemm-operand", "operand", f"{label} has an operand that is no initializer"
            if {node.attributes.real("alpha", 1.0), node.attributes.real("beta", 1.0)} != {1.0}:
                yield "factors", "wrong", f"{label} has alpha or beta"
            if not has_vector_bias(form, node):
                yield "bias-matrix", "operand", f"{label} has a bias that is no vector"
        case "MatMul":
            if stored[0] or (stored[1] and len(form.stored[inputs[1]]) != 2):
                yield "matmul-operand", "operand", f"{label} has a weight on its left, or no matrix"
            if inputs[0] not in fixed and inputs[1] not in fixed:
                yield "computed-product", "operand", f"{label} multiplies two computed values"
        case "LSTM" | "GRU" | "RNN":
            if any(name and given for name, given in zip(inputs[5:], stored[5:], strict=True)):
                yield "states", "operand", f"{label} has constant initial states"
            if uncommon := sorted(_UNCOMMON & set(node.attributes)):
                yield "rare", "operand", f"{label} has {', '.join(uncommon)}"
            if op == "LSTM" and len(list(filter(None, inputs[5:7]))) < 2:
                yield "bare", "operand", f"{label} lacks its initial states"
            if node.attributes.text("direction") not in ("", "forward"):
                yield "direction", "gradient", f"{label} does not run forward"
        case "Transpose" if inputs[0] not in fixed and (node.attributes.integers("perm") or (1,))[0]:
            yield "batch-moved", "operand", f"{label} moves the first axis"
        case "Sum" if len(inputs) != 2:
            yield "sum", "operand", f"{label} has {len(inputs)} operands"


def _of_rows(form: Form) -> _Found:
    """Look for a Reshape that joins the first axis with others, or parts it, as a Gemm on more than two axes needs."""
    if form.rows is not None:
        yield "rows", "rows", f"those around MatMul {form.rows!r}"
    for node in form.plan.program.body.nodes:
        if node.op_type != "Reshape" or node.domain not in DEFAULT_DOMAINS:
            continue
        given = form.shapes.get(node.inputs[0], (None,))[1:]
        wanted = (integers(form.plan.program.constants, node.inputs[1]) or ())[1:]
        known = [length for length in given if length is not None]
        if len(known) == len(given) and min(wanted, default=0) > 0 and math.prod(known) != math.prod(wanted):
            yield "rows", "rows", f"Reshape {node.label!r}"


def _of_layers(form: Form) -> _Found:
    if tied := [w.constant.label for w in form.plan.weights.values() if len(w.layers) > 1]:
        yield "tied", "tied", counted(tied)
    if added := sum(each.end is not each.node and each.node not in form.gemms for each in form.plan.layers):
        yield "bias", "bias", f"{added}"
