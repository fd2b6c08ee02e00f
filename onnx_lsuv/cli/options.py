"""The options as values, and what can be said about them before any file is opened."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from onnx_lsuv.errors import DeviceError, UsageError, meant

REPORTS = (".json", ".md", ".html")
WEIGHTS = (".safetensors", ".npz")
DATA = (".npy", ".npz", ".pb", ".safetensors")


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
        return path / name if self.output.endswith(("/", "\\")) or path.is_dir() else path

    @property
    def data_paths(self) -> list[Path]:
        """Where data are read from."""
        return [Path(each if Path(each).exists() else each.partition("=")[2]) for each in self.data or ()]


def validate(options: Options) -> None:
    """Raise UsageError, or DeviceError for the device, for what is wrong or does not go together."""
    _check_values(options)
    _check_company(options)
    if not 0 < options.target_std < math.inf:
        raise UsageError(f"--target-std must be a finite number above 0, not {options.target_std}")
    if options.tolerance is not None and not 0 < options.tolerance < 1:
        raise UsageError(f"--tolerance must lie between 0 and 1, not {options.tolerance}")
    for path in options.report or ():
        if path.suffix.lower() not in REPORTS:
            raise UsageError(
                f"a report is written as {', '.join(REPORTS)}, but {str(path)!r} ends otherwise"
                f"{meant(path.suffix, REPORTS)}"
            )
    if options.weights_out is not None and options.weights_out.suffix.lower() not in WEIGHTS:
        raise UsageError(
            f"weights are written as {' or '.join(WEIGHTS)}, but {str(options.weights_out)!r} ends otherwise"
        )
    targets(options)
    memory(options)
    check_device(options.device)
    for library in options.custom_ops or ():
        if not Path(library).is_file():
            raise DeviceError(
                f"the custom-operator library {library!r} is not a file: give the path of a shared library"
            )


def _check_values(options: Options) -> None:
    """Refuse what was surely meant otherwise: an option in a value's place, files in each other's."""
    for name, value in _texts(options):
        if re.fullmatch(r"--[a-z][a-z0-9-]*", value) and not Path(value).exists():
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
    if options.model.suffix.lower() in (".npy", ".npz", ".safetensors"):
        first = (
            "the model and the data look swapped"
            if models
            else f"the model comes first, but {str(options.model)!r} is data"
        )
        raise UsageError(f"{first}: give 'onnx-lsuv {models[0] if models else 'MODEL.onnx'} --data {options.model}'")


def _texts(options: Options) -> Iterator[tuple[str, str]]:
    yield "MODEL", "" if str(options.model) == "." else str(options.model)
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
    if options.data and options.random:
        raise UsageError("--data and --random are two sources of data: give one of them")
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
    if not options.writes:
        mode = "--check" if options.check else "--dry-run"
        saving = {"-o": options.output is not None, "--weights-out": options.weights_out is not None}
        saving |= {"--portable": options.portable and options.check}
        for name, given in saving.items():
            if given:
                raise UsageError(f"{mode} saves no model: leave out {name!r}, or leave out {mode!r}")


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
    size = float(found[1]) * 1024 ** " KMGT".index(found[2].upper() or " ") if found else math.inf
    if size >= 2**63:
        raise UsageError(f"--memory takes a size such as 500M or 2G, not {options.memory!r}")
    return int(size)


def check_device(name: str) -> None:
    """Raise DeviceError for a name that no device has."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        wish = re.sub(r"gpu|nvidia", "cuda", name.lower())
        wish = re.sub(r"^cuda:?(\d+)$", r"cuda:\1", wish)
        near = f" (did you mean {wish!r}?)" if wish.startswith("cuda:") else meant(wish, ("auto", "cpu", "cuda"))
        raise DeviceError(f"the device must be 'auto', 'cpu', 'cuda' or 'cuda:N', not {name!r}{near}")
