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

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from onnx import NodeProto, helper

from onnx_lsuv.graph.builder import ScopeBuilder
from onnx_lsuv.operators import Attributes
from onnx_lsuv.program import Node

DOMAIN = "com.microsoft.nchwc"
MULTIPLE = 4  # ReorderInput takes multiples of so many channels only


def padded(channels: int, block: int) -> int:
    """Return a number of channels, rounded up to whole blocks."""
    return -(-channels // block) * block


def reads_plain(node: Node, shape: tuple[int, ...], block: int) -> bool | None:
    """Say whether a convolution of a weight's shape reads a plain image; None where it cannot be done in blocks.

    One that reads a plain image can read one in blocks as well.
    """
    (m, c), group = shape[:2], node.attributes.integer("group", 1)
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
    if node.attributes.integer("ceil_mode", 0) and node.attributes.integer("count_include_pad", 0):
        return False
    dilated = any(d > 1 for d in node.attributes.integers("dilations") or ())
    return not (dilated and node.attributes.text("auto_pad") not in ("", "NOTSET"))


def convolve(
    scope: ScopeBuilder,
    node: Node,
    x: str,
    weight: str,
    factor: str | None,
    shape: Sequence[int],
    block: int,
    *,
    plain: bool,
) -> str:
    """Write a convolution without bias by a weight of a shape, times a factor; return its output in blocks.

    The image x is in blocks or, with `plain`, as it was; the weight (M, C/g, kh, kw) is as it was.
    """
    m, c, *kernel = shape
    rows, places = padded(m, block), prod(kernel)
    # (1, M, C * kh * kw, 1) as an image in blocks is (M/b, C * kh * kw, b).
    filters = scope.op("ReorderInput", scope.reshape(weight, 1, m, c * places, 1), domain=DOMAIN)
    if factor is not None:
        # Now that there is a copy, it is multiplied in place; and flat, see `ScopeBuilder.multiply`.
        filters = scope.op("Mul", scope.reshape(filters, rows * c * places), factor)
    if c == 1 and m == node.attributes.integer("group", 1) > 1:  # depthwise
        node = replace(node, attributes=Attributes(node.attributes, group=helper.make_attribute("group", rows)))
    elif not plain:
        columns = padded(c, block)
        if columns > c:
            filters = scope.reshape(filters, rows // block, c, places, block)
            zeros = scope.graph.filled(0, rows // block, columns - c, places, block)
            filters = scope.op("Concat", filters, zeros, axis=1)
        if places > 1:
            filters = scope.reshape(filters, rows // block, columns // block, block, places, block)
            filters = scope.op("Transpose", filters, perm=[0, 1, 3, 2, 4])
        c = columns
    return scope.copy(node, (x, scope.reshape(filters, rows, c, *kernel)), domain=DOMAIN)


def add_product(scope: ScopeBuilder, x: str, factor: str, total: str, channels: int) -> NodeProto:
    """Write total + factor * x, x and the total being images in blocks of so many channels in all; return the node.

    It is a depthwise convolution of one tap that adds to its sum in place where nothing else reads that: one pass over
    the values instead of two, and no new memory.
    """
    taps = scope.op("Mul", scope.graph.filled(1, channels, 1, 1, 1), factor)
    scope.op("Conv", x, taps, "", total, domain=DOMAIN, group=channels, kernel_shape=[1, 1])
    return scope.nodes[-1]


def scale_and_shift(scope: ScopeBuilder, x: str, scale: str, shift: str, channels: int, block: int) -> NodeProto:
    """Write scale * x + shift for an image x in blocks, two numbers a channel; return the node."""
    rows = padded(channels, block)
    scale, shift = (filled_up(scope, each, channels, rows) for each in (scale, shift))
    taps = scope.reshape(scale, rows, 1, 1, 1)
    scope.op("Conv", x, taps, shift, domain=DOMAIN, group=rows, kernel_shape=[1, 1])
    return scope.nodes[-1]


def sums_by_lanes(scope: ScopeBuilder, x: str, number: int, length: int) -> tuple[str, str]:
    """Write the mean, and the sum of squares, of the values of each lane, in float32, (1, lanes, 1, 1).

    A block of lanes are neighbours in memory, and the next value of each comes after all others of its block. So an
    image in blocks has them, and any other value. Each is a channel of an image of length x 1 places, of which the pool
    is the mean, and the convolution with itself the sum of squares: ONNX Runtime reads at the speed of memory for both,
    and takes four times as long for ReduceSumSquare.
    """
    image, kernel = scope.reshape(x, 1, number, length, 1), [length, 1]
    mean = scope.op("AveragePool", image, domain=DOMAIN, kernel_shape=kernel)
    filters = scope.reshape(x, number, 1, length, 1)
    squares = scope.op("Conv", image, filters, domain=DOMAIN, group=number, kernel_shape=kernel)
    return mean, squares


def filled_up(scope: ScopeBuilder, vector: str, length: int, rows: int) -> str:
    """Write zeros behind the numbers of some channels, up to whole blocks."""
    return vector if rows == length else scope.op("Concat", vector, scope.graph.filled(0, rows - length), axis=0)
