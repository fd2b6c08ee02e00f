"""Initialise neural networks as ONNX files: orthonormal weights, rescaled layer by layer to unit output variance.

    import onnx_lsuv

    model = onnx_lsuv.load("resnet18.onnx")
    plan = onnx_lsuv.plan(model)  # what would happen; runs nothing
    result = onnx_lsuv.initialize(model, loader, seed=0)  # or an array, or {"image": array}, or a list of such
    onnx_lsuv.save(result.model, "resnet18.lsuv.onnx")
    onnx_lsuv.write_report(result, "resnet18.html")

The library never prints, reads no environment variables and never exits: it returns values, raises the errors
of `onnx_lsuv.errors`, and calls back.
"""

TYPE_CHECKING = False  # as typing has it, which takes longer to load than the rest
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from onnx_lsuv.architecture import complete
    from onnx_lsuv.errors import DataError, DeviceError, LsuvError, ModelError, OutputError, UsageError
    from onnx_lsuv.importers import Forecast, forecast
    from onnx_lsuv.lsuv import (
        Architecture,
        Change,
        LayerReport,
        Remaining,
        Result,
        RoleReport,
        Settings,
        SkippedReport,
        SumReport,
        initialize,
        measure,
        measure_before,
        plan,
        save_params,
        without_values,
    )
    from onnx_lsuv.model import Model, from_proto, load, save, save_weights, to_bytes, to_proto
    from onnx_lsuv.modules import StateDict, TensorMatch, save_state_dict, state_dict
    from onnx_lsuv.portable import Portable, make_portable
    from onnx_lsuv.report.writing import write_report

__version__ = "0.1.0"
__all__ = [
    "Architecture",
    "Change",
    "DataError",
    "DeviceError",
    "Forecast",
    "LayerReport",
    "LsuvError",
    "Model",
    "ModelError",
    "OutputError",
    "Portable",
    "Remaining",
    "Result",
    "RoleReport",
    "Settings",
    "SkippedReport",
    "StateDict",
    "SumReport",
    "TensorMatch",
    "UsageError",
    "complete",
    "forecast",
    "from_proto",
    "initialize",
    "load",
    "make_portable",
    "measure",
    "measure_before",
    "plan",
    "save",
    "save_params",
    "save_state_dict",
    "save_weights",
    "state_dict",
    "to_bytes",
    "to_proto",
    "without_values",
    "write_report",
]


def loaded_on_use(package: str, names: "Sequence[str]", modules: str) -> "Callable[[str], Any]":
    """Return a package's `__getattr__`, which loads a name on first use, so that `--help` does not wait for numpy.

    Args:
        package: its name.
        names: what it exports.
        modules: where these are, in an order in which each loads those before anyway; the first that has a name counts.
    """

    def load(name: str) -> "Any":
        from importlib import import_module  # noqa: PLC0415

        for module in modules.split() if name in names else ():
            loaded = import_module(f"{package}.{module}")
            if name in vars(loaded) or name in vars(loaded).get("__all__", ()):
                value = getattr(loaded, name)
                if not hasattr(loaded, "__path__"):  # its own, which stays: the way here is long
                    setattr(import_module(package), name, value)
                return value
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return load


__getattr__ = loaded_on_use(
    __name__, __all__, "errors model architecture lsuv importers portable report.writing modules"
)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
