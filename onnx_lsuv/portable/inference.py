"""BatchNormalization and Dropout in the form that importers expect: inference, one output.

The frameworks switch to training themselves. Importers fail on a BatchNormalization in training form, on the mere
presence of its `training_mode` attribute, and read the wrong value where a Dropout has a second output.
"""

from __future__ import annotations

from onnx import GraphProto

from onnx_lsuv.portable.draft import Draft
from onnx_lsuv.portable.scopes import all_graphs, attribute_of, drop_attributes, graphs_of, is_op, label_of
from onnx_lsuv.program.protos import free_names


def settle_norms(draft: Draft) -> None:
    """Take the `training_mode` attribute and unread outputs off each BatchNormalization."""
    for graph in all_graphs(draft.graph):
        read = _read_names(graph)
        for node in graph.node:
            mode = attribute_of(node, "training_mode")
            if not is_op(node, "BatchNormalization") or (mode is None and len(node.output) == 1):
                continue
            if any(name in read for name in node.output[1:]):
                draft.notes.append(
                    f"BatchNormalization {label_of(node)!r} stays in training form, as something reads its statistics."
                )
                continue
            drop_attributes(node, "training_mode")
            del node.output[1:]
            draft.did(
                "BatchNormalization put in inference form", label_of(node), "the framework itself switches to training"
            )


def settle_dropouts(draft: Draft) -> None:
    """Take `training_mode` and an unread mask off each Dropout."""
    known = draft.initializers()
    for graph in all_graphs(draft.graph):
        read = _read_names(graph)
        for node in graph.node:
            if not is_op(node, "Dropout"):
                continue
            before = (len(node.input), len(node.output))
            if len(node.output) > 1 and node.output[1] not in read:
                del node.output[1:]
            # Whether to train may also be an input of the graph; that stays.
            if len(node.input) > 2 and (not node.input[2] or node.input[2] in known):
                del node.input[2:]
            while len(node.input) > 1 and not node.input[-1]:
                del node.input[-1]
            if (len(node.input), len(node.output)) != before:
                draft.did("Dropout put in inference form", label_of(node), "the framework itself switches to training")


def _read_names(graph: GraphProto) -> set[str]:
    read = {value.name for value in graph.output}
    for node in graph.node:
        read.update(node.input)
        for inner in graphs_of(node):
            read.update(free_names(inner))
    return read
