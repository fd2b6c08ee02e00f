"""ONNX Runtime: devices, sessions, runs, and its errors in our words."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto
from oracle import normal, parse

from onnx_lsuv import runtime
from onnx_lsuv.errors import DataError, DeviceError, ModelError
from onnx_lsuv.runtime.values import type_of

HEAD = '<ir_version: 10, opset_import: ["" : 17, "acme.ai" : 1]>'
CPU = runtime.open_device("cpu", threads=2)


def session(text: str, **tensors: np.ndarray) -> runtime.Session:
    return runtime.load(parse(f"{HEAD} {text}", **tensors).SerializeToString(), CPU)


def test_version() -> None:
    assert runtime.version() == onnxruntime.__version__


def test_cpu() -> None:
    assert (CPU.name, CPU.kind, CPU.threads) == ("cpu", "cpu", 2)
    assert runtime.open_device("cpu").threads >= 1
    assert runtime.open_device("auto").kind in ("cpu", "cuda")


@pytest.mark.parametrize("name", ["", "gpu", "CPU", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "cuda\n"])
def test_unknown_devices(name: str) -> None:
    with pytest.raises(DeviceError, match="the device must be"):
        runtime.open_device(name)


def test_cuda_without_a_driver(capfd: pytest.CaptureFixture[str]) -> None:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        pass
    else:
        pytest.skip("this machine has an NVIDIA driver")
    with pytest.raises(DeviceError, match=r"'cuda:3'.*(driver|without CUDA).*--device cpu"):
        runtime.open_device("cuda:3")
    assert runtime.open_device("auto").name == "cpu"
    assert capfd.readouterr() == ("", "")


def test_run(capfd: pytest.CaptureFixture[str]) -> None:
    one = session("g (float[N,3] x, float[3,2] w) => (float y, float z) { y = MatMul(x, w) z = Relu(y) }")
    x, w = normal(4, 3), normal(3, 2)
    inputs = {"x": runtime.value_of(x, TensorProto.FLOAT), "w": runtime.value_of(w, TensorProto.FLOAT)}
    out = runtime.run(one, inputs, ["z", "y"], {"y"})
    assert list(out) == ["z", "y"]
    np.testing.assert_allclose(runtime.array_of(out["y"]), x @ w, rtol=1e-5)
    np.testing.assert_allclose(runtime.array_of(out["z"]), np.maximum(x @ w, 0), rtol=1e-5)
    assert capfd.readouterr() == ("", "")


def test_values_are_not_copied() -> None:
    array = normal(5, 3)
    value = runtime.value_of(array, TensorProto.FLOAT)
    assert value.data_ptr() == array.ctypes.data
    array[0, 0] = 42
    assert runtime.array_of(value)[0, 0] == 42


def test_bfloat16() -> None:
    one = session("g (bfloat16[N] x) => (float y) { y = Cast<to=1>(x) }")
    array = np.array([1.5, -2, 0.25], ml_dtypes.bfloat16)
    value = runtime.value_of(array, TensorProto.BFLOAT16)
    assert value.data_ptr() == array.ctypes.data
    assert runtime.array_of(runtime.run(one, {"x": value}, ["y"], {"y"})["y"]).tolist() == [1.5, -2, 0.25]


def test_types_of_outputs() -> None:
    one = session(
        "g (float16[N] x, bfloat16[N] b, string[N] s) => (float16[N] y, seq(float16[N]) z, bfloat16 c, string t)"
        " { y = Relu(x) z = SequenceConstruct(x, x) c = Identity(b) t = Identity(s) }"
    )
    types = runtime.output_types(one)
    assert types["y"].tensor_type.elem_type == TensorProto.FLOAT16
    assert not types["y"].tensor_type.HasField("shape")
    assert types["z"].sequence_type.elem_type.tensor_type.elem_type == TensorProto.FLOAT16
    assert types["c"].tensor_type.elem_type == TensorProto.BFLOAT16
    assert types["t"].tensor_type.elem_type == TensorProto.STRING
    maybe = session("g (float[N] x) => (optional(float[N]) y) { y = Optional(x) }")
    assert runtime.output_types(maybe)["y"].tensor_type.elem_type == TensorProto.FLOAT
    with pytest.raises(DeviceError, match=r"type map\(int64,tensor\(float\)\) would have to be kept.*give one batch"):
        type_of("map(int64,tensor(float))")


def test_unknown_operator_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ModelError, match=r"'acme\.ai\.Mystery'.*--custom-ops"):
        session("g (float[N] x) => (float y) { y = acme.ai.Mystery(x) }")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "text",
    ["g (float[N,3] x, float[4,2] w) => (float y) { y = MatMul(x, w) }", "g (float[N] x) => (float y) { y = Relu(q) }"],
)
def test_refused_models_are_one_sentence(text: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ModelError) as caught:
        session(text)
    message = str(caught.value)
    assert "\n" not in message
    assert "ONNXRuntimeError" not in message
    assert "/onnxruntime" not in message
    assert message.endswith(".")
    assert capfd.readouterr() == ("", "")


def test_data_that_do_not_fit_at_run_time(capfd: pytest.CaptureFixture[str]) -> None:
    one = session("g (float[N,M] x, float[4,2] w) => (float y) { y = MatMul(x, w) }")
    values = {"x": runtime.value_of(normal(2, 3), 1), "w": runtime.value_of(normal(4, 2), 1)}
    with pytest.raises((DeviceError, DataError)) as caught:
        runtime.run(one, values, ["y"], {"y"})
    assert "\n" not in str(caught.value)
    assert "ONNXRuntimeError" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("op", ["Gather", "GatherElements"])
def test_index_outside_a_table(op: str, capfd: pytest.CaptureFixture[str]) -> None:
    one = session(f"g (int64[N] i, float[3] t) => (float y) {{ y = {op}(t, i) }}")
    values = {"i": runtime.value_of(np.array([0, 3]), TensorProto.INT64), "t": runtime.value_of(normal(3), 1)}
    with pytest.raises(DataError, match="outside a table"):
        runtime.run(one, values, ["y"], {"y"})
    assert capfd.readouterr() == ("", "")


def test_custom_operator_libraries() -> None:
    with pytest.raises(DeviceError, match=r"nowhere\.so.*not a file"):
        runtime.open_device("cpu", custom_ops=["nowhere.so"])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell what is resident")
def test_memory_of_a_run_is_given_back(tmp_path: Path) -> None:
    """In a process of its own, as others leave memory behind: a value of 128 MB, and what stays of it."""
    model = parse(f"{HEAD} g (float[N,8] x) => (float y) {{ y = MatMul(x, w) }}", w=normal(8, 512))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    code = """
import sys, numpy as np, onnx_lsuv
from onnx_lsuv import runtime
def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) / 1024
model, batch = onnx_lsuv.load(sys.argv[1]), {"x": np.random.default_rng(0).normal(size=(1 << 16, 8)).astype(np.float32)}
onnx_lsuv.initialize(model, {"x": batch["x"][:64]})
before = resident()
onnx_lsuv.initialize(model, batch)
print(resident() - before)
onnx_lsuv.initialize(model, batch, device=runtime.open_device("cpu"))
print(resident() - before)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "m.onnx")]
    closed, kept = map(float, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert closed < 64
    assert kept > 120
