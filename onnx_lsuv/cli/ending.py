"""What is printed and written when the work is done."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx_lsuv.cli import terminal
from onnx_lsuv.cli.failures import say
from onnx_lsuv.cli.options import Format, Options
from onnx_lsuv.cli.outputs import step_summary
from onnx_lsuv.cli.streams import emit
from onnx_lsuv.errors import OutputError, brief, clean, quote

if TYPE_CHECKING:
    from onnx_lsuv.lsuv import Result
    from onnx_lsuv.model import Staging

WORST = 3  # layers that the line on standard error names
NAMED = 240  # characters that these take at most, the first aside


@dataclass(frozen=True, slots=True)
class Ending:
    """What the work came to."""

    result: Result
    other: Result | None = None  # the model that was compared with
    files: Mapping[str, tuple[Path, Path]] = field(default_factory=dict)  # by role: as named, and links followed
    trains: Sequence[Mapping[str, Any]] = ()  # what trains where


def finish(options: Options, ending: Ending, staged: Staging) -> int:
    """Write the reports, print the result, put all files into place, name the layers that missed; return the status.

    What is printed comes before: where it cannot be, no file stays. That files are saved is said once they are.
    """
    from onnx_lsuv.report.formats import format_of  # noqa: PLC0415
    from onnx_lsuv.report.markdown import as_markdown  # noqa: PLC0415

    result = ending.result
    about = _about(options, ending, staged) if options.report or options.output_format is not Format.text else {}
    for path in options.report or ():
        place = Path(os.path.realpath(path))
        text = format_of(path)(result, about, options.command, other=ending.other)
        staged.add(place.parent, place.name, [text.encode()])
    saved = [named for named, _ in ending.files.values()]
    summary = step_summary(options)
    try:
        if summary is not None:
            text = as_markdown(result, about, options.command, other=ending.other)
            _summarise(summary, text, staged)
        if not options.quiet:
            emit(*_printed(options, ending, about))
        staged.commit()
        if saved and options.output_format is Format.text and not options.quiet:
            emit("\n".join(f"saved {clean(str(path))}" for path in saved))
    except BaseException as error:
        # Whatever goes wrong from then on.
        if staged.committed and (saved or options.report):
            error.add_note(kept([*saved, *(options.report or ())]))
        raise
    if result.good:
        return 0
    stand = f"; {kept(saved[:1])}" if saved else ""
    say(brief(clean(f"{_missed(result)}{stand}.")))
    return 1


def kept(files: Sequence[Path]) -> str:
    """Say which files stand although the command did not end well."""
    return f"{', '.join(map(quote, files))} {'are' if files[1:] else 'is'} saved all the same"


def _printed(options: Options, ending: Ending, about: dict[str, Any]) -> tuple[str, bool | None]:
    """Return what goes to standard output, and whether it is coloured."""
    from onnx_lsuv.report.document import as_json  # noqa: PLC0415
    from onnx_lsuv.report.github import as_github  # noqa: PLC0415
    from onnx_lsuv.report.text import as_text  # noqa: PLC0415

    if options.output_format is Format.json:
        return as_json(ending.result, about, other=ending.other).removesuffix("\n"), None
    if options.output_format is Format.github:
        return "\n".join(as_github(ending.result, other=ending.other)), None
    color = terminal.colored(options.color, sys.stdout)
    shown: dict[str, Any] = {
        "width": terminal.width(),
        "encoding": terminal.encoding(),
        "wrap": terminal.is_terminal(sys.stdout),
        "verbose": options.verbose > 0,
        "plan": options.dry_run,
        "other": ending.other,
        "trains": ending.trains if options.dry_run or options.portable or options.verbose else (),
    }
    lines = [as_text(ending.result, **shown, color=color)]
    if ending.other is not None:
        lines.append(f"other: {clean(str(options.compare))}")
    return "\n".join(lines), color


def _summarise(path: Path, text: str, staged: Staging) -> None:
    """Add text to the step summary; it is taken away again where the files do not come into place after that."""
    size = path.stat().st_size if path.is_file() else None

    def cut() -> None:
        if size is not None:
            os.truncate(path, size)
        elif path.is_file():
            path.unlink()

    staged.undo(cut)
    try:
        with path.open("ab") as file:
            file.write(text.encode())
    except OSError as error:
        raise OutputError(
            f"the step summary {quote(path)}, which GITHUB_STEP_SUMMARY names, cannot be written: {error.strerror}"
        ) from error


def _missed(result: Result) -> str:
    from onnx_lsuv.report.words import misses, told  # noqa: PLC0415

    rows = misses(result)
    named: list[str] = []
    for row in rows[:WORST]:
        one = f"{quote(row.name)} is {row.status} ({told(row) or 'no cause known'})"
        if named and sum(map(len, named)) + len(one) > NAMED:
            break
        named.append(one)
    left = len(rows) - len(named)
    worst, more = ("the worst: ", f"; and {left} more") if left else ("", "")
    return f"{len(rows)} of {len(result.layers)} layers missed the std wanted: {worst}{'; '.join(named)}{more}"


def _about(options: Options, ending: Ending, staged: Staging) -> dict[str, Any]:
    from onnx_lsuv.model import digest  # noqa: PLC0415
    from onnx_lsuv.report.writing import versions  # noqa: PLC0415

    given = {"model": options.model, "compare": options.compare}
    files = {role: {"path": str(path), "sha256": digest(path)} for role, path in given.items() if path is not None}
    for role, (named, target) in ending.files.items():
        files[role] = {"path": str(named), "sha256": digest(staged.waiting(target))}
    return {"versions": versions(), "files": files, "trains": list(ending.trains)}
