from __future__ import annotations

import pytest

from reidge.edge.latency import BOUNDS, LatencyHistogram


def test_quantiles_are_right_to_a_bin() -> None:
    histogram = LatencyHistogram()
    for milliseconds in range(1, 101):
        histogram.add(milliseconds / 1e3)
    assert histogram.quantile(0.5) == pytest.approx(50, rel=0.03)
    assert histogram.quantile(0.95) == pytest.approx(95, rel=0.03)


def test_nothing_counted_has_no_quantile() -> None:
    assert LatencyHistogram().quantile(0.5) is None


def test_the_very_fast_and_the_very_slow_are_counted_at_the_ends() -> None:
    histogram = LatencyHistogram()
    histogram.add(0.0)
    histogram.add(1e6)
    assert histogram.quantile(0.5) == pytest.approx(0.1, rel=0.03)
    assert histogram.quantile(1.0) == pytest.approx(100_000, rel=0.03)


def test_published_bounds_are_exact() -> None:
    histogram = LatencyHistogram()
    for seconds in (0.002, 0.00201, 0.25, 0.2501, 50.0):
        histogram.add(seconds)
    counts = dict(zip(BOUNDS, histogram.within(), strict=True))
    assert (counts[0.001], counts[0.002], counts[0.005]) == (0, 1, 2)
    assert (counts[0.2], counts[0.5], counts[20.0], counts[50.0]) == (2, 4, 4, 5)
    assert histogram.count == 5
    assert histogram.seconds == pytest.approx(50.50411)
