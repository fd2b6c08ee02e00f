"""An architecture without weights, trained by onnxsim's loop on ONNX Runtime alone. Needs the extra `train`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from classifiers import digits
from onnx import numpy_helper

import onnx_lsuv

pytest.importorskip("onnxsim", reason="onnxsim is not installed: pip install 'onnx-lsuv[train]'")

HERE = Path(__file__).parent
pytestmark = pytest.mark.slow


def test_from_an_architecture_to_a_trained_file(tmp_path: Path) -> None:
    script, sample = HERE / "train_with_onnxruntime.py", HERE.parents[1] / "sample_models" / "mlp.onnx"
    assert len(script.read_text().splitlines()) <= 40
    onnx_lsuv.save(onnx_lsuv.without_values(onnx_lsuv.load(sample)).model, tmp_path / "mlp.arch.onnx")
    ran = subprocess.run(
        [sys.executable, str(script), "mlp.arch.onnx"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    *_, x, y = digits((64,))  # those that the script holds out too
    before, after = (onnx.load(tmp_path / name) for name in ("net.onnx", "net.trained.onnx"))
    session = onnxruntime.InferenceSession(after.SerializeToString(), providers=["CPUExecutionProvider"])
    accuracy = (session.run(None, {"pixels": x})[0].argmax(-1) == y).mean()
    assert accuracy > 0.9
    assert float(ran.stdout.split()[-1]) == accuracy
    # What was named is trained, and nothing else differs.
    names = json.loads((tmp_path / "net.json").read_text())["requires_grad"]
    assert len(names) == len(before.graph.initializer) == 20
    for one, other in zip(before.graph.initializer, after.graph.initializer, strict=True):
        assert not np.array_equal(numpy_helper.to_array(one), numpy_helper.to_array(other))
        other.CopyFrom(one)
    assert before == after
