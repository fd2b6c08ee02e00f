"""Loops: how often they may run, and what they hand on unchanged, as jax2onnx writes the constants of lax.scan."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import NodeProto

from onnx_lsuv.errors import ModelError
from onnx_lsuv.program.program import DEFAULT_DOMAINS, Body, Constant, Node, integers, known, walk

TRIPS_MAX = 1 << 31  # half an hour at the very least


def hoisted(proto: NodeProto, names: dict[str, str]) -> tuple[list[str], list[str], dict[str, str], frozenset[int]]:
    """Take the states that a Loop or Scan hands on unchanged out of it; name its outputs that they are.

    Returns:
        The inputs and outputs that it still has, what the formal inputs of its body that it no longer has stand for,
        and the positions of the body's outputs that it no longer has.
    """
    body = next(a.g for a in proto.attribute if a.name == "body")
    makers = {output: node for node in body.node for output in node.output if output}
    loop = proto.op_type == "Loop"
    # Loop(trips, condition, states...), its body (turn, condition, states...) -> (condition, states..., scanned...)
    skip, after = (2, 1) if loop else (0, 0)
    scanned = next((a.i for a in proto.attribute if a.name == "num_scan_inputs"), 0)
    inputs, outputs = list(proto.input), list(proto.output)
    formals: dict[str, str] = {}
    dropped = set()
    for k in reversed(range(len(inputs) - (skip if loop else scanned))):
        end, formal = body.output[k + after].name, body.input[k + skip].name
        while end in makers and makers[end].op_type == "Identity" and makers[end].domain in DEFAULT_DOMAINS:
            end = makers[end].input[0]
        if end == formal:
            formals[formal] = names[inputs.pop(k + skip)]
            dropped.add(k + after)
            if k < len(outputs) and (output := outputs.pop(k)):
                names[output] = formals[formal]
    return inputs, outputs, formals, frozenset(dropped)


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
    own = ("", body.inputs[1].name)
    return any(
        each not in own and not ((value := known(constants, each)) is not None and value.all())
        for each in (name, first)
    )
