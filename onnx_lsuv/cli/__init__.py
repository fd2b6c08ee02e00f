"""The command line: parse, call, print, exit status. The only importer of typer and rich. A call goes through these:

    signals     a signal ends the process, wherever it is
    process     what the process needs, the exit status
    streams     standard output and standard error, whoever reads them
    terminal    width, colours and characters of standard output; the progress bar
    failures    exceptions -> one sentence and an exit status
    completion  whether a shell asks what could complete a line
    options     what can be given, declared once; the library's settings of it
    command     the options as the parser takes them
    help        ... and as text, in groups
    validation  what can be said about options before any file is opened
    preflight   what could not be written, or is read, is refused before the work; models are loaded
    modes       initialise, check, dry run, no values: the library is called
    outcome     what is printed and written when the work is done

Heavy modules are imported inside functions, so that `--help` and `--version` do not wait for them; typer too is
imported only once `main` can answer Ctrl-C.
"""

from onnx_lsuv import loaded_on_use
from onnx_lsuv.cli.process import main, run

TYPE_CHECKING = False  # nor does Ctrl-C wait for typing
if TYPE_CHECKING:
    from onnx_lsuv.cli.command import app
    from onnx_lsuv.cli.options import Format
    from onnx_lsuv.cli.terminal import Color

__all__ = ["Color", "Format", "app", "main", "run"]
__getattr__ = loaded_on_use(__name__, __all__, "terminal options command")
