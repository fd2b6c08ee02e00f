"""What trains where, in words.

What is told is a sequence of plain values as `portable.trains.Trains.as_dict` gives them: of each importer, how it
takes the file as it is and in its portable form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

HEAD = ("importer", "as is", "--portable", "framework", "what blocks, or is worth knowing")


def sentences(trains: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a sentence for each importer: how many weights it trains, and what blocks the others."""
    lines = []
    for each in trains:
        as_is, portable = each["as_is"], each["portable"]
        found = f"{each['importer']} {each['version']} ({each['framework']}) trains "
        found += f"{as_is['trainable']} of {as_is['weights']} weights"
        if portable["trainable"] != as_is["trainable"]:
            found += f" as is, {portable['trainable']} with --portable"
        why = _told(each, notes=False)
        lines.append(f"{found}{'; ' if as_is['findings'] != portable['findings'] else ': '}{why}" if why else found)
    return lines


def cells(each: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a row of the table with this `HEAD`; the counts are of weights that train."""
    counts = [f"{each[form]['trainable']} of {each[form]['weights']}" for form in ("as_is", "portable")]
    return f"{each['importer']} {each['version']}", *counts, each["framework"], _told(each, notes=True)


def _told(each: Mapping[str, Any], *, notes: bool) -> str:
    as_is, portable = (
        [f["text"] for f in each[form]["findings"] if notes or f["effect"] != "note"] for form in ("as_is", "portable")
    )
    if portable == as_is:
        return "; ".join(as_is)
    parts = {"as is": as_is, "with --portable": portable}
    return "; ".join(f"{form}: {'; '.join(texts)}" for form, texts in parts.items() if texts)
