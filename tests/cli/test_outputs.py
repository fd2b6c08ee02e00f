"""Outputs: nothing is written over that is read, or that nobody named; they appear together, whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from commands import call, everything, fails, fill, invoke, mlp, process, snapshot
from oracle import normal

import onnx_lsuv
from onnx_lsuv.errors import OutputError, UsageError, quote
from onnx_lsuv.model import atomic, targets

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX files and streams")
X = ["-d", "x.npy"]
EVERY = ["--report", "r.html", "--report", "r.json", "--weights-out", "w.npz", "--params-out", "p.json"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a model m.onnx, one with external data ext.onnx and ext.json, data, links and loops."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    fill(tmp_path)
    onnx.save(mlp(), "ext.onnx", save_as_external_data=True, location="ext.json", size_threshold=0)
    for folder in ("data", "sets/test_data_set_0", "in", "other"):
        Path(folder).mkdir(parents=True)
    onnx.save(mlp(), "in/ext.onnx", save_as_external_data=True, location="w.json", size_threshold=0)
    onnx.save(mlp(), "in/npz.onnx", save_as_external_data=True, location="w.npz", size_threshold=0)
    np.savez("data/a.npz", x=normal(64, 16))
    Path("data/notes.json").write_text("{}")
    Path("sets/test_data_set_0/input_0.pb").write_bytes(onnx.numpy_helper.from_array(normal(8, 16)).SerializeToString())
    os.link("sets/test_data_set_0/input_0.pb", "pb.json")
    os.link("x.npy", "x=y.json")
    Path("old.json").write_text("old")
    Path("to-model.json").symlink_to("m.onnx")
    os.link("x.npy", "hard.json")
    Path("same").symlink_to(".")
    Path("round.json").symlink_to("round.json")
    Path("ring").symlink_to("rong")
    Path("rong").symlink_to("ring")
    Path("to-null.json").symlink_to("/dev/null")
    return tmp_path


LONG = "n" * 300
REFUSED: list[tuple[int, list[str], Sequence[str]]] = [
    # what is read
    (6, ["ext.onnx", *X, "--report", "ext.json"], ["the report 'ext.json'", "data file of the model"]),
    (6, ["ext.onnx", *X, "--report", "data/../same/ext.json"], ["data file of the model"]),
    (6, ["ext.onnx", "--dry-run", "--report", "ext.json"], ["data file of the model"]),
    (6, ["m.onnx", *X, "--check", "--compare", "ext.onnx", "--report", "ext.json"], ["data file of the model"]),
    (6, ["m.onnx", "-d", "data", "--weights-out", "data/a.npz"], ["the weights file 'data/a.npz'", "read as data"]),
    (6, ["m.onnx", "-d", "data", "--report", "data/notes.json"], ["read as data"]),
    (6, ["m.onnx", "-d", "sets", "--report", "pb.json"], ["read as data"]),
    (6, ["m.onnx", "-d", "x=x=y.json", "--report", "x=y.json"], ["read as data"]),
    (6, ["m.onnx", *X, "--report", "hard.json"], ["read as data"]),
    (6, ["m.onnx", *X, "--report", "to-model.json"], ["the model itself"]),
    (6, ["m.onnx", *X, "-o", "to-model.json"], ["the model itself"]),
    (6, ["m.onnx", *X, "--custom-ops", "old.json", "--report", "old.json"], ["custom operators"]),
    # each other
    (2, ["in/ext.onnx", *X, "-o", "o.onnx", "--report", "w.json"], ["'w.json'", "two outputs", "data file"]),
    (2, ["in/npz.onnx", *X, "-o", "o.onnx", "--weights-out", "w.npz"], ["'w.npz'", "two outputs", "data file"]),
    (2, ["m.onnx", *X, "--report", "r.json", "--report", "same/r.json"], ["two outputs, the report twice"]),
    (2, ["m.onnx", *X, "--report", "old.json", "--report", "same/old.json"], ["two outputs"]),
    # what cannot be written
    (6, ["m.onnx", *X, "-o", "ring"], ["circle"]),
    (6, ["m.onnx", *X, "-o", "ring/o.onnx"], ["circle"]),
    (6, ["m.onnx", *X, "--report", "ring/r.json"], ["circle"]),
    (6, ["m.onnx", *X, "--report", "round.json"], ["circle"]),
    (6, ["m.onnx", *X, "--report", "to-null.json"], ["not a regular file"]),
    (6, ["m.onnx", *X, "-o", f"{LONG}.onnx"], ["too long"]),
    (6, ["m.onnx", *X, "-o", "d/" * 2500 + "o.onnx"], ["too long"]),
    (6, ["m.onnx", *X, "--report", f"{LONG}.json"], ["too long"]),
    (6, ["m.onnx", *X, "--weights-out", "none/w.npz"], ["'none'", "make it first"]),
    (6, ["m.onnx", *X, "--weights-out", "x.npy/w.npz"], ["'x.npy'", "is no folder"]),
]


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize(("status", "arguments", "words"), REFUSED, ids=range(len(REFUSED)))
def test_refused_before_the_work(
    here: Path, monkeypatch: pytest.MonkeyPatch, status: int, arguments: list[str], words: Sequence[str], force: bool
) -> None:
    before = snapshot(here)
    for verb in ("initialize", "measure"):
        monkeypatch.setattr(f"onnx_lsuv.lsuv.{verb}", lambda *_, **__: pytest.fail("the work was begun"))
    line = fails(status, *arguments, *(["--force"] if force else []))
    for word in words:
        assert word in line
    assert len(line) < 400
    assert snapshot(here) == before


def test_a_default_output_with_too_long_a_name(here: Path) -> None:
    limit = os.pathconf(here, "PC_NAME_MAX")
    Path("m.onnx").rename("m" * (limit - 6) + ".onnx")
    assert "too long" in fails(6, "m" * (limit - 6) + ".onnx", *X)
    # The longest that will do, and one whose data file's name would not.
    Path("m" * (limit - 6) + ".onnx").rename("m" * (limit - 10) + ".onnx")
    call("m" * (limit - 10) + ".onnx", *X)
    assert Path("m" * (limit - 10) + ".lsuv.onnx").is_file()
    before = snapshot(here)
    assert "too long" in fails(6, "ext.onnx", *X, "-o", "o" * (limit - 7) + ".onnx")
    assert snapshot(here) == before


@pytest.mark.parametrize("name", ["../../evil", "C:\\x", "a\0b", "q" * 40_000, "__metadata__"])
def test_weights_that_the_file_cannot_hold_are_refused_before_the_work(
    here: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    model = mlp()
    model.graph.initializer[0].name = model.graph.node[0].input[1] = name
    onnx.save(model, "odd.onnx")
    before = snapshot(here)
    monkeypatch.setattr("onnx_lsuv.lsuv.initialize", lambda *_, **__: pytest.fail("the work was begun"))
    file = "w.safetensors" if name == "__metadata__" else "w.npz"
    line = fails(6, "odd.onnx", *X, "--weights-out", file, "--report", "r.md")
    assert "cannot hold" in line
    assert len(line) < 400
    assert snapshot(here) == before


# -------------------------------------------------------------------------------------------------------------- links


def test_a_link_is_written_through(here: Path) -> None:
    for name in ("o.onnx", "r.json", "w.npz"):
        Path("other", name).write_text("old")
        Path(name).symlink_to(Path("other", name))
    before = snapshot(here)
    every = ["-o", "o.onnx", "--report", "r.json", "--weights-out", "w.npz"]
    fails(6, "m.onnx", *X, *every)
    assert snapshot(here) == before
    call("m.onnx", *X, *every, "--force")
    after = snapshot(here)
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"other/o.onnx", "other/r.json", "other/w.npz"}
    onnx.checker.check_model("other/o.onnx")
    assert json.loads(Path("r.json").read_text())["files"]["output"]["path"] == "o.onnx"
    # One that leads to nothing yet.
    Path("new.onnx").symlink_to("other/new.onnx")
    call("m.onnx", *X, "-o", "new.onnx", "--force")
    assert Path("other/new.onnx").read_bytes() == Path("other/o.onnx").read_bytes()
    assert Path("new.onnx").is_symlink()


def test_a_link_elsewhere_and_external_data(here: Path) -> None:
    Path("o.onnx").symlink_to("other/o.onnx")
    Path("p.onnx").symlink_to("q.onnx")
    Path("d.onnx.data").symlink_to("d")
    before = snapshot(here)
    assert "other/o.onnx" in fails(6, "ext.onnx", *X, "-o", "o.onnx", "--force")
    assert "'d.onnx.data'" in fails(6, "ext.onnx", *X, "-o", "d.onnx", "--force").replace(str(here) + "/", "")
    assert snapshot(here) == before
    call("ext.onnx", *X, "-o", "p.onnx", "--force")
    assert set(snapshot(here)) - set(before) == {"q.onnx", "q.onnx.data"}
    call("p.onnx", *X, "--check")


def test_a_folder_that_ignores_case(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = [targets.Output(Path("a.md")), targets.Output(Path("A.md"))]
    targets.check_outputs(pair, [], force=False)
    monkeypatch.setattr(targets, "_ignores_case", lambda folder: True)
    with pytest.raises(UsageError, match="two outputs"):
        targets.check_outputs(pair, [], force=False)


def test_whether_a_folder_ignores_case_is_seen_by_what_is_in_it(tmp_path: Path) -> None:
    inside = tmp_path / "Inside"
    inside.mkdir()
    assert not targets._ignores_case(inside)
    (inside / "a").touch()
    assert not targets._ignores_case(inside)
    # As such a folder answers.
    (inside / "A").touch()
    assert targets._ignores_case(inside)


# --------------------------------------------------------------------------------------------- together, or not at all


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("nth", range(5))
@pytest.mark.parametrize("step", ["_write", "_put"])
def test_a_file_that_fails_leaves_none(
    here: Path, monkeypatch: pytest.MonkeyPatch, step: str, nth: int, force: bool
) -> None:
    if force:
        call(*everything("other", "--seed", "1"))
    before = snapshot(here)
    real: Callable[..., None] = getattr(atomic, step)
    calls = 0

    def failing(*arguments: object) -> None:
        nonlocal calls
        calls += 1
        if calls == nth + 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(*arguments)

    monkeypatch.setattr(atomic, step, failing)
    ran = invoke([*everything("other"), "--device", "cpu", *(["--force"] if force else [])])
    assert calls == nth + 1
    assert ran.status == 6
    assert len(ran.stderr.splitlines()) == 1
    assert os.strerror(errno.ENOSPC) in ran.stderr
    assert "saved" not in ran.stderr + ran.stdout
    assert snapshot(here) == before


def write(folder: Path, names: str, force: bool) -> None:
    with atomic.staging(force) as staged:
        for name in names:
            staged.add(folder, name, [b"new"])
        staged.commit()


@pytest.mark.parametrize("force", [False, True])
def test_what_cannot_be_taken_back_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: bool) -> None:
    for name in ("a", "b") if force else ():
        (tmp_path / name).write_bytes(b"old")
    real = atomic._put

    def stuck(*_: object, **__: object) -> None:
        raise PermissionError

    def failing(waiting: Path, target: Path, force: bool) -> None:
        if target.name == "b":
            monkeypatch.setattr(Path, "unlink", stuck)
            monkeypatch.setattr(Path, "replace", stuck)
            raise OSError(errno.EIO, "no")
        real(waiting, target, force)

    monkeypatch.setattr(atomic, "_put", failing)
    with pytest.raises(OutputError, match="cannot be written: no") as caught:
        write(tmp_path, "ab", force)
    assert caught.value.__notes__ == [f"{quote(tmp_path / 'a')} could not be taken back and stands"]
    assert (tmp_path / "a").read_bytes() == b"new"
    assert sorted(path.name for path in tmp_path.iterdir()) == (["a", "b"] if force else ["a"])


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="two outputs"):
        write(tmp_path, "aa", True)
    assert not list(tmp_path.iterdir())


def test_an_old_file_comes_back_on_a_file_system_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "b").mkdir()  # nothing can be renamed to it
    with pytest.raises(OutputError, match="cannot be written"):
        write(tmp_path, "ab", True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    assert (tmp_path / "a").read_bytes() == b"old"


def test_what_another_thread_abandons_is_gone_and_stays_so(tmp_path: Path) -> None:
    code = """
import sys, threading, time
from pathlib import Path
from onnx_lsuv.model import atomic
here = Path(sys.argv[1])
with atomic.staging(False) as done:
    done.add(here, "done", [b"1"])
    done.commit()
def work():
    with atomic.staging(False) as staged:
        staged.add(here, "sub/a", [b"1"])
        begun.set()
        go.wait()
        staged.commit()
begun, go = threading.Event(), threading.Event()
worker = threading.Thread(target=work, daemon=True)
worker.start()
begun.wait()
atomic.abandon()
print([path.name for path in done.placed])
go.set()
worker.join(0.5)
print(worker.is_alive(), sorted(path.name for path in here.iterdir()), flush=True)
"""
    ran = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.splitlines() == ["['done']", "True ['done']"]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="this system does not list what is mapped")
@pytest.mark.parametrize("more", [[], ["--portable"], ["-v"], ["--report", "other/r.md"]])
def test_nothing_waiting_is_mapped_when_it_is_put_into_place(
    here: Path, monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    real = atomic.Staging.commit

    def commit(staged: atomic.Staging) -> None:
        assert atomic.PREFIX not in Path("/proc/self/maps").read_text()
        real(staged)

    monkeypatch.setattr(atomic.Staging, "commit", commit)
    call("in/ext.onnx", *X, "-o", "other/o.onnx", *more)


def test_a_limit_on_the_size_of_files_leaves_no_trace(here: Path) -> None:
    import resource  # noqa: PLC0415

    before = snapshot(here)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    ran = process("m.onnx", *X, "--report", "r.html", preexec_fn=limit)
    assert (ran.returncode, ran.stdout) == (6, "")
    assert "r.html' cannot be written" in ran.stderr
    assert snapshot(here) == before


# ------------------------------------------------------------------------------------------------------------- streams


def shell(command: str, *arguments: str) -> tuple[int, str]:
    """Run bash, `CMD` standing for the command; return the status that the command ended with, and what was said."""
    line = " ".join(
        [sys.executable, "-m", "onnx_lsuv", *arguments, *(["--device", "cpu"] if X[0] in arguments else [])]
    )
    script = command.replace("CMD", f"{{ {line}; echo $? > status; }}")
    ran = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    status = int(Path("status").read_text())
    Path("status").unlink()
    return status, ran.stdout + ran.stderr


NEEDS_FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")


@NEEDS_FULL
@pytest.mark.parametrize("more", [EVERY, ["--check", "--report", "r.json"]])
@pytest.mark.few(1)
def test_no_file_stays_where_the_result_cannot_be_printed(here: Path, more: list[str]) -> None:
    before = snapshot(here)
    status, said = shell("CMD >/dev/full", "m.onnx", *X, *more)
    assert status == 6
    (line,) = said.splitlines()
    assert os.strerror(errno.ENOSPC) in line
    assert snapshot(here) == before


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_is_no_error(here: Path) -> None:
    before = set(snapshot(here))
    assert shell("CMD | true", "m.onnx", *X, *EVERY) == (0, "")
    assert set(snapshot(here)) - before == {"m.lsuv.onnx", "r.html", "r.json", "w.npz", "p.json"}
    assert shell("CMD | true", "m.onnx", *X, "--check")[0] == 1
    for arguments in (["--help"], ["--version"], ["m.onnx", "--dry-run"], ["m.onnx", "--dry-run", "--format", "json"]):
        assert shell("CMD | true", *arguments) == (0, "")
    assert shell("CMD 2>&1 | true", "none.onnx", *X) == (3, "")


@pytest.mark.parametrize(
    "closed", ["<&- >&- 2>&-", *(pytest.param(each, marks=pytest.mark.slow) for each in (">&-", "2>&-"))]
)
def test_nothing_else_ends_up_in_a_file_where_streams_are_closed(here: Path, closed: str) -> None:
    assert shell(f"CMD {closed}", "none.onnx", *X)[0] == 3
    call("m.onnx", *X, "--weights-out", "w.npz", "-o", "o.onnx")
    assert shell(f"CMD {closed}", "m.onnx", *X, *EVERY, "--force")[0] == 0
    assert Path("m.lsuv.onnx").read_bytes() == Path("o.onnx").read_bytes()
    assert json.loads(Path("r.json").read_text())["good"] is True


@pytest.mark.parametrize("redirected", ["| cat", "> out.txt", "2> out.txt"])
@pytest.mark.few(1)
def test_a_stream_is_no_output(here: Path, redirected: str) -> None:
    stream = "/dev/stderr" if "2>" in redirected else "/dev/stdout"
    before = snapshot(here)
    status, said = shell(f"CMD {redirected}", "m.onnx", *X, "-o", stream, "--force")
    assert status == 6
    out = Path("out.txt").read_text() if Path("out.txt").exists() else ""
    assert "name another" in said + out
    assert {name: is_ for name, is_ in snapshot(here).items() if name != "out.txt"} == before
    # By its own name too: the shell has made it already.
    if redirected == "> out.txt":
        assert shell("CMD > r.json", "m.onnx", *X, "--report", "r.json", "--force")[0] == 6
        assert Path("r.json").read_bytes() == b""


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "cp037"])
@pytest.mark.few(1)
def test_text_stays_readable(here: Path, encoding: str) -> None:
    arguments = [sys.executable, "-m", "onnx_lsuv", "m.onnx", *X, "--device", "cpu"]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    ran = subprocess.run(arguments, capture_output=True, check=True, env=environment)
    assert "saved m.lsuv.onnx" in ran.stdout.decode("ascii").splitlines()


@pytest.mark.parametrize(
    "environment",
    [
        {"_ONNX_LSUV_COMPLETE": "1"},
        {"_ONNX_LSUV_COMPLETE": "complete_nosh"},
        {"_ONNX_LSUV_COMPLETE": "source_"},
        {"_ONNX_LSUV_COMPLETE": "complete_bash"},
        {"_ONNX_LSUV_COMPLETE": "complete_bash", "COMP_WORDS": "onnx-lsuv", "COMP_CWORD": "x"},
        {"_ONNX_LSUV_COMPLETE": "complete_zsh"},
        {"_TYPER_COMPLETE": "complete_bash", "_TYPER_COMPLETE_ARGS": "x"},
    ],
    ids=range(7),
)
def test_a_variable_that_asks_no_completion_changes_nothing(
    here: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert invoke(["--version"]).stdout == f"onnx-lsuv {onnx_lsuv.__version__}\n"
    call("m.onnx", *X)
    assert Path("m.lsuv.onnx").is_file()


# ------------------------------------------------------------------------------------------ names that are no UTF-8


def test_an_axis_whose_name_is_no_utf_8(here: Path) -> None:
    model = mlp()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "QQQQ"
    Path("odd.onnx").write_bytes(model.SerializeToString().replace(b"QQQQ", b"\xff\xfeab"))
    every = [word for suffix in ("json", "md", "html") for word in ("--report", f"r.{suffix}")]
    call("odd.onnx", *X, *every)
    assert "\ufffd\ufffdab" in str(json.loads(Path("r.json").read_text()))
    json.loads(call("odd.onnx", *X, "--format", "json", "--check", status=1).stdout)
    call("odd.onnx", "--random", "--shape", "8,16", "--force")
    assert Path("odd.lsuv.onnx").read_bytes().count(b"\xff\xfeab") == 1
    np.save("short.npy", normal(8, 15))
    assert "[\ufffd\ufffdab, 16]" in fails(4, "odd.onnx", "-d", "short.npy", "--force")


def test_an_opset_whose_name_is_no_utf_8(here: Path) -> None:
    model = mlp()
    model.opset_import.append(onnx.helper.make_opsetid("QQQQ", 1))
    Path("odd.onnx").write_bytes(model.SerializeToString().replace(b"QQQQ", b"\xff\xfeab"))
    assert "not UTF-8" in fails(3, "odd.onnx", *X)
    function = onnx.helper.make_function("f", "fn", ["a"], ["b"], [onnx.helper.make_node("Relu", ["a"], ["b"])], [])
    function.opset_import.append(onnx.helper.make_opsetid("QQQQ", 1))
    model = mlp()
    model.functions.append(function)
    Path("odd.onnx").write_bytes(model.SerializeToString().replace(b"QQQQ", b"\xff\xfeab"))
    assert "not UTF-8" in fails(3, "odd.onnx", *X)
