from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from reidge.edge.detectors.motion import MotionConfig, MotionDetector, cut_crowd, join_fragments
from reidge.edge.footage import read_footage

if TYPE_CHECKING:
    from pathlib import Path


def blank(*blobs: tuple[int, int, int, int]) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    mask = np.zeros((180, 320), dtype=np.uint8)
    for x1, y1, x2, y2 in blobs:
        mask[y1:y2, x1:x2] = 255
    return mask


def test_head_and_body_above_each_other_are_one_person() -> None:
    head, body, legs = (105, 10, 120, 25), (100, 30, 130, 80), (102, 84, 128, 120)
    assert join_fragments([body, legs, head], max_gap=8, min_aspect=1.1) == [(100, 10, 130, 120)]


def test_people_beside_each_other_are_not_joined() -> None:
    left, right = (0, 0, 30, 100), (35, 0, 65, 100)
    assert join_fragments([left, right], max_gap=8, min_aspect=1.1) == [left, right]


def test_two_people_shoulder_to_shoulder_are_cut_between_them() -> None:
    # A bridge of ten rows, e.g. touching hands, joins two people with 20 columns of air between them.
    mask = blank((10, 10, 40, 110), (40, 60, 60, 70), (60, 10, 90, 110))
    parts = cut_crowd(mask, (10, 10, 90, 110), wide_aspect=1.7)
    assert len(parts) == 2
    assert parts[0][2] == parts[1][0]
    assert 40 <= parts[0][2] <= 60


def test_one_broad_person_is_not_cut() -> None:
    assert cut_crowd(blank((10, 10, 80, 110)), (10, 10, 80, 110), wide_aspect=1.7) == [(10, 10, 80, 110)]


def test_a_walker_is_found_where_it_is(walks: dict[str, Path]) -> None:
    found = {}
    with MotionDetector(MotionConfig()) as detector:
        for frame in read_footage(str(walks["cam2"]), camid="cam2"):
            found[frame.index] = detector.detect("cam2", frame.image)
    # Red walks from x = 900 at 8 pixels a frame to the left: at frame 90 the box is 180..210, 40..130.
    assert found[90].boxes_N4[0] == pytest.approx([180, 40, 210, 130], abs=4)
    assert found[90].scores_N[0] > 0.9
    assert all(len(found[index]) == 1 for index in range(78, 112))
    assert all(len(found[index]) == 0 for index in range(70))


def test_nothing_is_reported_during_the_warm_up() -> None:
    rng = np.random.default_rng(0)
    with MotionDetector(MotionConfig(warmup_frames=5)) as detector:
        for _ in range(5):
            assert len(detector.detect("cam", rng.integers(0, 255, (90, 160, 3), dtype=np.uint8))) == 0


def test_cameras_have_backgrounds_of_their_own() -> None:
    dark, bright = np.full((90, 160, 3), 20, dtype=np.uint8), np.full((90, 160, 3), 200, dtype=np.uint8)
    with MotionDetector(MotionConfig(warmup_frames=2)) as detector:
        for _ in range(10):
            assert len(detector.detect("dark", dark)) == 0
            assert len(detector.detect("bright", bright)) == 0


def test_large_frames_are_searched_small_and_answered_large() -> None:
    empty = np.full((720, 1280, 3), 120, dtype=np.uint8)
    person = empty.copy()
    person[200:500, 600:700] = (20, 30, 200)
    with MotionDetector(MotionConfig(max_rows=180)) as detector:
        for _ in range(15):
            detector.detect("cam", empty)
        boxes_N4 = detector.detect("cam", person).boxes_N4
    assert boxes_N4 == pytest.approx(np.array([[600, 200, 700, 500]]), abs=9)
