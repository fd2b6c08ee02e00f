"""Files: what is refused, external data, and that outputs appear whole or not at all."""

from __future__ import annotations

import gzip
import io
import os
import stat
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_lsuv import model as m
from onnx_lsuv.errors import ModelError, OutputError
from onnx_lsuv.model import atomic

W = ((7, 0), (5, 0))
posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX files")


def simple(name: str = "w", values: np.ndarray | None = None) -> onnx.ModelProto:
    values = np.arange(6, dtype=np.float32) if values is None else values
    graph = helper.make_graph([], "g", [], [], [numpy_helper.from_array(values, name)])
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)])


def tensor(**changes: object) -> onnx.ModelProto:
    proto = simple()
    for name, value in changes.items():
        proto.graph.initializer[0].ClearField(name)
        target = getattr(proto.graph.initializer[0], name)
        if hasattr(target, "extend"):
            target.extend(value)
        else:
            setattr(proto.graph.initializer[0], name, value)
    return proto


def names(folder: Path) -> list[str]:
    return sorted(str(one.relative_to(folder)) for one in folder.rglob("*"))


# ---- what is no model ---------------------------------------------------------------------------------------------


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/data.pkl", b"x")
    return out.getvalue()


def nested(levels: int, *wrappers: tuple[int, bytes]) -> bytes:
    """Wrap an empty message in fields of these numbers, each after some bytes, over and over."""
    pieces: list[bytes] = []
    size = 0
    for _ in range(levels):
        for number, before in wrappers:
            pieces.append(before + bytes([number << 3 | 2]) + varint(size))
            size += len(pieces[-1])
    return b"".join(reversed(pieces))


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def deep_graphs(levels: int) -> bytes:
    """Nest graphs in attributes of nodes, each with a name so long that it is looked into."""
    graph = nested(levels, (6, b""), (5, b""), (1, b"\x12\x82\x10" + b"n" * 2050))
    return b"\x08\x0a\x42\x02\x10\x11\x3a" + varint(len(graph)) + graph


def deep_types(levels: int) -> bytes:
    """Nest sequence types in the type of a value_info."""
    types = nested(levels, (1, b""), (4, b""))
    for number in (2, 13, 7):
        types = bytes([number << 3 | 2]) + varint(len(types)) + types
    return b"\x08\x0a\x42\x02\x10\x11" + types


WHOLE = simple(values=np.arange(5000, dtype=np.float32)).SerializeToString()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (b"\n<html>", "web page"),
        (b'<ir_version: 8, opset_import: ["": 17]> g () => () {}', "parse_model"),
        (b'ir_version: 8\nproducer_name: "x"\n', "text"),
        (zipped(), "zip archive, perhaps of PyTorch"),
        (gzip.compress(WHOLE), "gzip"),
        (b"\x80\x02}q\x00.", "pickle"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
        (b"\x1c\x00\x00\x00TFL3" + bytes(100), "TensorFlow Lite"),
        (b"\x1c\x00\x00\x00ORTM" + bytes(100), "ONNX Runtime"),
        (b"\x40\x00\x00\x00\x00\x00\x00\x00{" + b" " * 62 + b"}" + bytes(8), "safetensors"),
        (b'{"a": 1}', "JSON"),
        (WHOLE[:-20], "truncated"),
        (WHOLE[:3000], "truncated"),
        (WHOLE[:1], "truncated"),
        (b"\xff" * 100, "no ONNX model at all"),
        (bytes(100), "no ONNX model at all"),
        (np.random.default_rng(0).bytes(10000), "no ONNX model at all"),
        (deep_graphs(5000), "nested"),
        (deep_graphs(50), "nested"),
        (deep_types(5000), "nested"),
        (b"\x08\x0a\x42\x02\x10\x11", "has no graph"),
        (b"\x3a\x00\x42\x02\x10\x11", "has no IR version"),
        (b"\x08\x00\x3a\x00\x42\x02\x10\x11", "has no IR version"),
        (b"\x08\x0a\x3a\x00", "which opset"),
        (WHOLE.replace(b"\x42\x01w", b"\x42\x01\xff"), "not UTF-8"),
    ],
)
def test_what_is_no_model_is_refused_in_one_sentence(data: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    with pytest.raises(ModelError) as caught:
        m.load(path)
    assert says in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_truncation_at_any_byte_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    whole = simple().SerializeToString()
    ends_early = 0
    for length in range(1, len(whole)):
        path.write_bytes(whole[:length])
        try:
            m.load(path)
        except ModelError:
            ends_early += 1
    # only a cut between the last two fields of the model itself may pass for a model
    assert ends_early >= len(whole) - 2


def test_damaged_bytes_give_a_model_or_a_model_error(tmp_path: Path) -> None:
    whole = bytearray(simple(values=np.arange(20, dtype=np.float32)).SerializeToString())
    rng = np.random.default_rng(0)
    path = tmp_path / "model.onnx"
    for _ in range(500):
        damaged = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            damaged[rng.integers(len(damaged))] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            loaded = m.load(path)
            for index, _ in enumerate(loaded.proto.graph.initializer):
                m.read(loaded, ((7, 0), (5, index)))
            assert m.to_bytes(loaded) == damaged
        except ModelError:
            continue


def test_a_path_that_is_no_readable_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model file"):
        m.load(tmp_path / "missing.onnx")
    with pytest.raises(ModelError, match="is a folder"):
        m.load(tmp_path)
    with pytest.raises(ModelError, match="cannot be read"):
        m.load(str(tmp_path / "a\0b"))
    with pytest.raises(ModelError, match="cannot be read"):
        m.load(tmp_path / ("x" * 300))
    with pytest.raises(ModelError, match="cannot be read"):
        m.digest(tmp_path / "missing.onnx")


@posix
def test_a_fifo_or_device_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero")):
        with pytest.raises(ModelError, match="not a regular file"):
            m.load(path)


def test_newer_ir_versions_load() -> None:
    proto = simple()
    proto.ir_version = 14
    assert m.from_proto(proto).proto.ir_version == 14


@pytest.mark.parametrize(
    ("proto", "says"),
    [
        (tensor(raw_data=bytes(23)), "should have 24 bytes of data for dims 6 of float32, but has 23"),
        (tensor(raw_data=bytes(25)), "but has 25"),
        (tensor(raw_data=b""), "but has 0"),
        (tensor(dims=[-6]), "negative dimension"),
        (tensor(dims=[2**60, 2**60]), f"should have {2**122} bytes"),
        (tensor(dims=[2**62, 2**62, 0], raw_data=b""), "more than an array can have"),
        (tensor(data_type=99), "element type 99"),
        (tensor(data_type=0), "element type 0"),
        (tensor(data_type=TensorProto.STRING), "strings as raw data"),
    ],
)
def test_tensors_that_contradict_themselves_load_but_are_not_read(proto: onnx.ModelProto, says: str) -> None:
    loaded = m.from_proto(proto)
    m.is_hollow(loaded.proto.graph.initializer[0])
    with pytest.raises(ModelError, match=says) as caught:
        m.read(loaded, W)
    assert "'w'" in str(caught.value)


def test_other_broken_payloads() -> None:
    proto = simple()
    one = proto.graph.initializer[0]
    one.segment.begin = 0
    with pytest.raises(ModelError, match="segments"):
        m.read(m.from_proto(proto), W)
    one.ClearField("segment")
    one.ClearField("raw_data")
    assert m.is_hollow(m.from_proto(proto).proto.graph.initializer[0])
    with pytest.raises(ModelError, match="should have 6 stored values"):
        m.read(m.from_proto(proto), W)
    # What has dims and no values can get some.
    written = onnx.load_from_string(m.to_bytes(m.with_values(m.from_proto(proto), {W: np.arange(6, dtype="f4")})))
    assert np.array_equal(numpy_helper.to_array(written.graph.initializer[0]), np.arange(6, dtype=np.float32))


# ---- external data ------------------------------------------------------------------------------------------------


def external(name: str, location: str | None, size: int = 4, **entries: object) -> TensorProto:
    one = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[size], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        if value is not None:
            one.external_data.add(key=key, value=str(value))
    return one


def with_external(folder: Path, *tensors: TensorProto, name: str = "model.onnx") -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    graph = helper.make_graph([], "g", [], [], tensors)
    path = folder / name
    path.write_bytes(helper.make_model(graph, ir_version=10).SerializeToString())
    return path


def data(*values: float) -> bytes:
    return np.array(values, "<f4").tobytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = tmp_path / "in"
    (inside / "sub").mkdir(parents=True)
    for file in (inside / "w.bin", inside / "sub" / "w.bin", tmp_path / "outside.bin"):
        file.write_bytes(data(*range(8)))
    return inside


@posix
@pytest.mark.parametrize(
    ("location", "entries", "says"),
    [
        ("../outside.bin", {}, "this one leaves it"),
        ("sub/../../outside.bin", {}, "this one leaves it"),
        ("../in/w.bin", {}, "this one leaves it"),
        ("/etc/passwd", {}, "give a relative path"),
        ("C:\\w.bin", {}, "give a relative path"),
        ("\\\\host\\w.bin", {}, "give a relative path"),
        ("~/w.bin", {}, "give a relative path"),
        ("", {}, "does not say in which file"),
        (None, {}, "does not say in which file"),
        (".", {}, "this is a folder"),
        ("sub/", {}, "this is a folder"),
        ("sub", {}, "not a regular file"),
        ("a\0b", {}, "no file name"),
        ("x" * 5000, {}, "cannot be read"),
        ("model.onnx", {}, "the model file itself"),
        ("missing.bin", {}, "is missing"),
        ("w.bin/x", {}, "is missing"),
        ("link.bin", {}, "symbolic link"),
        ("linked/w.bin", {}, "symbolic link"),
        ("hard.bin", {}, "2 hard links"),
        ("fifo", {}, "not a regular file"),
        ("w.bin", {"offset": "-1"}, "offset '-1'"),
        ("w.bin", {"offset": "abc"}, "offset 'abc'"),
        ("w.bin", {"offset": "1_0"}, "offset '1_0'"),
        ("w.bin", {"offset": 17}, "has only 32 bytes"),
        ("w.bin", {"offset": 2**63 - 1}, "has only 32 bytes"),
        ("w.bin", {"offset": 10**30}, "offset '1000"),
        ("w.bin", {"length": 2**62}, f"length {2**62}"),
        ("w.bin", {"length": 12}, "needs 16 bytes"),
        ("w.bin", {"length": -16}, "length '-16'"),
    ],
)
def test_external_data_elsewhere_or_out_of_bounds_are_refused(
    folder: Path, location: str | None, entries: dict[str, object], says: str
) -> None:
    (folder / "link.bin").symlink_to("w.bin")
    (folder / "linked").symlink_to("sub")
    (folder / "other.bin").write_bytes(bytes(64))
    os.link(folder / "other.bin", folder / "hard.bin")
    os.mkfifo(folder / "fifo")
    loaded = m.load(with_external(folder, external("w", location, **entries)))
    with pytest.raises(ModelError) as caught:
        m.read(loaded, W)
    assert says in str(caught.value)
    assert "'w'" in str(caught.value)
    if says.startswith(("offset", "length '")) or not entries:
        before = names(folder)
        with pytest.raises(ModelError):
            m.save(loaded, folder / "out.onnx")
        assert names(folder) == before


@pytest.mark.parametrize("location", ["w.bin", "./w.bin", "sub/w.bin", "sub/../w.bin", "gone/../w.bin"])
def test_external_data_are_read_alike_from_everywhere(
    folder: Path, location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = with_external(folder, external("w", location, offset=16, length=16, __class__="x", checksum="y"))
    monkeypatch.chdir(folder.parent)
    first = m.load(os.path.relpath(path))
    monkeypatch.chdir(folder)
    for loaded in (first, m.load("model.onnx"), m.load("./model.onnx"), m.load(path), m.load("sub/../model.onnx")):
        assert m.read(loaded, W).tolist() == [4, 5, 6, 7]
        assert loaded.path == path
    assert m.is_hollow(first.proto.graph.initializer[0])


@posix
def test_a_model_reached_by_a_link_has_its_data_beside_the_link(folder: Path, tmp_path: Path) -> None:
    path = with_external(tmp_path / "blobs", external("w", "w.bin"), name="0123")
    (folder / "model.onnx").symlink_to(path)
    assert m.read(m.load(folder / "model.onnx"), W).tolist() == [0, 1, 2, 3]
    with pytest.raises(ModelError, match="is missing"):
        m.read(m.load(path), W)


def test_a_proto_with_external_data_needs_its_folder(folder: Path) -> None:
    proto = onnx.load(with_external(folder, external("w", "w.bin", length=16)), load_external_data=False)
    with pytest.raises(ModelError, match="base_dir"):
        m.read(m.from_proto(proto), W)
    loaded = m.from_proto(proto, folder)
    assert m.read(loaded, W).tolist() == [0, 1, 2, 3]
    with pytest.raises(ModelError, match="base_dir"):
        m.to_bytes(m.from_proto(proto))
    assert m.own_bytes(loaded) == proto.SerializeToString()
    for model in (loaded, m.with_values(loaded, {W: np.array([5, 6, 7, 8], np.float32)})):
        m.save(model, folder / "saved.onnx")
        whole = onnx.load(folder / "saved.onnx")
        assert m.to_proto(model) == whole == onnx.load_from_string(m.to_bytes(model))
        assert numpy_helper.to_array(whole.graph.initializer[0]).tolist() == m.read(model, W).tolist()
        for file in folder.glob("saved.*"):
            file.unlink()


def test_memory_holds_no_more_than_a_message(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = m.load(with_external(folder, external("w", "w.bin")))
    monkeypatch.setattr("onnx_lsuv.model.saving.LIMIT", len(m.own_bytes(loaded)) + 15)
    with pytest.raises(OutputError, match=r"ends at 2 GiB: .* onnx_lsuv\.save"):
        m.to_proto(loaded)


def test_data_are_copied_to_the_same_place_in_another_folder(folder: Path, tmp_path: Path) -> None:
    path = with_external(folder, external("a", "w.bin"), external("b", "./sub/w.bin", offset=16),
                         external("c", "sub/w.bin", offset=0))  # fmt: skip
    (tmp_path / "out").mkdir()
    loaded = m.load(path)
    written = m.save(
        m.with_values(loaded, {((7, 0), (5, 1)): np.full(4, 9, np.float32)}), tmp_path / "out" / "new.onnx"
    )
    out = tmp_path / "out"
    assert written == (out / "w.bin", out / "sub" / "w.bin", out / "new.onnx")
    assert (out / "new.onnx").read_bytes() == path.read_bytes()
    assert (out / "w.bin").read_bytes() == data(*range(8))
    assert (out / "sub" / "w.bin").read_bytes() == data(0, 1, 2, 3, 9, 9, 9, 9)
    assert (folder / "sub" / "w.bin").read_bytes() == data(*range(8))
    assert names(out) == ["new.onnx", "sub", "sub/w.bin", "w.bin"]
    # again, over the first output: the same files
    with pytest.raises(OutputError, match="exists"):
        m.save(loaded, out / "new.onnx")
    assert m.save(loaded, out / "new.onnx", force=True) == written
    assert (out / "sub" / "w.bin").read_bytes() == data(*range(8))
    assert names(out) == ["new.onnx", "sub", "sub/w.bin", "w.bin"]


def test_data_whose_place_is_taken_get_a_name_of_their_own(folder: Path) -> None:
    inner = helper.make_graph([], "then", [], [], [external("t", "./w.bin", offset=16)])
    other = helper.make_graph([], "else", [], [], [external("t", "w.bin", offset=0)])
    node = helper.make_node("If", ["c"], [], then_branch=inner, else_branch=other)
    function = helper.make_function(
        "f", "fn", [], ["o"], [helper.make_node("Constant", [], ["o"], value=external("k", "w.bin"))], []
    )
    graph = helper.make_graph([node], "g", [], [], [external("a", "w.bin"), *simple("i").graph.initializer])
    proto = helper.make_model(graph, ir_version=10, functions=[function])
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    branch = next(i for i, one in enumerate(node.attribute) if one.name == "then_branch")
    then = ((7, 0), (1, 0), (5, branch), (6, 0), (5, 0))
    loaded = m.load(path)
    inline = ((7, 0), (5, 1))
    written = m.save(m.with_values(loaded, {then: np.full(4, 9, np.float32), inline: np.ones(6, np.float32)}),
                     folder / "new.onnx")  # fmt: skip
    assert [one.name for one in written] == ["new.onnx.data", "new.onnx"]
    for one in (
        *(attribute.g.initializer[0] for attribute in proto.graph.node[0].attribute),
        proto.graph.initializer[0],
        proto.functions[0].node[0].attribute[0].t,
    ):
        one.external_data[0].value = "new.onnx.data"
    proto.graph.initializer[1].raw_data = data(1, 1, 1, 1, 1, 1)
    assert (folder / "new.onnx").read_bytes() == proto.SerializeToString()
    assert (folder / "new.onnx.data").read_bytes() == data(0, 1, 2, 3, 9, 9, 9, 9)
    assert (folder / "w.bin").read_bytes() == data(*range(8))
    # that name taken: an error without force, and with it replaced
    (folder / "new.onnx").unlink()
    with pytest.raises(OutputError, match=r"new\.onnx\.data' exists"):
        m.save(loaded, folder / "new.onnx")
    m.save(loaded, folder / "new.onnx", force=True)
    assert (folder / "new.onnx.data").read_bytes() == data(*range(8))


def test_several_data_files_with_taken_names(folder: Path) -> None:
    path = with_external(folder, external("a", "w.bin"), external("b", "sub/w.bin"), external("c", "sub/../w.bin"))
    written = m.save(m.load(path), folder / "new.onnx")
    assert [one.name for one in written] == ["new.onnx.w.bin", "new.onnx.w.bin.2", "new.onnx"]
    locations = [one.external_data[0].value for one in m.load(folder / "new.onnx").proto.graph.initializer]
    assert locations == ["new.onnx.w.bin", "new.onnx.w.bin.2", "new.onnx.w.bin"]


def test_force_spares_a_data_file_of_another_model(folder: Path, tmp_path: Path) -> None:
    path = with_external(folder, external("a", "w.bin"))
    out = tmp_path / "out"
    out.mkdir()
    (out / "w.bin").write_bytes(b"not yours")
    (out / "new.onnx").write_bytes(b"old")
    written = m.save(m.load(path), out / "new.onnx", force=True)
    assert [one.name for one in written] == ["new.onnx.data", "new.onnx"]
    assert (out / "w.bin").read_bytes() == b"not yours"


def test_a_promoted_constant_stays_external(folder: Path, tmp_path: Path) -> None:
    node = helper.make_node("Constant", [], ["k"], value=external("inner", "sub/w.bin", offset=4, length=16))
    proto = helper.make_model(helper.make_graph([node], "g", [], []), ir_version=10)
    (folder / "model.onnx").write_bytes(proto.SerializeToString())
    site = ((7, 0), (1, 0), (5, 0), (5, 0))
    loaded = m.with_values(m.load(folder / "model.onnx"), {site: np.full(4, 9, np.float32)})
    for out in (folder / "new.onnx", tmp_path / "new.onnx"):
        m.save(loaded, out)
        after = onnx.load(out)
        assert not after.graph.node
        assert after.graph.initializer[0].name == "k"
        assert numpy_helper.to_array(after.graph.initializer[0]).tolist() == [9, 9, 9, 9]


def test_new_values_for_shared_bytes_are_refused(folder: Path) -> None:
    path = with_external(folder, external("a", "w.bin"), external("b", "./w.bin", offset=12))
    loaded = m.with_values(m.load(path), {W: np.zeros(4, np.float32)})
    with pytest.raises(ModelError, match=r"share bytes of 'w\.bin'"):
        m.save(loaded, folder / "new.onnx")
    assert names(folder) == ["model.onnx", "sub", "sub/w.bin", "w.bin"]


@pytest.mark.slow
def test_data_of_more_than_two_gib(tmp_path: Path) -> None:
    size = 2**31 + 2**20
    path = with_external(tmp_path, external("a", "w.bin", size=size // 4), external("b", "w.bin", offset=size))
    with (tmp_path / "w.bin").open("wb") as file:
        file.truncate(size + 16)
    (tmp_path / "out").mkdir()
    loaded = m.with_values(m.load(path), {((7, 0), (5, 1)): np.arange(4, dtype=np.float32)})
    try:
        m.save(loaded, tmp_path / "out" / "new.onnx")
        assert m.read(m.load(tmp_path / "out" / "new.onnx"), ((7, 0), (5, 1))).tolist() == [0, 1, 2, 3]
        assert (tmp_path / "out" / "w.bin").stat().st_size == size + 16
    finally:
        (tmp_path / "out" / "w.bin").unlink(missing_ok=True)


# ---- the output ---------------------------------------------------------------------------------------------------


@pytest.fixture
def loaded(folder: Path) -> m.Model:
    return m.load(with_external(folder, external("a", "w.bin")))


def test_an_output_that_must_not_be_written(loaded: m.Model, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "old.onnx").write_bytes(b"old")
    before = names(tmp_path)
    for path, says in [
        (tmp_path / "old.onnx", "exists: name another, or replace it with '--force'"),
        (tmp_path / "none" / "new.onnx", "does not exist: make it first"),
        (tmp_path / "old.onnx" / "new.onnx", "is no folder"),
        (str(tmp_path) + "/", "not the name"),
        ("", "not the name"),
        ("a\0b", "not the name"),
        (tmp_path / ("x" * 300), "cannot be written"),
    ]:
        with pytest.raises(OutputError) as caught:
            m.save(loaded, path)
        assert says in str(caught.value)
    for path, says in [
        (folder / "model.onnx", "the model itself"),
        (folder / "sub" / ".." / "model.onnx", "the model itself"),
        (folder / "w.bin", "data file of the model"),
        (folder, "is a folder"),
    ]:
        with pytest.raises(OutputError) as caught:
            m.save(loaded, path, force=True)
        assert says in str(caught.value)
    assert names(tmp_path) == before
    assert (tmp_path / "old.onnx").read_bytes() == b"old"


@posix
def test_links_and_special_files_as_output(loaded: m.Model, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "to-input").symlink_to(folder / "model.onnx")
    os.link(folder / "model.onnx", tmp_path / "same")
    os.mkfifo(tmp_path / "fifo")
    for name, says in [("to-input", "the model itself"), ("same", "the model itself"), ("fifo", "not a regular file")]:
        with pytest.raises(OutputError) as caught:
            m.save(loaded, tmp_path / name, force=True)
        assert says in str(caught.value)
    (tmp_path / "other").write_bytes(b"other")
    (tmp_path / "link").symlink_to("other")
    (tmp_path / "dangling").symlink_to("nothing")
    plain = m.from_proto(simple())
    for name in ("link", "dangling"):
        with pytest.raises(OutputError, match="exists"):
            m.save(loaded, tmp_path / name)
        assert (tmp_path / "other").read_bytes() == b"other"
        (written,) = m.save(plain, tmp_path / name, force=True)
        assert written == tmp_path / os.readlink(tmp_path / name)  # noqa: PTH115
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / name).read_bytes() == simple().SerializeToString()
        (tmp_path / "other").write_bytes(b"other")


@posix
def test_the_output_has_the_permissions_of_any_new_file(loaded: m.Model, tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        for file in m.save(loaded, tmp_path / "new.onnx"):
            assert stat.S_IMODE(file.stat().st_mode) == 0o640
            assert file.stat().st_nlink == 1
    finally:
        os.umask(old)


@posix
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(loaded: m.Model, tmp_path: Path) -> None:  # pragma: no cover
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    with pytest.raises(OutputError, match="cannot be written"):
        m.save(loaded, closed / "new.onnx")


@posix
def test_a_full_disk_leaves_no_trace(tmp_path: Path) -> None:
    import resource  # noqa: PLC0415

    path = tmp_path / "model.onnx"
    path.write_bytes(simple(values=np.zeros(500_000, np.float32)).SerializeToString())
    loaded = m.load(path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(OutputError, match="cannot be written: File too large"):
            m.save(loaded, tmp_path / "new.onnx")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == ["model.onnx"]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("where", [("_write", 0), ("_write", 1), ("_put", 0), ("_put", 1), ("_put", 2)])
def test_an_interruption_leaves_what_was_there(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: tuple[str, int], late: bool, force: bool
) -> None:
    step, nth = where
    path = with_external(folder, external("a", "w.bin"), external("b", "sub/w.bin"))
    out = tmp_path / "out"
    out.mkdir()
    if force:
        m.save(m.load(path), out / "new.onnx")
        old = {name: (out / name).read_bytes() for name in names(out) if (out / name).is_file()}
    before = names(out)
    loaded = m.with_values(m.load(path), {((7, 0), (5, 0)): np.full(4, 9, np.float32)})
    real: Callable[..., None] = getattr(atomic, step)
    calls = 0

    def interrupted(*args: object) -> None:
        nonlocal calls
        calls += 1
        if calls == nth + 1 and not late:
            raise KeyboardInterrupt
        real(*args)
        if calls == nth + 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(atomic, step, interrupted)
    with pytest.raises(KeyboardInterrupt):
        m.save(loaded, out / "new.onnx", force=force)
    if (step, nth, late) == ("_put", 2, True):  # the last file is in place: complete
        assert names(out) == ["new.onnx", "sub", "sub/w.bin", "w.bin"]
        assert (out / "w.bin").read_bytes()[:16] == data(9, 9, 9, 9)
        return
    assert names(out) == before
    if force:
        assert {name: (out / name).read_bytes() for name in old} == old


@pytest.mark.skipif(sys.platform == "win32", reason="no locks of folders")
@pytest.mark.parametrize("aside", [False, True])
def test_what_a_killed_process_left_goes_with_the_next(tmp_path: Path, aside: bool) -> None:
    """Unless an older output stands aside in it; what a living process needs stays."""
    script = """
import os, sys
from pathlib import Path
from onnx_lsuv.model.atomic import PREFIX, staging
with staging(False) as staged:
    at = Path(sys.argv[1])
    staged.add(at, "sub/large.data", [bytes(1000)])
    if sys.argv[2] == "True":
        (staged.waiting(at / "sub/large.data").parent / f"{PREFIX}0.old").write_bytes(b"old")
    os.kill(os.getpid(), 9)
"""
    ended = subprocess.run([sys.executable, "-c", script, str(tmp_path), str(aside)], check=False)
    assert ended.returncode == -9
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(atomic.PREFIX)
    with atomic.staging(False) as living:
        waiting = living.waiting(living.add(tmp_path, "other", [b"1"]))
        m.save(m.from_proto(simple()), tmp_path / "new.onnx")
        assert waiting.read_bytes() == b"1"
        assert left.exists() == aside
    assert names(tmp_path)[-1] == "new.onnx"
    assert len(list(tmp_path.iterdir())) == 1 + aside


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = atomic._write

    def slow(file: BinaryIO, pieces: Any) -> None:
        (tmp_path / "new.onnx").write_bytes(b"mine")
        real(file, pieces)

    monkeypatch.setattr(atomic, "_write", slow)
    with pytest.raises(OutputError, match="exists"):
        m.save(m.from_proto(simple()), tmp_path / "new.onnx")
    assert (tmp_path / "new.onnx").read_bytes() == b"mine"
    assert names(tmp_path) == ["new.onnx"]


def test_a_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    model = m.from_proto(simple())
    assert m.save(model, tmp_path / "new.onnx") == (tmp_path / "new.onnx",)
    m.save(model, tmp_path / "new.onnx", force=True)
    assert (tmp_path / "new.onnx").read_bytes() == simple().SerializeToString()
    assert names(tmp_path) == ["new.onnx"]


def test_reading_from_several_threads(tmp_path: Path) -> None:
    proto = simple()
    for index in range(1, 200):
        proto.graph.initializer.append(numpy_helper.from_array(np.full(500, index, np.float32), f"w{index}"))
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    loaded = m.load(path)
    wrong: list[int] = []

    def work() -> None:
        wrong.extend(i for i in range(1, 200) if (m.read(loaded, ((7, 0), (5, i))) != i).any())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_digest(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert m.digest(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
