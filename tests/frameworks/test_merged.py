"""What PyTorch's exporters merge in new networks: statistics are the data's, and --untie gives the module back.

Needs the extra `train`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import oracle
import pytest

import onnx_lsuv

pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'onnx-lsuv[train]'")

import exports
import torch

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]
WAYS = ["dynamo", "dynamo, not optimised", "TorchScript, eval", "TorchScript, in eval mode as README says"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("model", ["resnet", "mobilenet", "unet"])
def test_statistics_are_those_of_the_data(tmp_path: Path, model: str, way: str) -> None:
    net, source = exports.MODELS[model], tmp_path / "m.onnx"
    exports.export(net, exports.WAYS[way], source, free=True)
    for untie in (False, True):
        batches = [{"x": exports.samples(net, 24).numpy()}]
        result = onnx_lsuv.initialize(onnx_lsuv.load(source), batches, untie=untie)
        onnx_lsuv.save(result.model, tmp_path / "out.onnx", force=True)
        after = onnx.load(tmp_path / "out.onnx")
        onnx.checker.check_model(after, full_check=True)
        changed = oracle.changed_tensors(onnx.load(source), after, result.changes)
        assert changed <= {change.tensor for change in result.changes}
        norms = [node for node in after.graph.node if node.op_type == "BatchNormalization"]
        values = oracle.values(tmp_path / "out.onnx", batches, [node.input[0] for node in norms])
        for node in norms:
            (found,) = (np.asarray(value, np.float64) for value in values[node.input[0]])
            mean, var = (oracle.tensor_of(after, name) for name in node.input[3:5])
            np.testing.assert_allclose(mean, found.mean((0, 2, 3)), atol=1e-4)
            np.testing.assert_allclose(var, found.var((0, 2, 3)), rtol=1e-4, atol=1e-4)
        if untie:
            names = [name for node in norms for name in node.input[1:]]
            assert len(set(names)) == len(names)


class Copies(torch.nn.Module):
    """Three blocks that are copies of each other, and one that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        blocks = [
            torch.nn.Sequential(torch.nn.LayerNorm(16), torch.nn.Linear(16, 16), torch.nn.ReLU()) for _ in range(4)
        ]
        for each in blocks[1:3]:
            each.load_state_dict(blocks[0].state_dict())
        self.blocks, self.twice = torch.nn.Sequential(*blocks[:3]), blocks[3]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.twice(self.twice(self.blocks(x)))


@pytest.mark.parametrize("way", WAYS)
def test_layers_that_are_copies(tmp_path: Path, way: str) -> None:
    module, x = Copies().eval(), torch.randn(32, 6, 16)  # on three axes a layer becomes MatMul and Add
    options = dict(exports.WAYS[way].options)
    torch.onnx.export(
        module, (x,), tmp_path / "m.onnx", input_names=["x"], output_names=["y"], verbose=False, **options
    )
    batches = [{"x": x.numpy()}]
    result = onnx_lsuv.initialize(onnx_lsuv.load(tmp_path / "m.onnx"), batches, untie=True)
    assert [row.status for row in result.layers] == ["scaled"] * 4 + ["shared"]
    weights = [row.weight for row in result.layers]
    assert len(set(weights[:4])) == 4
    assert weights[3] == weights[4]
    onnx_lsuv.save(result.model, tmp_path / "out.onnx")
    onnx.checker.check_model(onnx.load(tmp_path / "out.onnx"), full_check=True)
    names = {tensor.name for tensor in onnx.load(tmp_path / "out.onnx").graph.initializer}
    # But for matrices that an exporter has transposed the parameters have the module's own names.
    wanted = {name for name, value in module.state_dict().items() if value.ndim == 1}
    assert wanted <= names
    assert onnx_lsuv.measure(onnx_lsuv.load(tmp_path / "out.onnx"), batches, like=result).good
