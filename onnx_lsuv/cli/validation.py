"""What can be said about the options before any file is opened: values that are none, and company they do not keep.

What is wrong with the settings, the library says (`lsuv.settings`); here is what only a command line can get wrong.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from onnx_lsuv.batches.formats import FORMATS
from onnx_lsuv.cli.options import DECLARED, Options, typed
from onnx_lsuv.errors import DeviceError, UsageError
from onnx_lsuv.lsuv.settings import Choices, Settings, Wanted
from onnx_lsuv.report.formats import suffix_of
from onnx_lsuv.runtime import check_device

_OUTPUTS = ["output", "weights_out", "params_out", "no_verify"]
_DECLARED = [each.name for each in fields(Options) if DECLARED in each.metadata]
# The settings that `measure` does not take, by their options.
_MAKING = set(map(typed, Choices.__optional_keys__ - Wanted.__optional_keys__))

# What a mode has no use for. --seed it has where data are random.
UNUSED = {
    "check": (
        [*_OUTPUTS, "state_dict", *(n for n in _DECLARED if n == "portable" or typed(n) in _MAKING)],
        "measures the model as it is and saves none",
    ),
    "dry_run": (
        [*_OUTPUTS, "device", "allow_tf32", "threads", "custom_ops", "seed"],
        "runs nothing and saves no model",
    ),
    "no_values": (
        [
            n
            for n in _DECLARED
            if n not in ("model", "shape", "output", "force", "no_values", "verbose", "quiet", "color")
        ],
        "runs nothing and saves an architecture",
    ),
}


def validate(options: Options) -> Settings:
    """Return the settings; raise UsageError, or DeviceError for the device, for what is wrong or does not go together.

    Data, reports and weights have their suffixes in the rooms that read and write them.
    """
    _check_values(options)
    _check_company(options)
    settings = options.settings.check()
    _check_suffixes(options)
    if options.importer:
        from onnx_lsuv.importers.table import chosen  # noqa: PLC0415

        chosen(options.importer)
    options.memory_bytes  # noqa: B018  (which raises for a size that is none)
    check_device(options.device)
    for library in options.custom_ops or ():
        if not os.path.isfile(library):  # noqa: PTH113
            raise DeviceError(
                f"the custom-operator library {library!r} is not a file: give the path of a shared library"
            )
    return settings


def _check_values(options: Options) -> None:
    """Refuse what was surely meant otherwise: an option in a value's place, a value that is no text."""
    for name, value in _texts(options):
        if re.fullmatch(r"--[a-z][a-z0-9-]*", value) and not os.path.exists(value):  # noqa: PTH110
            raise UsageError(f"{name} needs a value, but the option {value!r} follows it")
        if not value:
            raise UsageError(f"{name} needs a value, but was given an empty text")
    if options.output == "-":
        raise UsageError("the model is saved to a file, not to standard output: name a file with '-o'")


def _texts(options: Options) -> Iterator[tuple[str, str]]:
    """Yield each text and path that was given, with its option."""
    for name in _DECLARED:
        value = getattr(options, name)
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, str | Path):
                yield typed(name), str(each)


def _check_company(options: Options) -> None:
    """Refuse options that do not go together."""
    if options.check and options.dry_run:
        raise UsageError("--check runs the model and --dry-run does not: give one of them")
    for mode, (unused, what) in UNUSED.items():
        found = [typed(n) for n in unused if n in options.given and not (n == "seed" and options.random)]
        if getattr(options, mode) and found:
            listed = ", ".join(map(repr, found))
            raise UsageError(f"{typed(mode)} {what}: leave out {listed}, or leave out {typed(mode)!r}")
    if options.data and options.random:
        raise UsageError("--data and --random are two sources of data: give one of them")
    if options.fresh and options.lstm_bias == "keep" and "lstm_bias" in options.given:
        raise UsageError("--fresh gives every parameter a new value and --lstm-bias keep keeps some: give one of them")
    if options.no_verify and options.tolerance is not None:
        raise UsageError("--tolerance is on what is measured and --no-verify measures nothing: give one of them")
    lacking = {
        "batch_size": ("about data", "--data or --random", options.data or options.random),
        "samples": ("about data", "--data or --random", options.data or options.random),
        **{name: ("about images", "--data", options.data) for name in _DECLARED if name.startswith("image_")},
        "strict": ("about what is in doubt", "--fresh or --check", options.fresh or options.check),
        "compare": ("another model to measure beside", "--check", options.check),
        "baseline": ("what was measured before", "--check", options.check),
    }
    for name, (what, needed, there) in lacking.items():
        if getattr(options, name) and not there:
            raise UsageError(f"{typed(name)} is {what}: give {needed} too")


def _check_suffixes(options: Options) -> None:
    """Refuse outputs that nothing writes, and files in each other's place."""
    from onnx_lsuv.model import WEIGHTS, check_suffix  # noqa: PLC0415

    if Path(options.output or "").suffix.lower() in {*FORMATS, ".pth", ".h5", ".tflite"}:
        raise UsageError(
            f"the model is saved as ONNX, but {options.output!r} ends otherwise: end it in .onnx, or write the weights "
            "alone with '--weights-out'"
        )
    models = [path for path in options.data_paths if path.suffix.lower() == ".onnx"]
    suffix = options.model.suffix.lower()
    if suffix in (".npy", ".npz") or (models and suffix in FORMATS):
        model = f"the model comes first, but {str(options.model)!r} is data"
        first = "the model and the data look swapped" if models else model
        raise UsageError(f"{first}: give 'onnx-lsuv {models[0] if models else 'MODEL.onnx'} --data {options.model}'")
    for path in options.report or ():
        suffix_of(path)
    if options.weights_out is not None:
        check_suffix(options.weights_out, "weights are", WEIGHTS)
    if options.params_out is not None:
        from onnx_lsuv.lsuv import check_params  # noqa: PLC0415

        check_params(options.params_out)
