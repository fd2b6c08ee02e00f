"""Models of other frameworks in the place of the model: how each becomes ONNX."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from onnx_lsuv.errors import ModelError

if TYPE_CHECKING:
    from onnx_lsuv.model import Model

TENSORFLOW = "convert it with 'python -m tf2onnx.convert'"
_TORCH = "export it from Python with torch.onnx.export(model, (x,), 'model.onnx', dynamo=True)"
_KERAS = "export it from Python with keras.models.load_model(path).export('model.onnx', format='onnx')"
FOREIGN = {
    **dict.fromkeys((".pt", ".pth", ".ckpt", ".bin"), f"a file of PyTorch: {_TORCH}"),
    ".pt2": f"a program of PyTorch: {_TORCH}",
    ".safetensors": f"weights without a graph: build the module that they are of, and {_TORCH}",
    **dict.fromkeys((".h5", ".hdf5", ".keras"), f"a file of Keras: {_KERAS}"),
    ".tflite": f"a model of TensorFlow Lite: {TENSORFLOW}, option --tflite",
    ".pb": f"perhaps a graph of TensorFlow: {TENSORFLOW}, option --saved-model with its folder",
}


def load_model(path: Path) -> Model:
    """Load a model; raises ModelError, which for a file of another framework says how it becomes ONNX."""
    from onnx_lsuv.model import load  # noqa: PLC0415

    try:
        return load(path)
    except ModelError as error:
        # Some name ONNX files so too, which is why the name alone decides nothing.
        if path.suffix.lower() in FOREIGN and os.path.isfile(path):  # noqa: PTH113  (False where a name is too long)
            raise ModelError(f"{path} is no ONNX model but {FOREIGN[path.suffix.lower()]}") from error
        raise
