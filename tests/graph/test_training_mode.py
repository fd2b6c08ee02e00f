"""BatchNormalizations in training form, as new networks are exported: every model that has one, switched to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import oracle
import pytest
from corpus import CORPUS, LIGHT, SEEDS, batches_of, named
from onnx import GraphProto, ModelProto, helper
from oracle import normal, parse
from random_graphs import random_case

import onnx_lsuv


def norms(graph: GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        if node.op_type == "BatchNormalization":
            yield node
        for inner in oracle.graphs_of(node):
            yield from norms(inner)


def trained(model: ModelProto) -> int:
    """Switch the BatchNormalizations of a model to training; return how many there are."""
    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    found = [*norms(model.graph), *(n for f in model.functions for n in f.node if n.op_type == "BatchNormalization")]
    for i, node in enumerate(found):
        if opset >= 14:
            node.attribute.append(helper.make_attribute("training_mode", 1))
            node.output.extend([f"mean after {i}", f"var after {i}"])
        else:
            node.output.extend([f"{name} after {i}" for name in ("mean", "var", "saved mean", "saved var")])
    return len(found)


def check(
    model: ModelProto, batches: list[dict[str, np.ndarray]], folder: Path, seed: int = 0, *, recalibrate: bool = False
) -> None:
    source, target = folder / "in.onnx", folder / "out.onnx"
    onnx.save(model, source)
    result = onnx_lsuv.initialize(onnx_lsuv.load(source), batches, seed=seed, recalibrate=recalibrate)
    onnx_lsuv.save(result.model, target, force=True)
    result = onnx_lsuv.measure(onnx_lsuv.load(target), batches, like=result)
    missed = [(row.name, row.status, row.std, row.note) for row in result.layers if not row.good]
    assert not missed
    assert any(change.role == "statistics" for change in result.changes) or result.kept_statistics
    reported = {change.tensor for change in result.changes}
    assert oracle.changed_tensors(onnx.load(source), onnx.load(target), result.changes) <= reported


@pytest.mark.parametrize("entry", named("init", "partial"))
def test_corpus_model(entry: dict[str, object], tmp_path: Path) -> None:
    model = onnx.load(str(CORPUS / str(entry["file"])))
    if not trained(model):
        return  # nothing to switch
    batches = batches_of(entry)
    seed = SEEDS.get(str(entry["file"]), 0)
    check(model, batches[:1], tmp_path, seed)
    check(model, (batches * 2)[:2], tmp_path, seed)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) for n in ("shufflenet", "inception_v2", "densenet121")]
)
def test_light_model(name: str, tmp_path: Path) -> None:
    model = onnx.load(str(LIGHT / f"light_{name}.onnx"))
    assert trained(model)
    image = next(v.name for v in model.graph.input if len(v.type.tensor_type.shape.dim) == 4)
    x = np.random.default_rng(1).standard_normal((2, 1, 3, 224, 224), dtype=np.float32)
    check(model, [{image: x[0]}], tmp_path)
    check(model, [{image: each} for each in x], tmp_path)


@pytest.mark.parametrize("opset", [9, 13, 14, 17])
@pytest.mark.parametrize("batches", [1, 3])
def test_statistics_are_those_of_the_data(opset: int, batches: int, tmp_path: Path) -> None:
    more = "training_mode=1" if opset > 13 else "momentum=0.8"
    outputs = "y, new_mean, new_var" if opset > 13 else "y, new_mean, new_var, kept_mean, kept_var"
    model = parse(
        f"""<ir_version: 7, opset_import: ["" : {opset}]> g (float[N,3,8,8] x) => (float z, float q) {{
        c = Conv<pads=[1,1,1,1]>(x, w)
        {outputs} = BatchNormalization<{more}>(c, s, b, mu, va)
        r = Relu(y)
        z = Conv(r, v)
        q = Neg(new_mean)
    }}""",
        w=normal(8, 3, 3, 3),
        v=normal(4, 8, 1, 1),
        s=np.ones(8, np.float32),
        b=np.zeros(8, np.float32),
        mu=np.zeros(8, np.float32),
        va=np.ones(8, np.float32),
    )
    data = [{"x": normal(5, 3, 8, 8, seed=i) * np.float32(1 + i)} for i in range(batches)]
    check(model, data, tmp_path)
    after = onnx.load(tmp_path / "out.onnx")
    w, v = (np.asarray(oracle.tensor_of(after, name), np.float64) for name in "wv")
    c = np.concatenate([oracle.conv(batch["x"], w, None, pads=[1, 1, 1, 1]) for batch in data])
    assert c.std() == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(oracle.tensor_of(after, "mu"), c.mean((0, 2, 3)), atol=1e-4)
    np.testing.assert_allclose(oracle.tensor_of(after, "va"), c.var((0, 2, 3)), rtol=1e-4)
    y = (c - c.mean((0, 2, 3), keepdims=True)) / np.sqrt(c.var((0, 2, 3), keepdims=True) + 1e-5)
    assert oracle.conv(np.maximum(y, 0), v, None).std() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("batches", [1, 2])
def test_variances_that_half_precision_does_not_hold(batches: int, tmp_path: Path) -> None:
    model = parse(
        """<ir_version: 7, opset_import: ["" : 14]> g (float16[N,4,5,5] x) => (float16 y) {
        n = BatchNormalization(x, s, b, mu, va)
        c = Conv(n, w)
        y = Conv(c, v)
    }""",
        w=normal(8, 4, 1, 1, dtype=np.float16),
        v=normal(3, 8, 1, 1, dtype=np.float16),
        s=np.ones(4, np.float16),
        b=np.zeros(4, np.float16),
        mu=np.zeros(4, np.float16),
        va=np.ones(4, np.float16),
    )
    spread = np.float16([0, 1, 300, 1000]).reshape(4, 1, 1)
    data = [{"x": normal(8, 4, 5, 5, seed=i, dtype=np.float16) * spread} for i in range(batches)]
    check(model, data, tmp_path, recalibrate=True)
    # A constant channel has the least number above 0, and what is too large the largest.
    va = oracle.tensor_of(onnx.load(tmp_path / "out.onnx"), "va")
    assert va.tolist() == [2.0**-24, pytest.approx(1, rel=0.2), 65504, 65504]


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.few(10)
def test_random_net_gets_the_same_values_in_either_form(seed: int) -> None:
    case = random_case(seed)
    plain = onnx_lsuv.initialize(onnx_lsuv.from_proto(case.model), case.batches, **case.options)
    if not trained(case.model):
        return  # nothing to switch
    result = onnx_lsuv.initialize(onnx_lsuv.from_proto(case.model), case.batches, **case.options)
    one, other = (onnx.load_model_from_string(onnx_lsuv.to_bytes(each.model)) for each in (plain, result))
    for a, b in zip(one.graph.initializer, other.graph.initializer, strict=True):
        assert a == b, a.name
