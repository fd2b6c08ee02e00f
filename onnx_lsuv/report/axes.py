"""Axes of figures: where a value stands, in percent of the figure's extent, and where the ticks are."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

_SPAN = 0.6  # decades that an axis shows at least, so that rounding noise looks as small as it is
_MARGIN = 0.06  # of the axis, free at each end
_LEAST = 3  # ticks that tell how an axis runs
# From coarse to fine: the digits within a decade that get a tick.
_DIGITS = ((1,), (1, 3), (1, 2, 5), (1, 2, 3, 4, 6, 8), (1, 2, 3, 4, 5, 6, 7, 8, 9))
_STEPS = (2, 3, 5, 10, 20, 50, 100, 200)  # decades from tick to tick


@dataclass(frozen=True, slots=True)
class LogAxis:
    """A logarithmic axis between two powers of ten."""

    low: float  # log10 of the value at 0 percent
    high: float  # and at 100

    def at(self, value: float) -> float:
        """Return the place of a value above 0, in percent."""
        return 100 * (math.log10(value) - self.low) / (self.high - self.low)

    def ticks(self, most: int) -> list[tuple[float, str]]:
        """Return the places, in percent, and the labels of the ticks: round numbers, few but enough."""
        first, last = math.floor(self.low), math.ceil(self.high)
        every = [[(k, d) for k in range(first, last + 1) for d in digits] for digits in _DIGITS]
        whole = [[(k, 1) for k in range(-(-first // step) * step, last + 1, step)] for step in _STEPS]
        inside = [[(k, d) for k, d in each if self.low <= k + math.log10(d) <= self.high] for each in every + whole]
        chosen = next((each for each in inside if _LEAST <= len(each) <= most), inside[0])
        return [(100 * (k + math.log10(d) - self.low) / (self.high - self.low), _label(k, d)) for k, d in chosen]


def log_axis(logs: Iterable[float]) -> LogAxis:
    """Return an axis that holds values of these log10, with a margin; one around 1 where there are none."""
    every = list(logs) or [0.0]
    low, high = min(every), max(every)
    room = max(_SPAN - (high - low), 0) / 2 + _MARGIN * max(high - low, _SPAN)
    return LogAxis(low - room, high + room)


def count_ticks(n: int, most: int) -> list[int]:
    """Return the numbers among 1..n that get a tick: 1, and the multiples of a round step."""
    step = next(step for k in range(20) for step in (10**k, 2 * 10**k, 5 * 10**k) if step != 2 and n // step <= most)
    return sorted({1, *range(step, n + 1, step)})


def _label(exponent: int, digit: int) -> str:
    """Return a number as people write it on an axis: 0.02, 5, 1000, 10 to the power of -6."""
    if -4 <= exponent < 0:
        return f"0.{'0' * (-exponent - 1)}{digit}"
    if 0 <= exponent < 5:
        return str(digit * 10**exponent)
    power = str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{power}" if digit == 1 else f"{digit}·10{power}"
