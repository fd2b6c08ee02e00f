"""The dims of parameters that have no shape of their own: from the values around them, operator by operator.

What the file declares of other values, what ONNX's shape inference makes of that, and the attributes of whoever reads a
parameter tell most lengths: a convolution's weight is (M, C / group, kernel...), C from what it reads, M from what it
gives. Each that is found may tell more, so this goes on until nothing new comes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import suppress

import onnx
from onnx import ModelProto, NodeProto, helper

from onnx_lsuv.architecture.places import Reader, Uses
from onnx_lsuv.operators import Attributes, of
from onnx_lsuv.program.protos import dims_in

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_WAYS = 64  # to take axes out of a shape that are looked at
Dims = tuple[int | None, ...]
Rule = Callable[[NodeProto, int, Mapping[str, Dims]], Dims | None]


def infer(proto: ModelProto, known: Mapping[str, tuple[int, Sequence[int | None]]]) -> dict[str, Dims]:
    """Return what shape inference knows of the values of a main graph.

    Args:
        proto: the model.
        known: element types and dims of values that the file does not make, or of which it declares less.
    """
    copy = ModelProto()
    copy.CopyFrom(proto)
    graph = copy.graph
    kept = [value for value in graph.input if value.name not in known]
    del graph.input[:]
    graph.input.extend(kept)
    graph.input.extend(helper.make_tensor_value_info(name, *kind) for name, kind in known.items())
    with suppress(Exception):  # whatever it makes of a model that does not fit together
        copy = onnx.shape_inference.infer_shapes(copy, data_prop=True)
    found: dict[str, Dims] = {tensor.name: tuple(tensor.dims) for tensor in copy.graph.initializer}
    for value in (*copy.graph.value_info, *copy.graph.output, *copy.graph.input):
        if (dims := dims_in(value)) is not None:
            found[value.name] = dims
    return found


def dims_of(uses: Uses, name: str, parameters: Set[str], shapes: Mapping[str, Dims]) -> Dims | None:
    """Return the dims of a parameter as far as its readers tell; None where no rank is known.

    Args:
        uses: of the graph.
        name: of the parameter.
        parameters: values that depend on parameters alone.
        shapes: what is known of all values.
    """
    found: Dims | None = None
    for node, position in uses.readers.get(name, ()):
        dims = _told(uses, (node, position), parameters, shapes)
        if dims is not None and (found is None or len(dims) == len(found)):
            found = dims if found is None else tuple(map(_first, found, dims))
    return found


def _told(uses: Uses, reader: Reader, parameters: Set[str], shapes: Mapping[str, Dims]) -> Dims | None:
    node, position = reader
    if node.op_type == "Identity":
        return dims_of(uses, node.output[0], parameters, shapes)
    if node.op_type == "Transpose":
        behind, perm = dims_of(uses, node.output[0], parameters, shapes), _attributes(node).integers("perm")
        if behind is None:
            return None
        order = perm or tuple(reversed(range(len(behind))))
        return tuple(behind[order.index(axis)] for axis in range(len(behind))) if len(order) == len(behind) else None
    if node.op_type == "Add":
        maker = uses.makers.get(node.input[1 - position])
        product = maker is not None and of(maker).channels is not None and not parameters >= set(maker.input)
        return _addend(node, position, shapes) if product else None
    rule = _RULES.get(node.op_type)
    return rule(node, position, shapes) if rule and len(node.output) else None


def _attributes(node: NodeProto) -> Attributes:
    return Attributes((attribute.name, attribute) for attribute in node.attribute)


def _at(shapes: Mapping[str, Dims], names: Sequence[str], position: int, axis: int) -> int | None:
    """Return a length of an operand or result, None where it is not known."""
    dims = shapes.get(names[position]) if position < len(names) else None
    return dims[axis] if dims is not None and -len(dims) <= axis < len(dims) else None


def _first(*lengths: int | None) -> int | None:
    return next((length for length in lengths if length is not None), None)


def _convolution(node: NodeProto, position: int, shapes: Mapping[str, Dims]) -> Dims | None:
    attributes, transposed = _attributes(node), node.op_type == "ConvTranspose"
    groups = attributes.integer("group", 1)
    weight, data = shapes.get(node.input[1]), shapes.get(node.input[0])
    of_weight = None
    if weight is not None and len(weight) > 1:
        of_weight = weight[1] * groups if transposed and weight[1] else None if transposed else weight[0]
    outputs = _first(of_weight, _at(shapes, node.output, 0, 1), _at(shapes, node.input, 2, 0))
    if position == 2:
        return (outputs,)
    kernel: Dims | None = attributes.integers("kernel_shape")
    if kernel is None and data is not None:
        kernel = (None,) * (len(data) - 2)
    inputs = _at(shapes, node.input, 0, 1)
    if kernel is None:
        return None
    if transposed:
        return (inputs, outputs and outputs // groups, *kernel)
    return (outputs, inputs and inputs // groups, *kernel)


def _gemm(node: NodeProto, position: int, shapes: Mapping[str, Dims]) -> Dims | None:
    attributes = _attributes(node)
    outputs = _at(shapes, node.output, 0, 1)
    if position == 2:
        return (_first(outputs, _at(shapes, node.input, 1, 0 if attributes.integer("transB", 0) else 1)),)
    if position == 0:
        return None
    inputs = _at(shapes, node.input, 0, 0 if attributes.integer("transA", 0) else 1)
    outputs = _first(outputs, _at(shapes, node.input, 2, -1))
    return (outputs, inputs) if attributes.integer("transB", 0) else (inputs, outputs)


def _product(node: NodeProto, position: int, shapes: Mapping[str, Dims]) -> Dims | None:
    if position != 1:
        return None
    # More axes than two, on the weight's side, nobody tells.
    return _at(shapes, node.input, 0, -1), _at(shapes, node.output, 0, -1)


def _channels(node: NodeProto, position: int, shapes: Mapping[str, Dims]) -> Dims | None:
    if position == 0:
        return None
    others = [_at(shapes, node.input, i, 0) for i in range(1, len(node.input))]
    return (_first(_at(shapes, node.input, 0, 1), _at(shapes, node.output, 0, 1), *others),)


def _layer_norm(node: NodeProto, position: int, shapes: Mapping[str, Dims]) -> Dims | None:
    data, axis = shapes.get(node.input[0]), _attributes(node).integer("axis", -1)
    if position == 0 or data is None or not -len(data) <= axis < len(data):
        return None
    return data[axis:]


def _recurrent(node: NodeProto, position: int, shapes: Mapping[str, Dims]) -> Dims | None:
    attributes, gates = _attributes(node), GATES[node.op_type]
    hidden = attributes.integer("hidden_size", 0) or None
    directions = 2 if attributes.text("direction") == "bidirectional" else 1
    batch = _at(shapes, node.input, 0, 0 if attributes.integer("layout", 0) else 1)
    several = hidden and hidden * gates
    return {
        1: (directions, several, _at(shapes, node.input, 0, 2)),
        2: (directions, several, hidden),
        3: (directions, several and 2 * several),
        5: (directions, batch, hidden),
        6: (directions, batch, hidden),
        7: (directions, hidden and 3 * hidden),
    }.get(position)


def _addend(node: NodeProto, position: int, shapes: Mapping[str, Dims]) -> Dims:
    """Return the dims of what is added to a product: a number a channel."""
    return (_first(_at(shapes, node.output, 0, -1), _at(shapes, node.input, 1 - position, -1)),)


_RULES: dict[str, Rule] = {
    **dict.fromkeys(("Conv", "ConvTranspose"), _convolution),
    "Gemm": _gemm,
    "MatMul": _product,
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization", "GroupNormalization"), _channels),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"), _layer_norm),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _recurrent),
}


def setting(reader: Reader, shapes: Mapping[str, Dims]) -> list[int] | None:
    """Return the whole numbers that an operand must be where the shapes before and behind its node tell: axes, dims."""
    node, position = reader
    before, behind = shapes.get(node.input[0]), shapes.get(node.output[0])
    if position != 1 or before is None or behind is None:
        return None
    if node.op_type == "Reshape" and sum(length is None for length in behind) <= 1:
        return [-1 if length is None else length for length in behind]
    if node.op_type.startswith("Reduce") and len(before) == len(behind):
        return [axis for axis, pair in enumerate(zip(before, behind, strict=True)) if pair[0] != pair[1]] or None
    if node.op_type.startswith("Reduce") or node.op_type == "Squeeze":
        return _taken_out(before, behind, any_length=node.op_type != "Squeeze")
    return _taken_out(behind, before, any_length=False) if node.op_type == "Unsqueeze" else None


def _taken_out(longer: Dims, shorter: Dims, *, any_length: bool) -> list[int] | None:
    """Return the axes without which a shape is another, if one way alone does; of those of length 1 any will do."""
    ways = [(list[int](), 0)]
    for axis, length in enumerate(longer):
        stay = [(gone, at + 1) for gone, at in ways if at < len(shorter) and shorter[at] == length]
        leave = [([*gone, axis], at) for gone, at in ways if any_length or length == 1]
        ways = [*stay, *leave][:_WAYS]
    found = [gone for gone, at in ways if at == len(shorter)]
    return found[0] if len(found) == 1 or (found and not any_length) else None
