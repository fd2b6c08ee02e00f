"""The command line: parse, call, print, exit status. The only importer of typer and rich.

    signals     a signal ends the process, wherever it is
    main        what the process needs, the exit status
    streams     standard output and standard error, whoever reads them
    failures    exceptions -> one sentence and an exit status
    command     the options
    completion  whether a shell asks what could complete a line
    help        the options as text, in groups
    options     the options as values, and what can be said about them before any file is opened
    foreign     models of other frameworks, and how each becomes ONNX
    outputs     what could not be written, or is read, is refused before the work
    work        the modes: initialise, check, dry run
    terminal    width, colours and characters of standard output; the progress bar
    ending      what is printed and written when the work is done

Heavy modules are imported inside functions, so that `--help` and `--version` do not wait for them; typer too is
imported only once `main` can answer Ctrl-C.
"""

from onnx_lsuv.cli.main import main, run

TYPE_CHECKING = False  # nor does Ctrl-C wait for typing
if TYPE_CHECKING:
    from typing import Any

    from onnx_lsuv.cli.command import app
    from onnx_lsuv.cli.options import Color, Format, Init

__all__ = ["Color", "Format", "Init", "app", "main", "run"]


def __getattr__(name: str) -> "Any":
    from importlib import import_module  # noqa: PLC0415

    if name not in __all__:
        raise AttributeError(f"module 'onnx_lsuv.cli' has no attribute {name!r}")
    return getattr(import_module(f"onnx_lsuv.cli.{'command' if name == 'app' else 'options'}"), name)
