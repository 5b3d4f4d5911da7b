from __future__ import annotations

import pytest

from reidge.edge.camera import CameraCounts
from reidge.edge.governor import Governor, Load, LoadConfig, LoadMeter, water_level

FOUR = {"a": 10.0, "b": 10.0, "c": 10.0, "d": 10.0}


def load(busy: float, handled: int, lost: int = 0, wanted: dict[str, float] = FOUR) -> Load:
    return Load(seconds=2.0, busy=busy, handled=handled, lost=lost, wanted=wanted)


def governor() -> Governor:
    """Half of the time is the loop's, so that one worker does half of what it could."""
    return Governor(LoadConfig(max_busy=0.5, min_fps=1.0))


@pytest.mark.parametrize(
    ("wanted", "capacity", "level"),
    [
        ((10, 10, 10), 30, None),
        ((10, 10, 10), 15, 5),
        ((2, 10, 10), 12, 5),  # the slow one keeps its 2, the others share 10
        ((2, 4, 10), 9, 3.5),
        ((), 1, None),
    ],
)
def test_who_wants_little_keeps_it_and_the_others_share_the_rest(
    wanted: tuple[float, ...], capacity: float, level: float | None
) -> None:
    assert water_level(wanted, capacity) == level


def test_a_loop_with_time_left_changes_nothing() -> None:
    assert governor().judge(load(busy=0.8, handled=80)) is None


def test_frames_lost_in_a_burst_are_no_overload() -> None:
    assert governor().judge(load(busy=0.8, handled=70, lost=10)) is None


def test_an_overloaded_loop_gives_every_camera_the_same_rate() -> None:
    # 40 frames in 2 busy seconds: 20 a second could be done, 10 of them in half of the time.
    ruling = governor().judge(load(busy=2.0, handled=40, lost=40))
    assert ruling is not None
    assert ruling.level == 2.5
    assert ruling.camids == ("a", "b", "c", "d")


def test_a_slow_camera_is_not_held_back_by_the_fast_ones() -> None:
    ruling = governor().judge(load(busy=2.0, handled=40, lost=10, wanted={"slow": 1.0, "fast": 30.0}))
    assert ruling is not None
    assert ruling.level == 9.0


def test_a_camera_that_is_away_gets_the_rate_of_the_others_for_the_time_when_it_is_back() -> None:
    ruling = governor().judge(load(busy=2.0, handled=40, lost=10, wanted={"away": 0.0, "a": 10.0, "b": 10.0}))
    assert ruling is not None
    assert (ruling.level, ruling.camids) == (5.0, ("away", "a", "b"))


def test_no_camera_is_starved() -> None:
    ruling = governor().judge(load(busy=2.0, handled=2, lost=78))
    assert ruling is not None
    assert ruling.level == 1.0


def test_rates_rise_step_by_step_and_are_lifted_when_all_fits() -> None:
    subject = governor()
    subject.judge(load(busy=2.0, handled=40, lost=40))
    levels = []
    for _ in range(40):  # from now on a frame costs a hundredth of a second: 50 a second fit, 40 are wanted
        if (ruling := subject.judge(load(busy=0.2, handled=20))) is not None:
            levels.append(ruling.level)
    assert levels[0] == 2.5 * 1.25
    assert levels[-1] is None
    rising = [level for level in levels if level is not None]
    assert rising == sorted(rising)
    assert subject.judge(load(busy=0.8, handled=80)) is None


def test_a_rate_that_fits_is_left_alone() -> None:
    subject = governor()
    subject.judge(load(busy=2.0, handled=40, lost=40))
    assert all(subject.judge(load(busy=1.0, handled=20)) is None for _ in range(20))


def test_a_heavier_load_lowers_the_rate_at_once() -> None:
    subject = governor()
    subject.judge(load(busy=2.0, handled=40, lost=40))
    ruling = subject.judge(load(busy=2.0, handled=20, lost=1))  # a frame now costs 0.1 s, smoothed 0.075
    assert ruling is not None
    assert ruling.level == pytest.approx(0.5 / 0.075 / 4)


def test_a_window_without_frames_says_nothing() -> None:
    assert governor().judge(load(busy=0.0, handled=0)) is None


def test_windows_are_cut_from_totals() -> None:
    meter = LoadMeter(2.0)
    first = {"a": CameraCounts(decoded=100, offered=90, dropped=10), "b": CameraCounts()}
    assert meter.read(50.0, busy=7.0, handled=80, counts=first, limits={}) is None
    assert not meter.due(51.9)
    assert meter.due(52.0)
    second = {"a": CameraCounts(decoded=120, offered=110, dropped=14), "b": CameraCounts(decoded=50, offered=50)}
    assert meter.read(52.0, busy=8.5, handled=146, counts=second, limits={"a": None, "b": 5.0}) == Load(
        seconds=2.0, busy=1.5, handled=66, lost=4, wanted={"a": 10.0, "b": 5.0}
    )


@pytest.mark.parametrize("gives", [0.0, 0.5])
def test_cameras_that_all_fall_silent_for_a_moment_are_held_back_no_further(gives: float) -> None:
    subject = governor()
    subject.judge(load(busy=2.0, handled=40, lost=40))
    for _ in range(10):
        assert subject.judge(load(busy=0.02, handled=1, wanted=dict.fromkeys(FOUR, gives))) is None
    assert subject.level == 2.5
