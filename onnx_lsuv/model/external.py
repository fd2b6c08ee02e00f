"""External data: where a tensor with data_location EXTERNAL has its values, and whether that place may be trusted.

A location is a path relative to the model's folder (https://onnx.ai/onnx/repo-docs/ExternalData.html). A model from
elsewhere could name any file of the user's, so what onnx's own loader refuses is refused here too: paths that leave the
folder, symbolic links below it, files with several hard links, and whatever is no regular file.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

import onnx

from onnx_lsuv.errors import ModelError
from onnx_lsuv.model.arrays import dtype_of, raw_size, shape_of
from onnx_lsuv.model.opening import LINKS, NotRegularError, mapped, open_regular

_ALIGNMENT = 64  # of tensors in a data file that is written here


@dataclass(frozen=True, slots=True)
class DataLocation:
    """Where a tensor's bytes are in an external file; `length` None: as many as the tensor has."""

    tensor: onnx.TensorProto
    location: str
    offset: int
    length: int | None

    @property
    def file(self) -> str:
        """The location, normalised: what tensors of one file have in common."""
        return os.path.normpath(self.location)


def aligned(offset: int) -> int:
    """Return where the next tensor begins in a data file that ends at `offset` so far."""
    return -(-offset // _ALIGNMENT) * _ALIGNMENT


def place_outside(tensor: onnx.TensorProto, location: str, offset: int, length: int) -> None:
    """Say where a tensor has its values, in place."""
    tensor.data_location = onnx.TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def location_of(tensor: onnx.TensorProto, where: str) -> DataLocation:
    """Read a tensor's external_data entries; unknown keys are ignored. Raises ModelError."""
    entries = {entry.key: entry.value for entry in tensor.external_data}  # of equal keys the last one counts
    numbers: dict[str, int] = {}
    for key in entries.keys() & {"offset", "length"}:
        text = entries[key]
        if not (isinstance(text, str) and text.isascii() and text.isdigit() and len(text) < 20):
            raise ModelError(f"{where} has {key} {text!r} of external data, which should be a number of bytes")
        numbers[key] = int(text)
    location = relative(entries.get("location", ""), where)
    return DataLocation(tensor, location, numbers.get("offset", 0), numbers.get("length"))


def relative(location: str | bytes, where: str) -> str:
    """Return the location, normalised where it has `..`, once it is sure to stay below the model's folder."""
    refuse = f"{where} has its data in {location!r}, but external data must be a file in the model's own folder: "
    if not location:
        raise ModelError(f"{where} has its data outside the model file, but does not say in which file")
    if not isinstance(location, str) or "\0" in location:
        raise ModelError(refuse + "this is no file name")
    if location.startswith(("/", "\\", "~")) or re.match(r"[A-Za-z]:", location) or Path(location).is_absolute():
        raise ModelError(refuse + "give a relative path")
    parts = location.replace("\\", "/").split("/") if os.sep == "\\" else location.split("/")
    if ".." in parts:
        location = os.path.normpath(location)
        if Path(location).parts[0] == "..":
            raise ModelError(refuse + "this one leaves it")
    if parts[-1] in ("", ".", ".."):
        raise ModelError(refuse + "this is a folder")
    return location


def open_data(folder: Path, location: str, model: Path | None, where: str) -> memoryview:
    """Map an external data file, read-only; raise ModelError where it is missing or not to be trusted."""
    what = f"the external data file {location!r} of {where}"
    path = folder
    try:
        for part in Path(location).parts:
            path = path / part
            if stat.S_ISLNK(path.lstat().st_mode):
                raise ModelError(
                    f"{what} is reached by the symbolic link {path}, which could lead to any file; put a copy in its "
                    "place"
                )
        with open_regular(path, LINKS) as file:
            status = os.fstat(file.fileno())
            if model is not None and os.path.samestat(status, model.stat()):
                raise ModelError(f"{what} is the model file itself; export the model again")
            if status.st_nlink > 1:
                raise ModelError(
                    f"{what} has {status.st_nlink} hard links, so it could be any other file of yours; put "
                    "a copy in its place"
                )
            return mapped(file) if status.st_size else memoryview(b"")
    except NotRegularError:
        raise ModelError(f"{what} is not a regular file") from None
    except (FileNotFoundError, NotADirectoryError):
        raise ModelError(f"{what} is missing: there is no {path}; put it there, beside the model") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{what} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def extent(data: DataLocation, size: int, where: str) -> tuple[int, int]:
    """Return offset and end of a tensor's bytes in its file of `size` bytes; raise ModelError where they do not fit."""
    dtype, shape = dtype_of(data.tensor.data_type, where), shape_of(data.tensor, where)
    if data.tensor.data_type == onnx.TensorProto.STRING:
        raise ModelError(f"{where} has strings as external data, which ONNX does not allow; export the model again")
    needed = raw_size(shape, dtype)
    if data.length is not None and data.length != needed:
        raise ModelError(
            f"{where} needs {needed} bytes for dims {list(shape)} of {dtype.name}, but its external data has length "
            f"{data.length}; export the model again"
        )
    if data.offset + needed > size:
        raise ModelError(
            f"{where} has its {needed} bytes at offset {data.offset} of {data.location!r}, but that file has "
            f"only {size} bytes; get the whole file, or export the model again"
        )
    return data.offset, data.offset + needed
