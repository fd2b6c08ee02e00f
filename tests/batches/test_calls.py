"""`--data module:function`: what it gives, and what is said where it cannot."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from commands import call, fill
from onnx import TensorProto
from oracle import normal

from onnx_lsuv.batches import Batches, Input, from_paths
from onnx_lsuv.errors import DataError

TWO = (Input("x", TensorProto.FLOAT, ("N", 3)), Input("y", TensorProto.FLOAT, ("N", 2)))
CODE = """
import numpy as np
from pathlib import Path

print("said while it is imported")
x = np.load("x.npy")

def batches():
    print("said while it runs")
    for part in np.array_split(x, 4):
        yield part, np.zeros(len(part))

loader = [{"x": x[:32]}, {"x": x[32:]}]

class Here:
    stream = staticmethod(batches)

def needs(root): ...
def fails(): yield x; raise ValueError("no such\\nset")
def leaves(): raise SystemExit(2)
def nothing(): return []
number = 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    fill(tmp_path)
    (tmp_path / "mydata_lsuv.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    before, path = set(sys.modules), list(sys.path)
    yield tmp_path
    assert sys.path == path
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.parametrize("name", ["batches", "loader", "Here.stream", "x"])
def test_what_a_function_gives_is_data(folder, name):
    ran = call("m.onnx", "-d", f"mydata_lsuv:{name}", "-o", "f.onnx", "--format", "json")
    assert "said while" not in ran.stdout
    assert "said while it is imported" in ran.stderr
    call("m.onnx", "-d", "x.npy", "-o", "p.onnx")
    one, other = (onnx.load(path).graph.initializer[0].raw_data for path in ("f.onnx", "p.onnx"))
    np.testing.assert_allclose(np.frombuffer(one, np.float32), np.frombuffer(other, np.float32), rtol=1e-6)
    assert f'"path": "mydata_lsuv:{name}"' in ran.stdout


def test_a_batch_at_a_time_beyond_the_memory_allowed(folder):
    for memory in ("1G", "1K"):
        call("m.onnx", "-d", "mydata_lsuv:batches", "-o", f"{memory}.onnx", "--memory", memory)
    assert (folder / "1G.onnx").read_bytes() == (folder / "1K.onnx").read_bytes()
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no_such_lsuv:x", ["there is no module 'no_such_lsuv'", "data:batches"]),
        ("mydata_lsuv.py:batches", ["give 'mydata_lsuv:batches'"]),
        ("mydata_lsuv:batchs", ["mydata_lsuv.py) has no 'batchs'", "did you mean 'batches'"]),
        ("mydata_lsuv:needs", ["'mydata_lsuv:needs'", "mydata_lsuv.py) takes arguments"]),
        ("mydata_lsuv:fails", ["'mydata_lsuv:fails'", "mydata_lsuv.py, line 19) raised ValueError: no such set"]),
        ("mydata_lsuv:leaves", ["raised SystemExit: 2"]),
        ("mydata_lsuv:nothing", ["at least one batch is needed", "'mydata_lsuv:nothing'"]),
        ("mydata_lsuv:number", ["'mydata_lsuv:number' cannot be of type int"]),
        ("mydata_lsuv:np", ["'mydata_lsuv:np' cannot be of type module"]),
        ("broken_lsuv:x", ["'broken_lsuv'", "broken_lsuv.py, line 2) raised ZeroDivisionError"]),
        ("odd_lsuv:x", ["odd_lsuv.py, line 1) raised SyntaxError"]),
    ],
)
def test_what_cannot_be_called_is_one_sentence(folder, name, words):
    (folder / "broken_lsuv.py").write_text("\n1 / 0\n")
    (folder / "odd_lsuv.py").write_text("def\n")
    said = call("m.onnx", "-d", name, "-o", "o.onnx", status=4).stderr.splitlines()[-1]
    for word in words:
        assert word in said, said
    assert not (folder / "o.onnx").exists()


def test_the_module_is_never_written_over(folder):
    before = (folder / "mydata_lsuv.py").read_bytes()
    call("m.onnx", "-d", "mydata_lsuv:batches", "-o", "mydata_lsuv.py", "--force", status=6)
    assert (folder / "mydata_lsuv.py").read_bytes() == before


def read(monkeypatch: pytest.MonkeyPatch, function: Callable[[], object], *data: str) -> Batches:
    monkeypatch.setattr("builtins.lsuv_data", function, raising=False)
    return from_paths(TWO, data)


def test_a_function_for_one_input_and_a_file_for_another(folder, monkeypatch):
    np.save("y.npy", normal(4, 2))
    parts = [normal(4, 3, seed=k) for k in range(2)]
    for data in (["x=builtins:lsuv_data", "y=y.npy"], ["builtins:lsuv_data", "y=y.npy"]):
        batches = read(monkeypatch, lambda: iter(parts), *data)
        for batch, part in zip(batches, parts, strict=True):
            np.testing.assert_array_equal(batch["x"], part)
            np.testing.assert_array_equal(batch["y"], np.load("y.npy"))
    with pytest.raises(DataError, match="'builtins:lsuv_data' is of type ndarray, but the model reads 'x', 'y'"):
        read(monkeypatch, lambda: iter(parts), "builtins:lsuv_data")


def test_a_file_of_that_name_is_a_file(folder):
    (folder / "mydata_lsuv:batches").mkdir()
    np.save(folder / "mydata_lsuv:batches" / "0.npy", normal(4, 3))
    (source,) = from_paths(TWO[:1], ["mydata_lsuv:batches"]).sources
    assert source.kind == "folder of npy"
