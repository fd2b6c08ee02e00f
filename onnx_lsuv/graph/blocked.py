"""Convolutions in ONNX Runtime's blocked layout, NCHWc.

On processors with wide registers ONNX Runtime computes convolutions faster on tensors (N, C/b, H, W, b), b channels
side by side. It goes over to that layout by itself only where weights are constant; in a calibration graph they are
inputs. So the graph is written in that layout from the start, with ONNX Runtime's own operators for it (domain
com.microsoft.nchwc), and filters are brought into it by nodes:

    x   (N, C, H, W)     ->  (N, C/b, H, W, b)               ReorderInput; for fewer than b channels x stays as it is
    w   (M, C, kh, kw)   ->  (M/b, C/b, kh, kw, b of C, b of M)
    w   (M, C < b, ...) and depthwise (M, 1, ...)  ->  (M/b, C, kh, kw, b of M)

All of them are declared with the shape (N, C', H, W), C' being C rounded up to whole blocks; what fills the last
block is zero. An operator that treats every value alike works on either layout, and so do mean and variance, when the
zeros are not counted.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from onnx import NodeProto, helper

from onnx_lsuv.graph.builder import GraphBuilder
from onnx_lsuv.graph.nodes import proto_of
from onnx_lsuv.operators import Attributes
from onnx_lsuv.program import Node

DOMAIN = "com.microsoft.nchwc"
MULTIPLE = 4  # ReorderInput takes multiples of so many channels only


def padded(channels: int, block: int) -> int:
    """Return a number of channels, rounded up to whole blocks."""
    return -(-channels // block) * block


def stored(image: tuple[int, int, int, int], block: int) -> tuple[int, int, int, int]:
    """Return the shape under which an image in blocks is declared."""
    n, c, h, w = image
    return n, padded(c, block), h, w


def reads_plain(node: Node, shape: tuple[int, ...], block: int) -> bool | None:
    """Say whether a convolution of a weight's shape reads a plain image; None where it cannot be done in blocks.

    One that reads a plain image can read one in blocks as well.
    """
    m, c = shape[:2]
    group = node.int_attribute("group", 1)
    if m % MULTIPLE:
        return None
    if group == 1 and c < block:
        return True
    aligned = c % MULTIPLE == 0 if group == 1 else c == 1 and m == group
    return False if aligned or (c % block == 0 and (m // group) % block == 0) else None


def pools_in_blocks(node: Node) -> bool:
    """Say whether a pooling with one output does the same in blocks.

    ONNX Runtime's kernels differ in two cases: counted padding takes in what lies beyond it in `ceil_mode`, and
    automatic padding does not know of dilations, which was seen to read beyond the image.
    """
    if node.int_attribute("ceil_mode", 0) and node.int_attribute("count_include_pad", 0):
        return False
    dilated = any(d > 1 for d in node.ints_attribute("dilations") or ())
    automatic = "auto_pad" in node.attributes and node.attributes["auto_pad"].s not in (b"", b"NOTSET")
    return not (dilated and automatic)


def convolve(
    builder: GraphBuilder,
    node: Node,
    x: str,
    weight: str,
    factor: str | None,
    shape: tuple[int, ...],
    block: int,
    *,
    plain: bool,
) -> str:
    """Write a convolution without bias; return the name of its output in blocks.

    Args:
        builder: where to write.
        node: the convolution.
        x: its image, in blocks or, with `plain`, as it was.
        weight: the weight, as it was.
        factor: a number that the weight is multiplied by; None for 1.
        shape: the weight's shape (M, C/g, kh, kw).
        block: channels side by side.
        plain: see `x`.
    """
    m, c, *kernel = shape
    rows, places = padded(m, block), prod(kernel)
    depthwise = c == 1 and m == node.int_attribute("group", 1) > 1
    # (1, M, C * kh * kw, 1) as an image in blocks is (M/b, C * kh * kw, b).
    filters = builder.op("ReorderInput", builder.reshape(weight, 1, m, c * places, 1), domain=DOMAIN)
    if factor is not None:
        # Now that there is a copy, it is multiplied in place; and flat, see `GraphBuilder.multiply`.
        filters = builder.op("Mul", builder.reshape(filters, rows * c * places), factor)
    if not (plain or depthwise):
        columns = padded(c, block)
        if columns > c:
            filters = builder.reshape(filters, rows // block, c, places, block)
            zeros = builder.book.filled(0, rows // block, columns - c, places, block)
            filters = builder.op("Concat", filters, zeros, axis=1)
        if places > 1:
            filters = builder.reshape(filters, rows // block, columns // block, block, places, block)
            filters = builder.op("Transpose", filters, perm=[0, 1, 3, 2, 4])
        c = columns
    filters = builder.reshape(filters, rows, c, *kernel)
    if depthwise:
        group = helper.make_attribute("group", rows)
        node = replace(node, attributes=Attributes(node.attributes, group=group))
    raw = builder.book.fresh()
    builder.nodes.append(proto_of(replace(node, domain=DOMAIN, inputs=(x, filters), outputs=(raw,))))
    return raw


def add_product(builder: GraphBuilder, x: str, factor: str, total: str, channels: int) -> NodeProto:
    """Write total + factor * x for images in blocks; return the node.

    It is a depthwise convolution of one tap that adds to its sum in place: one pass over the values instead of two, and
    no new memory.

    Args:
        builder: where to write.
        x: an image in blocks.
        factor: a number.
        total: an image in blocks, which may be overwritten where nothing else reads it.
        channels: of both, those that fill the last block included.
    """
    taps = builder.op("Mul", builder.book.filled(1, channels, 1, 1, 1), factor)
    builder.op("Conv", x, taps, "", total, domain=DOMAIN, group=channels, kernel_shape=[1, 1])
    return builder.nodes[-1]


def scale_and_shift(builder: GraphBuilder, x: str, scale: str, shift: str, channels: int, block: int) -> NodeProto:
    """Write scale * x + shift for an image in blocks; return the node.

    Args:
        builder: where to write.
        x: an image in blocks.
        scale: a number for each channel, (C,).
        shift: the same.
        channels: C.
        block: channels side by side.
    """
    rows = padded(channels, block)
    if rows > channels:
        zeros = builder.book.filled(0, rows - channels)
        scale, shift = (builder.op("Concat", each, zeros, axis=0) for each in (scale, shift))
    taps = builder.reshape(scale, rows, 1, 1, 1)
    builder.op("Conv", x, taps, shift, domain=DOMAIN, group=rows, kernel_shape=[1, 1])
    return builder.nodes[-1]
