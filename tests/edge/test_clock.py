from __future__ import annotations

import random
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from reidge.edge.clock import CameraClock, Moment

if TYPE_CHECKING:
    from collections.abc import Sequence

EPOCH = 1_000_000.0


def read_all(clock: CameraClock, times: Sequence[tuple[float | None, float]]) -> list[Moment]:
    return [clock.read(seconds, arrived_at=arrived_at, epoch=EPOCH) for seconds, arrived_at in times]


def test_jitter_of_the_network_goes_away() -> None:
    # The camera takes a picture every 0.1 s; each comes 0.02 to 0.3 s later.
    rng = random.Random(0)
    times = [(k / 10, 50 + k / 10 + rng.choice([0.02, 0.3])) for k in range(200)]
    moments = read_all(CameraClock(), times)
    taken = [moment.captured_at - EPOCH for moment in moments[10:]]
    assert taken == pytest.approx([50.02 + k / 10 for k in range(10, 200)], abs=0.003)
    assert {moment.clock for moment in moments} == {"camera"}


def test_drift_between_the_clocks_does_not_add_up() -> None:
    # Two hours; the camera's second is 100 parts in a million too short, then too long.
    for drift in (1 + 1e-4, 1 - 1e-4):
        moments = read_all(CameraClock(), [(k * drift, 50.0 + k) for k in range(7200)])
        assert moments[-1].captured_at - EPOCH == pytest.approx(50.0 + 7199, abs=0.001)


@pytest.mark.parametrize("set_by", [3600.0, -3600.0, 0.5, -0.5])
def test_a_camera_whose_clock_is_set_goes_on_at_once(set_by: float) -> None:
    times = [(1e4 + k / 10 + (set_by if k >= 50 else 0.0), 50 + k / 10) for k in range(100)]
    taken = [moment.captured_at - EPOCH for moment in read_all(CameraClock(), times)]
    assert taken == pytest.approx([50 + k / 10 for k in range(100)], abs=0.01)


def test_pictures_that_a_stall_held_back_keep_their_times() -> None:
    # Nothing comes for 2 s, then twenty pictures at once.
    times = [(k / 10, 50 + max(k / 10, 5.0 if 30 <= k < 50 else 0.0)) for k in range(80)]
    moments = read_all(CameraClock(), times)
    assert [m.captured_at - EPOCH for m in moments] == pytest.approx([50 + k / 10 for k in range(80)], abs=0.01)
    assert moments[30].lag == pytest.approx(2.0, abs=0.01)
    assert moments[60].lag == pytest.approx(0.0, abs=0.01)


def test_times_never_run_backwards_nor_ahead_of_the_arrival() -> None:
    rng = random.Random(1)
    arrived_at, seconds, times = 0.0, 0.0, []
    for _ in range(5000):
        arrived_at += rng.choice([0.0, 0.001, 0.1, 3.0])
        seconds += rng.choice([-20.0, -0.1, 0.0, 0.1, 0.1, 0.1, 40.0])
        times.append((seconds, arrived_at))
    taken = [moment.captured_at - EPOCH for moment in read_all(CameraClock(), times)]
    assert all(later >= earlier - 1e-9 for earlier, later in pairwise(taken))
    assert all(moment <= arrival + 1e-9 for moment, (_, arrival) in zip(taken, times, strict=True))


def test_without_presentation_times_the_arrival_counts() -> None:
    moments = read_all(CameraClock(), [(None, 50.0), (None, 50.3)])
    assert [(m.captured_at - EPOCH, m.clock) for m in moments] == [(50.0, "arrival"), (pytest.approx(50.3), "arrival")]


def test_a_camera_that_counts_too_slowly_is_not_believed_for_long() -> None:
    # Says 25 frames per second and sends 10: each picture seems later than the one before it.
    moments = read_all(CameraClock(), [(k / 25, 50 + k / 10) for k in range(1000)])
    assert max(50 + k / 10 - (m.captured_at - EPOCH) for k, m in enumerate(moments)) <= 10.1
    assert [moment.clock for moment in moments[-800:]] == ["arrival"] * 800
