"""What the definition of an operator demands of its nodes: operands, results, attributes and inner graphs.

ONNX Runtime checks nodes by the same definitions when it loads a model (OpSchema::Verify in onnx). What looks for
layers reads operands and attributes by their places and names, and a part of the graph that no layer needs is never
loaded, so they are checked before anything else is read from a node. An operator of which nothing is known passes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from onnx import AttributeProto, NodeProto, defs

from onnx_lsuv.errors import ModelError
from onnx_lsuv.operators import MICROSOFT, of
from onnx_lsuv.program.program import DEFAULT_DOMAINS

_SINGLE = defs.OpSchema.FormalParameterOption.Single
_KINDS = dict(AttributeProto.AttributeType.items())
_MANY = 2**31 - 1
NEWEST = defs.onnx_opset_version()  # later ones may define anything anew


def check_node(
    proto: NodeProto, attributes: Mapping[str, AttributeProto], opset: int | None, label: str, where: str
) -> None:
    """Raise ModelError for a node that its operator's definition does not allow.

    Args:
        proto: a node that calls no model-local function.
        attributes: its own, by name.
        opset: the model's; None where the file does not say.
        label: what messages call the node.
        where: what messages call its scope.
    """
    if opset is None:
        if proto.domain not in DEFAULT_DOMAINS:
            return
        fault = "is one of ONNX's own operators, but the model does not say of which opset"
    else:
        fault = _fault(proto, attributes, opset) or ""
    if fault:
        version = "" if opset is None or proto.domain else f", opset {opset}"
        raise ModelError(
            f"Node {label!r} ({proto.op_type}{version}) in {where} {fault}: the model is broken; export it again."
        )


def _fault(proto: NodeProto, attributes: Mapping[str, AttributeProto], opset: int) -> str | None:
    """Return what a node lacks or has too much of, or None where its operator's definition is met."""
    if proto.domain == MICROSOFT and (of(proto).weights or of(proto).fused):
        # Read as if it were ONNX's own; onnx has no definition of it.
        return _counted("input", proto.input, 2, _MANY, 2) or _counted("output", proto.output, 1, _MANY, 1)
    schema = _definition(proto.op_type, opset) if proto.domain in DEFAULT_DOMAINS else None
    if schema is None:
        return None
    operands, results = (sum(each.option == _SINGLE for each in row) for row in (schema.inputs, schema.outputs))
    fault = _counted("input", proto.input, schema.min_input, schema.max_input, operands)
    fault = fault or _counted("output", proto.output, schema.min_output, schema.max_output, results)
    if fault:
        return fault
    for name, wanted in schema.attributes.items():
        found = attributes.get(name)
        if found is None:
            if wanted.required:
                return f"lacks its attribute {name!r}"
        elif found.type != AttributeProto.UNDEFINED and found.type != _KINDS[_kind(wanted)]:
            kind = next((key for key, value in _KINDS.items() if value == found.type), str(found.type))
            return f"has an attribute {name!r} of type {kind}, which should be {_kind(wanted)}"
    return _fault_of_graphs(proto, attributes, opset)


def _kind(wanted: defs.OpSchema.Attribute) -> str:
    return str(wanted.type).removeprefix("AttrType.")


def _counted(what: str, names: Sequence[str], least: int, most: int, needed: int) -> str | None:
    if not least <= len(names) <= most:
        wanted = f"{least}" if least == most else f"at least {least}" if len(names) < least else f"at most {most}"
        return f"has {len(names)} {what}(s) where {wanted} should be"
    if "" in names[:needed]:
        return f"has no name for {what} {list(names).index('')}"
    return None


def _fault_of_graphs(proto: NodeProto, attributes: Mapping[str, AttributeProto], opset: int) -> str | None:
    """Return what does not fit between a control-flow node and its inner graphs."""
    made = len(proto.output)
    if proto.op_type == "If":
        results = {name: len(attributes[name].g.output) for name in ("then_branch", "else_branch")}
        faults = (f"has {made} output(s), but its {name} has {n}" for name, n in results.items() if n < made)
        return next(faults, None)
    return _fault_of_body(proto, attributes, opset) if proto.op_type in ("Loop", "Scan") else None


def _fault_of_body(proto: NodeProto, attributes: Mapping[str, AttributeProto], opset: int) -> str | None:
    given, made = len(proto.input), len(proto.output)
    body = attributes["body"].g
    # Before its states a loop's body has the number of the iteration and the condition, and after it the condition.
    formals, results = (given, made + 1) if proto.op_type == "Loop" else (given - (opset < 9), made)
    if proto.op_type == "Scan":
        scanned = attributes["num_scan_inputs"].i
        if not 0 < scanned <= formals:
            return f"scans {scanned} of {formals} inputs"
    elif "" in proto.input[2:]:
        return "has a state without a start"
    elif len(body.output) < given - 1:
        return f"has {given - 2} states, but its body has {len(body.output)} outputs"
    if len(body.input) != formals:
        return f"has a body of {len(body.input)} input(s) where {formals} should be"
    if len(body.output) < results:
        return f"has {made} output(s), but its body has {len(body.output)}"
    return None


@lru_cache(maxsize=1024)
def _definition(op_type: str, opset: int) -> defs.OpSchema | None:
    """Return what an opset says of an operator, or a later one where the operator is younger."""
    for version in (opset, NEWEST):
        try:
            return defs.get_schema(op_type, version, "")
        except defs.SchemaError:
            continue
    return None
