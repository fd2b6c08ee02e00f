"""PyTorch's modules, initialised in place: exported in memory, initialised, loaded back by name.

    import onnx_lsuv.torch

    onnx_lsuv.torch.initialize_(module, batch)

Needs PyTorch and its exporter: `pip install 'onnx-lsuv[cpu,torch]'`. Nothing else in this package imports them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Unpack

import ml_dtypes
import numpy as np
import torch
from torch.utils import _pytree as pytree

from onnx_lsuv.errors import UsageError
from onnx_lsuv.lsuv import Result, Settings, initialize
from onnx_lsuv.lsuv.settings import Choices
from onnx_lsuv.model import Array, Model, from_proto, load, map_files
from onnx_lsuv.modules.bridge import exporting, feed, taken_back
from onnx_lsuv.runtime import Device

LARGE = 1 << 30  # bytes of parameters from which on a model goes through a file; a protobuf message ends at 2 GiB


def initialize_(
    module: torch.nn.Module,
    batch: Any,
    settings: Settings | None = None,
    *,
    device: str | Device = "cpu",
    threads: int | None = None,
    memory: int | str | None = None,
    **choices: Unpack[Choices],
) -> Result:
    """Give a module's layers fresh weights, scaled to unit output variance on a batch (LSUV), in place.

    Its parameters stay the same objects, tied ones stay tied, and it stays on its device and in its mode.

    Args:
        module: what `torch.onnx.export(dynamo=True)` exports.
        batch: what the module is called with: a tensor, a tuple of arguments, or a dict of keyword arguments.
        settings: how to do it, as for `onnx_lsuv.initialize`; so are the others. Patterns are for names as
            `module.named_parameters()` gives them, `include=["encoder.*"]`.
        device: where ONNX Runtime runs.
        threads: how many cores to use; None for all.
        memory: as for `onnx_lsuv.initialize`.
        choices: fields of `Settings` as keywords.

    Returns:
        The result; its model is the exported one with the new values, which `onnx_lsuv.save` writes.

    Raises:
        UsageError: an argument is wrong, or the exporter is not installed.
        ModelError: PyTorch cannot export the module, there is nothing to initialise, or ONNX Runtime refuses it.
        DataError: the batch does not fit.
    """
    given = (batch,) if isinstance(batch, torch.Tensor) else batch
    if not isinstance(given, tuple | Mapping):
        kind = type(batch).__name__
        raise UsageError(f"the batch should be a tensor, a tuple of arguments or a dict of them, but is a {kind}")
    model = _exported(module, given)
    result = initialize(model, _feed(model, given), settings, device=device, threads=threads, memory=memory, **choices)
    own = dict(module.named_buffers(remove_duplicate=False)) | dict(module.named_parameters(remove_duplicate=False))
    tensors, result = taken_back(result, own)
    with torch.no_grad():
        for name, values in tensors.items():
            if own[name].is_floating_point():
                own[name].copy_(_tensor(values))
    return result


def _exported(module: torch.nn.Module, given: Any) -> Model:
    args, kwargs = (given, None) if isinstance(given, tuple) else ((), dict(given))
    with exporting(f"PyTorch cannot export {type(module).__name__} with dynamo=True"):
        try:
            with _evaluating(module), torch.no_grad():
                program = torch.onnx.export(module, args, kwargs=kwargs, dynamo=True, optimize=False, verbose=False)
        except ImportError as error:
            raise UsageError("PyTorch's exporter is not installed whole: pip install onnxscript") from error
    if sum(each.nbytes for each in module.state_dict().values()) < LARGE:
        return from_proto(program.model_proto)
    with TemporaryDirectory(prefix="onnx-lsuv-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "module.onnx"
        program.save(path, external_data=True)
        return map_files(load(path))


@contextmanager
def _evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode, and each of its parts back into its own mode."""
    modes = {each: each.training for each in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for each, mode in modes.items():
            each.training = mode


def _feed(model: Model, given: Any) -> dict[str, torch.Tensor]:
    """Return the tensors of a batch by the names of the inputs that they became."""
    tensors = [each for each in pytree.tree_leaves(given) if isinstance(each, torch.Tensor)]
    names = [each.name for each in model.proto.graph.input]
    if isinstance(given, Mapping) and set(names) <= given.keys():
        tensors = [given[name] for name in names]
    return feed(model, tensors, "tensors")


def _tensor(values: Array) -> torch.Tensor:
    if values.dtype == ml_dtypes.bfloat16:
        values = values.astype(np.float32)
    return torch.from_numpy(np.array(values))
