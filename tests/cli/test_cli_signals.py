"""Signals: the process ends at once, wherever it is, with one line and the status that the shell expects."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from commands import HEAD, contents, fill, names
from oracle import normal, parse

pytestmark = pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="this system cannot block signals")

RUN = ["m.onnx", "-d", "x.npy", "--device", "cpu"]
OUTPUTS = {"m.lsuv.onnx", "w.npz", "r.json"}
WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a model m.onnx and data x.npy."""
    monkeypatch.chdir(tmp_path)
    return fill(tmp_path)


def start(*command: str) -> subprocess.Popen[str]:
    """Start a process that has signals blocked from its first instruction on: Python's own start is not our matter."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    try:
        return subprocess.Popen(
            [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def patched(code: str, *arguments: str) -> tuple[int, str, str]:
    """Run the command after some code, in a process of its own; return its status and what it wrote."""
    prelude = f"""
import os, signal, sys, time
def kill(number):
    os.kill(os.getpid(), number)
{code}
sys.argv = ["onnx-lsuv", *{list(arguments)!r}]
from onnx_lsuv.cli import main
main()
"""
    with start("-c", prelude) as running:
        stdout, stderr = running.communicate(timeout=100)
    return running.returncode, stdout, stderr


# -------------------------------------------------------------------------------------------------------------- moments


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
@pytest.mark.slow
def test_signals_at_any_moment(here: Path, seed: int) -> None:
    command = ["-m", "onnx_lsuv", *RUN, "--force", "--weights-out", "w.npz", "--report", "r.json"]
    begin = time.perf_counter()
    with start(*command) as running:
        assert running.communicate(timeout=100)[1] == ""
    length = time.perf_counter() - begin
    whole = {name: (here / name).read_bytes() for name in ("m.lsuv.onnx", "w.npz")}
    given = {name: content for name, content in contents(here).items() if name not in OUTPUTS}
    generator = random.Random(seed)
    for _ in range(10):
        for name in OUTPUTS:
            (here / name).unlink(missing_ok=True)
        number, delay = generator.choice([signal.SIGINT, signal.SIGTERM]), generator.uniform(0, length)
        twice = generator.choice([None, None, signal.SIGINT, signal.SIGTERM])
        with start(*command) as running:
            time.sleep(delay)
            running.send_signal(number)
            if twice is not None:
                time.sleep(generator.uniform(0, 0.02))
                running.send_signal(twice)
            stderr = running.communicate(timeout=100)[1]
        if running.returncode == 0:  # it was over
            assert stderr == ""
            assert names(here) == {*given, *OUTPUTS}
        else:
            first = [number] if twice is None else [number, twice]  # two that are pending have no order
            assert running.returncode in [128 + each for each in first], stderr
            words = WORDS[signal.Signals(running.returncode - 128)]
            saved = [name for name in ("m.lsuv.onnx", "w.npz", "r.json") if (here / name).exists()]
            verb = "is" if len(saved) == 1 else "are"
            told = f"{', '.join(map(repr, saved))} {verb} saved all the same" if saved else "nothing was saved"
            assert stderr == f"onnx-lsuv: error: {words}; {told}.\n"
        found = contents(here)
        assert {name: found.pop(name) for name in given} == given
        assert found.keys() <= OUTPUTS
        assert {name: found[name] for name in whole if name in found}.items() <= whole.items()


@pytest.mark.parametrize("module", ["typer", "onnx_lsuv.cli.modes", "numpy", "onnx", "ml_dtypes", "onnxruntime"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.few(3)
def test_a_signal_while_something_is_imported(here: Path, module: str, number: signal.Signals) -> None:
    # A package that takes whatever is raised while it loads for a fault of its own.
    code = f"""
class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            try:
                kill({int(number)})
                time.sleep(60)
            except BaseException as error:
                raise ImportError("broken") from error
sys.meta_path.insert(0, Slow())
"""
    before = names(here)
    expected = (128 + number, "", f"onnx-lsuv: error: {WORDS[number]}; nothing was saved.\n")
    assert patched(code, *RUN) == expected
    assert names(here) == before


def test_a_signal_in_a_destructor_is_not_lost(here: Path) -> None:
    code = """
class Last:
    def __del__(self):
        kill(signal.SIGINT)
        time.sleep(60)
import onnx_lsuv.cli.failures
real = onnx_lsuv.cli.failures.guarded
def guarded(work, verbose):
    last = Last()
    del last
    return real(work, verbose)
onnx_lsuv.cli.failures.guarded = guarded
"""
    assert patched(code, *RUN) == (130, "", "onnx-lsuv: error: interrupted; nothing was saved.\n")


@pytest.mark.slow
def test_a_run_of_minutes_is_interrupted(here: Path) -> None:
    # One node that runs for long in ONNX Runtime, which looks at no signal.
    body = "body (int64 i, bool[1] c, float[N,8] a) => (bool[1] d, float[N,8] b) { d = Identity(c) b = Tanh(a) }"
    text = f"""{HEAD} g (float[N,8] x) => (float z) {{
      y = MatMul(x, w) l = Loop(trips, yes, y) <body = {body}> z = MatMul(l, w2) }}"""
    given = {"w": normal(8, 8), "w2": normal(8, 8), "trips": np.array([10**9]), "yes": np.array([True])}
    onnx.save(parse(text, **given), "long.onnx")
    np.save("y.npy", normal(64, 8))
    before = names(here)
    with start("-m", "onnx_lsuv", "long.onnx", "-d", "y.npy", "--device", "cpu") as running:
        time.sleep(4)
        running.send_signal(signal.SIGINT)
        stdout, stderr = running.communicate(timeout=60)
    assert (running.returncode, stdout) == (130, "")
    assert stderr == "onnx-lsuv: error: interrupted; nothing was saved.\n"
    assert names(here) == before


# --------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize(
    "step", ["writing", *(pytest.param(step, marks=pytest.mark.slow) for step in ("failing", "removing"))]
)
def test_a_signal_during_the_clean_up(here: Path, step: str) -> None:
    code = f"""
from onnx_lsuv.model import atomic
write, clear, step = atomic._write, atomic.Staging.clear, {step!r}
def interrupted(file, pieces):
    write(file, pieces)
    if step != "failing":
        kill(signal.SIGINT)
        time.sleep(60)
    raise OSError(28, "No space left on device")
def clearing(staged):
    if step != "writing":
        kill(signal.SIGINT)
        kill(signal.SIGTERM)
        time.sleep(0.3)
    clear(staged)
atomic._write, atomic.Staging.clear = interrupted, clearing
"""
    before = names(here)
    status, stdout, stderr = patched(code, *RUN, "--weights-out", "w.npz")
    # Of two that are pending, either is answered.
    assert (status, stderr) in [
        (128 + number, f"onnx-lsuv: error: {words}; nothing was saved.\n") for number, words in WORDS.items()
    ]
    assert stdout == ""
    assert names(here) == before


@pytest.mark.parametrize("nth", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_files_come_into_place_together(here: Path, nth: int) -> None:
    # The model and its data file; a signal comes before the first, and between the two.
    model = onnx.load("m.onnx")
    options = {"save_as_external_data": True, "location": "m.data", "size_threshold": 0}
    onnx.save(model, "big.onnx", **options)
    code = f"""
from onnx_lsuv.model import atomic
put, count = atomic._put, 0
def slow(*arguments):
    global count
    count += 1
    if count == {nth}:
        kill(signal.SIGTERM)
        time.sleep(0.5)
    put(*arguments)
atomic._put = slow
"""
    before = names(here)
    status, _, stderr = patched(code, "big.onnx", *RUN[1:], "-o", "o.onnx")
    assert status == 143
    assert stderr == "onnx-lsuv: error: terminated; 'o.onnx' is saved all the same.\n"
    (data,) = names(here) - before - {"o.onnx"}
    assert not data.startswith(".")
    assert onnx.load("o.onnx").graph.initializer[0].raw_data


def test_new_folders_go_too(here: Path) -> None:
    code = """
from onnx_lsuv.model import atomic
write = atomic._write
def interrupted(file, pieces):
    write(file, pieces)
    kill(signal.SIGINT)
    time.sleep(60)
atomic._write = interrupted
"""
    (here / "in").mkdir()
    (here / "in" / "parts").mkdir()
    options = {"save_as_external_data": True, "location": "parts/m.data", "size_threshold": 0}
    onnx.save(onnx.load("m.onnx"), "in/big.onnx", **options)
    (here / "out").mkdir()
    assert patched(code, "in/big.onnx", *RUN[1:], "-o", "out/o.onnx")[0] == 130
    assert names(here / "out") == set()


# ------------------------------------------------------------------------------------------------------------ others


def test_a_closed_terminal_ends_the_run(here: Path) -> None:
    before = names(here)
    code = """
import onnx_lsuv.model
def load(path):
    kill(signal.SIGHUP)
    time.sleep(60)
onnx_lsuv.model.load = load
"""
    status, _, stderr = patched(code, *RUN)
    assert status == 129
    assert stderr == "onnx-lsuv: error: terminated, as the terminal was closed; nothing was saved.\n"
    assert names(here) == before


@pytest.mark.parametrize("number", ["HUP", pytest.param("INT", marks=pytest.mark.slow)])
def test_what_the_shell_ignores_stays_ignored(here: Path, number: str) -> None:
    code = f"""
import os, signal, sys, time
import onnx_lsuv.model
real = onnx_lsuv.model.load
def load(path):
    os.kill(os.getpid(), signal.SIG{number})
    time.sleep(0.5)
    return real(path)
onnx_lsuv.model.load = load
sys.argv = ["onnx-lsuv", *{RUN!r}]
from onnx_lsuv.cli import main
main()
"""
    Path("run.py").write_text(code)
    command = f"trap '' {number}; exec {sys.executable} run.py"
    ran = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False, env=dict(os.environ))
    assert (ran.returncode, ran.stderr) == (0, "")


def test_the_last_word_is_said_once(here: Path) -> None:
    code = """
import onnx_lsuv.cli.failures as failures
real = failures.last_word
def last_word():
    real()
    kill(signal.SIGINT)
    time.sleep(0.5)
failures.last_word = last_word
"""
    status, _, stderr = patched(code, "missing.onnx")
    assert status == 3
    assert stderr.count("\n") == 1
    assert "interrupted" not in stderr


def test_little_is_loaded_before_signals_are_answered() -> None:
    code = """
import sys
before = set(sys.modules)
from onnx_lsuv.cli import main
ours = {name for name in sys.modules if name.startswith("onnx_lsuv")}
assert ours == {"onnx_lsuv", "onnx_lsuv.cli", "onnx_lsuv.cli.process", "onnx_lsuv.cli.signals"}, ours
heavy = {"typing", "contextlib", "re", "inspect", "typer"} & (set(sys.modules) - before)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True)
