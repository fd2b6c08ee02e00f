"""A result as a page of HTML that needs nothing from elsewhere and, but for sorting, no script.

The page forbids itself all requests: its policy names the digests of its own style and script, and nothing else.
"""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib.resources import files
from string import Template
from typing import Any

from onnx_lsuv.lsuv import LayerReport, Result
from onnx_lsuv.report import sections
from onnx_lsuv.report.columns import aligned
from onnx_lsuv.report.figures import DIAMOND, Series, histogram, profile
from onnx_lsuv.report.sections import code, escaped
from onnx_lsuv.report.words import misses, path_of, spread, told, verdict

_WORST = 5


def as_html(
    result: Result, about: Mapping[str, Any], command: Sequence[str] = (), *, other: Result | None = None
) -> str:
    """Return the whole page; arguments as for `write_report`."""
    room = files(__package__)
    page, style, script = (room.joinpath(f"page.{kind}").read_text("utf-8") for kind in ("html", "css", "js"))
    name = _last(path_of(result, about))
    other_path = "" if other is None else path_of(other, about, "compare")
    other_name = other_path if _last(other_path) == name else _last(other_path)
    kept = result.kept_statistics
    parts = [
        ("std", "Std through the network", _profile(result, other, other_name)),
        ("scales", "Scales", _scales(result.layers)),
        ("layers", _counted("Layers", result.layers), sections.layers(result, other, other_name)),
        ("sums", _counted("Residual sums", result.sums), sections.sums(result.sums)),
        ("left", _counted("Left alone", result.skipped), sections.skipped(result.skipped)),
        ("kept", _counted("Statistics kept", kept), sections.kept_statistics(kept)),
        ("constants", _counted("Constants", result.roles), sections.roles(result)),
        ("notes", "Notes", sections.listed(map(escaped, result.notes))),
        ("trains", "What trains where", sections.trains(about.get("trains", ()))),
        ("data", "Data", sections.data(result.data)),
        ("changes", _counted("Tensors changed", result.changes), sections.changes(result.changes)),
        ("made", "How it was made", sections.made(result, about, command)),
    ]
    parts = [part for part in parts if part[2]]
    measured = any(row.status == "ok" for row in result.layers)
    return Template(page).substitute(
        style=style,
        style_digest=_digest(style),
        script=script,
        script_digest=_digest(script),
        title=escaped(name),
        name=code(name),
        mood="no" if not result.good else "yes" if measured else "",
        verdict=escaped(verdict(result)),
        misses=_misses(result),
        facts=_facts(result),
        links=" ".join(f'<a href="#{key}">{title.partition(" <")[0]}</a>' for key, title, _ in parts),
        sections="\n".join(f'<section id="{key}">\n<h2>{title}</h2>\n{body}\n</section>' for key, title, body in parts),
    )


def _counted(title: str, rows: Sequence[Any]) -> str:
    return f"{title} <small>{len(rows)}</small>"


def _last(path: str) -> str:
    return path.replace("\\", "/").rstrip("/").rpartition("/")[2] or path


def _digest(content: str) -> str:
    return f"sha256-{b64encode(sha256(content.encode()).digest()).decode()}"


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
    return f'<div class="misses">Worst first:{sections.listed(items)}</div>'


def _facts(result: Result) -> str:
    """Return a few numbers that say what was done."""
    facts = {"layers": str(len(result.layers)), "std wanted": spread([row.target for row in result.layers])}
    facts["std found"] = spread([row.std for row in result.layers])
    facts["std drawn"] = spread([row.std_drawn for row in result.layers])
    if result.data:
        samples, batches = result.data.get("samples"), result.data.get("batches")
        facts["data"] = f"{samples} samples, {batches} batch{'es' * (batches != 1)}"
        facts["device"] = result.device
        facts["time"] = f"{sum(result.seconds.values()):.2f} s"
    items = "".join(f"<div><dt>{k}</dt><dd>{escaped(v)}</dd></div>" for k, v in facts.items() if v)
    return f'<dl class="facts">{items}</dl>'


def _profile(result: Result, other: Result | None, other_name: str) -> str:
    """Return the picture of std by depth with its legend; "" where nothing was measured."""
    there = aligned(result.layers, other.layers if other is not None else ())
    kept = result.settings.init == "keep"
    series = [
        Series("before", "as it came", [row.std_before for row in result.layers]),
        Series("drawn", "as it was" if kept else "as drawn", [row.std_drawn for row in result.layers]),
        Series("now", "after LSUV" if result.verb == "initialize" else "measured", [row.std for row in result.layers]),
        Series("other", other_name, [None if row is None else row.std for row in there]),
    ]
    series = [each for each in series if any(value is not None for value in each.values)]
    if not series:
        return ""
    if any(row.signal is not None for row in result.layers):
        series.append(Series("signal", "signal share", [row.signal for row in result.layers]))
    keys = [_key(each.mark, code(each.name, 60) if each.mark == "other" else each.name) for each in series]
    keys += [_key("target", "wanted"), *([_key("sum", "residual sum")] if result.sums else [])]
    said = ["Standard deviation of each layer's output over the data, on a logarithmic axis."]
    if result.layers and any(row.std_drawn is not None for row in result.layers):
        said.append("As drawn: all layers before it scaled already, so the way to the target is the layer's own scale.")
    if series[-1].mark == "signal":
        said.append("Signal share, on the same axis: how much of the variance depends on the sample; 1 is all of it.")
    if any(not row.good and (row.std is None or not 0 < row.std < math.inf) for row in result.layers):
        said.append("A cross stands for an output without a finite, positive std.")
    if result.sums:
        said.append("Diamonds: a residual stream after each branch that joins it, in their place between the layers.")
    if other is not None and None in there:
        said.append(f"{there.count(None)} of these layers have no counterpart in the other model.")
    plot = profile(result.layers, series, result.sums)
    return (
        f'<figure><ul class="legend">{"".join(keys)}</ul>\n<div class="plot">{plot}</div>\n'
        f'<p class="axis">layer, in the order of execution</p><figcaption>{" ".join(said)}</figcaption></figure>'
    )


def _key(mark: str, name: str) -> str:
    """Return an entry of the legend: a sample of the mark, and its name as HTML."""
    dot = f'<circle class="{mark}" cx="14" cy="6" r="4"/>' if mark not in ("target", "signal", "sum") else ""
    dot = f'<svg x="14" y="6">{DIAMOND}</svg>' if mark == "sum" else dot
    return f'<li><svg viewBox="0 0 28 12" aria-hidden="true"><path class="{mark}" d="M0 6H28"/>{dot}</svg>{name}</li>'


def _scales(rows: Sequence[LayerReport]) -> str:
    bars = histogram(row.scale for row in rows)
    if not bars:
        return ""
    caption = "How many layers had their drawn weight multiplied by how much; a logarithmic axis."
    return f'<figure><div class="plot low">{bars}</div><figcaption>{caption}</figcaption></figure>'
