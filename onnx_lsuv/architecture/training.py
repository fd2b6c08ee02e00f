"""Graphs that compute gradients, as ONNX Runtime Training makes them: their inputs are more than the network's."""

from __future__ import annotations

from collections.abc import Iterable

from onnx import NodeProto

from onnx_lsuv.errors import ModelError, quote
from onnx_lsuv.operators import of

# At the end of a graph that is only evaluated (eval_model.onnx).
LOSSES = frozenset({"SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss"})


def refuse_training(name: str, nodes: Iterable[NodeProto], *, lossy: bool = False) -> None:
    """Raise ModelError for a graph that trains, or steps an optimizer; with `lossy`, that ends in a loss too."""
    for node in nodes:
        if of(node).left == "training" or (lossy and node.op_type in LOSSES):
            raise ModelError(
                f"{name} should be a network, but is a graph that ONNX Runtime Training made of one (it has "
                f"{quote(node.op_type)}): give the forward model that it was made of"
            )
