from __future__ import annotations

from itertools import pairwise

import pytest

from reidge.edge.backoff import JITTER, Backoff


def attempts(backoff: Backoff, seconds: float, *, refused: bool = False) -> list[float]:
    """Moments of the attempts of a camera that stays down."""
    now, found = 0.0, []
    while now < seconds:
        found.append(now)
        now += backoff.failed(now, refused=refused)
    return found


def test_a_short_outage_is_made_longer_by_a_third_at_most() -> None:
    for _ in range(50):
        moments = attempts(Backoff(), 600)
        for outage in range(3, 13):
            back = next(moment for moment in moments if moment >= outage)
            assert back - outage <= 4.0 * (1 + JITTER)


def test_pauses_grow_to_a_minute_and_no_further() -> None:
    moments = attempts(Backoff(), 7200)
    pauses = [later - earlier for earlier, later in pairwise(moments)]
    assert pauses[0] == pytest.approx(1.0, rel=JITTER)
    assert all(60 * (1 - JITTER) <= pause <= 60 * (1 + JITTER) for pause in pauses[-20:])


def test_a_wrong_password_is_tried_six_times_in_the_first_minute() -> None:
    # 1, 2, 4, 8, 16 and 32 seconds apart: cameras lock an account after a few wrong ones.
    assert 5 <= len(attempts(Backoff(), 60, refused=True)) <= 7


def test_a_camera_that_was_back_begins_anew() -> None:
    backoff = Backoff()
    attempts(backoff, 3600)
    assert backoff.lasted(60.0)
    assert backoff.failed(4000.0) <= 1 + JITTER


def test_a_camera_that_comes_and_goes_waits_two_seconds_and_no_more() -> None:
    backoff, pauses = Backoff(), []
    for k in range(20):
        pauses.append(backoff.failed(10.0 * k))
        assert not backoff.lasted(0.5)
    assert pauses[0] <= 1 + JITTER
    assert all(2 * (1 - JITTER) <= pause <= 2 * (1 + JITTER) for pause in pauses[2:])
