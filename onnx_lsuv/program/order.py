"""The order of execution.

A file may list nodes in any order that puts each after those it reads from, and ONNX Runtime may run them in another.
Where several uses of one weight do not depend on each other, "the first" must not depend on the list: it is the one
that fewest layers lie before, and of equals the one whose name comes first in the alphabet.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TypeVar

from onnx import NodeProto

from onnx_lsuv.errors import ModelError
from onnx_lsuv.program.program import Body, Node, walk
from onnx_lsuv.program.protos import names_read

T = TypeVar("T", bound=Hashable)


def in_order(protos: Sequence[NodeProto], outer: Container[str], where: str) -> Iterator[tuple[int, NodeProto]]:
    """Yield nodes and their indexes, each after those it reads from.

    ONNX wants files to be written so; ONNX Runtime sorts those that are not.

    Args:
        protos: the nodes of a scope.
        outer: the names that are known before them; those that the nodes make are added while this runs.
        where: what messages call the scope.

    Raises:
        ModelError: a value is made by no node, only by one that depends on it, or under another value's name.
    """
    makers = {name: i for i, proto in enumerate(protos) for name in proto.output if name}

    def before(at: int) -> Iterator[int]:
        for name in names_read(protos[at]):
            maker = makers.get(name)
            if maker is not None and maker != at:
                yield maker
            elif name in protos[at].input and (maker == at or name not in outer):
                raise ModelError(
                    f"Node {protos[at].name or protos[at].op_type!r} in {where} reads {name!r}, which no node before "
                    "it makes: the model is broken; export it again."
                )

    def circle(at: int) -> ModelError:
        through = protos[at].output[0]
        return ModelError(
            f"The nodes of {where} form a cycle through {through!r}: the model is broken; export it again."
        )

    for at in _each_after(range(len(protos)), before, circle):
        if taken := next((name for name in protos[at].output if name and name in outer), None):
            raise ModelError(
                f"Node {protos[at].name or protos[at].op_type!r} in {where} makes {taken!r}, a name that another value "
                "has there or in a scope around it, which ONNX does not allow: give one of them another name."
            )
        yield at, protos[at]


def _each_after(
    items: Iterable[T], before: Callable[[T], Iterable[T]], circle: Callable[[T], Exception]
) -> Iterator[T]:
    """Yield items in their order, but each after those before it; raise what `circle` gives where that cannot be."""
    done: set[T] = set()
    waiting: set[T] = set()
    for item in items:
        stack = [item]
        while stack:
            at = stack[-1]
            missing = [] if at in done else [each for each in before(at) if each not in done]
            if missing and at in waiting:
                raise circle(at)
            if missing:
                waiting.add(at)
                stack += reversed(missing)
            elif stack.pop() not in done:
                done.add(at)
                yield at


def execution_order(
    body: Body, used: Mapping[Node, Sequence[str]], ends: Mapping[Node, Node]
) -> dict[Body, tuple[Node, ...]]:
    """Return the order of the nodes of those scopes that use something more than once, each use after the first one.

    Args:
        body: a scope, and all inside it.
        used: what a node uses, as keys of weights or statistics.
        ends: the Add of a bias that ends a node's use.
    """
    orders: dict[Body, tuple[Node, ...]] = {}
    for node in body.nodes:
        for inner in node.bodies.values():
            orders |= execution_order(inner, used, ends)
    keys = {node: {key for each in _with_inner(node) for key in used.get(each, ())} for node in body.nodes}
    users: dict[str, list[Node]] = {}
    for node in body.nodes:
        for key in keys[node]:
            users.setdefault(key, []).append(node)
    several = [nodes for nodes in users.values() if len(nodes) > 1]
    if not several:
        return orders
    makers = {name: node for node in body.nodes for name in node.outputs if name}
    before = {
        node: [makers[n] for n in _names_read(node) if n in makers and makers[n] is not node]
        for node in makers.values()
    }
    depth: dict[Node, int] = {}
    for node in body.nodes:
        depth[node] = max((depth[each] + bool(keys[each]) for each in before.get(node, ())), default=0)
    for nodes in several:
        nodes.sort(key=lambda node: (depth[node], node.label))
        # Along such an edge depth does not fall, and at one depth the names rise: there is no circle.
        for one, other in pairwise(nodes):
            before[other].append(ends.get(one, one))
    orders[body] = tuple(_each_after(body.nodes, lambda node: before.get(node, ()), lambda _: AssertionError()))
    return orders


def _with_inner(node: Node) -> Iterator[Node]:
    """Yield a node and those inside its scopes."""
    yield node
    for inner in node.bodies.values():
        yield from walk(inner)


def _names_read(node: Node) -> Iterator[str]:
    """Yield the names that a node reads, those inside its scopes included (their own too: all are unique)."""
    for each in _with_inner(node):
        yield from each.inputs
        for inner in each.bodies.values():
            yield from (value.name for value in inner.outputs)
