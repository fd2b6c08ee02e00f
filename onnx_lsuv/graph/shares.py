"""Which part of a layer's variance depends on the sample: sums over the samples.

With x_np, sample n at position p, the variance has two parts (law of total variance),

    Var x = E_p[Var_n x_np] + Var_p(E_n x_np),          share = E_p[Var_n x_np] / Var x

and the second asks for nothing but the sums over the samples, which add up over batches. They are a product with ones:
ONNX Runtime reads the value once for it, and takes ten times as long for ReduceSum over the first axis.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from onnx import TensorProto, helper

from onnx_lsuv.graph.builder import ScopeBuilder, Value
from onnx_lsuv.graph.moments import GROUP_MAX
from onnx_lsuv.graph.samples import NOWHERE, Dims, Order, Samples

FEW = 1 << 19  # sums of a batch that the host takes as they are: a record of them is made of eight nodes more


def sums_in_blocks(
    samples: Samples | None, found: Mapping[str, Order | None], value: str, image: Dims, *, padded: bool, shifted: bool
) -> bool:
    """Say whether the sums over the samples are the same for an image in blocks (see `blocked`), or there are none."""
    order = found.get(value, NOWHERE)
    if samples is None or order is None:
        return True
    if order == NOWHERE:
        return samples.batches == 1
    # Zeros in the last block count as nothing in a record, but not about a mean, nor in sums that are joined later.
    exact = not padded or (samples.batches == 1 and not shifted)
    return samples.alike and exact and order == Order(1, prod(image[1:])) and order.inner > 1 and image[0] <= GROUP_MAX


def sums(
    scope: ScopeBuilder,
    samples: Samples,
    value: str,
    known: Value,
    found: Mapping[str, Order | None],
    held: tuple[str, int] | None = None,
) -> tuple[str, int, int] | None:
    """Write the sums over the samples at each position of a value, of one in blocks at each place that is `held`.

    Args:
        scope: the main graph.
        samples: how they lie in the data.
        value: what to sum.
        known: its element type, and its shape where that is known.
        found: how the samples lie in the values.
        held: the name of the value in blocks, and how many places a sample has there.

    Returns:
        The sums, their element type and number, 0 where that is not known; None where the samples are not known, or
        there is but one.
    """
    order = found.get(value, NOWHERE)
    if order is None or (order == NOWHERE and samples.batches == 1):
        return None
    elem_type, dims = known.elem_type, known.dims or ()
    if elem_type not in (TensorProto.FLOAT, TensorProto.DOUBLE):
        value, elem_type = scope.cast(value, TensorProto.FLOAT), TensorProto.FLOAT
    if order == NOWHERE:  # the whole batch is one sample; a Reshape that leaves the graph would copy it
        return value, elem_type, 0
    if samples.length > GROUP_MAX and elem_type == TensorProto.FLOAT:
        value, elem_type = scope.cast(value, TensorProto.DOUBLE), TensorProto.DOUBLE
    if order.inner == 1 or (not samples.alike and scope.graph.opset < 9):
        shaped = scope.reshape(value, order.outer, -1, order.inner)
        return scope.reduce("ReduceSum", shaped, (1,)), elem_type, order.outer * order.inner
    name, places = held or (value, order.inner)
    if held or order.outer > 1 or dims[1:] != (places,):  # else it is that matrix
        name = scope.reshape(name, order.outer, -1, places)
    return scope.op("MatMul", _ones(scope, samples, elem_type), name), elem_type, order.outer * order.inner


def _ones(scope: ScopeBuilder, samples: Samples, elem_type: int) -> str:
    """Return a row with a one for each sample; where batches differ it is written once."""
    if samples.alike:
        return scope.graph.filled(1, 1, samples.length, dtype=helper.tensor_dtype_to_np_dtype(elem_type).type)
    if elem_type not in scope.graph.ones:
        length = scope.op("Gather", scope.op("Shape", min(samples.counting)), scope.ints(0), axis=0)
        one = helper.make_tensor("one", elem_type, [1], [1])
        shape = scope.op("Concat", scope.ints(1), length, axis=0)
        scope.graph.ones[elem_type] = scope.op("ConstantOfShape", shape, value=one)
    return scope.graph.ones[elem_type]
