"""Tables (.csv, .parquet) and PyTorch's tensors as data."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import call, fill
from onnx import TensorProto
from oracle import normal

from onnx_lsuv.batches import Batches, Input, from_paths, tables
from onnx_lsuv.errors import DataError

X = Input("x", TensorProto.FLOAT, ("N", 3))
IDS = Input("ids", TensorProto.INT64, ("N",))


def read(path: Path, *inputs: Input, text: str | bytes | None = None, **more: Any) -> Batches:
    if text is not None:
        path.write_bytes(text.encode() if isinstance(text, str) else text)
    return from_paths(inputs or (X,), [str(path)], **more)


def values(batches: Batches, name: str = "x") -> list[Any]:
    return np.concatenate([batch[name] for batch in batches]).tolist()


@pytest.mark.parametrize(
    "text",
    [
        "1,2,3\n4,5,6\n",
        "a,b,c\n1,2,3\n4,5,6",
        '"a","b","c"\r\n1.0,"2",3e0\r\n\r\n4,5,6\r\n',
        "a;b;c\n1;2;3\n4;5;6\n",
        "1\t2\t3\n4\t5\t6\n",
        "\ufeffa, b, c\n1, 2, 3\n4, 5, 6\n",
        "\ufeff1,2,3\n4,5,6\n",
    ],
)
def test_csv(tmp_path, text):
    assert values(read(tmp_path / "t.csv", text=text)) == [[1, 2, 3], [4, 5, 6]]


def test_a_csv_of_many_lines_is_read_some_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "LINES", 7)
    array = normal(100, 3)
    lines = [",".join(map(str, row)) for row in array.tolist()]
    lines.insert(40, "")
    path = tmp_path / "t.csv"
    for limit in (1 << 20, 400):  # held in memory, and parsed again for each batch
        batches = read(path, text="\n".join(lines), batch_size=9, limit_bytes=limit)
        np.testing.assert_array_equal(values(batches), array)
        np.testing.assert_array_equal(batches[3]["x"], array[27:36])
    assert values(read(path, samples=8, batch_size=3)) == array[:8].tolist()


def test_columns_by_the_names_of_the_inputs(tmp_path):
    other = Input("y", TensorProto.FLOAT, ("N", 1))
    batches = read(tmp_path / "t.csv", IDS, other, text="y,label,ids\n0.5,1,7\n1.5,0,8\n")
    assert values(batches, "ids") == [7, 8]
    assert values(batches, "y") == [[0.5], [1.5]]
    assert not [note for note in batches.notes if "ids" in note]  # whole numbers stay such


@pytest.mark.parametrize(
    ("shape", "per"), [(("N", 1, 2, 2), (1, 2, 2)), ((1, 4), (4,)), ((4,), (4,)), ((2, 2), (2, 2)), ((1, 2, 2), (2, 2))]
)
def test_rows_take_the_shape_of_a_sample(tmp_path, shape, per):
    one = Input("x", TensorProto.FLOAT, shape, counts=len(shape) > 1)
    batches = read(tmp_path / "t.csv", one, text="1,2,3,4\n5,6,7,8\n")
    np.testing.assert_array_equal(np.reshape(values(batches), (2, *per)), np.arange(1, 9).reshape(2, *per))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1,2,3\n4,5,setosa\n", ["t.csv'", "cell 3 of line 2 is 'setosa'", "leave out columns"]),
        ("a,b,c\n1,2,3\n4,5\n", ["line 3 has 2 cells, and the first has 3"]),
        ("a,b,c\n1,,3\n", ["cell 2 of line 2 is ''"]),
        ("1,2,3\n1,nan,3\n", ["nan at index [1, 1]"]),
        ("1,2,3,4\n", ["expects [N, 3]", "the shape [1, 4]"]),
        ("a,b,c\n", ["is no table of numbers: it has no rows"]),
        (b"PK\x03\x04....", ["is a zip archive"]),
        (b"1,2,3\n\xff\xfe\x00", ["is no table of numbers"]),
    ],
)
def test_what_is_wrong_with_a_csv(tmp_path, text, words):
    with pytest.raises(DataError) as caught:
        read(tmp_path / "t.csv", text=text)
    for word in words:
        assert word in str(caught.value)


def test_a_csv_with_an_endless_line_or_one_that_changes(tmp_path, monkeypatch):
    path = tmp_path / "t.csv"
    batches = read(path, text="1,2,3\n" * 9, limit_bytes=100, batch_size=1)
    path.write_text("1,2,x\n" * 9)
    with pytest.raises(DataError, match="changed while it was read"):
        batches[0]
    monkeypatch.setattr(tables, "LONGEST", 5)
    with pytest.raises(DataError, match="a line has 5 bytes or more"):
        read(path)


def test_code_is_no_file_of_data(tmp_path):
    (tmp_path / "loader.py").write_text("batches = []")
    with pytest.raises(DataError, match=r"'.*loader.py' is code: name what gives the batches as module:function"):
        read(tmp_path / "loader.py")


def test_the_command_reads_a_csv(tmp_path, monkeypatch):
    monkeypatch.chdir(fill(tmp_path))
    rows = np.load("x.npy")
    Path("x.csv").write_text("\n".join(",".join(map(str, row)) for row in rows.tolist()))
    assert "converted" not in call("m.onnx", "-d", "x.csv", "-o", "c.onnx").stdout
    call("m.onnx", "-d", "x.npy", "-o", "n.onnx")
    assert Path("c.onnx").read_bytes() == Path("n.onnx").read_bytes()


# .parquet


def write(path: Path, columns: dict[str, Any], **more: Any) -> Path:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    parquet.write_table(pyarrow.table(columns), path, **more)
    return path


@pytest.mark.parametrize("groups", [4, 1000])
def test_parquet(tmp_path, groups):
    array = normal(20, 3)
    path = write(tmp_path / "t.parquet", dict(zip("abc", array.T, strict=True)), row_group_size=groups)
    for limit in (1 << 20, 100):
        batches = read(path, batch_size=7, limit_bytes=limit)
        np.testing.assert_array_equal(values(batches), array)
        np.testing.assert_array_equal(batches[1]["x"], array[7:14])


def test_parquet_by_names_lists_and_images(tmp_path):
    lists = [[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]]
    image = Input("image", TensorProto.FLOAT, ("N", 1, 2, 2))
    path = write(tmp_path / "t.parquet", {"label": ["a", "b"], "image": lists, "ids": [7, 8]})
    batches = read(path, IDS, image)
    assert values(batches, "ids") == [7, 8]
    assert np.ravel(values(batches, "image")).tolist() == [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"a": ["x"], "b": [1.0], "c": [2.0]}, "column 'a' of .*holds string, no numbers"),
        ({"a": [None], "b": [1.0], "c": [2.0]}, "column 'a' of .*1 rows without a value"),
        ({"x": [[1.0, 2.0, 3.0], [1.0]]}, "lists of different lengths"),
        ({"a": [1.0], "b": [1.0]}, r"expects \[N, 3\]"),
    ],
)
def test_what_is_wrong_with_a_parquet_file(tmp_path, columns: dict[str, Sequence[Any]], words):
    with pytest.raises(DataError, match=words):
        read(write(tmp_path / "t.parquet", columns))


def test_a_broken_parquet_file(tmp_path):
    path = write(tmp_path / "t.parquet", {"a": [1.0]})
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="is no Parquet file"):
        read(path)


# .pt


def test_pt(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    array = normal(8, 3)
    for value in (torch.tensor(array), torch.tensor(array, requires_grad=True), {"x": torch.tensor(array)}):
        torch.save(value, tmp_path / "t.pt")
        np.testing.assert_array_equal(values(read(tmp_path / "t.pt")), array)
    torch.save(torch.tensor(array), tmp_path / "t.pt", _use_new_zipfile_serialization=False)
    np.testing.assert_array_equal(values(read(tmp_path / "t.pt")), array)
    torch.save(torch.tensor(array).bfloat16(), tmp_path / "t.pt")
    np.testing.assert_allclose(values(read(tmp_path / "t.pt")), array, rtol=1e-2)
    for wrong in ([1, 2], torch.nn.Linear(2, 2), "text"):
        torch.save(wrong, tmp_path / "t.pt")
        with pytest.raises(DataError, match=r"t\.pt' holds .*torch\.save"):
            read(tmp_path / "t.pt")
    (tmp_path / "t.pt").write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match=r"t\.pt' .*torch\.save"):
        read(tmp_path / "t.pt")


@pytest.mark.parametrize(
    ("name", "module", "install"),
    [
        ("t.parquet", "pyarrow.parquet", "pyarrow.*'onnx-lsuv\\[parquet\\]'"),
        ("t.pt", "torch", "PyTorch.*'torch'"),
        ("t.png", "PIL.Image", "Pillow.*'onnx-lsuv\\[images\\]'"),
    ],
)
def test_what_reads_a_format_is_missing(tmp_path, monkeypatch, name, module, install):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, module.partition(".")[0], None)
    (tmp_path / name).write_bytes(b"something")
    image = Input("x", TensorProto.FLOAT, ("N", 3, 8, 8))
    with pytest.raises(DataError, match=f"{name}' needs {install}"):
        read(tmp_path / name, image)
