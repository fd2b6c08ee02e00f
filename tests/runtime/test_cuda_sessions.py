"""How CUDA is used: memory, uploads, sessions. On a GPU, or where LD_LIBRARY_PATH has the emulated libraries."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto
from oracle import normal, parse

import onnx_lsuv
from onnx_lsuv import runtime
from onnx_lsuv.lsuv.scratch import Scratch

pytestmark = [pytest.mark.cuda, pytest.mark.slow, pytest.mark.usefixtures("cuda")]

ROOT = Path(__file__).resolve().parents[2]
DEPTH, WIDTH = 8, 256
BATCHES = [{"x": normal(512, WIDTH, seed=i)} for i in range(4)]


def mlp() -> ModelProto:
    nodes = " ".join(f"a{i} = MatMul({f'b{i - 1}' if i else 'x'}, w{i}) b{i} = Relu(a{i})" for i in range(DEPTH))
    # The input is read to the end.
    text = f"g (float[N,{WIDTH}] x) => (float y) {{ {nodes} s = Add(b{DEPTH - 1}, x) y = MatMul(s, u) }}"
    weights = {f"w{i}": normal(WIDTH, WIDTH, seed=i) for i in range(DEPTH)}
    return parse(f'<ir_version: 8, opset_import: ["" : 17]> {text}', **weights, u=normal(WIDTH, 4))


def scales(device: str, batches: Any = BATCHES, memory: int | None = None) -> list[float]:
    result = onnx_lsuv.initialize(onnx_lsuv.from_proto(mlp()), batches, device=device, memory=memory)
    return [float(row.scale or 0) for row in result.layers]


def used() -> int:
    """Return how many bytes of the GPU are in use."""
    library = ctypes.CDLL(f"libcudart.so.{onnxruntime.cuda_version.partition('.')[0]}")
    free, total = ctypes.c_size_t(0), ctypes.c_size_t(0)
    assert library.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total)) == 0
    return total.value - free.value


def test_memory_is_given_back() -> None:
    scales("cuda")
    before = used()
    scales("cuda")
    assert used() <= before + (1 << 20)


def test_values_leave_the_gpu_beyond_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[tuple[int, ...]] = []
    keep = Scratch.keep
    monkeypatch.setattr(Scratch, "keep", lambda self, array: kept.append(array.shape) or keep(self, array))
    near = scales("cuda")
    value = BATCHES[0]["x"].shape
    assert value not in kept
    # A batch takes half a megabyte: of four, two stay on the GPU, and two on the host.
    far = scales("cuda", memory=1 << 20)
    assert far == near
    assert kept.count(value) >= 2 * DEPTH
    np.testing.assert_allclose(near, scales("cpu"), rtol=2e-3)


def test_one_batch_is_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []
    run = runtime.run
    monkeypatch.setattr(runtime, "run", lambda *args, **options: runs.append(1) or run(*args, **options))
    scales("cuda", BATCHES[0])
    assert len(runs) == 1


RUN = "import sys; sys.path.insert(0, sys.argv[1]); import test_cuda_sessions as t; print(t.scales('cuda'))"


def test_weights_go_up_once_a_stage(tmp_path: Path) -> None:
    """The log of the emulation has every copy, and every thread's handles of each session."""
    log = tmp_path / "log"
    env = {**os.environ, "FAKE_GPU_LOG": str(log), "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    command = [sys.executable, "-c", RUN, str(Path(__file__).parent)]
    ran = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    if not log.is_file():
        pytest.skip("this is a GPU, of which there is no log")
    assert ran.stdout.startswith("[")
    lines = [line.split() for line in log.read_text().splitlines()]
    up = sum(int(words[4]) for words in lines if words[2] == "H2D")
    weights = sum(len(tensor.raw_data) or 4 * len(tensor.float_data) for tensor in mlp().graph.initializer)
    data = sum(batch["x"].nbytes for batch in BATCHES)
    assert weights + data <= up <= 1.1 * (weights + 2 * data)
    sessions = sum(words[2:] == ["SYNC", "device"] for words in lines)
    assert sessions <= 7  # with the trial, and the one that gives the memory back
    assert sum(words[2:] == ["HANDLE", "cudnn"] for words in lines) <= 2 * sessions + 1
