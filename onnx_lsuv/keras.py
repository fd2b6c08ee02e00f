"""Keras 3 models, initialised in place: exported, initialised, loaded back by value.

    import onnx_lsuv.keras

    onnx_lsuv.keras.initialize_(model, batch)

Needs Keras and what its `export(format="onnx")` needs: with the backend of PyTorch, PyTorch alone. Nothing else in this
package imports them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Unpack

import keras
import numpy as np

from onnx_lsuv.errors import ModelError, UsageError, listing
from onnx_lsuv.lsuv import Result, Settings, initialize
from onnx_lsuv.lsuv.settings import Choices
from onnx_lsuv.model import Array, Model, load, map_files
from onnx_lsuv.modules import state_dict
from onnx_lsuv.runtime import Device


def initialize_(
    net: keras.Model,
    batch: Any,
    settings: Settings | None = None,
    *,
    device: str | Device = "cpu",
    threads: int | None = None,
    memory: int | str | None = None,
    **choices: Unpack[Choices],
) -> Result:
    """Give a model's layers fresh weights, scaled to unit output variance on a batch (LSUV), in place.

    Args:
        net: a model that is built, or that the batch builds; what trains, and how, stays.
        batch: an array, or a list of them in the order of the model's inputs, or a dict by their names.
        settings: how to do it, as for `onnx_lsuv.initialize`; so are the others.
        device: where ONNX Runtime runs.
        threads: how many cores to use; None for all.
        memory: as for `onnx_lsuv.initialize`.
        choices: fields of `Settings` as keywords.

    Returns:
        The result; its model is the exported one with the new values, which `onnx_lsuv.save` writes. Its notes say
        which of the model's weights the file does not have: a BatchNormalization that Keras folds stays as it is.

    Raises:
        UsageError: an argument is wrong.
        ModelError: Keras cannot export the model, there is nothing to initialise, or ONNX Runtime refuses it.
        DataError: the batch does not fit.
    """
    model = _exported(net, batch)
    feed = _feed(net, model, batch)
    result = initialize(model, feed, settings, device=device, threads=threads, memory=memory, **choices)
    state = state_dict(result, {each.path: keras.ops.convert_to_numpy(each) for each in net.weights})
    for each in net.weights:
        if each.path in state.tensors:
            each.assign(state.tensors[each.path])
    return replace(result, notes=(*result.notes, *state.notes[1:]))  # the first says how many were found


def _exported(net: keras.Model, batch: Any) -> Model:
    with TemporaryDirectory(prefix="onnx-lsuv-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "model.onnx"
        try:
            net(batch, training=False)  # one that was never called is refused
            net.export(str(path), format="onnx", verbose=False)
        except Exception as error:
            what = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ModelError(f"Keras cannot export {net.name} as ONNX: {what}") from error
        return map_files(load(path))


def _feed(net: keras.Model, model: Model, batch: Any) -> dict[str, Array]:
    """Return a batch by the names of the inputs that it is for."""
    names = [each.name for each in model.proto.graph.input]
    if isinstance(batch, Mapping):
        batch = [batch[each.name] for each in net.inputs if each.name in batch]
    arrays = list(batch) if isinstance(batch, list | tuple) else [batch]
    if len(arrays) != len(names):
        raise UsageError(
            f"the batch has {len(arrays)} arrays, but {net.name} has {len(names)} inputs ({listing(names)})"
        )
    return {name: np.asarray(keras.ops.convert_to_numpy(each)) for name, each in zip(names, arrays, strict=True)}
