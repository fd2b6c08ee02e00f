"""What the process needs: signals, streams, the exit status."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn


def main() -> NoReturn:
    """Run the command line and end the process."""
    # SIGTERM takes the way of Ctrl-C, so that temporary files are removed; both are answered from here on.
    signal.signal(signal.SIGTERM, _stop)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell may have it ignored
        signal.signal(signal.SIGINT, _stop)
    from onnx_lsuv.cli import streams  # noqa: PLC0415

    streams.prepare()
    # Thousands of objects are made while modules load, and hardly any is garbage.
    gc.set_threshold(100_000)
    status = run(sys.argv[1:])
    from onnx_lsuv.cli.failures import guarded  # noqa: PLC0415

    status = guarded(lambda: _flushed(status), 0)
    if sys.stderr is not None:
        with suppress(OSError):
            sys.stderr.flush()
    # All is written. To take everything loaded apart again would be a tenth of a small run.
    os._exit(status)


def run(arguments: Sequence[str]) -> int:
    """Run the command line with these arguments; return the exit status."""
    from onnx_lsuv.cli.failures import guarded  # noqa: PLC0415

    verbose = sum(each.count("v") for each in arguments if each[:1] == "-" and not each.strip("-qv"))
    return guarded(lambda: _parse_and_run(arguments), verbose)


def _parse_and_run(arguments: Sequence[str]) -> int:
    from typer.main import get_command  # noqa: PLC0415

    from onnx_lsuv.cli.command import app  # noqa: PLC0415
    from onnx_lsuv.cli.completion import asks_completion  # noqa: PLC0415
    from onnx_lsuv.cli.failures import refused  # noqa: PLC0415

    more: dict[str, Any] = {} if asks_completion() else {"complete_var": ""}  # no variable has this name
    try:
        result: Any = app(list(arguments), prog_name="onnx-lsuv", standalone_mode=False, **more)
    except Exception as error:
        # The parser's own exceptions, whose module differs between versions of typer.
        if not hasattr(error, "format_message"):
            raise
        raise refused(error, arguments, get_command(app).params) from error
    return result if isinstance(result, int) else 0


def _stop(number: int, frame: object) -> None:
    # Not KeyboardInterrupt, which the parser would take for its own.
    raise SystemExit(128 + number)


def _flushed(status: int) -> int:
    from onnx_lsuv.cli import streams  # noqa: PLC0415

    streams.flush()
    return status
