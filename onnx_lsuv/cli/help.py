"""The options as text, in groups, for any width."""

from __future__ import annotations

import sys
import textwrap

import typer

from onnx_lsuv.cli.streams import emit
from onnx_lsuv.cli.terminal import Color, colored, width

EXAMPLES = (
    "onnx-lsuv net.onnx --data samples.npy",
    "onnx-lsuv net.onnx -d image=x.npy -d mask=m.npy -o fresh.onnx",
    "onnx-lsuv net.onnx --data samples.npy --check --report check.html",
    "onnx-lsuv net.onnx --dry-run",
)
WIDEST, PIPED = 100, 80


def show(context: typer.Context, wanted: bool) -> None:
    """Print the help and end."""
    if wanted:
        color = colored(context.params.get("color") or Color.auto, sys.stdout)
        emit(text(context, min(width(PIPED), WIDEST), color=color), color)
        raise typer.Exit


def text(context: typer.Context, columns: int, *, color: bool) -> str:
    """Return the usage, what the command does, and its options by group."""
    usage = "Usage: onnx-lsuv MODEL --data [NAME=]PATH [OPTIONS]"
    lines = [*textwrap.wrap(usage, columns, subsequent_indent="  ", break_on_hyphens=False), ""]
    lines += [*textwrap.wrap(context.command.help or "", columns), ""]
    groups: dict[str, list[tuple[str, str]]] = {}
    for each in context.command.get_params(context):
        panel = getattr(each, "rich_help_panel", None) or "Messages"
        if each.param_type_name == "option":
            flag = getattr(each, "is_flag", False) or getattr(each, "count", False)
            names = ", ".join(each.opts) + ("" if flag else f" {each.metavar}")
            groups.setdefault(panel, []).append((names, getattr(each, "help", "") or ""))
    left = 32 if columns >= 72 else 4
    for panel, options in groups.items():
        lines.append(typer.style(panel, bold=True) if color else panel)
        for names, words in options:
            lines += _entry(names, words, left, columns, color=color)
        lines.append("")
    lines.append(typer.style("Examples", bold=True) if color else "Examples")
    for example in EXAMPLES:
        lines += textwrap.wrap(
            example, columns, initial_indent="  ", subsequent_indent="      ", break_on_hyphens=False
        )
    return "\n".join(lines)


def _entry(names: str, words: str, left: int, columns: int, *, color: bool) -> list[str]:
    indent = " " * left
    body = textwrap.wrap(words, max(columns - left, 16), break_on_hyphens=False)
    # Choices may be broken after a bar.
    heads = [line.replace("| ", "|") for line in textwrap.wrap(names.replace("|", "| "), columns - 2)]
    shown = ["  " + (typer.style(head, fg="cyan") if color else head) for head in heads]
    if len(heads) > 1 or len(names) + 4 > left:
        return [*shown, *(indent + line for line in body)]
    return [shown[0] + " " * (left - 2 - len(names)) + body[0], *(indent + line for line in body[1:])]
