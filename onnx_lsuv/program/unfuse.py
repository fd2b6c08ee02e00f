"""Take fused operators of ONNX Runtime apart, so that a layer's own output can be seen.

    FusedConv (X, W, B, Z)      activation(Conv(X, W, B) + Z)
    FusedGemm (A, B, C)         activation(Gemm(A, B, C))
    GemmFastGelu (X, W, bias)   FastGelu(MatMul(X, W) + bias)

(ONNX Runtime, ContribOperators.md.) This is done in the calibration graph only; the file keeps the fused node.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from onnx import TensorProto, helper

from onnx_lsuv.operators import Attributes, of
from onnx_lsuv.program.program import Constant, Node

# The parameters of an activation, in the order in which FusedConv lists them, with ONNX's attribute names.
_PARAMETERS: dict[str, tuple[str, ...]] = {
    "Relu": (),
    "Tanh": (),
    "Sigmoid": (),
    "Softplus": (),
    "Softsign": (),
    "LeakyRelu": ("alpha",),
    "Elu": ("alpha",),
    "ThresholdedRelu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
    "Clip": ("min", "max"),
}


def unfused(node: Node, fresh: Callable[[str], str], constants: dict[str, Constant], opset: int) -> list[Node]:
    """Return the nodes that a fused node stands for, or the node itself; add the bounds of a Clip to the constants.

    `fresh` makes a name unique.
    """
    fused = of(node).fused
    if fused is None:
        return [node]
    made = node.outputs[0]
    activation = fused.activation or node.attributes.text("activation")
    if activation and activation not in (fused.activation, *_PARAMETERS):
        return [node]
    out = fresh(f"{made}.linear")
    linear = replace(
        node,
        op_type=fused.linear,
        domain="",
        inputs=node.inputs[: fused.operands],
        outputs=(out,),
        attributes=Attributes((k, a) for k, a in node.attributes.items() if not k.startswith("activation")),
    )
    nodes = [linear]
    if fused.added is not None and any(node.inputs[fused.added : fused.added + 1]):
        total = fresh(f"{made}.sum")
        nodes.append(node.beside("Add", (out, node.inputs[fused.added]), total))
        out = total
    if not activation:
        nodes[-1] = replace(nodes[-1], outputs=(made,))
        return nodes
    names = _PARAMETERS.get(activation, ())
    values = {n: float(a.f) for n in names if (a := node.attributes.get(f"activation_{n}")) is not None}
    if "activation_params" in node.attributes:
        values = dict(zip(names, map(float, node.attributes["activation_params"].floats), strict=False))
    if activation != "Clip" or opset < 11:
        last = node.beside(activation, (out,), made, **values)
        return [*nodes, replace(last, domain=node.domain if fused.activation else "")]
    inputs = [out]
    for bound in names:
        name = fresh(f"{made}.{bound}")
        tensor = helper.make_tensor(name, TensorProto.FLOAT, [], [values.get(bound, 0.0)])
        constants[name] = Constant(name, name, node.scope, "initializer", TensorProto.FLOAT, (), None, tensor)
        inputs.append(name)
    return [*nodes, node.beside(activation, tuple(inputs), made)]
