"""What `pytest --device cuda` turns, and that its list of what the emulation cannot serve is held to."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import devices
import pytest

pytestmark = pytest.mark.cpu  # elsewhere they would turn what holds them
ROOT = Path(__file__).resolve().parents[1]
TEST = "tests/test_a.py::test_b[c-1]"


def test_every_listed_test_is_there() -> None:
    names = [name for tests in devices.MISSING.values() for name in tests]
    assert len(names) == len(set(names))
    for name in names:
        file, _, test = name.partition("::")
        function = re.match(r"\w+", test)
        assert function is not None, name
        assert f"def {function[0].rstrip('_')}" in (ROOT / file).read_text(encoding="utf-8"), name


@pytest.mark.parametrize(
    ("listed", "count", "outcome", "words"),
    [
        ({}, 0, None, ""),
        ({}, 1, pytest.fail.Exception, "lacks _Z7MaxPoolv, under which not_emulated.json does not list"),
        ({"MaxPool": [TEST]}, 1, pytest.skip.Exception, "the emulation of CUDA lacks _Z7MaxPoolv"),
        ({"MaxPool": ["tests/test_a.py::test_b[c-*]"]}, 1, pytest.skip.Exception, "lacks _Z7MaxPoolv"),
        ({"Resize": [TEST]}, 1, pytest.fail.Exception, "does not list"),
        ({"MaxPool": [TEST]}, 0, pytest.fail.Exception, "under MaxPool, but it needs no kernel that is lacking"),
        ({"MaxPool wrong": [TEST]}, 0, pytest.skip.Exception, "has MaxPool wrong"),
    ],
)
def test_what_is_listed_and_nothing_else_is_skipped(
    listed: dict[str, list[str]], count: int, outcome: Any, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "MISSING", listed)
    monkeypatch.setattr(devices, "lacked", lambda: (7 + count, "_Z7MaxPoolv"))
    if outcome is None:
        devices.settle(TEST, 7)
    else:
        with pytest.raises(outcome, match=re.escape(words)):
            devices.settle(TEST, 7)


def test_the_cpu_is_another_device_in_this_process_and_in_commands() -> None:
    """In a process of its own, with one that nobody has: what opens is refused, what is told is told of the other."""
    code = """
import subprocess, sys, devices, onnx_lsuv
from onnx_lsuv import runtime
devices.turn("cuda:99")
for open_it in (runtime.open_device, runtime.device_of):
    try:
        open_it("cpu")
    except onnx_lsuv.errors.DeviceError as error:
        print(error, flush=True)
subprocess.run([sys.executable, "-c", "import sys; print(sys.argv[1:])", "--device", "cpu", "cpu"])
subprocess.run(["sh", "-c", "echo --device cpu"])
"""
    path = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=path)
    one, two, *told = ran.stdout.splitlines()
    assert one == two
    assert one.startswith("The device 'cuda:99' was asked for, but ")
    assert told == ["['--device', 'cuda:99', 'cpu']", "--device cuda:99"]
