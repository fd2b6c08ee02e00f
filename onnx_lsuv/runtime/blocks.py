"""The CPU's layout for convolutions, as `graph.blocked` writes it: how wide its blocks are, and whether it is the same.

Its operators are ONNX Runtime's own, and documented nowhere: another version may drop them, or give them another
meaning. So once a process a small graph is computed both ways, by plain operators and in blocks. Where the results
differ, or ONNX Runtime refuses a node, the plain layout is used.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod

import numpy as np
from onnx import NodeProto, helper, numpy_helper

from onnx_lsuv.graph import blocked
from onnx_lsuv.graph.builder import GraphBuilder, ScopeBuilder
from onnx_lsuv.operators import Attributes
from onnx_lsuv.program import Node
from onnx_lsuv.runtime.package import small_session

_LIMITS = (-2.0, 3.0)


@lru_cache(maxsize=1)
def block() -> int:
    """Return how many channels stand side by side; 1 where there is no such layout, or it is not as expected."""
    try:
        width = _width()
        return width if width > 1 and _is_as_expected(width) else 1
    except Exception:  # what ONNX Runtime refuses
        return 1


def _width() -> int:
    """See how many channels fewer than a block become."""
    few = numpy_helper.from_array(np.zeros((1, blocked.MULTIPLE, 1, 1), np.float32), "x")
    scope = ScopeBuilder(GraphBuilder(13, "probe", 1))
    made = scope.op("ReorderInput", "x", domain=blocked.DOMAIN)
    return int(small_session(scope.nodes, [made], [few]).run(None, {})[0].shape[1])


def _is_as_expected(width: int) -> bool:
    """Compute convolutions, a norm, a sum, pooling and statistics both ways; say whether they give the same."""
    c = width + blocked.MULTIPLE  # the last block is not full
    shapes = {"x": (1, 3, 6, 6), "w": (c, 3, 3, 3), "v": (c, c, 3, 3), "u": (c, 1, 3, 3), "s": (c,), "t": (c,), "f": ()}
    shapes |= {"e": (3, 5, width)}
    values = {name: np.cos(np.arange(prod(shape), dtype=np.float32)) for name, shape in shapes.items()}
    constants = [numpy_helper.from_array(values[name].reshape(shape), name) for name, shape in shapes.items()]
    scope = ScopeBuilder(GraphBuilder(13, "probe", 1))
    plain, found = _write_plain(scope, c), _write_in_blocks(scope, shapes, width)
    constants += scope.graph.constants.values()
    results = small_session(scope.nodes, [*plain, *found], constants).run(None, {})
    pairs = zip(results[: len(plain)], results[len(plain) :], strict=True)
    return all(a.shape == b.shape and np.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in pairs)


def _write_plain(scope: ScopeBuilder, c: int) -> list[str]:
    scaled = scope.op("Mul", scope.op("Conv", "x", "w"), scope.reshape("s", 1, c, 1, 1))
    first = scope.op("Relu", scope.op("Add", scaled, scope.reshape("t", 1, c, 1, 1)))
    second, third = scope.op("Conv", first, "v"), scope.op("Conv", first, "u", group=c)
    limits = (scope.graph.constant(limit, np.float32) for limit in _LIMITS)
    total = scope.op("Clip", scope.op("Add", scope.op("Mul", second, "f"), scope.op("Mul", third, "f")), *limits)
    pools = (scope.op(pool, second, kernel_shape=[2, 2]) for pool in ("MaxPool", "AveragePool"))
    return [first, total, *pools, *(scope.reduce(op, "e", (1,)) for op in ("ReduceMean", "ReduceSumSquare"))]


def _write_in_blocks(scope: ScopeBuilder, shapes: dict[str, tuple[int, ...]], width: int) -> list[str]:
    c, rows = shapes["w"][0], blocked.padded(shapes["w"][0], width)

    def conv(x: str, weight: str, factor: str | None, group: int = 1) -> str:
        node = Node("", "", "Conv", "", (x, weight), ("",), Attributes(group=helper.make_attribute("group", group)), {})
        return blocked.convolve(scope, node, x, weight, factor, shapes[weight], width, plain=x == "x")

    def ending(made: NodeProto, activation: str, *limits: float) -> str:
        made.attribute.append(helper.make_attribute("activation", activation))
        made.attribute.extend([helper.make_attribute("activation_params", limits)] if limits else [])
        return str(made.output[0])

    def plain(value: str) -> str:
        return scope.op("ReorderOutput", value, domain=blocked.DOMAIN, channels=c)

    first = plain(ending(blocked.scale_and_shift(scope, conv("x", "w", None), "s", "t", c, width), "Relu"))
    again = scope.op("ReorderInput", first, domain=blocked.DOMAIN)
    second, third = conv(again, "v", None), conv(again, "u", None, c)
    pools = [scope.op(op, second, domain=blocked.DOMAIN, kernel_shape=[2, 2]) for op in ("MaxPool", "AveragePool")]
    total = blocked.add_product(scope, third, "f", conv(again, "v", "f"), rows)
    sums = [scope.reshape(each, 3, width) for each in blocked.sums_by_lanes(scope, "e", 3 * width, 5)]
    return [first, plain(ending(total, "Clip", *_LIMITS)), *map(plain, pools), *sums]
