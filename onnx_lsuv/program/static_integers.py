"""Numbers that a graph computes from shapes and constants: the bounds of a Slice, the target of a Reshape.

Exporters write a shape as a computation: Shape, Gather, Concat, Where(Equal(shape, -1), ...) and the like, over
constants, over inputs whose lengths the file declares, and over values whose shape follows. What can be known of it
before any data is found here, value by value, each one once.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.numpy_helper import to_array

from onnx_lsuv.model import is_hollow, read
from onnx_lsuv.operators import of
from onnx_lsuv.program.folding import FOLDS, LIMIT, Known, Unfoldable, split, unknown, values
from onnx_lsuv.program.program import DEFAULT_DOMAINS, Constant, Node, Program, known
from onnx_lsuv.program.protos import shapes_in

Ints = tuple[int | None, ...]  # None: not known
_INTEGERS = (onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL)
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)


def known_integers(program: Program, name: str) -> Ints | None:
    """Return what is known of an integer vector or scalar, or None where nothing is."""
    found = folded(program, name)
    if found is None or found.size > LIMIT:
        return None
    flat = list(found.reshape(-1))
    return tuple(flat) if all(value is None or type(value) is int for value in flat) else None


def axes_of(program: Program, node: Node) -> Ints | None:
    """Return the axes that a node names, in its second operand or in an attribute; None where it names none known."""
    if len(node.inputs) > 1 and node.inputs[1]:
        return known_integers(program, node.inputs[1])
    return node.attributes.integers("axes")


def shape_of(program: Program, name: str) -> Ints | None:
    """Return what is known of a value's shape before any data; None where not even the rank is."""
    dims = _dims(program, name)
    if dims is None or None in dims:
        value = folded(program, name)
        dims = value.shape if value is not None else _inferred(program).get(name, dims)
    return dims


def folded(program: Program, name: str) -> Known | None:
    """Return what is known of a value: its shape, and perhaps its numbers; None where nothing is."""
    found, stack = program.folded, [name]
    while stack:
        at = stack.pop()
        if at in found:
            continue
        if at not in program.producers:
            found[at] = _leaf(program, at)
            continue
        node, _ = program.producers[at]
        if waiting := [each for each in _reads(program, node) if each not in found]:
            stack += [at, *waiting]
            continue
        for output, value in zip(node.outputs, _made(program, node), strict=True):
            made = value if value is not None else _declared(program, output)
            found[output] = made if made is None or made.size <= LIMIT else unknown(made.shape)
    return found[name]


def _reads(program: Program, node: Node) -> list[str]:
    """Return the operands that a node's values are computed from."""
    if node.domain not in DEFAULT_DOMAINS or node.bodies:
        return []
    if of(node).reads_shape:
        # What is declared need not be computed.
        return [] if _dims(program, node.inputs[0]) is not None else [node.inputs[0]]
    return [each for each in node.inputs if each] if node.op_type in FOLDS or node.op_type == "Split" else []


def _made(program: Program, node: Node) -> list[Known | None]:
    """Return a node's values as far as its operands tell."""
    nothing: list[Known | None] = [None] * len(node.outputs)
    if of(node).reads_shape:
        return [_shape(program, node)]
    if not _reads(program, node):
        return nothing
    given = [program.folded[each] if each else None for each in node.inputs]
    missing = any(each and value is None for each, value in zip(node.inputs, given, strict=True))
    if missing and node.op_type != "CastLike":
        # Not to be taken for an operand that is left out, as the axes of a Squeeze may be.
        return nothing
    try:
        made = split(node, given) if node.op_type == "Split" else [FOLDS[node.op_type](node, given)]
    except (Unfoldable, ValueError, IndexError, TypeError, OverflowError):
        # A model that does not fit together is for ONNX Runtime to refuse.
        return nothing
    return [*made, *nothing][: len(nothing)]


def _shape(program: Program, node: Node) -> Known | None:
    name = node.inputs[0]
    dims = _dims(program, name)
    if dims is None or None in dims:
        value = program.folded.get(name)
        dims = value.shape if value is not None else _inferred(program).get(name, dims)
    if dims is None:
        return None
    if node.op_type == "Size":
        return values([None if None in dims else int(np.prod([d or 0 for d in dims], dtype=object))], ())
    return values(dims[node.attributes.integer("start", 0) : node.attributes.integer("end", len(dims))])


def _dims(program: Program, name: str) -> Ints | None:
    """Return the shape that a constant has or the file declares."""
    constant = program.constants.get(name)
    return constant.dims if constant is not None else program.declared.get(name)


def _declared(program: Program, name: str) -> Known | None:
    dims = _dims(program, name)
    return None if dims is None or None in dims else unknown([d for d in dims if d is not None])


def _leaf(program: Program, name: str) -> Known | None:
    """Return what is known of a constant, or of an input."""
    constant = program.constants.get(name)
    if constant is None:
        return _declared(program, name)
    if any(length < 0 for length in constant.dims):
        return None
    numbers = _numbers(program, constant)
    return unknown(constant.dims) if numbers is None else values(numbers, constant.dims)


def _numbers(program: Program, constant: Constant) -> list[Any] | None:
    """Return a constant's values where it is small enough, and none that a weight could have."""
    if constant.size > LIMIT:
        return None
    if constant.node is not None:
        fill = next((a.t for a in constant.node.attribute if a.name == "value"), None)
        one = np.zeros(1, np.float32) if fill is None or is_hollow(fill) else to_array(fill)
        return _listed(one.reshape(-1)[:1]) * constant.size
    array = known(program.constants, constant.name)
    if array is None and constant.site is not None and constant.elem_type in _INTEGERS:
        array = read(program.model, constant.site)
    if array is None or constant.elem_type not in (*_INTEGERS, *_FLOATS) or array.shape != constant.dims:
        return None
    return _listed(array.reshape(-1))


def _listed(array: NDArray[Any]) -> list[Any]:
    return list(array) if array.dtype == np.float32 else list(array.tolist())


def _inferred(program: Program) -> Mapping[str, Ints]:
    """Return the shapes that ONNX's inference finds in the main graph; it is run when first asked for."""
    if not program.inferred:
        proto = program.model.proto
        with suppress(Exception):  # whatever it makes of a model that does not fit together
            proto = onnx.shape_inference.infer_shapes(proto, data_prop=True)
        program.inferred.update({"": ()} | shapes_in((*proto.graph.value_info, *proto.graph.output), program.names))
    return program.inferred
