"""Random graphs whose equal vectors are merged come out as those do in which they never were."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import control_graphs
import numpy as np
import onnx
import onnxruntime
import oracle
import pytest
import random_graphs
from onnx import GraphProto, ModelProto, numpy_helper

import onnx_lsuv

CASES = [(control_graphs.control_case, seed) for seed in range(5)] + [
    (random_graphs.random_case, s) for s in (1, 4, 5, 8)
]
POSITIVE = {"BatchNormalization": (1, 4), "LayerNormalization": (1,)}


def graphs(graph: GraphProto) -> Iterator[GraphProto]:
    yield graph
    for node in graph.node:
        for inner in oracle.graphs_of(node):
            yield from graphs(inner)


def level(model: ModelProto, rng: np.random.Generator) -> None:
    """Let the vectors of a model be of ones or of zeros, as those of a new network."""
    found = list(graphs(model.graph))
    ones = {n.input[i] for g in found for n in g.node for i in POSITIVE.get(n.op_type, ()) if i < len(n.input)}
    for graph in found:
        for tensor in graph.initializer:
            array = numpy_helper.to_array(tensor)
            if array.dtype.kind == "f" and array.ndim == 1 and array.size > 1:
                number = 1 if tensor.name in ones else rng.integers(2)
                tensor.CopyFrom(numpy_helper.from_array(np.full_like(array, number), tensor.name))


def merge(model: ModelProto) -> int:
    """Store equal vectors of the main graph once, as exporters do; return how many are gone."""
    first: dict[Any, str] = {}
    others: dict[str, str] = {}
    for tensor in list(model.graph.initializer):
        array = numpy_helper.to_array(tensor)
        if array.dtype.kind == "f" and array.ndim == 1 and array.size > 1:
            name = first.setdefault((array.dtype, array.shape, array.tobytes()), tensor.name)
            if name != tensor.name:
                others[tensor.name] = name
                model.graph.initializer.remove(tensor)
    for graph in graphs(model.graph):
        assert not {value.name for value in graph.output} & set(others)
        for node in graph.node:
            node.input[:] = [others.get(name, name) for name in node.input]
    for value in [value for value in model.graph.input if value.name in others]:
        model.graph.input.remove(value)
    return len(others)


@pytest.mark.parametrize(("make", "seed"), CASES, ids=lambda each: str(getattr(each, "__name__", each)))
@pytest.mark.parametrize("choice", ["default", "untie", "center", "fresh"])
@pytest.mark.few(6)
def test_merged_vectors_make_no_difference(make: Any, seed: int, choice: str) -> None:
    case, apart, merged = make(seed), ModelProto(), ModelProto()
    apart.CopyFrom(case.model)
    level(apart, np.random.default_rng(seed))
    merged.CopyFrom(apart)
    assert merge(merged)
    options = {name: value for name, value in case.options.items() if name != "keep_bias"}
    options |= {choice: True} if choice != "default" else {}
    results = [onnx_lsuv.initialize(onnx_lsuv.from_proto(each), case.batches, **options) for each in (apart, merged)]
    saved = [onnx.load_from_string(onnx_lsuv.to_bytes(result.model)) for result in results]
    changes = results[1].changes
    assert oracle.changed_tensors(merged, saved[1], changes) <= {change.tensor for change in changes}
    for one, other in zip(results[0].layers, results[1].layers, strict=True):
        assert (one.name, one.init, one.status) == (other.name, other.init, other.status)
        assert (one.scale or 0) == pytest.approx(other.scale or 0, rel=1e-5)
    sessions = [onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]) for m in saved]
    for batch in case.batches:
        for right, found in zip(*(session.run(None, dict(batch)) for session in sessions), strict=True):
            np.testing.assert_allclose(found, right, rtol=1e-3, atol=1e-4 * np.abs(right).max(initial=0))
