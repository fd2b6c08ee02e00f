"""What `--device auto` takes, and what happens where a device fails; without one, by rows that stand for providers."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from oracle import normal, parse

import onnx_lsuv
from onnx_lsuv import batches as kinds
from onnx_lsuv import runtime
from onnx_lsuv.batches import Batches
from onnx_lsuv.errors import DeviceError, DeviceMemoryError, ModelError
from onnx_lsuv.lsuv.prepare import attempt, work_of
from onnx_lsuv.lsuv.rows import overflow_notes
from onnx_lsuv.runtime import Device, devices, providers, sessions
from onnx_lsuv.runtime.providers import CUDA, Provider

pytestmark = pytest.mark.cpu

# Computes on the CPU, and says that its values lie elsewhere, so that a trial has to show that it works.
FAKE = Provider(
    "xnn", "XNN", "CPUExecutionProvider", "onnxruntime-xnn", memory="xnn", numbered=True, automatic=True, worth=1000.0
)
MLP = """<ir_version: 10, opset_import: ["" : 17]> g (float[N,8] x) => (float y) {
    a = MatMul(x, w) b = Relu(a) y = MatMul(b, v) }"""


def model() -> onnx_lsuv.Model:
    return onnx_lsuv.from_proto(parse(MLP, w=normal(8, 16), v=normal(16, 4, seed=1)))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function: put a provider, FAKE but for some columns, above the CPU in the table."""

    def put(**changes: Any) -> None:
        monkeypatch.setattr(providers, "PROVIDERS", (providers.PROVIDERS[0], replace(FAKE, **changes)))

    return put


@pytest.mark.parametrize(
    ("changes", "work", "name", "note"),
    [
        ({}, None, "xnn:0", ""),
        ({}, 2000, "xnn:0", ""),
        ({}, 1999, "cpu", "XNN was left alone: for so little work XNN would take longer to start"),
        ({"present": lambda: False}, 1999, "cpu", ""),
        ({"missing": lambda ort, index: "it is out"}, 9999, "cpu", "XNN was left alone: it is out"),
        ({"missing": lambda ort, index: "it is out", "present": lambda: False}, None, "cpu", ""),
        ({"name": "NoExecutionProvider"}, None, "cpu", "XNN was left alone: the installed ONNX Runtime is built with"),
    ],
)
def test_what_auto_takes(
    fake: Callable[..., None], changes: dict[str, Any], work: float | None, name: str, note: str
) -> None:
    fake(**changes)
    device = runtime.open_device("auto", threads=2, work=work)
    assert (device.name, device.automatic) == (name, name != "cpu")
    assert [each[: len(note)] for each in device.notes] == [note] * bool(note)
    if name != "cpu":
        assert not runtime.open_device("xnn", threads=2, work=0).automatic  # which was asked for, whatever the work


def raises(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        ("CUDA error cudaErrorNoKernelImageForDevice:no kernel image is available", "has no kernels for this GPU"),
        ("CUDA failure 35: CUDA driver version is insufficient for CUDA runtime", "from 525 on for CUDA 12, 580 on"),
        ("Failed to allocate memory for requested buffer of size 1048576", "the GPU's memory is full"),
        ("CUDA failure 46: all CUDA-capable devices are busy or unavailable", "the GPU is busy"),
        ("CUDA failure 719: unspecified launch failure", "a small trial there fails (CUDA failure 719: unspecified"),
    ],
)
def test_what_a_trial_shows(fake: Callable[..., None], monkeypatch: pytest.MonkeyPatch, words: str, cause: str) -> None:
    causes = providers.PROVIDERS[1].causes
    fake(causes=causes)
    monkeypatch.setattr(devices, "small_session", raises(RuntimeError(words)))
    devices._failure.cache_clear()
    with pytest.raises(DeviceError, match=f"'xnn' was asked for, but .*{re.escape(cause)}"):
        runtime.open_device("xnn")
    device = runtime.open_device("auto")
    assert device.name == "cpu"
    assert cause in device.notes[0]


def test_a_trial_that_gives_wrong_numbers(fake: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    fake()
    monkeypatch.setattr(np, "einsum", lambda *_: np.ones(1))
    devices._failure.cache_clear()
    with pytest.raises(DeviceError, match="'xnn' was asked for, but a small trial there gives wrong numbers: use"):
        runtime.open_device("xnn")
    devices._failure.cache_clear()


def test_the_libraries_are_those_that_the_provider_names() -> None:
    file = Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
    if sys.platform != "linux" or not file.is_file():
        pytest.skip("this ONNX Runtime has no provider for CUDA")
    _, libraries = CUDA[onnxruntime.cuda_version.partition(".")[0]]
    content = file.read_bytes()
    needed = {name.decode() for name in re.findall(rb"\0(libcu\w+\.so\.\d+)(?=\0)", content)}
    assert needed >= {*libraries.split()} - {"libcudnn.so.9"}  # which is opened by hand
    assert {name for name in needed if "cuda" not in name} <= {*libraries.split()}


def test_the_page_says_what_belongs_together_and_what_is_worth_a_start() -> None:
    page = " ".join((Path(__file__).parents[2] / "onnx_lsuv" / "cli" / "README.md").read_text().split())
    for major, (driver, _) in CUDA.items():
        assert re.search(rf"built for CUDA {major}\b[^.]* driver from {driver} on", page)
    (worth,) = {provider.worth for provider in providers.PROVIDERS} - {0.0}
    assert f"less than {worth:.0e}".replace("+", "") in page


def test_what_auto_took_gives_way_where_it_fails(fake: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    def run(session: Any, *arguments: Any) -> Any:
        if session.device.name != "cpu":
            raise BROKEN
        return sessions.run(session, *arguments)

    fake(worth=0.0)
    monkeypatch.setattr(runtime, "run", run)
    batch = {"x": normal(64, 8)}
    found = onnx_lsuv.initialize(model(), batch, device="auto")
    plain = onnx_lsuv.initialize(model(), batch)
    assert found.device == "cpu"
    assert onnx_lsuv.to_bytes(found.model) == onnx_lsuv.to_bytes(plain.model)
    assert [note for note in found.notes if note not in plain.notes] == list(found.device_notes)
    assert found.device_notes == ("XNN was left alone: it broke",)
    measured = onnx_lsuv.measure(found.model, batch, like=found, device="auto", strict=True)
    assert (measured.device_notes, measured.good) == (found.device_notes, True)
    checked = onnx_lsuv.measure(found.model, batch, device="auto", strict=True)
    assert (checked.device, checked.good, checked.notes) == ("cpu", True, checked.device_notes)
    with pytest.raises(DeviceError, match="it broke"):
        onnx_lsuv.initialize(model(), batch, device="xnn")


def tried(*fails: Exception | None) -> tuple[list[tuple[Device, int]], Callable[[Device, Batches], str]]:
    """Return what is done where, and how: some times it fails."""
    seen: list[tuple[Device, int]] = []

    def work(device: Device, data: Batches) -> str:
        seen.append((device, len(data)))
        error = fails[len(seen) - 1]
        if error is not None:
            raise error
        return "done"

    return seen, work


DATA = kinds.from_arrays(kinds.inputs_of(model().proto.graph), {"x": normal(30, 8)})
ONE = kinds.from_arrays(kinds.inputs_of(model().proto.graph), {"x": normal(1, 8)})
FULL, BROKEN = DeviceMemoryError("the memory ran out"), DeviceError("it broke")
GPU = Device("cuda:0", 2)


def test_once_more_in_smaller_batches() -> None:
    seen, work = tried(FULL, None)
    found, device, data = attempt(work, GPU, DATA)
    assert (found, [length for _, length in seen]) == ("done", [1, 8])
    assert device.notes == ("the memory of cuda:0 held no whole batch, so 1 became 8 smaller ones",)
    assert seen[1][0] == device
    assert (device.spared, seen[0][0].spared) == (True, False)
    assert np.array_equal(np.concatenate([batch["x"] for batch in data]), DATA[0]["x"])


@pytest.mark.parametrize(
    ("data", "fails", "runs"),
    [(DATA, (FULL, FULL), 2), (ONE, (FULL,), 1), (DATA, (BROKEN,), 1), (DATA, (FULL, BROKEN), 2)],
)
def test_what_was_asked_for_fails(data: Batches, fails: tuple[Exception, ...], runs: int) -> None:
    seen, work = tried(*fails)
    with pytest.raises(type(fails[-1]), match=str(fails[-1])):
        attempt(work, GPU, data)
    assert len(seen) == runs


@pytest.mark.parametrize(("data", "fails"), [(DATA, (FULL, FULL)), (ONE, (FULL,)), (DATA, (BROKEN,))])
def test_what_auto_took_gives_way(data: Batches, fails: tuple[Exception, ...]) -> None:
    seen, work = tried(*fails, None)
    found, device, again = attempt(work, replace(GPU, automatic=True), data)
    assert (found, again is data, device.name, seen[-1][0]) == ("done", True, "cpu", device)
    assert (device.spared, device.automatic) == (False, False)
    assert device.notes == (f"CUDA was left alone: {fails[-1]}",)


def smaller(inputs: str, **arrays: NDArray[Any]) -> list[list[tuple[int, ...]]] | None:
    """Return the shapes of smaller batches."""
    body = parse(f"{MLP.partition(' g ')[0]} g ({inputs}) => (float y) {{ y = Identity(x) }}")
    found = kinds.from_arrays(kinds.inputs_of(body.graph), arrays).smaller()
    return None if found is None else [[array.shape for array in batch.values()] for batch in found]


def test_smaller_batches_where_the_model_leaves_them_open() -> None:
    assert smaller("float[N,2] x", x=normal(9, 2)) == [[(2, 2)]] * 4 + [[(1, 2)]]
    arrays = {"x": normal(16, 2), "z": normal(16), "s": normal(1, 3), "r": normal()}
    both = smaller("float[N,2] x, float[N] z, float[1,3] s, float r", **arrays)
    assert both == [[(2, 2), (2,), (1, 3), ()]] * 8
    assert smaller("float[N,2] x", x=normal(1, 2)) is None
    assert smaller("float[4,2] x", x=normal(8, 2)) is None
    assert smaller("float[N,2] x, float[4,2] z", x=normal(4, 2), z=normal(4, 2)) is None
    assert smaller("float[N,2] x, float[T,2] z", x=normal(4, 2), z=normal(5, 2)) is None


def test_how_much_there_is_to_do() -> None:
    assert work_of(onnx_lsuv.plan(model()).plan, DATA) == (8 * 16 + 16 * 4) * 30 * 8
    assert work_of(onnx_lsuv.plan(model()).plan, None) == 0
    words = """<ir_version: 10, opset_import: ["" : 17]> g (int64[N,6] x) => (float y) {
        a = Gather(t, x) y = MatMul(a, w) }"""
    looked = onnx_lsuv.from_proto(parse(words, t=normal(9, 8), w=normal(8, 4)))
    data = kinds.from_arrays(kinds.inputs_of(looked.proto.graph), {"x": np.ones((5, 6), np.int64)})
    assert work_of(onnx_lsuv.plan(looked).plan, data) == 8 * 4 * 5 * 6 * 1000


def test_what_float16_does_not_hold_is_named() -> None:
    half = parse(MLP.replace("float", "float16"), w=normal(8, 16).astype("f2"), v=normal(16, 4, seed=1).astype("f2"))
    rows = onnx_lsuv.initialize(onnx_lsuv.from_proto(half), {"x": normal(64, 8).astype("f2")}).layers
    assert overflow_notes(rows, GPU) == []
    for wrong in (replace(rows[0], std_drawn=math.nan), replace(rows[0], std=math.inf)):
        (note,) = overflow_notes([wrong, rows[1]], GPU)
        assert note.startswith(f"float16, which ends at 65504, does not hold what '{rows[0].name}' gives on cuda:0: ")
        assert overflow_notes([wrong], replace(GPU, name="cpu")) == []
        assert overflow_notes([replace(wrong, dtype="float32")], GPU) == []


@pytest.mark.parametrize(
    ("words", "kind", "said"),
    [
        ("Failed to allocate memory for requested buffer of size 262144", DeviceMemoryError, "where 262144 bytes more"),
        ("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0", DeviceMemoryError, "give smaller batches"),
        ("CUDNN failure 8: CUDNN_STATUS_EXECUTION_FAILED ; GPU=0", DeviceError, "CUDNN failure 8"),
        ("CUDA failure 209: no kernel image is available", DeviceError, "has no kernels for this GPU"),
        ("Node (x) has input size 1 not in range [min=2, max=2]", ModelError, "cannot load the model"),
    ],
)
def test_what_fails_while_a_model_is_loaded(words: str, kind: type[Exception], said: str) -> None:
    error = sessions._refused(RuntimeError(words), GPU)
    assert type(error) is kind
    assert said in str(error)
