"""A node's attributes, read by name and kind."""

from __future__ import annotations

from onnx import AttributeProto


class Attributes(dict[str, AttributeProto]):
    """Attributes by name. What is absent is a default; a kind other than the one that is asked for reads as 0 or ""."""

    def integer(self, name: str, default: int) -> int:
        """Return an integer, or the default."""
        return int(self[name].i) if name in self else default

    def real(self, name: str, default: float) -> float:
        """Return a float, or the default."""
        return float(self[name].f) if name in self else default

    def text(self, name: str) -> str:
        """Return a text, "" where it is absent; what is no UTF-8 in it is replaced."""
        return self[name].s.decode(errors="replace") if name in self else ""

    def integers(self, name: str) -> tuple[int, ...] | None:
        """Return a list of integers, or None."""
        return tuple(self[name].ints) if name in self else None
