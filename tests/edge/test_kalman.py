from __future__ import annotations

import numpy as np
import pytest

from reidge.edge.kalman import ACCELERATION_STD_4, MEASURED_STD_4, SPEED_STD_4, BoxFilters

SURE = np.ones(1)


def filters(*centres: tuple[float, float, float, float]) -> BoxFilters:
    found = BoxFilters()
    found.add(np.array(centres, dtype=np.float64))
    return found


def walked(steps: int, *, every: float = 0.1) -> BoxFilters:
    """Somebody 100 pixels tall at 100 pixels per second."""
    found = filters((0, 0, 40, 100))
    for t in range(1, steps + 1):
        found.predict(every)
        found.correct(np.array([0]), np.array([[100 * every * t, 0.0, 40.0, 100.0]]), SURE)
    return found


def test_the_filter_learns_the_speed() -> None:
    found = walked(20)
    found.predict(1.0)
    assert found.position_T4[0] == pytest.approx([300.0, 0.0, 40.0, 100.0], abs=5.0)


def test_frames_may_come_unevenly() -> None:
    even, uneven = walked(20), filters((0, 0, 40, 100))
    at = 0.0
    for turn in range(26):
        pause = (0.05, 0.1, 0.08)[turn % 3]
        at += pause
        uneven.predict(pause)
        uneven.correct(np.array([0]), np.array([[100 * at, 0.0, 40.0, 100.0]]), SURE)
    assert uneven.speed_T4[0, 0] == pytest.approx(even.speed_T4[0, 0], rel=0.05)


def test_a_step_is_that_of_the_textbook() -> None:
    """The position and speed of centre x against the matrices written out."""
    found = filters((50, 60, 40, 100))
    state_2 = np.array([50.0, 0.0])
    covariance_22 = np.diag([(MEASURED_STD_4[0] * 100) ** 2, (SPEED_STD_4[0] * 100) ** 2])
    for at, seconds in ((58.0, 0.1), (61.0, 0.2), (75.0, 0.1)):
        step_22 = np.array([[1, seconds], [0, 1]])
        drive_2 = np.array([seconds**2 / 2, seconds])
        state_2 = step_22 @ state_2
        noise = (ACCELERATION_STD_4[0] * 100) ** 2
        covariance_22 = step_22 @ covariance_22 @ step_22.T + noise * np.outer(drive_2, drive_2)
        gain_2 = covariance_22[:, 0] / (covariance_22[0, 0] + (MEASURED_STD_4[0] * 100) ** 2)
        state_2 = state_2 + gain_2 * (at - state_2[0])
        covariance_22 = covariance_22 - np.outer(gain_2, covariance_22[0])
        found.predict(seconds)
        # Size as it is expected, so that heights stay 100.
        found.correct(np.array([0]), np.array([[at, 60.0, *found.position_T4[0, 2:]]]), SURE)
        assert (found.position_T4[0, 0], found.speed_T4[0, 0]) == pytest.approx(tuple(state_2))
        assert found.variance_T4[0, 0] == pytest.approx(covariance_22[0, 0])


def test_each_track_is_moved_as_if_it_were_alone() -> None:
    both = filters((0, 0, 40, 100), (300, 200, 20, 50))
    alone = filters((300, 200, 20, 50))
    for at in (305.0, 309.0, 316.0):
        for found, row in ((both, 1), (alone, 0)):
            found.predict(0.1)
            found.correct(np.array([row]), np.array([[at, 200.0, 20.0, 50.0]]), np.array([1.5]))
    assert both.position_T4[1] == pytest.approx(alone.position_T4[0])
    assert both.variance_T4[1] == pytest.approx(alone.variance_T4[0])


def test_keeping_some_drops_the_others() -> None:
    found = filters((0, 0, 40, 100), (300, 200, 20, 50), (500, 0, 30, 80))
    found.keep(np.array([True, False, True]))
    assert len(found) == 2
    assert found.position_T4[:, 0].tolist() == [0, 500]
    found.predict(0.1)
    assert found.boxes()[1].tolist() == pytest.approx([485, -40, 515, 40])


def test_the_nearest_detection_fits_best_and_a_lost_track_fits_nothing_well() -> None:
    found = walked(10)  # expected at 110 in a tenth of a second
    found.predict(0.1)
    here_there_N4 = np.array([[110.0, 0.0, 40.0, 100.0], [125.0, 0.0, 40.0, 100.0]])
    near, far = found.misfits(here_there_N4, np.ones(2))[0]
    assert 0 <= near < far
    found.predict(2.0)
    assert found.misfits(np.array([[310.0, 0.0, 40.0, 100.0]]), SURE)[0, 0] > near + 3


def test_an_unsure_detection_moves_a_track_less() -> None:
    sure, unsure = walked(10), walked(10)
    off_14 = np.array([[120.0, 0.0, 40.0, 100.0]])
    for found, doubt in ((sure, 1.0), (unsure, 2.0)):
        found.predict(0.1)
        found.correct(np.array([0]), off_14, np.array([doubt]))
    assert 110 < unsure.position_T4[0, 0] < sure.position_T4[0, 0] < 120


def test_a_change_of_size_comes_to_rest() -> None:
    # Somebody who seems to shrink while walking behind a table does not shrink to nothing.
    found = filters((0, 0, 40, 100))
    for t in range(1, 6):
        found.predict(0.1)
        found.correct(np.array([0]), np.array([[0.0, 0.0, 40.0, 100.0 - 4 * t]]), SURE)
    heights = [found.position_T4[0, 3]]
    for _ in range(2):
        found.predict(1.0)
        heights.append(found.position_T4[0, 3])
    first, second = heights[0] - heights[1], heights[1] - heights[2]
    assert 0 < second < 0.7 * first


def test_a_turned_camera_turns_places_and_speeds() -> None:
    found = walked(20)  # at 200, 100 pixels per second to the right
    quarter_23 = np.array([[0.0, -2.0, 7.0], [2.0, 0.0, 5.0]])  # a quarter turn, twice as large, and a shift
    found.move(quarter_23)
    assert found.position_T4[0] == pytest.approx([7, 405, 80, 200], abs=4)
    assert found.speed_T4[0, :2] == pytest.approx([0, 200], abs=10)


def test_nothing_moves_without_time_or_tracks() -> None:
    empty = BoxFilters()
    empty.predict(1.0)
    assert empty.boxes().shape == (0, 4)
    assert empty.misfits(np.zeros((2, 4)), np.ones(2)).shape == (0, 2)
    found = filters((5, 5, 40, 100))
    found.predict(0.0)
    assert found.position_T4[0].tolist() == [5, 5, 40, 100]
