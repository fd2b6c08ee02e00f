"""What a new user gets wrong: every answer is one sentence that leads to the fix, and nothing is left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import onnx
import pytest
from commands import HEAD, call, contents, fails, fill, invoke, names
from oracle import normal, parse

from onnx_lsuv.cli.options import typed
from onnx_lsuv.cli.validation import UNUSED
from onnx_lsuv.errors import (
    LONGEST,
    DataError,
    DeviceError,
    LsuvError,
    ModelError,
    OutputError,
    UsageError,
    listing,
    meant,
    quote,
    sentence,
    shorten,
)
from onnx_lsuv.lsuv.settings import Settings, Wanted
from onnx_lsuv.runtime import open_device

CONV = f"""{HEAD} g (float[N,3,H,W] image) => (float z) {{
  y = Conv(image, w) r = Relu(y) p = GlobalAveragePool(r) f = Flatten(p) z = Gemm(f, u) }}"""
TWO = f"""{HEAD} g (float[N,16] left, float[N,16] right) => (float z) {{
  y = MatMul(left, w) q = MatMul(right, w) z = Add(y, q) }}"""

NEEDS_FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with models and with data of all the wrong kinds."""
    monkeypatch.chdir(tmp_path)
    fill(tmp_path)
    onnx.save(parse(CONV, w=normal(8, 3, 3, 3), u=normal(8, 4)), "conv.onnx")
    onnx.save(parse(TWO, w=normal(16, 16)), "two.onnx")
    model = onnx.load("m.onnx")
    model.graph.node[0].name = "/block1/fc/Gemm"
    onnx.save(model, "blocks.onnx")
    arrays = {"nhwc": normal(8, 9, 9, 3), "single": normal(3, 9, 9), "hwc": normal(9, 9, 3), "swapped": normal(16, 64)}
    arrays |= {"empty": np.zeros((0, 16), np.float32), "flat": normal(8, 3 * 81), "images": normal(8, 3, 9, 9)}
    arrays |= {"pixels": np.arange(8 * 243, dtype=np.uint8).reshape(8, 3, 9, 9), "complex": np.ones((8, 16), "c8")}
    arrays |= {"floats": (np.arange(8 * 243) % 256).astype(np.float32).reshape(8, 3, 9, 9)}
    for name, array in arrays.items():
        np.save(f"{name}.npy", array)
    np.savez("keys.npz", lft=normal(8, 16), right=normal(8, 16))
    Path("weights.pt").write_bytes(b"PK\x03\x04" + bytes(100))
    for name in ("x.csv", "x.txt", "x.png", "x.xyz"):
        Path(name).write_text("1,2")
    Path("folder").mkdir()
    for suffix in ("pth", "keras", "tflite", "pb", "safetensors"):
        Path(f"net.{suffix}").write_bytes(b"\xff" * 64)
    Path("tf").mkdir()
    Path("tf/saved_model.pb").touch()
    Path("nets").mkdir()
    onnx.save(parse(TWO, w=normal(16, 16)), "nets/a.onnx")
    return tmp_path


X = ["-d", "x.npy"]
WRONG: list[tuple[int, list[str], Sequence[str]]] = [
    # the command line itself
    (2, [], ["the model is missing", "onnx-lsuv MODEL.onnx --data PATH"]),
    (2, ["m.onnx"], ["'x'", "--data", "--random"]),
    (2, ["m.onnx", "x.npy"], ["one model", "'x.npy'", "--data"]),
    (2, ["m.onnx", "-d", "x.npy", "zeros.npy"], ["'zeros.npy'", "--data"]),
    (2, ["x.npy", "-d", "m.onnx"], ["swapped", "onnx-lsuv m.onnx --data x.npy"]),
    (2, ["x.npy"], ["is data", "onnx-lsuv MODEL.onnx --data x.npy"]),
    (2, ["m.onnx", "-d"], ["'-d'", "[NAME=]PATH"]),
    (2, ["m.onnx", "-d", "--random"], ["--data", "'--random'"]),
    (2, ["m.onnx", *X, "--ouput", "o.onnx"], ["'--ouput'", "did you mean '--output'?"]),
    (2, ["m.onnx", *X, "--quux"], ["'--quux'", "--help"]),
    (2, ["m.onnx", *X, "--otuput", "o.onnx"], ["did you mean '--output'?"]),
    (2, ["m.onnx", *X, "--batchsize", "4"], ["did you mean '--batch-size'?"]),
    (2, ["m.onnx", *X, "--verb"], ["did you mean '--verbose'?"]),
    (2, ["m.onnx", *X, "--queit"], ["did you mean '--quiet'?"]),
    (2, ["m.onnx", *X, "--suit"], ["'--suit'; 'onnx-lsuv --help' lists the options."]),
    (2, ["m.onnx", *X, "--init"], ["--init [GLOB=]orthonormal|delta|he|xavier|keep|zero|identity"]),
    (2, ["m.onnx", *X, "--init", "Orthogonal"], ["did you mean 'orthonormal'?"]),
    (2, ["m.onnx", *X, "--init", "kaiming_normal"], ["did you mean 'he'?"]),
    (2, ["m.onnx", *X, "--init", "glorot"], ["did you mean 'xavier'?"]),
    (2, ["m.onnx", *X, "--init", "dirac"], ["did you mean 'identity'?"]),
    (2, ["m.onnx", *X, "--init", "y=zeros"], ["not 'zeros' (did you mean 'zero'?)"]),
    (2, ["m.onnx", *X, "--init", "=zero"], ["--init takes GLOB=METHOD", "'=zero'"]),
    (2, ["m.onnx", *X, "--init", "y=zero", "--init", "y=he"], ["--init is given twice for 'y'"]),
    (2, ["m.onnx", *X, "--init", "he", "--init", "keep"], ["--init is given 2 times for all"]),
    (2, ["m.onnx", *X, "--init", "Y=zero"], ["'Y'", "did you mean 'y'?"]),
    (2, ["m.onnx", *X, "--target-std", "0"], ["--target-std must be a finite number above 0, not 0.0"]),
    (2, ["m.onnx", *X, "--seed", "1", "--seed=2"], ["the option --seed is given 2 times: give it once."]),
    (
        2,
        ["m.onnx", *X, "-o", "a.onnx", "--output", "b.onnx"],
        ["the option -o/--output is given 2 times: give it once."],
    ),
    (2, ["m.onnx", *X, "--seed", "0x10"], ["--seed should be a valid integer, but '0x10' was given"]),
    (2, ["m.onnx", *X, "--seed", "1e3"], ["--seed should be a valid integer, but '1e3' was given"]),
    (2, ["m.onnx", *X, "--target-std", "1e400"], ["--target-std must be a finite number above 0, not inf"]),
    (2, ["m.onnx", *X, "--tolerance", "nan"], ["--tolerance must lie between 0 and 1, not nan"]),
    (2, ["m.onnx", *X, "--samples", "9" * 30], ["--samples should be less than or equal to 1000000000"]),
    (2, ["m.onnx", *X, "--batch-size", "9" * 30], ["--batch-size should be less than or equal to 1000000000"]),
    (2, ["m.onnx", *X, "--threads", "9" * 30], ["--threads should be less than or equal to 1000000000"]),
    (2, ["m.onnx", *X, "--memory", "-1"], ["--memory takes a size such as 500M or 2G, not '-1'"]),
    (2, ["m.onnx", *X, "--memory", "nan"], ["--memory takes a size such as 500M or 2G, not 'nan'"]),
    (2, ["m.onnx", "--samples", "4", "--no-rescale"], ["--samples is about data: give --data or --random too"]),
    (2, ["m.onnx", *X, "--json"], ["did you mean '--format json'?"]),
    (2, ["m.onnx", *X, "--gpu"], ["did you mean '--device cuda'?"]),
    (2, ["m.onnx", *X, "--overwrite"], ["did you mean '--force'?"]),
    (2, ["check", "m.onnx", *X], ["there is no command 'check': give the option '--check'."]),
    (2, ["m.onnx", *X, *X], ["'x' is given data twice", "several files as their folder"]),
    (2, ["blocks.onnx", *X, "--include", "block1"], ["did you mean '*block1*'?"]),
    (2, ["", *X], ["MODEL needs a value, but was given an empty text"]),
    (2, ["m.onnx", *X, "--init", "xaviar"], ["--init", "'xaviar'", "did you mean 'xavier'?"]),
    (2, ["m.onnx", *X, "--format", "JSN"], ["--format", "did you mean 'json'?"]),
    (2, ["m.onnx", *X, "--batch-size", "0"], ["--batch-size", "1", "'0'"]),
    (2, ["m.onnx", *X, "--seed=many"], ["--seed", "integer", "'many'"]),
    (2, ["m.onnx", *X, "--force=yes"], ["'--force'", "value"]),
    (2, ["m.onnx", *X, "--memory", "lots"], ["--memory", "500M", "'lots'"]),
    (2, ["m.onnx", *X, "--target", "y"], ["GLOB=STD", "'y'"]),
    (2, ["m.onnx", *X, "--target", "y=-1"], ["GLOB=STD", "'y=-1'"]),
    (2, ["m.onnx", *X, "--target", "y=1", "--target", "y=2"], ["twice", "'y'"]),
    (2, ["m.onnx", *X, "--target", "Y=1"], ["'Y'", "did you mean 'y'?"]),
    (2, ["m.onnx", *X, "--target", "y=1", "--no-rescale"], ["--target", "--no-rescale"]),
    (2, ["m.onnx", *X, "--target-std", "2", "--no-rescale"], ["--target-std is a std to scale to and --no-rescale"]),
    (2, ["m.onnx", *X, "--no-verify", "--tolerance", "0.1"], ["--tolerance is on what is measured and --no-verify"]),
    (2, ["m.onnx", *X, "--include", "Z"], ["'Z'", "did you mean 'z'?"]),
    (2, ["m.onnx", *X, "--exclude", "nothing*"], ["nothing*", "'y'"]),
    (2, ["m.onnx", *X, "--report", "r.htm"], ["'r.htm'", "did you mean '.html'?"]),
    (2, ["m.onnx", *X, "--weights-out", "w.pt"], [".safetensors", "'w.pt'"]),
    (2, ["m.onnx", *X, "-o", "w.safetensors"], ["ONNX", "--weights-out"]),
    (2, ["m.onnx", *X, "-o", "-"], ["standard output", "-o"]),
    (2, ["m.onnx", *X, "-o", ""], ["-o", "empty"]),
    (2, ["m.onnx", *X, "--check", "-o", "o.onnx"], ["--check", "'-o'"]),
    (2, ["m.onnx", *X, "--check", "--portable"], ["--check", "'--portable'"]),
    (
        2,
        ["m.onnx", *X, "--check", "--seed", "0", "--fresh", "--init", "orthonormal", "--keep-bias", "-o", "o.onnx"],
        ["saves none: leave out '-o', '--fresh', '--init', '--keep-bias', '--seed', or leave out '--check'"],
    ),
    (2, ["m.onnx", *X, "--check", "--recalibrate"], ["leave out '--recalibrate', or"]),
    (2, ["m.onnx", *X, "--check", "--no-rescale", "--center"], ["leave out '--no-rescale', '--center', or"]),
    (2, ["m.onnx", *X, "--check", "--no-verify", "--weights-out", "w.npz"], ["'--weights-out', '--no-verify', or"]),
    (
        2,
        ["m.onnx", *X, "--dry-run", "--device", "cpu", "--threads", "2", "--allow-tf32", "--no-verify"],
        [
            "--dry-run runs nothing and saves no model: ",
            "leave out '--no-verify', '--device', '--allow-tf32', '--threads', or leave out '--dry-run'",
        ],
    ),
    (2, ["m.onnx", *X, "--dry-run", "--custom-ops", "m.onnx", "--seed", "1"], ["leave out '--custom-ops', '--seed'"]),
    (2, ["m.onnx", *X, "--compare", "two.onnx"], ["--compare", "--check"]),
    (2, ["m.onnx", *X, "--fresh", "--keep-bias"], ["--fresh", "--keep-bias"]),
    (2, ["m.onnx", *X, "--fresh", "--lstm-bias", "keep"], ["--fresh", "--lstm-bias keep"]),
    (2, ["m.onnx", *X, "--fresh", "--init", "keep"], ["--fresh", "--init keep"]),
    (2, ["m.onnx", "--random", "--shape", "4,x"], ["'x'", "1,3,8,8"]),
    (2, ["m.onnx", "--random", "--shape", "4xx16"], ["'4xx16'", "1,3,8,8"]),
    (2, ["m.onnx", "--random", "--shape", "(4,16"], ["'(4'", "1,3,8,8"]),
    (5, ["m.onnx", *X, "--device", "gpu"], ["'gpu'", "did you mean 'cuda'?"]),
    (5, ["m.onnx", *X, "--device", "gpu0"], ["did you mean 'cuda:0'?"]),
    (5, ["m.onnx", *X, "--device", "CPU"], ["did you mean 'cpu'?"]),
    (5, ["m.onnx", *X, "--custom-ops", "none.so"], ["'none.so'", "shared library"]),
    # the model
    (3, ["M.onnx", *X], ["'M.onnx'", "did you mean 'm.onnx'?"]),
    (3, ["nets", *X], [f"the model 'nets' is a folder: give the file in it, {str(Path('nets/a.onnx'))!r}."]),
    (3, [".", *X], ["the model '.' is a folder: give a file in it, such as 'blocks.onnx'."]),
    (3, ["tf", *X], ["'tf' is a folder of TensorFlow", "python -m tf2onnx.convert"]),
    (3, ["https://example.org/m.onnx", *X], ["'https://example.org/m.onnx' is an address", "download it"]),
    (3, ["s3://bucket/m.onnx", *X], ["'s3://bucket/m.onnx' is an address", "nothing is read from the network"]),
    (3, ["hf://org/net", *X], ["'hf://org/net' is an address"]),
    (3, ["file:///m.onnx", *X], ["'file:///m.onnx' is an address", "give its path alone"]),
    (4, ["m.onnx", "-d", "https://example.org/x.npy"], ["is missing: it is an address", "download it"]),
    (3, ["net.keras", *X], ["Keras", ".export('model.onnx', format='onnx')"]),
    (3, ["net.tflite", *X], ["TensorFlow Lite", "python -m tf2onnx.convert"]),
    (3, ["net.pb", *X], ["TensorFlow", "python -m tf2onnx.convert"]),
    (3, ["net.safetensors", *X], ["weights without a graph", "torch.onnx.export("]),
    (3, ["net.pth", *X], ["PyTorch", "torch.onnx.export("]),
    (3, ["none.pth", *X], ["there is no model file 'none.pth'"]),
    (3, ["folder", *X], ["folder", "give a file"]),
    (3, ["weights.pt", *X], ["PyTorch", "torch.onnx.export(model, (x,), 'model.onnx', dynamo=True)"]),
    (3, ["m.onnx", *X, "--check", "--compare", "C.onnx"], ["'C.onnx'"]),
    # the data
    (4, ["m.onnx", "-d", "X.npy"], ["'X.npy' is missing", "did you mean 'x.npy'?"]),
    (4, ["m.onnx", "-d", "there/x.npy"], ["missing", "'there'"]),
    (4, ["m.onnx", "-d", "*.foo"], ["'*.foo'", "shell", "folder"]),
    (4, ["m.onnx", "-d", "folder"], ["holds nothing", ".npy"]),
    (4, ["m.onnx", "-d", "x.txt"], ["numpy.save", "'x.npy'"]),
    (4, ["m.onnx", "-d", "x.csv"], ["[N, 16]", "'x.csv' has the shape [1, 2]"]),
    (4, ["m.onnx", "-d", "x.png"], ["'x.png' fits no input ('x' [N, 16])", "[N, C, H, W]"]),
    (4, ["m.onnx", "-d", "weights.pt"], ["PyTorch", "torch"]),
    (4, ["m.onnx", "-d", "nomodule:f"], ["no module 'nomodule'", "module:function"]),
    (4, ["m.onnx", "-d", "two.onnx"], ["is a model"]),
    (4, ["m.onnx", "-d", "x.xyz"], ["'.xyz'", ".safetensors"]),
    (4, ["m.onnx", "-d", "X=x.npy"], ["no input 'X'", "did you mean 'x'?"]),
    (4, ["m.onnx", "-d", "swapped.npy"], ["transposed", "x.T"]),
    (4, ["m.onnx", "-d", "empty.npy"], ["no samples", "at least one"]),
    (4, ["m.onnx", "-d", "complex.npy"], ["complex64", "real"]),
    (4, ["conv.onnx", "-d", "nhwc.npy"], ["NHWC", "x.transpose(0, 3, 1, 2)"]),
    (4, ["conv.onnx", "-d", "single.npy"], ["batch axis", "x[None]"]),
    (4, ["conv.onnx", "-d", "hwc.npy"], ["batch axis", "last", "x.transpose(2, 0, 1)[None]"]),
    (4, ["two.onnx", "-d", "left=x.npy"], ["'right'", "--data right=PATH"]),
    (4, ["two.onnx", "-d", "keys.npz"], ["'lft'", "did you mean 'left'?"]),
    (2, ["two.onnx", *X], ["'left', 'right'", "NAME=x.npy"]),
    (2, ["m.onnx", *X, "--check", "--compare", "two.onnx"], ["'x.npy'", "'left', 'right'"]),
    # the outputs
    (6, ["m.onnx", *X, "-o", "m.onnx"], ["model itself"]),
    (6, ["m.onnx", *X, "-o", "new/"], ["'new'", "make it first"]),
]


def test_check_refuses_every_setting_that_measure_does_not_take() -> None:
    settings = {typed(each.name) for each in fields(Settings) if each.name != "spell"}
    assert settings & set(map(typed, UNUSED["check"][0])) == settings - set(map(typed, Wanted.__optional_keys__))


@pytest.mark.parametrize(
    ("status", "arguments", "words"), WRONG, ids=lambda each: " ".join(each)[:60] if isinstance(each, list) else None
)
def test_the_answer_leads_to_the_fix(here: Path, status: int, arguments: list[str], words: Sequence[str]) -> None:
    before = names(here)
    line = fails(status, *arguments)
    for word in words:
        assert word in line
    assert names(here) == before


@pytest.mark.parametrize(("data", "words"), [("pixels", "as pixels do"), ("floats", "0 to 255 looks like raw pixels")])
def test_raw_pixels_are_noted(here: Path, data: str, words: str) -> None:
    assert call("conv.onnx", "-d", f"{data}.npy").stdout.count(words) == 1


def test_more_samples_than_there_are_is_noted(here: Path) -> None:
    ran = call("m.onnx", *X, "--samples", "1000")
    assert "note: 1000 samples were asked for, but there are 64" in ran.stdout
    assert "64 samples in 1 batch" in ran.stdout


def test_options_are_looked_at_before_the_model(here: Path) -> None:
    for option in (["--target-std", "0"], ["--report", "r.doc"], ["--memory", "x"], ["--shape", "1,y", "--random"]):
        fails(2, "missing.onnx", *option)
    fails(5, "missing.onnx", *X, "--device", "tpu")


def test_a_defect_shows_a_traceback_only_when_asked(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("oh\nno")

    monkeypatch.setattr("onnx_lsuv.model.load", broken)
    line = fails(70, "m.onnx", *X)
    assert "RuntimeError: oh no" in line
    assert "report" in line
    assert "-vv" in line
    for flags in (["-vv"], ["-v", "-v"]):
        assert "Traceback" in invoke(["m.onnx", *X, *flags]).stderr


@NEEDS_FULL
def test_a_full_disk_is_said_once(here: Path) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        ran = subprocess.run(
            [sys.executable, "-m", "onnx_lsuv", "m.onnx", "--dry-run"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert ran.returncode == 6
    (line,) = ran.stderr.splitlines()
    assert line.startswith("onnx-lsuv: error: ")
    assert os.strerror(28) in line


@NEEDS_FULL
@pytest.mark.parametrize(
    ("arguments", "status"), [(["--nope"], 2), (["none.onnx", *X], 3), (["--help"], 6), (["m.onnx", *X, "-vv"], 6)]
)
def test_the_status_says_what_happened_where_nothing_can_be_written(
    here: Path, arguments: Sequence[str], status: int
) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        command = [sys.executable, "-m", "onnx_lsuv", *arguments]
        assert subprocess.run(command, stdout=full, stderr=full, check=False).returncode == status


@pytest.mark.skipif(os.name == "nt", reason="shells close streams so")
@pytest.mark.slow
def test_closed_streams_are_no_defect(here: Path) -> None:
    command = f"{sys.executable} -m onnx_lsuv m.onnx -d x.npy --device cpu --force"
    for closed in (">&-", "2>&-", ">&- 2>&-"):
        ran = subprocess.run(["sh", "-c", f"{command} {closed}"], capture_output=True, check=False)
        assert (ran.returncode, ran.stderr) == (0, b"")


def test_failing_leaves_the_folder_as_it_was(here: Path) -> None:
    before = contents(here)
    fails(4, "conv.onnx", "-d", "nhwc.npy", "--report", "r.html", "--weights-out", "w.npz")
    assert contents(here) == before


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("The device is gone.", "the device is gone."),
        ("ONNX Runtime\n  says  no", "ONNX Runtime says no."),
        ("A b\x1b[2J c", "a b\\x1b[2J c."),
        ("Theory", "Theory."),
    ],
)
def test_sentence(text: str, shown: str) -> None:
    assert sentence(text) == shown


def test_meant() -> None:
    assert meant("Image", ["mask", "image"]) == " (did you mean 'image'?)"
    assert meant("M.onnx", ["u.onnx", "m.onnx"]) == " (did you mean 'm.onnx'?)"
    assert meant("quux", ["mask", "image"]) == ""
    assert meant("a" * 200, ["a" * 201]) == ""
    assert meant("a" * 119, ["a" * 1_000_000, "a" * 120]) == f" (did you mean {'a' * 120!r}?)"
    # A slip in four characters at most, where dashes and a common extension say nothing.
    options = ["--init", "--quiet", "--verbose", "--version", "--seed", "--dry-run"]
    assert meant("--suit", options) == meant("--speed-up", options) == meant("--dirty", options) == ""
    assert meant("--sede", options) == " (did you mean '--seed'?)"
    assert meant("--versoin", options) == " (did you mean '--version'?)"
    assert meant("--dryrun", options) == meant("--dry-", options) == " (did you mean '--dry-run'?)"
    assert meant("--ver", options) == ""  # two begin so
    assert meant("missing.onnx", ["m.onnx", "x.onnx"]) == meant("a.onnx", ["b.onnx"]) == ""
    assert meant("resnte18.onnx", ["resnet18.onnx"]) == " (did you mean 'resnet18.onnx'?)"
    assert meant(".htm", [".json", ".html"]) == " (did you mean '.html'?)"


def test_long_names_are_shortened_in_the_middle() -> None:
    assert shorten("short", 5) == "short"
    assert shorten("longer", 5) == "lo…er"
    assert len(quote("a" * 1_000_000)) == LONGEST + 2
    name = quote("/data/" + "a" * 500 + "/images.npy")
    assert name.startswith("'/data/a")
    assert name.endswith("a/images.npy'")
    assert len(quote("\x1b" * 500)) == LONGEST + 2


def test_a_listing_says_how_many_more_there_are() -> None:
    assert listing("ab") == "'a', 'b'"
    assert listing(map(str, range(20))) == "'0', '1', '2', '3', '4', '5', '6', '7' and 12 more"
    assert listing(["a" * 100] * 4).endswith("a' and 3 more")


@pytest.mark.parametrize("kind", [UsageError, ModelError, DataError, DeviceError, OutputError])
def test_a_message_stays_short_whatever_it_names(kind: type[LsuvError]) -> None:
    path = "/".join(["folder"] * 1000)
    assert str(kind(f"there is no {path}; make it")).endswith("/folder; make it")
    assert str(kind("as it is")) == "as it is"
    for text in (path, " ".join(["many words"] * 1000), "\x1b" * 380):
        assert len(sentence(str(kind(f"what was expected of {text}, and what to do")))) < 380
        assert sentence(str(kind(f"what was expected of {text}, and what to do"))).endswith("and what to do.")


@pytest.mark.parametrize("model", ["/".join(["folder"] * 1000), "a" * 5000, "m.onnx"])
def test_the_line_of_an_error_stays_below_400_characters(here: Path, model: str) -> None:
    data = "/".join(["folder"] * 1000)
    ran = invoke([model, "-d", data])
    (line,) = ran.stderr.splitlines()
    assert len(line) < 400
    assert ran.status == 4 or model != "m.onnx"


def test_an_onnx_model_may_have_any_name(here: Path) -> None:
    for name in ("m.pb", "m.bin", "m.pt"):
        Path(name).write_bytes(Path("m.onnx").read_bytes())
        call(name, *X, "-o", "o.onnx", "--force")


def test_a_guess_among_many_long_names_is_quick() -> None:
    known = [f"/encoder/layers.{i}/self_attention/query/MatMul_output_{i}" for i in range(20_000)]
    assert meant("/encoder/layers.77/self_attention/qeury/MatMul_output_77", known).count("layers.77/") == 1


@pytest.mark.parametrize(
    ("status", "option", "words"),
    [
        (2, ["--device", f"--{'a' * 300}"], "--device needs a value"),
        (5, ["--custom-ops", "a" * 300], "is not a file"),
        (5, ["--custom-ops", f"m.onnx/{'a' * 300}"], "is not a file"),
    ],
)
def test_a_name_too_long_for_a_file_is_no_output(here: Path, status: int, option: list[str], words: str) -> None:
    assert words in fails(status, "m.onnx", *X, *option)


def test_a_library_of_operators_may_have_any_name() -> None:
    with pytest.raises(DeviceError, match="is not a file"):
        open_device("cpu", custom_ops=["a" * 300])


def test_the_line_about_layers_that_missed_stays_below_400_characters(here: Path) -> None:
    model = onnx.load("m.onnx")
    for i, node in enumerate(model.graph.node):
        node.name = f"{'block/' * 80}{i} of many"
    onnx.save(model, "long.onnx")
    (line,) = call("long.onnx", *X, "--check", status=1).stderr.splitlines()
    assert "2 of 2 layers missed" in line
    assert "; and 1 more" in line
    assert len(line) < 400


def test_the_line_about_layers_that_overflow_stays_below_400_characters(here: Path) -> None:
    weights = {f"w{i}": normal(16, 16) * np.float32(1e30) for i in range(6)}
    steps = " ".join(f"h{i + 1} = MatMul(h{i}, w{i})" for i in range(6))
    onnx.save(parse(f"{HEAD} g (float[N,16] h0) => (float h6) {{ {steps} }}", **weights), "huge.onnx")
    (line,) = call("huge.onnx", *X, "--check", status=1).stderr.splitlines()
    assert line.count("is not finite") == 2
    assert line.endswith("; and 4 more.")
    assert len(line) < 400


def test_a_model_with_many_inputs_names_the_first(here: Path) -> None:
    inputs = ", ".join(f"float[N,16] an_input_with_a_rather_long_name_{i}" for i in range(30))
    operands = ", ".join(f"an_input_with_a_rather_long_name_{i}" for i in range(30))
    text = f"{HEAD} g ({inputs}) => (float z) {{ s = Sum({operands}) z = MatMul(s, w) }}"
    onnx.save(parse(text, w=normal(16, 8)), "many.onnx")
    line = fails(2, "many.onnx")
    assert "long_name_0'" in line
    assert "more: give samples" in line
