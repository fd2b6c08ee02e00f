"""What trains where, in words.

What is told is a sequence of plain values as `importers.Forecast.as_dict` gives them: of each importer, how it takes
the file as it is and in its portable form, or how many weights at least it would train in that form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from onnx_lsuv.importers.table import MEASURED

HEAD = (f"importer, {MEASURED}", "as is", "--portable", "framework", "what blocks, or is worth knowing")


def sentences(trains: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a sentence for each importer, how many weights it trains and what blocks others, and one on dates."""
    lines = []
    for each in trains:
        as_is, portable = each["as_is"], each["portable"]
        found = f"{each['importer']} {each['version']} ({each['framework']}) trains "
        found += f"{as_is['trainable']} of {as_is['weights']} weights"
        if portable["trainable"] != as_is["trainable"]:
            found += f" as is, {_count(each)} with --portable"
        why = _told(each, notes=False)
        lines.append(f"{found}{'; ' if as_is['findings'] != portable['findings'] else ': '}{why}" if why else found)
    dates = sorted({each["date"] for each in trains})
    return [*lines, f"{', '.join(dates)}: {MEASURED}"] if lines else []


def cells(each: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a row of the table with this `HEAD`; the counts are of weights that train."""
    as_is = f"{each['as_is']['trainable']} of {each['as_is']['weights']}"
    portable = f"{_count(each)} of {each['portable']['weights']}"
    name = f"{each['importer']} {each['version']}, {each['date']}"
    return name, as_is, portable, each["framework"], _told(each, notes=True)


def _count(each: Mapping[str, Any]) -> str:
    """Return how many weights train with --portable; more than all there is nothing to expect of."""
    found = each["portable"]
    sure = not each["expected"] or found["trainable"] == found["weights"]
    return f"{'' if sure else 'at least '}{found['trainable']}"


def _told(each: Mapping[str, Any], *, notes: bool) -> str:
    as_is, portable = (
        [f["text"] for f in each[form]["findings"] if notes or f["effect"] != "note"] for form in ("as_is", "portable")
    )
    if portable == as_is:
        return "; ".join(as_is)
    parts = {"as is": as_is, "with --portable": portable}
    return "; ".join(f"{form}: {'; '.join(texts)}" for form, texts in parts.items() if texts)
