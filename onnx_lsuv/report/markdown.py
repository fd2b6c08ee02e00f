"""A result as Markdown, for the summary of a CI job or a comment (GitHub's flavour: tables, details)."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from onnx_lsuv.errors import clean
from onnx_lsuv.lsuv import Result
from onnx_lsuv.report.columns import RIGHT, SKIPPED, TRAINS, Filled, filled, layers_of, plain
from onnx_lsuv.report.layout import shortened
from onnx_lsuv.report.words import (
    groups,
    importers,
    misses,
    only_there,
    path_of,
    roles_listed,
    roles_told,
    told,
    verdict,
)

_WORST = 10
_OPEN = 40  # tables of more layers are folded
_NAME = 100
_NAMES = 3  # of nodes together
_SHOWN = "name op weight shape std_before std_drawn scale std std_other signal dead saturated outcome"
# All but letters, digits and tame punctuation; what starts a list at the start; what starts a link without a scheme.
_MARKUP = re.compile(r"""[^\w\s,;.()'"%/+=-]|_|^[\s+=-]|^\d+(?=[.)])|(?<=www)\.""", re.IGNORECASE)


def as_markdown(
    result: Result, about: Mapping[str, Any], command: Sequence[str] = (), *, other: Result | None = None
) -> str:
    """Return the verdict, what missed, the table of layers, what was left alone, notes, and how it was made.

    Arguments as for `write_report`.
    """
    parts = [f"### onnx-lsuv: {_code(path_of(result, about))}", f"**{_plain(verdict(result))}**"]
    missed = misses(result)
    if missed:
        lines = [f"- {_code(row.name)} ({row.status}): {_plain(told(row))}" for row in missed[:_WORST]]
        more = [f"- and {len(missed) - _WORST} more"] if len(missed) > _WORST else []
        parts.append("\n".join(["Worst first:", "", *lines, *more]))
    if result.layers:
        whole = _table(layers_of(result, other, _SHOWN))
        parts.append(_folded(f"{len(result.layers)} layers", whole) if len(result.layers) > _OPEN else whole)
    if other is not None:
        parts.append(f"The other model: {_code(path_of(other, about, 'compare'))}. {_plain(verdict(other))}")
        names = only_there(result, other)
        parts += [f"Only in the other model: {_names(names)}"] if names else []
    if result.skipped:
        columns = filled(SKIPPED, groups(result.skipped), "reason nodes op std names detail")
        parts.append("#### Left alone\n\n" + _table(columns))
    if result.kept_statistics:
        lines = [f"- {_names(group['names'])}: {_plain(group['detail'])}" for group in groups(result.kept_statistics)]
        parts.append("#### Statistics kept\n\n" + "\n".join(lines))
    if result.verb != "measure":
        parts.append(_folded(f"Constants: {roles_told(result.roles)}", _table(roles_listed(result.roles))))
    if about.get("trains"):
        parts.append("#### What trains where\n\n" + _table(filled(TRAINS, importers(about["trains"]))))
    if result.notes:
        parts.append("#### Notes\n\n" + "\n".join(f"- {_plain(note)}" for note in result.notes))
    parts += [part for part in (_made(result, about), _code(shlex.join(command), 10**6) if command else "") if part]
    return "\n\n".join(parts) + "\n"


def _folded(title: str, content: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{content}\n\n</details>"


def _table(columns: Filled) -> str:
    heads = [_plain(column.heading) for column, _ in columns]
    rule = ["---:" if column.kind in RIGHT else "---" for column, _ in columns]
    rows = zip(*([_cell(column.kind, value) for value in values] for column, values in columns), strict=True)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, rule, *rows))


def _cell(kind: str, value: Any) -> str:
    return _TOLD[kind](value) if kind in _TOLD and value is not None else plain(kind, value)


def _names(names: Sequence[str]) -> str:
    more = f", and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    return ", ".join(map(_code, names[:_NAMES])) + more


def _made(result: Result, about: Mapping[str, Any]) -> str:
    facts = [f"{name} {version}" for name, version in about.get("versions", {}).items()]
    if result.data:
        samples, batches = result.data.get("samples"), result.data.get("batches")
        facts.insert(0, f"samples: {samples}, batches: {batches}, device: {result.device}")
    return f"<sub>{_plain('; '.join(facts))}</sub>" if facts else ""


def _code(text: str, width: int = _NAME) -> str:
    """Return a name as code that is safe inside a table."""
    shown = shortened(clean(text), width)
    # In a code span everything stands for itself, but for backticks; a pipe would end the cell first.
    if shown.strip(" ") == shown != "" and not set(shown) & set("`|"):
        return f"`{shown}`"
    return f"<code>{_plain(shown)}</code>"


def _plain(text: str) -> str:
    """Return text in which nothing is Markdown, HTML or a link: a character reference never starts markup."""
    return _MARKUP.sub(lambda found: "".join(f"&#{ord(c)};" for c in found[0]), clean(text))


_TOLD: dict[str, Callable[[Any], str]] = {
    "name": _code,
    "names": _names,
    "word": _plain,
    "text": _plain,
    "outcome": lambda row: str(row.status) if row.good else f"**{row.status}**",
}
