"""Text and names in HTML and SVG."""

from __future__ import annotations

from html import escape

from onnx_lsuv.errors import clean
from onnx_lsuv.report.layout import shortened

_NAME = 120


def escaped(text: str) -> str:
    """Return text for an element's content or an attribute in double quotes; hidden characters are made visible."""
    return escape(clean(text))


def code(name: str, width: int = _NAME) -> str:
    """Return a name as code; one that is cut in the middle tells the whole when pointed at."""
    whole = clean(name)
    shown = shortened(whole, width)
    title = f' title="{escape(whole)}"' if shown != whole else ""
    return f"<code{title}>{escape(shown)}</code>"


def brief(text: str, width: int = 40) -> str:
    """Return text that is to stay on one line: as `escaped`, but cut in the middle to a width."""
    return escape(shortened(clean(text), width))
