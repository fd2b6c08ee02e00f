"""What PyTorch exports without weights: inputs in their place (TorchScript), or names that nothing makes (dynamo)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import oracle
import pytest

import onnx_lsuv

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'onnx-lsuv[train]'")
pytest.importorskip("onnxscript")
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]
nn = torch.nn


class Residual(nn.Module):  # type: ignore[misc]
    """Three blocks with BatchNormalization."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        blocks = [(nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)) for _ in range(3)]
        self.blocks = nn.ModuleList([nn.Sequential(*block) for block in blocks])
        self.head = nn.Linear(16, 10)

    def forward(self, x: Any) -> Any:
        x = torch.relu(self.norm(self.first(x)))
        for block in self.blocks:
            x = torch.relu(x + block(x))
        return self.head(torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1))


class Vision(nn.Module):  # type: ignore[misc]
    """Patches, a class token, positions, an encoder layer."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 4, stride=4)
        self.token, self.positions = nn.Parameter(torch.randn(1, 1, 32)), nn.Parameter(torch.randn(1, 17, 32))
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0.0, norm_first=True)
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, x: Any) -> Any:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        return self.head(self.norm(self.layer(x))[:, 0])


class Recurrent(nn.Module):  # type: ignore[misc]
    """An LSTM of two directions."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(16, 12, batch_first=True, bidirectional=True), nn.Linear(24, 3)

    def forward(self, x: Any) -> Any:
        return self.head(self.lstm(x.flatten(1, 2))[0])


def plain() -> Any:
    return nn.Sequential(nn.Flatten(), nn.Linear(768, 32), nn.ReLU(), nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 5))


NETS = {"mlp": plain, "residual": Residual, "vision": Vision, "recurrent": Recurrent}
# Beyond the weights, the other nets lose settings that no shape tells, as which of q, k and v a Gather takes.
DYNAMO = ("mlp", "residual")


def export(net: Any, path: Path, *, dynamo: bool, training: bool, free: bool) -> None:
    """Export a net without weights; `free` leaves the batch open."""
    net.train(training)
    x = torch.randn(8, 3, 16, 16)
    if dynamo:
        dims = ({0: torch.export.Dim("batch")},) if free else None
        program = torch.onnx.export(net, (x,), dynamo=True, verbose=False, dynamic_shapes=dims)
        program.save(str(path), include_initializers=False)
        return
    mode = torch.onnx.TrainingMode.TRAINING if training else torch.onnx.TrainingMode.EVAL
    axes = {"x": {0: "N"}} if free else None
    options = {"training": mode, "do_constant_folding": False, "input_names": ["x"], "dynamic_axes": axes}
    torch.onnx.export(net, (x,), str(path), dynamo=False, export_params=False, **options)


@pytest.mark.parametrize("free", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("name", "dynamo"), [*((name, False) for name in NETS), *((name, True) for name in DYNAMO)])
def test_an_export_without_weights_becomes_a_model(
    name: str, dynamo: bool, training: bool, free: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    export(NETS[name](), tmp_path / "bare.onnx", dynamo=dynamo, training=training, free=free)
    shape = (8, 3, 16, 16)
    model = onnx_lsuv.load(tmp_path / "bare.onnx")
    (data,) = {value.name for value in model.proto.graph.input} & {"x", "input"}
    batch = {data: np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    result = onnx_lsuv.initialize(model, batch)
    onnx_lsuv.save(result.model, tmp_path / "out.onnx")
    onnx.checker.check_model(tmp_path / "out.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "out.onnx"), providers=["CPUExecutionProvider"])
    assert [one.name for one in session.get_inputs()] == [data]
    assert all(np.isfinite(out).all() for out in session.run(None, batch))
    result = onnx_lsuv.measure(onnx_lsuv.load(tmp_path / "out.onnx"), batch, like=result)
    assert {row.status for row in result.layers} <= ({"ok", "drawn"} if name == "recurrent" else {"ok"})
    saved = onnx.load(tmp_path / "out.onnx")
    names = oracle.layer_values(saved)
    ok = [row for row in result.layers if row.status == "ok"]
    moments = oracle.measure(saved, [batch], [names[row.name] for row in ok])
    assert all(abs(moments[names[row.name]].var / row.target**2 - 1) < 0.005 for row in ok)
