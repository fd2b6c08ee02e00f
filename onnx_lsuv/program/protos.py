"""What a node's or a tensor's protobuf says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto

from onnx_lsuv.model import graphs_of

# What a Constant node's attributes hold: the field of one and of a list of these, the type and the data of a tensor.
_CONSTANTS = {
    "value_float": ("f", "floats", TensorProto.FLOAT, "float_data"),
    "value_int": ("i", "ints", TensorProto.INT64, "int64_data"),
    "value_string": ("s", "strings", TensorProto.STRING, "string_data"),
}


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
    if attribute.name == "value":
        return attribute.t
    single = attribute.name.removesuffix("s")
    if single not in _CONSTANTS:
        return None
    one, many, elem_type, data = _CONSTANTS[single]
    several = attribute.name != single
    values = getattr(attribute, many) if several else [getattr(attribute, one)]
    tensor = TensorProto(data_type=elem_type, dims=[len(values)] if several else [])
    getattr(tensor, data).extend(values)
    return tensor


def names_read(proto: NodeProto) -> Iterator[str]:
    """Yield the names that a node reads, its graphs included, some perhaps more than once."""
    yield from filter(None, proto.input)
    for graph in graphs_of(proto):
        yield from free_names(graph)


def free_names(graph: GraphProto) -> Iterator[str]:
    """Yield the names that a graph takes from those around it, some perhaps more than once."""
    own = {value.name for value in (*graph.input, *graph.initializer)}
    own |= {sparse.values.name for sparse in graph.sparse_initializer}
    own |= {name for node in graph.node for name in node.output}
    for node in graph.node:
        yield from (name for name in names_read(node) if name not in own)
    yield from (value.name for value in graph.output if value.name not in own)


def dims_in(value: ValueInfoProto) -> tuple[int | None, ...] | None:
    """Return the lengths of a value that are known and above 0; None where its rank is not."""
    kind = value.type.tensor_type
    return tuple(d.dim_value if d.dim_value > 0 else None for d in kind.shape.dim) if kind.HasField("shape") else None


def shapes_in(values: Iterable[ValueInfoProto], names: Mapping[str, str]) -> dict[str, tuple[int | None, ...]]:
    """Return the shapes that values declare, by unique name; a length of None is open."""
    return {
        names[value.name]: tuple(d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim)
        for value in values
        if value.name in names and (kind := value.type.tensor_type).HasField("shape")
    }


def renamed(value: ValueInfoProto, names: Mapping[str, str]) -> ValueInfoProto:
    """Return a value under its unique name."""
    result = ValueInfoProto(name=names[value.name])
    if value.HasField("type"):
        result.type.CopyFrom(value.type)
    return result
