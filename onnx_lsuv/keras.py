"""Keras 3 models, initialised in place: exported, initialised, loaded back by value.

    import onnx_lsuv.keras

    onnx_lsuv.keras.initialize_(model, batch)

Needs Keras and what its `export(format="onnx")` needs: with the backend of PyTorch, PyTorch alone. Nothing else in this
package imports them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Unpack

import keras
import numpy as np

from onnx_lsuv.lsuv import Result, Settings, initialize
from onnx_lsuv.lsuv.settings import Choices
from onnx_lsuv.model import Array, Model, load, map_files
from onnx_lsuv.modules.bridge import exporting, feed, taken_back
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
    result = initialize(
        model, _feed(net, model, batch), settings, device=device, threads=threads, memory=memory, **choices
    )
    tensors, result = taken_back(result, {each.path: keras.ops.convert_to_numpy(each) for each in net.weights})
    for each in net.weights:
        if each.path in tensors:
            each.assign(tensors[each.path])
    return result


def _exported(net: keras.Model, batch: Any) -> Model:
    with TemporaryDirectory(prefix="onnx-lsuv-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "model.onnx"
        with exporting(f"Keras cannot export {net.name} as ONNX"):
            net(batch, training=False)  # one that was never called is refused
            net.export(str(path), format="onnx", verbose=False)
        return map_files(load(path))


def _feed(net: keras.Model, model: Model, batch: Any) -> dict[str, Array]:
    """Return a batch by the names of the inputs that it is for."""
    if isinstance(batch, Mapping):
        batch = [batch[each.name] for each in net.inputs if each.name in batch]
    arrays = list(batch) if isinstance(batch, list | tuple) else [batch]
    named = feed(model, arrays, "arrays", net.name)
    return {name: np.asarray(keras.ops.convert_to_numpy(each)) for name, each in named.items()}
