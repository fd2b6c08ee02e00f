"""Initialise neural networks as ONNX files: orthonormal weights, rescaled layer by layer to unit output variance.

    import onnx_lsuv

    model = onnx_lsuv.load("resnet18.onnx")
    result = onnx_lsuv.initialize(model, [{"image": batch}], seed=0)
    onnx_lsuv.save(result.model, "resnet18.lsuv.onnx")
    onnx_lsuv.write_report(result, "resnet18.html")

The library never prints, reads no environment variables and never exits: it returns values, raises the errors
of `onnx_lsuv.errors`, and calls back.
"""

TYPE_CHECKING = False  # as typing has it, which takes longer to load than the rest
if TYPE_CHECKING:
    from typing import Any

    from onnx_lsuv.errors import DataError, DeviceError, LsuvError, ModelError, OutputError, UsageError
    from onnx_lsuv.importers import Forecast, forecast
    from onnx_lsuv.lsuv import Change, LayerReport, Result, SkippedReport, initialize, measure
    from onnx_lsuv.model import Model, from_proto, load, save, save_weights, to_bytes
    from onnx_lsuv.report.writing import write_report

__version__ = "0.1.0"

# Loaded on first use, so that `onnx-lsuv --help` does not wait for numpy, onnx and ONNX Runtime.
_HOMES = {
    "errors": ("DataError", "DeviceError", "LsuvError", "ModelError", "OutputError", "UsageError"),
    "importers": ("Forecast", "forecast"),
    "lsuv": ("Change", "LayerReport", "SkippedReport", "Result", "initialize", "measure"),
    "model": ("Model", "from_proto", "load", "save", "save_weights", "to_bytes"),
    "report.writing": ("write_report",),
}
__all__ = [
    "Change",
    "DataError",
    "DeviceError",
    "Forecast",
    "LayerReport",
    "LsuvError",
    "Model",
    "ModelError",
    "OutputError",
    "Result",
    "SkippedReport",
    "UsageError",
    "forecast",
    "from_proto",
    "initialize",
    "load",
    "measure",
    "save",
    "save_weights",
    "to_bytes",
    "write_report",
]


def __getattr__(name: str) -> "Any":
    from importlib import import_module  # noqa: PLC0415

    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"onnx_lsuv.{module}"), name)
    raise AttributeError(f"module 'onnx_lsuv' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
