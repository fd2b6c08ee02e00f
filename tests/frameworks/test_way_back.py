"""The way from a module and back that README shows, run as a person runs it. Needs the extra `train`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'onnx-lsuv[train]'")

import torch
from safetensors.torch import load_file
from torch import nn

# What PyTorch warns of is its own; a warning of onnx-lsuv would be an error in the other tests.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]


def test_the_way_there_and_back(tmp_path: Path) -> None:
    script = Path(__file__).with_name("way_back.py")
    ran = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    losses = [float(each) for each in re.findall(r"^loss (.*)$", ran.stdout, re.MULTILINE)]
    assert len(losses) == 3
    assert losses == sorted(losses, reverse=True)
    assert {path.name for path in tmp_path.iterdir()} >= {"net.lsuv.onnx", "net.lsuv.safetensors"}
    # What was loaded computes what the file computes.
    layers = [nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.Flatten()]
    net = nn.Sequential(*layers, nn.Linear(512, 10))
    net.load_state_dict(load_file(tmp_path / "net.lsuv.safetensors"))
    data = np.load(tmp_path / "x.npy")
    session = onnxruntime.InferenceSession(str(tmp_path / "net.lsuv.onnx"), providers=["CPUExecutionProvider"])
    expected = session.run(None, {session.get_inputs()[0].name: data})[0]
    with torch.no_grad():
        reached = net.eval()(torch.from_numpy(data)).numpy()
    np.testing.assert_allclose(reached, expected, rtol=0, atol=1e-5)
