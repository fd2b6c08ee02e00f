"""The order of execution, and what a loop hands on.

A file may list nodes in any order that puts each after those it reads from, and ONNX Runtime may run them in another.
Where several uses of one weight do not depend on each other, "the first" must not depend on the list: it is the one
that fewest layers lie before, and of equals the one whose name comes first in the alphabet.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from itertools import pairwise

from onnx import AttributeProto, NodeProto

from onnx_lsuv.errors import ModelError
from onnx_lsuv.program.program import Body, Constant, Node, integers, known, walk

TRIPS_MAX = 1 << 31  # half an hour at the very least


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
    done: set[int] = set()
    for i in range(len(protos)):
        stack = [i]
        waiting: set[int] = set()
        while stack:
            at = stack[-1]
            if at in done:
                stack.pop()
                continue
            missing = []
            for name in _reads(protos[at]):
                if name in makers and makers[name] not in done and makers[name] != at:
                    missing.append(makers[name])
                elif name in protos[at].input and (
                    makers.get(name) == at or (name not in makers and name not in outer)
                ):
                    raise ModelError(
                        f"Node {protos[at].name or protos[at].op_type!r} in {where} reads {name!r}, which no "
                        "node before it makes: the model is broken; export it again."
                    )
            if not missing:
                stack.pop()
                done.add(at)
                if taken := next((name for name in protos[at].output if name and name in outer), None):
                    raise ModelError(
                        f"Node {protos[at].name or protos[at].op_type!r} in {where} makes {taken!r}, a name that "
                        "another value has there or in a scope around it, which ONNX does not allow: give one of them "
                        "another name."
                    )
                yield at, protos[at]
            elif at in waiting:
                raise ModelError(
                    f"The nodes of {where} form a cycle through {protos[at].output[0]!r}: "
                    "the model is broken; export it again."
                )
            else:
                waiting.add(at)
                stack += reversed(missing)


def _reads(proto: NodeProto) -> Iterator[str]:
    """Yield the names that a node reads, those inside its graphs included."""
    yield from (name for name in proto.input if name)
    for attribute in proto.attribute:
        if attribute.type == AttributeProto.GRAPH:
            own = {name for node in attribute.g.node for name in node.output}
            own |= {value.name for value in attribute.g.input} | {t.name for t in attribute.g.initializer}
            for node in attribute.g.node:
                yield from (name for name in _reads(node) if name not in own)
            yield from (value.name for value in attribute.g.output if value.name not in own)


def check_trips(body: Body, constants: Mapping[str, Constant]) -> None:
    """Raise ModelError for a loop that runs more often than anybody can wait for, as nothing ends it before."""
    for node in walk(body):
        trips = integers(constants, node.inputs[0]) if node.op == "Loop" else None
        if trips and trips[0] > TRIPS_MAX and not _may_end(node, constants):
            raise ModelError(
                f"The Loop {node.label!r} runs {trips[0]} times, and no condition ends it before: the model is broken; "
                "export it again."
            )


def _may_end(loop: Node, constants: Mapping[str, Constant]) -> bool:
    """Say whether a loop's condition can become false: it comes neither from a constant nor from itself."""
    body = loop.bodies["body"]
    makers = {output: node for node in body.nodes for output in node.outputs}
    name = body.outputs[0].name
    while name in makers and makers[name].op == "Identity":
        name = makers[name].inputs[0]
    first = loop.inputs[1] if len(loop.inputs) > 1 else ""
    for each in (name, first):
        if each and each != body.inputs[1].name and not ((value := known(constants, each)) is not None and value.all()):
            return True
    return False


def invariant_states(proto: NodeProto) -> list[int]:
    """Return which states a loop hands on unchanged, as jax2onnx writes the constants of lax.scan."""
    body = next(a.g for a in proto.attribute if a.name == "body")
    maker = {o: n for n in body.node for o in n.output if o}
    loop = proto.op_type == "Loop"
    scanned = next((a.i for a in proto.attribute if a.name == "num_scan_inputs"), 0)
    states = len(proto.input) - (2 if loop else scanned)
    result = []
    for k in range(states):
        end = body.output[k + loop].name
        while end in maker and maker[end].op_type == "Identity" and maker[end].domain in ("", "ai.onnx"):
            end = maker[end].input[0]
        if end == body.input[k + 2 * loop].name:
            result.append(k)
    return result


def settled_order(
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
            orders |= settled_order(inner, used, ends)
    keys = {node: {key for each in (node, *_inside(node)) for key in used.get(each, ())} for node in body.nodes}
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
    orders[body] = tuple(_sorted(body.nodes, before))
    return orders


def _sorted(nodes: Sequence[Node], before: Mapping[Node, Sequence[Node]]) -> Iterator[Node]:
    """Yield nodes in their order, but each after those before it."""
    done: set[Node] = set()
    for node in nodes:
        stack = [node]
        while stack:
            missing = [each for each in before.get(stack[-1], ()) if each not in done]
            if missing:
                stack += reversed(missing)
            elif (top := stack.pop()) not in done:
                done.add(top)
                yield top


def _inside(node: Node) -> Iterator[Node]:
    for inner in node.bodies.values():
        yield from walk(inner)


def _names_read(node: Node) -> Iterator[str]:
    """Yield the names that a node reads, those inside its scopes included (their own too: all are unique)."""
    for each in (node, *_inside(node)):
        yield from each.inputs
        for inner in each.bodies.values():
            yield from (value.name for value in inner.outputs)
