"""The command, as the parser calls it: it takes what `Options` declares."""

from dataclasses import fields
from inspect import Parameter, Signature
from typing import Any

import typer

from onnx_lsuv.cli.failures import guarded
from onnx_lsuv.cli.options import DECLARED, Options

app = typer.Typer(add_completion=True, rich_markup_mode=None, pretty_exceptions_enable=False)


def command(context: typer.Context, **values: Any) -> None:
    """Give the linear layers of an ONNX MODEL fresh orthonormal weights, scaled to unit output variance (LSUV)."""
    sources = {name: context.get_parameter_source(name) for name in values}
    given = frozenset(name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE")

    def work() -> int:
        options = Options(**values, given=given, command=context.obj or ())
        from onnx_lsuv.cli.modes import perform  # noqa: PLC0415

        return perform(options)

    raise typer.Exit(guarded(work, values["verbose"]))


_DECLARED = [
    Parameter(each.name, Parameter.KEYWORD_ONLY, default=each.metadata[DECLARED], annotation=each.type)
    for each in fields(Options)
    if DECLARED in each.metadata
]
_CONTEXT = Parameter("context", Parameter.KEYWORD_ONLY, annotation=typer.Context)
command.__signature__ = Signature([_CONTEXT, *_DECLARED])  # type: ignore[attr-defined]  # which `inspect` looks up
app.command(add_help_option=False, context_settings={"help_option_names": ["-h", "--help"]})(command)
