"""The order of execution, and what a loop hands on."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence

from onnx import AttributeProto, NodeProto

from onnx_lsuv.errors import ModelError


def in_order(protos: Sequence[NodeProto], outer: Container[str], where: str) -> Iterator[tuple[int, NodeProto]]:
    """Yield nodes and their indexes, each after those it reads from.

    ONNX wants files to be written so; ONNX Runtime sorts those that are not.

    Args:
        protos: the nodes of a scope.
        outer: the names that are known before them.
        where: what messages call the scope.

    Raises:
        ModelError: a value is made by no node, or only by one that depends on it.
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
