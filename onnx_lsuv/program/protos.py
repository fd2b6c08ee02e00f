"""What a node's or a tensor's protobuf says, in the terms of an expansion."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import AttributeProto, NodeProto, TensorProto, ValueInfoProto

from onnx_lsuv.model import Model, Site, function_of

Names = dict[str, str]


def home_of(scope: str, site: Site | None, model: Model) -> str:
    """Return the scope path of a constant: a function's own, however many calls lead to it."""
    if site is not None and (index := function_of(site)) is not None:
        return f"function:{model.proto.functions[index].name}"
    return scope


def scope_name(scope: str) -> str:
    """Return what messages call a scope."""
    return "the graph" if scope == "main" else f"the scope {scope!r}"


def attributes_of(proto: NodeProto, references: Mapping[str, AttributeProto]) -> dict[str, AttributeProto]:
    """Return a node's attributes by name, with those that refer to a function's own resolved."""
    result = {}
    for attribute in proto.attribute:
        if not attribute.ref_attr_name:
            result[attribute.name] = attribute
        elif attribute.ref_attr_name in references:
            resolved = AttributeProto()
            resolved.CopyFrom(references[attribute.ref_attr_name])
            resolved.name = attribute.name
            result[attribute.name] = resolved
    return result


def tensor_of(attribute: AttributeProto) -> TensorProto | None:
    """Return the tensor that one of a Constant node's attributes stands for."""
    match attribute.name:
        case "value":
            return attribute.t
        case "value_float":
            return TensorProto(data_type=TensorProto.FLOAT, float_data=[attribute.f])
        case "value_floats":
            return TensorProto(data_type=TensorProto.FLOAT, dims=[len(attribute.floats)], float_data=attribute.floats)
        case "value_int":
            return TensorProto(data_type=TensorProto.INT64, int64_data=[attribute.i])
        case "value_ints":
            return TensorProto(data_type=TensorProto.INT64, dims=[len(attribute.ints)], int64_data=attribute.ints)
        case "value_string":
            return TensorProto(data_type=TensorProto.STRING, string_data=[attribute.s])
        case "value_strings":
            return TensorProto(
                data_type=TensorProto.STRING, dims=[len(attribute.strings)], string_data=attribute.strings
            )
    return None


def renamed(value: ValueInfoProto, names: Names) -> ValueInfoProto:
    """Return a value under its unique name."""
    result = ValueInfoProto(name=names[value.name])
    if value.HasField("type"):
        result.type.CopyFrom(value.type)
    return result
