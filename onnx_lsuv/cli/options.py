"""The options as values, and what can be said about them before any file is opened."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from onnx_lsuv.errors import DeviceError, ModelError, UsageError, meant
from onnx_lsuv.report.formats import suffix_of

WEIGHTS = (".safetensors", ".npz")
DATA = (".npy", ".npz", ".pb", ".safetensors")
# What a mode has no use for. --seed it has where data are random.
UNUSED = {
    "check": (
        (
            "output",
            "weights_out",
            "no_verify",
            "fresh",
            "portable",
            "init",
            "no_rescale",
            "keep_bias",
            "center",
            "seed",
        ),
        "measures the model as it is and saves none",
    ),
    "dry_run": (
        ("output", "weights_out", "no_verify", "device", "allow_tf32", "threads", "custom_ops", "seed"),
        "runs nothing and saves no model",
    ),
}


class Init(StrEnum):
    """How weights are drawn."""

    orthonormal = "orthonormal"
    delta = "delta"
    he = "he"
    xavier = "xavier"
    keep = "keep"


class Format(StrEnum):
    """What is printed on standard output."""

    text = "text"
    json = "json"
    github = "github"


class Color(StrEnum):
    """When text is coloured."""

    auto = "auto"
    always = "always"
    never = "never"


@dataclass(frozen=True, slots=True)
class Options:
    """What the command was given, as typed."""

    model: Path
    data: list[str] | None
    random: bool
    shape: list[str] | None
    batch_size: int | None
    samples: int | None
    output: str | None
    force: bool
    report: list[Path] | None
    fresh: bool
    portable: bool
    weights_out: Path | None
    init: Init
    no_rescale: bool
    target_std: float
    target: list[str] | None
    keep_bias: bool
    center: bool
    tolerance: float | None
    include: list[str] | None
    exclude: list[str] | None
    seed: int
    no_verify: bool
    device: str
    allow_tf32: bool
    threads: int | None
    memory: str | None
    custom_ops: list[str] | None
    check: bool
    compare: Path | None
    dry_run: bool
    output_format: Format
    color: Color
    verbose: int
    quiet: bool
    given: frozenset[str] = frozenset()  # those that were typed, by their names here
    command: tuple[str, ...] = ()  # the program and its arguments, where it was called as one

    @property
    def writes(self) -> bool:
        """Whether a model is to be saved."""
        return not (self.check or self.dry_run)

    @property
    def target_path(self) -> Path:
        """Where the model is to be saved; a folder stands for the default name in it."""
        name = f"{self.model.stem}.lsuv.onnx"
        if self.output is None:
            return self.model.with_name(name)
        path = Path(self.output)
        # os.path says no, where a Path raises, to a name that is too long
        return path / name if self.output.endswith(("/", "\\")) or os.path.isdir(path) else path  # noqa: PTH112

    @property
    def scratch(self) -> Path | None:
        """Where values go for which there is no memory: beside the output, or where the system has such files."""
        folder = self.target_path.parent
        return folder if self.writes or os.access(folder, os.W_OK) else None

    @property
    def data_paths(self) -> list[Path]:
        """Where data are read from."""
        # False, not an error, for what cannot be looked at; Path.exists raises.
        return [Path(each if os.path.exists(each) else each.partition("=")[2]) for each in self.data or ()]  # noqa: PTH110


def model_path(name: str) -> Path:
    """Return the path of the model; raises UsageError or ModelError for what can be none."""
    if not name:
        raise UsageError("MODEL needs a value, but was given an empty text")
    if name in ("check", "compare", "dry-run", "help", "version") and not os.path.exists(name):  # noqa: PTH110
        raise UsageError(f"there is no command {name!r}: give the option '--{name}'")
    if scheme := re.match(r"([a-z][a-z0-9+.-]+)://", name, re.IGNORECASE):
        what = "give its path alone" if scheme[1].lower() == "file" else "download it, and give the file"
        raise ModelError(f"the model {name!r} is an address, and nothing is read from the network: {what}")
    return Path(name)


def validate(options: Options) -> None:
    """Raise UsageError, or DeviceError for the device, for what is wrong or does not go together."""
    _check_values(options)
    _check_company(options)
    if not 0 < options.target_std < math.inf:
        raise UsageError(f"--target-std must be a finite number above 0, not {options.target_std}")
    if options.tolerance is not None and not 0 < options.tolerance < 1:
        raise UsageError(f"--tolerance must lie between 0 and 1, not {options.tolerance}")
    for path in options.report or ():
        suffix_of(path)
    if options.weights_out is not None and options.weights_out.suffix.lower() not in WEIGHTS:
        raise UsageError(
            f"weights are written as {' or '.join(WEIGHTS)}, but {str(options.weights_out)!r} ends otherwise"
        )
    targets(options)
    memory(options)
    check_device(options.device)
    for library in options.custom_ops or ():
        if not os.path.isfile(library):  # noqa: PTH113
            raise DeviceError(
                f"the custom-operator library {library!r} is not a file: give the path of a shared library"
            )


def _check_values(options: Options) -> None:
    """Refuse what was surely meant otherwise: an option in a value's place, files in each other's."""
    for name, value in _texts(options):
        if re.fullmatch(r"--[a-z][a-z0-9-]*", value) and not os.path.exists(value):  # noqa: PTH110
            raise UsageError(f"{name} needs a value, but the option {value!r} follows it")
        if not value:
            raise UsageError(f"{name} needs a value, but was given an empty text")
    if options.output == "-":
        raise UsageError("the model is saved to a file, not to standard output: name a file with '-o'")
    if options.output is not None and Path(options.output).suffix.lower() in (*DATA, ".pt", ".pth", ".h5", ".tflite"):
        raise UsageError(
            f"the model is saved as ONNX, but {options.output!r} ends otherwise: end it in .onnx, or write the weights "
            "alone with '--weights-out'"
        )
    models = [path for path in options.data_paths if path.suffix.lower() == ".onnx"]
    if options.model.suffix.lower() in (".npy", ".npz") or (models and options.model.suffix.lower() in DATA):
        first = (
            "the model and the data look swapped"
            if models
            else f"the model comes first, but {str(options.model)!r} is data"
        )
        raise UsageError(f"{first}: give 'onnx-lsuv {models[0] if models else 'MODEL.onnx'} --data {options.model}'")


def _texts(options: Options) -> Iterator[tuple[str, str]]:
    yield "MODEL", str(options.model)
    single = {"-o": options.output, "--device": options.device, "--memory": options.memory}
    single |= {"--weights-out": _text(options.weights_out), "--compare": _text(options.compare)}
    yield from ((name, value) for name, value in single.items() if value is not None)
    many = {"--data": options.data, "--shape": options.shape, "--include": options.include}
    many |= {"--exclude": options.exclude, "--target": options.target, "--custom-ops": options.custom_ops}
    many |= {"--report": [str(path) for path in options.report or ()]}
    yield from ((name, value) for name, values in many.items() for value in values or ())


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _check_company(options: Options) -> None:
    """Refuse options that do not go together."""
    if options.check and options.dry_run:
        raise UsageError("--check runs the model and --dry-run does not: give one of them")
    for mode, (unused, what) in UNUSED.items():
        found = [_typed(n) for n in unused if n in options.given and not (n == "seed" and options.random)]
        if getattr(options, mode) and found:
            listed = ", ".join(map(repr, found))
            raise UsageError(f"{_typed(mode)} {what}: leave out {listed}, or leave out {_typed(mode)!r}")
    if options.data and options.random:
        raise UsageError("--data and --random are two sources of data: give one of them")
    for name in ("batch_size", "samples"):
        if getattr(options, name) is not None and not (options.data or options.random):
            raise UsageError(f"{_typed(name)} is about data: give --data or --random too")
    if options.shape and not options.random:
        raise UsageError("--shape is the shape of random data: give --random too")
    if options.compare is not None and not options.check:
        raise UsageError("--compare is another model to measure beside: give --check too")
    if options.fresh and (options.keep_bias or options.init == "keep"):
        other = "--keep-bias" if options.keep_bias else "--init keep"
        raise UsageError(f"--fresh gives every parameter a new value and {other} keeps some: give one of them")
    if options.center and (options.keep_bias or options.no_rescale):
        other = "--keep-bias" if options.keep_bias else "--no-rescale"
        raise UsageError(f"--center sets biases by the scaled weights and {other} leaves them: give one of them")
    if options.target and options.no_rescale:
        raise UsageError("--target is a std to scale to and --no-rescale scales nothing: give one of them")


def _typed(name: str) -> str:
    return "-o" if name == "output" else f"--{name.replace('_', '-')}"


def targets(options: Options) -> dict[str, float]:
    """Read the values of `--target GLOB=STD`; raise UsageError."""
    found = {}
    for each in options.target or ():
        pattern, equals, number = each.rpartition("=")
        try:
            std = float(number)
        except ValueError:
            std = math.nan
        if not (equals and pattern and 0 < std < math.inf):
            raise UsageError(f"--target takes GLOB=STD with a finite number above 0, as in 'fc*=0.1', not {each!r}")
        if pattern in found:
            raise UsageError(f"--target is given twice for {pattern!r}: give one std")
        found[pattern] = std
    return found


def memory(options: Options) -> int | None:
    """Read a size: a number of bytes, or of K, M, G, T of 1024; raise UsageError."""
    if options.memory is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", options.memory.strip(), re.IGNORECASE)
    if not found:
        raise UsageError(f"--memory takes a size such as 500M or 2G, not {options.memory!r}")
    # More than any machine has is as much as there is.
    return int(min(float(found[1]) * 1024 ** " KMGT".index(found[2].upper() or " "), sys.maxsize))


def check_device(name: str) -> None:
    """Raise DeviceError for a name that no device has."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        wish = re.sub(r"gpu|nvidia", "cuda", name.lower())
        wish = re.sub(r"^cuda:?(\d+)$", r"cuda:\1", wish)
        near = f" (did you mean {wish!r}?)" if wish.startswith("cuda:") else meant(wish, ("auto", "cpu", "cuda"))
        raise DeviceError(f"the device must be 'auto', 'cpu', 'cuda' or 'cuda:N', not {name!r}{near}")
