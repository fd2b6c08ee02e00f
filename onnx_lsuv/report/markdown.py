"""A result as Markdown, for the summary of a CI job or a comment (GitHub's flavour: tables, details)."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from onnx_lsuv.errors import clean
from onnx_lsuv.lsuv import Result, SkippedReport
from onnx_lsuv.report.layout import number, shape, shortened
from onnx_lsuv.report.text import beside
from onnx_lsuv.report.training import HEAD, cells
from onnx_lsuv.report.verdict import groups, misses, told, verdict

_WORST = 10
_OPEN = 40  # tables of more layers are folded
_NAME = 100
# All but letters, digits and tame punctuation; what starts a list at the start; what starts a link without a scheme.
_MARKUP = re.compile(r"""[^\w\s,;.()'"%/+=-]|_|^[\s+=-]|^\d+(?=[.)])|(?<=www)\.""", re.IGNORECASE)


def as_markdown(
    result: Result, about: Mapping[str, Any], command: Sequence[str] = (), *, other: Result | None = None
) -> str:
    """Return the verdict, what missed, the table of layers, what was left alone, notes, and how it was made.

    Args:
        result: what to tell.
        about: as for `as_json`.
        command: the program and its arguments.
        other: a second result, whose std gets a column.
    """
    parts = [f"### onnx-lsuv: {_code(_model(result, about))}", f"**{_plain(verdict(result))}**"]
    missed = misses(result)
    if missed:
        lines = [f"- {_code(row.name)} ({row.status}): {_plain(told(row))}" for row in missed[:_WORST]]
        more = [f"- and {len(missed) - _WORST} more"] if len(missed) > _WORST else []
        parts.append("\n".join(["Worst first:", "", *lines, *more]))
    if result.layers:
        whole = _layers(result, other)
        folded = f"<details><summary>{len(result.layers)} layers</summary>\n\n{whole}\n\n</details>"
        parts.append(folded if len(result.layers) > _OPEN else whole)
    if result.skipped:
        rows = [_alone(group) for group in groups(result.skipped)]
        parts.append("#### Left alone\n\n" + _table(["reason", "nodes", "op", "names", "why"], rows, "<><<<"))
    if result.kept_statistics:
        lines = [f"- {_code(row.name)}: {_plain(row.detail)}" for row in result.kept_statistics]
        parts.append("#### Statistics kept\n\n" + "\n".join(lines))
    if about.get("trains"):
        rows = [list(map(_plain, cells(each))) for each in about["trains"]]
        parts.append("#### What trains where\n\n" + _table(list(map(_plain, HEAD)), rows, "<>><<"))
    if result.notes:
        parts.append("#### Notes\n\n" + "\n".join(f"- {_plain(note)}" for note in result.notes))
    parts += [part for part in (_made(result, about), _code(shlex.join(command), 10**6) if command else "") if part]
    return "\n\n".join(parts) + "\n"


def _model(result: Result, about: Mapping[str, Any]) -> str:
    path: str = about.get("files", {}).get("model", {}).get("path", result.model.name)
    return path


def _layers(result: Result, other: Result | None) -> str:
    layers = result.layers
    columns = {
        "layer": [_code(row.name) for row in layers],
        "op": [_plain(row.op) for row in layers],
        "weight": [_code(row.weight) for row in layers],
        "shape": [shape(row.shape) for row in layers],
        "std drawn": [number(row.std_drawn) for row in layers],
        "scale": [number(row.scale) for row in layers],
        "std now": [number(row.std) for row in layers],
        "std other": ["-"] * len(layers) if other is None else beside(result, other),
        "status": [row.status if row.good else f"**{row.status}**" for row in layers],
    }
    # What this run did not do has no column.
    kept = {name: cells for name, cells in columns.items() if set(cells) != {"-"}}
    right = "".join(">" if name.startswith("std") or name == "scale" else "<" for name in kept)
    return _table(list(kept), [list(cells) for cells in zip(*kept.values(), strict=True)], right)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], right: str) -> str:
    rule = [{"<": "---", ">": "---:"}[side] for side in right]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, rule, *rows])


def _alone(group: Sequence[SkippedReport]) -> list[str]:
    first, names = group[0], [row.name for row in group]
    return [first.reason, str(len(group)), _plain(first.op), _names(names), _plain(first.detail)]


def _names(names: Sequence[str]) -> str:
    more = f", and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(_code(name) for name in names[:3]) + more


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
