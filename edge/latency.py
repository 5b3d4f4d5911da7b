"""Quantiles of a latency over any length of time in constant memory."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from math import sqrt

DECADES = range(-4, 2)
"""Powers of ten that are told apart: 0.1 ms to 100 s."""
STEPS = ((1.0, 2.0, 30), (2.0, 5.0, 40), (5.0, 10.0, 30))
"""Bins between two round numbers: all equally wide as a ratio, and the round numbers are edges."""


def _edges() -> tuple[float, ...]:
    inner = [
        10.0**power * low * (high / low) ** (place / bins)
        for power in DECADES
        for low, high, bins in STEPS
        for place in range(bins)
    ]
    return (*inner, 100.0)


EDGES = _edges()
"""Seconds. A bin takes in its upper edge, as Prometheus' `le` does."""
BOUNDS = tuple(round(low * 10.0**power, 4) for power in range(-3, 2) for low in (1, 2, 5))
"""Edges that are round numbers, from a millisecond to 50 s: what a histogram is published with."""
_PLACES = tuple(min(range(len(EDGES)), key=lambda place: abs(EDGES[place] - bound)) for bound in BOUNDS)


class LatencyHistogram:
    """Counts in 600 logarithmic bins from 0.1 ms to 100 s: a quantile is exact to 2.4 %."""

    __slots__ = ("_counts", "count", "seconds")

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0
        """Sum of all latencies."""
        self._counts = [0] * (len(EDGES) - 1)

    def add(self, seconds: float) -> None:
        """Count one latency."""
        place = bisect_left(EDGES, seconds) - 1
        self._counts[min(max(place, 0), len(self._counts) - 1)] += 1
        self.count += 1
        self.seconds += seconds

    def copy(self) -> LatencyHistogram:
        """The counts as they are now."""
        copied = LatencyHistogram()
        copied.count, copied.seconds, copied._counts = self.count, self.seconds, self._counts.copy()
        return copied

    def quantile(self, share: float) -> float | None:
        """Milliseconds that `share` (0 to 1) of the latencies stay below; None when nothing was counted."""
        if not self.count:
            return None
        place = bisect_left(list(accumulate(self._counts)), share * self.count)
        return 1e3 * sqrt(EDGES[place] * EDGES[place + 1])

    def within(self) -> list[int]:
        """How many latencies were at most each of `BOUNDS`."""
        sums = [0, *accumulate(self._counts)]
        return [sums[place] for place in _PLACES]
