"""The tensors of a module by name, from a file or from memory; their values are read when they are asked for.

.safetensors, .npz   by the readers of calibration data
.pt, .pth, .bin      by PyTorch's own safe loading (weights_only=True), where PyTorch is installed
a mapping            of names to arrays, or to PyTorch's tensors
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnx_lsuv.batches.formats import reader_of
from onnx_lsuv.batches.pt import is_tensor, load_pt
from onnx_lsuv.batches.stored import Stored, default_limit, held
from onnx_lsuv.batches.stream import as_array
from onnx_lsuv.errors import DataError, UsageError, listing, quote
from onnx_lsuv.model import FLOATS, Array

TORCH = (".pt", ".pth", ".bin")
SUFFIXES = (".safetensors", ".npz", *TORCH)


@dataclass(frozen=True, slots=True)
class Reference:
    """A module's tensors, in the order of the module as far as it is known."""

    where: str  # how messages call it
    tensors: Mapping[str, Stored]
    path: Path | None = None
    same: Mapping[str, str] = field(default_factory=dict)  # a name, and the first that lies in the same memory

    def read(self, name: str) -> Array:
        """Return the values of a tensor."""
        return self.tensors[name].load(0, None)

    def size(self, name: str) -> int:
        """Return the number of values of a tensor."""
        return math.prod(self.tensors[name].shape)

    def floats(self) -> Iterator[str]:
        """Yield the names of the tensors that can be trained."""
        return (name for name, each in self.tensors.items() if each.dtype.name in FLOATS)


def read_reference(source: str | os.PathLike[str] | Mapping[str, Any] | Reference) -> Reference:
    """Return the tensors of a module: a .safetensors, .npz or .pt file, or arrays by name.

    Raises UsageError for a file of another kind, DataError for one that cannot be read or holds no tensors.
    """
    if isinstance(source, Reference):
        return source
    if isinstance(source, Mapping):
        return _in_memory("the state dict", source, None)
    path = Path(source)
    where, suffix = f"the state dict {quote(path)}", path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(f"{where} should be a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file, but ends otherwise")
    if not os.path.lexists(path):
        raise DataError(
            f"{where}, which is read, is missing: give the module's own, as safetensors.torch.save_file writes "
            "module.state_dict(); the new one goes where the weights go"
        )
    if suffix in TORCH:
        return _in_memory(where, _torch(path, where), path)
    try:
        found: list[Stored] = reader_of(suffix)(path, _Every(), default_limit())
    except DataError as error:  # of readers of calibration data
        raise DataError(str(error).replace("the data file", "the state dict", 1)) from error
    if suffix == ".safetensors":
        # Its writers sort by name: what is counted, "blocks.10", comes back into its order, behind "blocks.9".
        found.sort(key=lambda each: [(p.isdigit(), int(p) if p.isdigit() else 0, p) for p in _parts(each.key or "")])
    return Reference(where, {each.key or "": each for each in found}, path)


class _Every:
    """Contains any name: those of a module may hold slashes."""

    def __contains__(self, name: object) -> bool:
        return True


def _parts(name: str) -> list[str]:
    return [each for each in re.split(r"(\d{1,9})|\.", name) if each]


def _in_memory(where: str, tensors: Mapping[str, Any], path: Path | None) -> Reference:
    found, first, same = dict[str, Stored](), dict[tuple[int, int], str](), dict[str, str]()
    for name, given in tensors.items():
        array = as_array(given, f"{quote(name)} of {where}")
        address = given.data_ptr() if is_tensor(given) else array.__array_interface__["data"][0]
        if not isinstance(name, str) or array.dtype.hasobject:
            raise DataError(f"{where} should hold arrays by name, but {quote(name)} is a {type(given).__name__}")
        found[name] = held(where, array, name)
        if array.size:
            known = first.setdefault((address, array.nbytes), name)
            if known != name:
                same[name] = known
    if not found:
        raise DataError(f"{where} holds no tensors; give all of the module's, as by state_dict()")
    return Reference(where, found, path, same)


def _torch(path: Path, where: str) -> dict[str, Any]:
    """Return the tensors of a file of PyTorch, of one that holds more than them too."""
    hint = "write it with torch.save(module.state_dict(), PATH) or safetensors.torch.save_file"
    found = load_pt(path, where, hint)
    inside = [found] if isinstance(found, dict) else []
    inside += [each for each in inside[0].values() if isinstance(each, dict)] if inside else []
    states = [each for each in inside if each and all(map(is_tensor, each.values()))]
    if len(states) != 1:
        names = f" ({listing(map(str, found))})" if isinstance(found, dict) else ""
        raise DataError(f"{where} should hold one dict of tensors, but holds {len(states)}{names}; {hint}")
    return dict(states[0])
