"""New networks from PyTorch's exporters: statistics are those of the data, no two layers alike, every change named.

What is checked is found without the package: by ONNX's own reader and a plain session on the saved file.
"""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, helper, numpy_helper

pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'onnx-lsuv[train]'")

import exports
from commands import invoke
from oracle import Array

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]
NETS = ["resnet", "mobilenet", "unet", "vit", "decoder", "lstm"]
FOLDED = ("dynamo",)  # the exporter folds norms into convolutions
WAYS = [*FOLDED, "dynamo, not optimised", "TorchScript, as README says", "TorchScript, in eval mode as README says"]


def tensors(model: ModelProto) -> dict[str, Array]:
    """The values of all initializers and Constant nodes of the main graph, and of their copies by Identity."""
    found = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        elif node.op_type == "Identity" and node.input[0] in found:
            found[node.output[0]] = found[node.input[0]]
    return found


def values_of(model: ModelProto, names: list[str], data: Array) -> list[Array]:
    """What a plain session gives for values inside the graph."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    del model.graph.output[:]
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return session.run(names, {"x": data})


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("net", NETS)
def test_a_new_net_is_calibrated_and_every_change_is_named(tmp_path: Path, net: str, way: str) -> None:
    path, out, report = tmp_path / "m.onnx", tmp_path / "o.onnx", tmp_path / "r.json"
    exports.export(exports.MODELS[net], exports.WAYS[way], path, free=True)
    data = exports.samples(exports.MODELS[net], exports.SAMPLES).numpy()
    np.save(tmp_path / "x.npy", data)
    ran = invoke([str(path), "-d", str(tmp_path / "x.npy"), "-o", str(out), "--report", str(report), "-q"])
    assert ran.status == 0, ran.stderr
    found, saved = json.loads(report.read_text()), onnx.load(out)
    old, new = tensors(onnx.load(path)), tensors(saved)

    norms = [node for node in saved.graph.node if node.op_type == "BatchNormalization"]
    before = values_of(saved, [node.input[0] for node in norms], data) if norms else []
    for node, value in zip(norms, before, strict=True):
        axes, x = tuple(i for i in range(value.ndim) if i != 1), value.astype(np.float64)
        mean, var = new[node.input[3]], new[node.input[4]]
        scale = np.sqrt(x.var(axes)).max()
        np.testing.assert_allclose(mean, x.mean(axes), atol=1e-4 * scale, err_msg=node.name)
        np.testing.assert_allclose(var, x.var(axes), rtol=1e-4, atol=1e-4 * scale**2, err_msg=node.name)
    if net in ("resnet", "mobilenet", "unet") and way not in FOLDED:
        assert norms

    weights = [new[name] for name in dict.fromkeys(row["weight"] for row in found["layers"]) if name in new]
    assert weights
    for a, b in combinations([w for w in weights if w.size > 1], 2):
        assert a.shape != b.shape or not np.array_equal(a, b)

    named = {change["tensor"] for change in found["changes"]}
    copies = {node.output[0] for node in saved.graph.node if node.op_type == "Identity"}
    changed = {name for name in new if name not in old or not np.array_equal(old[name], new[name])} - copies
    assert changed <= named, changed - named
