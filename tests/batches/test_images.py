"""Images: which axis their channels are, their size and range, folders of them; against Pillow and NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from commands import call, fails
from onnx import TensorProto
from oracle import normal, parse

from onnx_lsuv.batches import Batches, Input, Preparation, from_paths, parse_preparation
from onnx_lsuv.errors import DataError, UsageError

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
F, U8 = TensorProto.FLOAT, TensorProto.UINT8


def pixels(seed: int, height: int = 6, width: int = 8, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels)).astype(np.uint8)


def write(path: Path, array: np.ndarray) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).save(path)
    return array


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(11):
        write(tmp_path / "in" / f"{number}.png", pixels(number))
    return tmp_path / "in"


def read(
    path: Path, shape: tuple[Any, ...], elem_type: int = F, how: Preparation | None = None, **more: Any
) -> Batches:
    return from_paths((Input("x", elem_type, shape),), [str(path)], images=how, **more)


WHOLE = np.stack([pixels(number) for number in range(11)])  # in natural order: 2 before 10


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (("N", 3, 6, 8), WHOLE.transpose(0, 3, 1, 2)),
        (("N", 6, 8, 3), WHOLE),
        (("N", "C", "H", "W"), WHOLE.transpose(0, 3, 1, 2)),
        (("N", None, None, 3), WHOLE),
        ((1, 3, 6, 8), WHOLE.transpose(0, 3, 1, 2)),
        ((3, 6, 8), WHOLE.transpose(0, 3, 1, 2)),
        ((6, 8, 3), WHOLE),
    ],
)
def test_the_models_shape_says_where_channels_are(folder, shape, expected):
    batches = read(folder, shape)
    found = np.stack([batch["x"] for batch in batches]) if len(shape) == 3 else None
    found = np.concatenate([batch["x"] for batch in batches]) if found is None else found
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected / 255.0, rtol=1e-6)
    (source,) = batches.sources
    assert (source.kind, source.files) == ("images", 11)


def test_grey_images(tmp_path):
    grey = write(tmp_path / "a.png", pixels(0, channels=1))
    for shape in (("N", 1, 6, 8), ("N", 6, 8, 1), ("N", 6, 8)):
        found = read(tmp_path / "a.png", shape)[0]["x"]
        np.testing.assert_allclose(found.reshape(6, 8), grey[..., 0] / 255.0, rtol=1e-6)
    colour = read(tmp_path / "a.png", ("N", 3, 6, 8))[0]["x"]
    np.testing.assert_allclose(colour[0, 2], grey[..., 0] / 255.0, rtol=1e-6)


def test_whole_numbers_stay_such(folder):
    np.testing.assert_array_equal(read(folder, ("N", 6, 8, 3), U8)[0]["x"], WHOLE)
    np.testing.assert_array_equal(read(folder, ("N", 6, 8, 3), TensorProto.INT32)[0]["x"], WHOLE)
    with pytest.raises(DataError, match="float32"):
        read(folder, ("N", 6, 8, 3), U8, Preparation(mean=(0.5,)))


def test_scale_mean_and_std(folder):
    how = parse_preparation(None, "0.485,0.456,0.406", "0.229,0.224,0.225", None)
    found = read(folder, ("N", 3, 6, 8), how=how)[0]["x"]
    expected = (WHOLE / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(found, expected.transpose(0, 3, 1, 2), rtol=1e-5, atol=1e-6)
    how = parse_preparation(None, "1", None, "1/127.5")
    np.testing.assert_allclose(read(folder, ("N", 6, 8, 3), how=how)[0]["x"], WHOLE / 127.5 - 1, rtol=1e-5, atol=1e-6)
    raw = read(folder, ("N", 6, 8, 3), how=parse_preparation(None, None, None, "1"))[0]["x"]
    np.testing.assert_array_equal(raw, WHOLE.astype(np.float32))


def test_the_note_on_raw_images_says_how_to_prepare_them(folder):
    (note,) = read(folder, ("N", 3, 6, 8)).notes
    assert "preprocess them as in training with '--image-mean' and '--image-std'" in note
    how = parse_preparation(None, "0.5", "0.29", None)
    assert not read(folder, ("N", 3, 6, 8), how=how).notes


def test_size(tmp_path):
    flat = np.zeros((40, 60, 3), np.uint8)
    flat[:, 7:53] = [10, 20, 30]  # what covers 20 x 20 and lies in the middle
    write(tmp_path / "a.png", flat)
    for shape, how in (
        (("N", 3, 20, 20), None),
        (("N", 3, "H", "W"), parse_preparation("20", None, None, None)),
        (("N", 3, 20, 20), parse_preparation("20x20", None, None, None)),
    ):
        found = read(tmp_path / "a.png", shape, how=how)[0]["x"]
        np.testing.assert_allclose(found * 255, np.broadcast_to([[[[10]], [[20]], [[30]]]], found.shape), rtol=1e-5)
    tall = read(tmp_path / "a.png", ("N", 3, "H", "W"), how=parse_preparation("20x10", None, None, None))
    assert tall[0]["x"].shape == (1, 3, 20, 10)
    with pytest.raises(DataError, match=r"expects \[N, 3, 8, 8\]"):
        read(tmp_path / "a.png", ("N", 3, 8, 8), how=parse_preparation("20", None, None, None))
    write(tmp_path / "b.png", pixels(0))
    with pytest.raises(DataError, match=r"b\.png' has 6 x 8 pixels and .*a\.png' 40 x 60; give '--image-size'"):
        read(tmp_path, ("N", 3, "H", "W"))


def test_class_folders_take_turns(tmp_path):
    for label in ("cat", "dog", "emu"):
        for number in range(2 + (label == "dog")):
            write(tmp_path / label / f"{number}.png", np.full((4, 4, 3), 10 * ord(label[0]) % 251 + number, np.uint8))
    (tmp_path / "labels.csv").write_text("a,b\n")
    batches = read(tmp_path, ("N", 4, 4, 3), U8, samples=4)
    a, b, c = (10 * ord(letter) % 251 for letter in "cde")
    assert batches[0]["x"][:, 0, 0, 0].tolist() == [a, b, c, a + 1]
    full = read(tmp_path, ("N", 4, 4, 3), U8)
    assert full.samples == 7
    assert any("'labels.csv'" in note for note in full.notes)


def test_a_table_beside_images_is_left_out(folder):
    (folder / "labels.csv").write_text("1,2\n")
    batches = read(folder, ("N", 3, 6, 8))
    assert batches.samples == 11
    assert any("'labels.csv'" in note for note in batches.notes)
    (folder / "labels.csv").unlink()
    np.save(folder / "a.npy", normal(2, 3, 6, 8))
    assert read(folder, ("N", 3, 6, 8)).samples == 2


def test_images_are_decoded_batch_by_batch(folder, tmp_path):
    for number in range(11, 40):
        write(folder / f"{number}.png", pixels(number))
    whole = np.stack([pixels(number) for number in range(40)]).transpose(0, 3, 1, 2) / np.float32(255)
    held = read(folder, ("N", 3, 6, 8))
    assert [len(batch["x"]) for batch in held] == [32, 8]
    again = read(folder, ("N", 3, 6, 8), limit_bytes=9000)
    assert [len(batch["x"]) for batch in again] == [3] * 13 + [1]
    for batches in (held, again):
        np.testing.assert_allclose(np.concatenate([batch["x"] for batch in batches]), whole, rtol=1e-6)
    assert [len(batch["x"]) for batch in read(folder, ("N", 3, 6, 8), batch_size=25)] == [25, 15]


def test_images_beside_another_input(folder, tmp_path):
    np.save(tmp_path / "t.npy", normal(11, 2))
    inputs = (Input("t", F, ("N", 2)), Input("image", F, ("N", 3, 6, 8)))
    (batch,) = from_paths(inputs, [f"t={tmp_path / 't.npy'}", str(folder)])
    assert batch["image"].shape == (11, 3, 6, 8)
    table = (Input("t", F, ("M", 2)), inputs[1])  # for all images
    np.save(tmp_path / "t.npy", normal(5, 2))
    assert len(from_paths(table, [f"t={tmp_path / 't.npy'}", str(folder)])) == 1
    two = (Input("a", F, ("N", 3, 6, 8)), Input("b", F, ("N", 3, 6, 8)))
    with pytest.raises(UsageError, match="any of 'a', 'b'; say which with NAME=PATH"):
        from_paths(two, [str(folder)])
    assert len(from_paths(two, [f"a={folder}", f"b={folder}"])) == 1


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + b"x" * 50, b"\xff\xd8\xff" + b"y" * 50])
def test_what_is_no_image_is_named(folder, content):
    (folder / "5.png").write_bytes(content)
    with pytest.raises(DataError, match=r"5\.png'"):
        read(folder, ("N", 3, 6, 8))


def test_pixels_of_more_than_8_bits_are_refused(tmp_path):
    Image.fromarray(np.full((4, 4), 3000, np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="more than 8 bits"):
        read(tmp_path / "a.png", ("N", 1, 4, 4))


def test_inputs_that_take_no_images(folder):
    for shape in (("N", 10), ("N", 7, 6, 8), None):
        with pytest.raises(DataError, match="fits no input"):
            read(folder, shape)


@pytest.mark.parametrize(
    ("texts", "word"),
    [
        (("0", None, None, None), "--image-size"),
        (("2x", None, None, None), "--image-size"),
        ((None, "a", None, None), "--image-mean"),
        ((None, None, "1,0,1", None), "other than 0"),
        ((None, None, None, "1/0"), "--image-scale"),
        ((None, None, None, "1,2"), "a single one"),
    ],
)
def test_numbers_that_are_none(texts, word):
    with pytest.raises(UsageError, match=word):
        parse_preparation(*texts)


def test_the_command_takes_images(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = '<ir_version: 10, opset_import: ["" : 17]> g (float[N,3,6,8] x) => (float z) { y = Conv(x, w) '
    model = parse(text + "z = Relu(y) }", w=normal(4, 3, 3, 3))
    onnx.save(model, "m.onnx")
    np.save("x.npy", ((WHOLE / 255 - 0.5) / 0.25).transpose(0, 3, 1, 2).astype(np.float32))
    call("m.onnx", "-d", "in", "--image-mean", "0.5", "--image-std", "0.25", "-o", "i.onnx")
    call("m.onnx", "-d", "x.npy", "-o", "n.onnx")
    one, other = (onnx.load(name).graph.initializer[0].raw_data for name in ("i.onnx", "n.onnx"))
    np.testing.assert_allclose(np.frombuffer(one, np.float32), np.frombuffer(other, np.float32), rtol=1e-5)
    assert "about images" in fails(2, "m.onnx", "-d", "x.npy", "--image-size", "8")
    assert "give --data" in fails(2, "m.onnx", "--random", "--image-size", "8")
    assert "2 numbers for 3 channels" in fails(2, "m.onnx", "-d", "in", "--image-mean", "1,2")
