"""The formats of data files, by suffix.

Loaded with the command's help, so a format's reader is loaded when a file asks for it.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

# A module of this room, and its reader (`stored.Reader`).
FORMATS = {
    ".npy": ("npy", "read_npy"),
    ".npz": ("npz", "read_npz"),
    ".safetensors": ("tensors", "read_safetensors"),
    ".pb": ("tensors", "read_pb"),
    ".csv": ("tables", "read_csv"),
    ".parquet": ("parquet", "read_parquet"),
    ".pt": ("pt", "read_pt"),
}
# A file is a sample: `images` makes one array of many.
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")


def reader_of(suffix: str) -> Any:
    """Return the reader of a format, a key of `FORMATS`."""
    module, function = FORMATS[suffix]
    return getattr(import_module(f"onnx_lsuv.batches.{module}"), function)
