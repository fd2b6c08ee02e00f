"""CUDA gives what the CPU gives: on a GPU, or on the emulated libraries of ../shared/cuda_emulation.

Those stand in for CUDA's own under ONNX Runtime's real provider, and are found by LD_LIBRARY_PATH; so what runs on CUDA
has a process of its own. They tell whether the way is right, and nothing of speed or of cuDNN's rounding.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from oracle import normal, parse

import onnx_lsuv

pytestmark = [pytest.mark.cuda, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
EMULATION = ROOT.parent / "shared" / "cuda_emulation"
OPENS = "from onnx_lsuv import runtime; print(runtime.open_device('cuda').name)"
INITIALISE = """
import json, sys, numpy as np, onnx_lsuv
path, device, *files = sys.argv[1:]
batches = [dict(np.load(file)) for file in files]
result = onnx_lsuv.initialize(onnx_lsuv.load(path), batches, device=device)
result = onnx_lsuv.measure(result.model, batches, like=result, device=device)
print(json.dumps([result.device, [[row.name, row.status, row.scale, row.std] for row in result.layers]]))
"""
CONVOLUTIONS = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,3,12,12] x) => (float y) {
    a = Conv<pads=[1,1,1,1]>(x, w, b) c = BatchNormalization(a, s, t, m, v) d = Relu(c)
    e = MaxPool<kernel_shape=[2,2]>(d) f = Conv(e, u) h = Add(f, e)
    i = GlobalAveragePool(h) j = Flatten(i) y = Gemm(j, k) }"""
LOOP = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,8] x) => (float y) {
    a = Loop(n, on, x) <body = step (int64 i, bool[1] go, float[N,8] s) => (bool[1] go2, float[N,8] s2) {
        go2 = Identity(go) p = MatMul(s, w) s2 = Tanh(p) }>
    y = MatMul(a, u) }"""


def _python(code: str, *words: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *words]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **env}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the environment in which CUDA opens."""
    if _python(OPENS, env={}).returncode == 0:
        return {}
    if not (EMULATION / "build.sh").is_file():
        pytest.skip(f"CUDA does not open on this machine, and there is no {EMULATION}")
    folder = EMULATION / "lib"
    if not folder.is_dir():
        folder = tmp_path_factory.mktemp("cuda")
        built = subprocess.run([EMULATION / "build.sh", folder], capture_output=True, text=True, check=False)
        if built.returncode != 0:
            pytest.skip(f"CUDA does not open on this machine, and its emulation cannot be built: {built.stderr[-200:]}")
    found = {"LD_LIBRARY_PATH": str(folder)}
    ran = _python(OPENS, env=found)
    assert ran.returncode == 0, ran.stderr
    return found


def _models() -> dict[str, tuple[bytes, list[dict[str, NDArray[Any]]]]]:
    images = {"s": np.ones(16), "t": np.zeros(16), "m": np.zeros(16), "v": np.ones(16), "b": np.ones(16)}
    images |= {"w": normal(16, 3, 3, 3), "u": normal(16, 16, 1, 1, seed=1), "k": normal(16, 4, seed=2)}
    convolutions = parse(CONVOLUTIONS, **{name: array.astype(np.float32) for name, array in images.items()})
    loop = parse(LOOP, n=np.array([3]), on=np.array([True]), w=normal(8, 8), u=normal(8, 4, seed=1))
    transformer = np.load(ROOT / "sample_models" / "transformer.npz")
    return {
        "convolutions, several batches": (
            convolutions.SerializeToString(),
            [{"x": normal(8, 3, 12, 12, seed=i) + i} for i in range(2)],
        ),
        "a loop": (loop.SerializeToString(), [{"x": normal(64, 8)}]),
        "transformer": (
            (ROOT / "sample_models" / "transformer.onnx").read_bytes(),
            [{name: transformer[name][:8] for name in transformer.files}],
        ),
    }


@pytest.mark.parametrize("name", ["convolutions, several batches", "a loop", "transformer"])
def test_cuda_gives_what_the_cpu_gives(name: str, environment: dict[str, str], tmp_path: Path) -> None:
    model, batches = _models()[name]
    (tmp_path / "m.onnx").write_bytes(model)
    files = [tmp_path / f"{i}.npz" for i in range(len(batches))]
    for file, batch in zip(files, batches, strict=True):
        np.savez(file, **batch)  # type: ignore[arg-type]
    ran = _python(INITIALISE, str(tmp_path / "m.onnx"), "cuda", *map(str, files), env=environment)
    assert (ran.returncode, ran.stderr) == (0, "")
    device, rows = json.loads(ran.stdout)
    assert device == "cuda:0"
    loaded = onnx_lsuv.load(tmp_path / "m.onnx")
    result = onnx_lsuv.initialize(loaded, batches, device="cpu")
    result = onnx_lsuv.measure(result.model, batches, like=result, device="cpu")
    assert [(row.name, row.status) for row in result.layers] == [(name, status) for name, status, *_ in rows]
    assert any(row.scale for row in result.layers)
    for row, (_, _, scale, std) in zip(result.layers, rows, strict=True):
        assert scale == pytest.approx(row.scale, rel=2e-3)
        assert std == pytest.approx(row.std, rel=2e-3)


def test_a_number_that_no_gpu_has(environment: dict[str, str]) -> None:
    ran = _python(OPENS.replace("'cuda'", "'cuda:99'"), env=environment)
    assert "The device 'cuda:99' was asked for, but there are " in ran.stderr
    assert "GPUs, numbered from 0: use '--device cpu' (device='cpu') to run without it." in ran.stderr
