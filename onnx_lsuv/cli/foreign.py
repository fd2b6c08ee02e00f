"""Models of other frameworks in the place of the model: how each becomes ONNX."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from onnx_lsuv.errors import ModelError

if TYPE_CHECKING:
    from onnx_lsuv.model import Model


def load_model(path: Path) -> Model:
    """Load a model; raises ModelError, which for a file of another framework says how it becomes ONNX."""
    from onnx_lsuv.model import load  # noqa: PLC0415
    from onnx_lsuv.model.kinds import SUFFIXES  # noqa: PLC0415

    try:
        return load(path)
    except ModelError as error:
        kind = SUFFIXES.get(path.suffix.lower())
        if kind is not None and kind.model and os.path.isfile(path):  # noqa: PTH113  (False where a name is too long)
            raise ModelError(f"{path} is no ONNX model but {kind.model}") from error
        raise
