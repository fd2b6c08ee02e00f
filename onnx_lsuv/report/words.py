"""What a result says in words: the verdict, what missed and by how much, what was left alone, what trains where.

What trains where is told of a plain value as `importers.Forecast.as_dict` gives it for each importer: how it takes the
file as it is and in its portable form, or how many weights at least it would train in that form.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from onnx_lsuv.lsuv import LayerReport, Result, RoleReport, SkippedReport
from onnx_lsuv.report.columns import MEASURED, Filled, filled, number
from onnx_lsuv.report.columns import ROLES as COLUMNS
from onnx_lsuv.roles import ROLES


def verdict(result: Result) -> str:
    """Return the verdict in a sentence that holds no name from the file, and one on what is in doubt."""
    doubted = doubt(result)
    return f"{_of_layers(result)} {doubted}." if doubted else _of_layers(result)


def doubt(result: Result) -> str:
    """Return how much is in doubt that counts, by `strict`; "" where nothing is."""
    n = len(result.doubts)
    if not n:
        return ""
    if result.verb == "measure":
        return f"{n} note{'s count' if n > 1 else ' counts'}, as asked by strict"
    return f"{n} tensor{'s' * (n > 1)} may keep what {'they' if n > 1 else 'it'} learned"


def _of_layers(result: Result) -> str:
    n, states = len(result.layers), Counter(row.status for row in result.layers)
    layers = f"{n} layer{'s' * (n != 1)}"
    missed = sum(not row.good for row in result.layers)
    if missed:
        return f"{missed} of {layers} missed the std wanted."
    if not n:
        return f"No layer was {'chosen' if result.settings.include or result.settings.exclude else 'found'}."
    if states["found"] == n:
        return f"{layers} found; nothing was run."
    if states["ok"] == n:
        return f"All {layers} have the std wanted." if n > 1 else "The one layer has the std wanted."
    rest = ", ".join(f"{count} {status}" for status, count in states.items() if status != "ok")
    if states["ok"]:
        return f"{states['ok']} of {layers} have the std wanted; {rest}."
    return f"{layers}: {rest}; none was measured again."


def misses(result: Result) -> list[LayerReport]:
    """Return the layers that count against the exit status, those furthest from their target first."""
    return sorted((row for row in result.layers if not row.good), key=_distance, reverse=True)


def _distance(row: LayerReport) -> float:
    """Return by what factor a layer is off, as the size of its logarithm; infinity where it has no usable std."""
    return abs(math.log(row.std / row.target)) if row.target and row.std and 0 < row.std < math.inf else math.inf


def told(row: LayerReport) -> str:
    """Return what is to be said about a layer beside its status: the std found and wanted, and the cause."""
    found = f"std {number(row.std)}, wanted {number(row.target)}" if row.status == "off" else ""
    return "; ".join(filter(None, (found, row.note)))


def groups(skipped: Sequence[SkippedReport]) -> list[dict[str, Any]]:
    """Return the nodes left alone, those with the same reason, detail and operator together, as rows of `SKIPPED`."""
    found: dict[tuple[str, str, str], list[SkippedReport]] = {}
    for row in skipped:
        found.setdefault((row.reason, row.detail, row.op), []).append(row)
    return [
        {"reason": reason, "detail": detail, "op": op, "nodes": len(rows), "names": [row.name for row in rows]}
        | {"std": spread([row.std for row in rows]) or None}
        for (reason, detail, op), rows in found.items()
    ]


def spread(values: Sequence[float | None]) -> str:
    """Return from where to where values lie, "" where there are none."""
    there = [value for value in values if value is not None]
    finite = [value for value in there if math.isfinite(value)]
    if not finite:
        return "not finite" if there else ""
    return " to ".join(dict.fromkeys((number(min(finite)), number(max(finite)))))


def roles_told(roles: Sequence[RoleReport]) -> str:
    """Return how many constants there are of each role, and what happens to them."""
    fates = {role: Counter(row.fate for row in roles if row.role == role) for role in ROLES}
    parts = []
    for role, counts in fates.items():
        if len(counts) == 1:
            parts.append(f"{counts.total()} {role} ({next(iter(counts))})")
        elif counts:
            parts.append(f"{counts.total()} {role} ({', '.join(f'{n} {fate}' for fate, n in counts.items())})")
    return ", ".join(parts)


def roles_listed(roles: Sequence[RoleReport], *, every: bool = False) -> Filled:
    """Return the columns of the constants, or of those that are no mere settings."""
    return filled(COLUMNS, [asdict(row) for row in roles if every or row.role != "setting"])


def only_there(result: Result, other: Result) -> list[str]:
    """Return the names of the layers that only the other result has; none where layers go by their places."""
    here = {row.name for row in result.layers}
    names = [row.name for row in other.layers if row.name not in here]
    return names if len(names) < len(other.layers) else []


def beside(result: Result, other: Result) -> Result:
    """Return a result with a note where its layers are compared by their places, as no name is in both models."""
    if {row.name for row in result.layers} & {row.name for row in other.layers}:
        return result
    note = "no layer of the other model has the name of one here: they are compared by their places in order"
    return replace(result, notes=(*result.notes, note))


def fates(layers: Sequence[LayerReport]) -> dict[str, list[str]]:
    """Return what a plan says would happen, with the names of the layers that it would happen to."""
    found: dict[str, list[str]] = {}
    for row in layers:
        found.setdefault(row.note, []).append(row.name)
    return found


def path_of(result: Result, about: Mapping[str, Any], role: str = "model") -> str:
    """Return the path of a result's model as it was named, where that is known."""
    return str(about.get("files", {}).get(role, {}).get("path", result.model.name))


def importers(trains: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of `TRAINS`; the counts are of weights that train."""
    return [
        {
            "importer": f"{each['importer']} {each['version']}, {each['date']}",
            "as_is": _share(each["as_is"]),
            "portable": f"{_least(each)}{_share(each['portable'])}",
            "framework": each["framework"],
            "told": "; ".join(filter(None, [_findings(each, notes=True), _export(each)])),
        }
        for each in trains
    ]


def sentences(trains: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a sentence for each importer, how many weights it trains and what blocks others, and one on dates."""
    lines = []
    for each in trains:
        as_is, portable = each["as_is"], each["portable"]
        expected = each["expected"] and portable["trainable"] != as_is["trainable"]
        share = _share(as_is if expected else portable)
        found = f"{each['importer']} {each['version']} ({each['framework']}) trains {share} weights"
        if expected:
            found += f" as is, {_least(each)}{portable['trainable']} with --portable"
            why, mark = _findings(each, notes=False), ";" if as_is["findings"] != portable["findings"] else ":"
        else:  # the portable form is what is saved, or what blocks it is left to be solved
            why, mark = "; ".join(_told(portable, notes=False)), ":"
        why = "; ".join(filter(None, [why, _export(each)]))
        lines.append(f"{found}{mark} {why}" if why else found)
    dates = ", ".join(sorted({each["date"] for each in trains}))
    return [*lines, MEASURED.format(when=f"on {dates}")] if lines else []


def _least(each: Mapping[str, Any]) -> str:
    """Return the words before a number of weights that is only expected; of all that there are, no more can be."""
    sure = not each["expected"] or each["portable"]["trainable"] == each["portable"]["weights"]
    return "" if sure else "at least "


def _export(each: Mapping[str, Any]) -> str:
    """Return what to ask of PyTorch's exporter for a file that an importer trains."""
    return f"another export may help: {each['export']}" if each["export"] else ""


def _share(form: Mapping[str, Any]) -> str:
    return f"{form['trainable']} of {form['weights']}"


def _findings(each: Mapping[str, Any], *, notes: bool) -> str:
    parts = {
        words: _told(each[form], notes=notes) for form, words in (("as_is", "as is"), ("portable", "with --portable"))
    }
    if parts["as is"] == parts["with --portable"]:
        return "; ".join(parts["as is"])
    return "; ".join(f"{form}: {'; '.join(texts)}" for form, texts in parts.items() if texts)


def _told(form: Mapping[str, Any], *, notes: bool) -> list[str]:
    """Return what blocks a form of a file, a sentence for each kind."""
    told: dict[str, str] = {}
    for each in form["findings"]:
        if notes or each["effect"] != "note":
            kind = each["kind"]
            told[kind] = f"{told[kind]}, {each['detail']}" if kind in told else each["text"]
    return list(told.values())
