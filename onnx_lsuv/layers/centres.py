"""Which layers have a bias of their own that can give each channel of their output a mean of zero."""

from __future__ import annotations

from dataclasses import dataclass

from onnx_lsuv.layers.plan import Layer, Plan
from onnx_lsuv.operators import bias_position, of
from onnx_lsuv.program.program import Node
from onnx_lsuv.roles.products import uses
from onnx_lsuv.sources.moves import Source
from onnx_lsuv.sources.tracing import trace


@dataclass(frozen=True, slots=True, eq=False)
class Centre:
    """The bias that a layer's channels can be centred by."""

    bias: str  # the constant
    channels: int
    factor: float  # what the layer multiplies it by


def channels_last(node: Node) -> bool:
    """Say whether a centred layer's channels are its output's last axis; else they are axis 1."""
    return of(node).channels == -1


def find_centres(plan: Plan) -> dict[str, Centre]:
    """Return, by weight key, the layers that have a bias with one value a channel that nothing else uses.

    A weight that several layers use has no such bias, nor has a layer in a branch or a loop.
    """
    top, found = set(plan.program.body.nodes), {}
    for key, weight in plan.weights.items():
        if len(weight.layers) == 1 and weight.layers[0].node in top and (centre := _centre(plan, weight.layers[0])):
            found[key] = centre
    return found


def _centre(plan: Plan, layer: Layer) -> Centre | None:
    node = layer.node
    if of(node).channels is None or not layer.scaled or layer.stays:
        return None
    if len(layer.source.shape) < 2 or layer.position != 1 or len(layer.bias) != 1 or layer.bias[0] not in plan.zeroed:
        return None
    own = bias_position(node, layer.position)
    if layer.end is not node:
        operands = layer.end.inputs
    elif own is not None:
        operands = node.inputs[own : own + 1]
    else:
        return None
    source = next((each for name in operands if isinstance(each := trace(plan.program, name), Source)), None)
    if source is None or source.partial or source.rounding:
        return None
    if len(list(uses(plan.program, layer.bias[0]))) != 1:
        return None
    channels = layer.matrix.fan_out * (layer.matrix.side_by_side if channels_last(node) else layer.matrix.blocks)
    after = 0 if channels_last(node) or layer.end is node else len(layer.source.shape) - 2
    # Behind moves it has one value a channel, wherever these are.
    along = layer.moved or (len(source.shape) > after and source.shape[-1 - after] == channels)
    if source.size != channels or not along:
        return None
    return Centre(layer.bias[0], channels, node.attributes.real("beta", 1.0) if node.op_type == "Gemm" else 1.0)
