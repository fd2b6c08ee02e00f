"""Checking, comparing, listing, reports of every kind, and what training needs."""

from __future__ import annotations

import errno
import json
import os
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from pkgutil import resolve_name
from typing import Any
from unittest.mock import Mock

import numpy as np
import onnx
import oracle
import pytest
from commands import HEAD, call, contents, fails, fill, invoke, mlp, names
from onnx.numpy_helper import from_array, to_array
from oracle import normal, parse, tensor_of

import onnx_lsuv
from onnx_lsuv.importers.table import IMPORTERS
from onnx_lsuv.lsuv.scratch import Scratch

X = ["-d", "x.npy"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a model m.onnx and data x.npy."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    return fill(tmp_path)


def stds(path: str, data: str = "x.npy") -> list[float]:
    found = oracle.measure(path, [{"x": np.load(data)}], ["y", "z"])
    return [float(np.sqrt(each.var)) for each in found.values()]


def numbers(text: str) -> dict[str, list[str]]:
    """Return the cells of a table by the name of the layer."""
    return {line.split()[0]: line.split() for line in text.split("\n\n", maxsplit=1)[0].splitlines()[1:]}


# --------------------------------------------------------------------------------- what is measured for a report alone


@pytest.mark.parametrize(
    ("options", "before", "beside"),
    [
        ([*X, "-o", "o.onnx", "--report", "r.json"], True, True),
        ([*X, "-o", "o.onnx", "--report", "r.json", "--report", "r.html", "--portable"], True, True),
        ([*X, "--check", "--tolerance", "0.999", "--report", "r.json"], False, True),
        ([*X, "-o", "o.onnx"], False, False),
        ([*X, "-o", "o.onnx", "--format", "json"], False, False),
        ([*X, "-o", "o.onnx", "--no-verify", "--report", "r.json"], False, None),
        (["-o", "o.onnx", "--no-rescale", "--report", "r.json"], False, None),
        (["--dry-run", "--report", "r.json"], False, None),
    ],
)
def test_more_is_measured_where_a_report_is_asked_for(
    here: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], before: bool, beside: bool | None
) -> None:
    """Whether the file as it came, and what is beside the layers: None where nothing is verified."""
    spies = {name: Mock(wraps=getattr(onnx_lsuv, name)) for name in ("measure", "measure_before")}
    for name, spy in spies.items():
        monkeypatch.setattr(onnx_lsuv, name, spy)
    checks = "--check" in options
    ran = call("m.onnx", *options, "--exclude", "y", status=1 if checks else 0)
    assert spies["measure_before"].call_count == before
    assert [each.kwargs["beside"] for each in spies["measure"].call_args_list] == [beside] * (beside is not None)
    if "r.json" not in options:
        assert ran.stdout
        return
    report = json.loads(Path("r.json").read_text(encoding="utf-8"))
    wanted = stds("m.onnx")
    assert [row["std_before"] for row in report["layers"]] == [pytest.approx(wanted[1], rel=1e-4) if before else None]
    assert [row["std"] for row in report["left"]] == [pytest.approx(wanted[0], rel=1e-4) if beside else None]


# ---------------------------------------------------------------------------------------------------------------- check


@pytest.mark.parametrize("extra", [[], ["-q"], ["--format", "json"], ["--format", "github"]])
def test_check_names_the_worst_layers(here: Path, extra: list[str]) -> None:
    line = call("m.onnx", *X, "--check", *extra, status=1).stderr
    assert line.startswith("onnx-lsuv: 2 of 2 layers missed the std wanted: ")
    first, second = (
        f"'{name}' is off (std {std:.4f}, wanted 1.0000)" for name, std in zip("yz", stds("m.onnx"), strict=True)
    )
    assert first in line
    assert second in line
    assert line.count("\n") == 1
    assert "saved" not in line


def test_the_worst_come_first_and_the_others_are_counted(here: Path) -> None:
    layers = 6
    text = " ".join(f"y{i} = MatMul({'x' if not i else f'y{i - 1}'}, w{i})" for i in range(layers))
    weights = {f"w{i}": normal(16, 16, seed=i) for i in range(layers)}
    onnx.save(parse(f"{HEAD} g (float[N,16] x) => (float y{layers - 1}) {{ {text} }}", **weights), "deep.onnx")
    line = call("deep.onnx", *X, "--check", status=1).stderr
    # Each layer of 16 unit normals multiplies the std by four, so the last is the furthest off.
    assert [line.index(f"'y{i}'") for i in (5, 4, 3)] == sorted(line.index(f"'y{i}'") for i in (5, 4, 3))
    assert "'y2'" not in line
    assert line.rstrip().endswith("and 3 more.")


def test_a_target_of_its_own(here: Path) -> None:
    call("m.onnx", *X, "--target", "z=0.1", "--target", "nothing*=1", status=2)
    ran = call("m.onnx", *X, "--target", "*=0.5", "--target", "z=0.1", "-o", "o.onnx")
    assert stds("o.onnx") == pytest.approx([0.5, 0.1], rel=0.003)
    assert numbers(ran.stdout)["z"][-3:] == ["0.1000", "0.1000", "ok"]
    call("o.onnx", *X, "--check", "--target", "*=0.5", "--target", "z=0.1")
    assert "'z' is off" in call("o.onnx", *X, "--check", "--target-std", "0.5", status=1).stderr


def test_compare_shows_both_models_on_the_same_data(here: Path) -> None:
    call("m.onnx", *X)
    before = contents(here)
    arguments = ["m.lsuv.onnx", *X, "--check", "--compare", "m.onnx"]
    ran = call(*arguments)
    assert contents(here) == before
    table = numbers(ran.stdout)
    for name, mine, other in zip("yz", stds("m.lsuv.onnx"), stds("m.onnx"), strict=True):
        assert table[name][-3:] == [f"{mine:.4f}", f"{other:.4f}", "ok"]
    assert "other: m.onnx" in ran.stdout.splitlines()
    # The first model alone decides the status.
    call("m.onnx", *X, "--check", "--compare", "m.lsuv.onnx", status=1)
    call(*arguments, "--report", "r.html")
    page = (here / "r.html").read_text(encoding="utf-8")
    assert "m.lsuv.onnx" in page
    assert all(f"{std:.4f}" in page for std in stds("m.onnx"))


def test_compare_where_layers_have_other_names(here: Path) -> None:
    model = mlp()
    for node in model.graph.node:
        node.name = f"node_{node.output[0]}"
    onnx.save(model, "named.onnx")
    named = ["m.onnx", *X, "--check", "--compare", "named.onnx"]
    ran = call(*named, "--report", "r.json", "--report", "r.md", "--report", "r.html", status=1)
    places = "no layer of the other model has the name of one here: they are compared by their places"
    assert f"note: {places}" in ran.stdout
    assert all(places in Path(f"r.{end}").read_text(encoding="utf-8") for end in ("json", "html"))
    assert places.replace(":", "&#58;") in Path("r.md").read_text(encoding="utf-8")
    assert places in call(*named, "--format", "github", status=1).stdout
    table = numbers(ran.stdout)
    assert [row[-3] for row in table.values()] == [row[-2] for row in table.values()]
    model.graph.node[0].name = "y"
    onnx.save(model, "half.onnx")
    ran = call("m.onnx", *X, "--check", "--compare", "half.onnx", status=1)
    assert numbers(ran.stdout)["z"][-2] == "-"
    assert "only in the other model: node_z" in ran.stdout
    assert "by their places" not in ran.stdout


@pytest.mark.parametrize(
    ("mode", "verb"), [([], "initialise"), (["--dry-run"], "initialise"), (["--check"], "measure")]
)
def test_a_model_without_layers(here: Path, mode: list[str], verb: str) -> None:
    onnx.save(parse(f"{HEAD} g (float[N,16] x) => (float y) {{ y = Relu(x) }}"), "none.onnx")
    assert f"there is nothing to {verb} in {here / 'none.onnx'}: it has no linear layer" in fails(
        3, "none.onnx", *X, *mode
    )


def test_check_takes_a_seed_for_random_data(here: Path) -> None:
    one, same, other = (
        call("m.onnx", "--random", "--check", "--seed", seed, "-q", status=1).stderr for seed in ("1", "1", "2")
    )
    assert one == same != other


def test_another_seed_is_named_where_it_may_help(here: Path) -> None:
    text = f"{HEAD} g (float[N,1] x) => (float z) {{ y = MatMul(x, w) r = Relu(y) z = MatMul(r, u) }}"
    onnx.save(parse(text, w=normal(1, 1), u=normal(1, 4)), "dead.onnx")
    np.save("positive.npy", np.abs(normal(32, 1)))
    ran = {
        seed: invoke(["dead.onnx", "-d", "positive.npy", "--device", "cpu", "--force", "--seed", str(seed)])
        for seed in range(12)
    }
    assert {each.status for each in ran.values()} == {0, 1}  # another one does help
    for each in ran.values():
        assert ("(dead ReLUs), which another seed may mend" in each.stderr) == (each.status == 1)
    call(
        "dead.onnx", "-d", "positive.npy", "-o", "alive.onnx", "--seed", str(next(s for s in ran if not ran[s].status))
    )
    model = onnx.load("alive.onnx")
    model.graph.initializer[0].CopyFrom(from_array(-to_array(model.graph.initializer[0]), "w"))
    onnx.save(model, "cut.onnx")
    assert "--seed" not in call("cut.onnx", "-d", "positive.npy", "--check", status=1).stderr  # nothing is drawn


# -------------------------------------------------------------------------------------------------------------- reports


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)


def test_reports_of_every_kind_at_once(here: Path) -> None:
    kinds = ["a.json", "b.md", "c.html", "d.json"]
    ran = call("m.onnx", *X, *(word for name in kinds for word in ("--report", name)))
    assert names(here) == {"m.onnx", "x.npy", "zeros.npy", "m.lsuv.onnx", *kinds}
    assert "2 ok" in ran.stdout
    assert json.loads((here / "a.json").read_text())["good"] is True
    assert (here / "a.json").read_bytes() == (here / "d.json").read_bytes()
    assert (here / "b.md").read_text(encoding="utf-8").startswith("### onnx-lsuv")
    page = _Page()
    page.feed((here / "c.html").read_text(encoding="utf-8"))
    assert {"html", "table", "svg"} <= set(page.seen)


def test_reports_are_written_with_status_1_and_quiet(here: Path) -> None:
    call("m.onnx", *X, "--check", "-q", "--report", "r.md", "--report", "r.json", status=1)
    assert json.loads((here / "r.json").read_text())["good"] is False
    assert "off" in (here / "r.md").read_text(encoding="utf-8")


def test_github(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = here / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    call("m.onnx", *X, "--check", status=1)
    assert summary.read_text() == "before\n"  # only where it was asked for
    ran = call("m.onnx", *X, "--check", "--format", "github", status=1)
    lines = ran.stdout.splitlines()
    assert all(line.startswith(("::error ", "::warning ", "::notice ")) for line in lines)
    assert sum(line.startswith("::error ") for line in lines) == 2
    text = summary.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert "m.onnx" in text
    call("m.onnx", *X, "--check", "--format", "github", "-q", status=1)
    assert summary.read_text(encoding="utf-8").count("### onnx-lsuv") == 2
    monkeypatch.delenv("GITHUB_STEP_SUMMARY")
    call("m.onnx", *X, "--format", "github")


def test_a_step_summary_that_cannot_be_written(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(here)
    (here / "folder").mkdir()
    for name, words in [("missing/s.md", "make it first"), ("folder", "is a folder"), ("m.onnx", "the model itself")]:
        monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(here / name))
        for more in (["--check"], []):
            line = fails(6, "m.onnx", *X, "--format", "github", *more)
            assert "GITHUB_STEP_SUMMARY" in line
            assert words in line
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(here / "m.lsuv.onnx"))
    assert "two outputs" in fails(2, "m.onnx", *X, "--format", "github")
    assert contents(here) == before
    # Only where it is written to.
    call("m.onnx", *X)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_step_summary_leaves_no_trace(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(here)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "/dev/full")
    line = fails(6, "m.onnx", *X, "--format", "github", "--report", "r.md")
    assert "GITHUB_STEP_SUMMARY" in line
    assert os.strerror(errno.ENOSPC) in line
    assert contents(here) == before


@pytest.mark.parametrize("was", [None, "before\n"])
def test_the_step_summary_is_taken_back_where_no_file_is_saved(
    here: Path, monkeypatch: pytest.MonkeyPatch, was: str | None
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if was is not None:
        Path("s.md").write_text(was)
    before = contents(here)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "s.md")
    monkeypatch.setattr("onnx_lsuv.model.atomic._put", full)
    ran = invoke(["m.onnx", *X, "--device", "cpu", "--format", "github", "-q"])
    assert (ran.status, ran.stdout) == (6, "")
    assert contents(here) == before


def test_memory_limits_every_run(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, plain = [], Scratch.within

    def within(memory: int | None, folder: Path | None = None) -> Scratch:
        asked.append((memory, folder))
        return plain(memory, folder)

    (here / "out").mkdir()
    monkeypatch.setattr(Scratch, "within", within)
    call("m.onnx", *X, "--memory", "2K", "--report", "r.md", "--portable", "-o", "out/o.onnx")
    call("m.onnx", *X, "--memory", "2K", "--check", "--compare", "out/o.onnx", status=1)
    asked = [(memory, folder and folder.resolve()) for memory, folder in asked]
    assert len(asked) > 6
    # None: comparing the outputs of the portable form, whose data are there.
    assert set(asked) - {(None, None)} == {(2048, here / "out"), (2048, here)}


@pytest.mark.parametrize("stop", ["interrupted", "out of memory"])
def test_what_is_saved_already_is_told(here: Path, monkeypatch: pytest.MonkeyPatch, stop: str) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise {"interrupted": KeyboardInterrupt, "out of memory": MemoryError}[stop]

    status = {"interrupted": 130, "out of memory": 5}[stop]
    before = contents(here)
    with monkeypatch.context() as patched:
        patched.setattr("onnx_lsuv.lsuv.measure", stopped)
        (line,) = call("m.onnx", *X, "--report", "r.md", status=status).stderr.splitlines()
    assert line.startswith(f"onnx-lsuv: error: {stop}")
    assert "all the same" not in line
    assert contents(here) == before
    # Files that are in place stay, and are named.
    monkeypatch.setattr("onnx_lsuv.model.atomic._sync_folder", stopped)
    ran = invoke(["m.onnx", *X, "--device", "cpu", "--report", "r.md"])
    (line,) = ran.stderr.splitlines()
    assert ran.status == status
    assert line.startswith(f"onnx-lsuv: error: {stop}")
    assert line.endswith("'m.lsuv.onnx', 'r.md' are saved all the same.")
    assert names(here) == {*before, "m.lsuv.onnx", "r.md"}


# -------------------------------------------------------------------------------------------------------------- dry run


def listed(*arguments: str) -> dict[str, Any]:
    return {row["name"]: row for row in json.loads(call(*arguments, "--dry-run", "--format", "json").stdout)["layers"]}


def test_dry_run_says_what_would_happen_and_why(here: Path) -> None:
    text = f"""{HEAD} g (float[N,16] x, float[16,16] v) => (float z) {{
      t = Transpose(w) y = Gemm(x, t, b) s = MatMul(y, w2) q = MatMul(s, v) r = Relu(q)
      r3 = Unsqueeze(r, axis) l, h, c = LSTM<hidden_size=4>(r3, lw, lr) z = Squeeze(h, axis) }}"""
    onnx.save(
        parse(
            text,
            **{"w": normal(16, 16), "b": normal(16), "w2": normal(16, 16), "axis": np.zeros(1, np.int64)},
            **{"lw": normal(1, 16, 16), "lr": normal(1, 16, 4)},
        ),
        "odd.onnx",
    )
    ran = call("odd.onnx", "--dry-run", "--exclude", "w2")
    table = numbers(ran.stdout)
    assert table["y"][1:5] == ["Gemm", "w", "Transpose", "16x16"]
    assert " ".join(table["y"][5:]) == "1 x (16, 16) found"
    assert "drawn (orthonormal), scaled to std 1, bias set to zero: 1 (y)" in ran.stdout
    assert "not scaled, as its gates" in ran.stdout
    assert "excluded: 1 x MatMul (s)" in ran.stdout
    assert "dynamic: 1 x MatMul (q)" in ran.stdout
    assert "type" in call("odd.onnx", "--dry-run", "-v").stdout.splitlines()[0]
    rows = listed("odd.onnx", "--keep-bias", "--init", "he", "--target", "y=0.5")
    assert rows["y"]["note"] == "drawn (he), scaled to std 0.5, what is added to its output stays"
    assert (rows["y"]["target"], rows["y"]["init"], rows["y"]["path"]) == (0.5, "he", ["Transpose"])
    assert listed("odd.onnx", "--no-rescale")["s"]["note"] == "drawn (orthonormal), not scaled"
    assert listed("odd.onnx", "--init", "keep")["s"]["note"] == "kept, scaled to std 1"


def test_dry_run_ends_as_the_run_would(here: Path) -> None:
    onnx.save(parse(f"{HEAD} g (float[N,16] x) => (float y) {{ y = Relu(x) }}"), "relu.onnx")
    given = ([], ["--exclude", "*"])
    for name, extra in zip(("relu.onnx", "m.onnx"), given, strict=True):
        run = call(name, *X, *extra, status=3)
        assert call(name, "--dry-run", *extra, status=3).stderr == run.stderr
    # Data that are given are looked at, and only then needed.
    np.save("wide.npy", normal(8, 17))
    assert (
        call("m.onnx", "-d", "wide.npy", "--dry-run", status=4).stderr
        == call("m.onnx", "-d", "wide.npy", status=4).stderr
    )
    call("m.onnx", "--dry-run", "--random", "--shape", "4,17", status=2)
    call("m.onnx", *X, "--dry-run", "--samples", "8", "--fresh", "--center", "--portable", "--memory", "1G")
    assert names(here) == {"m.onnx", "x.npy", "zeros.npy", "relu.onnx", "wide.npy"}


def test_dry_run_of_a_weight_used_twice(here: Path) -> None:
    text = f"{HEAD} g (float[N,16] x) => (float z) {{ y = MatMul(x, w) z = MatMul(y, w) }}"
    onnx.save(parse(text, w=normal(16, 16)), "tied.onnx")
    assert listed("tied.onnx")["z"]["note"] == "uses the weight of 'y', which decides its scale"
    assert listed("tied.onnx")["z"]["status"] == "shared"


def test_dry_run_says_what_becomes_fresh(here: Path) -> None:
    text = (
        f"{HEAD} g (float[N,16] x) => (float z) {{ y = MatMul(x, w) n = LayerNormalization(y, s, t) z = PRelu(n, p) }}"
    )
    onnx.save(parse(text, w=normal(16, 16), s=normal(16), t=normal(16), p=normal(16)), "trained.onnx")
    told = "fresh: 1 x scale, 1 x shift, 1 x slope would get their usual starting values"
    assert told in call("trained.onnx", "--dry-run", "--fresh").stdout
    assert "fresh: " not in call("trained.onnx", "--dry-run").stdout
    # A pattern may name one of them.
    only = ("trained.onnx", "--fresh", "--include", "p", "--include", "y")
    assert "fresh: 1 x slope would" in call(*only, "--dry-run").stdout
    call(*only, "--no-rescale")
    before, after = (
        {t.name: to_array(t) for t in onnx.load(n).graph.initializer} for n in ("trained.onnx", "trained.lsuv.onnx")
    )
    assert (after["p"] == 0.25).all()
    assert (after["s"] == before["s"]).all()


def test_dry_run_with_reports(here: Path) -> None:
    call("m.onnx", "--dry-run", "--report", "r.json", "--report", "r.html", "--report", "r.md")
    assert names(here) == {"m.onnx", "x.npy", "zeros.npy", "r.json", "r.html", "r.md"}
    assert "output" not in json.loads((here / "r.json").read_text())["files"]


# ------------------------------------------------------------------------------------------------------------- training


def test_weights_out(here: Path) -> None:
    ran = call("m.onnx", *X, "--weights-out", "w.npz", "-o", "o.onnx")
    assert "saved w.npz" in ran.stdout.splitlines()
    saved, model = np.load("w.npz"), onnx.load("o.onnx")
    for name in ("w", "u", "b"):
        np.testing.assert_array_equal(saved[name], oracle.tensor_of(model, name))
    call("m.onnx", *X, "--weights-out", "w.npz", "-o", "p.onnx", status=6)
    assert not Path("p.onnx").exists()
    call("m.onnx", *X, "--weights-out", "v.safetensors", "-o", "p.onnx")
    assert Path("v.safetensors").is_file()


def test_data_files_are_said_to_be_saved_as_they_are_found(here: Path) -> None:
    external = {"save_as_external_data": True, "size_threshold": 0}
    Path("parts").mkdir()
    Path("out").mkdir()
    onnx.save(onnx.load("m.onnx"), "a.onnx", location="parts/a.data", **external)
    ran = call("a.onnx", *X, "-o", "out/o.onnx", "--weights-out", "w.npz")
    assert ran.stdout.splitlines()[-3:] == ["saved out/o.onnx", "saved out/parts/a.data", "saved w.npz"]
    ran = call("a.onnx", *X)  # whose name for data is taken
    assert ran.stdout.splitlines()[-2:] == ["saved a.lsuv.onnx", "saved a.lsuv.onnx.data"]
    assert all(Path(name).is_file() for name in ("out/parts/a.data", "a.lsuv.onnx.data"))
    # An architecture is one file.
    assert call("a.onnx", "--no-values", "-o", "b.onnx").stdout.splitlines()[1:] == ["saved b.onnx"]


@pytest.mark.parametrize("portable", [[], ["--portable"]])
def test_params_out(here: Path, portable: list[str]) -> None:
    arguments = ["m.onnx", *X, *portable, "--params-out", "p.json", "--report", "r.json"]
    ran = call(*arguments, "-o", "o.onnx")
    assert ran.stdout.splitlines()[-2:] == ["saved o.onnx", "saved p.json"]
    params, document = (json.loads(Path(name).read_text()) for name in ("p.json", "r.json"))
    assert set(params["requires_grad"]) == {tensor.name for tensor in onnx.load("o.onnx").graph.initializer}
    assert params["frozen_params"] == params["not_initializers"] == []
    assert document["files"]["params"]["path"] == "p.json"
    assert {(row["role"], row["fate"]) for row in document["roles"]} == {("weight", "drawn"), ("bias", "zero")}
    # With all others or not at all.
    before = contents(here)
    call(*arguments, "-o", "p.onnx", status=6)
    fails(2, "m.onnx", *X, "-o", "p.onnx", "--params-out", "q.json", "--report", "q.json")
    fails(2, "m.onnx", *X, "-o", "p.onnx", "--params-out", "p.txt")
    for mode in (["--dry-run"], [*X, "--check"]):
        assert "leave out '--params-out'" in fails(2, "m.onnx", *mode, "--params-out", "q.json")
    assert contents(here) == before


def test_dry_run_says_what_each_constant_is(here: Path) -> None:
    text = (
        f"{HEAD} g (float[N,16] x) => (float z) {{ y = MatMul(x, w) n = LayerNormalization(y, s, t) z = MatMul(n, u) }}"
    )
    tensors = {"w": normal(16, 16), "s": normal(16), "t": normal(16), "u": normal(16, 4)}
    onnx.save(parse(text, tensors), "normed.onnx")
    line = "constants: 2 weight (drawn), 1 scale (kept), 1 shift (kept)"
    assert line in call("normed.onnx", "--dry-run").stdout.splitlines()
    chosen = call("normed.onnx", "--dry-run", "--exclude", "u", "-v").stdout.splitlines()
    at = chosen.index("constants: 2 weight (1 drawn, 1 kept), 1 scale (kept), 1 shift (kept)")
    assert [row.split() for row in chosen[at + 3 : at + 7]] == [
        ["w", "16x16", "weight", "product", "drawn"],
        ["s", "16", "scale", "operand", "kept"],
        ["t", "16", "shift", "operand", "kept"],
        ["u", "16x4", "weight", "product", "kept"],
    ]
    assert "constants:" not in call("normed.onnx", *X, "-o", "o.onnx").stdout


def test_recalibrate(here: Path) -> None:
    text = f"""{HEAD} g (float[N,16] x) => (float y) {{ n = BatchNormalization(x, s, t, m, v) y = MatMul(n, w) }}"""
    ones = np.ones(16, np.float32)
    onnx.save(parse(text, s=ones, t=ones, m=ones, v=ones, w=normal(16, 4)), "normed.onnx")
    kept = call("normed.onnx", *X, "-o", "kept.onnx")
    assert "statistics kept: n: no changed weight lies before it" in kept.stdout
    ran = call("normed.onnx", *X, "--recalibrate", "-o", "set.onnx", "--report", "r.json")
    assert "statistics kept" not in ran.stdout
    assert "statistics of 1 BatchNormalization set" in ran.stdout
    assert json.loads((here / "r.json").read_text())["settings"]["recalibrate"] is True
    x = np.load("x.npy")
    np.testing.assert_allclose(tensor_of(onnx.load("set.onnx"), "m"), x.mean(0), atol=1e-5)
    np.testing.assert_array_equal(tensor_of(onnx.load("kept.onnx"), "m"), ones)


def test_untie(here: Path) -> None:
    """Three layers that an exporter left with one weight, and norms with one pair, as a plan, a file and a form."""
    body = " ".join(
        f"m{i} = MatMul(r{i}, w) n{i} = BatchNormalization(m{i}, ones, zeros, zeros, ones) r{i + 1} = Relu(n{i})"
        for i in range(3)
    )
    model = parse(
        f"{HEAD} g (float[N,16] x) => (float y) {{ r0 = Identity(x) {body} y = Identity(r3) }}",
        w=normal(16, 16),
        ones=np.ones(16, np.float32),
        zeros=np.zeros(16, np.float32),
    )
    for node in model.graph.node:
        if node.op_type == "MatMul":
            node.name = f"/layers.{node.output[0][1:]}/MatMul"
    onnx.save(model, "merged.onnx")
    shown = call("merged.onnx", "--dry-run", "--untie").stdout
    assert "12 new initializers" in shown
    ran = call("merged.onnx", *X, "-o", "o.onnx", "--report", "r.json", "--report", "r.html")
    assert "6 tensors parted from others" in ran.stdout
    assert "'w', 'ones', 'zeros' are 9 parameters" in ran.stdout
    report = json.loads((here / "r.json").read_text())
    assert report["settings"]["untie"] is False
    parted = {each["tensor"]: each["parted_from"] for each in report["changes"]}
    assert (parted["w"], parted["zeros.1"]) == (None, "zeros")
    assert "parted from" in (here / "r.html").read_text()
    for form in ([], ["--portable"]):
        call("merged.onnx", *X, "--untie", "-o", "u.onnx", "--weights-out", "u.npz", "--force", *form)
        after = onnx.load("u.onnx")
        onnx.checker.check_model(after)
        read = [name for node in after.graph.node for name in node.input if np.ndim(held(after, name)) or None]
        assert len(read) == len(set(read)) == 15
        with np.load("u.npz") as weights:
            assert set(weights) >= set(read)
        call("u.onnx", *X, "--check")
    call("merged.onnx", *X, "--check", "--untie", status=2)


def held(model: onnx.ModelProto, name: str) -> np.ndarray | None:
    return oracle.all_float_tensors(model).get(name)


def test_no_rescale(here: Path) -> None:
    ran = call("m.onnx", *X, "--no-rescale", "-o", "o.onnx", "--report", "r.json")
    w = oracle.tensor_of(onnx.load("o.onnx"), "w")
    np.testing.assert_allclose(w @ w.T, np.eye(16), atol=1e-5)
    assert "2 drawn" in ran.stdout
    assert json.loads((here / "r.json").read_text())["settings"]["rescale"] is False
    # Nothing has to be measured, so no data are needed, and the weights are the same.
    call("m.onnx", "--no-rescale", "-o", "p.onnx")
    assert Path("o.onnx").read_bytes() == Path("p.onnx").read_bytes()


def test_fresh(here: Path) -> None:
    text = f"""{HEAD} g (float[N,16] x) => (float z) {{
      y = Gemm(x, w, b) n = LayerNormalization(y, scale, shift) z = MatMul(n, u) }}"""
    given = {"w": normal(16, 16), "b": normal(16), "u": normal(16, 8), "scale": normal(16), "shift": normal(16)}
    onnx.save(parse(text, **given), "trained.onnx")
    call("trained.onnx", *X, "-o", "kept.onnx")
    np.testing.assert_array_equal(oracle.tensor_of(onnx.load("kept.onnx"), "scale"), given["scale"])
    assert "usual starting" not in call("trained.onnx", *X, "-o", "kept.onnx", "--force").stdout
    ran = call("trained.onnx", *X, "--fresh", "-o", "fresh.onnx")
    assert "1 bias set to zero; 1 scale, 1 shift given the usual starting values" in ran.stdout
    ran = call("trained.onnx", *X, "--fresh", "--center", "-o", "centred.onnx")
    assert "1 bias set to centre its layer; 1 scale, 1 shift given" in ran.stdout
    model = onnx.load("fresh.onnx")
    np.testing.assert_array_equal(oracle.tensor_of(model, "scale"), np.ones(16))
    np.testing.assert_array_equal(oracle.tensor_of(model, "shift"), np.zeros(16))


def test_portable_is_verified_and_says_what_trains_where(here: Path) -> None:
    text = (
        f"{HEAD} g (float[N,16] x) => (float z) {{ k = Transpose(w) y = MatMul(x, k) s = Add(y, b) z = MatMul(s, u) }}"
    )
    onnx.save(parse(text, w=normal(16, 16), b=normal(16), u=normal(16, 8)), "odd.onnx")
    ran = call("odd.onnx", *X, "--portable", "-o", "o.onnx", "--report", "r.json", "--weights-out", "w.npz")
    document = json.loads((here / "r.json").read_text())
    assert {row["status"] for row in document["layers"]} == {"ok"}
    assert any(note.startswith("made portable: ") for note in document["notes"])
    assert {each["importer"]: each["cured"] for each in document["trains"]}["onnx2torch"]
    assert "onnx2torch 1.5.15 (PyTorch) trains 2 of 2 weights\n" in ran.stdout
    model = onnx.load("o.onnx")
    assert "Transpose" not in {node.op_type for node in model.graph.node}
    assert set(np.load("w.npz")) == {tensor.name for tensor in model.graph.initializer}
    # The same function as without the option.
    call("odd.onnx", *X, "-o", "p.onnx")
    batches = [{"x": np.load("x.npy")}]
    plain, portable = (oracle.values(path, batches, ["z"])["z"][0] for path in ("p.onnx", "o.onnx"))
    np.testing.assert_allclose(portable, plain, rtol=1e-4, atol=1e-5)
    # Asked beforehand, without running anything.
    assert "trains 0 of 2 weights as is, 2 with --portable" in call("odd.onnx", "--dry-run").stdout
    assert "note: made portable: " in call("odd.onnx", "--dry-run", "--portable").stdout


def test_what_blocks_training_is_said_once_a_kind(here: Path) -> None:
    text = f"""{HEAD} g (float[N,16] x) => (float z) {{
        f = Mod<fmod=1>(x, two) y = MatMul(f, w) n = LayerNormalization(y, b) z = MatMul(n, u) }}"""
    onnx.save(parse(text, w=normal(16, 16), b=normal(16), u=normal(16, 8), two=normal(1)), "odd.onnx")
    lines = call("odd.onnx", "--dry-run").stdout.splitlines()
    said = next(line for line in lines if line.startswith("jaxonnxruntime"))
    lacks = "the importer lacks an operator, or this version of it: Mod, LayerNormalization"
    assert said == f"jaxonnxruntime 0.3.0 (JAX) trains 0 of 2 weights: {lacks}"
    said = next(line for line in lines if line.startswith("onnx2keras"))
    assert said.count("an operator has its weight") <= 1
    assert "measured on 2026-11-21, 2026-11-30; newer versions may differ" in lines


@pytest.mark.parametrize("mode", [["--check"], ["--dry-run"], [], ["--portable"]])
def test_one_importer_is_asked_about(here: Path, mode: list[str]) -> None:
    reports = [f"--report={name}" for name in ("r.json", "r.md", "r.html")]
    named = ["--importer", "tinygrad", "--importer", "onnx2torch"]
    said = call("m.onnx", *X, *mode, *reports, *named, status=1 if mode == ["--check"] else 0).stdout
    told = [said, *(Path(name).read_text() for name in ("r.md", "r.html"))]
    assert [each["importer"] for each in json.loads(Path("r.json").read_text())["trains"]] == ["onnx2torch", "tinygrad"]
    for name in IMPORTERS:
        assert {f"{name} {IMPORTERS[name].version}" in text for text in told} == {name in named}


def test_another_export_is_named_in_every_report(here: Path) -> None:
    head = '<ir_version: 10, opset_import: ["" : 22]>'
    onnx.save(parse(f"{head} g (float[N,16] x) => (float y) {{ y = Gemm(x, w) }}", w=normal(16, 16)), "new.onnx")
    asked = ["--dry-run", "--importer", "onnxruntime-training"]
    said = call("new.onnx", *asked, "--report=r.json", "--report=r.md", "--report=r.html").stdout
    (found,) = json.loads(Path("r.json").read_text())["trains"]
    assert found["export"] == "opset_version=17, dynamo=False"
    for text in (said, Path("r.md").read_text(), Path("r.html").read_text()):
        assert "another export may help: opset_version=17, dynamo=False" in unescape(text)


def test_a_wrong_importer_is_said_before_anything_is_read(here: Path) -> None:
    said = fails(2, "none.onnx", "--importer", "onnx2troch")
    assert "there is no importer 'onnx2troch' (did you mean 'onnx2torch'?): expected 'onnx2torch', " in said
    assert "'onnxsim'" in said


@pytest.mark.parametrize("mode", [["--check"], ["--dry-run"], [], ["--portable"]])
def test_every_report_says_what_trains_where(here: Path, mode: list[str]) -> None:
    status = 1 if mode == ["--check"] else 0
    reports = [f"--report={name}" for name in ("r.json", "r.md", "r.html")]
    call("m.onnx", *X, *mode, *reports, status=status)
    found = {each["importer"]: each for each in json.loads(Path("r.json").read_text())["trains"]}
    assert found.keys() == IMPORTERS.keys()
    assert found["onnx2torch"]["as_is"]["trainable"] == 1
    assert found["onnx2torch"]["portable"]["trainable"] == 2
    for name in ("r.md", "r.html"):
        text = Path(name).read_text()
        assert "What trains where" in text
        assert all(importer in text for importer in found)


@pytest.mark.parametrize("mode", [["--check"], ["--dry-run"], ["--dry-run", "--portable"], [], ["--portable"]])
@pytest.mark.parametrize(
    ("extra", "summary", "shown"),
    [
        ([], False, None),  # what the mode says
        (["-q"], False, False),
        (["--format", "github"], False, False),
        (["--format", "github"], True, True),
        (["--format", "github", "-q"], True, True),
        (["--format", "json"], False, True),
        (["--format", "json", "-q"], False, False),
        (["-q", "--report", "r.csv"], False, False),
        (["-q", "--report", "r.md", "--report", "r.csv"], False, True),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_what_nothing_shows_is_not_looked_for(
    here: Path, monkeypatch: pytest.MonkeyPatch, mode: list[str], extra: list[str], summary: bool, shown: bool | None
) -> None:
    forecast, digest = (
        Mock(wraps=resolve_name(f"onnx_lsuv.{name}")) for name in ("importers.forecast", "model.digest")
    )
    monkeypatch.setattr("onnx_lsuv.importers.forecast", forecast)
    monkeypatch.setattr("onnx_lsuv.model.digest", digest)
    if summary:
        monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    ran = call("m.onnx", *X, *mode, *extra, status=1 if "--check" in mode else 0)
    expected = mode not in ([], ["--check"]) if shown is None else shown
    files = [here / name for name in ("summary.md", "r.md", "r.csv") if (here / name).exists()]
    texts = [ran.stdout, *(file.read_text(encoding="utf-8") for file in files)]
    assert any("jaxonnxruntime" in text for text in texts) is expected
    assert forecast.call_count == int(expected)
    assert digest.called is bool(shown)


def test_dry_run_as_annotations_says_what_would_happen(here: Path) -> None:
    lines = call("m.onnx", "--dry-run", "--exclude", "z", "--format", "github").stdout.splitlines()
    assert lines[0] == "::notice file=m.onnx,title=onnx-lsuv%3A verdict::1 layer found; nothing was run."
    fate = "drawn (orthonormal), scaled to std 1, bias set to zero"
    assert lines[1] == f"::notice file=m.onnx,title=onnx-lsuv%3A plan::{fate}: 1 (y)"
    assert "plan::" not in call("m.onnx", *X, "--format", "github").stdout


def test_dry_run_says_which_biases_centre(here: Path) -> None:
    assert "bias set to centre its channels: 1 (y)" in call("m.onnx", "--dry-run", "--center").stdout
