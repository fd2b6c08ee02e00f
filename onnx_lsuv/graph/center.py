"""Centre a layer's output: the mean of each channel goes, before the output is scaled.

A centred layer's record has a column for each channel. What is scaled is the output about its channels' means, whose
variance is the mean of the channels' variances, as all channels have the same number of values.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from onnx_lsuv.graph.builder import GraphBuilder
from onnx_lsuv.graph.moments import Moments, is_usable
from onnx_lsuv.graph.pooling import COUNT, MEAN, USE, VAR, Record
from onnx_lsuv.layers import Layer, channels_last


def within(builder: GraphBuilder, found: Moments) -> Moments:
    """Write the nodes that turn the moments of channels into those of the output about its channels' means."""
    square = builder.reduce("ReduceMean", builder.op("Mul", found.mean, found.mean), (0,), keep=True)
    return Moments(found.count, builder.op("Sqrt", square), builder.reduce("ReduceMean", found.var, (0,), keep=True))


def centred(builder: GraphBuilder, layer: Layer, raw: str, found: Moments, spread: Moments) -> str:
    """Take the channels' means away; where there is no variance to scale by, nothing.

    Args:
        builder: where to write.
        layer: the layer.
        raw: its output without a bias.
        found: the moments of its channels.
        spread: what `within` makes of them.
    """
    good = builder.cast(is_usable(builder, spread.mean, spread.var), TensorProto.DOUBLE)
    mean = builder.cast(builder.op("Mul", found.mean, good), layer.source.elem_type)
    if not channels_last(layer.node):
        mean = builder.reshape(mean, 1, -1, *(1 for _ in layer.source.shape[2:]))
    return builder.op("Sub", raw, mean)


def within_channels(record: Record) -> Record:
    """Return the record of an output about its channels' means, from that of its channels."""
    mean, var = record[MEAN], record[VAR]
    return np.array([[record[COUNT, 0]], [np.sqrt(np.mean(mean * mean))], [np.mean(var)], [record[USE, 0]]])
