"""CUDA gives what the CPU gives, kind by kind: layers, statuses, scales, the saved file, and its bytes.

On a GPU, or on the emulated libraries of ../shared/cuda_emulation where LD_LIBRARY_PATH finds them. Those stand in for
CUDA's own under ONNX Runtime's real provider, and tell whether the way is right, but nothing of cuDNN's rounding.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from commands import call, mlp
from control_graphs import control_case
from numpy.typing import NDArray
from onnx import ModelProto
from oracle import normal, parse
from random_graphs import random_case

import onnx_lsuv
from onnx_lsuv import Result, runtime
from onnx_lsuv.errors import DeviceError
from onnx_lsuv.portable import same_outputs
from onnx_lsuv.runtime import Device

pytestmark = pytest.mark.cuda

Batches = list[dict[str, NDArray[Any]]]
SAMPLES = Path(__file__).resolve().parents[2] / "sample_models"
CPU = Device("cpu", 2)
HEAD = '<ir_version: 10, opset_import: ["" : 17, "own" : 1]>'
CLOSE = 1e-5  # float32 without TF32: what the order of sums moves
APART = 2e-3  # where less is asked for: half precision, and what depends on roundings that a network amplifies


def agree(model: ModelProto, batches: Batches, device: Device, close: float = CLOSE, **options: Any) -> Result:
    """Initialise a model on both; the saved file of CUDA is as good on the CPU, and the same when made again."""
    loaded = onnx_lsuv.from_proto(model)
    here = onnx_lsuv.initialize(loaded, batches, device=CPU, **options)
    there = onnx_lsuv.initialize(loaded, batches, device=device, **options)
    assert there.device == device.name
    assert [(row.name, row.status) for row in here.layers] == [(row.name, row.status) for row in there.layers]
    for one, other in zip(here.layers, there.layers, strict=True):
        assert _near(one.scale, other.scale, close), (one, other)
    saved = onnx_lsuv.to_bytes(there.model)
    assert saved == onnx_lsuv.to_bytes(onnx_lsuv.initialize(loaded, batches, device=device, **options).model)
    again = onnx_lsuv.from_proto(onnx.load_model_from_string(saved))
    checks = [onnx_lsuv.measure(again, batches, like=there, device=where) for where in (CPU, device)]
    for one, other in zip(checks[0].layers, checks[1].layers, strict=True):
        assert (other.name, other.status) == (one.name, one.status)
        assert _near(one.std, other.std, close), (one, other)
    return checks[0]


def _near(one: float | None, other: float | None, close: float) -> bool:
    return one == other if one is None or other is None else other == pytest.approx(one, rel=close, nan_ok=True)


# --------------------------------------------------------------------------------------------------- models, batches


def sample(name: str, parts: int) -> tuple[ModelProto, Batches]:
    model = onnx.load(str(SAMPLES / f"{name}.onnx"))
    (data,) = (path for path in SAMPLES.glob(f"{name}.np*"))
    arrays = dict(np.load(data)) if data.suffix == ".npz" else {model.graph.input[0].name: np.load(data)}
    count = min(len(next(iter(arrays.values()))), 16)
    cuts = np.array_split(np.arange(count), parts)
    return model, [{key: array[cut] for key, array in arrays.items()} for cut in cuts]


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("name", ["mlp", "fitnet_digits", "resnet_nonorm", "transformer"])
def test_sample_models(name: str, parts: int, cuda: Device) -> None:
    assert agree(*sample(name, parts), cuda).good


@pytest.mark.few(20)
@pytest.mark.parametrize("seed", [seed for seed in range(61) if seed != 26])  # whose layers see nothing but rounding
def test_random_graphs(seed: int, cuda: Device) -> None:
    case = random_case(seed)
    agree(case.model, case.batches, cuda, APART, **case.options)


@pytest.mark.few(3)
@pytest.mark.parametrize("seed", range(10))
def test_random_control_flow(seed: int, cuda: Device) -> None:
    case = control_case(seed)
    agree(case.model, case.batches, cuda, APART, **case.options)


def rows(width: int, count: int = 2, dtype: Any = np.float32) -> Batches:
    return [{"x": (normal(24 - 6 * i, width, seed=i) + i).astype(dtype)} for i in range(count)]


def images(count: int = 2, dtype: Any = np.float32) -> Batches:
    return [{"x": (normal(6, 3, 10, 10, seed=i) * (i + 1) + 1).astype(dtype)} for i in range(count)]


def tensors(dtype: Any = np.float32, **shapes: tuple[int, ...]) -> dict[str, NDArray[Any]]:
    return {name: normal(*shape, seed=i).astype(dtype) for i, (name, shape) in enumerate(shapes.items())}


NORMED = """g (FLOAT[N,3,10,10] x) => (FLOAT[N,4] y) {
    a = Conv<pads=[1,1,1,1]>(x, w) b = BatchNormalization(a, s, t, m, v) c = Relu(b)
    d = Conv(c, u, r) e = BatchNormalization(d, s, t, m, v) f = GlobalAveragePool(e) h = Flatten(f) y = Gemm(h, k) }"""
STEPS = "body = step (float[N,8] h, float[N,8] v) => (float[N,8] h2, float[N,8] o) { p = MatMul(v, w) q = Add(h, p) "
BRANCH = "(float[N,8] {0}) {{ p{0} = MatMul(a, {1}) {0} = Tanh(p{0}) }}"
KINDS: dict[str, tuple[str, dict[str, tuple[int, ...]]]] = {
    "If": (
        "g (float[N,8] x) => (float y) { a = MatMul(x, w) k = ReduceSum<keepdims=0>(a) o = Greater(k, zero) "
        f"b = If(o) <then_branch = g1 () => {BRANCH.format('s', 'u')}, "
        f"else_branch = g2 () => {BRANCH.format('t', 'v')}> y = MatMul(b, r) }}",
        {"w": (8, 8), "u": (8, 8), "v": (8, 8), "r": (8, 4)},
    ),
    "Loop": (
        "g (float[N,8] x) => (float y) { a = Loop(three, on, x) "
        "<body = step (int64 i, bool[1] go, float[N,8] s) => (bool[1] go2, float[N,8] s2) "
        "{ go2 = Identity(go) p = MatMul(s, w) s2 = Tanh(p) }> y = MatMul(a, u) }",
        {"w": (8, 8), "u": (8, 4)},
    ),
    "Scan": (
        f"g (float[N,8] x) => (float y) {{ z = Sub(x, x) xs = Concat<axis=0>(xa, xb) xa = Unsqueeze(x, axis) "
        f"q0 = Tanh(x) xb = Unsqueeze(q0, axis) a, os = Scan(z, xs) <num_scan_inputs = 1, {STEPS} "
        "h2 = Tanh(q) o = Identity(h2) }> y = MatMul(a, u) }",
        {"w": (8, 8), "u": (8, 4)},
    ),
    "double": (
        "g (double[N,8] x) => (double y) { a = Gemm(x, w, b) c = Tanh(a) y = MatMul(c, u) }",
        {"w": (8, 16), "b": (16,), "u": (16, 4)},
    ),
    "a function": (
        "g (float[N,8] x) => (float y) { a = own.dense(x, w) b = own.dense(a, v) y = MatMul(b, u) } "
        '<domain: "own", opset_import: ["" : 17]> dense (i, k) => (o) { p = MatMul(i, k) o = Relu(p) }',
        {"w": (8, 16), "v": (16, 8), "u": (8, 4)},
    ),
    "a fixed batch axis": (
        "g (float[6,8] x) => (float y) { a = Gemm(x, w, b) c = Relu(a) d = Reshape(c, flat) y = MatMul(d, u) }",
        {"w": (8, 16), "b": (16,), "u": (16, 4)},
    ),
    "LSTM": (
        "g (float[N,8] x) => (float y) { s = Unsqueeze(x, axis) o, h, c = LSTM<hidden_size=6>(s, w, r) "
        "d = Squeeze(h, axis) y = MatMul(d, u) }",
        {"w": (1, 24, 8), "r": (1, 24, 6), "u": (6, 4)},
    ),
}
FIXED = {"zero": np.float32(0), "three": np.array([3]), "on": np.array([True]), "axis": np.array([0])}
FIXED |= {"flat": np.array([6, 16])}


def kind(name: str) -> ModelProto:
    text, shapes = KINDS[name]
    fixed = {key: array for key, array in FIXED.items() if re.search(rf"\b{key}[,)]", text)}
    return parse(f"{HEAD} {text}", **tensors(np.float64 if name == "double" else np.float32, **shapes), **fixed)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("name", KINDS)
def test_kinds_of_models(name: str, count: int, cuda: Device) -> None:
    batches = rows(8, count, np.float64 if name == "double" else np.float32)
    if "fixed" in name:
        batches = [{"x": batch["x"][:6]} for batch in batches]
    assert agree(kind(name), batches, cuda).good


def normed(dtype: Any = np.float32) -> ModelProto:
    arrays = tensors(dtype, w=(8, 3, 3, 3), u=(8, 8, 1, 1), r=(8,), k=(8, 4))
    arrays |= {name: np.full(8, value, dtype) for name, value in {"s": 1, "t": 0, "m": 0, "v": 1}.items()}
    word = "float" if dtype is np.float32 else np.dtype(dtype).name
    return parse(f"{HEAD} {NORMED.replace('FLOAT', word)}", **arrays)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_norms_and_types(dtype: Any, count: int, cuda: Device) -> None:
    found = agree(normed(dtype), images(count, dtype), cuda, CLOSE if np.dtype(dtype).itemsize > 2 else APART)
    assert found.good


# ------------------------------------------------------------------------------------------------------------ options

RESIDUAL = f"""{HEAD} g (float[N,16] x) => (float y) {{
    a = MatMul(x, w) b = Relu(a) c = MatMul(b, u) d = Add(c, x) e = MatMul(d, v) f = Relu(e) h = MatMul(f, r)
    i = Add(h, d) y = MatMul(i, k) }}"""
OPTIONS: dict[str, dict[str, Any]] = {
    "center": {"center": True},
    "residual": {"residual": "auto"},
    "target": {"target_std": 0.5},
    "fresh": {"fresh": True, "seed": 3},
    "keep": {"init": "keep"},
    "he": {"init": "he", "keep_bias": True},
}


@pytest.mark.parametrize("options", OPTIONS)
def test_options(options: str, cuda: Device) -> None:
    model = parse(RESIDUAL, **tensors(w=(16, 32), u=(32, 16), v=(16, 32), r=(32, 16), k=(16, 4)))
    assert agree(model, rows(16), cuda, **OPTIONS[options]).good
    agree(normed(), images(), cuda, **OPTIONS[options])


@pytest.mark.parametrize("more", [[], ["--portable", "--center"], ["--fresh", "--portable"], ["--residual", "auto"]])
def test_the_command(more: list[str], cuda: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With values in a file of their own: made on CUDA, checked on either, and the rewriting gives the same outputs."""
    monkeypatch.chdir(tmp_path)
    onnx.save_model(mlp(), "m.onnx", save_as_external_data=True, size_threshold=0, location="m.bin")
    np.save("x.npy", normal(64, 16))
    call(
        "m.onnx",
        "-d",
        "x.npy",
        "-o",
        "o.onnx",
        "--batch-size",
        "24",
        "--device",
        cuda.name,
        "--report",
        "r.json",
        *more,
    )
    for device in (cuda.name, "cpu"):
        call("o.onnx", "-d", "x.npy", "--check", "--device", device, "--baseline", "r.json")
        call("o.onnx", "-d", "x.npy", "--check", "--device", device, "--compare", "m.onnx")


def test_portable_gives_the_same_outputs(cuda: Device) -> None:
    result = onnx_lsuv.initialize(onnx_lsuv.from_proto(normed(np.float16)), images(dtype=np.float16), device=cuda)
    form = onnx_lsuv.make_portable(result)
    for device in (CPU, cuda):
        found = same_outputs(result.model, form.model, images(dtype=np.float16), device=device)
        assert max(found.differences.values()) <= found.tolerance


# ---------------------------------------------------------------------------------------------------------- processes


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fitnet_digits", "transformer"])
def test_three_processes_write_the_same_bytes(name: str, cuda: Device, tmp_path: Path) -> None:
    (data,) = SAMPLES.glob(f"{name}.np*")
    words = [sys.executable, "-m", "onnx_lsuv", str(SAMPLES / f"{name}.onnx"), "-d", str(data), "--samples", "24", "-q"]
    outputs = [tmp_path / f"{i}.onnx" for i in range(3)]
    running = [subprocess.Popen([*words, "-o", str(path), "--device", cuda.name]) for path in outputs]
    assert [each.wait() for each in running] == [0, 0, 0]
    assert len({path.read_bytes() for path in outputs}) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("device", "status"), [("auto", 0), ("cuda", 5)])
def test_without_a_gpu(device: str, status: int, cuda: Device, tmp_path: Path) -> None:
    del cuda
    data = ["-d", str(SAMPLES / "mlp.npy"), "-o", str(tmp_path / "o.onnx"), "--device", device, "--format", "json"]
    ran = subprocess.run(
        [sys.executable, "-m", "onnx_lsuv", str(SAMPLES / "mlp.onnx"), *data],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "FAKE_GPU_COUNT": "0"},
    )
    assert (ran.returncode, ran.stderr.count("\n")) == (status, status > 0), ran.stderr
    assert ('"device": "cpu"' in ran.stdout) == (status == 0)
    assert (tmp_path / "o.onnx").exists() == (status == 0)


def test_a_number_that_no_gpu_has(cuda: Device) -> None:
    del cuda
    with pytest.raises(
        DeviceError, match=r"The device 'cuda:99' was asked for, but there are \d+ GPUs, numbered from 0"
    ):
        runtime.open_device("cuda:99")
