"""Where shape inference and ONNX Runtime's kernels do not agree.

ONNX Runtime plans its memory by shapes inferred by ONNX's rules, and so are statistics here. Some of its kernels give
another shape, and the run fails:

    pooling in ceil_mode, opset < 22    the last window is left out where it would begin in the padding at the end
    Resize, Upsample                    length * scale is a float32 product before it is rounded down
    pooling with SAME padding           as if it were not dilated
    ConvTranspose with SAME padding     output_padding adds nothing

So a model where that happens is run with inputs of open lengths, and statistics rely on no shape at all. What
it does not even fail at is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from onnx import ValueInfoProto

from onnx_lsuv.errors import ModelError
from onnx_lsuv.graph.builder import Value
from onnx_lsuv.layers import Plan
from onnx_lsuv.operators import of
from onnx_lsuv.program import Node, Program, known, tensor_type

Dims = tuple[int | None, ...]


def is_mistaken(program: Program, values: Mapping[str, Value]) -> bool:
    """Say whether some value of a program gets another shape than was inferred."""

    def dims(name: str) -> Dims:
        return (values[name].dims if name in values else None) or ()

    return any(
        _differs(program, node, dims(node.inputs[0]), dims(node.outputs[0]))
        for node in program.walk()
        if node.domain == "" and node.inputs and node.outputs
    )


def _differs(program: Program, node: Node, before: Dims, after: Dims) -> bool:
    same = node.attributes.text("auto_pad").startswith("SAME")
    if node.op_type == "ConvTranspose":
        return same and any(node.attributes.integers("output_padding") or ())
    if of(node).windows:
        if same and any(d > 1 for d in node.attributes.integers("dilations") or ()):
            return True
        rank = len(after) - 2
        strides, pads = (
            node.attributes.integers("strides") or (1,) * rank,
            node.attributes.integers("pads") or (0,) * rank,
        )
        return bool(node.attributes.integer("ceil_mode", 0)) and any(
            n is not None and m is not None and (m - 1) * stride >= n + pad
            for n, m, stride, pad in zip(before[2:], after[2:], strides, pads, strict=False)
        )
    if node.op_type in ("Resize", "Upsample"):
        names = [name for name in node.inputs[1:3] if name in program.constants]
        scales = known(program.constants, names[-1]) if names else None
        return (
            scales is not None
            and len(before) == len(after) == scales.size
            and any(
                n is not None and m is not None and int(np.float32(n) * scale) != m
                for n, m, scale in zip(before, after, scales.astype(np.float32), strict=True)
            )
        )
    return False


def check_runnable(program: Program, values: Mapping[str, Value]) -> None:
    """Raise ModelError for what ONNX Runtime 1.31 loads, but does not survive, or blames the data for.

    At an Einsum of fewer axes than letters, and at an LSTM or GRU of no batch or no inputs, it ends the process; a
    convolution by a kernel of no length never ends. A shape, or bounds or axes, that are no vector fail on any data.
    """
    for node in program.walk():
        found = [program.constants.get(name) or values.get(name) for name in node.inputs]
        dims = [each.dims if each is not None else None for each in found]
        begin, end = f"{node.op} {node.label!r}", "the model is broken; export it again."
        if node.op in ("Conv", "ConvTranspose") and 0 in (dims[1] or ())[2:]:
            raise ModelError(f"{begin} has a kernel of no length, {list(dims[1] or ())}: {end}")
        if node.op in ("LSTM", "GRU") and any(0 in (each or ())[i == 0 :] for i, each in enumerate(dims[:3])):
            raise ModelError(f"{begin} has an operand without any values: export the model again.")
        for name, each in ((node.inputs[i], dims[i]) for i in of(node).vectors if i < len(dims)):
            if each is not None and (len(each) > 1 or (not each and node.op != "Unsqueeze")):
                raise ModelError(f"{begin} should read a vector as {name!r}, but its shape is {list(each)}: {end}")
        if node.op != "Einsum":
            continue
        terms = node.attributes.text("equation").replace(" ", "").partition("->")[0].split(",")
        for name, each, term in zip(node.inputs, dims, terms, strict=False):
            if each is not None and len(each) < len(term.replace("...", "")):
                raise ModelError(
                    f"The {begin} reads {name!r} as {term!r}, but it has {len(each)} axes: the model is broken, or the "
                    "data have too few axes for it."
                )


def without_lengths(plan: Plan) -> Plan:
    """Return a plan whose program has inputs of open lengths."""

    def opened(value: ValueInfoProto) -> ValueInfoProto:
        kind = value.type.tensor_type
        dims = [None] * len(kind.shape.dim) if kind.HasField("shape") else None
        return ValueInfoProto(name=value.name, type=tensor_type(kind.elem_type, dims))

    program = plan.program
    body = replace(program.body, inputs=tuple(map(opened, program.body.inputs)))
    order = {body if each is program.body else each: nodes for each, nodes in plan.order.items()}
    return replace(plan, program=replace(program, body=body), order=order)
