"""The module's tensors from files, and the command that reads and writes them."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import ml_dtypes
import numpy as np
import onnx
import pytest
import safetensors.numpy
from commands import call, contents, fails, fill
from oracle import normal, parse, tensor_of

import onnx_lsuv
from onnx_lsuv import DataError, UsageError
from onnx_lsuv.modules import HOWS

HEAD = '<ir_version: 10, opset_import: ["" : 17]>'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model m.onnx, whose weights are w, b and u, and net.safetensors, net.npz with PyTorch's names for them."""
    monkeypatch.chdir(fill(tmp_path))
    model = onnx.load("m.onnx")
    state = {
        "fc.weight": tensor_of(model, "w").T,
        "fc.bias": tensor_of(model, "b"),
        "out.weight": tensor_of(model, "u").T,
    }
    state = {name: np.ascontiguousarray(each) for name, each in state.items()} | {"steps": np.array(3)}
    safetensors.numpy.save_file(state, "net.safetensors")
    np.savez("net.npz", **state)
    return tmp_path


def loaded(path: str) -> dict[str, Any]:
    if path.endswith(".npz"):
        with np.load(path) as archive:
            return {name: archive[name] for name in archive.files}
    return safetensors.numpy.load_file(path)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_the_way_back_is_one_option(folder: Path, suffix: str) -> None:
    ran = call("m.onnx", "-d", "x.npy", "--state-dict", f"net{suffix}", "--report", "r.json")
    assert f"saved m.lsuv{suffix}" in ran.stdout
    assert "all 4 tensors" in ran.stdout
    new, saved = loaded(f"m.lsuv{suffix}"), onnx.load("m.lsuv.onnx")
    assert set(new) == {"fc.weight", "fc.bias", "out.weight", "steps"}
    np.testing.assert_array_equal(new["fc.weight"], tensor_of(saved, "w").T)
    np.testing.assert_array_equal(new["out.weight"], tensor_of(saved, "u").T)
    assert new["steps"] == 3
    assert not new["fc.bias"].any()
    document = json.loads(Path("r.json").read_text())
    assert document["state_dict"]["good"]
    assert document["state_dict"]["tensors"]["steps"] == "carried"
    assert document["files"]["state_dict"]["path"] == f"net{suffix}"
    schema = json.loads(files("onnx_lsuv.report").joinpath("schema.json").read_text("utf-8"))
    jsonschema.validate(document, schema)
    assert set(schema["$defs"]["found"]["enum"]) == set(HOWS)
    # The library writes the same bytes.
    result = onnx_lsuv.initialize(onnx_lsuv.load("m.onnx"), {"x": np.load("x.npy")})
    state = onnx_lsuv.save_state_dict(result, f"net{suffix}", f"own{suffix}")
    assert state.good
    assert Path(f"own{suffix}").read_bytes() == Path(f"m.lsuv{suffix}").read_bytes()


def test_where_it_goes(folder: Path) -> None:
    Path("out").mkdir()
    call("m.onnx", "-d", "x.npy", "--state-dict", "net.safetensors", "-o", "out/")
    assert {path.name for path in Path("out").iterdir()} == {"m.lsuv.onnx", "m.lsuv.safetensors"}
    call("m.onnx", "-d", "x.npy", "--state-dict", "net.npz", "--weights-out", "w.safetensors", "--portable")
    assert "fc.weight" in loaded("w.safetensors")
    before = contents(folder)
    said = fails(
        6, "m.onnx", "-d", "x.npy", "--state-dict", "net.npz", "--weights-out", "net.npz", "-o", "n.onnx", "--force"
    )
    assert "read as the state dict" in said
    # One that is there is not replaced.
    given = ["m.onnx", "-d", "x.npy", "--state-dict", "net.npz", "-o", "n.onnx", "--weights-out", "w.safetensors"]
    assert "w.safetensors" in fails(6, *given)
    assert contents(folder) == before


def test_a_weight_without_a_tensor_is_status_1(folder: Path) -> None:
    np.savez("part.npz", **{name: each for name, each in loaded("net.npz").items() if name != "out.weight"})
    for arguments in (["-d", "x.npy"], ["--dry-run"]):
        ran = call("m.onnx", *arguments, "--state-dict", "part.npz", status=1)
        assert "the state dict has no tensor for 'u'" in ran.stderr
        assert "'u'" in ran.stdout
    assert set(loaded("m.lsuv.npz")) == {"fc.weight", "fc.bias", "steps"}


def test_the_dry_run_matches_and_writes_nothing(folder: Path) -> None:
    before = contents(folder)
    assert "all 4 tensors" in call("m.onnx", "--dry-run", "--state-dict", "net.npz").stdout
    assert contents(folder) == before
    assert "--state-dict" in fails(2, "m.onnx", "-d", "x.npy", "--check", "--state-dict", "net.npz")


@pytest.mark.parametrize(
    ("name", "content", "status", "said"),
    [
        ("new.safetensors", None, 4, "which is read, is missing"),
        ("net.h5", b"", 2, "should be a .safetensors"),
        ("net.safetensors", b"\x00", 4, "the state dict 'net.safetensors' is"),
        ("net.npz", b"PK\x03\x04", 4, "the state dict 'net.npz' is"),
        ("net.safetensors", b"", 4, "empty"),
    ],
)
def test_a_file_that_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes | None, status: int, said: str
) -> None:
    monkeypatch.chdir(fill(tmp_path))
    if content is not None:
        Path(name).write_bytes(content)
    before = contents(tmp_path)
    assert said in fails(status, "m.onnx", "-d", "x.npy", "--state-dict", name)
    assert contents(tmp_path) == before


def test_what_is_no_state_dict() -> None:
    text = f"{HEAD} g (float[N,4] x) => (float z) {{ z = MatMul(x, w) }}"
    plan = onnx_lsuv.plan(onnx_lsuv.from_proto(parse(text, w=normal(4, 4))))
    for given in ({}, {"w": object()}, {1: normal(4, 4)}):
        with pytest.raises(DataError, match="the state dict"):
            onnx_lsuv.state_dict(plan, given)
    with pytest.raises(UsageError, match="ends otherwise"):
        onnx_lsuv.state_dict(plan, "w.onnx")


def test_bfloat16_and_names_with_slashes(tmp_path: Path) -> None:
    weight = normal(6, 8).astype(ml_dtypes.bfloat16)
    text = f"{HEAD} g (float[N,8] x) => (float z) {{ z = MatMul(x, w) }}"
    model = onnx_lsuv.from_proto(parse(text, w=weight.T.astype(np.float32)))
    result = onnx_lsuv.initialize(model, {"x": normal(64, 8)})
    safetensors.numpy.save_file({"a/kernel": weight}, tmp_path / "net.safetensors")
    onnx_lsuv.save_state_dict(result, tmp_path / "net.safetensors", tmp_path / "new.safetensors")
    new = safetensors.numpy.load_file(tmp_path / "new.safetensors")["a/kernel"]
    assert (new.dtype, new.shape) == (weight.dtype, (6, 8))
    np.savez(tmp_path / "net.npz", **{"a/kernel": normal(6, 8).astype(ml_dtypes.bfloat16).astype(np.float32)})
    state = onnx_lsuv.save_state_dict(result, tmp_path / "net.npz", tmp_path / "new.npz")
    assert list(np.load(tmp_path / "new.npz")) == ["a/kernel"] == list(state.tensors)


def test_counted_names_are_in_their_order(tmp_path: Path) -> None:
    """.safetensors sorts by name, where blocks.10 stands before blocks.9."""
    same, layers = normal(8, 8), 11
    body = " ".join(f"a{i + 1} = MatMul(a{i}, w{i})" for i in range(layers))
    text = f"{HEAD} g (float[N,8] a0) => (float a{layers}) {{ {body} }}"
    model = onnx_lsuv.from_proto(parse(text, {f"w{i}": same for i in range(layers)}))
    result = onnx_lsuv.initialize(model, {"a0": normal(64, 8)})
    names = [f"blocks.{i}.weight" for i in range(layers)]
    safetensors.numpy.save_file({name: np.ascontiguousarray(same.T) for name in names}, tmp_path / "net.safetensors")
    matches = onnx_lsuv.state_dict(result, tmp_path / "net.safetensors").matches
    assert {each.name: each.tensors for each in matches} == {name: (f"w{i}",) for i, name in enumerate(names)}
