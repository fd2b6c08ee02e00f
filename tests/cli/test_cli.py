"""The command line: what it writes, what it prints where, and its exit status."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import oracle
import pytest
from commands import HEAD, call, contents, fails, fill, invoke, mlp, names, process
from corpus import LIGHT
from oracle import normal, parse

import onnx_lsuv
from onnx_lsuv.batches.formats import FORMATS as FILES
from onnx_lsuv.cli.options import Options
from onnx_lsuv.lsuv.settings import METHODS
from onnx_lsuv.model import WEIGHTS
from onnx_lsuv.report.formats import FORMATS

SAMPLES = Path(__file__).parents[2] / "sample_models"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a model m.onnx and data x.npy."""
    monkeypatch.chdir(tmp_path)
    return fill(tmp_path)


# ------------------------------------------------------------------------------------------------------ what it writes


def test_default_output_stands_beside_the_model(here: Path) -> None:
    (here / "models").mkdir()
    (here / "m.onnx").rename(here / "models" / "net.v2.onnx")
    ran = call("models/net.v2.onnx", "--data", "x.npy")
    assert names(here / "models") == {"net.v2.onnx", "net.v2.lsuv.onnx"}
    assert names(here) == {"models", "x.npy", "zeros.npy"}
    assert "net.v2.lsuv.onnx" in ran.stdout
    assert ran.stderr == ""
    found = oracle.measure(here / "models" / "net.v2.lsuv.onnx", [{"x": np.load("x.npy")}], ["y", "z"])
    assert [m.var for m in found.values()] == pytest.approx([1, 1], abs=0.005)


def test_existing_output_is_kept_unless_forced(here: Path) -> None:
    (here / "out.onnx").write_bytes(b"precious")
    before = contents(here)
    assert "--force" in fails(6, "m.onnx", "-d", "x.npy", "-o", "out.onnx")
    assert contents(here) == before
    call("m.onnx", "-d", "x.npy", "-o", "out.onnx", "--force")
    assert onnx.load("out.onnx").graph.node[0].op_type == "Gemm"
    assert names(here) == set(before)


@pytest.mark.parametrize("kind", ["same", "dotted", "symbolic link", "hard link"])
@pytest.mark.parametrize("force", [True, False])
def test_the_input_is_never_written_to(here: Path, kind: str, force: bool) -> None:
    target = {"same": "m.onnx", "dotted": "./sub/../m.onnx"}.get(kind, "link.onnx")
    (here / "sub").mkdir()
    if kind == "symbolic link":
        (here / "link.onnx").symlink_to("m.onnx")
    elif kind == "hard link":
        os.link("m.onnx", "link.onnx")
    before = contents(here)
    assert "itself" in fails(6, "m.onnx", "-d", "x.npy", "-o", target, *(["--force"] if force else []))
    assert contents(here) == before


def test_outputs_must_have_a_folder(here: Path) -> None:
    assert "does not exist" in fails(6, "m.onnx", "-d", "x.npy", "-o", "missing/out.onnx")
    assert "'missing'" in fails(6, "m.onnx", "-d", "x.npy", "-o", "missing/")
    assert "does not exist" in fails(6, "m.onnx", "-d", "x.npy", "--report", "missing/r.json")
    (here / "folder.html").mkdir()
    assert "is a folder" in fails(6, "m.onnx", "-d", "x.npy", "--report", "folder.html")
    assert "is no folder" in fails(6, "m.onnx", "-d", "x.npy", "-o", "x.npy/out.onnx")
    assert names(here) == {"m.onnx", "x.npy", "zeros.npy", "folder.html"}


@pytest.mark.parametrize("given", ["folder", "folder/"])
def test_a_folder_as_output_keeps_the_name(here: Path, given: str) -> None:
    (here / "folder").mkdir()
    ran = call("m.onnx", "-d", "x.npy", "-o", given)
    assert names(here / "folder") == {"m.lsuv.onnx"}
    assert f"saved {Path('folder/m.lsuv.onnx')}" in ran.stdout


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write anywhere")
def test_folder_that_cannot_be_written_to(here: Path) -> None:
    (here / "locked").mkdir(mode=0o500)
    fails(6, "m.onnx", "-d", "x.npy", "-o", "locked/out.onnx")


@pytest.mark.cpu
def test_report(here: Path) -> None:
    options = ["--seed", "7", "--target-std", "0.5", "--exclude", "u", "--keep-bias", "--tolerance", "0.01"]
    call("m.onnx", "-d", "x.npy", "--report", "r.json", "--report", "s.json", "--batch-size", "24", *options, status=1)
    assert (here / "r.json").read_bytes() == (here / "s.json").read_bytes()
    document = json.loads((here / "r.json").read_text())
    assert document["schema"] == 1
    assert document["settings"]["seed"] == 7
    assert document["settings"]["exclude"] == ["u"]
    assert document["settings"]["keep_bias"] is True
    assert (document["target_std"], document["tolerance"], document["device"]) == (0.5, 0.01, "cpu")
    # The stored bias alone has a std of about one, so half of that cannot be had.
    assert [row["status"] for row in document["layers"]] == ["degenerate"]
    assert [(row["name"], row["reason"]) for row in document["left"]] == [("z", "excluded")]
    assert [row["tensor"] for row in document["changes"]] == ["w"]


def test_report_describes_files_versions_and_data(here: Path) -> None:
    call("m.onnx", "-d", "x=x.npy", "--batch-size", "24", "--samples", "60", "--report", "r.json", "-o", "o.onnx")
    document = json.loads((here / "r.json").read_text())
    for role, path in (("model", "m.onnx"), ("output", "o.onnx")):
        assert document["files"][role]["sha256"] == hashlib.sha256((here / path).read_bytes()).hexdigest()
        assert document["files"][role]["path"] == path
    assert document["versions"]["onnx"] == onnx.__version__
    assert document["versions"]["numpy"] == np.__version__
    assert document["versions"]["onnx-lsuv"] == onnx_lsuv.__version__
    assert set(document["versions"]) >= {"onnx-lsuv", "onnx", "onnxruntime", "numpy", "python"}
    assert list(document["seconds"]) == ["load", "draw", "calibrate", "before", "save", "verify"]
    assert all(s >= 0 for s in document["seconds"].values())
    data = document["data"]
    assert (data["samples"], data["batches"]) == (60, 3)
    x = np.load("x.npy")[:60].astype(np.float64)
    assert data["inputs"]["x"]["mean"] == pytest.approx(x.mean(), abs=1e-6)
    assert data["inputs"]["x"]["std"] == pytest.approx(x.std(), rel=1e-5)
    assert data["inputs"]["x"]["shape"] == [24, 16]
    assert document["good"] is True
    assert [row["status"] for row in document["layers"]] == ["ok", "ok"]
    assert [row["std"] for row in document["layers"]] == pytest.approx([1, 1], abs=0.0025)
    assert {row["tensor"]: row["role"] for row in document["changes"]} == {"w": "weight", "u": "weight", "b": "bias"}


def test_reports_end_in_what_they_are(here: Path) -> None:
    assert "r.xyz" in fails(2, "m.onnx", "-d", "x.npy", "--report", "r.xyz")


def test_no_verify(here: Path) -> None:
    call("m.onnx", "-d", "x.npy", "--no-verify", "--report", "r.json")
    document = json.loads((here / "r.json").read_text())
    assert [(row["status"], row["std"]) for row in document["layers"]] == [("scaled", None)] * 2
    assert "verify" not in document["seconds"]
    call("m.lsuv.onnx", "-d", "x.npy", "--check")


def test_json_on_standard_output(here: Path) -> None:
    ran = call("m.onnx", "-d", "x.npy", "--format", "json", "--report", "r.json")
    assert json.loads(ran.stdout) == json.loads((here / "r.json").read_text())
    assert ran.stderr == ""


def test_long_forms(here: Path) -> None:
    for short, long in (("-q", "--quiet"), ("-v", "--verbose")):
        ran = [call("m.onnx", "-d", "x.npy", "--check", each, status=1) for each in (short, long)]
        one, other = (re.sub(r"\d+\.\d\d s", "", each.stdout) for each in ran)
        assert one == other
        assert bool(one) == (short == "-v")
    assert "Traceback" in invoke(["m.onnx", "-d", "missing.npy", "--verbose", "--verbose"]).stderr
    assert "Traceback" in invoke(["m.onnx", "-d", "missing.npy", "--verbose", "-qv"]).stderr


def test_quiet(here: Path) -> None:
    ran = call("m.onnx", "-d", "x.npy", "-q")
    assert (ran.stdout, ran.stderr) == ("", "")
    assert (here / "m.lsuv.onnx").is_file()
    ran = call("m.onnx", "-d", "zeros.npy", "-q", "-o", "z.onnx", status=1)
    assert ran.stdout == ""
    (line,) = ran.stderr.splitlines()
    assert line.startswith("onnx-lsuv: 2 of 2 layers missed the std wanted: the worst: 'y' is degenerate (")
    assert "'z.onnx' is saved all the same" in line
    assert (here / "z.onnx").is_file()


def test_text_names_layers_and_what_was_left(here: Path) -> None:
    ran = call("m.onnx", "-d", "x.npy", "--exclude", "u")
    lines = ran.stdout.splitlines()
    (row,) = [line for line in lines if line.startswith("y ")]
    assert row.split()[1:4] == ["Gemm", "w", "16x16"]
    assert row.endswith("ok")
    assert any("excluded: 1 x MatMul (z)" in line for line in lines)
    assert any(line.startswith("1 layers: 1 ok") or line.startswith("1 layer: 1 ok") for line in lines)


# ---------------------------------------------------------------------------------------------------------------- modes


def test_check(here: Path) -> None:
    before = contents(here)
    ran = call("m.onnx", "-d", "x.npy", "--check", status=1)
    assert ran.stdout.count(" off") >= 2
    assert contents(here) == before
    call("m.onnx", "-d", "x.npy")
    before = contents(here)
    ran = call("m.lsuv.onnx", "-d", "x.npy", "--check", "--format", "json")
    assert contents(here) == before
    document = json.loads(ran.stdout)
    assert document["good"] is True
    assert "output" not in document["files"]
    assert document["changes"] == []
    found = oracle.measure("m.lsuv.onnx", [{"x": np.load("x.npy")}], ["y", "z"])
    assert [row["std"] ** 2 for row in document["layers"]] == pytest.approx([m.var for m in found.values()], rel=1e-5)
    # Another target is missed, and a tight tolerance too.
    call("m.lsuv.onnx", "-d", "x.npy", "--check", "--target-std", "2", status=1)
    np.save("other.npy", normal(64, 16, seed=9) * 2)
    call("m.lsuv.onnx", "-d", "other.npy", "--check", status=1)


def test_dry_run_runs_nothing(here: Path) -> None:
    text = f"{HEAD} g (float[N,16] x) => (float z) {{ a = acme.Mystery(x) y = Gemm(a, w) z = MatMul(y, w2) }}"
    onnx.save(parse(text, w=normal(16, 16), w2=normal(16, 8)), "odd.onnx")
    before = contents(here)
    ran = call("odd.onnx", "--dry-run")
    assert ran.stdout.count("found") >= 2
    assert contents(here) == before
    document = json.loads(call("odd.onnx", "--dry-run", "--format", "json").stdout)
    assert [(row["name"], row["status"]) for row in document["layers"]] == [("y", "found"), ("z", "found")]
    assert contents(here) == before
    # Run for good, the operator is named, and the option that would help.
    assert "acme.Mystery" in (line := fails(3, "odd.onnx", "-d", "x.npy"))
    assert "--custom-ops" in line


def test_random_data(here: Path) -> None:
    call("m.onnx", "--random", "--shape", "48,16", "--report", "r.json", "-o", "a.onnx")
    for i, written in enumerate(["48x16", "48 X 16", "48 16", "x=48x16", "[48, 16]", "(48,16,)", "48, 16"]):
        call("m.onnx", "--random", "--shape", written, "-o", f"a{i}.onnx")
        assert (here / "a.onnx").read_bytes() == (here / f"a{i}.onnx").read_bytes()
    call("m.onnx", "--random", "--shape", "x=48,16", "-o", "b.onnx")
    call("m.onnx", "--random", "--report", "c.json", "-o", "c.onnx")
    assert (here / "a.onnx").read_bytes() == (here / "b.onnx").read_bytes()
    assert json.loads((here / "r.json").read_text())["data"]["samples"] == 48
    data = json.loads((here / "c.json").read_text())["data"]
    assert data["samples"] == 32
    assert data["sources"][0]["kind"] == "random"


def test_random_data_for_a_batch_axis_fixed_to_one(here: Path) -> None:
    text = f"{HEAD} g (float[1,16] x) => (float z) {{ y = Gemm(x, w) r = Relu(y) z = MatMul(r, u) }}"
    onnx.save(parse(text, w=normal(16, 16), u=normal(16, 1)), "one.onnx")
    call("one.onnx", "--random", "--report", "r.json")
    document = json.loads((here / "r.json").read_text())
    assert [row["status"] for row in document["layers"]] == ["ok", "ok"]
    assert (document["data"]["samples"], document["data"]["batches"]) == (32, 32)
    # One sample is what was asked for.
    assert "single value" in call("one.onnx", "--random", "--samples", "1", "-o", "b.onnx", status=1).stdout


# -------------------------------------------------------------------------------------------------------- exit statuses


def test_status_1_still_saves(here: Path) -> None:
    ran = call("m.onnx", "-d", "zeros.npy", status=1)
    assert "degenerate" in ran.stdout
    assert np.isfinite(oracle.tensor_of(onnx.load("m.lsuv.onnx"), "w")).all()


USAGE: list[tuple[Sequence[str], str]] = [
    (["m.onnx"], "--data"),
    (["m.onnx", "-d", "x.npy", "--random"], "--random"),
    (["m.onnx", "-d", "x.npy", "--shape", "4,16"], "--shape"),
    (["m.onnx", "--check", "--dry-run"], "--dry-run"),
    (["m.onnx", "-d", "x.npy", "--target-std", "0"], "--target-std"),
    (["m.onnx", "-d", "x.npy", "--target-std", "nan"], "--target-std"),
    (["m.onnx", "-d", "x.npy", "--tolerance", "2"], "--tolerance"),
    (["m.onnx", "-d", "x.npy", "--exclude", "nothing*"], "nothing*"),
    (["m.onnx", "--random", "--shape", "4,17"], "17"),
    (["m.onnx", "--random", "--shape", "q=4,16"], "q"),
]


@pytest.mark.parametrize(("arguments", "words"), USAGE)
def test_status_2(here: Path, arguments: Sequence[str], words: str) -> None:
    before = contents(here)
    assert words in fails(2, *arguments)
    assert contents(here) == before


@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "text", "truncated", "nothing to do", "zip"])
def test_status_3(here: Path, kind: str) -> None:
    path = here / "bad.onnx"
    match kind:
        case "folder":
            path.mkdir()
        case "empty":
            path.write_bytes(b"")
        case "text":
            path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
        case "truncated":
            path.write_bytes((here / "m.onnx").read_bytes()[:-400])
        case "nothing to do":
            onnx.save(parse(f"{HEAD} g (float[N,16] x) => (float y) {{ y = Relu(x) }}"), path)
        case "zip":
            path.write_bytes(b"PK\x03\x04" + bytes(100))
    before = names(here)
    line = fails(3, "bad.onnx", "-d", "x.npy")
    assert "bad.onnx" in line
    assert names(here) == before


def test_status_4(here: Path) -> None:
    np.save("wide.npy", normal(8, 17))
    np.save("nan.npy", np.full((8, 16), np.nan, np.float32))
    np.save("objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    before = names(here)
    for file, words in (("wide.npy", "17"), ("missing.npy", "missing.npy"), ("nan.npy", "nan"), ("objects.npy", "")):
        line = fails(4, "m.onnx", "-d", file)
        assert words.lower() in line.lower()
        assert file in line
    assert names(here) == before


def test_status_5(here: Path) -> None:
    before = names(here)
    assert "'tpu'" in fails(5, "m.onnx", "-d", "x.npy", "--device", "tpu")
    assert "missing.so" in fails(5, "m.onnx", "-d", "x.npy", "--custom-ops", "missing.so")
    (here / "fake.so").write_bytes(b"not a library")
    assert "fake.so" in fails(5, "m.onnx", "-d", "x.npy", "--custom-ops", "fake.so")
    assert names(here) == before | {"fake.so"}


def _driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


@pytest.mark.skipif(_driver(), reason="this machine has an NVIDIA driver")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
@pytest.mark.few(1)
def test_cuda_that_is_not_there(here: Path, device: str) -> None:
    ran = process("m.onnx", "-d", "x.npy", "--device", device)
    assert ran.returncode == 5
    assert ran.stdout == ""
    (line,) = ran.stderr.splitlines()
    assert line.startswith("onnx-lsuv: error: ")
    assert device in line
    assert "--device cpu" in line
    assert names(here) == {"m.onnx", "x.npy", "zeros.npy"}
    # What was not asked for may fall back, without a word on standard error.
    ran = process("m.onnx", "-d", "x.npy")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "on cpu" in ran.stdout


def test_a_defect_is_status_70(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("oh\x1b[31m dear")

    monkeypatch.setattr("onnx_lsuv.model.load", broken)
    line = fails(70, "m.onnx", "-d", "x.npy")
    assert "RuntimeError" in line
    assert "\x1b" not in line
    ran = invoke(["m.onnx", "-d", "x.npy", "-vv"])
    assert ran.status == 70
    assert "Traceback" in ran.stderr


# -------------------------------------------------------------------------------------------------------------- process


@pytest.mark.parametrize("delay", [1.5, pytest.param(3.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.slow
def test_interrupt_leaves_no_trace(here: Path, delay: float, number: int, status: int) -> None:
    model = LIGHT / "light_zfnet512.onnx"
    np.save("big.npy", normal(32, 3, 224, 224))
    before = names(here)
    arguments = [sys.executable, "-m", "onnx_lsuv", str(model), "-d", "big.npy", "-o", "out.onnx", "--device", "cpu"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        time.sleep(delay)
        assert running.poll() is None, "too fast to be interrupted"
        running.send_signal(number)
        stdout, stderr = running.communicate(timeout=60)
    assert running.returncode == status
    assert names(here) == before
    assert stdout == ""
    assert "Traceback" not in stderr
    (line,) = stderr.strip().splitlines()
    assert ("interrupted" if number == signal.SIGINT else "terminated") in line


def test_as_module_and_as_script(here: Path) -> None:
    expected = f"onnx-lsuv {onnx_lsuv.__version__}\n"
    ran = process("--version")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, expected, "")
    script = Path(sys.executable).with_name("onnx-lsuv")
    if script.is_file():
        found = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
        assert found.stdout == expected
    ran = process("m.onnx", "-d", "x.npy", "--device", "cpu")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "2 ok" in ran.stdout


@pytest.mark.parametrize("option", ["--help", "-h", "--version"])
def test_help_does_not_wait_for_heavy_modules(option: str) -> None:
    code = f"""
import sys
from onnx_lsuv import cli
assert cli.run([{option!r}]) == 0
heavy = {{"numpy", "onnx", "onnxruntime", "scipy", "ml_dtypes", "google.protobuf", "rich"}} & set(sys.modules)
assert not heavy, heavy
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    if option != "--version":
        for word in ("--data", "--random", "--output", "--check", "--dry-run", "--device", "--seed"):
            assert word in ran.stdout


def test_a_run_loads_only_what_it_needs(here: Path) -> None:
    """Each of these takes its time: pydantic a fifth of a small run, in which nobody looks at colours or at tables."""
    options = ["--report", "r.csv", "--seed", "3", "--target-std", "1.5", "--format", "text", "--device", "cpu"]
    code = f"""
import sys
from onnx_lsuv import cli
assert cli.run({["m.onnx", "-d", "x.npy", *options]}) == 0
heavy = "rich pydantic pydantic_core onnx.reference onnx.backend onnx.hub scipy PIL pyarrow jinja2 torch".split()
heavy += ["onnxruntime.tools", "onnx_lsuv.importers", "onnx_lsuv.portable", "onnx_lsuv.modules"]
found = [name for name in heavy if name in sys.modules]
assert not found, found
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize(
    "given",
    [
        "--seed 7 --target-std 0.25 --color never --format github --tolerance 1",
        "--report a.csv --report=b.csv -d x=1 -d y --params-out p.json -vv --force",
        "--seed=1_0",
        "--batch-size 1.0",
        "--target-std 1e-3",
        "--target-std inf",
        "--tolerance -1",
        "--format JSON",
        "--seed -1",
        "--threads 0",
        "--threads 1000000001",
        "--samples three",
        "--samples \N{ARABIC-INDIC DIGIT THREE}",
        "--device= --report=",
    ],
)
def test_plain_values_are_what_the_parser_makes_of_them(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    came: list[Options] = []
    monkeypatch.setattr("onnx_lsuv.cli.modes.perform", lambda options: came.append(options) or 0)
    first = invoke(["m.onnx", *given.split()])
    monkeypatch.setattr("onnx_lsuv.cli.command.take_plain_values", lambda parameters: None)
    again = invoke(["m.onnx", *given.split()])
    assert (first.status, first.stderr) == (again.status, again.stderr)
    assert came == [came[0]] * 2 if first.status == 0 else first.status == 2


def test_import_does_not_bring_the_command_line() -> None:
    code = "import sys, onnx_lsuv; onnx_lsuv.load; assert not {'typer', 'rich', 'onnx_lsuv.cli'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_names_cannot_move_the_cursor(here: Path) -> None:
    model = mlp()
    model.graph.node[0].name = "evil\x1b[2J\u202e\r\n"
    model.graph.initializer[0].name = model.graph.node[0].input[1] = "w\x07\x9b31m"
    onnx.save(model, "evil.onnx")
    ran = call("evil.onnx", "-d", "x.npy", "--exclude", "u")
    assert "evil\\x1b[2J\\u202e\\r\\n" in ran.stdout
    ran = call("evil.onnx", "-d", "x.npy", "--check", "--exclude", "evil*", status=1)
    for shown in (
        ran.stdout,
        call("evil.onnx", "--dry-run").stdout,
        fails(2, "evil.onnx", "-d", "x.npy", "-o", "o.onnx", "--exclude", "q"),
    ):
        assert not set(shown) & set("\x1b\u202e\r\x07\x9b")
    document = json.loads(call("evil.onnx", "--dry-run", "--format", "json").stdout)
    assert document["layers"][0]["name"] == "evil\x1b[2J\u202e\r\n"


def test_names_that_the_terminal_cannot_show(here: Path) -> None:
    model = mlp()
    model.graph.node[0].name = "層"
    onnx.save(model, "odd.onnx")
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    arguments = [sys.executable, "-m", "onnx_lsuv", "odd.onnx", "-d", "x.npy", "--device", "cpu"]
    ran = subprocess.run(arguments, capture_output=True, check=False, env=environment)
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert b"\\u5c64" in ran.stdout


def test_same_bytes_again(here: Path) -> None:
    for target, seed in (("a.onnx", "0"), ("b.onnx", "0"), ("c.onnx", "1")):
        call("m.onnx", "-d", "x.npy", "-o", target, "--seed", seed)
    assert (here / "a.onnx").read_bytes() == (here / "b.onnx").read_bytes() != (here / "c.onnx").read_bytes()


def test_options_reach_the_procedure(here: Path) -> None:
    call("m.onnx", "-d", "x.npy", "--target-std", "0.25", "--init", "keep", "--include", "z", "-o", "o.onnx")
    before, after = onnx.load("m.onnx"), onnx.load("o.onnx")
    assert oracle.changed_tensors(before, after) == {"u"}
    ratio = oracle.tensor_of(after, "u") / oracle.tensor_of(before, "u")
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-5)
    found = oracle.measure("o.onnx", [{"x": np.load("x.npy")}], ["z"])
    assert found["z"].var / 0.25**2 == pytest.approx(1, abs=0.005)


@pytest.mark.parametrize("written", ["model", "data", "output", "twice"])
def test_a_report_replaces_nothing_that_matters(tmp_path: Path, written: str) -> None:
    model = tmp_path / "m.json"
    shutil.copy(SAMPLES / "resnet_nonorm.onnx", model)
    (tmp_path / "r.json").write_text("precious")
    data = tmp_path / "d.npz"
    np.savez(data, np.load(SAMPLES / "resnet_nonorm.npy"))
    out = tmp_path / ("o.json" if written == "output" else "o.onnx")
    given = {"model": [model], "data": [], "output": [out], "twice": [tmp_path / "n.json"] * 2}[written]
    arguments = [str(model), "-d", str(data), "-o", str(out), "--force"]
    arguments += ["--weights-out", str(data)] if written == "data" else []
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    result = invoke([*arguments, *(a for path in given for a in ("--report", str(path)))])
    assert result.status == (6 if written in ("model", "data") else 2), result.stderr
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    # An existing report is replaced only with --force.
    kept = invoke([*arguments[:4], str(tmp_path / "p.onnx"), "--report", str(tmp_path / "r.json")])
    assert kept.status == 6, kept.stderr
    assert (tmp_path / "r.json").read_text() == "precious"


def test_the_help_names_the_suffixes_and_methods_that_there_are() -> None:
    text = " ".join(call("--help").stdout.split())
    named = re.search(r"Calibration data: (.*?), a folder", text)
    assert named is not None
    assert set(named[1].split(", ")) == set(FILES)
    for option, suffixes in (("weights-out", WEIGHTS), ("report", tuple(FORMATS))):
        assert f"--{option} PATH.{{{','.join(suffix[1:] for suffix in suffixes)}}}" in text
    assert f"--init [GLOB=]{'|'.join(METHODS)}" in text
