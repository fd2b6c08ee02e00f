"""The options, in groups as the help shows them.

Their annotations are values: as text they would be evaluated again each time that they are asked for.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from onnx_lsuv import __version__
from onnx_lsuv.cli import help as helping
from onnx_lsuv.cli.failures import guarded
from onnx_lsuv.cli.options import Color, Format, Init, Options, model_path
from onnx_lsuv.cli.streams import emit
from onnx_lsuv.report.formats import FORMATS

app = typer.Typer(add_completion=True, rich_markup_mode=None, pretty_exceptions_enable=False)
DATA, OUTPUT, TRAINING, METHOD = "Data", "Output", "Training", "Method"
RUNTIME, MODES, MESSAGES = "Runtime", "Modes", "Messages"
MOST = 10**9  # of samples or cores
ENDINGS = ",".join(suffix.removeprefix(".") for suffix in FORMATS)


def _version(wanted: bool) -> None:
    if wanted:
        emit(f"onnx-lsuv {__version__}")
        raise typer.Exit


def _option(panel: str, text: str, *names: str, metavar: str | None = None, **more: Any) -> Any:
    # A path that cannot be read is not the parser's to refuse: it is the model's error, or the data's.
    more |= {"help": text, "metavar": metavar, "rich_help_panel": panel, "show_default": False, "readable": False}
    return typer.Option(*names, **more)


@app.command(add_help_option=False, context_settings={"help_option_names": ["-h", "--help"]})
def command(
    context: typer.Context,
    model: Annotated[
        Path, typer.Argument(help="The ONNX model.", metavar="MODEL", show_default=False, parser=model_path)
    ],
    data: Annotated[
        list[str] | None,
        _option(
            DATA,
            "Calibration data: .npy, .npz, .pb, .safetensors, or a folder of them (a file a batch). Repeatable.",
            "-d",
            "--data",
            metavar="[NAME=]PATH",
        ),
    ] = None,
    random: Annotated[bool, _option(DATA, "Calibrate on random normal data instead.", "--random")] = False,
    shape: Annotated[
        list[str] | None, _option(DATA, "The shape of a random input. Repeatable.", metavar="[NAME=]1,3,8,8")
    ] = None,
    batch_size: Annotated[
        int | None, _option(DATA, "Run the samples in batches of this size.", metavar="N", min=1, max=MOST)
    ] = None,
    samples: Annotated[
        int | None, _option(DATA, "Use only the first so many samples.", metavar="N", min=1, max=MOST)
    ] = None,
    output: Annotated[
        str | None,
        _option(
            OUTPUT,
            "Where to save; a folder keeps the name. Default: MODEL.lsuv.onnx beside the model.",
            "-o",
            "--output",
            metavar="PATH",
        ),
    ] = None,
    force: Annotated[bool, _option(OUTPUT, "Replace existing outputs.", "--force")] = False,
    report: Annotated[
        list[Path] | None, _option(OUTPUT, "Write a report. Repeatable.", metavar=f"PATH.{{{ENDINGS}}}")
    ] = None,
    fresh: Annotated[
        bool, _option(TRAINING, "Give every other parameter its usual starting value too.", "--fresh")
    ] = False,
    portable: Annotated[
        bool, _option(TRAINING, "Rewrite the model so that training frameworks read it.", "--portable")
    ] = False,
    weights_out: Annotated[
        Path | None, _option(TRAINING, "Write the parameters alone too.", metavar="PATH.{safetensors,npz}")
    ] = None,
    init: Annotated[
        Init,
        _option(METHOD, "How weights are drawn; keep only rescales. Default: orthonormal.", metavar="|".join(Init)),
    ] = Init.orthonormal,
    no_rescale: Annotated[
        bool, _option(METHOD, "Draw only; leave the scale as drawn, to compare LSUV with.", "--no-rescale")
    ] = False,
    target_std: Annotated[
        float, _option(METHOD, "The std that every layer's output is to have. Default: 1.", metavar="STD")
    ] = 1.0,
    target: Annotated[
        list[str] | None, _option(METHOD, "Another std for the layers of that name. Repeatable.", metavar="GLOB=STD")
    ] = None,
    keep_bias: Annotated[bool, _option(METHOD, "Leave biases instead of setting them to zero.", "--keep-bias")] = False,
    center: Annotated[
        bool, _option(METHOD, "Set biases so that each channel's mean is 0, where a layer has one.", "--center")
    ] = False,
    tolerance: Annotated[
        float | None,
        _option(METHOD, "On the variance relative to its target. Default: 0.005, half precision 0.02.", metavar="X"),
    ] = None,
    include: Annotated[
        list[str] | None, _option(METHOD, "Only these layers or weights. Repeatable.", metavar="GLOB")
    ] = None,
    exclude: Annotated[
        list[str] | None, _option(METHOD, "Not these layers or weights. Repeatable.", metavar="GLOB")
    ] = None,
    seed: Annotated[int, _option(METHOD, "Of the draw. Default: 0.", metavar="N", min=0)] = 0,
    no_verify: Annotated[bool, _option(METHOD, "Do not measure the saved file.", "--no-verify")] = False,
    device: Annotated[
        str,
        _option(
            RUNTIME,
            "Where to run. auto, the default: CUDA where it works, else the CPU.",
            metavar="auto|cpu|cuda|cuda:N",
        ),
    ] = "auto",
    allow_tf32: Annotated[bool, _option(RUNTIME, "Let CUDA round products to TensorFloat-32.", "--allow-tf32")] = False,
    threads: Annotated[
        int | None, _option(RUNTIME, "How many cores to use. Default: all.", metavar="N", min=1, max=MOST)
    ] = None,
    memory: Annotated[
        str | None,
        _option(
            RUNTIME, "For new weights and kept values; the rest goes to a file. Default: half of it.", metavar="SIZE"
        ),
    ] = None,
    custom_ops: Annotated[
        list[str] | None, _option(RUNTIME, "Load a library of custom operators. Repeatable.", metavar="LIB")
    ] = None,
    check: Annotated[bool, _option(MODES, "Measure the model as it is; save no model.", "--check")] = False,
    compare: Annotated[
        Path | None, _option(MODES, "Measure another model beside it, with --check.", metavar="OTHER.onnx")
    ] = None,
    dry_run: Annotated[
        bool, _option(MODES, "List the layers and what would happen; run nothing.", "--dry-run")
    ] = False,
    output_format: Annotated[
        Format,
        _option(
            MESSAGES,
            "Of standard output. github: annotations, and the step summary. Default: text.",
            "--format",
            metavar="|".join(Format),
        ),
    ] = Format.text,
    color: Annotated[
        Color,
        _option(
            MESSAGES,
            "When to colour. auto, the default: on a terminal, unless NO_COLOR is set.",
            metavar="|".join(Color),
            is_eager=True,
        ),
    ] = Color.auto,
    verbose: Annotated[int, _option(MESSAGES, "Say more; -vv shows tracebacks.", "-v", "--verbose", count=True)] = 0,
    quiet: Annotated[bool, _option(MESSAGES, "Print nothing but errors.", "-q", "--quiet")] = False,
    version: Annotated[
        bool, _option(MESSAGES, "Show the version.", "--version", callback=_version, is_eager=True)
    ] = False,
    show_help: Annotated[
        bool, _option(MESSAGES, "Show the help.", "-h", "--help", callback=helping.show, is_eager=True)
    ] = False,
) -> None:
    """Give the linear layers of an ONNX MODEL fresh orthonormal weights, scaled to unit output variance (LSUV)."""
    values = {name: value for name, value in locals().items() if name not in ("context", "version", "show_help")}
    sources = {name: context.get_parameter_source(name) for name in values}
    given = frozenset(name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE")

    def work() -> int:
        options = Options(**values, given=given, command=context.obj or ())
        from onnx_lsuv.cli.work import perform  # noqa: PLC0415

        return perform(options)

    raise typer.Exit(guarded(work, verbose))
