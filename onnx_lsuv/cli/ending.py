"""What is printed and written when the work is done."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from onnx_lsuv import __version__
from onnx_lsuv.cli import terminal
from onnx_lsuv.cli.failures import say
from onnx_lsuv.cli.options import Format, Options
from onnx_lsuv.errors import OutputError, clean

if TYPE_CHECKING:
    from onnx_lsuv.lsuv import Result

WORST = 3  # layers that the line on standard error names


@dataclass(frozen=True, slots=True)
class Ending:
    """What the work came to."""

    result: Result
    other: Result | None = None  # the model that was compared with
    saved: Path | None = None
    weights: Path | None = None
    trains: Sequence[Mapping[str, Any]] = ()  # what trains where


def finish(options: Options, ending: Ending) -> int:
    """Write the reports, print the result, name the layers that missed; return the exit status."""
    result = ending.result
    about = _about(options, ending) if options.report or options.output_format is not Format.text else {}
    for path in options.report or ():
        _write(path, _report(path.suffix.lower(), ending, about), options.force)
    if not options.quiet:
        _print(options, ending, about)
    if options.output_format is Format.github:
        _summarise(ending, about)
    if result.good:
        return 0
    kept = "" if ending.saved is None else f"; {str(ending.saved)!r} is saved all the same"
    say(clean(f"{_missed(result)}{kept}."))
    return 1


def _print(options: Options, ending: Ending, about: dict[str, Any]) -> None:
    from onnx_lsuv import report  # noqa: PLC0415

    if options.output_format is Format.json:
        typer.echo(report.as_json(ending.result, about), nl=False)
        return
    if options.output_format is Format.github:
        for line in report.as_github(ending.result):
            typer.echo(line)
        return
    color = terminal.colored(options.color, sys.stdout)
    shown: dict[str, Any] = {
        "width": terminal.width(),
        "encoding": terminal.encoding(),
        "wrap": terminal.is_terminal(sys.stdout),
        "verbose": options.verbose > 0,
        "trains": ending.trains if options.dry_run or options.portable or options.verbose else (),
    }
    lines = [
        report.plan(ending.result, **shown)
        if options.dry_run
        else report.text(ending.result, **shown, color=color, other=ending.other)
    ]
    if ending.other is not None:
        lines.append(f"other: {clean(str(options.compare))}")
    lines += [f"saved {clean(str(path))}" for path in (ending.saved, ending.weights) if path is not None]
    typer.echo("\n".join(lines), color=color)


def _report(suffix: str, ending: Ending, about: dict[str, Any]) -> str:
    from onnx_lsuv import report  # noqa: PLC0415

    command = ["onnx-lsuv", *sys.argv[1:]]
    if suffix == ".json":
        return report.as_json(ending.result, about)
    if suffix == ".md":
        return report.as_markdown(ending.result, about, command)
    return report.as_html(ending.result, about, command=command, other=ending.other)


def _write(path: Path, content: str, force: bool) -> None:
    from onnx_lsuv.model.place import place  # noqa: PLC0415

    def pieces() -> Iterator[bytes]:
        yield content.encode("utf-8")

    place([(path, pieces())], force)


def _summarise(ending: Ending, about: dict[str, Any]) -> None:
    """Add the result to the file that GitHub shows as the summary of a workflow's step."""
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if not path:
        return
    try:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(_report(".md", ending, about))
    except OSError as error:
        raise OutputError(
            f"the step summary {path!r}, which GITHUB_STEP_SUMMARY names, cannot be written: {error.strerror}"
        ) from error


def _missed(result: Result) -> str:
    from onnx_lsuv.report import misses, told  # noqa: PLC0415

    rows = misses(result)
    named = "; ".join(f"{row.name!r} is {row.status} ({told(row) or 'no cause known'})" for row in rows[:WORST])
    more = f"; and {len(rows) - WORST} more" if len(rows) > WORST else ""
    worst = "the worst: " if len(rows) > WORST else ""
    return f"{len(rows)} of {len(result.layers)} layers missed the std wanted: {worst}{named}{more}"


def _about(options: Options, ending: Ending) -> dict[str, Any]:
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
    files = {"model": options.model, "compare": options.compare, "output": ending.saved, "weights": ending.weights}
    return {
        "versions": versions,
        "files": {
            role: {"path": str(path), "sha256": digest(path)} for role, path in files.items() if path is not None
        },
        "trains": list(ending.trains),
    }
