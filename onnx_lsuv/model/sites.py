"""A site: where a message stands in a ModelProto, as steps from it down; which messages may stand where.

A step is the field that holds the message, by its number in onnx.proto, and which of the messages in that field it is.
The first node of a graph and of a function stand in fields of different numbers.
"""

from __future__ import annotations

from typing import NamedTuple

MODEL_GRAPH, MODEL_TRAINING, MODEL_FUNCTION = 7, 20, 25
TRAINING_START, TRAINING_STEP = 1, 2
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_INPUT, GRAPH_SPARSE = 1, 5, 11, 15
FUNCTION_NODE, FUNCTION_DEFAULT = 7, 11
NODE_INPUT, NODE_ATTRIBUTE = 1, 5
ATTRIBUTE_FLOAT, ATTRIBUTE_TENSOR, ATTRIBUTE_GRAPH, ATTRIBUTE_SPARSE = 2, 5, 6, 22
ATTRIBUTE_FLOATS, ATTRIBUTE_TENSORS, ATTRIBUTE_GRAPHS, ATTRIBUTE_SPARSES = 7, 10, 11, 23
SPARSE_VALUES, SPARSE_INDICES = 1, 2
TENSOR_EXTERNAL, ENTRY_VALUE = 13, 2

# message -> field number -> (message in that field, whether the field is repeated)
SCHEMA: dict[str, dict[int, tuple[str, bool]]] = {
    "model": {MODEL_GRAPH: ("graph", False), MODEL_TRAINING: ("training", True), MODEL_FUNCTION: ("function", True)},
    "training": {TRAINING_START: ("graph", False), TRAINING_STEP: ("graph", False)},
    "graph": {GRAPH_NODE: ("node", True), GRAPH_INITIALIZER: ("tensor", True), GRAPH_SPARSE: ("sparse", True)},
    "function": {FUNCTION_NODE: ("node", True), FUNCTION_DEFAULT: ("attribute", True)},
    "node": {NODE_ATTRIBUTE: ("attribute", True)},
    "attribute": {
        **{ATTRIBUTE_TENSOR: ("tensor", False), ATTRIBUTE_GRAPH: ("graph", False)},
        **{ATTRIBUTE_TENSORS: ("tensor", True), ATTRIBUTE_GRAPHS: ("graph", True)},
        **{ATTRIBUTE_SPARSE: ("sparse", False), ATTRIBUTE_SPARSES: ("sparse", True)},
    },
    "sparse": {SPARSE_VALUES: ("tensor", False), SPARSE_INDICES: ("tensor", False)},
    "tensor": {TENSOR_EXTERNAL: ("entry", True)},
    "entry": {},
}


class Step(NamedTuple):
    """The field, and which of the messages in it."""

    field: int
    nth: int = 0


Site = tuple[Step, ...]
MAIN_GRAPH: Site = (Step(MODEL_GRAPH),)


def function_of(site: Site) -> int | None:
    """Return the index of the function that a site lies in, None for one in a graph."""
    field, nth = site[0]
    return nth if field == MODEL_FUNCTION else None
