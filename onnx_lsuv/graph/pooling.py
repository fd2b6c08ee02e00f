"""Records as arrays: pooled over batches, chosen among executions, and turned into a scale.

What `moments` measures in the graph, which says what a record is, comes out as arrays:

    pooled      n = sum n_i,  m = sum n_i m_i / n,  v = sum n_i (v_i + (m_i - m)^2) / n            (Chan et al. 1979)
    scale       by the same rule as in the graph
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Record = NDArray[np.float64]

COUNT, MEAN, VAR, USE = 0, 1, 2, 3
ROWS = 4
# A variance below this part of the squared mean is rounding noise of float32, not variance.
NOISE = 1e-7
# Stds of 1e-28 to 1e30: beyond, the scale to any target leaves the range of float32, and the weight with it.
TINY, HUGE = 1e-56, 1e60
SCALE_MAX = 1e37


@dataclass(frozen=True, slots=True)
class Rough:
    """What is asked of a record that was measured by float32 sums about 0."""

    columns: slice  # of the record
    large: float  # how many variances the square of their means may have

    def is_far(self, record: Record) -> bool:
        """Say whether the mean of some column is too large."""
        mean, var = record[MEAN, self.columns], record[VAR, self.columns]
        return bool((mean * mean > self.large * np.maximum(var, 0)).any())


def scale_of(record: Record, target: float) -> float | None:
    """Return the scale that a record gives, by the same rule as `scale`; None where there is none."""
    mean, var = float(record[MEAN, 0]), float(record[VAR, 0])
    if not NOISE * mean * mean + TINY < var < HUGE:
        return None
    if record.shape[1] == 1:
        return target / math.sqrt(var)
    var_b, var_sum = float(record[VAR, 1]), float(record[VAR, 2])
    cov = (var_sum - var - var_b) / 2
    inner = cov * cov + var * (target**2 - var_b)
    if not inner > 0:
        return None
    result = (math.sqrt(inner) - cov) / var
    return result if 0 < result < SCALE_MAX else None


def pooled(records: Sequence[NDArray[Any]]) -> Record:
    """Return the record of all batches together; a record with count 0 adds nothing."""
    reached = [r for r in records if r[COUNT, 0] > 0]
    if not reached:
        return np.zeros_like(records[0], dtype=np.float64)
    if len(reached) == 1:
        return np.asarray(reached[0], np.float64)
    stack = np.stack(reached).astype(np.float64)
    count, mean, var = stack[:, COUNT], stack[:, MEAN], stack[:, VAR]
    total = count.sum(0)
    centre = (count * mean).sum(0) / total
    spread = (count * (var + (mean - centre) ** 2)).sum(0) / total
    return np.stack([total, centre, spread, stack[:, USE].min(0)])


def executions(arrays: Sequence[NDArray[Any]]) -> list[Record]:
    """Return the records of a use's executions over all batches.

    Args:
        arrays: for each batch one record, flat, or a list (n, 4, C) of those of the first executions and, at the end,
            the first usable of all.
    """
    lists = [array if array.ndim == 3 else array.reshape(1, ROWS, -1) for array in arrays]
    return [pooled(records) for records in zip(*lists, strict=True)]


def first_usable_of(records: Sequence[Record]) -> Record:
    """Return the first record with a variance to scale by; else the first that was reached; else the first."""
    for record in records:
        if record[COUNT, 0] > 0 and scale_of(record[:, :1], 1.0) is not None:
            return record
    return next((record for record in records if record[COUNT, 0] > 0), records[0])
