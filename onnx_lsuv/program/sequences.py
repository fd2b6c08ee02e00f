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

from onnx import TensorProto, helper

from onnx_lsuv.operators import of
from onnx_lsuv.program.program import Body, Node


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

    `scope` is that of its body, `fresh` makes a name unique, `sequences` are the values before it that are sequences.
    """
    inner, made = node.bodies["body"], node.outputs[0]
    own = replace(node, scope=scope)
    length, turn, going, gone = (fresh(f"{made}.{what}") for what in ("length", "turn", "going", "gone"))
    types = [
        value.type.tensor_type.elem_type or TensorProto.FLOAT for value in inner.outputs
    ]  # a body may leave them open
    empty, state, grown = (
        [fresh(f"{made}.{what}{i}") for i in range(len(types))] for what in ("empty", "state", "grown")
    )
    before = [node.beside("SequenceLength", node.inputs[:1], length)]
    before += [node.beside("SequenceEmpty", (), out, dtype=kind) for out, kind in zip(empty, types, strict=True)]
    nodes = [
        own.beside("SequenceAt", (given, turn), formal.name)
        if i == 0 or given in sequences
        else own.beside("Identity", (given,), formal.name)
        for i, (given, formal) in enumerate(zip(node.inputs, inner.inputs, strict=True))
    ]
    nodes += inner.nodes
    nodes += [
        own.beside("SequenceInsert", (old, value.name), new)
        for old, value, new in zip(state, inner.outputs, grown, strict=True)
    ]
    nodes.append(own.beside("Identity", (going,), gone))
    sequence = helper.make_tensor_sequence_value_info
    formals = [
        helper.make_tensor_value_info(turn, TensorProto.INT64, ()),
        helper.make_tensor_value_info(going, TensorProto.BOOL, ()),
        *(sequence(name, kind, None) for name, kind in zip(state, types, strict=True)),
    ]
    results = [
        helper.make_tensor_value_info(gone, TensorProto.BOOL, ()),
        *(sequence(name, kind, None) for name, kind in zip(grown, types, strict=True)),
    ]
    loop = replace(
        node,
        op_type="Loop",
        inputs=(length, "", *empty),
        outputs=(*node.outputs, *("" for _ in types[len(node.outputs) :])),
        bodies={"body": Body(tuple(nodes), tuple(formals), tuple(results))},
    )
    return [*before, loop]
