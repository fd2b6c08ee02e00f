"""The command, as the parser calls it: it takes what `Options` declares."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import fields
from enum import EnumType
from functools import partial
from inspect import Parameter, Signature
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

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


def take_plain_values(parameters: Sequence[Any]) -> None:
    """Have the parser's parameters take values that are plainly right as they are.

    To look at any value typer loads pydantic, which would be a fifth of a small run. What may be wrong is left to it.
    """
    declared = {each.name: each for each in _DECLARED}
    for each in parameters:
        each.process_value = partial(_value, each.process_value, declared.get(each.name))


def _value(look: Callable[[Any, Any], Any], option: Parameter | None, context: typer.Context, value: Any) -> Any:
    if option is None or option.default.callback is not None:
        return None if value is None else look(context, value)  # a callback does nothing without a value
    kinds = [each for each in get_args(option.annotation) if each is not NoneType] or [option.annotation]
    many = get_origin(kinds[0]) is list
    if value is None and option.annotation not in kinds:
        return () if many else None
    kind = get_args(kinds[0])[0] if many else kinds[0]
    taken = [_plain(kind, option.default, each) for each in (value if isinstance(value, list | tuple) else [value])]
    if None in taken:
        return look(context, value)
    return taken if many else taken[0]


def _plain(kind: Any, info: Any, value: Any) -> Any:
    """Return what a value is that is plainly of a kind; None for any other."""
    if type(value) is kind:
        return value
    if not isinstance(value, str):
        return None
    if kind is Path:
        return (info.parser or Path)(value)
    if isinstance(kind, EnumType):
        return kind.__members__.get(value)
    if not re.fullmatch(r"\d{1,9}" if kind is int else r"\d{1,9}(\.\d{1,9})?", value, re.ASCII):
        return None
    number = kind(value)
    return number if (info.min or 0) <= number <= (info.max or math.inf) else None
