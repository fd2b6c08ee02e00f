"""What a file that is no ONNX model seems to be instead, by its first bytes."""

from __future__ import annotations

_STARTS = {
    b"version https://git-lfs": "a Git LFS pointer to one: run `git lfs pull`",
    b"PK\x03\x04": "a zip archive, perhaps of PyTorch or Keras: unpack it, or export the model to ONNX",
    b"\x1f\x8b": "compressed with gzip: unpack it first",
    b"BZh": "compressed with bzip2: unpack it first",
    b"\xfd7zXZ": "compressed with xz: unpack it first",
    b"\x28\xb5\x2f\xfd": "compressed with zstd: unpack it first",
    b"\x89HDF\r\n": "an HDF5 file, perhaps of Keras: export the model to ONNX",
    b"\x93NUMPY": "a NumPy array",
    b"GGUF": "a GGUF file: export the model to ONNX",
    b"\x80\x02": "a pickle, perhaps of PyTorch: export the model to ONNX",
    b"\x80\x03": "a pickle: export the model to ONNX",
    b"\x80\x04": "a pickle: export the model to ONNX",
    b"\x80\x05": "a pickle: export the model to ONNX",
}
_AT_4 = {
    b"TFL3": "a TensorFlow Lite model: export the model to ONNX",
    b"ORTM": "a model in ONNX Runtime's own format: take the ONNX file that it was made from",
}
_TEXT = {
    b"<!doctype": "a web page: download the file itself",
    b"<html": "a web page: download the file itself",
    b"<?xml": "an XML file",
    b"{": "a JSON file",
    b"[": "a JSON file",
    b"<": "text: ONNX text has to be parsed first, with onnx.parser.parse_model",
    b"ir_version": "text: a model in protobuf's text format has to be made binary first",
}


def recognise(view: memoryview) -> str | None:
    """Return "is ..." and what to do, for a file whose kind its first bytes give away; else None."""
    head = bytes(view[:512])
    for start, what in _STARTS.items():
        if head.startswith(start):
            return f"is {what}"
    if head[4:8] in _AT_4:
        return f"is {_AT_4[head[4:8]]}"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= len(view) - 8:
        return "is a safetensors file, which has weights but no graph: export the model to ONNX"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for start, what in _TEXT.items():
        if text.startswith(start):
            return f"is {what}"
    return None
