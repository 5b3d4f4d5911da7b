from __future__ import annotations

import numpy as np
import pytest

from reidge.edge.detection import Detections
from reidge.edge.tracker import Tracker, TrackerConfig


def walker(x: float, *, y: float = 0.0, score: float = 0.9) -> tuple[list[float], float]:
    return [x, y, x + 40, y + 100], score


def frame(*people: tuple[list[float], float]) -> Detections:
    return Detections.from_arrays([box for box, _ in people], [score for _, score in people])


def ids(tracker: Tracker, detections: Detections, at: float) -> list[int]:
    return [box.track_id for box in tracker.update(detections, at).live]


def test_a_track_is_reported_from_its_third_detection_on() -> None:
    tracker = Tracker(TrackerConfig(min_hits=3))
    assert [ids(tracker, frame(walker(5 * t)), t / 10) for t in range(4)] == [[], [], [1], [1]]


def test_a_reported_track_says_when_it_was_first_seen() -> None:
    tracker = Tracker()
    for t in range(3):
        update = tracker.update(frame(walker(5 * t)), 100 + t / 10)
    assert (update.live[0].first_seen, update.live[0].hits) == (100.0, 3)


def test_the_frame_that_confirms_a_track_tells_its_boxes_before() -> None:
    tracker = Tracker(TrackerConfig(min_hits=3))
    for t in range(3):
        update = tracker.update(frame(walker(5 * t)), t / 10)
    assert [(past.captured_at, float(past.box_4[0])) for past in update.live[0].earlier] == [(0.0, 0.0), (0.1, 5.0)]
    assert tracker.update(frame(walker(15)), 0.3).live[0].earlier == ()


def test_a_half_hidden_person_surprises() -> None:
    tracker = Tracker()
    for t in range(10):
        update = tracker.update(frame(walker(5 * t)), t / 10)
    assert update.live[0].surprise < 0.02
    upper_part = ([50.0, 0.0, 90.0, 70.0], 0.9)
    update = tracker.update(frame(upper_part), 1.0)
    assert update.live[0].surprise == pytest.approx(np.log(100 / 70), abs=0.03)


def test_a_flicker_never_becomes_a_track() -> None:
    tracker = Tracker()
    for t in range(20):
        update = tracker.update(frame(walker(50)) if t % 2 else frame(), t / 10)
        assert not update.live
        assert not update.ended
    assert tracker.finish() == ()


def test_ids_count_from_one_in_each_tracker() -> None:
    for _ in range(2):
        tracker = Tracker(TrackerConfig(min_hits=1))
        assert ids(tracker, frame(walker(0), walker(300)), 0.0) == [1, 2]


def test_two_people_who_cross_keep_their_ids() -> None:
    tracker = Tracker()
    for t in range(30):
        # 30 pixels lower: in the middle both boxes overlap by half
        update = tracker.update(frame(walker(8 * t), walker(240 - 8 * t, y=30)), t / 10)
    ends = {box.track_id: float(box.box_4[0]) for box in update.live}
    assert ends == {1: 232.0, 2: 8.0}


def test_a_person_behind_a_pillar_keeps_the_id() -> None:
    tracker = Tracker()
    for t in range(10):
        tracker.update(frame(walker(10 * t)), t / 10)
    for t in range(10, 18):  # hidden for 80 pixels, twice the person's width
        assert tracker.update(frame(), t / 10).ended == ()
    assert ids(tracker, frame(walker(180)), 1.8) == [1]


def test_a_track_ends_after_max_age_without_a_detection() -> None:
    tracker = Tracker(TrackerConfig(max_age=1.0))
    for t in range(3):
        tracker.update(frame(walker(0)), t / 10)  # seen last at 0.2 s
    assert tracker.update(frame(), 1.15).ended == ()
    assert tracker.update(frame(), 1.25).ended == (1,)
    assert ids(tracker, frame(walker(0)), 1.3) == []  # whoever comes now is someone new


def test_an_unsure_detection_continues_a_track_but_starts_none() -> None:
    tracker = Tracker(TrackerConfig(high_score=0.5, low_score=0.1, min_hits=1))
    assert ids(tracker, frame(walker(0, score=0.3)), 0.0) == []
    assert ids(tracker, frame(walker(0)), 0.1) == [1]
    assert ids(tracker, frame(walker(2, score=0.3)), 0.2) == [1]
    assert ids(tracker, frame(walker(2, score=0.05)), 0.3) == []


def test_appearance_decides_where_boxes_do_not() -> None:
    red, blue = np.array([1.0, 0.0], dtype=np.float32), np.array([0.0, 1.0], dtype=np.float32)
    tracker = Tracker(TrackerConfig(min_hits=1))
    tracker.update(frame(walker(0), walker(40)), 0.0, np.stack([red, blue]))
    # Both stand in the middle now and overlap each track by the same amount.
    update = tracker.update(frame(walker(20), walker(20)), 0.1, np.stack([blue, red]))
    assert {box.track_id: box.detection for box in update.live} == {1: 1, 2: 0}


def test_finish_ends_the_confirmed_tracks() -> None:
    tracker = Tracker()
    for t in range(3):
        tracker.update(frame(walker(0)), t / 10)
    tracker.update(frame(walker(0), walker(300)), 0.3)  # the second is not confirmed yet
    assert tracker.finish() == (1,)
    assert tracker.finish() == ()


def test_a_box_that_jumps_in_the_open_is_the_same_person() -> None:
    tracker = Tracker()
    for t in range(5):
        tracker.update(frame(walker(0)), t / 10)
    # A third of the height away: far beyond what boxes are off by, and no overlap is left.
    assert ids(tracker, frame(walker(33, y=20)), 0.5) == [1]


def test_a_box_that_jumps_among_others_is_nobody_s() -> None:
    tracker = Tracker()
    for t in range(5):
        tracker.update(frame(walker(0), walker(75)), t / 10)
    assert ids(tracker, frame(walker(-36), walker(75)), 0.5) == [1, 2]  # the other is a height and more away from it
    tracker = Tracker()
    for t in range(5):
        tracker.update(frame(walker(0), walker(30)), t / 10)
    assert ids(tracker, frame(walker(-36), walker(30)), 0.5) == [2]  # the track had somebody else beside it


def test_who_looks_like_another_does_not_take_up_a_track_by_its_place() -> None:
    red, blue = np.array([[1.0, 0.0]], dtype=np.float32), np.array([[0.0, 1.0]], dtype=np.float32)
    for looks_ND, expected in ((red, [1]), (blue, [])):
        tracker = Tracker()
        for t in range(5):
            tracker.update(frame(walker(0)), t / 10, red)
        update = tracker.update(frame(walker(33, y=20)), 0.5, looks_ND)
        assert [box.track_id for box in update.live] == expected


def test_whoever_stands_behind_does_not_take_the_box_of_the_one_in_front() -> None:
    # Two stand almost on each other; the one behind, whose feet are higher, scores low and is seen every other frame.
    tracker = Tracker()
    for t in range(20):
        behind = [walker(18, y=-12, score=0.3 if t > 3 else 0.9)] if t % 2 or t <= 3 else []
        update = tracker.update(frame(walker(0), *behind), t / 10)
    assert {box.track_id: float(box.box_4[0]) for box in update.live} == {1: 0.0, 2: 18.0}


def test_the_camera_s_motion_carries_everybody_along() -> None:
    motion_23 = np.array([[1.0, 0.0, 60.0], [0.0, 1.0, 0.0]])
    tracker = Tracker(TrackerConfig(max_shift=0))
    for t in range(5):
        tracker.update(frame(walker(0), walker(60)), t / 10)
    update = tracker.update(frame(walker(60), walker(120)), 0.5, motion_23=motion_23)
    assert {box.track_id: float(box.box_4[0]) for box in update.live} == {1: 60.0, 2: 120.0}
