"""Reader for .pt: tensors as torch.save writes them, by PyTorch itself, which unpickles nothing but tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnx_lsuv.batches.stored import Stored, held, looks_like, open_file, optional, reason
from onnx_lsuv.batches.stream import as_array
from onnx_lsuv.errors import DataError, quote

HINT = "write tensors with torch.save(x, path) or torch.save({name: x}, path)"


def read_pt(path: Path, *_: object) -> list[Stored]:
    """Return the tensors of a .pt file, one or by name, mapped where PyTorch can; raises DataError."""
    where = f"the data file {quote(path)}"
    found = load_pt(path, where, HINT)
    named = found if isinstance(found, Mapping) else {None: found}
    if not all(map(is_tensor, named.values())):
        kinds = ", ".join(sorted({type(value).__name__ for value in named.values()}))
        raise DataError(f"{where} holds {kinds}; {HINT}")
    places = {key: where if key is None else f"tensor {quote(key)} of {where[14:]}" for key in named}
    return [held(places[key], as_array(value, places[key]), key and str(key)) for key, value in named.items()]


def load_pt(path: Path, where: str, hint: str) -> Any:
    """Return what torch.save wrote; raises DataError, which ends in what to do, where that is more than tensors."""
    open_file(path).close()  # which says what is wrong with the path
    torch: Any = optional("torch", where, "torch")
    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # of before PyTorch 1.6
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever unpickling raises
        what = looks_like(path, f"holds no tensors ({reason(error)})")
        what = what if "pickle" not in what and "zip" not in what else "holds more than tensors"
        raise DataError(f"{where} {what}; {hint}") from error


def is_tensor(value: Any) -> bool:
    """Whether a value is one of PyTorch's tensors."""
    return hasattr(value, "detach") and hasattr(value, "data_ptr")
