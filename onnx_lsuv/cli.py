"""The command line: parse, call, print, exit status. The only importer of typer.

Heavy modules are imported inside the command, so that `--help` and `--version` do not wait for them.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnx_lsuv import __version__
from onnx_lsuv.errors import LsuvError, OutputError, UsageError, clean

if TYPE_CHECKING:
    from onnx_lsuv.batches import Batches
    from onnx_lsuv.lsuv import Result
    from onnx_lsuv.model import Model

app = typer.Typer(add_completion=True, rich_markup_mode=None, pretty_exceptions_enable=False)


class Init(StrEnum):
    """How weights are drawn."""

    orthonormal = "orthonormal"
    delta = "delta"
    keep = "keep"


class Format(StrEnum):
    """What is printed on standard output."""

    text = "text"
    json = "json"


def main() -> None:
    """Run the command line."""
    # A closed pipe (`| head`) ends the program as it ends any other.
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    # SIGTERM takes the way of Ctrl-C, so that temporary files are removed.
    signal.signal(signal.SIGTERM, _terminated)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    app(prog_name="onnx-lsuv")


def _terminated(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


@contextlib.contextmanager
def _errors(verbose: int) -> Iterator[None]:
    """Turn an exception into one sentence and an exit status."""
    try:
        yield
    except LsuvError as error:
        _fail(str(error), error.exit_status, error, verbose)
    except KeyboardInterrupt as error:
        _fail("interrupted", 130, error, verbose)
    except MemoryError as error:
        _fail("out of memory: give smaller batches with '--batch-size'", 5, error, verbose)
    except (typer.Exit, SystemExit):
        raise
    except OSError as error:
        _fail(f"the result cannot be written: {error.strerror or error}", OutputError.exit_status, error, verbose)
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        _fail(f"a defect in onnx-lsuv ({what}); please report it with the output of '-vv'", 70, error, verbose)


def _fail(sentence: str, status: int, error: BaseException, verbose: int) -> None:
    if verbose > 1:
        import traceback  # noqa: PLC0415

        traceback.print_exception(error)
    typer.echo(f"onnx-lsuv: error: {clean(sentence.rstrip('.'))}.", err=True)
    raise typer.Exit(status)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"onnx-lsuv {__version__}")
        raise typer.Exit


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
def command(
    model: Annotated[Path, typer.Argument(help="The ONNX model.", show_default=False)],
    data: Annotated[
        list[str] | None,
        typer.Option(
            "-d",
            "--data",
            metavar="[NAME=]PATH",
            show_default=False,
            help="Calibration data: .npy, .npz, .pb, .safetensors, or a folder of them (a file a batch). Repeatable.",
        ),
    ] = None,
    random: Annotated[bool, typer.Option("--random", help="Calibrate on random normal data instead.")] = False,
    shape: Annotated[
        list[str] | None,
        typer.Option(metavar="[NAME=]1,3,8,8", help="The shape of a random input. Repeatable.", show_default=False),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Run the samples in batches of this size.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Use only the first so many samples.")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Where to save  [default: MODEL.lsuv.onnx beside the model]")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing output.")] = False,
    report: Annotated[
        list[Path] | None, typer.Option(metavar="PATH.json", help="Write a report. Repeatable.", show_default=False)
    ] = None,
    init: Annotated[Init, typer.Option(help="How weights are drawn; 'keep' only rescales.")] = Init.orthonormal,
    target_std: Annotated[float, typer.Option(help="The std that every layer's output is to have.")] = 1.0,
    tolerance: Annotated[
        float | None,
        typer.Option(help="On the variance relative to its target  [default: 0.005, half precision 0.02]"),
    ] = None,
    include: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Only these layers or weights.", show_default=False)
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Not these layers or weights.", show_default=False)
    ] = None,
    keep_bias: Annotated[
        bool, typer.Option("--keep-bias", help="Leave biases instead of setting them to zero.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw.")] = 0,
    no_verify: Annotated[bool, typer.Option("--no-verify", help="Do not measure the saved file.")] = False,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda|cuda:N", help="Where to run.")] = "auto",
    allow_tf32: Annotated[
        bool, typer.Option("--allow-tf32", help="Let CUDA round products to TensorFloat-32.")
    ] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="How many cores to use  [default: all]")] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="For new weights and kept values; the rest goes to a file  [default: half of it]"
        ),
    ] = None,
    custom_ops: Annotated[
        list[str] | None,
        typer.Option(metavar="LIB", help="Load a library of custom operators. Repeatable.", show_default=False),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Measure the model as it is; write nothing.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the layers; run nothing, write nothing.")] = False,
    output_format: Annotated[Format, typer.Option("--format", help="Of standard output.")] = Format.text,
    verbose: Annotated[int, typer.Option("-v", count=True, help="Say more; -vv shows tracebacks.")] = 0,
    quiet: Annotated[bool, typer.Option("-q", help="Print nothing but errors.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Give the linear layers of an ONNX MODEL fresh orthonormal weights, scaled to unit output variance (LSUV)."""
    with _errors(verbose):
        _check_usage(data, random, shape, check, dry_run, target_std, tolerance, report)
        from onnx_lsuv import lsuv, runtime  # noqa: PLC0415
        from onnx_lsuv.model import load, save  # noqa: PLC0415

        patterns: dict[str, Any] = {"include": tuple(include or ()), "exclude": tuple(exclude or ())}
        loaded = load(model)
        target = output or model.with_name(f"{model.stem}.lsuv.onnx")
        writes = not check and not dry_run
        sources = [model, *(Path(each if Path(each).exists() else each.partition("=")[2]) for each in data or ())]
        if writes:
            _check_output(target, sources, force=force)
        for i, path in enumerate(report or ()):
            if path in (report or ())[:i] or (writes and path.resolve() == target.resolve()):
                raise UsageError(f"the file {str(path)!r} is named for two outputs: name another")
            _check_output(path, sources, force=force)
        if dry_run:
            _finish(lsuv.describe(loaded, keep_bias=keep_bias, **patterns), model, None, report, output_format, quiet)
            return
        where = runtime.open_device(device, threads=threads, allow_tf32=allow_tf32, custom_ops=custom_ops or ())
        batches = _batches(loaded, data or [], random, shape or [], batch_size, samples, seed)
        progress = _progress(quiet)
        options: dict[str, Any] = {"device": where, "progress": progress}
        if check:
            result = lsuv.measure(loaded, batches, target_std=target_std, tolerance=tolerance, **patterns, **options)
        else:
            result = lsuv.initialize(
                loaded,
                batches,
                seed=seed,
                init=init.value,
                target_std=target_std,
                keep_bias=keep_bias,
                memory=_bytes(memory),
                scratch=target.parent,
                **patterns,
                **options,
            )
            start = perf_counter()
            save(result.model, target, force=force)
            result = replace(result, seconds={**result.seconds, "save": perf_counter() - start})
            if not no_verify:
                result = lsuv.measure(load(target), batches, like=result, tolerance=tolerance, **options)
        _finish(result, model, target if writes else None, report, output_format, quiet)
    if not result.good:
        raise typer.Exit(1)


def _check_usage(
    data: list[str] | None,
    random: bool,
    shape: list[str] | None,
    check: bool,
    dry_run: bool,
    target_std: float,
    tolerance: float | None,
    report: list[Path] | None,
) -> None:
    if check and dry_run:
        raise UsageError("--check runs the model and --dry-run does not: give one of them")
    if data and random:
        raise UsageError("--data and --random are two sources of data: give one of them")
    if shape and not random:
        raise UsageError("--shape is the shape of random data: give --random too")
    if not 0 < target_std < float("inf"):
        raise UsageError(f"--target-std must be a finite number above 0, not {target_std}")
    if tolerance is not None and not 0 < tolerance < 1:
        raise UsageError(f"--tolerance must lie between 0 and 1, not {tolerance}")
    for path in report or ():
        if path.suffix != ".json":
            raise UsageError(f"a report is written as .json, but {str(path)!r} ends otherwise")


def _bytes(text: str | None) -> int | None:
    """Read a size: a number of bytes, or of K, M, G, T of 1024."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if not found:
        raise UsageError(f"--memory takes a size such as 500M or 2G, not {text!r}")
    return int(float(found[1]) * 1024 ** " KMGT".index(found[2].upper() or " "))


def _check_output(target: Path, sources: list[Path], *, force: bool) -> None:
    """Refuse before the work what could not be saved after it."""
    if target.is_dir():
        raise OutputError(f"the output {str(target)!r} is a folder: name a file with '-o'")
    for source in sources:
        if target.exists() and source.exists() and target.samefile(source):
            what = "the model itself" if source is sources[0] else "calibration data"
            raise OutputError(f"the output {str(target)!r} is {what}, which is never written to: name another")
    if (target.exists() or target.is_symlink()) and not force:
        raise OutputError(f"the output {str(target)!r} exists: name another, or replace it with '--force'")
    _check_folder(target)


def _check_folder(path: Path) -> None:
    if not path.parent.is_dir():
        raise OutputError(f"the folder {str(path.parent)!r} for {path.name!r} does not exist: make it first")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"the folder {str(path.parent)!r} cannot be written to: choose another")


def _batches(
    model: Model,
    data: list[str],
    random: bool,
    shape: list[str],
    batch_size: int | None,
    samples: int | None,
    seed: int,
) -> Batches:
    from onnx_lsuv import batches as kinds  # noqa: PLC0415
    from onnx_lsuv.layers import expand, vocabulary  # noqa: PLC0415

    inputs = kinds.inputs_of(model.proto.graph)
    if random:
        shapes = kinds.parse_shapes(inputs, shape)
        high = vocabulary(expand(model))
        return kinds.from_random(inputs, shapes, seed=seed, high=high, batch_size=batch_size, samples=samples)
    if not data and inputs:
        names = ", ".join(f"{each.name!r}" for each in inputs)
        raise UsageError(
            f"the model reads {names}: give samples with '--data PATH', or '--random' for standard normal data"
        )
    return kinds.from_paths(inputs, data, batch_size=batch_size, samples=samples)


def _progress(quiet: bool) -> Callable[[str, int, int], None]:
    """Return a callback that counts on one line of a terminal; elsewhere it does nothing."""
    if quiet or not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        return lambda phase, done, total: None

    def show(phase: str, done: int, total: int) -> None:
        end = "\r\x1b[K" if done == total else ""
        typer.echo(f"\r\x1b[K{phase} {done}/{total}{end}", err=True, nl=False)

    return show


def _finish(
    result: Result, model: Path, target: Path | None, reports: list[Path] | None, output_format: Format, quiet: bool
) -> None:
    from onnx_lsuv import report  # noqa: PLC0415

    document = ""
    if reports or output_format is Format.json:
        document = report.as_json(result, _about(model, target))
    for path in reports or ():
        try:
            path.write_text(document, encoding="utf-8")
        except OSError as error:
            raise OutputError(f"the report {str(path)!r} cannot be written: {error.strerror}") from error
    if quiet:
        return
    if output_format is Format.json:
        typer.echo(document, nl=False)
        return
    width = shutil.get_terminal_size((120, 24)).columns if sys.stdout.isatty() else 160
    typer.echo(report.text(result, width))
    if target is not None:
        typer.echo(f"saved {clean(str(target))}")


def _about(model: Path, target: Path | None) -> dict[str, Any]:
    import platform  # noqa: PLC0415

    import numpy  # noqa: PLC0415
    import onnx  # noqa: PLC0415

    from onnx_lsuv import runtime  # noqa: PLC0415
    from onnx_lsuv.model import digest  # noqa: PLC0415

    versions = {
        "onnx-lsuv": __version__,
        "onnx": onnx.__version__,
        "onnxruntime": runtime.version(),
        "numpy": numpy.__version__,
        "python": platform.python_version(),
    }
    files = {"model": {"path": str(model), "sha256": digest(model)}}
    if target is not None:
        files["output"] = {"path": str(target), "sha256": digest(target)}
    return {"versions": versions, "files": files}
