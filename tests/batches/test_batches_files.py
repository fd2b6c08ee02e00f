"""Files of data that are large, that lie about what is in them, or that change: bounded, and answered by a sentence."""

from __future__ import annotations

import gc
import io
import json
import os
import struct
import tracemalloc
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import fails, fill
from numpy.typing import NDArray
from onnx import GraphProto, TensorProto, helper, numpy_helper

from onnx_lsuv.batches import Batches, Input, from_arrays, from_paths, from_random, inputs_of, npz, plan, stored
from onnx_lsuv.batches.formats import FORMATS
from onnx_lsuv.errors import DataError, LsuvError, ModelError, UsageError

X = Input("x", TensorProto.FLOAT, ("N", 3))
ANY = Input("x", TensorProto.FLOAT, None)
ROWS = 100_000
MB = 1 << 20


def normal(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def read(path: Path | str, each: Input = X, **options: Any) -> Batches:
    return from_paths((each,), [str(path)], **options)


def refused(error: type[LsuvError], *words: str, call: Callable[[], object]) -> None:
    """See that a call is refused with one short sentence, and that little memory is taken for it."""
    tracemalloc.start()
    try:
        with pytest.raises(error) as caught:
            call()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    for word in words:
        assert word in message, message
    assert type(caught.value) is error
    assert len(message) < 380
    assert message.isprintable()
    assert peak < 8 * MB


def npy_header(shape: str, descr: str = "<f4") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def archive(path: Path, content: bytes, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("x.npy", content)
    return path


def npy(array: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def safetensors(path: Path, header: Any, size: int = 0) -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(size))
    return path


def edit(path: Path, at: int, new: bytes) -> None:
    """Overwrite bytes of an archive's directory, counted from the start of its only entry."""
    content = bytearray(path.read_bytes())
    start = content.rindex(b"PK\x01\x02") + at
    content[start : start + len(new)] = new
    path.write_bytes(content)


# ------------------------------------------------------------------------------------------------- paths


@pytest.mark.parametrize("name", ["", "x="])
@pytest.mark.parametrize(
    "path",
    ["a" * 300 + ".npy", "/".join(["a" * 50] * 98) + "/x.npy", "loop", "loop/x.npy", "x.npy/y.npy", "dangling.npy"],
)
def test_a_path_that_cannot_be_followed_is_about_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, path: str
) -> None:
    monkeypatch.chdir(fill(tmp_path))
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling.npy").symlink_to("nowhere.npy")
    assert len(fails(4, "m.onnx", "-d", name + path)) < 400


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_what_is_no_file_in_a_folder_is_not_passed_over(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", normal(4, 3))
    (tmp_path / "c.npy").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    assert len(read(tmp_path)) == 1
    (tmp_path / "b.npy").symlink_to("nowhere.npy")
    refused(DataError, "b.npy' is missing: it is a link", call=lambda: read(tmp_path))
    (tmp_path / "b.npy").unlink()
    os.mkfifo(tmp_path / "b.npy")
    refused(DataError, "b.npy' is no regular file", call=lambda: read(tmp_path))


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="the system does not list open files")
@pytest.mark.parametrize("save", [np.save, np.savez, np.savez_compressed])
@pytest.mark.parametrize("small", [0, 100_000])
def test_files_are_not_kept_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: Callable[..., None], small: int
) -> None:
    monkeypatch.setattr("onnx_lsuv.batches.memory.SMALL", small)
    data = normal(50, 2, 3)
    for number, array in enumerate(data):
        save(tmp_path / (f"{number}.npy" if save is np.save else f"{number}.npz"), array)
    gc.collect()  # what pytest keeps of errors that other tests awaited, and with them of mapped files
    before = len(os.listdir("/dev/fd"))  # noqa: PTH208
    batches = read(tmp_path)
    kept = list(batches)
    assert len(os.listdir("/dev/fd")) == before  # noqa: PTH208
    np.testing.assert_array_equal([batch["x"] for batch in kept], data)


# ------------------------------------------------------------------------------------------------- headers that lie

NO_ARRAYS = [
    [0, 1 << 62, 1 << 62],
    [1 << 62, 0, 1 << 62],
    [64, 16, 0, 1 << 63],
    [1] * 100 + [0],
    [1 << 64, 0],
    [1] * 65,
]


@pytest.mark.parametrize("shape", NO_ARRAYS, ids=lambda shape: f"{shape[:3]}{len(shape)}")
def test_shapes_that_no_array_has(tmp_path: Path, shape: list[int]) -> None:
    content = npy_header(f"({', '.join(map(str, shape))})") + bytes(0 if 0 in shape else 4)
    (tmp_path / "a.npy").write_bytes(content)
    entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, 0 if 0 in shape else 4]}
    safetensors(tmp_path / "a.safetensors", {"x": entry}, 0 if 0 in shape else 4)
    paths = [tmp_path / "a.npy", tmp_path / "a.safetensors"]
    paths += [archive(tmp_path / f"{method}.npz", content, method) for method in (0, 8)]
    if max(shape) < 1 << 63:
        tensor = TensorProto(dims=shape, data_type=TensorProto.FLOAT, raw_data=bytes(0 if 0 in shape else 4))
        (tmp_path / "a.pb").write_bytes(tensor.SerializeToString())
        paths.append(tmp_path / "a.pb")
    for path in paths:
        for each in (X, ANY):
            refused(DataError, path.name, call=lambda: read(path, each))  # noqa: B023


def test_a_long_header_is_not_read(tmp_path: Path) -> None:
    for length in (20_000, 0xFFFFFFF0):
        with (tmp_path / "a.npy").open("wb") as file:
            file.write(b"\x93NUMPY\x02\x00" + struct.pack("<I", length))
            file.truncate(12 + length)  # sparse
        refused(DataError, f"it has {length} bytes", call=lambda: read(tmp_path / "a.npy"))
    with (tmp_path / "a.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", 3 << 30))
        file.truncate(8 + (3 << 30))
    refused(DataError, f"a header of {3 << 30} bytes", call=lambda: read(tmp_path / "a.safetensors"))


def test_numbers_of_thousands_of_digits(tmp_path: Path) -> None:
    # Their product, taken first, would take minutes.
    shape = [10**4000] * 30
    path = safetensors(tmp_path / "a.safetensors", {"x": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}})
    refused(DataError, "no array can have", call=lambda: read(path))


def test_more_arrays_than_a_model_has_inputs(tmp_path: Path) -> None:
    header = {f"t{i}": {"dtype": "U8", "shape": [1], "data_offsets": [i, i + 1]} for i in range(10_001)}
    safetensors(tmp_path / "a.safetensors", header, len(header))
    with pytest.raises(DataError, match="10001 tensors, more than 10000"):
        read(tmp_path / "a.safetensors")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        for name in header:
            file.writestr(f"{name}.npy", b"")
    with pytest.raises(DataError, match="10001 members, more than 10000"):
        read(tmp_path / "a.npz")


def test_a_long_directory_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = archive(tmp_path / "a.npz", npy(normal(4, 3)))
    monkeypatch.setattr(npz, "DIRECTORY", 30)
    refused(DataError, "its directory has", call=lambda: read(path))
    # In the form for more than 4 GB, and with a comment behind.
    content = path.read_bytes()
    at = content.rindex(b"PK\x05\x06")
    large = b"PK\x06\x06" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, 1, 1, 1 << 40, 0)
    ended = content[:at] + large + content[at : at + 12] + b"\xff" * 4 + content[at + 16 : -2] + b"\x05\x00hello"
    path.write_bytes(ended)
    refused(DataError, f"its directory has {1 << 40} bytes", call=lambda: read(path))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(tmp_path: Path, method: int) -> None:
    # Both would unpack megabytes for the first byte.
    path = archive(tmp_path / "a.npz", npy(normal(4, 3)), method)
    refused(DataError, "another method", call=lambda: read(path))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize(
    ("at", "new"),
    [
        (16, b"\1\2\3\4"),  # the checksum
        (24, struct.pack("<I", 1000)),  # unpacks to less than it does
        (24, struct.pack("<I", 1 << 20)),  # to more
        (20, struct.pack("<I", 100)),  # takes less of the file
        (20, struct.pack("<I", 1 << 30)),  # takes more
        (42, struct.pack("<I", 1 << 30)),  # lies behind the end
        (42, struct.pack("<I", 7)),  # begins elsewhere
        (10, b"\x63"),  # is compressed in an unknown way
    ],
)
def test_directories_that_lie(tmp_path: Path, method: int, at: int, new: bytes) -> None:
    data = normal(ROWS, 3)
    path = archive(tmp_path / "a.npz", npy(data), method)
    np.testing.assert_array_equal(read(path)[0]["x"], data)
    edit(path, at, new)
    with pytest.raises(DataError, match=r"a\.npz"):
        read(path)
    with pytest.raises(DataError, match=r"a\.npz"):
        list(read(path, batch_size=1000, limit_bytes=100_000))


def test_a_damaged_value_is_found(tmp_path: Path) -> None:
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        path = archive(tmp_path / "a.npz", npy(np.arange(3 * ROWS, dtype=np.float32).reshape(-1, 3)), method)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"a\.npz"):
            read(path)


def test_a_tensor_that_takes_long_to_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.pb"
    values = TensorProto(dims=[ROWS, 3], data_type=TensorProto.INT8, int32_data=[1] * (3 * ROWS)).SerializeToString()
    path.write_bytes(values)
    np.testing.assert_array_equal(read(path)[0]["x"], np.ones((ROWS, 3), np.float32))
    # A number of a byte in the file takes many while it is decoded, which is not begun where the shape is wrong.
    refused(DataError, "limit of 4194304", call=lambda: read(path, limit_bytes=4 * MB))
    refused(DataError, "expects [N, 4]", call=lambda: read(path, Input("x", TensorProto.FLOAT, ("N", 4))))
    path.write_bytes(TensorProto(dims=[1 << 40, 3], data_type=TensorProto.INT8, raw_data=b"1234").SerializeToString())
    refused(DataError, "dims for", call=lambda: read(path))
    monkeypatch.setattr("onnx_lsuv.batches.tensors.FIELDS", 1000)
    path.write_bytes(
        TensorProto(dims=[2000], data_type=TensorProto.STRING, string_data=[b"a"] * 2000).SerializeToString()
    )
    refused(DataError, "more than 1000 fields", call=lambda: read(path, Input("x", TensorProto.STRING, ("N",))))


@pytest.mark.parametrize("elem_type", [each for each in TensorProto.DataType.values() if each])
@pytest.mark.parametrize("raw", [True, False])
def test_tensors_of_every_type_come_as_onnx_reads_them(tmp_path: Path, elem_type: int, raw: bool) -> None:
    kind = helper.tensor_dtype_to_np_dtype(elem_type)
    if elem_type == TensorProto.STRING:
        tensor = TensorProto(dims=[2, 3], data_type=elem_type, string_data=[b"a", "é".encode(), b"", b"b", b"c", b"d"])
    else:
        data = np.arange(1, 7).reshape(2, 3).astype(np.uint8).astype(kind)
        tensor = numpy_helper.from_array(data)
        if not raw:
            tensor = helper.make_tensor("", elem_type, [2, 3], data.reshape(-1))
    (tmp_path / "a.pb").write_bytes(tensor.SerializeToString())
    got = read(tmp_path / "a.pb", Input("x", elem_type, ("N", 3)))[0]["x"]
    want = numpy_helper.to_array(tensor)
    assert got.dtype == want.dtype
    assert got.tolist() == want.tolist()


# ------------------------------------------------------------------------------------------------- what is unpacked


def test_only_the_samples_asked_for_are_unpacked(tmp_path: Path) -> None:
    data = normal(ROWS, 3)
    path = archive(tmp_path / "a.npz", npy(data))
    content = bytearray(path.read_bytes())
    half = len(content) // 2
    content[half : half + 1000] = bytes(1000)
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be unpacked"):
        read(path)
    for options in ({}, {"batch_size": 7}):
        batches = read(path, samples=20, **options)
        np.testing.assert_array_equal(np.concatenate([batch["x"] for batch in batches]), data[:20])


def test_a_bomb_is_measured_before_it_is_unpacked(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.npz", npy(np.zeros((10 * ROWS, 3), np.float32)))
    assert path.stat().st_size < ROWS
    for limit in (MB, 11 * MB):
        refused(DataError, "12000000 bytes", "--batch-size", "--memory", call=lambda: read(path, limit_bytes=limit))  # noqa: B023
    other = Input("x", TensorProto.FLOAT, ("N", 4))
    refused(DataError, "expects [N, 4]", call=lambda: read(path, other, limit_bytes=1 << 40))
    fixed = Input("x", TensorProto.FLOAT, (10 * ROWS, 3))
    with pytest.raises(DataError, match="allow more with '--memory'") as caught:
        read(path, fixed, limit_bytes=MB)
    assert "--batch-size" not in str(caught.value)


def test_what_is_converted_counts_as_well(tmp_path: Path) -> None:
    data = np.arange(3 * ROWS, dtype=np.uint8).reshape(-1, 3)
    for path in (archive(tmp_path / "a.npz", npy(data)), tmp_path / "a.npy"):
        np.save(tmp_path / "a.npy", data)
        refused(DataError, "--memory", call=lambda: read(path, limit_bytes=MB))  # noqa: B023
        batches = read(path, limit_bytes=MB, batch_size=1000)
        np.testing.assert_array_equal(np.concatenate([batch["x"] for batch in batches]), data)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f8"])
def test_data_larger_than_the_limit_are_unpacked_batch_by_batch(tmp_path: Path, order: Any, dtype: str) -> None:
    data = np.asarray(normal(ROWS, 3), dtype=dtype, order=order)
    path = archive(tmp_path / "a.npz", npy(data))
    limit = 4 * MB if order == "F" else MB // 4  # columns lie apart, so all of them are unpacked
    tracemalloc.start()
    batches = read(path, limit_bytes=limit, batch_size=1000)
    for index in (3, 4, 0, 99, 50):  # forwards and back
        got = batches[index]["x"]
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, data[1000 * index : 1000 * (index + 1)].astype(np.float32))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < (8 * MB if order == "F" else 3 * MB)
    found = batches.stats["x"]
    assert found.mean == pytest.approx(data.astype(np.float64).mean(), abs=1e-9)
    assert found.std == pytest.approx(data.astype(np.float64).std(), rel=1e-9)


def test_the_limit_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(fill(tmp_path))
    np.savez_compressed("x.npz", x=normal(4096, 16))
    assert "--batch-size" in fails(4, "m.onnx", "-d", "x.npz", "--memory", "100K")


def test_an_archive_that_changes_while_it_is_unpacked(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.npz", npy(normal(ROWS, 3)))
    batches = read(path, limit_bytes=100_000, batch_size=1000)
    batches[0]
    archive(path, npy(normal(ROWS, 3) + 1))
    with pytest.raises(DataError, match="changed while it was read"):
        batches[1]


# ------------------------------------------------------------------------------------------------- files that shrink


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_mapped_file_that_shrinks_is_no_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: Any) -> None:
    monkeypatch.setattr(stored, "SMALL", 1 << 10)
    monkeypatch.setattr("onnx_lsuv.batches.memory.SMALL", 1 << 10)
    data = np.asarray(normal(ROWS, 3), order=order)
    np.save(tmp_path / "a.npy", data)
    batches = read(tmp_path / "a.npy", batch_size=ROWS // 2)
    np.testing.assert_array_equal(batches[1]["x"], data[ROWS // 2 :])
    os.truncate(tmp_path / "a.npy", 4096)
    with pytest.raises(DataError, match="became shorter"):
        batches[1]


@pytest.mark.parametrize("save", [np.save, np.savez, np.savez_compressed])
def test_small_files_may_go_once_they_are_read(tmp_path: Path, save: Callable[..., None]) -> None:
    data = normal(100, 3)
    end = "npy" if save is np.save else "npz"
    save(tmp_path / f"a.{end}", data)
    (tmp_path / "folder").mkdir()
    for start in range(0, 100, 10):
        save(tmp_path / "folder" / f"{start}.{end}", data[start : start + 10])
    for path, size in ((tmp_path / f"a.{end}", 10), (tmp_path / "folder", None)):
        batches = read(path, batch_size=size)
        for file in path.iterdir() if path.is_dir() else [path]:
            file.unlink()
        np.testing.assert_array_equal(np.concatenate([batch["x"] for batch in batches]), data)


# ------------------------------------------------------------------------------------------------- counts


@pytest.mark.parametrize("options", [{"samples": 10**30}, {"batch_size": 10**30}, {"samples": 10**30, "batch_size": 3}])
def test_numbers_beyond_any_count(options: dict[str, int]) -> None:
    batches = from_arrays((X,), {"x": normal(7, 3)}, **options)
    assert batches.samples == 7


def test_more_batches_than_anyone_waits_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "a.npy").open("wb") as file:
        header = npy_header(f"({1 << 33}, 3)")
        file.write(header)
        file.truncate(len(header) + 12 * (1 << 33))
    monkeypatch.setattr(plan, "MOST_BATCHES", 1000)
    for samples in (None, 1001, 10**30):
        refused(
            DataError,
            "more than 1000 batches",
            call=lambda: read(tmp_path / "a.npy", batch_size=1, samples=samples),  # noqa: B023
        )
    assert len(read(tmp_path / "a.npy", batch_size=1, samples=1000)) == 1000


def test_inputs_of_more_axes_than_arrays_have() -> None:
    graph = GraphProto()
    value = graph.input.add(name="x")
    value.type.tensor_type.elem_type = TensorProto.FLOAT
    for _ in range(65):
        value.type.tensor_type.shape.dim.add().dim_value = 1
    refused(ModelError, "65 axes", "at most 64", call=lambda: inputs_of(graph))
    for shape in ([1] * 65, [1, 0, 1 << 62, 1 << 62]):
        refused(UsageError, "random data", call=lambda: from_random((ANY,), {"x": shape}, seed=0))  # noqa: B023


@pytest.mark.parametrize("order", ["C", "F"])
def test_the_index_of_a_value_that_is_not_finite(tmp_path: Path, order: Any) -> None:
    data = np.asarray(normal(40, 50, 70), order=order)
    data[31, 7, 65] = np.nan
    np.save(tmp_path / "a.npy", data)
    for options in ({}, {"batch_size": 10}):
        with pytest.raises(DataError, match=r"nan at index \[31, 7, 65\]"):
            read(tmp_path / "a.npy", ANY if not options else Input("x", 1, ("N", 50, 70)), **options)


# -------------------------------------------------------------------------------------------------- another format


def read_rows(path: Path, names: Sequence[str], limit: int) -> list[stored.Stored]:
    """Read a format of the test's own: a line of the input's name, then rows of two bytes."""
    with stored.open_file(path) as file:
        name, _, values = file.read().partition(b"\n")
    assert name.decode() in names
    assert len(values) <= limit
    return [stored.held(str(path), np.frombuffer(values, np.uint8).reshape(-1, 2), key=name.decode())]


def test_a_format_is_a_reader_and_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMATS, ".rows", ("npz", "read_rows"))
    monkeypatch.setattr(npz, "read_rows", read_rows, raising=False)
    (tmp_path / "1.rows").write_bytes(b"x\n\x01\x02\x03\x04")
    (tmp_path / "2.ROWS").write_bytes(b"x\n\x05\x06")
    inputs = (Input("x", TensorProto.FLOAT, ("N", 2)),)
    for path in (tmp_path, tmp_path / "1.rows"):
        batches = from_paths(inputs, [str(path)])
        assert batches[0]["x"].tolist() == [[1, 2], [3, 4]]
    assert batches.sources[0].kind == "rows"
    assert [batch["x"].tolist() for batch in from_paths(inputs, [str(tmp_path)])][1] == [[5, 6]]
    for wrong, says in (("3.rows", ".parquet, .pt or .rows file"), ("x.row", "(did you mean '.rows'?)")):
        (tmp_path / "x.row").write_bytes(b"x")
        refused(DataError, says, call=lambda: from_paths(inputs, [str(tmp_path / wrong)]))  # noqa: B023
