"""What the terminal can show: width, colours, characters; and the progress bar."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Any

from onnx_lsuv.cli.signals import before_the_end

WIDE = 160  # of the table in a file or a log
Tell = Callable[[str, int, int], None]
DOING = {"read": "reading", "draw": "drawing", "calibrate": "calibrating", "verify": "measuring"}


class Color(StrEnum):
    """When text is coloured."""

    auto = "auto"
    always = "always"
    never = "never"


def is_terminal(stream: Any) -> bool:
    """Whether a person looks at the stream."""
    return stream is not None and not stream.closed and bool(stream.isatty())


def colored(choice: Color, stream: Any) -> bool:
    """Whether text on the stream is coloured; FORCE_COLOR and the like are not looked at, so files stay plain."""
    if choice is not Color.auto:
        return choice is Color.always
    return is_terminal(stream) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def width(piped: int = WIDE) -> int:
    """Return how many columns standard output has; a file or pipe is given so many, whatever the terminal has."""
    return shutil.get_terminal_size().columns if is_terminal(sys.stdout) else piped


def encoding() -> str:
    """Return the encoding of standard output."""
    return getattr(sys.stdout, "encoding", None) or "utf-8"


@contextlib.contextmanager
def progress(color: Color, *, quiet: bool) -> Iterator[Tell]:
    """Yield a callback for phases and steps: a bar on standard error if that is a terminal, else nothing."""
    if quiet or not is_terminal(sys.stderr) or os.environ.get("TERM") == "dumb":
        yield lambda phase, done, total: None
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    console = Console(file=sys.stderr, force_terminal=True, no_color=not colored(color, sys.stderr), highlight=False)
    columns = [TextColumn("{task.description}", markup=False), BarColumn(bar_width=None)]
    columns += [TextColumn("{task.fields[steps]}", markup=False), TimeRemainingColumn(compact=True)]
    if console.width < 40:
        del columns[1]
    # Stopped by an exception too, so that the cursor comes back.
    with Progress(*columns, console=console, transient=True, expand=True) as bar:
        before_the_end("bar", bar.stop)
        task = bar.add_task("reading", total=None, steps="")
        shown = ""

        def tell(phase: str, done: int, total: int) -> None:
            nonlocal task, shown
            if phase != shown:
                bar.remove_task(task)
                shown, task = phase, bar.add_task(DOING.get(phase, phase), total=total or None, steps="")
            unit = {"draw": "layers", "read": "samples"}.get(phase, "steps")
            of = f"/{total}" if total else ""  # 0: nobody knows how many there are
            bar.update(task, completed=done, total=total or None, steps=f"{done}{of} {unit}")
            if done == total:
                # What comes next tells nothing before its first step is done.
                bar.remove_task(task)
                after = {"read": "checking", "draw": "calibrating", "calibrate": "saving"}.get(phase, "finishing")
                shown, task = "", bar.add_task(after, total=None, steps="")

        yield tell
