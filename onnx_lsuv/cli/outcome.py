"""What the work came to is printed and written."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx_lsuv.cli import terminal
from onnx_lsuv.cli.failures import say
from onnx_lsuv.cli.options import Format, Options
from onnx_lsuv.cli.preflight import step_summary
from onnx_lsuv.cli.streams import emit
from onnx_lsuv.errors import OutputError, brief, clean, listing, quote

if TYPE_CHECKING:
    from onnx_lsuv.lsuv import Architecture, Result
    from onnx_lsuv.model import Staging
    from onnx_lsuv.modules import StateDict

WORST = 3  # layers that the line on standard error names
NAMED = 240  # characters that these take at most, the first aside


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the work came to."""

    result: Result
    other: Result | None = None  # the model that was compared with
    files: Mapping[str, tuple[Path, Path]] = field(default_factory=dict)  # by role: as named, and links followed
    beside: Sequence[Path] = ()  # the output's data files, as they are found from where it was named
    trains: Sequence[Mapping[str, Any]] = ()  # what trains where
    state: StateDict | None = None  # of the module that the model came from

    @property
    def missed(self) -> str:
        """What makes the exit status 1, as a sentence; "" where nothing does."""
        said = [] if self.result.good else [_missed(self.result), _doubted(self.result)]
        if self.state is not None and not self.state.good:
            said.append(f"the state dict has no tensor for {listing(self.state.unmatched, WORST)}")
        return "; ".join(filter(None, said))


def finish(options: Options, outcome: Outcome, staged: Staging) -> int:
    """Write the reports, print the result, put all files into place, name the layers that missed; return the status.

    What is printed comes before: where it cannot be, no file stays. That files are saved is said once they are.
    """
    from onnx_lsuv.report.formats import format_of  # noqa: PLC0415

    result = outcome.result
    about = _about(options, outcome, staged) if tells_about(options) else {}
    told: dict[str, Any] = {"about": about, "command": options.command, "other": outcome.other}
    for path in options.report or ():
        place = Path(os.path.realpath(path))
        staged.add(place.parent, place.name, [format_of(path)(result, **told).encode()])
    saved = [named for named, _ in outcome.files.values()]
    saved[1:1] = outcome.beside
    summary = step_summary(options)

    def tell() -> None:
        if summary is not None:
            _summarise(summary, format_of("summary.md")(result, **told), staged)
        if not options.quiet:
            emit(*_printed(options, outcome, about))

    _place(options, staged, saved, tell)
    missed = outcome.missed
    if not missed:
        return 0
    stand = f"; {kept(saved[:1])}" if saved else ""
    say(brief(clean(f"{missed}{stand}.")))
    return 1


def finish_architecture(options: Options, found: Architecture, staged: Staging) -> int:
    """Print what has values and what not, put the file into place, name what may be learned; return the status."""
    notes = "\n".join(map(clean, found.notes(None) if options.verbose else found.notes()))
    _place(options, staged, [options.target_path], lambda: None if options.quiet else emit(notes))
    if found.good:
        return 0
    say(brief(clean(f"{found.notes()[-1]}; {kept([options.target_path])}.")))
    return 1


def _place(options: Options, staged: Staging, saved: Sequence[Path], tell: Callable[[], None]) -> None:
    """Print the result, put all files into place, and say that they are saved."""
    try:
        tell()
        staged.commit()
        if saved and options.output_format is Format.text and not options.quiet:
            emit("\n".join(f"saved {clean(str(path))}" for path in saved))
    except BaseException as error:
        # Whatever goes wrong from then on.
        if staged.committed and (saved or options.report):
            error.add_note(kept([*saved, *(options.report or ())]))
        raise


def tells_about(options: Options) -> bool:
    """Say whether anything written or printed tells what a result does not know of itself, as `_about` finds it."""
    from onnx_lsuv.report.formats import suffix_of  # noqa: PLC0415

    printed = options.output_format is Format.json and not options.quiet
    written = any(suffix_of(path) != ".csv" for path in options.report or ())
    return printed or written or step_summary(options) is not None


def prints_trains(options: Options) -> bool:
    """Say whether the text on standard output tells what trains where."""
    asked = options.dry_run or options.portable or options.importer or options.verbose > 0
    return bool(asked) and options.output_format is Format.text and not options.quiet


def kept(files: Sequence[Path]) -> str:
    """Say which files stand although the command did not end well."""
    return f"{', '.join(map(quote, files))} {'are' if files[1:] else 'is'} saved all the same"


def _printed(options: Options, outcome: Outcome, about: dict[str, Any]) -> tuple[str, bool | None]:
    """Return what goes to standard output, and whether it is coloured."""
    result, other = outcome.result, outcome.other
    # A run waits for the format that it prints alone.
    if options.output_format is Format.json:
        from onnx_lsuv.report.document import as_json  # noqa: PLC0415

        return as_json(result, about, other=other).removesuffix("\n"), None
    if options.output_format is Format.github:
        from onnx_lsuv.report.github import as_github  # noqa: PLC0415

        root = os.environ.get("GITHUB_WORKSPACE") or "."  # what `file=` is relative to
        return "\n".join(as_github(result, other=other, root=root)), None
    from onnx_lsuv.report.text import as_text  # noqa: PLC0415

    color = terminal.colored(options.color, sys.stdout)
    shown: dict[str, Any] = {
        "width": terminal.width(),
        "encoding": terminal.encoding(),
        "wrap": terminal.is_terminal(sys.stdout),
        "verbose": options.verbose > 0,
        "plan": options.dry_run,
        "other": other,
        "trains": outcome.trains if prints_trains(options) else (),
    }
    text = as_text(result, **shown, color=color)
    return text + (f"\nother: {clean(str(options.compare))}" if other is not None else ""), color


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
    if not rows:
        return ""
    named: list[str] = []
    for row in rows[:WORST]:
        one = f"{quote(row.name)} is {row.status} ({told(row) or 'no cause known'})"
        if named and sum(map(len, named)) + len(one) > NAMED:
            break
        named.append(one)
    left = len(rows) - len(named)
    worst, more = ("the worst: ", f"; and {left} more") if left else ("", "")
    return f"{len(rows)} of {len(result.layers)} layers missed the std wanted: {worst}{'; '.join(named)}{more}"


def _doubted(result: Result) -> str:
    """Return what is in doubt, where that counts."""
    from onnx_lsuv.report.words import doubt  # noqa: PLC0415

    what = result.doubts if result.verb == "measure" else listing(each.tensor for each in result.remaining)
    return f"{doubt(result)}: {what if isinstance(what, str) else '; '.join(what)}" if result.doubts else ""


def _about(options: Options, outcome: Outcome, staged: Staging) -> dict[str, Any]:
    """Return what a result does not know of itself: versions, the files as they were named, what trains where."""
    from onnx_lsuv.model import digest  # noqa: PLC0415
    from onnx_lsuv.report.writing import versions  # noqa: PLC0415

    given = {name: getattr(options, name) for name in ("model", "compare", "baseline", "state_dict")}
    read = {role: (path, path) for role, path in given.items() if path}
    written = {role: (named, staged.waiting(target)) for role, (named, target) in outcome.files.items()}
    files = {role: {"path": str(named), "sha256": digest(at)} for role, (named, at) in {**read, **written}.items()}
    state = {} if outcome.state is None else {"state_dict": outcome.state.as_dict()}
    return {"versions": versions(), "files": files, "trains": list(outcome.trains), **state}
