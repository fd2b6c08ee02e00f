"""The command line called in this process or as one of its own, and a folder to call it in."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto
from oracle import normal, parse

from onnx_lsuv import cli

HEAD = '<ir_version: 10, opset_import: ["" : 17, "acme" : 1]>'


@dataclass(frozen=True)
class Ran:
    """What a call printed, and its exit status."""

    status: int
    stdout: str
    stderr: str


def mlp() -> ModelProto:
    text = f"{HEAD} g (float[N,16] x) => (float z) {{ y = Gemm(x, w, b) r = Relu(y) z = MatMul(r, u) }}"
    return parse(text, w=normal(16, 16), u=normal(16, 8), b=normal(16))


def fill(folder: Path) -> Path:
    """Put a model m.onnx and data x.npy and zeros.npy into a folder."""
    onnx.save(mlp(), str(folder / "m.onnx"))
    np.save(folder / "x.npy", normal(64, 16))
    np.save(folder / "zeros.npy", np.zeros((8, 16), np.float32))
    return folder


def names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def invoke(arguments: Sequence[str]) -> Ran:
    """Run the command in this process."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        status = cli.run(arguments)
    return Ran(status, stdout.getvalue(), stderr.getvalue())


def call(*arguments: str, status: int = 0) -> Ran:
    """Run the command in this process, on the CPU; an error prints nothing but a sentence."""
    # What runs nothing takes no device.
    told = not {"--dry-run", "--no-values", "--device"}.isdisjoint(arguments)
    ran = invoke(arguments if told else ["--device", "cpu", *arguments])
    assert ran.status == status, (ran.stdout, ran.stderr)
    assert "Traceback" not in ran.stderr
    if status > 1:
        assert ran.stdout == ""
    return ran


def fails(status: int, *arguments: str) -> str:
    """Return the one sentence that the command says when it fails."""
    (line,) = call(*arguments, status=status).stderr.splitlines()
    assert line.startswith("onnx-lsuv: error: ")
    assert not line.startswith(("onnx-lsuv: error: The", "onnx-lsuv: error: Expected", "onnx-lsuv: error: There"))
    assert line.endswith(".")
    assert not line.endswith("..")
    assert "[ONNXRuntimeError]" not in line
    return line


def process(*arguments: str, environment: dict[str, str] | None = None, **options: Any) -> Any:
    """Run the command as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "onnx_lsuv", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, **(environment or {})},
        **options,
    )


def snapshot(folder: Path) -> dict[str, bytes | str]:
    """Return every file and link below a folder, by its path."""
    found: dict[str, bytes | str] = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        found[name] = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else ""  # noqa: PTH115
    return found


def everything(folder: str, *more: str) -> list[str]:
    """Return the arguments for a model with external data that write every kind of output into a folder."""
    outputs = ["-o", f"{folder}/o.onnx", "--weights-out", f"{folder}/w.npz", "--report", f"{folder}/r.json"]
    return ["in/ext.onnx", "-d", "x.npy", *outputs, "--report", f"{folder}/r.html", *more]
