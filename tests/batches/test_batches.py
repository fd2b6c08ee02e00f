"""Calibration data: every rule, and every error message as behaviour."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, numpy_helper
from safetensors.numpy import save_file

from onnx_lsuv.batches import (
    Batches,
    Input,
    Source,
    from_arrays,
    from_paths,
    from_random,
    inputs_of,
    parse_shape,
    parse_shapes,
)
from onnx_lsuv.errors import DataError, LsuvError, ModelError, UsageError

F, I64, I32, BOOL, STR = (TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL, TensorProto.STRING)
X = Input("x", F, ("N", 3))
ONE = (X,)
TWO = (X, Input("y", I64, ("N", 2)))
FIXED = (Input("x", F, (4, 3)),)
IMAGE = (Input("x", F, ("N", 3, 8, 8)),)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def save(path: Path, array: np.ndarray) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)
    return str(path)


def save_pb(path: Path, array: np.ndarray, name: str = "") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(numpy_helper.from_array(array, name).SerializeToString())
    return str(path)


def lengths(batches: Batches, name: str = "x") -> list[int]:
    return [len(batch[name]) for batch in batches]


def fails(error: type[LsuvError], *words: str, call) -> str:
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    for word in words:
        assert word in message, message
    assert type(caught.value) is error
    assert "\n" not in message
    assert message.isprintable()
    assert "pickle=True" not in message
    assert "allow_pickle" not in message
    return message


# inputs_of


def graph(text: str) -> onnx.GraphProto:
    return onnx.parser.parse_graph(text)


def test_inputs_have_names_types_and_shapes():
    g = graph("g (float[N,3,?,224] x, int64 s, bool[1] flag) => (float[N,3,?,224] z) { z = Identity(x) }")
    del g.input[1].type.tensor_type.shape.dim[:]
    scalar, flag = inputs_of(g)[1:]
    assert inputs_of(g)[0] == Input("x", F, ("N", 3, None, 224))
    assert scalar == Input("s", I64, ())
    assert flag == Input("flag", BOOL, (1,))


def test_an_input_with_an_initializer_needs_no_data():
    g = graph("g (float[N,3] x, float[3] w) => (float[N,3] z) <float[3] w = {1.0, 2.0, 3.0}> { z = Mul(x, w) }")
    assert [each.name for each in inputs_of(g)] == ["x"]


def test_an_input_with_a_sparse_initializer_needs_no_data():
    g = graph("g (float[N,3] x, float[3] w) => (float[N,3] z) { z = Mul(x, w) }")
    g.sparse_initializer.add().values.name = "w"
    assert [each.name for each in inputs_of(g)] == ["x"]


def test_unknown_rank_and_negative_lengths():
    g = graph("g (float[2,3] x, float[2,3] y) => (float[2,3] z) { z = Add(x, y) }")
    g.input[0].type.tensor_type.ClearField("shape")
    g.input[1].type.tensor_type.shape.dim[0].dim_value = -1
    assert [each.shape for each in inputs_of(g)] == [None, (None, 3)]


@pytest.mark.parametrize("kind", ["sequence_type", "optional_type", "map_type", "sparse_tensor_type"])
def test_inputs_that_are_no_tensors_are_refused(kind):
    g = onnx.GraphProto()
    value = g.input.add(name="x\x1b")
    getattr(value.type, kind).SetInParent()
    fails(ModelError, "'x\\x1b'", kind.split("_")[0], "only tensor inputs", call=lambda: inputs_of(g))


def test_inputs_without_usable_type_are_refused():
    g = onnx.GraphProto()
    value = g.input.add(name="x")
    fails(ModelError, "no type", call=lambda: inputs_of(g))
    value.type.tensor_type.elem_type = 99
    fails(ModelError, "element type 99", call=lambda: inputs_of(g))
    value.type.tensor_type.elem_type = F
    value.type.tensor_type.shape.dim.add().dim_value = 0
    fails(ModelError, "length 0", call=lambda: inputs_of(g))
    value.type.tensor_type.shape.dim[0].dim_value = 2
    g.input.add().CopyFrom(value)
    fails(ModelError, "two inputs named 'x'", call=lambda: inputs_of(g))


# single files


def test_npy(tmp_path):
    data = normal(8, 3)
    path = save(tmp_path / "a.npy", data)
    batches = from_paths(ONE, [path])
    assert len(batches) == 1
    assert batches.samples == 8
    assert batches.notes == ()
    np.testing.assert_array_equal(batches[0]["x"], data)
    assert batches.sources == (Source("npy", ("x",), 1, path),)
    with pytest.raises(IndexError):
        batches[1]


def test_large_npy_is_mapped_not_read(tmp_path):
    path = tmp_path / "a.npy"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (1 << 33, 3)})
    with path.open("wb") as file:
        file.write(header.getvalue())
        file.truncate(len(header.getvalue()) + 3 * (1 << 33))  # sparse: 24 GB that take no room
    batches = from_paths((Input("x", TensorProto.UINT8, ("N", 3)),), [str(path)], batch_size=4, samples=8)
    assert lengths(batches) == [4, 4]


def test_npz_by_input_name(tmp_path):
    x, y = normal(4, 3), np.arange(8).reshape(4, 2)
    for save_npz in (np.savez, np.savez_compressed):
        save_npz(tmp_path / "a.npz", x=x, y=y)
        batches = from_paths(TWO, [str(tmp_path / "a.npz")], batch_size=2)
        assert len(batches) == 2
        np.testing.assert_array_equal(np.concatenate([b["x"] for b in batches]), x)
        np.testing.assert_array_equal(np.concatenate([b["y"] for b in batches]), y)


def test_npz_with_one_array_of_another_name(tmp_path):
    np.savez(tmp_path / "a.npz", normal(4, 3))
    assert len(from_paths(ONE, [str(tmp_path / "a.npz")])) == 1
    fails(DataError, "'arr_0'", "'x', 'y'", call=lambda: from_paths(TWO, [str(tmp_path / "a.npz")]))


def test_npz_names_with_slashes_where_the_model_has_them(tmp_path):
    inputs = (Input("gpu_0/data", F, ("N", 3)),)
    for save_npz in (np.savez, np.savez_compressed):
        save_npz(tmp_path / "a.npz", **{"gpu_0/data": normal(4, 3)})
        np.testing.assert_array_equal(from_paths(inputs, [str(tmp_path / "a.npz")])[0]["gpu_0/data"], normal(4, 3))


def test_npz_named_takes_one_array_alone(tmp_path):
    np.savez(tmp_path / "a.npz", x=normal(4, 3), label=np.arange(4))
    message = fails(DataError, "'label'", "NAME=PATH", call=lambda: from_paths(ONE, [str(tmp_path / "a.npz")]))
    assert "input that needs data is 'x'" in message
    assert lengths(from_paths(ONE, [f"x={tmp_path / 'a.npz'}"])) == [4]
    np.savez(tmp_path / "a.npz", a=normal(4, 3), b=np.arange(4))
    fails(DataError, "has to hold an array 'x'", "'a', 'b'", call=lambda: from_paths(ONE, [f"x={tmp_path / 'a.npz'}"]))


def test_unknown_name_says_what_was_meant(tmp_path):
    np.savez(tmp_path / "a.npz", image=normal(4, 3), mask=normal(4, 3))
    inputs = (Input("images", F, ("N", 3)), Input("mask", F, ("N", 3)))
    fails(
        DataError, "'image'", "did you mean 'images'?", "'mask'", call=lambda: from_paths(inputs, [f"{tmp_path}/a.npz"])
    )
    fails(DataError, "'imgaes'", "did you mean 'images'?", call=lambda: from_paths(inputs, ["imgaes=a.npy"]))


@pytest.mark.parametrize("member", ["../../evil.npy", "/etc/x.npy", "..\\x.npy", "C:x.npy", "a/b.npy"])
def test_npz_members_with_paths_are_refused(tmp_path, member):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr(member, b"")
    fails(DataError, "is a path", call=lambda: from_paths(ONE, [f"x={tmp_path}/a.npz"]))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_npz_members_that_are_no_arrays(tmp_path):
    array = io.BytesIO()
    np.save(array, normal(4, 3))
    path = tmp_path / "a.npz"

    def write(*members: tuple[str, bytes]) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members:
                archive.writestr(name, content)

    def read() -> Batches:
        return from_paths(ONE, [str(path)])

    write(("x.npy", array.getvalue()), ("x.npy", array.getvalue()))
    fails(DataError, "two members 'x.npy'", call=read)
    write(("x.npy", array.getvalue()), ("readme.txt", b"hello"))
    fails(DataError, "'readme.txt'", "no .npy array", call=read)
    write(("x.npy", b"hello"))
    fails(DataError, "truncated or broken", call=read)
    write(("x.npy", array.getvalue()[:-1]))
    fails(DataError, "array 'x' of", "truncated", call=read)
    write()
    fails(DataError, "without arrays", call=read)
    write(("x.npy", array.getvalue()))
    content = bytearray(path.read_bytes())
    content[path.read_bytes().rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    fails(DataError, "encrypted", call=read)


def test_npz_bomb_is_refused_before_it_unpacks(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((1 << 20, 3), np.float32))
    assert (tmp_path / "a.npz").stat().st_size < 1 << 16
    fails(
        DataError,
        "12582912 bytes",
        "limit of 1000000",
        call=lambda: from_paths(ONE, [str(tmp_path / "a.npz")], limit_bytes=1_000_000),
    )


def test_npz_with_broken_contents(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x=normal(1000, 3))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[5000:5100] = bytes(100)
    (tmp_path / "a.npz").write_bytes(content)
    fails(DataError, "cannot be unpacked", call=lambda: from_paths(ONE, [str(tmp_path / "a.npz")]))
    (tmp_path / "a.npz").write_bytes(content[:3000])
    fails(DataError, "truncated", call=lambda: from_paths(ONE, [str(tmp_path / "a.npz")]))


def test_safetensors(tmp_path):
    x, y = normal(4, 3), np.arange(8).reshape(4, 2)
    save_file({"y": y, "x": x}, tmp_path / "a.safetensors", metadata={"made": "by"})
    batches = from_paths(TWO, [str(tmp_path / "a.safetensors")])
    np.testing.assert_array_equal(batches[0]["x"], x)
    np.testing.assert_array_equal(batches[0]["y"], y)


def test_safetensors_unaligned_values_come_out_aligned(tmp_path):
    inputs = (Input("a", TensorProto.UINT8, ("N",)), Input("x", F, ("M", 3)))
    header = {
        "a": {"dtype": "U8", "shape": [5], "data_offsets": [0, 5]},
        "x": {"dtype": "F32", "shape": [2, 3], "data_offsets": [5, 29]},
    }
    text = json.dumps(header).encode()
    content = struct.pack("<Q", len(text)) + text + bytes(5) + normal(2, 3).tobytes()
    (tmp_path / "a.safetensors").write_bytes(content)
    x = from_paths(inputs, [str(tmp_path / "a.safetensors")])[0]["x"]
    assert x.flags.aligned
    np.testing.assert_array_equal(x, normal(2, 3))


X_ENTRY = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


@pytest.mark.parametrize(
    ("header", "size", "word"),
    [
        ({"x": X_ENTRY}, 23, "tells of"),
        ({"x": X_ENTRY}, 25, "tells of"),
        ({"x": X_ENTRY | {"data_offsets": [4, 28]}}, 28, "gap"),
        ({"x": X_ENTRY, "y": X_ENTRY}, 24, "overlap"),
        ({"x": X_ENTRY | {"shape": [2, 4]}}, 24, "bytes where its shape"),
        ({"x": X_ENTRY | {"shape": [-2, -3]}}, 24, "no count"),
        ({"x": X_ENTRY | {"shape": [True, 6]}}, 24, "no count"),
        ({"x": X_ENTRY | {"shape": [2, 3.0]}}, 24, "no count"),
        ({"x": X_ENTRY | {"dtype": "F4"}}, 24, "'F4'"),
        ({"x": X_ENTRY | {"dtype": "__class__"}}, 24, "not supported"),
        ({"x": {"dtype": "F32"}}, 24, "data_offsets"),
        ({"x": 3}, 24, "no valid"),
        ({}, 0, "no tensors"),
        ([], 0, "no JSON object"),
        (b"{", 0, "no valid"),
        (b'{"x": 1, "x": 2}', 0, "stands twice"),
        (b'{"x": NaN}', 0, "NaN in the header"),
        (b"[" * 100_000, 0, "no valid"),
        (b"\xff\xfe", 0, "no valid"),
    ],
)
def test_broken_safetensors(tmp_path, header, size, word):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(size))
    fails(DataError, word, ".safetensors", call=lambda: from_paths(ONE, [str(path)]))


def test_safetensors_with_an_impossible_header_length(tmp_path):
    path = tmp_path / "a.safetensors"
    for content in (struct.pack("<Q", 1 << 60) + b"{}", b"\x01\x02", struct.pack("<Q", 3) + b"{}"):
        path.write_bytes(content)
        fails(DataError, "a header of", call=lambda: from_paths(ONE, [str(path)]))


def test_pb(tmp_path):
    batches = from_paths(ONE, [save_pb(tmp_path / "a.pb", normal(4, 3))])
    np.testing.assert_array_equal(batches[0]["x"], normal(4, 3))
    path = save_pb(tmp_path / "b.pb", np.zeros((4, 2), np.int64), "y")
    assert len(from_paths(TWO, [path, str(tmp_path / "a.pb")])) == 1
    path = save_pb(tmp_path / "input_1.pb", np.zeros((4, 2), np.int64))
    assert len(from_paths(TWO, [path, str(tmp_path / "a.pb")])) == 1


def test_pb_with_text(tmp_path):
    path = save_pb(tmp_path / "a.pb", np.array(["a", "é"], dtype=object))
    assert from_paths((Input("x", STR, (None,)),), [path])[0]["x"].tolist() == ["a", "é"]


def test_broken_pb(tmp_path):
    path = tmp_path / "a.pb"

    def read() -> Batches:
        return from_paths(ONE, [str(path)])

    tensor = numpy_helper.from_array(normal(4, 3))
    path.write_bytes(tensor.SerializeToString()[:-5])
    fails(DataError, "TensorProto", call=read)
    tensor.raw_data = tensor.raw_data[:-4]
    path.write_bytes(tensor.SerializeToString())
    fails(DataError, "TensorProto", call=read)
    for number in (16, 18):
        small = TensorProto(dims=[4, 8], data_type=TensorProto.INT4, raw_data=bytes(number))
        path.write_bytes(small.SerializeToString())
        each, words = ((F, "holds int4"), (TensorProto.INT4, "TensorProto"))[number == 18]
        fails(DataError, words, call=lambda: from_paths((Input("x", each, ("N", 8)),), [str(path)]))  # noqa: B023
    tensor.dims[:] = [-4, -3]
    path.write_bytes(tensor.SerializeToString())
    fails(DataError, "negative", call=read)
    tensor = TensorProto(dims=[1 << 40, 3], data_type=F)
    path.write_bytes(tensor.SerializeToString())
    fails(DataError, "TensorProto", call=read)
    tensor = TensorProto(dims=[1, 3], data_type=F, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/passwd")
    path.write_bytes(tensor.SerializeToString())
    fails(DataError, "another file", call=read)
    path.write_bytes(onnx.ModelProto(ir_version=8, producer_name="p").SerializeToString())
    fails(DataError, "TensorProto", call=read)
    path.write_bytes(tensor.SerializeToString())
    fails(DataError, "limit of 5", call=lambda: from_paths(ONE, [str(path)], limit_bytes=5))


# files that are something else


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".pb"])
@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "is empty"),
        (b"1.0, 2.0\n3.0, 4.0\n", "is a text file"),
        (b"<!DOCTYPE html><html></html>", "HTML page"),
        (b"\n <html><body>404</body></html>", "HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "git lfs pull"),
        (gzip.compress(b"x"), "gzip file"),
        (pickle.dumps({"x": 1}), "pickle, which is never opened"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x00\x01\x02\xff" * 5, ""),
    ],
)
def test_files_that_are_something_else(tmp_path, suffix, content, word):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    fails(DataError, word, f"a{suffix}'", call=lambda: from_paths(ONE, [str(path)]))


def test_npy_and_npz_mistaken_for_one_another(tmp_path):
    np.savez(tmp_path / "a.npz", x=normal(4, 3))
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    fails(DataError, "zip archive", call=lambda: from_paths(ONE, [str(tmp_path / "a.npy")]))
    save(tmp_path / "b.npy", normal(4, 3))
    (tmp_path / "b.npy").rename(tmp_path / "b.npz")
    fails(DataError, "is a .npy file", call=lambda: from_paths(ONE, [str(tmp_path / "b.npz")]))


def npy_bytes(header: str, version: bytes = b"\x01\x00") -> bytes:
    text = header.encode() + b"\n"
    length = struct.pack("<H" if version == b"\x01\x00" else "<I", len(text))
    return b"\x93NUMPY" + version + length + text


@pytest.mark.parametrize(
    ("header", "word"),
    [
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776, 3), }", "is truncated"),
        (
            "{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775807, 9223372036854775807), }",
            "no array can have",
        ),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (-4, 3), }", "negative length"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': 4, }", "broken .npy header"),
        ("{'descr': 'nope', 'fortran_order': False, 'shape': (4,), }", "broken .npy header"),
        ("{'descr': '|U0', 'fortran_order': False, 'shape': (1099511627776,), }", "is truncated"),
        ("{'descr': '|O', 'fortran_order': False, 'shape': (4, 3), }", "Python objects"),
        ("{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (4, 3), }", "Python objects"),
        ("__import__('os').system('false')", "broken .npy header"),
        ("(" * 9000, "broken .npy header"),
        ("{" * 60000, "broken .npy header"),
        ("{'descr': '<f4'", "broken .npy header"),
    ],
)
@pytest.mark.parametrize("version", [b"\x01\x00", b"\x02\x00", b"\x03\x00"])
def test_hostile_npy_headers(tmp_path, header, word, version):
    path = tmp_path / "a.npy"
    path.write_bytes(npy_bytes(header, version))
    if "U0" in header:
        word = ""
    fails(DataError, word, call=lambda: from_paths(ONE, [str(path)]))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.write(path, "x.npy")
    fails(DataError, call=lambda: from_paths(ONE, [str(tmp_path / "a.npz")]))


def test_npy_of_unknown_version_and_with_trailing_bytes(tmp_path):
    path = tmp_path / "a.npy"
    path.write_bytes(npy_bytes("{}", b"\x07\x00"))
    fails(DataError, "version (7, 0)", call=lambda: from_paths(ONE, [str(path)]))
    with path.open("wb") as file:
        np.save(file, normal(4, 3))
        np.save(file, normal(4, 3))
    fails(DataError, "bytes behind its array", call=lambda: from_paths(ONE, [str(path)]))


def test_newer_npy_versions_are_read(tmp_path):
    for version in (b"\x02\x00", b"\x03\x00"):
        header = npy_bytes("{'descr': '<f4', 'fortran_order': False, 'shape': (4, 3), }", version)
        (tmp_path / "a.npy").write_bytes(header + normal(4, 3).tobytes())
        np.testing.assert_array_equal(from_paths(ONE, [str(tmp_path / "a.npy")])[0]["x"], normal(4, 3))


def test_objects_are_never_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "gone off"),)

    np.save(tmp_path / "a.npy", np.array([Bomb(), 1], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "b.npz", x=np.array([Bomb(), 1], dtype=object))
    for inputs in (ONE, (Input("x", STR, (None,)),)):
        for name in ("a.npy", "b.npz"):
            fails(DataError, "Python objects", call=lambda: from_paths(inputs, [str(tmp_path / name)]))  # noqa: B023
    assert not (tmp_path / "gone off").exists()


def test_paths_that_are_no_data_files(tmp_path):
    fails(DataError, "is missing", call=lambda: from_paths(ONE, [str(tmp_path / "a.npy")]))
    fails(DataError, "null byte", call=lambda: from_paths(ONE, ["a\0.npy"]))
    (tmp_path / "a.txt").write_text("1,2")
    fails(DataError, "a.txt", "table or text", "a.npy", call=lambda: from_paths(ONE, [str(tmp_path / "a.txt")]))
    fails(DataError, "\\x1b[31m", call=lambda: from_paths(ONE, ["\x1b[31m\u202e.npy"]))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.npy")
    fails(DataError, "no regular file", call=lambda: from_paths(ONE, [str(tmp_path / "pipe.npy")]))


# folders


def test_folder_in_natural_order(tmp_path):
    for number in (10, 2, 1):
        save(tmp_path / f"b{number}.npy", np.full((number, 3), number, np.float32))
    save(tmp_path / ".hidden.npy", normal(1, 7))
    (tmp_path / "sub").mkdir()
    batches = from_paths(ONE, [str(tmp_path)])
    assert lengths(batches) == [1, 2, 10]
    assert batches.samples == 13
    assert batches.describe()["sources"] == [
        {"kind": "folder of npy", "inputs": ["x"], "path": str(tmp_path), "files": 3}
    ]


def test_folder_of_keyed_files(tmp_path):
    for number in range(3):
        np.savez_compressed(tmp_path / f"{number}.npz", x=normal(4, 3, seed=number), y=np.full((4, 2), number))
    batches = from_paths(TWO, [str(tmp_path)])
    assert [int(batch["y"][0, 0]) for batch in batches] == [0, 1, 2]
    np.testing.assert_array_equal(batches[2]["x"], normal(4, 3, seed=2))
    np.savez(tmp_path / "3.npz", x=normal(4, 3))
    fails(DataError, "3.npz", "same inputs", call=lambda: from_paths(TWO, [str(tmp_path)]))


def test_folder_named_for_one_input(tmp_path):
    for number in range(3):
        save(tmp_path / "x" / f"{number}.npy", normal(4, 3))
        save(tmp_path / "y" / f"{number}.npy", np.zeros((4, 2), np.int64))
    assert len(from_paths(TWO, [f"y={tmp_path}/y", f"{tmp_path}/x"])) == 3
    save(tmp_path / "y" / "3.npy", np.zeros((4, 2), np.int64))
    fails(DataError, "'y' has 4", "'x' has 3", call=lambda: from_paths(TWO, [f"y={tmp_path}/y", f"{tmp_path}/x"]))


def test_onnx_test_data_sets(tmp_path):
    for number in (0, 2, 10):
        save_pb(tmp_path / f"test_data_set_{number}" / "input_0.pb", np.full((4, 3), number, np.float32), "any")
        save_pb(tmp_path / f"test_data_set_{number}" / "input_1.pb", np.full((4, 2), number))
        save_pb(tmp_path / f"test_data_set_{number}" / "output_0.pb", normal(4, 9))
    (tmp_path / "model.onnx").write_bytes(b"")
    batches = from_paths(TWO, [str(tmp_path)])
    assert [int(batch["y"][0, 0]) for batch in batches] == [0, 2, 10]
    assert batches.sources[0].kind == "test data sets"
    one = from_paths(TWO, [str(tmp_path / "test_data_set_2")])
    assert len(one) == 1
    assert one[0]["x"][0, 0] == 2
    save_pb(tmp_path / "test_data_set_2" / "input_2.pb", normal(4, 9))
    fails(DataError, "number 2", "has 2", call=lambda: from_paths(TWO, [str(tmp_path)]))
    (tmp_path / "test_data_set_2" / "input_2.pb").unlink()
    (tmp_path / "test_data_set_2" / "input_1.pb").unlink()
    fails(DataError, "test_data_set_2", "same inputs", call=lambda: from_paths(TWO, [str(tmp_path)]))
    (tmp_path / "test_data_set_2" / "input_0.pb").unlink()
    fails(DataError, "test_data_set_2", "no input_K.pb", call=lambda: from_paths(TWO, [str(tmp_path)]))


def test_test_tensors_that_bear_the_models_names(tmp_path):
    save_pb(tmp_path / "input_0.pb", np.zeros((4, 2), np.int64), "y")
    save_pb(tmp_path / "input_1.pb", normal(4, 3), "x")
    assert from_paths(TWO, [str(tmp_path)])[0]["y"].shape == (4, 2)
    save_pb(tmp_path / "input_1.pb", normal(4, 3), "y")
    fails(DataError, "two arrays for input 'y'", call=lambda: from_paths(TWO, [str(tmp_path)]))


def test_folders_without_usable_files(tmp_path):
    def read() -> Batches:
        return from_paths(ONE, [str(tmp_path)])

    fails(DataError, "holds nothing", ".safetensors", call=read)
    (tmp_path / "a.jpg").write_bytes(b"")
    save_pb(tmp_path / "output_0.pb", normal(4, 3))
    fails(DataError, "a.jpg' fits no input", call=read)
    save(tmp_path / "a.npy", normal(4, 3))
    batches = read()
    assert any("1 other file" in note and "'a.jpg'" in note for note in batches.notes)
    np.savez(tmp_path / "b.npz", x=normal(4, 3))
    fails(DataError, ".npy and .npz", "one format", call=read)
    (tmp_path / "a.npy").unlink()
    (tmp_path / "b.npz").unlink()
    save_pb(tmp_path / "input_0.pb", normal(4, 3))
    save_pb(tmp_path / "more.pb", normal(4, 3))
    fails(DataError, "'more.pb'", "keep either", call=read)


def test_a_folder_of_many_files_is_read_file_by_file(tmp_path):
    for number in range(300):
        save(tmp_path / f"{number}.npy", normal(1, 3, seed=number))
    batches = from_paths(ONE, [str(tmp_path)])
    assert len(batches) == 300
    np.testing.assert_array_equal(batches[299]["x"], normal(1, 3, seed=299))


def test_a_file_that_changes_between_header_and_values(tmp_path, monkeypatch):
    monkeypatch.setattr("onnx_lsuv.batches.memory.SMALL", 0)  # what is small is read once
    (tmp_path / "z").mkdir()
    for number in range(2):
        save(tmp_path / f"{number}.npy", normal(4, 3))
        np.savez_compressed(tmp_path / "z" / f"{number}.npz", x=normal(4, 3))
    plain, packed = from_paths(ONE, [str(tmp_path)]), from_paths(ONE, [str(tmp_path / "z")])
    (tmp_path / "1.npy").write_bytes(b"short")
    fails(DataError, "1.npy", call=lambda: plain[1])
    np.savez_compressed(tmp_path / "z" / "1.npz", x=normal(5, 3))
    fails(DataError, "changed", call=lambda: packed[1])


# NAME=PATH


def test_names_and_paths_with_equals_signs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "lr=1.npy", normal(4, 3))
    assert lengths(from_paths(ONE, ["lr=1.npy"])) == [4]
    assert lengths(from_paths(ONE, ["x=lr=1.npy"])) == [4]
    assert lengths(from_paths((Input("a=b", F, ("N", 3)),), ["a=b=lr=1.npy"]), "a=b") == [4]
    fails(DataError, "missing", call=lambda: from_paths(ONE, ["./lr=2.npy"]))


def test_options_that_do_not_go_together(tmp_path):
    x = save(tmp_path / "x.npy", normal(4, 3))
    fails(UsageError, "lacks the name", call=lambda: from_paths(ONE, ["=a.npy"]))
    fails(UsageError, "lacks the path", call=lambda: from_paths(ONE, ["x="]))
    fails(UsageError, "empty", call=lambda: from_paths(ONE, [""]))
    fails(UsageError, "'x' is given data twice", call=lambda: from_paths(ONE, [f"x={x}", f"x={x}"]))
    fails(UsageError, "'x' is given data twice", call=lambda: from_paths(ONE, [x, x]))
    fails(UsageError, "'x', 'y' still need data", "NAME=", call=lambda: from_paths(TWO, [x]))
    fails(UsageError, "no input that needs data", call=lambda: from_paths((), [x]))
    fails(UsageError, "batch size of 0", call=lambda: from_paths(ONE, [x], batch_size=0))
    fails(UsageError, "number of samples of -1", call=lambda: from_paths(ONE, [x], samples=-1))


def test_arrays_without_names_go_to_the_inputs_in_their_order(tmp_path):
    x, y = save(tmp_path / "b.npy", normal(4, 3)), save(tmp_path / "a.npy", np.ones((4, 2), np.int64))
    batches = from_paths(TWO, [x, y])
    np.testing.assert_array_equal(batches[0]["x"], np.load(x))
    np.testing.assert_array_equal(batches[0]["y"], np.load(y))
    assert [note for note in batches.notes if "order" in note] == [
        f"input {name!r} was given {str(path)!r}, by the order of the inputs" for name, path in (("x", x), ("y", y))
    ]
    assert [source.inputs for source in batches.sources] == [("x",), ("y",)]
    # Where they do not fit so, nobody guesses.
    fails(UsageError, "in their order", "a.npy' (int64 [4, 2]) does not fit 'x'", call=lambda: from_paths(TWO, [y, x]))
    three = (*TWO, Input("z", F, None))
    fails(UsageError, "'x', 'y', 'z' still need data", "NAME=", call=lambda: from_paths(three, [x, y]))
    named = from_paths(three, [x, f"y={y}", x])
    np.testing.assert_array_equal(named[0]["z"], np.load(x))
    floats = (Input("x", F, ("N", 3)), Input("ids", onnx.TensorProto.INT64, ("N", 3)))
    fails(UsageError, "does not fit 'ids' (int64 [N, 3])", call=lambda: from_paths(floats, [x, x]))


def test_an_unnamed_array_too_many(tmp_path):
    x, y = save(tmp_path / "x.npy", normal(4, 3)), save(tmp_path / "y.npy", np.zeros((4, 2), np.int64))
    assert len(from_paths(TWO, [x, f"y={y}"])) == 1
    fails(UsageError, "every input already has data", call=lambda: from_paths(TWO, [x, f"y={y}", x]))


def test_missing_inputs(tmp_path):
    x = save(tmp_path / "x.npy", normal(4, 3))
    fails(DataError, "'y' (int64 [N, 2])", "--data y=PATH", call=lambda: from_paths(TWO, [f"x={x}"]))
    fails(DataError, "inputs 'x' (float [N, 3]), 'y'", call=lambda: from_paths(TWO, []))


def test_a_model_without_inputs_has_one_empty_batch():
    for batches in (from_paths((), []), from_arrays((), {}), from_random((), {}, seed=0)):
        assert list(batches) == [{}]
        assert batches.samples is None
        json.dumps(batches.describe())


# shapes and batches


def test_dynamic_batch_axis():
    assert lengths(from_arrays(ONE, {"x": normal(10, 3)})) == [10]
    batches = from_arrays(ONE, {"x": normal(10, 3)}, batch_size=4)
    assert lengths(batches) == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate([batch["x"] for batch in batches]), normal(10, 3))
    assert lengths(from_arrays(ONE, {"x": normal(10, 3)}, batch_size=99)) == [10]
    assert batches.describe()["inputs"]["x"]["batches"] == 3


def test_samples_limit_the_data():
    data = {"x": normal(10, 3), "y": np.arange(20).reshape(10, 2)}
    assert lengths(from_arrays(TWO, data, samples=6)) == [6]
    assert lengths(from_arrays(TWO, data, samples=6, batch_size=4), "y") == [4, 2]
    assert lengths(from_arrays(TWO, data, samples=8, batch_size=4), "y") == [4, 4]
    assert lengths(from_arrays(TWO, data, samples=99)) == [10]
    folder = [{"x": normal(4, 3), "y": np.zeros((4, 2), int)} for _ in range(3)]
    limited = from_arrays(TWO, folder, samples=5)
    assert lengths(limited) == lengths(limited, "y") == [4, 1]
    assert limited.samples == 5
    spoilt = normal(10, 3)
    spoilt[7] = np.nan
    assert from_arrays(ONE, {"x": spoilt}, samples=7).samples == 7  # what is left out may be anything


def test_fixed_batch_axis():
    batches = from_arrays(FIXED, {"x": normal(12, 3)})
    assert lengths(batches) == [4, 4, 4]
    assert batches.samples == 12
    assert lengths(from_arrays(FIXED, {"x": normal(12, 3)}, batch_size=4)) == [4, 4, 4]
    assert lengths(from_arrays(FIXED, {"x": normal(12, 3)}, samples=8)) == [4, 4]
    assert lengths(from_arrays(FIXED, {"x": normal(14, 3)}, samples=8)) == [4, 4]
    assert lengths(from_arrays(FIXED, [{"x": normal(8, 3)}, {"x": normal(4, 3)}])) == [4, 4, 4]


def test_remainders_of_a_fixed_batch_axis():
    fails(
        DataError,
        "10 samples",
        "batches of 4",
        "give 8 or 12",
        "dynamic batch axis",
        call=lambda: from_arrays(FIXED, {"x": normal(10, 3)}),
    )
    fails(DataError, "3 samples", "give 4,", call=lambda: from_arrays(FIXED, {"x": normal(3, 3)}))
    fails(
        DataError,
        "7 samples that were asked for",
        "give 4 or 8",
        call=lambda: from_arrays(FIXED, {"x": normal(12, 3)}, samples=7),
    )
    fails(
        DataError,
        "multiples of 4 in every file",
        call=lambda: from_arrays(FIXED, [{"x": normal(6, 3)}, {"x": normal(6, 3)}]),
    )
    fails(DataError, "give 4", call=lambda: from_arrays(FIXED, {"x": normal(4, 3)}, samples=3))


def test_a_batch_size_against_a_fixed_axis():
    for rows in (4, 8):
        fails(
            DataError,
            "batch size of 2",
            "fixed",
            "[4, 3]",
            call=lambda: from_arrays(FIXED, {"x": normal(rows, 3)}, batch_size=2),  # noqa: B023
        )


def test_inputs_without_a_sample_axis_go_with_every_batch():
    inputs = (Input("x", F, (1, 5)), Input("state", F, (2, 1, 3)), Input("sr", I64, ()))
    state = normal(2, 1, 3)
    batches = from_arrays(inputs, {"x": normal(4, 5), "state": state, "sr": np.array(16000)})
    assert len(batches) == batches.samples == 4
    for batch in batches:
        np.testing.assert_array_equal(batch["state"], state)
        assert batch["sr"].shape == ()
        assert batch["sr"] == 16000
    told = batches.describe()["inputs"]
    assert told["state"]["batches"] == told["sr"]["batches"] == 1
    assert told["state"]["values"] == 6
    assert len(from_arrays(inputs, {"x": normal(4, 5), "state": state, "sr": np.array(1)}, samples=2)) == 2
    assert len(from_arrays(inputs, {"x": normal(4, 5), "state": state, "sr": np.array(1)}, batch_size=1)) == 4
    single = [{"x": normal(1, 5), "state": state, "sr": np.array(1)}] * 3
    assert len(from_arrays(inputs, single, samples=2)) == 2
    assert from_arrays(inputs, single).samples == 3


def test_a_state_next_to_a_dynamic_batch_axis():
    inputs = (Input("state", F, (2, 1, 3)), X)
    data = {"x": normal(10, 3), "state": normal(2, 1, 3)}
    assert lengths(from_arrays(inputs, data, batch_size=4)) == [4, 4, 2]
    assert lengths(from_arrays(inputs, data, samples=1)) == [1]
    assert from_arrays(inputs, data).samples == 10


def test_a_single_array_goes_with_a_folder_of_batches(tmp_path):
    inputs = (X, Input("table", F, ("M", 2)))
    for number in range(3):
        save(tmp_path / "x" / f"{number}.npy", normal(4, 3))
    table = save(tmp_path / "t.npy", normal(7, 2))
    assert lengths(from_paths(inputs, [f"x={tmp_path}/x", f"table={table}"]), "table") == [7, 7, 7]


def test_an_axis_more_than_a_fixed_shape_counts_batches(tmp_path):
    # The second and the last are models without a batch axis, as their outputs say.
    cases = [((1, 3), (1, 1)), ((3,), (1,)), ((4, 3), (4, 1)), ((3, 5, 5), (10,))]
    for shape, output in cases:
        graph = onnx.helper.make_graph(
            [],
            "g",
            [onnx.helper.make_tensor_value_info("x", F, shape)],
            [onnx.helper.make_tensor_value_info("z", F, output)],
        )
        array = normal(5, *shape)
        inputs, per = inputs_of(graph), 4 if shape == (4, 3) else 1
        np.savez_compressed(tmp_path / "x.npz", x=array)
        for batches in (from_arrays(inputs, {"x": array}), from_paths(inputs, [str(tmp_path / "x.npz")])):
            assert batches.samples == 5 * per
            for batch, expected in zip(batches, array, strict=True):
                np.testing.assert_array_equal(batch["x"], expected)
        assert len(from_arrays(inputs, {"x": array}, samples=2 * per)) == 2
        assert batches.describe()["inputs"]["x"]["shape"] == list(shape)
    several = (Input("x", F, (1, "T", 3)), Input("sr", I64, ()))
    batches = from_arrays(several, {"x": normal(6, 1, 7, 3), "sr": np.arange(6)})
    assert [(batch["x"].shape, int(batch["sr"])) for batch in batches] == [((1, 7, 3), k) for k in range(6)]
    fails(DataError, "one axis more", call=lambda: from_arrays(ONE, {"x": normal(6, 1, 3)}))
    fails(DataError, "[1, T, 3]", call=lambda: from_arrays(several[:1], {"x": normal(6, 2, 7, 3)}))


def test_a_batch_without_an_axis_that_counts_is_one_sample():
    lone = (Input("x", F, (3, 5, 5), counts=False),)
    assert from_arrays(lone, {"x": normal(3, 5, 5)}).samples == 1
    folder = [{"x": normal(3, 5, 5, seed=k)} for k in range(4)]
    assert from_arrays(lone, folder).samples == 4
    assert len(from_arrays(lone, folder, samples=3)) == 3


def test_which_fixed_first_axis_counts_samples():
    def counts(text: str) -> list[bool]:
        return [each.counts for each in inputs_of(graph(f"g {text} {{ z = Identity(x) }}"))]

    assert counts("(float[16] x) => (float[1] z)") == [False]
    assert counts("(float[3,8,8] x) => (float[10] z)") == [False]
    assert counts("(float[3,8,8] x) => (float z)") == [True]  # a mean
    assert counts("(float[4,8] x) => (float[N] z)") == [True]
    assert counts("(float[4,8] x) => (float[4,2] z)") == [True]
    assert counts("(float[4,10,8] x) => (float[40,2] z)") == [True]  # batch and sequence in one
    assert counts("(float[N,8] x) => (float[1] z)") == [True]


def test_samples_need_an_axis_that_counts_them():
    inputs = (Input("sr", F, ()),)
    assert from_arrays(inputs, {"sr": np.float32(3)}).samples is None
    fails(UsageError, "no input has an axis", call=lambda: from_arrays(inputs, {"sr": np.float32(3)}, samples=2))


def test_inputs_have_to_agree_on_the_number_of_batches():
    inputs = (Input("x", F, (1, 3)), Input("y", F, (2, 3)))
    assert len(from_arrays(inputs, {"x": normal(4, 3), "y": normal(8, 3)})) == 4
    fails(DataError, "'y' has 3", "'x' has 4", call=lambda: from_arrays(inputs, {"x": normal(4, 3), "y": normal(6, 3)}))


def test_a_dynamic_input_is_cut_like_the_fixed_one_beside_it():
    inputs = (Input("x", F, (1, 3)), Input("y", F, (None, 2)))
    batches = from_arrays(inputs, {"x": normal(4, 3), "y": normal(4, 2)})
    assert lengths(batches, "y") == [1, 1, 1, 1]
    fails(
        DataError, "'y' has 5 and 'x' has 4", call=lambda: from_arrays(inputs, {"x": normal(4, 3), "y": normal(5, 2)})
    )


def test_one_name_is_one_length():
    two = {"x": normal(4, 3), "y": np.zeros((5, 2), int)}
    fails(DataError, "'N'", "4 and 5", call=lambda: from_arrays(TWO, two))
    fails(DataError, "same number of samples", call=lambda: from_arrays(TWO, two, batch_size=2))
    inputs = (X, Input("h", F, (2, "N", 3)))
    data = {"x": normal(4, 3), "h": normal(2, 4, 3)}
    assert len(from_arrays(inputs, data)) == 1
    fails(DataError, "axis 1 of 'h'", call=lambda: from_arrays(inputs, data, batch_size=2))
    loose = (Input("x", F, ("None", 3)), Input("y", F, ("None", 2)))
    assert len(from_arrays(loose, {"x": normal(4, 3), "y": normal(5, 2)})) == 1


def test_unknown_rank():
    inputs = (Input("x", F, None),)
    assert lengths(from_arrays(inputs, {"x": normal(4, 2, 5)}, batch_size=3)) == [3, 1]
    assert from_arrays(inputs, {"x": np.float32(3)})[0]["x"].shape == ()


def test_shapes_that_do_not_fit():
    def read(inputs, *shape):
        return lambda: from_arrays(inputs, {"x": normal(*shape)})

    fails(DataError, "[N, 3]", "[4, 5]", "axis 1 has to be 3, not 5", call=read(ONE, 4, 5))
    fails(DataError, "[N, 3, 8, 8]", "[3, 8, 8]", "batch axis is missing", "x[None]", call=read(IMAGE, 3, 8, 8))
    fails(DataError, "one axis more", "x[0]", call=read(IMAGE, 1, 2, 3, 8, 8))
    fails(DataError, "one axis more", "folder", call=read(IMAGE, 5, 2, 3, 8, 8))
    fails(DataError, "expected 4 axes, found 2", call=read(IMAGE, 5, 5))
    fails(DataError, "NHWC", "x.transpose(0, 3, 1, 2)", call=read(IMAGE, 5, 8, 8, 3))
    last = (Input("x", F, ("N", 8, 8, 3)),)
    fails(DataError, "NCHW", "x.transpose(0, 2, 3, 1)", call=read(last, 5, 3, 8, 8))
    fails(DataError, "in batch 0", "expected 2 axes, found 0", call=read(ONE))


def test_empty_data():
    fails(DataError, "no samples", "[0, 3]", call=lambda: from_arrays(ONE, {"x": normal(0, 3)}))
    fails(DataError, "no values", call=lambda: from_arrays((Input("x", F, ("N", None)),), {"x": normal(4, 0)}))
    past = (X, Input("past", F, ("N", "P", 3)))  # a decoder's past is empty at its first step
    batches = from_arrays(past, {"x": normal(4, 3), "past": normal(4, 0, 3)})
    assert batches[0]["past"].shape == (4, 0, 3)
    fails(DataError, "at least one batch", call=lambda: from_arrays(ONE, []))


def test_the_first_samples_of_billions_are_found_at_once():
    huge = np.broadcast_to(np.float32(1), (1 << 33, 3))
    assert lengths(from_arrays(ONE, {"x": huge}, batch_size=1, samples=2)) == [1, 1]


def test_batches_go_straight_into_onnx_runtime():
    runtime = pytest.importorskip("onnxruntime")
    g = graph("g (float[N,3] x, int64[N,2] y) => (float[N,3] z, int64[N,2] w) { z = Identity(x) w = Identity(y) }")
    model = onnx.helper.make_model(g, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    data = {"x": normal(4, 3).astype(">f8"), "y": np.arange(8, dtype=">i4").reshape(4, 2)}
    for batch in from_arrays(inputs_of(g), data, batch_size=2):
        z, w = session.run(None, dict(batch))
        np.testing.assert_array_equal(z, batch["x"])
        np.testing.assert_array_equal(w, batch["y"])


# values


@pytest.mark.parametrize(
    ("have", "elem_type", "want"),
    [
        ("f8", F, "f4"),
        ("f2", F, "f4"),
        ("f4", TensorProto.DOUBLE, "f8"),
        ("f4", TensorProto.FLOAT16, "f2"),
        ("f4", TensorProto.BFLOAT16, ml_dtypes.bfloat16),
        (ml_dtypes.bfloat16, F, "f4"),
        ("i4", I64, "i8"),
        ("i8", I32, "i4"),
        ("u1", I64, "i8"),
        ("i8", F, "f4"),
        ("?", F, "f4"),
        ("?", I64, "i8"),
    ],
)
def test_safe_conversions_are_made_and_told(have, elem_type, want):
    data = np.array([[-1, 1, 0], [1, -1, 1]]).astype(have)
    batches = from_arrays((Input("x", elem_type, ("N", 3)),), {"x": data})
    result = batches[0]["x"]
    assert result.dtype == np.dtype(want)
    assert result.astype(float).tolist() == data.astype(float).tolist()
    assert any("is converted from" in note and str(np.dtype(have)) in note for note in batches.notes)


@pytest.mark.parametrize(
    ("have", "elem_type", "words"),
    [
        ("f4", I64, ("float32", "int64", "astype('int64')")),
        ("f4", BOOL, ("float32", "bool", "x != 0")),
        ("i8", BOOL, ("int64", "bool")),
        ("c8", F, ("complex64", "float", "real part")),
        ("S3", F, ("text", "numbers")),
        ("U3", F, ("text", "numbers")),
        ("V4", F, ("raw bytes",)),
        ([("a", "f4")], F, ("structured",)),
        ("M8[s]", F, ("datetime64",)),
        ("f4", STR, ("float32", "string", "astype(str)")),
        ("f4", TensorProto.COMPLEX64, ("float32", "complex64")),
        ("f4", TensorProto.FLOAT8E4M3FN, ("float32", "float8")),
        (ml_dtypes.float8_e4m3fn, F, ("float8",)),
        (ml_dtypes.int4, F, ("int4",)),
        (ml_dtypes.uint4, I64, ("uint4",)),
        ("O", F, ("Python objects",)),
    ],
)
def test_other_conversions_are_refused(have, elem_type, words):
    inputs = (Input("x", elem_type, ("N", 3)),)
    fails(DataError, "'x'", *words, call=lambda: from_arrays(inputs, {"x": np.zeros((2, 3), have)}))


@pytest.mark.parametrize("elem_type", [BOOL, TensorProto.COMPLEX64, TensorProto.COMPLEX128, TensorProto.INT4])
def test_other_types_pass_as_they_are(elem_type):
    dtype = onnx.helper.tensor_dtype_to_np_dtype(elem_type)
    batches = from_arrays((Input("x", elem_type, ("N", 3)),), {"x": np.ones((2, 3), dtype)})
    assert batches[0]["x"].dtype == dtype
    assert batches.notes == ()
    json.dumps(batches.describe())


def test_memory_order_and_byte_order(tmp_path):
    data = normal(6, 3)
    for array in (data.astype(">f4"), np.asfortranarray(data), np.repeat(data, 2, axis=0)[::2]):
        for batches in (
            from_arrays(ONE, {"x": array}, batch_size=4),
            from_paths(ONE, [save(tmp_path / "a.npy", array)], batch_size=4),
        ):
            assert batches.notes == ()
            for batch, part in zip(batches, (data[:4], data[4:]), strict=True):
                assert batch["x"].flags.c_contiguous
                assert batch["x"].dtype == np.float32
                assert batch["x"].dtype.isnative
                np.testing.assert_array_equal(batch["x"], part)
    np.savez_compressed(tmp_path / "a.npz", x=np.asfortranarray(data))
    np.testing.assert_array_equal(from_paths(ONE, [str(tmp_path / "a.npz")])[0]["x"], data)


def test_arrays_that_fit_are_not_copied():
    data = normal(6, 3)
    assert np.shares_memory(from_arrays(ONE, {"x": data})[0]["x"], data)


def test_bfloat16_as_numpy_saves_it(tmp_path):
    data = normal(4, 3).astype(ml_dtypes.bfloat16)
    batches = from_paths((Input("x", TensorProto.BFLOAT16, ("N", 3)),), [save(tmp_path / "a.npy", data)])
    assert batches[0]["x"].dtype == data.dtype
    np.testing.assert_array_equal(batches[0]["x"].astype(np.float32), data.astype(np.float32))
    assert any("raw bytes" in note for note in batches.notes)
    save_file({"x": data}, tmp_path / "a.safetensors")
    batches = from_paths((Input("x", TensorProto.BFLOAT16, ("N", 3)),), [str(tmp_path / "a.safetensors")])
    np.testing.assert_array_equal(batches[0]["x"].astype(np.float32), data.astype(np.float32))


def test_bools_in_files_with_other_bytes_than_0_and_1(tmp_path):
    path = tmp_path / "a.npy"
    header = npy_bytes("{'descr': '|b1', 'fortran_order': False, 'shape': (3,), }")
    path.write_bytes(header + b"\x00\x01\x07")
    batch = from_paths((Input("x", BOOL, (None,)),), [str(path)])[0]
    assert batch["x"].view(np.uint8).tolist() == [0, 1, 1]


def test_integers_that_do_not_fit():
    inputs = (Input("x", I32, (None,)),)
    fails(DataError, "3000000000", "int32", call=lambda: from_arrays(inputs, {"x": np.array([1, 3_000_000_000])}))
    unsigned = (Input("x", TensorProto.UINT8, (None,)),)
    fails(DataError, "-1", "uint8", call=lambda: from_arrays(unsigned, {"x": np.array([1, -1])}))


def test_text(tmp_path):
    inputs = (Input("x", STR, (None,)),)
    for array in (
        np.array(["a", "é"]),
        np.array(["a", "é"], dtype=object),
        np.array([b"a", "é".encode()]),
        np.array(["a", b"\xc3\xa9"], dtype=object),
        np.array(["a", "é"], dtype=np.dtypes.StringDType()),
    ):
        result = from_arrays(inputs, {"x": array})[0]["x"]
        assert result.dtype == object
        assert result.tolist() == ["a", "é"]
        assert all(type(value) is str for value in result)
    assert from_paths(inputs, [save(tmp_path / "a.npy", np.array(["a", "é"]))])[0]["x"].tolist() == ["a", "é"]
    mixed = np.array(["a", 3], dtype=object)
    fails(DataError, "int at index [1]", call=lambda: from_arrays(inputs, {"x": mixed}))
    fails(DataError, "no UTF-8", call=lambda: from_arrays(inputs, {"x": np.array([b"\xff"])}))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["f4", "f8", "f2"])
def test_values_that_are_not_finite(tmp_path, value, dtype):
    data = np.random.default_rng(0).standard_normal((50_000, 3)).astype(dtype)
    data[40_000, 2] = data[40_001, 0] = data[49_999, 2] = value
    path = save(tmp_path / "a.npy", data)
    message = fails(DataError, "'x'", "[40000, 2]", str(value), "2 more", call=lambda: from_paths(ONE, [path]))
    assert "a.npy" in message
    fails(DataError, "[40000, 2]", call=lambda: from_paths(ONE, [path], batch_size=39_999))


def test_complex_values_that_are_not_finite():
    data = np.ones((2, 3), np.complex64)
    data[1, 1] = np.nan
    inputs = (Input("x", TensorProto.COMPLEX64, ("N", 3)),)
    fails(DataError, "[1, 1]", call=lambda: from_arrays(inputs, {"x": data}))


def test_values_too_large_for_the_inputs_type():
    data = normal(4, 3).astype(np.float64)
    data[2, 1] = 1e39
    fails(DataError, "1e+39", "[2, 1]", "too large", call=lambda: from_arrays(ONE, {"x": data}))
    half = (Input("x", TensorProto.FLOAT16, ("N", 3)),)
    fails(DataError, "70000.0", "too large", call=lambda: from_arrays(half, {"x": np.full((2, 3), 7e4, np.float32)}))
    assert from_arrays(ONE, {"x": np.array([[1e38, -1e38, 1]], np.float32)}).stats["x"].std > 8e37


def test_moments_that_overflow_are_left_out():
    inputs = (Input("x", TensorProto.DOUBLE, ("N",)),)
    batches = from_arrays(inputs, {"x": np.array([1e300, -1e300])})
    json.dumps(batches.describe(), allow_nan=False)


def test_moments_are_those_of_all_values():
    data = np.random.default_rng(1).normal(1000, 0.25, (70_001, 3)).astype(np.float32)
    data[:30_000] += 3
    batches = from_arrays(ONE, {"x": data}, batch_size=999)
    told = batches.describe()["inputs"]["x"]
    exact = data.astype(np.longdouble)
    assert told["mean"] == pytest.approx(float(exact.mean()), rel=1e-13)
    assert told["std"] == pytest.approx(float(exact.std()), rel=1e-11)
    assert (told["min"], told["max"]) == (data.min(), data.max())
    assert told["values"] == data.size


def test_describe_is_json():
    data = {"x": normal(4, 3), "y": np.arange(8).reshape(4, 2)}
    told = json.loads(json.dumps(from_arrays(TWO, data, batch_size=3).describe(), allow_nan=False))
    assert told["batches"] == 2
    assert told["samples"] == 4
    assert told["sources"] == [{"kind": "arrays", "inputs": ["x", "y"]}]
    assert told["inputs"]["y"] == {
        "type": "int64",
        "declared": ["N", 2],
        "shape": [3, 2],
        "batches": 2,
        "values": 8,
        "min": 0,
        "max": 7,
    }


# notes


def notes(data: np.ndarray, inputs=ONE) -> str:
    return " | ".join(from_arrays(inputs, {"x": data}).notes)


def test_raw_data_are_noted_once():
    pixels = np.random.default_rng(0).integers(0, 256, (50, 3))
    told = notes(pixels.astype(np.float32))
    assert told.count("first layer sees the data raw") == 1
    assert "mean 1" in told
    assert "reach 255" in notes(pixels.astype(np.uint8))
    assert "reach" not in notes((pixels > 100).astype(np.uint8))
    assert "std 0.1" in notes(normal(5000, 3) * np.float32(0.1001))
    assert "std 9.993" in notes(normal(5000, 3) * np.float32(10))
    assert "mean 1" in notes(normal(5000, 3) + np.float32(1))
    assert notes(normal(5000, 3)) == ""


def test_constant_data_and_single_samples_are_noted():
    assert "is constant (3 everywhere)" in notes(np.full((4, 3), 3, np.float32))
    assert "one sample only" in notes(normal(1, 3))
    assert "one sample" not in notes(normal(2, 3))
    assert "constant" not in notes(np.float32(3), (Input("x", F, ()),))


# arrays


def test_arrays_from_iterables_and_lists():
    batches = from_arrays(ONE, ({"x": normal(4, 3, seed=k)} for k in range(3)))
    assert len(batches) == 3
    np.testing.assert_array_equal(batches[1]["x"], normal(4, 3, seed=1))
    np.testing.assert_array_equal(batches[-1]["x"], normal(4, 3, seed=2))
    assert from_arrays(ONE, {"x": [[1.0, -1.0, 0.0]]})[0]["x"].dtype == np.float32


def test_arrays_of_wrong_form():
    for wrong in (None, 3.0, "x.npy", b"", Path("x.npy")):
        fails(DataError, f"of type {type(wrong).__name__}", "a list, loader", call=lambda: from_arrays(ONE, wrong))  # noqa: B023
    fails(DataError, "batch 0 is of type ndarray", "'x', 'y'", call=lambda: from_arrays(TWO, [normal(4, 3)]))
    fails(DataError, "for input 'x' (float) (did you mean 'X'?)", call=lambda: from_arrays(ONE, {"X": normal(4, 3)}))
    fails(
        DataError,
        "batch 1 has no array for input 'y' (int64), but 'x'",
        call=lambda: from_arrays(TWO, [{"x": normal(4, 3), "y": np.zeros((4, 2), int)}, {"x": normal(4, 3)}]),
    )
    fails(DataError, "cannot be made a NumPy array", call=lambda: from_arrays(ONE, {"x": [[1.0], [1.0, 2.0]]}))
    fails(
        DataError,
        "'x' in batch 1 has the shape [4, 5]",
        call=lambda: from_arrays(ONE, iter([normal(4, 3), normal(4, 5)])),
    )
    fails(DataError, "Python objects", call=lambda: from_arrays(ONE, {"x": object()}))
    assert "'z' in the batches left out" in from_arrays((), {"z": normal(4, 3)}).notes[0]


# random


def test_random_data_fit_the_model():
    inputs = (
        Input("x", F, ("N", 3, 8, 8)),
        Input("ids", I64, ("N", 16)),
        Input("mask", BOOL, ("N", 16)),
        Input("h", TensorProto.FLOAT16, (None, 5)),
        Input("b", TensorProto.BFLOAT16, (2, 5)),
        Input("d", TensorProto.DOUBLE, ()),
    )
    batches = from_random(inputs, {}, seed=7, high={"ids": 100})
    [batch] = batches
    assert batch["x"].shape == (32, 3, 8, 8)
    assert abs(batch["x"].std() - 1) < 0.05
    assert batch["ids"].min() >= 0
    assert 80 < batch["ids"].max() < 100
    assert 0.3 < batch["mask"].mean() < 0.7
    assert batch["h"].shape == (32, 5)
    assert batch["b"].dtype == ml_dtypes.bfloat16
    assert batch["d"].shape == ()
    assert batches.samples == 32
    assert batches.describe()["sources"][0]["seed"] == 7


def test_random_data_are_the_same_for_the_same_seed_and_name():
    first = from_random(ONE, {}, seed=1)[0]["x"]
    np.testing.assert_array_equal(first, from_random((*TWO[::-1],), {}, seed=1)[0]["x"])
    assert not np.array_equal(first, from_random(ONE, {}, seed=2)[0]["x"])
    renamed = from_random((Input("z", F, ("N", 3)),), {}, seed=1)[0]["z"]
    assert not np.array_equal(first, renamed)
    several = from_random(ONE, {}, seed=1, batches=3)
    np.testing.assert_array_equal(first, several[0]["x"])
    assert not np.array_equal(several[0]["x"], several[1]["x"])
    # The stream itself is a promise: same seed, same bytes.
    assert first[0].tolist() == from_random(ONE, {"x": (1, 3)}, seed=1)[0]["x"][0].tolist()


def test_random_shapes_settle_names():
    inputs = (Input("x", F, ("N", "T")), Input("y", F, ("N", 2, "T")), Input("z", F, (None, 4)))
    [batch] = from_random(inputs, {"x": (5, 7)}, seed=0)
    assert batch["y"].shape == (5, 2, 7)
    assert batch["z"].shape == (5, 4)
    fails(UsageError, "[N, T]", "--shape x=8,16", call=lambda: from_random(inputs, {}, seed=0))
    unknown = (Input("x", F, None),)
    fails(UsageError, "any shape", "--shape x=", call=lambda: from_random(unknown, {}, seed=0))
    assert from_random(unknown, {"x": (2, 3)}, seed=0)[0]["x"].shape == (2, 3)
    assert lengths(from_random(FIXED, {"x": (8, 3)}, seed=0)) == [4, 4]


@pytest.mark.parametrize(
    ("shapes", "given", "options", "expected"),
    [
        ([(1, 3)], {}, {}, [1] * 32),
        ([(4, 3)], {}, {}, [4] * 8),
        ([(5, 3)], {}, {}, [5] * 7),
        ([(40, 3)], {}, {}, [40]),
        ([(1, "T")], {"x0": (1, 7)}, {}, [1] * 32),
        ([(1, 3)], {"x0": (3, 3)}, {}, [1] * 3),
        ([(1, 3)], {}, {"samples": 5}, [1] * 5),
        ([(1, 3)], {}, {"samples": 50}, [1] * 50),
        ([(1, 3)], {}, {"batches": 2}, [1] * 2),
        ([(1, 3), ()], {}, {}, [1] * 32),
        ([(1, 3), ("N", 3)], {}, {}, [1]),
        ([(1, 3)], {"x0": (6, 1, 3)}, {}, [1] * 6),
        ([(1, "T")], {"x0": (6, 1, 7)}, {}, [1] * 6),
        ([(4, 3)], {"x0": (4, 4, 3)}, {}, [4] * 4),
        ([(1, 1 << 23)], {}, {}, [1] * 8),
        pytest.param([(1, 1 << 27)], {}, {}, [1], marks=pytest.mark.slow),
    ],
)
def test_random_data_for_a_fixed_first_axis_are_several_batches(shapes, given, options, expected):
    inputs = tuple(Input(f"x{i}", F, shape) for i, shape in enumerate(shapes))
    batches = from_random(inputs, given, seed=0, **options)
    assert [piece["x0"].shape[0] for piece in batches.pieces] == expected
    if len(batches) > 1:
        assert not np.array_equal(batches[0]["x0"], batches[1]["x0"])


def test_random_data_without_a_batch_axis_are_as_many_samples():
    for shape in ((16,), (3, 5, 5)):
        batches = from_random((Input("x", F, shape, counts=False),), {}, seed=0)
        assert (len(batches), batches.samples) == (32, 32)
        assert len(from_random((Input("x", F, shape, counts=False),), {}, seed=0, samples=5)) == 5


def test_random_shapes_that_do_not_fit():
    def draw(inputs, shapes, **options):
        return lambda: from_random(inputs, shapes, seed=0, **options)

    fails(UsageError, "[4, 5]", "[N, 3]", call=draw(ONE, {"x": (4, 5)}))
    fails(UsageError, "[4]", "[N, 3]", call=draw(ONE, {"x": (4,)}))
    fails(UsageError, "[6, 3]", "[4, 3]", call=draw(FIXED, {"x": (6, 3)}))
    fails(UsageError, "below 0", call=draw(ONE, {"x": (-4, 3)}))
    fails(UsageError, "below 0", call=draw(ONE, {"x": (0, 3)}))
    fails(UsageError, "'X'", "'x'", call=draw(ONE, {"X": (4, 3)}))
    fails(UsageError, "bytes", "limit", call=draw(ONE, {"x": (1 << 40, 3)}))
    fails(UsageError, "string", "data of your own", call=draw((Input("x", STR, (2,)),), {}))
    fails(UsageError, "complex64", call=draw((Input("x", TensorProto.COMPLEX64, (2,)),), {}))
    fails(UsageError, "0 batches", call=draw(ONE, {}, batches=0))
    fails(UsageError, "any shape", "--shape x=1,3,224,224, for example", call=draw((Input("x", F, None),), {}))
    fails(UsageError, "[N, 3, ?, W]", "--shape x=8,3,24,32", call=draw((Input("x", F, ("N", 3, None, "W")),), {}))
    small = (Input("x", TensorProto.INT8, (2,)),)
    fails(UsageError, "[0, 1000)", "int8", call=draw(small, {}, high={"x": 1000}))
    fails(UsageError, "[0, 0)", call=draw(small, {}, high={"x": 0}))


def test_random_integers_without_a_range_are_noted():
    batches = from_random((Input("ids", I64, ("N", 16)),), {}, seed=0)
    assert set(np.unique(batches[0]["ids"])) == {0, 1}
    assert any("'ids'" in note and "0 and 1" in note for note in batches.notes)
    assert from_random((Input("ids", I64, ("N", 16)),), {}, seed=0, high={"ids": 9}).notes == ()


@pytest.mark.parametrize("elem_type", [TensorProto.FLOAT8E4M3FN, TensorProto.INT4, TensorProto.UINT8])
def test_random_data_of_small_types(elem_type):
    dtype = onnx.helper.tensor_dtype_to_np_dtype(elem_type)
    assert from_random((Input("x", elem_type, (4, 3)),), {}, seed=0)[0]["x"].dtype == dtype


# --shape


def test_parse_shape():
    assert parse_shape("x=1,3,8,8") == ("x", (1, 3, 8, 8))
    assert parse_shape("1, 3") == (None, (1, 3))
    assert parse_shape("a=b=4") == ("a=b", (4,))
    assert parse_shape("past=1,12,0,64") == ("past", (1, 12, 0, 64))
    assert parse_shape("sr=scalar") == ("sr", ())


@pytest.mark.parametrize(
    "text", ["x=", "", "=1,3", "x=1,,3", "x=a", "x=-1,3", "x=1.5", "x=0,3", "x=²", "x=" + "9" * 5000]
)
def test_shapes_that_are_none(text):
    fails(UsageError, call=lambda: parse_shape(text))


def test_parse_shapes():
    assert parse_shapes(ONE, ["4,3"]) == {"x": (4, 3)}
    assert parse_shapes(TWO, ["x=4,3", "y=4,2"]) == {"x": (4, 3), "y": (4, 2)}
    fails(UsageError, "any of 'x', 'y'", call=lambda: parse_shapes(TWO, ["4,3"]))
    fails(UsageError, "twice", call=lambda: parse_shapes(ONE, ["x=4,3", "4,3"]))
    fails(
        UsageError, "'imag'", "did you mean 'image'", call=lambda: parse_shapes((Input("image", F, None),), ["imag=4"])
    )
    fails(UsageError, "no input", call=lambda: parse_shapes((), ["4,3"]))
