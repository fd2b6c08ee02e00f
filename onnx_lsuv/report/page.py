"""A result as a page of HTML that needs nothing from elsewhere and, but for sorting, no script.

The page forbids itself all requests: its policy names the digests of its own style and script, and nothing else.
"""

from __future__ import annotations

import math
import shlex
from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib.resources import files
from typing import Any

from onnx_lsuv.lsuv import LayerReport, Result
from onnx_lsuv.report.figures import Series, histogram, profile
from onnx_lsuv.report.layout import number
from onnx_lsuv.report.markup import code, escaped
from onnx_lsuv.report.sections import changes, data, layers, left, listed, made, stale, trains
from onnx_lsuv.report.verdict import misses, told, verdict

_WORST = 5


def as_html(
    result: Result, about: Mapping[str, Any], *, command: Sequence[str] = (), other: Result | None = None
) -> str:
    """Return the whole page.

    Args:
        result: what to tell.
        about: as for `as_json`.
        command: the program and its arguments.
        other: a second result, whose std stands beside the first's in the picture and in the table.
    """
    style, script = (files(__package__).joinpath(name).read_text("utf-8") for name in ("page.css", "page.js"))
    model = str(about.get("files", {}).get("model", {}).get("path", result.model.name))
    name = _last(model)
    against = aligned(result.layers, other.layers) if other is not None else None
    other_name = "" if other is None else _last(other.model.name)
    if other is not None and other_name == name:
        other_name = other.model.name
    sections = [
        ("std", "Std through the network", _profile(result, against, other_name)),
        ("scales", "Scales", _scales(result.layers)),
        ("layers", f"Layers <small>{len(result.layers)}</small>", layers(result.layers, against, other_name)),
        ("left", f"Left alone <small>{len(result.skipped)}</small>", left(result.skipped)),
        ("kept", f"Statistics kept <small>{len(result.kept_statistics)}</small>", stale(result.kept_statistics)),
        ("notes", "Notes", listed(escaped(note) for note in result.notes)),
        ("trains", "What trains where", trains(about.get("trains", ()))),
        ("data", "Data", data(result.data)),
        ("changes", f"Tensors changed <small>{len(result.changes)}</small>", changes(result.changes)),
        ("made", "How it was made", made(result, about) + _command(command)),
    ]
    present = [(key, title, body) for key, title, body in sections if body]
    links = " ".join(f'<a href="#{key}">{title.split(" <")[0]}</a>' for key, title, _ in present)
    policy = f"default-src 'none'; img-src data:; style-src {_digest(style)}; script-src {_digest(script)}"
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<title>{escaped(name)}: onnx-lsuv</title>\n<link rel="icon" href="data:,">',
            f"<style>{style}</style>\n</head>\n<body>\n<header>",
            f'<p class="kind">onnx-lsuv report</p>\n<h1>{code(name)}</h1>',
            f'<p class="verdict {_mood(result)}">{escaped(verdict(result))}</p>',
            _misses(result),
            _facts(result),
            f'<nav aria-label="On this page">{links}</nav>\n</header>\n<main>',
            *(f'<section id="{key}">\n<h2>{title}</h2>\n{body}\n</section>' for key, title, body in present),
            f"</main>\n<script>{script}</script>\n</body>\n</html>\n",
        ]
    )


def aligned(rows: Sequence[LayerReport], others: Sequence[LayerReport]) -> list[LayerReport | None]:
    """Return for each row the other result's row of that name; where no name is shared, that of the same place."""
    by_name = {row.name: row for row in others}
    found = [by_name.get(row.name) for row in rows]
    if any(found):
        return found
    return [*others[: len(rows)], *[None] * (len(rows) - len(others))]


def _last(path: str) -> str:
    return path.replace("\\", "/").rstrip("/").rpartition("/")[2] or path


def _digest(content: str) -> str:
    return f"'sha256-{b64encode(sha256(content.encode()).digest()).decode()}'"


def _mood(result: Result) -> str:
    """Return yes or no; "" where nothing was measured, and so nothing found good."""
    return "no" if not result.good else "yes" if any(row.status == "ok" for row in result.layers) else ""


def _misses(result: Result) -> str:
    missed = misses(result)
    if not missed:
        return ""
    place = {id(row): i + 1 for i, row in enumerate(result.layers)}
    items = [
        f'<a href="#layer-{place[id(row)]}">{code(row.name, 80)}</a> '
        f'<span class="{row.status}">{row.status}</span>: {escaped(told(row))}'
        for row in missed[:_WORST]
    ]
    if len(missed) > _WORST:
        items.append(f"and {len(missed) - _WORST} more")
    return f'<div class="misses">Worst first:{listed(items)}</div>'


def _facts(result: Result) -> str:
    """Return a few numbers that say what was done."""
    facts = {"layers": str(len(result.layers)), "std wanted": _range([row.target for row in result.layers])}
    facts["std found"] = _range([row.std for row in result.layers if row.std is not None])
    facts["std drawn"] = _range([row.std_drawn for row in result.layers if row.std_drawn is not None])
    if result.data:
        samples, batches = result.data.get("samples"), result.data.get("batches")
        facts["data"] = f"{samples} samples, {batches} batch{'es' * (batches != 1)}"
        facts["device"] = result.device
        facts["time"] = f"{sum(result.seconds.values()):.2f} s"
    items = "".join(f"<div><dt>{k}</dt><dd>{escaped(v)}</dd></div>" for k, v in facts.items() if v)
    return f'<dl class="facts">{items}</dl>'


def _range(values: Sequence[float]) -> str:
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return "not finite" if values else ""
    return " to ".join(dict.fromkeys((number(min(finite)), number(max(finite)))))


def _profile(result: Result, against: Sequence[LayerReport | None] | None, other_name: str) -> str:
    """Return the picture of std by depth with its legend; "" where nothing was measured."""
    kept = result.settings.get("init") == "keep"
    series = [
        Series("drawn", "as it was" if kept else "as drawn", [row.std_drawn for row in result.layers]),
        Series("now", "after LSUV" if result.settings.get("init") else "measured", [row.std for row in result.layers]),
        Series("other", other_name, [None if row is None else row.std for row in against or ()]),
    ]
    series = [each for each in series if any(value is not None for value in each.values)]
    if not series:
        return ""
    keys = [_key(each.mark, code(each.name, 60) if each.mark == "other" else each.name) for each in series]
    keys.append(_key("target", "wanted"))
    said = ["Standard deviation of each layer's output over the data, on a logarithmic axis."]
    if result.layers and any(row.std_drawn is not None for row in result.layers):
        said.append("As drawn: all layers before it scaled already, so the way to the target is the layer's own scale.")
    if any(not row.good and (row.std is None or not 0 < row.std < math.inf) for row in result.layers):
        said.append("A cross stands for an output without a finite, positive std.")
    unplaced = 0 if against is None else sum(row is None for row in against)
    if unplaced:
        said.append(f"{unplaced} of these layers have no counterpart in the other model.")
    return (
        f'<figure><ul class="legend">{"".join(keys)}</ul>\n<div class="plot">{profile(result.layers, series)}</div>\n'
        f'<p class="axis">layer, in the order of execution</p><figcaption>{" ".join(said)}</figcaption></figure>'
    )


def _key(mark: str, name: str) -> str:
    """Return an entry of the legend: a sample of the mark, and its name as HTML."""
    dot = f'<circle class="{mark}" cx="14" cy="6" r="4"/>' if mark != "target" else ""
    return f'<li><svg viewBox="0 0 28 12" aria-hidden="true"><path class="{mark}" d="M0 6H28"/>{dot}</svg>{name}</li>'


def _scales(rows: Sequence[LayerReport]) -> str:
    bars = histogram(row.scale for row in rows)
    if not bars:
        return ""
    caption = "How many layers had their drawn weight multiplied by how much; a logarithmic axis."
    return f'<figure><div class="plot low">{bars}</div><figcaption>{caption}</figcaption></figure>'


def _command(command: Sequence[str]) -> str:
    return f"<h3>Command</h3><pre><code>{escaped(shlex.join(command))}</code></pre>" if command else ""
