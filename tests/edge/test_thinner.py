from __future__ import annotations

import random

import pytest

from reidge.edge.thinner import Thinner


def taken(fps: float | None, times: list[float], tolerance: float) -> list[int]:
    thinner = Thinner(fps)
    return [number for number, seconds in enumerate(times) if thinner.takes(seconds, tolerance=tolerance)]


def test_every_frame_is_taken_without_a_rate() -> None:
    assert taken(None, [0.0, 0.0, 5.0], 0.0) == [0, 1, 2]


def test_ten_of_thirty_are_every_third() -> None:
    assert taken(10, [100 + k / 30 for k in range(30)], 1 / 60) == list(range(0, 30, 3))


@pytest.mark.parametrize(("fps", "source", "count"), [(10, 25, 100), (4, 30, 40), (7, 10, 70), (10, 10, 100)])
def test_the_rate_is_kept_in_spite_of_jitter(fps: float, source: float, count: int) -> None:
    rng = random.Random(0)
    times = [k / source + rng.uniform(0, 0.1 / source) for k in range(round(10 * source))]
    assert len(taken(fps, times, 0.25 / fps)) == pytest.approx(count, abs=3)


def test_a_slower_source_is_taken_whole() -> None:
    assert taken(10, [k / 5 for k in range(20)], 0.025) == list(range(20))


def test_a_clock_that_jumps_begins_anew() -> None:
    times = [0.0, 0.05, 0.1, 500.0, 500.05, 500.1, 3.0, 3.05, 3.1]
    assert taken(10, times, 0.025) == [0, 2, 3, 5, 6, 8]
