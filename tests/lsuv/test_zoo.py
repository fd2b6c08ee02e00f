"""The light models that come with onnx: real architectures whose weights are made by ConstantOfShape."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import oracle
import pytest
from corpus import LIGHT
from typer.testing import CliRunner

from onnx_lsuv import Change
from onnx_lsuv.cli import app

# Samples, and the number of layers that the architecture has.
MODELS = {
    "squeezenet": (8, 26),
    "inception_v1": (2, 58),
    "resnet50": (8, 54),
    "bvlc_alexnet": (2, 8),
    "zfnet512": (2, 8),
}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that is emptied at once: some of these models are hundreds of megabytes once they have weights."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize(
    "name", ["squeezenet", *(pytest.param(n, marks=pytest.mark.slow) for n in MODELS if n != "squeezenet")]
)
def test_light_model(folder: Path, name: str) -> None:
    samples, layers = MODELS[name]
    source, target, report = LIGHT / f"light_{name}.onnx", folder / "out.onnx", folder / "report.json"
    before = onnx.load(str(source))
    shape = [d.dim_value for d in _inputs(before)[0].type.tensor_type.shape.dim]
    assert shape[0] == 1
    x = np.random.default_rng(1).standard_normal((samples, *shape[1:]), dtype=np.float32)
    np.save(folder / "x.npy", x)
    # The batch axis is fixed to 1, so the samples are as many batches.
    arguments = [
        str(source),
        "-d",
        str(folder / "x.npy"),
        "-o",
        str(target),
        "--report",
        str(report),
        "--device",
        "cpu",
    ]
    ran = CliRunner().invoke(app, arguments)
    assert ran.exit_code == 0, ran.stderr or ran.exception
    document = json.loads(report.read_text())
    assert document["good"]
    assert len(document["layers"]) == layers
    assert {row["status"] for row in document["layers"]} == {"ok"}
    assert document["data"]["batches"] == samples
    assert document["left"] == []

    after = onnx.load(str(target))
    changed = oracle.changed_tensors(before, after, [Change(**each) for each in document["changes"]])
    assert changed <= {change["tensor"] for change in document["changes"]}
    assert {row["weight"] for row in document["layers"]} <= changed
    blocks = oracle.operand_blocks(after)
    checked = 0
    for row in document["layers"]:
        if not row["path"]:
            assert oracle.orthonormality(blocks[row["name"]]) < 1e-3, row["name"]
            checked += 1
    assert checked >= layers - 1
    where = oracle.layer_values(after)
    values = [where[row["name"]] for row in document["layers"]]
    found = oracle.measure(target, [{_inputs(after)[0].name: x[i : i + 1]} for i in range(samples)], values)
    assert {n: m.var for n, m in found.items()} == pytest.approx(dict.fromkeys(values, 1), abs=0.005)


def _inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    given = {tensor.name for tensor in model.graph.initializer}
    made = {node.output[0] for node in model.graph.node if node.op_type == "ConstantOfShape"}
    return [value for value in model.graph.input if value.name not in given | made]
