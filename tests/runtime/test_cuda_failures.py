"""What goes wrong on CUDA, and how it is said; on the emulated libraries, which can be told to fail."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle import normal, parse

from onnx_lsuv.runtime import Device

pytestmark = [pytest.mark.cuda, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]

# The command in a process; auto is to take CUDA for a small model, too, where it is there.
COMMAND = """
import sys
from dataclasses import replace
from onnx_lsuv.runtime import providers
providers.PROVIDERS = tuple(replace(each, worth=0.0) for each in providers.PROVIDERS)
from onnx_lsuv.cli.process import run
sys.exit(run(sys.argv[1:]))
"""
LAYERS = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,64] x) => (float y) {
    a = MatMul(x, u) b = Relu(a) c = MatMul(b, v) d = Relu(c) y = MatMul(d, w) }"""
# what the emulated libraries are told: the cause as it is said
CAUSES: dict[str, tuple[dict[str, str], str]] = {
    "no GPU": ({"FAKE_CUINIT": "100"}, "it finds no GPU; CUDA_VISIBLE_DEVICES may hide it; error 100"),
    "driver and module differ": ({"FAKE_CUINIT": "803"}, "restart the machine; error 803"),
    "an unknown error": ({"FAKE_CUINIT": "999"}, "see what nvidia-smi says; error 999"),
    "an old driver": ({"FAKE_GPU_DRIVER": "12040"}, "for CUDA 12, and onnxruntime-gpu"),
    "a driver that says too late that it is old": ({"FAKE_GPU_FAIL": "driver"}, "the NVIDIA driver is too old"),
    "no kernels": ({"FAKE_GPU_FAIL": "kernel"}, "has no kernels for this GPU"),
    "a full GPU": ({"FAKE_GPU_MEM": "1000"}, "the GPU's memory is full"),
    "kernels that do nothing": ({"FAKE_GPU_NOEMU": "1"}, "a small trial there gives wrong numbers"),
}


def _python(code: str, *words: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *words]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **env}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


@pytest.fixture(scope="module")
def emulated(cuda: Device) -> Path:
    """Return the folder of the emulated libraries, where CUDA opens by them."""
    for folder in filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(":")):
        if (Path(folder) / "libfakekern.so").is_file():
            return Path(folder)
    pytest.skip("a real GPU cannot be told to fail")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of data, and write a model beside it."""
    path = tmp_path_factory.mktemp("data") / "x.npy"
    np.save(path, normal(16384, 64))
    model = parse(LAYERS, **{name: normal(64, 64, seed=i) for i, name in enumerate("uvw")})
    path.with_name("m.onnx").write_bytes(model.SerializeToString())
    return path


def command(folder: Path, data: Path, device: str, **env: str) -> tuple[int, dict[str, Any], str]:
    """Run the command; return the status, the report on standard output, what standard error says."""
    words = [str(data.with_name("m.onnx")), "-d", str(data), "-o", str(data.with_name("out.onnx")), "--force"]
    ran = _python(COMMAND, *words, "--device", device, "--format", "json", env={"LD_LIBRARY_PATH": str(folder), **env})
    return ran.returncode, json.loads(ran.stdout) if ran.stdout else {}, ran.stderr


def check(folder: Path, data: Path, cause: str, **env: str) -> None:
    """Hold `cuda` to status 5 and one sentence, and `auto` to the CPU and a note."""
    status, report, said = command(folder, data, "cuda", **env)
    assert (status, report) == (5, {})
    assert said.startswith("onnx-lsuv: error: the device 'cuda' was asked for, but ")
    assert said.endswith(": use '--device cpu' (device='cpu') to run without it.\n")
    assert said.count("\n") == 1
    assert cause in said
    status, report, said = command(folder, data, "auto", **env)
    assert (status, said, report["device"]) == (0, "", "cpu")
    assert [note for note in report["notes"] if note.startswith("CUDA was left alone: ") and cause in note]


@pytest.mark.parametrize("name", CAUSES)
def test_cuda_ends_with_the_cause_and_auto_takes_the_cpu(name: str, emulated: Path, data: Path) -> None:
    env, cause = CAUSES[name]
    check(emulated, data, cause, **env)


@pytest.mark.parametrize("library", ["libcurand.so.10", "libcudnn.so.9", "libcublas.so.13", "libcublasLt.so.13"])
def test_a_library_that_is_missing(library: str, emulated: Path, data: Path, tmp_path: Path) -> None:
    shutil.copytree(emulated, tmp_path / "lib", ignore=lambda *_: [library])
    words = f"the library {library} cannot be loaded; onnxruntime-gpu 1."
    check(tmp_path / "lib", data, words)


def test_auto_takes_cuda(emulated: Path, data: Path) -> None:
    status, report, said = command(emulated, data, "auto")
    assert (status, said, report["device"]) == (0, "", "cuda:0")


SIZES = [2**20, 3 * 2**20, 5 * 2**20, *(n * 2**20 for n in (7, 9, 11, 13, 15, 18, 21, 26, 32))]


def test_memory_that_runs_out(emulated: Path, data: Path) -> None:
    """At each of twelve sizes it is done, whole or in smaller batches, or ends with 5 and what to lower."""
    seen = []
    for size in SIZES:
        status, report, said = command(emulated, data, "cuda", FAKE_GPU_MEM=str(size))
        if status == 0:
            assert (said, report["device"]) == ("", "cuda:0")
            smaller = [note for note in report["notes"] if note.startswith("the memory of cuda:0 held no whole batch")]
            assert len(smaller) <= 1
            assert report["data"]["batches"] in ((1, 8) if smaller else (1,))  # 1: only to measure them took more
            seen.append("smaller" if smaller else "whole")
            continue
        assert (status, report, said.count("\n")) == (5, {}, 1)
        assert "the GPU's memory is full" in said or "'--samples', or '--device cpu' (device='cpu')." in said
        seen.append("none")
    assert (seen[0], seen[-1], {*seen}) == ("none", "whole", {"none", "smaller", "whole"})


def test_auto_takes_the_cpu_where_the_memory_runs_out(emulated: Path, data: Path) -> None:
    status, report, said = command(emulated, data, "auto", FAKE_GPU_MEM=str(SIZES[0]))
    assert (status, said, report["device"]) == (0, "", "cpu")
    assert [note for note in report["notes"] if note.startswith("CUDA was left alone: ")]


def test_what_float16_does_not_hold_is_named(emulated: Path, tmp_path: Path) -> None:
    arrays = {name: normal(64, 64, seed=i).astype(np.float16) for i, name in enumerate("uvw")}
    (tmp_path / "m.onnx").write_bytes(parse(LAYERS.replace("float", "float16"), **arrays).SerializeToString())
    np.save(tmp_path / "x.npy", np.full((64, 64), 60000, np.float16) * (np.arange(64).reshape(64, 1) % 2))
    status, report, _ = command(emulated, tmp_path / "x.npy", "cuda")
    assert (status, {row["status"] for row in report["layers"]}) == (1, {"degenerate"})
    assert [note for note in report["notes"] if note.startswith("float16, which ends at 65504, does not hold what ")]


def test_fresh_memory_is_not_read(emulated: Path, data: Path, tmp_path: Path) -> None:
    shutil.copy(data.with_name("m.onnx"), tmp_path)
    data = tmp_path / data.name
    np.save(data, normal(1024, 64))  # from 4096 on the sums of samples are products, of a kind that is not emulated
    (plain, report, _), (poisoned, again, said) = (
        command(emulated, data, "cuda", **env) for env in ({}, {"FAKE_GPU_POISON": "1"})
    )
    assert (plain, poisoned, said) == (0, 0, "")
    assert [row["scale"] for row in again["layers"]] == [row["scale"] for row in report["layers"]]


def test_an_index_beyond_a_table(emulated: Path, tmp_path: Path) -> None:
    arrays = dict(np.load(ROOT / "sample_models" / "transformer.npz"))
    arrays["ids"] = arrays["ids"][:4].copy()
    arrays["ids"][1, 2] = 10**6
    np.savez(tmp_path / "x.npz", **arrays)
    words = [str(ROOT / "sample_models" / "transformer.onnx"), "-d", str(tmp_path / "x.npz"), "--device", "cuda"]
    for more in (["-o", str(tmp_path / "y.onnx")], ["--check"]):
        ran = _python(COMMAND, *words, *more, env={"LD_LIBRARY_PATH": str(emulated)})
        assert (ran.returncode, ran.stdout) == (4, "")
        assert "idx=1000000 must be within the inclusive range [-512,511]" in ran.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]
