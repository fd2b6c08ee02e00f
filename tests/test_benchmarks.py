"""The benchmarks run and say what they found; no time is judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

Load = Callable[[str], ModuleType]
FOLDER = Path(__file__).with_name("benchmarks")
ONLY = (
    "startup/help",
    "draw/64x576",
    "calibration/fitnet4",
    "parts/fitnet4",
    "layer_by_layer/fitnet4",
    "lsuv/fit*",
    "split",
    "size/0.1",
)


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Import a module of the benchmarks, which lie beside each other as scripts do."""
    monkeypatch.syspath_prepend(FOLDER)
    return import_module


def bench(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", FOLDER / "run.py", *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, str, Path]:
    """The JSON, the Markdown and the folder of a quick look, with a Python that is not there in place of PyTorch's."""
    folder = tmp_path_factory.mktemp("bench")
    (folder / "models").mkdir()
    written = ("--json", folder / "b.json", "--markdown", folder / "b.md", "--folder", folder / "models")
    done = bench("--quick", "--only", *ONLY, *written, "--torch-python", folder / "python")
    assert done.returncode == 0, done.stderr
    markdown = (folder / "b.md").read_text()
    assert done.stdout == markdown
    return json.loads((folder / "b.json").read_text()), markdown, folder / "models"


@pytest.mark.slow
def test_every_measurement_gives_numbers(quick: tuple[dict, str, Path]) -> None:
    document, _, folder = quick
    rows = {row["name"]: row for row in document["rows"]}
    measured = ["startup/help", "draw/64x576", "calibration/fitnet4", "parts/fitnet4", "layer_by_layer/fitnet4"]
    assert list(rows) == [*measured, "lsuv/fitnet4", "split/1", "split/2", "split/4", "size/0.1"]
    for name, row in rows.items():
        if name != "lsuv/fitnet4":
            assert all(row[key] > 0 for key in ("ours", "other", "measured", "cpu")), row
            assert not row["failed"]
    for name in ("calibration/fitnet4", "draw/64x576"):
        assert rows[name]["measured"] == pytest.approx(rows[name]["ours"] / rows[name]["other"])
    slow = rows["layer_by_layer/fitnet4"]
    assert slow["measured"] == pytest.approx(slow["other"] / slow["ours"])
    assert slow["details"]["other's account"]["layers"] == 19
    assert {"CPU", "cores", "python", "numpy", "onnx"} <= document["machine"].keys()
    assert document["quick"] is True
    assert document["groups"].keys() >= {name.partition("/")[0] for name in rows}
    assert not list(folder.iterdir())


@pytest.mark.slow
def test_what_is_missing_is_said(quick: tuple[dict, str, Path]) -> None:
    document, markdown, _ = quick
    (row,) = (row for row in document["rows"] if row["name"] == "lsuv/fitnet4")
    assert (row["measured"], row["holds"], row["failed"]) == (None, None, False)
    assert row["bar"] == {"limit": 10, "sense": "at least"}
    assert row["note"].startswith("torch, onnx2torch and lsuv are not all installed")
    assert markdown.rstrip().endswith("; not measured: lsuv/fitnet4")


@pytest.mark.slow
def test_tables_are_whole(quick: tuple[dict, str, Path]) -> None:
    document, markdown, _ = quick
    lines = markdown.splitlines()
    tables = [line for line in lines if line.startswith("|")]
    assert all(line.count("|") == 8 for line in tables)
    titles = [line.split("|")[1].strip() for line in tables]
    assert [title for title in titles if title.strip("-")] == [row["title"] for row in document["rows"]]
    assert sum(line.startswith("### ") for line in lines) == len({r["name"].split("/")[0] for r in document["rows"]})


def test_names() -> None:
    listed = bench("--list").stdout.split()
    assert len(listed) == len(set(listed)) > 30
    assert {"draw/4096x25088", "calibration/resnet50", "layer_by_layer/vgg16", "lsuv/vgg16", "size/4"} <= set(listed)
    unknown = bench("--only", "draw", "nothing")
    assert unknown.returncode == 1
    assert unknown.stderr.startswith("No measurement is called 'nothing'")


def test_bars(load: Load) -> None:
    rows = load("rows")
    most, least = rows.Bar(1.2), rows.Bar(20, least=True)
    found = [
        rows.Row("a/1", "one", measured=1.2, bar=most),
        rows.Row("a/2", "two", measured=1.21, bar=most),
        rows.Row("a/3", "three", measured=19.9, bar=least),
        rows.Row("a/4", "four", measured=20.0, bar=least),
        rows.Row("a/5", "five", measured=5.0),
        rows.Row("a/6", "six", bar=most, note="no room"),
    ]
    assert [row.holds for row in found] == [True, False, False, True, None, None]
    expected = "2 of 5 bars hold; over their bars: a/2 (1.21, bar ≤ 1.2), a/3 (19.9, bar ≥ 20); not measured: a/6"
    assert rows.verdict(found) == expected
    group = rows.Group("a", "Title", "x", "y", "z", "cpu")
    text = rows.as_markdown([group], found, {"cores": 2, "unknown": None})
    assert "| two |  |  | **1.21** |  | ≤ 1.2 | NO |" in text
    assert "| four |  |  | **20.0** |  | ≥ 20 | yes |" in text
    assert "| six |  |  | not measured |  | ≤ 1.2 |  |" in text
    assert "* six: no room" in text
    assert text.startswith("cores 2\n")
    assert [rows.number(value) for value in (0.01234, 1.0, 99.96, 123.4, None)] == ["0.0123", "1.00", "100", "123", ""]


LOG = """1 0.1 HANDLE cublas
1 0.1 BLASLT cublasLtCreate
1 0.1 HANDLE cudnn
1 0.2 MALLOC 2000000 used 2000384
1 0.3 H2D sync 500
1 0.3 SYNC stream
1 0.4 SYNC device
2 0.5 MALLOC 1000000 used 3000832
2 0.5 H2D async 1500
2 0.6 CUDNN conv N8 C3
2 0.7 LAUNCH 1,1,1 256 _Z6kernel
2 0.8 D2D async 64
2 0.9 D2H async 32
2 1.0 FREE 2000384 used 1000448
0 1.0 END peak 3000832
"""


def test_the_log_of_emulated_cuda(load: Load, tmp_path: Path) -> None:
    cuda = load("cuda")
    (tmp_path / "log").write_text(LOG)
    log = cuda.read_log(tmp_path / "log")
    assert log == cuda.Log(1, 2, 2, 2, 2000, 1, 32, 3000832)
    row = {"title": "net", "CPU": 4.0, "CUDA": 2.0, "plain CUDA": 1.0, "log": {"columns": log.columns()}}
    text = cuda.as_markdown([row, {"title": "other", "failed": "boom"}])
    assert "| net | 4 | 2 | 1 | 2 | 2 |" in text
    assert "| net | 1 | 2 | 2 | 2 | 0.0 | 1 | 0.0 | 3.0 |" in text
    assert "| other | boom |" in text


def test_memory_is_what_no_file_backs(load: Load, tmp_path: Path) -> None:
    """Of 64 MB of its own and 128 MB of a mapped file, only the former count."""
    processes = load("processes")
    file = tmp_path / "mapped"
    file.write_bytes(b"x" * 128_000_000)
    script = """
import mmap, sys, time
own = b"y" * 64_000_000
with open(sys.argv[1], "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
    print(sum(mapped[i] for i in range(0, len(mapped), 4096)))
    time.sleep(0.2)
"""
    ran = processes.run(["-c", script, file], look=True)
    assert int(ran.output) == 31250 * ord("x")
    assert 64_000_000 < ran.memory["not files"] < 96_000_000
    assert ran.memory["RssFile"] > 128_000_000
    assert ran.memory["VmRSS"] > 192_000_000


@pytest.mark.slow
def test_memory_does_not_grow_with_depth(load: Load, tmp_path: Path) -> None:
    """A decoder in float16, whose weights ONNX Runtime casts on the CPU, is six times as deep: 190 MB more."""
    large, processes = load("large"), load("processes")
    tokens, peaks, sizes = large.tokens_in(tmp_path, 512), [], []
    for layers in (6, 36):
        decoder = large.Decoder(tmp_path / "decoder.onnx", 512, layers, 512).write()
        ran = processes.run_command(decoder.path, tokens, "--memory", "8M", "--init", "he", look=True)
        assert ran.missed == ""
        peaks.append(ran.memory["not files"])
        sizes.append(decoder.size)
    assert sizes[1] - sizes[0] > 180_000_000
    assert peaks[1] - peaks[0] < 50_000_000, peaks
    assert sorted(path.name for path in tmp_path.iterdir()) == ["decoder.onnx", "decoder.onnx.data", "tokens.npy"]


@pytest.mark.slow
def test_a_large_model_that_is_small(tmp_path: Path) -> None:
    """The script that takes half an hour by default; the run that it ends leaves nothing."""
    sizes = ["--layers", "2", "--width", "128", "--memory", "1M"]
    command = [sys.executable, FOLDER / "large.py", *sizes, "--folder", tmp_path, "--json", tmp_path / "l.json"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "l.json").read_text())
    time, memory = document["rows"]
    assert time["measured"] == pytest.approx(time["ours"] / time["other"])
    assert 0 < memory["measured"] < 1
    assert document["phases"].keys() == {"load", "draw", "calibrate", "save", "verify"}
    ended = document["ended"]
    assert (ended["status"], ended["left"], ended["input as it was"]) == (143, [], True)
    assert ended["said"].endswith("nothing was saved.")
    assert [path.name for path in tmp_path.iterdir()] == ["l.json"]


def test_all_time_of_a_process_counts(load: Load) -> None:
    """What a process takes is what it says it took itself."""
    processes = load("processes")
    script = "import time\nwhile time.process_time() < 0.3: pass\nprint(time.process_time())"
    ran = processes.run(["-c", script])
    assert ran.cpu >= float(ran.output) >= 0.3
    assert ran.wall >= 0.3


def test_a_failed_process_is_no_measurement(load: Load) -> None:
    processes = load("processes")
    with pytest.raises(processes.FailedError, match=r"ended with 3: .*boom"):
        processes.run(["-c", "import sys; print('boom', file=sys.stderr); sys.exit(3)"])
    run, case = load("run"), load("bench").Case

    def fail(*_: object) -> None:
        raise processes.FailedError("boom")

    (row,) = run.measure(case("a/b", "title", None, fail), None)
    assert (row.name, row.note, row.failed, row.measured) == ("a/b", "boom", True, None)
