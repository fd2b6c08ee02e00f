"""Write a SequenceMap as the Loop that it stands for, so that what is inside is a scope like any other.

    outputs = SequenceMap(sequence, others..., body)        empty = SequenceEmpty() for each output
                                                            length = SequenceLength(sequence)
                                                            outputs = Loop(length, , empty...,
                                                                body: each = SequenceAt(sequence, i), others alike
                                                                      the body's own nodes
                                                                      state = SequenceInsert(state, output))

An operand that is a tensor is the same for every element. (The function body in onnx/defs/sequence/defs.cc.) This is
done in the calibration graph only; the file keeps the SequenceMap.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from onnx import TensorProto, TypeProto, ValueInfoProto, helper

from onnx_lsuv.operators import Attributes, of
from onnx_lsuv.program.program import Body, Node, tensor_type


def made_sequences(node: Node, sequences: set[str]) -> list[str]:
    """Return which outputs of a node are sequences, by those among the values before it."""
    if of(node).makes_sequence or (node.op in ("Identity", "Optional") and not sequences.isdisjoint(node.inputs)):
        return [name for name in node.outputs if name]
    first = 1 if node.op_type == "Loop" else 0
    return [
        name
        for body in node.bodies.values()
        for name, value in zip(node.outputs, body.outputs[first:], strict=False)
        if name and (value.name in sequences or value.type.HasField("sequence_type"))
    ]


def as_loop(node: Node, scope: str, fresh: Callable[[str], str], sequences: set[str]) -> list[Node]:
    """Return the nodes that a SequenceMap stands for.

    Args:
        node: the SequenceMap.
        scope: of its body.
        fresh: makes a name unique.
        sequences: the names of the values before it that are sequences.
    """
    inner = node.bodies["body"]
    made = node.outputs[0]

    def name(what: str) -> str:
        return fresh(f"{made}.{what}")

    length, turn, going, gone = name("length"), name("turn"), name("going"), name("gone")
    types = [_sequence(value.type.tensor_type.elem_type) for value in inner.outputs]
    empty = [name(f"empty{i}") for i in range(len(types))]
    state = [name(f"state{i}") for i in range(len(types))]
    grown = [name(f"grown{i}") for i in range(len(types))]
    before = [_node(node, "SequenceLength", (node.inputs[0],), length)]
    for output, kind in zip(empty, types, strict=True):
        dtype = helper.make_attribute("dtype", kind.sequence_type.elem_type.tensor_type.elem_type)
        before.append(replace(_node(node, "SequenceEmpty", (), output), attributes=Attributes(dtype=dtype)))
    own = replace(node, scope=scope)
    nodes = [
        _node(own, "SequenceAt", (given, turn), formal.name)
        if i == 0 or given in sequences
        else _node(own, "Identity", (given,), formal.name)
        for i, (given, formal) in enumerate(zip(node.inputs, inner.inputs, strict=True))
    ]
    nodes += inner.nodes
    nodes += [
        _node(own, "SequenceInsert", (old, value.name), new)
        for old, value, new in zip(state, inner.outputs, grown, strict=True)
    ]
    nodes.append(_node(own, "Identity", (going,), gone))
    formals = [ValueInfoProto(name=turn, type=tensor_type(TensorProto.INT64, ()))]
    formals.append(ValueInfoProto(name=going, type=tensor_type(TensorProto.BOOL, ())))
    formals += [ValueInfoProto(name=each, type=kind) for each, kind in zip(state, types, strict=True)]
    results = [ValueInfoProto(name=gone, type=tensor_type(TensorProto.BOOL, ()))]
    results += [ValueInfoProto(name=each, type=kind) for each, kind in zip(grown, types, strict=True)]
    outputs = (*node.outputs, *("" for _ in types[len(node.outputs) :]))
    loop = replace(
        node,
        op_type="Loop",
        inputs=(length, "", *empty),
        outputs=outputs,
        bodies={"body": Body(tuple(nodes), tuple(formals), tuple(results))},
    )
    return [*before, loop]


def _sequence(elem_type: int) -> TypeProto:
    kind = TypeProto()
    # A body may leave the types of its outputs open.
    kind.sequence_type.elem_type.CopyFrom(tensor_type(elem_type or TensorProto.FLOAT, None))
    return kind


def _node(node: Node, op_type: str, inputs: tuple[str, ...], output: str) -> Node:
    return replace(
        node,
        label=f"{node.label}.{op_type}",
        op_type=op_type,
        inputs=inputs,
        outputs=(output,),
        attributes=Attributes(),
        bodies={},
    )
