"""The starts that are compared: what a net has before, and what onnx_lsuv is then asked for."""

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from learning.nets import Net, he


@dataclass(frozen=True)
class Start:
    """What the tool starts from, "framework", "customary" or "he", and its settings; None where it is not run."""

    base: str = "framework"
    settings: dict[str, Any] | None = None


STARTS = {
    "framework": Start(),
    "customary": Start("customary"),
    "he": Start("he"),
    "lsuv": Start(settings={"residual": "off", "lstm_bias": "forget"}),
    "auto": Start(settings={"residual": "auto"}),
    "center": Start(settings={"residual": "off", "center": True}),
    "auto center": Start(settings={"residual": "auto", "center": True}),
    "lsuv on customary": Start("customary", {"residual": "off"}),
    "auto on customary": Start("customary", {"residual": "auto"}),
    "kept bias": Start(settings={"keep_bias": True}),
}


def settings_of(start: Start) -> dict[str, Any]:
    """The settings of a start in this version of the tool: one without a choice for residual branches leaves them."""
    from onnx_lsuv import Settings  # noqa: PLC0415

    known = {field.name for field in fields(Settings)}
    return {k: v for k, v in (start.settings or {}).items() if k in known or v != "off"}


def started(net: Net, start: Start, seed: int, batch: Tensor) -> nn.Module:
    """The net from a start; what it is called with is for the tool's calibration."""
    torch.manual_seed(seed)
    module = net.make()
    {"framework": lambda _: None, "customary": net.customary, "he": he}[start.base](module)
    if start.settings is not None:
        from onnx_lsuv.torch import initialize_  # noqa: PLC0415

        initialize_(module, batch, seed=seed, threads=1, **settings_of(start))
    return module
