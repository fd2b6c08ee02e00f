"""HTML: names and text, and the tables and lists of the page, each "" where it would be empty."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from html import escape
from typing import Any

from onnx_lsuv.errors import clean
from onnx_lsuv.lsuv import Change, LayerReport, Result, Settings, SkippedReport, SumReport
from onnx_lsuv.report.columns import INPUTS, RIGHT, SKIPPED, SUMS, TRAINS, Filled, filled, layers_of, number, plain
from onnx_lsuv.report.layout import shortened
from onnx_lsuv.report.words import groups, importers, roles_listed, roles_told

_NAME = 120
_NAMES = 8  # of the nodes left alone for one reason
_PLURALS = {"bias": "biases", "statistics": "statistics"}
_SHOWN = (
    "place name outcome std std_before std_other target std_drawn scale mean signal "  # in sight first on a phone
    "dead saturated scope op weight path shape dtype matrices"
)


def escaped(text: str) -> str:
    """Return text for an element's content or an attribute in double quotes; hidden characters are made visible."""
    return escape(clean(text))


def code(name: str, width: int = _NAME) -> str:
    """Return a name as code; one that is cut in the middle tells the whole when pointed at."""
    whole = clean(name)
    shown = shortened(whole, width)
    title = f' title="{escape(whole)}"' if shown != whole else ""
    return f"<code{title}>{escape(shown)}</code>"


def layers(result: Result, other: Result | None, other_name: str) -> str:
    """Return the table of layers, with the std of another model beside."""
    columns = layers_of(result, other, _SHOWN)
    heading = f"std of {code(other_name, 24)}"
    named = [(replace(each, heading=heading) if each.key == "std_other" else each, values) for each, values in columns]
    marks = [f' id="layer-{i + 1}"' + ("" if row.good else ' class="missed"') for i, row in enumerate(result.layers)]
    return _table("Layers", named, marks, sortable=True)


def skipped(rows: Sequence[SkippedReport]) -> str:
    """Return what was left alone, grouped by reason, each with its first names."""
    return _table("Left alone", filled(SKIPPED, groups(rows)))


def sums(rows: Sequence[SumReport]) -> str:
    """Return what residual streams are where branches join them."""
    return _table("Residual sums", filled(SUMS, list(map(asdict, rows))))


def trains(found: Sequence[Mapping[str, Any]]) -> str:
    """Return how each framework's importer takes the file."""
    return _table("What trains where", filled(TRAINS, importers(found)))


def kept_statistics(rows: Sequence[SkippedReport]) -> str:
    """Return the BatchNormalizations that keep their stored statistics."""
    return listed(f"{code(row.name)}: {escaped(row.detail)}" for row in rows)


def roles(result: Result) -> str:
    """Return what each constant is, folded; of what was measured as it is nothing has to be said."""
    if result.verb == "measure":
        return ""
    title = escaped(roles_told(result.roles))
    return f"<details><summary>{title}</summary>{_table('Constants', roles_listed(result.roles))}</details>"


def data(about: Mapping[str, Any]) -> str:
    """Return what the data are: the inputs with their moments, and where they came from."""
    inputs = [{"input": name, **given} for name, given in about.get("inputs", {}).items()]
    table = _table("Inputs", filled(INPUTS, inputs))
    sources = listed(map(_source, about.get("sources", ())))
    return table + (f'<div class="after">{sources}</div>' if table and sources else "")


def changes(rows: Sequence[Change]) -> str:
    """Return the tensors that changed, folded, a list for each role."""
    roles: dict[str, list[Change]] = {}
    for row in rows:
        roles.setdefault(row.role, []).append(row)
    parts = []
    for role, group in roles.items():
        items = "".join(f"<li>{_change(row)}</li>" for row in group)
        title = f"{len(group)} {escaped(_PLURALS.get(role, role + 's') if len(group) > 1 else role)}"
        parts.append(f'<details><summary>{title}</summary><ul class="tensors">{items}</ul></details>')
    return "\n".join(parts)


def made(result: Result, about: Mapping[str, Any], command: Sequence[str]) -> str:
    """Return the files, the settings, the seconds, the versions and the command."""
    facts: dict[str, str] = {}
    for role, file in about.get("files", {}).items():
        facts[role] = f'{code(str(file["path"]))}<span class="note">SHA-256 {code(str(file["sha256"]))}</span>'
    facts["std wanted"] = number(result.target_std)
    facts["tolerance"] = "default" if result.tolerance is None else f"{result.tolerance:g}"
    settings, usual = result.settings.as_dict(result.verb), Settings().as_dict(result.verb)
    settings = {key: value for key, value in settings.items() if value not in ("", [], None)}
    facts |= {key: _setting(value) for key, value in settings.items() if value != usual.get(key)}
    facts["device"] = escaped(result.device)
    facts["seconds"] = ", ".join(f"{escaped(phase)} {seconds:.2f}" for phase, seconds in result.seconds.items())
    facts["versions"] = ", ".join(f"{escaped(k)} {escaped(str(v))}" for k, v in about.get("versions", {}).items())
    defaults = {key: _setting(value) for key, value in settings.items() if value == usual.get(key)}
    folded = f"<details><summary>{len(defaults)} settings at their defaults</summary>{_facts(defaults)}</details>"
    typed = f"<h3>Command</h3><pre><code>{escaped(shlex.join(command))}</code></pre>" if command else ""
    return _facts(facts) + folded * bool(defaults) + typed


def _facts(facts: Mapping[str, str]) -> str:
    items = "".join(f"<dt>{escaped(k).replace('_', ' ')}</dt><dd>{v}</dd>" for k, v in facts.items() if v)
    return f'<dl class="made">{items}</dl>'


def listed(items: Iterable[str]) -> str:
    """Return a list of items that are HTML."""
    lines = "".join(f"<li>{item}</li>" for item in items)
    return f"<ul>{lines}</ul>" if lines else ""


def _table(label: str, columns: Filled, marks: Sequence[str] = (), *, sortable: bool = False) -> str:
    """Return a table in a box that scrolls by itself; `marks` are the attributes of the rows."""
    if not columns or not columns[0][1]:
        return ""
    heads = [
        f'<th scope="col"{_class(column.kind) * (column.kind in RIGHT)}>{column.heading}</th>' for column, _ in columns
    ]
    # Where rows are cards, a number tells its heading; that of the other model is HTML, and a place needs none.
    named = [
        (c, f' data-h="{c.heading.partition(" of <")[0]}"' * (c.kind in RIGHT and c.heading != "#")) for c, _ in columns
    ]
    cells = ([_cell(c.kind, v, name) for v in values] for (c, name), (_, values) in zip(named, columns, strict=True))
    rows = zip(*cells, strict=True)
    lines = [f"<tr{marks[i] if marks else ''}>{''.join(cells)}</tr>" for i, cells in enumerate(rows)]
    kind = ' class="sortable"' if sortable else ""
    return (
        f'<div class="box" role="region" aria-label="{label}" tabindex="0"><table{kind}><thead><tr>{"".join(heads)}'
        "</tr></thead>\n<tbody>\n" + "\n".join(lines) + "\n</tbody></table></div>"
    )


def _cell(kind: str, value: Any, named: str = "") -> str:
    """Return a cell; one with a number has it whole too, to sort by: NaN sorts with what is missing."""
    key = ""
    if kind in ("number", "count"):
        missing = value is None or math.isnan(value)
        key = f' data-v="{"" if missing else repr(value).replace("inf", "Infinity")}"'
    tell = _TOLD.get(kind, lambda value: escaped(plain(kind, value)))
    return f"<td{_class(kind)}{key}{named}>{'' if value is None or value == () else tell(value)}</td>"


def _class(kind: str) -> str:
    return f' class="{_CLASSES[kind]}"' if kind in _CLASSES else ""


def _matrices(value: tuple[int, int, int]) -> str:
    blocks, rows, columns = value
    return f"{blocks} of " * (blocks > 1) + f"{rows} &times; {columns}"


def _outcome(row: LayerReport) -> str:
    note = f'<span class="note">{escaped(row.note)}</span>' if row.note else ""
    return f'<span class="{row.status}" data-status="{row.status}">{row.status}</span>{note}'


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(code, names[:_NAMES])) + (f" and {len(names) - _NAMES} more" if len(names) > _NAMES else "")


_CLASSES = {
    **dict.fromkeys(RIGHT, "n"),
    **dict.fromkeys(("word", "dims", "matrices"), "k"),  # kept on one line
    **dict.fromkeys(("text", "chain", "names"), "w"),  # wide
}
_TOLD: dict[str, Callable[[Any], str]] = {
    "name": code,
    "names": _some,
    "scope": lambda scope: "" if scope == "main" else code(scope),
    "word": lambda word: escape(shortened(clean(str(word)), 40)),
    "matrices": _matrices,
    "outcome": _outcome,
}


def _source(source: Mapping[str, Any]) -> str:
    inputs = ", ".join(map(code, source["inputs"]))
    path = f" {code(str(source['path']))}" if "path" in source else ""
    files = f", {source['files']} files" if source.get("files", 1) > 1 else ""
    seed = f", seed {source['seed']}" if "seed" in source else ""
    return f"{inputs}: {escaped(source['kind'])}{path}{files}{seed}"


def _change(row: Change) -> str:
    scope = "" if row.scope == "main" else f" in {code(row.scope)}"
    parted = "" if row.parted_from is None else f" (parted from {code(row.parted_from)})"
    moved = " (became an initializer)" if row.became_initializer else ""
    return code(row.tensor) + scope + moved + parted + (" (had no values)" if row.absent else "")


def _setting(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(code(str(each)) for each in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{code(str(k))} = {escaped(str(v))}" for k, v in value.items())
    return escaped(str(value))
