"""What a terminal gets and what a file gets: widths, colours, progress, help, completion."""

from __future__ import annotations

import io
import os
import re
import struct
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from commands import HEAD, fill, invoke, mlp, process
from onnx import ModelProto
from oracle import normal, parse

import onnx_lsuv
from onnx_lsuv.lsuv import Result
from onnx_lsuv.report.columns import Column
from onnx_lsuv.report.layout import breadth, shortened, table
from onnx_lsuv.report.text import as_text

pty = pytest.importorskip("pty", reason="this system has no pseudo-terminals")
RUN = ["m.onnx", "-d", "x.npy", "--device", "cpu", "--force"]
CHECK = ["m.onnx", "-d", "x.npy", "--device", "cpu", "--check"]
FORCED = {"GITHUB_ACTIONS": "true", "FORCE_COLOR": "1", "PY_COLORS": "1", "CLICOLOR_FORCE": "1"}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a model m.onnx and data x.npy, and an environment that says nothing about terminals."""
    monkeypatch.chdir(tmp_path)
    for name in ("NO_COLOR", "COLUMNS", "LINES", "TERM", *FORCED):
        monkeypatch.delenv(name, raising=False)
    return fill(tmp_path)


def chain(names: Sequence[str], width: int) -> ModelProto:
    """Return a model of one MatMul after the other."""
    nodes = " ".join(f"{name} = MatMul({before}, w{name})" for before, name in zip(("x", *names), names, strict=False))
    text = f"{HEAD} g (float[N,{width}] x) => (float {names[-1]}) {{ {nodes} }}"
    return parse(text, **{f"w{name}": normal(width, width, seed=i) for i, name in enumerate(names)})


class _Terminal:
    """A pseudo-terminal, and what was written to it."""

    def __init__(self, columns: int) -> None:
        import fcntl  # noqa: PLC0415
        import termios  # noqa: PLC0415

        self.inner, self.outer = pty.openpty()[::-1]
        fcntl.ioctl(self.inner, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self.parts: list[bytes] = []
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self) -> None:
        while True:
            try:
                part = os.read(self.outer, 1 << 16)
            except OSError:
                return
            if not part:
                return
            self.parts.append(part)

    def text(self) -> str:
        os.close(self.inner)
        self.reader.join()
        os.close(self.outer)
        return b"".join(self.parts).decode().replace("\r\n", "\n")


def look(*arguments: str, columns: int = 80, errors: bool = False, **environment: str) -> tuple[int, str]:
    """Run the command with standard output, or standard error, on a terminal; return its status and what was seen."""
    seen = _Terminal(columns)
    ran = subprocess.run(
        [sys.executable, "-m", "onnx_lsuv", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL if errors else seen.inner,
        stderr=seen.inner if errors else subprocess.DEVNULL,
        check=False,
        env={**os.environ, "TERM": "xterm-256color", **environment},
        timeout=120,
    )
    return ran.returncode, seen.text()


# -------------------------------------------------------------------------------------------------------------- colours


def test_a_terminal_gets_colours(here: Path) -> None:
    status, text = look(*CHECK)
    assert status == 1
    assert "\x1b[31moff\x1b[0m" in text
    assert "\x1b[32mok\x1b[0m" in look(*RUN)[1]


@pytest.mark.parametrize(
    "environment",
    [
        {"NO_COLOR": "1"},
        *(pytest.param(e, marks=pytest.mark.slow) for e in ({"TERM": "dumb"}, {"NO_COLOR": "1", "FORCE_COLOR": "1"})),
    ],
)
def test_colours_can_be_turned_off(here: Path, environment: dict[str, str]) -> None:
    assert "\x1b" not in look(*CHECK, **environment)[1]
    assert "\x1b" not in look("--help", **environment)[1]


@pytest.mark.slow
def test_the_option_has_the_last_word(here: Path) -> None:
    assert "\x1b" not in look(*CHECK, "--color", "never")[1]
    assert "\x1b[31moff" in look(*CHECK, "--color", "always", NO_COLOR="1")[1]
    assert "\x1b[31moff" in process(*CHECK, "--color", "always").stdout
    assert "\x1b[1m" in process("--color", "always", "--help").stdout


@pytest.mark.parametrize(
    "arguments",
    [CHECK, ["--nope"], *(pytest.param(a, marks=pytest.mark.slow) for a in (RUN, ["m.onnx", "--dry-run"], ["--help"]))],
)
def test_files_stay_plain(here: Path, arguments: list[str]) -> None:
    ran = process(*arguments, environment=FORCED)
    assert "\x1b" not in ran.stdout + ran.stderr
    assert "\r" not in ran.stdout + ran.stderr


# ------------------------------------------------------------------------------------------------------------- progress


def test_progress_is_for_terminals(here: Path) -> None:
    # Long enough to be seen: a bar is drawn ten times a second.
    onnx.save(chain([f"y{i}" for i in range(40)], 16), "deep.onnx")
    np.save("many.npy", normal(400, 16))
    status, text = look("deep.onnx", "-d", "many.npy", "--device", "cpu", "--batch-size", "4", errors=True)
    assert status == 0
    assert "deep.lsuv.onnx" in {each.name for each in here.iterdir()}
    assert "calibrating" in text
    assert re.search(r"\d+/\d+ steps", text)
    # The cursor is hidden and comes back, and no line is left over.
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") > 0
    assert text.endswith("\x1b[2K")


@pytest.mark.slow
def test_progress_of_a_loader_whose_length_nobody_knows(here: Path) -> None:
    code = """
import time
import numpy as np

def batches():
    for k in range(8):
        time.sleep(0.05)
        print("mine")
        yield np.full((2, 16), k) + np.eye(2, 16)
"""
    Path("slow_lsuv.py").write_text(code)
    for more, shown in (((), r"[^/\d]\d+ samples"), (("--samples", "12"), r"\d+/12 samples")):
        status, text = look("m.onnx", "-d", "slow_lsuv:batches", "--device", "cpu", "--force", *more, errors=True)
        assert status in (0, 1)
        assert re.search(shown, text)
        assert "mine" in text


@pytest.mark.slow
def test_a_signal_gives_the_cursor_back(here: Path) -> None:
    code = f"""
import os, signal, sys, time
import onnx_lsuv.lsuv
def slow(*arguments, **options):
    options["progress"]("draw", 1, 2)
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
onnx_lsuv.lsuv.initialize = slow
sys.argv = ["onnx-lsuv", *{RUN!r}]
from onnx_lsuv.cli import main
main()
"""
    seen = _Terminal(80)
    ran = subprocess.run(
        [sys.executable, "-c", code], stderr=seen.inner, check=False, env={**os.environ, "TERM": "xterm"}, timeout=120
    )
    text = seen.text()
    assert ran.returncode == 130
    assert "drawing" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") > 0
    assert text.endswith("\x1b[2Konnx-lsuv: error: interrupted; nothing was saved.\n")


@pytest.mark.parametrize("how", ["-q", "dumb"])
def test_progress_can_be_turned_off(here: Path, how: str) -> None:
    extra, environment = (["-q"], {}) if how == "-q" else ([], {"TERM": "dumb"})
    assert look(*RUN, *extra, errors=True, **environment) == (0, "")


def test_progress_without_colours(here: Path) -> None:
    _, text = look(*RUN, errors=True, NO_COLOR="1")
    assert "\x1b[?25h" in text
    assert not re.search(r"\x1b\[[0-9;]*3[0-9][0-9;]*m", text)


def test_errors_are_broken_between_words(here: Path) -> None:
    status, text = look("m.onnx", "-d", "missing.npy", "-q", columns=30, errors=True)
    assert status == 4
    assert max(map(len, text.splitlines())) <= 30, text
    assert "the data file 'missing.npy' is missing" in " ".join(text.split())


# --------------------------------------------------------------------------------------------------------------- widths


@pytest.mark.slow
@pytest.mark.parametrize("columns", [20, 40, 80])
def test_nothing_is_wider_than_the_terminal(here: Path, columns: int) -> None:
    model = mlp()
    for node in model.graph.node:
        node.name = f"/very/long/name/of/{node.output[0]}/{node.op_type}"
    onnx.save(model, "long.onnx")
    for arguments in (
        ["long.onnx", "-d", "x.npy", "--device", "cpu", "--force"],
        ["long.onnx", "-d", "x.npy", "--device", "cpu", "--check", "--exclude", "u", "-v"],
        ["long.onnx", "--dry-run"],
        ["--help"],
    ):
        _, text = look(*arguments, columns=columns, NO_COLOR="1")
        assert max(map(len, text.splitlines())) <= max(columns, 28 if arguments == ["--help"] else 0)
    assert "ok" in look(*RUN, columns=columns, NO_COLOR="1")[1]


@pytest.fixture(scope="module")
def result() -> Result:
    """Four measured layers with long names that differ in the middle only."""
    model = chain("abcd", 8)
    for node in model.graph.node:
        node.name = f"/backbone/features/{node.output[0]}_block/conv/MatMul"
    batch = {"x": normal(64, 8)}
    done = onnx_lsuv.initialize(onnx_lsuv.from_proto(model), batch)
    return onnx_lsuv.measure(done.model, batch, like=done)


@pytest.mark.parametrize("width", [24, 30, 40, 60, 80, 120])
def test_names_are_shortened_where_they_stay_apart(result: Result, width: int) -> None:
    lines = as_text(result, width).splitlines()[:5]
    assert max(map(len, lines)) <= width
    assert lines[0].split()[0] == "layer"
    assert len({line.split()[0] for line in lines[1:]}) == 4
    assert all(line.endswith("ok") for line in lines[1:])


def test_columns_go_before_names_become_the_same(result: Result) -> None:
    assert as_text(result, 120).splitlines()[0].split()[:4] == ["layer", "op", "weight", "shape"]
    assert "weight" not in as_text(result, 50).splitlines()[0]
    assert as_text(result, 20).splitlines()[0].split() == ["layer", "status"]


def test_wide_characters_count_twice(result: Result) -> None:
    rows = tuple(
        replace(row, name=name) for row, name in zip(result.layers, ("層層層", "abc", "é", "e\u0301"), strict=True)
    )
    lines = as_text(replace(result, layers=rows), 100).splitlines()[1:5]
    starts = {breadth(line[: line.index("MatMul")]) for line in lines}
    assert len(starts) == 1
    assert breadth("層a\u0301") == 3
    assert shortened("層" * 10, 8) == "層..層"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_the_terminal_cannot_show_is_escaped_and_aligned(result: Result, encoding: str) -> None:
    rows = tuple(replace(row, name=name) for row, name in zip(result.layers, ("層", "é", "a", "b"), strict=True))
    text = as_text(replace(result, layers=rows), 100, encoding=encoding)
    text.encode(encoding)
    starts = {breadth(line[: line.index("MatMul")]) for line in text.splitlines()[1:5]}
    assert len(starts) == 1
    assert ("\\u5c64" in text) == (encoding != "utf-8")


def test_an_ascii_terminal(here: Path) -> None:
    model = mlp()
    model.graph.node[0].name = "層\u202e[/red]"
    onnx.save(model, "odd.onnx")
    status, text = look("odd.onnx", *RUN[1:], PYTHONIOENCODING="ascii", NO_COLOR="1")
    assert status == 0
    assert text.isascii()
    assert "\\u5c64\\u202e[/red]" in text
    look("odd.onnx", *RUN[1:], errors=True, PYTHONIOENCODING="ascii")


def test_a_table_that_cannot_fit_keeps_its_first_and_last_columns() -> None:
    columns = [
        (Column("a", "name", "name", least=12), ["abcdefghijkl"]),
        (Column("b", "middle", "word", drop=1), ["1"]),
        (Column("c", "end", "word"), ["x" * 9]),
    ]
    assert table(columns, 10) == "name    end\nab..kl  xxxxxxxxx"


def test_many_causes_are_cut_unless_asked_for(result: Result) -> None:
    rows = tuple(replace(result.layers[0], name=f"n{i}", status="off", note="why") for i in range(30))
    assert as_text(replace(result, layers=rows), 100).count("off: n") == 9
    assert "and 21 more" in as_text(replace(result, layers=rows), 100)
    assert as_text(replace(result, layers=rows), 100, verbose=True).count("off: n") == 30


# -------------------------------------------------------------------------------------------------- help and the shell


def test_help_is_grouped_and_fits() -> None:
    ran = process("--help")
    lines = ran.stdout.splitlines()
    assert (ran.returncode, ran.stderr) == (0, "")
    assert max(map(len, lines)) <= 80
    groups = ["Data", "Output", "Training", "Method", "Runtime", "Modes", "Messages", "Examples"]
    assert [line for line in lines if line in groups] == groups
    for group, option in (
        ("Data", "--samples"),
        ("Output", "--report"),
        ("Training", "--portable"),
        ("Modes", "--check"),
    ):
        after = lines[lines.index(group) + 1 :]
        assert any(option in line for line in after[: after.index("")])
    assert ran.stdout == process("-h").stdout


def test_verbose_says_more(here: Path) -> None:
    plain, more = (invoke([*RUN, *extra]).stdout for extra in ([], ["-v"]))
    assert "input x: float [64, 16], mean " in more
    assert "input x" not in plain


def test_completion(here: Path) -> None:
    shown = process(environment={"_ONNX_LSUV_COMPLETE": "source_bash"})
    assert shown.returncode == 0, shown.stderr
    assert "complete " in shown.stdout
    assert "onnx-lsuv" in shown.stdout
    asked = {"_ONNX_LSUV_COMPLETE": "complete_bash", "COMP_WORDS": "onnx-lsuv m.onnx --wei", "COMP_CWORD": "2"}
    assert process(environment=asked).stdout.split() == ["--weights-out"]
    asked |= {"COMP_WORDS": "onnx-lsuv --init ort", "COMP_CWORD": "2"}
    assert process(environment=asked).stdout.split() == ["orthonormal"]
    asked |= {"COMP_WORDS": "onnx-lsuv --init fc=ze", "COMP_CWORD": "2"}
    assert process(environment=asked).stdout.split() == ["fc=zero"]


def test_show_completion_prints_a_script_that_bash_takes(here: Path) -> None:
    command = f"{sys.executable} -m onnx_lsuv --show-completion; true"
    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert "complete" in ran.stdout, ran.stderr
    assert subprocess.run(["bash", "-n"], input=ran.stdout, text=True, check=False).returncode == 0


def test_an_interrupt_while_importing_is_no_traceback(here: Path) -> None:
    code = """
import sys
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupting())
sys.argv = ["onnx-lsuv", "--help"]
from onnx_lsuv.cli import main
main()
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (130, "")
    assert ran.stderr == "onnx-lsuv: error: interrupted; nothing was saved.\n"


def test_in_process_output_needs_no_terminal(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert invoke(RUN).status == 0
