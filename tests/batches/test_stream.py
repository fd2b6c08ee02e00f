"""What people hold in Python: arrays, batches, loaders, readers; walked once, and kept within a budget."""

from __future__ import annotations

import collections
import tempfile
import tracemalloc
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto
from oracle import normal, parse

import onnx_lsuv
from onnx_lsuv.batches import Input, from_arrays
from onnx_lsuv.errors import DataError
from onnx_lsuv.lsuv.scratch import Scratch

ONE = (Input("x", TensorProto.FLOAT, ("N", 3)),)
TWO = (*ONE, Input("mask", TensorProto.BOOL, ("N", 2)))
BATCHES = [normal(4, 3, seed=k) for k in range(5)]
MASKS = [batch[:, :2] > 0 for batch in BATCHES]


class Foreign:
    """A tensor of another library: with a gradient, on another device."""

    def __init__(self, array: np.ndarray, step: int = 0) -> None:
        self.array, self.step = array, step

    def detach(self) -> Foreign:
        return Foreign(self.array, 1)

    def cpu(self) -> Foreign:
        return Foreign(self.array, self.step + 1)

    def numpy(self) -> np.ndarray:
        assert self.step == 2
        return self.array


class Reader:
    """As onnxruntime.quantization.CalibrationDataReader."""

    def __init__(self) -> None:
        self.rest = iter({"x": batch} for batch in BATCHES)

    def get_next(self) -> Mapping[str, Any] | None:
        return next(self.rest, None)


class Keras:
    """Begins anew after its last batch."""

    def __len__(self) -> int:
        return len(BATCHES)

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield from ((batch, np.zeros(4)) for batch in BATCHES)


class Indexed:
    def __getitem__(self, index: int) -> np.ndarray:
        return BATCHES[index]


def reused() -> Iterator[np.ndarray]:
    array = np.empty((4, 3), np.float32)
    for batch in BATCHES:
        array[:] = batch
        yield array


@pytest.mark.parametrize(
    "data",
    [
        BATCHES,
        tuple(BATCHES),
        iter(BATCHES),
        reused(),
        reused,
        Reader(),
        Reader,
        Keras(),
        Indexed(),
        [{"x": batch} for batch in BATCHES],
        [collections.UserDict(x=batch, labels=3) for batch in BATCHES],
        [(batch, np.zeros(4)) for batch in BATCHES],
        [[batch] for batch in BATCHES],
        [({"x": batch}, np.zeros(4)) for batch in BATCHES],
        [((batch,), np.zeros(4)) for batch in BATCHES],
        [Foreign(batch) for batch in BATCHES],
        [(Foreign(batch), 1) for batch in BATCHES],
        [batch.tolist() for batch in BATCHES],
    ],
    ids=lambda data: type(data).__name__,
)
def test_whatever_gives_batches_is_taken(data):
    batches = from_arrays(ONE, data)
    assert batches.samples == 20
    for batch, expected in zip(batches, BATCHES, strict=True):
        np.testing.assert_array_equal(batch["x"], expected)


def test_one_array_is_one_batch():
    for data in (BATCHES[0], BATCHES[0].tolist()):
        assert from_arrays(ONE, {"x": data}).samples == 4
    assert len(from_arrays(ONE, np.concatenate(BATCHES))) == 1


@pytest.mark.parametrize(
    "pair",
    [
        lambda x, mask: {"mask": mask, "x": x, "labels": 1},
        lambda x, mask: (x, mask),
        lambda x, mask: (x, mask, np.zeros(4)),
        lambda x, mask: ((x, mask), np.zeros(4)),
        lambda x, mask: ({"x": x, "mask": mask}, np.zeros(4)),
    ],
)
def test_the_inputs_of_a_batch_go_by_name_or_by_order(pair):
    batches = from_arrays(TWO, map(pair, BATCHES, MASKS))
    for batch, x, mask in zip(batches, BATCHES, MASKS, strict=True):
        np.testing.assert_array_equal(batch["x"], x)
        np.testing.assert_array_equal(batch["mask"], mask)


def test_an_endless_stream_is_walked_as_far_as_it_is_needed():
    asked = []

    def endless() -> Iterator[np.ndarray]:
        while True:
            asked.append(1)
            yield BATCHES[0]

    assert [len(batch["x"]) for batch in from_arrays(ONE, endless, samples=10)] == [4, 4, 2]
    assert len(asked) == 3


def test_progress_tells_the_samples_that_were_read():
    told: list[tuple[str, int, int]] = []
    for data, samples in ((iter(BATCHES), None), (Keras(), 10), (BATCHES, None)):
        from_arrays(ONE, data, samples=samples, progress=lambda *step: told.append(step))
    some = [("read", 4, 10), ("read", 8, 10), ("read", 10, 10)]
    assert told == [*(("read", 4 * k, 0) for k in range(1, 6)), *some]


def test_what_was_walked_before_has_no_batches():
    data = iter(BATCHES)
    from_arrays(ONE, data)
    with pytest.raises(DataError, match=r"at least one batch is needed.*only once"):
        from_arrays(ONE, data)


def test_what_does_not_fit_is_said_before_the_rest_is_walked():
    def wrong() -> Iterator[np.ndarray]:
        yield normal(4, 5)
        raise AssertionError

    with pytest.raises(DataError, match="in batch 0"):
        from_arrays(ONE, wrong)


def test_an_exception_of_a_loader_stays_as_it_is():
    def broken() -> Iterator[np.ndarray]:
        yield BATCHES[0]
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        from_arrays(ONE, broken)


def test_beyond_the_budget_batches_are_in_a_file(tmp_path):
    text = BATCHES[0].astype(str)
    arrays = [normal(16, 3), BATCHES[0].T.astype(np.float64), text, normal(0, 3), normal(8, 3, seed=1)]
    scratch = Scratch(2 * arrays[0].nbytes + 100, tmp_path)
    loads = [scratch.rows(array) for array in arrays]
    assert scratch.spent == arrays[0].nbytes
    assert scratch.file is not None
    for load, array in (*zip(loads, arrays, strict=True), *zip(loads, arrays, strict=True)):
        found = load(0, None)
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)
        np.testing.assert_array_equal(load(1, 3), array[1:3])
    assert not list(tmp_path.iterdir())


def test_mapped_arrays_share_files(tmp_path, monkeypatch):
    """A process may have a thousand files open, and many more arrays beyond its budget."""
    made, real = [], tempfile.TemporaryFile

    def file(**how: object) -> object:
        made.append(real(**how))
        return made[-1]

    monkeypatch.setattr("onnx_lsuv.lsuv.scratch._SEGMENT", 10_000)
    monkeypatch.setattr("onnx_lsuv.lsuv.scratch.tempfile.TemporaryFile", file)
    scratch = Scratch(0, tmp_path)
    arrays = [np.full(100 + k % 7, k % 200, (np.float16, np.float64, np.uint8)[k % 3]) for k in range(3000)]
    arrays += [normal(40, 50), np.array(3.0), normal(0, 3)]
    found = [scratch.keep(array) for array in arrays]
    assert len(made) < 60
    assert sum(not each.closed for each in made) == 1
    for array, same in zip(arrays, found, strict=True):
        assert (same.dtype, same.shape, same.flags.writeable) == (array.dtype, array.shape, True)
        np.testing.assert_array_equal(same, array)
    found[0] += 1
    np.testing.assert_array_equal(found[1], arrays[1])
    assert not list(tmp_path.iterdir())


@pytest.fixture
def model() -> onnx_lsuv.Model:
    text = '<ir_version: 10, opset_import: ["" : 17]> g (float[N,3] x) => (float z) { y = MatMul(x, w) r = Relu(y) '
    return onnx_lsuv.from_proto(parse(text + "z = MatMul(r, v) }", w=normal(3, 8), v=normal(8, 4)))


@pytest.mark.parametrize("memory", [None, 300, 1])
def test_a_loader_gives_the_same_bytes_as_arrays(model, memory, tmp_path):
    expected = onnx_lsuv.initialize(model, [{"x": batch} for batch in BATCHES])
    for data in (iter(BATCHES), Reader(), Keras(), reused):
        found = onnx_lsuv.initialize(model, data, memory=memory, scratch=tmp_path)
        assert onnx_lsuv.to_bytes(found.model) == onnx_lsuv.to_bytes(expected.model)
        assert found.data["samples"] == 20
        measured = onnx_lsuv.measure(found.model, iter(BATCHES), memory=memory, like=found)
        assert {row.status for row in measured.layers} == {"ok"}


def test_the_memory_that_a_stream_takes_is_bounded(model, tmp_path):
    def stream() -> Iterator[np.ndarray]:
        for k in range(200):
            yield np.full((4096, 3), k, np.float32) + normal(4096, 3, seed=1)  # 48 KB, 10 MB in all

    peaks = []
    for memory in (1 << 20, 1 << 30):
        tracemalloc.start()
        onnx_lsuv.initialize(model, stream, memory=memory, scratch=tmp_path)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    bounded, whole = peaks
    assert bounded < 3 << 20 < 9 << 20 < whole


def test_paths_are_read_as_the_command_reads_them(model, tmp_path):
    expected = onnx_lsuv.to_bytes(onnx_lsuv.initialize(model, BATCHES).model)
    for number, batch in enumerate(BATCHES):
        np.save(tmp_path / f"{number}.npy", batch)
    for data in (tmp_path, str(tmp_path), [f"x={tmp_path}"], (tmp_path,)):
        assert onnx_lsuv.to_bytes(onnx_lsuv.initialize(model, data).model) == expected
    with pytest.raises(DataError, match="is missing"):
        onnx_lsuv.measure(model, "no.npy")


def test_pooled_statistics_are_those_of_one_array(model):
    whole = onnx_lsuv.initialize(model, np.concatenate(BATCHES))
    parts = onnx_lsuv.initialize(model, iter(BATCHES))
    for one, other in zip(whole.layers, parts.layers, strict=True):
        assert other.scale == pytest.approx(one.scale, rel=1e-7)


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    with Path("/dev/full").open("wb", 0) as full:
        monkeypatch.setattr("onnx_lsuv.lsuv.scratch.tempfile.TemporaryFile", lambda **_: full)
        with pytest.raises(onnx_lsuv.OutputError, match=r"48 bytes of scratch space.*No space left.*--memory"):
            Scratch(0, tmp_path).rows(BATCHES[0])
