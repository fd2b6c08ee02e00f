"""The options, declared once: as values, and, in groups, as the help shows them and the parser takes them.

Annotations are values here, which the parser reads.
"""
# ruff: noqa: RUF009  (what is called in the defaults gives fields)

import math
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import typer

from onnx_lsuv import __version__
from onnx_lsuv.batches.formats import FORMATS as FILES
from onnx_lsuv.cli import help as helping
from onnx_lsuv.cli.streams import emit
from onnx_lsuv.cli.terminal import Color
from onnx_lsuv.errors import ModelError, UsageError
from onnx_lsuv.lsuv.settings import LSTM_BIAS, METHODS, RESIDUAL, Settings, memory_bytes
from onnx_lsuv.report.formats import FORMATS
from onnx_lsuv.runtime import device_words

DATA, OUTPUT, TRAINING, METHOD = "Data", "Output", "Training", "Method"
RUNTIME, MODES, MESSAGES = "Runtime", "Modes", "Messages"
ENDINGS = ",".join(suffix.removeprefix(".") for suffix in FORMATS)
MOST = 10**9  # of samples or cores
DECLARED = "declared"  # where the metadata of a field holds what the parser is told


class Format(StrEnum):
    """What is printed on standard output."""

    text = "text"
    json = "json"
    github = "github"


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


def _version(wanted: bool) -> None:
    if wanted:
        emit(f"onnx-lsuv {__version__}")
        raise typer.Exit


def _methods(incomplete: str) -> list[str]:
    """Return what may complete a value of --init."""
    pattern, equals, begun = incomplete.rpartition("=")
    return [f"{pattern}{equals}{method}" for method in METHODS if method.startswith(begun)]


def _option(panel: str, text: str, *names: str, default: Any = None, **more: Any) -> Any:
    # A path that cannot be read is not the parser's to refuse: it is the model's error, or the data's.
    told: dict[str, Any] = {"help": text, "rich_help_panel": panel, "show_default": False, "readable": False}
    return field(default=default, metadata={DECLARED: typer.Option(default, *names, **told, **more)})


def _flag(panel: str, text: str, *names: str, **more: Any) -> Any:
    return _option(panel, text, *names, default=False, **more)


def _count(panel: str, text: str) -> Any:
    return _option(panel, text, metavar="N", min=1, max=MOST)


_MODEL = typer.Argument(help="The ONNX model.", metavar="MODEL", show_default=False, parser=model_path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command was given, as typed."""

    model: Path = field(metadata={DECLARED: _MODEL})
    data: list[str] | None = _option(
        DATA,
        f"Calibration data: {', '.join(sorted(FILES))}, a folder of them (a file a batch), images (a folder, or one of "
        "folders), or module:function. Repeatable.",
        *("-d", "--data"),
        metavar="[NAME=]PATH",
    )
    random: bool = _flag(DATA, "Calibrate on random normal data instead.", "--random")
    shape: list[str] | None = _option(
        DATA, "The shape of a random input, or of a tensor without one. Repeatable.", metavar="[NAME=]1,3,8,8"
    )
    batch_size: int | None = _count(DATA, "Run the samples in batches of this size.")
    samples: int | None = _count(DATA, "Use only the first so many samples.")
    image_size: str | None = _option(
        DATA, "Scale images to cover this height and width; cut out the middle. Default: the model's.", metavar="HxW"
    )
    image_scale: str | None = _option(DATA, "Multiply pixels, 0 to 255, by this. Default: 1/255.", metavar="X")
    image_mean: str | None = _option(DATA, "Take this off each channel, after scaling.", metavar="X,X,X")
    image_std: str | None = _option(DATA, "Divide each channel by this, after that.", metavar="X,X,X")
    output: str | None = _option(
        OUTPUT,
        "Where to save; a folder keeps the name. Default: MODEL.lsuv.onnx (.arch.onnx without values) beside it.",
        *("-o", "--output"),
        metavar="PATH",
    )
    force: bool = _flag(OUTPUT, "Replace existing outputs.", "--force")
    report: list[Path] | None = _option(OUTPUT, "Write a report. Repeatable.", metavar=f"PATH.{{{ENDINGS}}}")
    fresh: bool = _flag(TRAINING, "Give every other parameter its usual starting value too.", "--fresh")
    untie: bool = _flag(TRAINING, "Part tensors that an exporter merged because they were equal.", "--untie")
    strict: bool = _flag(
        TRAINING,
        "Status 1 for whatever is in doubt: with --fresh tensors that may keep what they learned, with --check notes.",
        "--strict",
    )
    portable: bool = _flag(TRAINING, "Rewrite the model so that training frameworks read it.", "--portable")
    importer: list[str] | None = _option(
        TRAINING, "Say what trains where for this importer alone, in every report. Repeatable.", metavar="NAME"
    )
    weights_out: Path | None = _option(TRAINING, "Write the parameters alone too.", metavar="PATH.{safetensors,npz}")
    state_dict: Path | None = _option(
        TRAINING,
        "The tensors of the module that was exported: write its new ones, by its names, as --weights-out says. "
        "Default: MODEL.lsuv.safetensors beside the output.",
        metavar="PATH.{safetensors,npz,pt}",
    )
    params_out: Path | None = _option(
        TRAINING, "Write which initializers are trained, and which frozen, by their roles.", metavar="PATH.json"
    )
    init: list[str] | None = _option(
        METHOD,
        f"How weights are drawn, all or those of that name; keep only rescales, zero and identity stay unscaled. "
        f"Repeatable. Default: {METHODS[0]}.",
        metavar=f"[GLOB=]{'|'.join(METHODS)}",
        autocompletion=_methods,
    )
    no_rescale: bool = _flag(METHOD, "Draw only; leave the scale as drawn, to compare LSUV with.", "--no-rescale")
    target_std: float = _option(
        METHOD, "The std that every layer's output is to have. Default: 1.", default=1.0, metavar="STD"
    )
    target: list[str] | None = _option(
        METHOD, "Another std for the layers of that name; 0 for a weight of zero. Repeatable.", metavar="GLOB=STD"
    )
    residual: str = _option(
        METHOD,
        "auto: the ends of L residual branches get std(stream) / sqrt(L), and a last layer that reads averages of a "
        "BatchNormalization a tenth; off: the std of every layer. "
        f"Default: {RESIDUAL[0]}.",
        default=RESIDUAL[0],
        metavar="auto|off",
    )
    keep_bias: bool = _flag(METHOD, "Leave biases instead of setting them to zero.", "--keep-bias")
    lstm_bias: str = _option(
        METHOD,
        "Of LSTMs. keep: what the file has; forget: zero, and 1 for the forget gate. Default: keep.",
        default=LSTM_BIAS[0],
        metavar="keep|forget",
    )
    center: bool = _flag(METHOD, "Set biases so that each channel's mean is 0, where a layer has one.", "--center")
    recalibrate: bool = _flag(
        METHOD,
        "Set the statistics of every BatchNormalization, also where no weight before it changes.",
        "--recalibrate",
    )
    tolerance: float | None = _option(
        METHOD, "On the variance relative to its target. Default: 0.005, half precision 0.02.", metavar="X"
    )
    include: list[str] | None = _option(METHOD, "Only these layers, norms or tensors. Repeatable.", metavar="GLOB")
    exclude: list[str] | None = _option(METHOD, "Not these layers, norms or tensors. Repeatable.", metavar="GLOB")
    seed: int = _option(METHOD, "Of the draw. Default: 0.", default=0, metavar="N", min=0)
    no_verify: bool = _flag(METHOD, "Do not measure the saved file.", "--no-verify")
    device: str = _option(
        RUNTIME,
        "Where to run. auto, the default: CUDA where it works and is worth its start, else the CPU.",
        default="auto",
        metavar="|".join(device_words()),
    )
    allow_tf32: bool = _flag(RUNTIME, "Let CUDA round products to TensorFloat-32.", "--allow-tf32")
    threads: int | None = _count(RUNTIME, "How many cores to use. Default: all.")
    memory: str | None = _option(
        RUNTIME,
        "For new weights and kept values, default half of the machine's; for one batch, default an eighth.",
        metavar="SIZE",
    )
    custom_ops: list[str] | None = _option(RUNTIME, "Load a library of custom operators. Repeatable.", metavar="LIB")
    check: bool = _flag(MODES, "Measure the model as it is; save no model.", "--check")
    compare: Path | None = _option(MODES, "Measure another model beside it, with --check.", metavar="OTHER.onnx")
    baseline: Path | None = _option(
        MODES, "What each layer's std was, with --check, instead of the target.", metavar="REPORT.json"
    )
    dry_run: bool = _flag(MODES, "List the layers and what would happen; run nothing.", "--dry-run")
    no_values: bool = _flag(MODES, "Save the architecture alone: no values of what may be learned.", "--no-values")
    output_format: Format = _option(
        MESSAGES,
        "Of standard output. github: annotations, and the step summary. Default: text.",
        "--format",
        default=Format.text,
        metavar="|".join(Format),
    )
    color: Color = _option(
        MESSAGES,
        "When to colour. auto, the default: on a terminal, unless NO_COLOR is set.",
        default=Color.auto,
        metavar="|".join(Color),
        is_eager=True,
    )
    verbose: int = _option(MESSAGES, "Say more; -vv shows tracebacks.", "-v", "--verbose", default=0, count=True)
    quiet: bool = _flag(MESSAGES, "Print nothing but errors.", "-q", "--quiet")
    version: bool = _flag(MESSAGES, "Show the version.", "--version", callback=_version, is_eager=True)
    show_help: bool = _flag(MESSAGES, "Show the help.", "-h", "--help", callback=helping.show, is_eager=True)
    given: frozenset[str] = frozenset()  # those that were typed, by their names here
    command: tuple[str, ...] = ()  # the program and its arguments, where it was called as one

    @property
    def writes(self) -> bool:
        """Whether a model is to be saved."""
        return not (self.check or self.dry_run)

    @property
    def target_path(self) -> Path:
        """Where the model is to be saved; a folder stands for the default name in it."""
        name = f"{self.model.stem}.{'arch' if self.no_values else 'lsuv'}.onnx"
        if self.output is None:
            return self.model.with_name(name)
        path = Path(self.output)
        # os.path says no, where a Path raises, to a name that is too long
        return path / name if self.output.endswith(("/", "\\")) or os.path.isdir(path) else path  # noqa: PTH112

    @property
    def weights_path(self) -> Path | None:
        """Where the parameters are to be saved alone, if they are."""
        if self.weights_out is not None or self.state_dict is None or not self.writes:
            return self.weights_out
        return self.target_path.with_suffix(".npz" if self.state_dict.suffix.lower() == ".npz" else ".safetensors")

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

    @property
    def image_texts(self) -> tuple[str | None, str | None, str | None, str | None]:
        """What is said of images, as `batches.parse_preparation` takes it."""
        return self.image_size, self.image_mean, self.image_std, self.image_scale

    @property
    def memory_bytes(self) -> int | None:
        """The size that `memory` says; raises UsageError."""
        return memory_bytes(self.memory, typed)

    @property
    def settings(self) -> Settings:
        """The choices of method, not yet checked; raises UsageError for a target that is none."""
        return Settings(
            seed=self.seed,
            init=self._inits(),
            target_std=self.target_std,
            target=self._targets(),
            residual=self.residual,
            rescale=not self.no_rescale,
            fresh=self.fresh,
            include=self.include or (),
            exclude=self.exclude or (),
            keep_bias=self.keep_bias,
            lstm_bias=self.lstm_bias,
            center=self.center,
            recalibrate=self.recalibrate,
            untie=self.untie,
            strict=self.strict,
            tolerance=self.tolerance,
            spell=typed,
        )

    def _inits(self) -> str | list[tuple[str, str]]:
        named = [each for each in self.init or () if "=" in each]
        plain = [each for each in self.init or () if "=" not in each]
        if len(plain) > 1:
            raise UsageError(f"--init is given {len(plain)} times for all: give one method, and others as GLOB=METHOD")
        method = plain[0] if plain else METHODS[0]
        wanted = "--init takes GLOB=METHOD, as in 'fc*=zero'"
        return [("*", method), *_by_pattern(wanted, named)] if named else method

    def _targets(self) -> dict[str, float]:
        wanted, found = "--target takes GLOB=STD with a finite number from 0 on, as in 'fc*=0.1'", dict[str, float]()
        for pattern, number in _by_pattern(wanted, self.target or ()):
            try:
                std = float(number)
            except ValueError:
                std = math.nan
            if not 0 <= std < math.inf:
                raise UsageError(f"{wanted}, not {f'{pattern}={number}'!r}")
            found[pattern] = std
        return found


def _by_pattern(wanted: str, given: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the pattern and the value of each GLOB=VALUE; raise UsageError for what is none, or twice the same."""
    seen: set[str] = set()
    for each in given:
        pattern, equals, value = each.rpartition("=")
        if not (equals and pattern and value):
            raise UsageError(f"{wanted}, not {each!r}")
        if pattern in seen:
            raise UsageError(f"{wanted.partition(' ')[0]} is given twice for {pattern!r}: give one")
        seen.add(pattern)
        yield pattern, value


def typed(name: str, value: Any = None) -> str:
    """Return how a choice is typed: the option, or with a value that counts `--init keep` or `--target fc=0.1`."""
    known = {"output": "-o", "output_format": "--format", "rescale": "--no-rescale", "model": "MODEL"}
    option = known.get(name) or f"--{name.replace('_', '-')}"
    if name == "target" and value is not None:
        return " ".join(f"{option} {shlex.quote(f'{pattern}={std:g}')}" for pattern, std in value.items())
    return f"{option} {value}" if name in ("init", "residual", "lstm_bias") and value is not None else option
