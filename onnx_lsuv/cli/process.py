"""What the process needs: signals, streams, the exit status."""

from __future__ import annotations

import sys

from onnx_lsuv.cli import signals

TYPE_CHECKING = False  # the module typing takes longer to load than all that comes before `signals.answer`
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, NoReturn


def main() -> NoReturn:
    """Run the command line and end the process."""
    signals.answer()
    import gc  # noqa: PLC0415
    import os  # noqa: PLC0415
    from contextlib import suppress  # noqa: PLC0415

    from onnx_lsuv.cli import streams  # noqa: PLC0415

    streams.prepare()
    # A hundred thousand objects are made while modules load, and hardly any is garbage.
    gc.set_threshold(200_000)
    status = run(sys.argv[1:])
    from onnx_lsuv.cli.failures import guarded  # noqa: PLC0415

    status = guarded(lambda: _flushed(status), 0)
    if sys.stderr is not None:
        with suppress(OSError):
            sys.stderr.flush()
    signals.last_word()
    # All is written. To take everything loaded apart again would be a tenth of a small run.
    os._exit(status)


def run(arguments: Sequence[str]) -> int:
    """Run the command line with these arguments; return the exit status."""
    from onnx_lsuv.cli.failures import guarded  # noqa: PLC0415

    short = [each.replace("--verbose", "-v") for each in arguments if each[:1] == "-"]
    verbose = sum(each.count("v") for each in short if not each.strip("-qv"))
    return guarded(lambda: _parse_and_run(arguments), verbose)


def _parse_and_run(arguments: Sequence[str]) -> int:
    from typer.main import get_command  # noqa: PLC0415

    from onnx_lsuv.cli.command import app, take_plain_values  # noqa: PLC0415
    from onnx_lsuv.cli.completion import asks_completion  # noqa: PLC0415
    from onnx_lsuv.cli.failures import refuse_repeated, refused  # noqa: PLC0415

    more: dict[str, Any] = {} if asks_completion() else {"complete_var": ""}  # no variable has this name
    command = get_command(app)  # once: it takes a tenth of the time that the help takes
    take_plain_values(command.params)
    try:
        refuse_repeated(command, arguments)
        more |= {"prog_name": "onnx-lsuv", "obj": ("onnx-lsuv", *arguments)}
        result: Any = command(list(arguments), standalone_mode=False, **more)
    except Exception as error:
        # The parser's own exceptions, whose module differs between versions of typer.
        if not hasattr(error, "format_message"):
            raise
        raise refused(error, arguments, command.params) from error
    return result if isinstance(result, int) else 0


def _flushed(status: int) -> int:
    from onnx_lsuv.cli import streams  # noqa: PLC0415

    streams.flush()
    return status
