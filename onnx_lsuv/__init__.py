"""Initialise neural networks as ONNX files: orthonormal weights, rescaled layer by layer to unit output variance.

    import onnx_lsuv

    model = onnx_lsuv.load("resnet18.onnx")
    plan = onnx_lsuv.plan(model)  # what would happen; runs nothing
    result = onnx_lsuv.initialize(model, [{"image": batch}], seed=0)
    onnx_lsuv.save(result.model, "resnet18.lsuv.onnx")
    onnx_lsuv.write_report(result, "resnet18.html")

The library never prints, reads no environment variables and never exits: it returns values, raises the errors
of `onnx_lsuv.errors`, and calls back.
"""

TYPE_CHECKING = False  # as typing has it, which takes longer to load than the rest
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from onnx_lsuv.errors import DataError, DeviceError, LsuvError, ModelError, OutputError, UsageError
    from onnx_lsuv.importers.forecasting import forecast
    from onnx_lsuv.lsuv import Change, LayerReport, Result, Settings, SkippedReport, initialize, measure, plan
    from onnx_lsuv.model import Model, from_proto, load, save, save_weights, to_bytes
    from onnx_lsuv.portable import make_portable
    from onnx_lsuv.report import write_report

__version__ = "0.1.0"
__all__ = [
    "Change",
    "DataError",
    "DeviceError",
    "LayerReport",
    "LsuvError",
    "Model",
    "ModelError",
    "OutputError",
    "Result",
    "Settings",
    "SkippedReport",
    "UsageError",
    "forecast",
    "from_proto",
    "initialize",
    "load",
    "make_portable",
    "measure",
    "plan",
    "save",
    "save_weights",
    "to_bytes",
    "write_report",
]


def loaded_on_use(package: str, homes: "Mapping[str, str]") -> "Callable[[str], Any]":
    """Return a package's `__getattr__`: its names are loaded on first use, so that `--help` waits for no numpy.

    Args:
        package: its name.
        homes: the names that each of its modules has, separated by spaces.
    """
    module_of = {name: module for module, names in homes.items() for name in names.split()}

    def getattribute(name: str) -> "Any":
        from importlib import import_module  # noqa: PLC0415

        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{module_of[name]}"), name)

    return getattribute


__getattr__ = loaded_on_use(
    __name__,
    {
        "errors": "DataError DeviceError LsuvError ModelError OutputError UsageError",
        "importers.forecasting": "forecast",
        "lsuv": "Change LayerReport Result Settings SkippedReport initialize measure plan",
        "model": "Model from_proto load save save_weights to_bytes",
        "portable": "make_portable",
        "report": "write_report",
    },
)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
