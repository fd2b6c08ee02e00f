"""Run a calibration graph again where a mean is too large for float32 sums.

The values of most networks lie around zero, and their statistics need no more than float32 sums of x and x^2. Where a
record's mean turns out to be large (see `graph.moments`), the graph is made and run once more, that record measured
about the mean. If what follows from it moves another mean too far, all records are measured so.
"""

from __future__ import annotations

from collections.abc import Callable, Set

from onnx_lsuv.graph import Calibration, Record


def repeat_for_large_means(
    calibration: Calibration, build: Callable[[Set[str]], Calibration], run: Callable[[Calibration], dict[str, Record]]
) -> dict[str, Record]:
    """Run a calibration graph until no record's mean is too large for how it was measured; return the last records.

    Args:
        calibration: the graph.
        build: makes it again, with the keys of the records to measure about their mean.
        run: runs it.
    """
    shifted: Set[str] = frozenset()
    while True:
        records = run(calibration)
        rough = calibration.rough
        far = {key for key, asked in rough.items() if key in records and asked.is_far(records[key])}
        if not far:
            return records
        shifted = far if not shifted else shifted | rough.keys()
        calibration = build(shifted)
