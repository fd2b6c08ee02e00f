"""Close stages into models that ONNX Runtime can load.

Of repeated blocks come stages that differ in names alone: `likeness` tells them, and one session serves them all.
"""

from __future__ import annotations

from collections.abc import Mapping, Set

from onnx import ModelProto, TensorProto, TypeProto, ValueInfoProto, helper

from onnx_lsuv.graph.blocked import DOMAIN
from onnx_lsuv.graph.models import BFLOAT16, add_constants, input_of, model_of, scopes_of, with_rank
from onnx_lsuv.graph.stages import Calibration, Stage, reads_of
from onnx_lsuv.model import in_float32
from onnx_lsuv.program import tensor_type

# Domains whose operators keep nothing from one run to the next, chance aside.
_STATELESS = frozenset({"", "ai.onnx.ml", "com.microsoft", DOMAIN})


def close(
    calibration: Calibration, stage: Stage, fed: Set[str], types: Mapping[str, TypeProto], *, wide: bool = False
) -> ModelProto:
    """Return a stage as a model.

    Args:
        calibration: what the stage belongs to.
        stage: one of its stages.
        fed: the constants that come in as inputs; the others stand in the model.
        types: the types of the carried values.
        wide: compute in float32 what is bfloat16.
    """
    program, values = calibration.program, calibration.values
    graph_inputs = {value.name: value for value in program.body.inputs}
    inputs = [graph_inputs[name] for name in stage.inputs]
    inputs += [input_of(program.constants[name]) for name in stage.constants if name in fed]
    inputs += [ValueInfoProto(name=n, type=tensor_type(TensorProto.DOUBLE, None)) for n in stage.pooled]
    inputs += [ValueInfoProto(name=n, type=with_rank(types[n], values.get(n))) for n in stage.carried]
    # The type of an output may be left open; ONNX Runtime infers it.
    outputs = [ValueInfoProto(name=n) for n in dict.fromkeys((*stage.cuts, *stage.finals, *stage.kept))]
    read = {name for node in stage.nodes for name in reads_of(node)}
    graph = helper.make_graph(stage.nodes, "calibration", inputs, outputs)
    add_constants(graph, program, set(stage.constants) - fed)
    graph.initializer.extend(t for name, t in calibration.graph.constants.items() if name in read)
    sparse = program.model.proto.graph.sparse_initializer
    graph.sparse_initializer.extend(tensor for tensor in sparse if tensor.values.name in read)
    model = model_of(program, graph)
    if wide:
        in_float32(model, BFLOAT16)
    return model


def likeness(model: ModelProto) -> tuple[bytes, tuple[str, ...]] | None:
    """Return what models share that differ in names alone, and this one's names, in the same order for all of them.

    None where a session must not run several: its nodes keep something from run to run, or have scopes of their own.
    """
    names: dict[str, str] = {"": ""}

    def numbered(name: str) -> str:
        return names.setdefault(name, str(len(names)))

    copy = ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    for node in graph.node:
        if node.domain not in _STATELESS or scopes_of(node) or any(a.name == "seed" for a in node.attribute):
            return None
        node.name = ""
        node.input[:] = map(numbered, node.input)
        node.output[:] = map(numbered, node.output)
    for named in (*graph.input, *graph.output, *graph.initializer):
        named.name = numbered(named.name)
    for sparse in graph.sparse_initializer:
        sparse.values.name = numbered(sparse.values.name)
    for listed in (graph.input, graph.output, graph.initializer):
        listed.sort(key=lambda each: int(each.name))
    return copy.SerializeToString(deterministic=True), tuple(names)
