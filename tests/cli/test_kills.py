"""Killed at random moments: every output is whole, as it was before, or absent, and what is read stays as it is.

`python tests/cli/test_kills.py KILLS SEED` kills as often as asked for.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import onnx
import pytest
from commands import everything, fill, mlp, snapshot

from onnx_lsuv.model import atomic

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

# Ready once signals are answered and all is imported; slow where files are written and put into place, so that signals
# meet it there.
DRIVER = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what runs in the background
from onnx_lsuv.cli import main
entry = sys.modules["onnx_lsuv.cli.process"]
seed, ready = int(sys.argv[1]), int(sys.argv[2])
sys.argv[1:] = sys.argv[3:]
begin = entry.run
def run(arguments):
    import os, random, time
    import onnx, onnxruntime
    from onnx_lsuv import batches, lsuv, model, portable, report, runtime
    from onnx_lsuv.cli import command, modes, outcome, preflight
    from onnx_lsuv.model import atomic
    draw = random.Random(seed)
    def slowly(step):
        def taken(*arguments):
            time.sleep(draw.uniform(0, 0.04))
            result = step(*arguments)
            time.sleep(draw.uniform(0, 0.04))
            return result
        return taken
    for name in ("_write", "_put", "_set_aside", "_take_back", "_sync_folder"):
        setattr(atomic, name, slowly(getattr(atomic, name)))
    perform = modes.perform
    def begun(options):
        os.write(ready, b"!")
        return perform(options)
    modes.perform = begun
    return begin(arguments)
entry.run = run
main()
"""
OUTPUTS = ("o.onnx", "w.json", "w.npz", "r.json", "r.html")


def prepare(here: Path) -> None:
    """Put a model with external data, its data, and a folder for the outputs into a folder."""
    fill(here)
    for folder in ("in", "other"):
        (here / folder).mkdir()
    onnx.save(mlp(), str(here / "in/ext.onnx"), save_as_external_data=True, location="w.json", size_threshold=600)


def killed(number: int | None, seed: int, delay: float, *more: str) -> tuple[int, str, float]:
    """Run the command and send it a signal some seconds after it has begun; return status, words and time taken."""
    reading, writing = os.pipe()
    arguments = everything("other", "--device", "cpu", *more)
    command = [sys.executable, "-c", DRIVER, str(seed), str(writing), *arguments]
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, pass_fds=[writing], text=True, **streams) as running:
        os.close(writing)
        assert os.read(reading, 1) == b"!", running.communicate()[1]
        os.close(reading)
        begun = time.monotonic()
        if number is not None:
            time.sleep(delay)
            running.send_signal(number)
        words = running.communicate(timeout=60)[1]
    return running.returncode, words, time.monotonic() - begun


def is_whole(name: str, content: bytes | str, whole: dict[str, bytes]) -> bool:
    """Whether the content is what a run writes; reports tell the time, so they are only looked at from end to end."""
    if name.endswith((".onnx", ".npz")) or name == "w.json":
        return content == whole[name]
    assert isinstance(content, bytes)
    return "seconds" in json.loads(content) if name.endswith(".json") else content.rstrip().endswith(b"</html>")


def check_kills(here: Path, kills: int, seed: int) -> dict[str, int]:
    """Kill as many runs at random moments; every output must be whole, as it was, or absent. Return what was met."""
    draw = random.Random(seed)
    runs = []
    for more in (["--seed", "1"], ["--force"]):
        status, words, took = killed(None, 0, 0, *more)
        assert (status, words) == (0, "")
        runs.append({name: Path("other", name).read_bytes() for name in OUTPUTS})
    earlier, whole = runs
    before = {name: content for name, content in snapshot(here).items() if not name.startswith("other/")}
    met: dict[str, int] = {}
    for kill in range(kills):
        number = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)[kill % 3]
        force = draw.random() < 0.5
        shutil.rmtree("other")
        Path("other").mkdir()
        old = earlier if force else {}
        for name, content in old.items():
            Path("other", name).write_bytes(content)
        more = [*(["--force"] if force else []), *(["--memory", "1K"] if kill % 2 else [])]
        status, words, _ = killed(number, kill, draw.uniform(0, took), *more)
        after = snapshot(here)
        assert {name: content for name, content in after.items() if not name.startswith("other/")} == before
        there = {name.removeprefix("other/"): content for name, content in after.items() if name.startswith("other/")}
        stray = {name for name in there if name.startswith(atomic.PREFIX)}
        new = {name for name, content in there.items() if name not in stray and content != old.get(name)}
        assert new <= set(OUTPUTS)
        assert set(old) <= set(there)
        assert all(is_whole(name, there[name], whole) for name in new), (number, status, words, new)
        if number == signal.SIGKILL:
            assert status in (-signal.SIGKILL, 0)
        else:
            # All of them or none, and the sentence knows which.
            assert not stray, (number, status, words, stray)
            assert new in (set(), set(OUTPUTS)), (number, status, words, new)
            assert status in (128 + number, 0)
            assert "Traceback" not in words
            if status == 0 or (new and not words):  # the work was over
                assert words == ""
            else:
                (line,) = words.splitlines()
                assert ("saved all the same" in line) == bool(new), words
                assert ("nothing was saved" in line) != bool(new), words
        kind = "all" if len(new) == len(OUTPUTS) else "some" if new else "none"
        label = f"{number.name} {'finished' if status == 0 else kind}{' stray' if stray else ''}"
        met[label] = met.get(label, 0) + 1
    return met


@pytest.mark.slow
def test_kills_at_random_moments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path)
    met = check_kills(tmp_path, 24, seed=0)
    assert any("none" in kind for kind in met)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as room:
        os.chdir(room)
        prepare(Path(room))
        print(check_kills(Path(room), int(sys.argv[1]), int(sys.argv[2])))
        os.chdir("/")
