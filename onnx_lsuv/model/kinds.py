"""What a file is that was given in the place of a model or of data, by its first bytes or its name, and what to do."""

from __future__ import annotations

from typing import NamedTuple

TENSORFLOW = "convert it with 'python -m tf2onnx.convert'"
_TORCH = "export it from Python with torch.onnx.export(model, (x,), 'model.onnx', dynamo=True)"
_KERAS = "export it from Python with keras.models.load_model(path).export('model.onnx', format='onnx')"
_EXPORT = "export the model to ONNX"
_PICKLE = "a Python pickle, which is never opened"


class Kind(NamedTuple):
    """What is said of a file where a model was expected, and where data were; "" where that says nothing new."""

    model: str
    data: str


# By how a file begins.
STARTS = {
    b"version https://git-lfs": (
        "a Git LFS pointer to one: run `git lfs pull`",
        "a git-LFS pointer (run `git lfs pull`)",
    ),
    b"PK\x03\x04": (
        f"a zip archive, perhaps of PyTorch or Keras: unpack it, or {_EXPORT}",
        "a zip archive, as .npz and .pt files are",
    ),
    b"\x1f\x8b": ("compressed with gzip: unpack it first", "a gzip file"),
    b"BZh": ("compressed with bzip2: unpack it first", ""),
    b"\xfd7zXZ": ("compressed with xz: unpack it first", ""),
    b"\x28\xb5\x2f\xfd": ("compressed with zstd: unpack it first", ""),
    b"\x89HDF\r\n": (f"an HDF5 file, perhaps of Keras: {_EXPORT}", "an HDF5 file"),
    b"\x93NUMPY": ("a NumPy array", "a .npy file"),
    b"\x89PNG": ("", "a PNG image"),
    b"\xff\xd8\xff": ("", "a JPEG image"),
    b"GGUF": (f"a GGUF file: {_EXPORT}", ""),
    b"\x80\x02": (f"a pickle, perhaps of PyTorch: {_EXPORT}", _PICKLE),
    b"\x80\x03": (f"a pickle: {_EXPORT}", _PICKLE),
    b"\x80\x04": (f"a pickle: {_EXPORT}", _PICKLE),
    b"\x80\x05": (f"a pickle: {_EXPORT}", _PICKLE),
}
# By its bytes from the fifth on.
MARKS = {
    b"TFL3": (f"a TensorFlow Lite model: {_EXPORT}", ""),
    b"ODTC": ("a checkpoint of ONNX Runtime Training, which has weights but no graph: give the forward model", ""),
    b"ORTM": ("a model in ONNX Runtime's own format: take the ONNX file that it was made from", ""),
}
# By how its text begins, in small letters.
TEXTS = {
    b"<!doctype": ("a web page: download the file itself", "an HTML page"),
    b"<html": ("a web page: download the file itself", "an HTML page"),
    b"<?xml": ("an XML file", ""),
    b"{": ("a JSON file", ""),
    b"[": ("a JSON file", ""),
    b"<": ("text: ONNX text has to be parsed first, with onnx.parser.parse_model", ""),
    b"ir_version": ("text: a model in protobuf's text format has to be made binary first", ""),
}
# By its suffix; some name ONNX files so too, so it decides nothing alone.
_SUFFIXES = {
    ".onnx .ort": ("", "is a model, not data: the model comes first, as in 'onnx-lsuv MODEL --data PATH'"),
    ".pt .pth .ckpt": (f"a file of PyTorch: {_TORCH}", "is of PyTorch: load it there and take x.numpy()"),
    ".bin": (f"a file of PyTorch: {_TORCH}", ""),
    ".pt2": (f"a program of PyTorch: {_TORCH}", ""),
    ".safetensors": (f"weights without a graph: build the module that they are of, and {_TORCH}", ""),
    ".h5 .hdf5": (f"a file of Keras: {_KERAS}", "holds arrays in another format: load it there"),
    ".keras": (f"a file of Keras: {_KERAS}", ""),
    ".mat": ("", "holds arrays in another format: load it there"),
    ".tflite": (f"a model of TensorFlow Lite: {TENSORFLOW}, option --tflite", ""),
    ".pb": (f"perhaps a graph of TensorFlow: {TENSORFLOW}, option --saved-model with its folder", ""),
    ".pkl .pickle .joblib": ("", "is a pickle, which is never opened: load it where it comes from"),
    ".tsv .txt .json": ("", "is a table or text: load it and take the numbers"),
    ".py": (f"code: {_EXPORT}", "is code: name what gives the batches as module:function, without the suffix"),
    ".zip .tar .gz .tgz .7z .xz": ("", "is an archive: unpack it first"),
}
SUFFIXES = {suffix: Kind(*said) for suffixes, said in _SUFFIXES.items() for suffix in suffixes.split()}


def recognise(start: bytes, size: int) -> Kind:
    """Return what a file of so many bytes is that begins so, two empty texts where that does not tell."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= size - 8:
        return Kind(f"a safetensors file, which has weights but no graph: {_EXPORT}", "")
    for table, begin in ((STARTS, start), (MARKS, start[4:]), (TEXTS, text)):
        for mark, said in table.items():
            if begin.startswith(mark):
                return Kind(*said)
    return Kind("", "")
