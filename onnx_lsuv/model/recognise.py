"""What a file is that was given in the place of a model or of data, by its first bytes or its name, and what to do."""

from __future__ import annotations

from typing import NamedTuple

TENSORFLOW = "convert it with 'python -m tf2onnx.convert'"
_TORCH = "export it from Python with torch.onnx.export(model, (x,), 'model.onnx', dynamo=True)"
_KERAS = "export it from Python with keras.models.load_model(path).export('model.onnx', format='onnx')"
_EXPORT = "export the model to ONNX"
_UNPACK = "unpack it first"


class Kind(NamedTuple):
    """What is said of a file where a model was expected, and where data were; "" where that says nothing new."""

    model: str
    data: str


_PICKLE = Kind(f"a pickle: {_EXPORT}", "a Python pickle, which is never opened")
_PAGE = Kind("a web page: download the file itself", "an HTML page")
# By how a file begins; text in small letters, from its first letter on.
STARTS = {
    b"version https://git-lfs": Kind(
        "a Git LFS pointer to one: run `git lfs pull`", "a git-LFS pointer (run `git lfs pull`)"
    ),
    b"PK\x03\x04": Kind(
        f"a zip archive, perhaps of PyTorch or Keras: unpack it, or {_EXPORT}",
        "a zip archive, as .npz and .pt files are",
    ),
    b"\x1f\x8b": Kind(f"compressed with gzip: {_UNPACK}", "a gzip file"),
    b"BZh": Kind(f"compressed with bzip2: {_UNPACK}", ""),
    b"\xfd7zXZ": Kind(f"compressed with xz: {_UNPACK}", ""),
    b"\x28\xb5\x2f\xfd": Kind(f"compressed with zstd: {_UNPACK}", ""),
    b"\x89HDF\r\n": Kind(f"an HDF5 file, perhaps of Keras: {_EXPORT}", "an HDF5 file"),
    b"\x93NUMPY": Kind("a NumPy array", "a .npy file"),
    b"\x89PNG": Kind("", "a PNG image"),
    b"\xff\xd8\xff": Kind("", "a JPEG image"),
    b"GGUF": Kind(f"a GGUF file: {_EXPORT}", ""),
    b"\x80\x02": _PICKLE._replace(model=f"a pickle, perhaps of PyTorch: {_EXPORT}"),
    **dict.fromkeys((b"\x80\x03", b"\x80\x04", b"\x80\x05"), _PICKLE),
}
TEXTS = {
    b"<!doctype": _PAGE,
    b"<html": _PAGE,
    b"<?xml": Kind("an XML file", ""),
    b"{": Kind("a JSON file", ""),
    b"[": Kind("a JSON file", ""),
    b"<": Kind("text: ONNX text has to be parsed first, with onnx.parser.parse_model", ""),
    b"ir_version": Kind("text: a model in protobuf's text format has to be made binary first", ""),
}
# By its bytes from the fifth on.
MARKS = {
    b"TFL3": Kind(f"a TensorFlow Lite model: {_EXPORT}", ""),
    b"ORTM": Kind("a model in ONNX Runtime's own format: take the ONNX file that it was made from", ""),
}
_WEIGHTS = Kind(f"a safetensors file, which has weights but no graph: {_EXPORT}", "")
_TABLE = "is a table or text: load it and take the numbers"
# By its suffix; some name ONNX files so too, so it decides nothing alone.
SUFFIXES = {
    **dict.fromkeys(
        (".onnx", ".ort"), Kind("", "is a model, not data: the model comes first, as in 'onnx-lsuv MODEL --data PATH'")
    ),
    **dict.fromkeys(
        (".pt", ".pth", ".ckpt"),
        Kind(f"a file of PyTorch: {_TORCH}", "is of PyTorch: load it there and take x.numpy()"),
    ),
    ".bin": Kind(f"a file of PyTorch: {_TORCH}", ""),
    ".pt2": Kind(f"a program of PyTorch: {_TORCH}", ""),
    ".safetensors": Kind(f"weights without a graph: build the module that they are of, and {_TORCH}", ""),
    **dict.fromkeys(
        (".h5", ".hdf5"), Kind(f"a file of Keras: {_KERAS}", "holds arrays in another format: load it there")
    ),
    ".keras": Kind(f"a file of Keras: {_KERAS}", ""),
    ".mat": Kind("", "holds arrays in another format: load it there"),
    ".tflite": Kind(f"a model of TensorFlow Lite: {TENSORFLOW}, option --tflite", ""),
    ".pb": Kind(f"perhaps a graph of TensorFlow: {TENSORFLOW}, option --saved-model with its folder", ""),
    **dict.fromkeys(
        (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"),
        Kind("", "is an image: load and preprocess it as in training"),
    ),
    **dict.fromkeys(
        (".pkl", ".pickle", ".joblib"), Kind("", "is a pickle, which is never opened: load it where it comes from")
    ),
    **dict.fromkeys((".csv", ".tsv", ".txt", ".json", ".parquet"), Kind("", _TABLE)),
    **dict.fromkeys((".zip", ".tar", ".gz", ".tgz", ".7z", ".xz"), Kind("", f"is an archive: {_UNPACK}")),
}


def recognise(start: bytes, size: int) -> Kind:
    """Return what a file of so many bytes is that begins so, two empty texts where that does not tell."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for table, begins in ((STARTS, start), (MARKS, start[4:8]), (TEXTS, text)):
        for mark, kind in table.items():
            if begins.startswith(mark):
                return kind
        if table is MARKS and start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= size - 8:
            return _WEIGHTS
    return Kind("", "")
