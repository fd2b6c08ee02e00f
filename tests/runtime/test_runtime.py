"""ONNX Runtime: devices, sessions, runs, and its errors in our words."""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
from onnx import NodeProto, TensorProto
from oracle import normal, parse

import onnx_lsuv
from onnx_lsuv import runtime
from onnx_lsuv.errors import DataError, DeviceError, ModelError, UsageError
from onnx_lsuv.graph.blocked import DOMAIN
from onnx_lsuv.runtime import blocks, providers
from onnx_lsuv.runtime.providers import Provider
from onnx_lsuv.runtime.values import type_of

HEAD = '<ir_version: 10, opset_import: ["" : 17, "acme.ai" : 1]>'
CPU = runtime.open_device("cpu", threads=2)


def session(text: str, **tensors: np.ndarray) -> runtime.Session:
    return runtime.load(parse(f"{HEAD} {text}", **tensors).SerializeToString(), CPU)


def test_version() -> None:
    assert runtime.version() == onnxruntime.__version__


@pytest.mark.cpu
def test_cpu() -> None:
    assert (CPU.name, CPU.kind, CPU.threads) == ("cpu", "cpu", 2)
    assert runtime.open_device("cpu").threads >= 1
    assert runtime.open_device("auto").kind in ("cpu", "cuda")


@pytest.mark.parametrize("name", ["", "gpu", "CPU", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "cuda\n"])
def test_unknown_devices(name: str) -> None:
    with pytest.raises(DeviceError, match="the device must be"):
        runtime.open_device(name)


@pytest.mark.parametrize(
    ("name", "wish"), [("gpu", "cuda"), ("GPU:1", "cuda:1"), ("nvidia0", "cuda:0"), ("CPU", "cpu"), ("cude", "cuda")]
)
def test_a_word_that_was_meant_otherwise(name: str, wish: str) -> None:
    with pytest.raises(DeviceError, match=re.escape(f"not {name!r} (did you mean {wish!r}?)")):
        runtime.check_device(name)


def test_the_words_of_the_option() -> None:
    assert runtime.device_words() == ["auto", "cpu", "cuda", "cuda:N"]
    for word in runtime.device_words():
        runtime.check_device(word.replace("N", "12"))


def test_words_are_checked_before_anything_is_loaded() -> None:
    code = "import sys; from onnx_lsuv import runtime; runtime.check_device('cuda:1'); "
    code += "print(*sorted({'numpy', 'onnx', 'onnxruntime'} & sys.modules.keys()))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "\n"


ASKED: list[tuple[int, bool]] = []
FAKE = Provider(
    "xnn",
    "XNN",
    "CPUExecutionProvider",
    "onnxruntime-xnn",
    numbered=True,
    nicknames=("mobile",),
    missing=lambda ort, index: None if index < 2 else f"there is no {index}",
    options=lambda index, tf32: ASKED.append((index, tf32)) or {},  # type: ignore[func-returns-value]
)


@pytest.mark.cpu
def test_another_provider_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that computes on the CPU, under another name."""
    with pytest.raises(DeviceError, match="the device must be 'auto', 'cpu', 'cuda' or 'cuda:N', not 'xnn'"):
        runtime.open_device("xnn")
    monkeypatch.setattr(providers, "PROVIDERS", (*providers.PROVIDERS, FAKE))
    with pytest.raises(DeviceError, match=r"'cuda:N', 'xnn' or 'xnn:N', not 'mobile1' \(did you mean 'xnn:1'"):
        runtime.check_device("mobile1")
    with pytest.raises(DeviceError, match=r"'xnn:2' was asked for, but there is no 2: use '--device cpu'"):
        runtime.open_device("xnn:2")
    assert runtime.open_device("auto").name in ("cpu", "cuda:0")
    device = runtime.open_device("xnn", threads=2)
    assert (device.name, device.kind, runtime.block(device)) == ("xnn:0", "cpu", 1)
    model = onnx_lsuv.from_proto(parse(f"{HEAD} g (float[N,8] x) => (float y) {{ y = MatMul(x, w) }}", w=normal(8, 4)))
    batch = {"x": normal(64, 8)}
    ASKED.clear()
    found = onnx_lsuv.initialize(model, batch, device="xnn:1")
    assert set(ASKED) == {(1, False)}
    assert found.device == "xnn:1"
    assert [row.scale for row in found.layers] == [row.scale for row in onnx_lsuv.initialize(model, batch).layers]
    monkeypatch.setattr(providers, "PROVIDERS", (replace(FAKE, name="XnnpackExecutionProvider"),))
    with pytest.raises(DeviceError, match=r"'xnn' was asked for, but .* built without XNN \(install 'onnxruntime-xnn'"):
        runtime.open_device("xnn")


@pytest.mark.parametrize("device", [None, 0])
def test_a_device_that_is_no_word(device: Any) -> None:
    with pytest.raises(DeviceError, match=f"the device must be a word such as 'cpu', not {device}"):
        runtime.device_of(device)


@pytest.mark.parametrize("threads", [0, -1, "2", 1.5])
def test_a_number_of_cores_that_is_none(threads: Any) -> None:
    model = onnx_lsuv.from_proto(parse(f"{HEAD} g (float[N,8] x) => (float y) {{ y = MatMul(x, w) }}", w=normal(8, 4)))
    with pytest.raises(UsageError, match=f"threads must be a whole number from 1 on, or None for all, not {threads!r}"):
        onnx_lsuv.initialize(model, {"x": normal(64, 8)}, threads=threads)
    assert runtime.open_device("cpu", threads=np.int64(2)).threads == 2  # type: ignore[arg-type]


def test_cuda_without_a_driver(capfd: pytest.CaptureFixture[str]) -> None:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        pass
    else:
        pytest.skip("this machine has an NVIDIA driver")
    with pytest.raises(DeviceError, match=r"'cuda:3'.*(driver|without CUDA).*--device cpu' \(device='cpu'\)"):
        runtime.open_device("cuda:3")
    assert runtime.open_device("auto").name == "cpu"
    assert capfd.readouterr() == ("", "")


# name: what ONNX Runtime would do to a node in blocks if it took it for something else
MEANINGS: dict[str, Callable[[NodeProto], object]] = {
    "no such operators": lambda node: setattr(node, "domain", "com.microsoft.none"),
    "no such convolution": lambda node: node.op_type == "Conv" and setattr(node, "domain", "com.microsoft.none"),
    "no fourth operand": lambda node: len(node.input) > 3 and node.input.pop(),
    "no activation": lambda node: [a for a in node.attribute if a.name == "activation" and node.attribute.remove(a)],
    "no bias": lambda node: node.op_type == "Conv" and len(node.input) == 3 and node.input.pop(),
    "pooling": lambda node: node.op_type == "MaxPool" and setattr(node, "op_type", "AveragePool"),
    "reordering": lambda node: node.op_type == "ReorderOutput" and setattr(node.attribute[0], "i", 4),
}


@pytest.mark.parametrize("meaning", MEANINGS)
def test_blocks_that_mean_something_else_are_not_used(meaning: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = runtime.block(CPU)
    if expected == 1:
        pytest.skip("ONNX Runtime has no blocks on this machine")
    small = blocks.small_session

    def otherwise(nodes: Sequence[NodeProto], *rest: Any, **settings: Any) -> Any:
        for node in nodes:
            if node.domain == DOMAIN:
                MEANINGS[meaning](node)
        return small(nodes, *rest, **settings)

    images = "g (float[N,16,8,8] x) => (float y) { a = Conv(x, w) b = Relu(a) y = Conv(b, v) }"
    model = onnx_lsuv.from_proto(parse(f"{HEAD} {images}", w=normal(32, 16, 3, 3), v=normal(32, 32, 1, 1)))
    monkeypatch.setattr(blocks, "small_session", otherwise)
    blocks.block.cache_clear()
    try:
        assert runtime.block(CPU) == 1
        plain = onnx_lsuv.initialize(model, {"x": normal(4, 16, 8, 8)})
    finally:
        monkeypatch.undo()
        blocks.block.cache_clear()
    assert runtime.block(CPU) == expected
    in_blocks = onnx_lsuv.initialize(model, {"x": normal(4, 16, 8, 8)})
    assert [row.status for row in plain.layers] == ["scaled", "scaled"]
    assert [r.scale for r in plain.layers] == pytest.approx([r.scale for r in in_blocks.layers], rel=1e-5)


def test_blocks_are_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime.block(CPU)
    monkeypatch.setattr(blocks, "small_session", None)
    assert runtime.block(runtime.open_device("cpu")) == runtime.block(CPU)


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


@pytest.mark.cpu  # CUDA's kernels give zeros
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
