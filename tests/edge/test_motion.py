from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import pytest

from reidge.edge.detectors.motion import MAX_BLOBS, MotionConfig, MotionDetector, cut_crowd, join_fragments
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


def join_literally(
    blobs: list[tuple[int, int, int, int]], *, max_gap: float, min_aspect: float
) -> list[tuple[int, int, int, int]]:
    """Begin with all pairs again after each join."""
    boxes = sorted(blobs, key=lambda box: box[1])
    while True:
        for (i, a), (j, b) in itertools.combinations(enumerate(boxes), 2):
            common = min(a[2], b[2]) - max(a[0], b[0])
            gap = max(a[1], b[1]) - min(a[3], b[3])
            union = (min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3]))
            upright = union[3] - union[1] >= min_aspect * (union[2] - union[0])
            if gap <= max_gap and common >= 0.5 * min(a[2] - a[0], b[2] - b[0]) and upright:
                boxes[i] = union
                del boxes[j]
                break
        else:
            return boxes


@pytest.mark.parametrize("count", [2, 10, 40])
def test_fragments_are_joined_as_if_all_were_compared_again_after_each_join(count: int) -> None:
    rng = np.random.default_rng(count)
    joined = 0
    for _ in range(20):
        corners_N2, sides_N2 = rng.integers(0, (300, 160), (count, 2)), rng.integers(4, 30, (count, 2))
        blobs = [(x, y, x + w, y + h) for x, y, w, h in np.hstack([corners_N2, sides_N2]).tolist()]
        expected = join_literally(blobs, max_gap=14.4, min_aspect=1.1)
        assert join_fragments(blobs, max_gap=14.4, min_aspect=1.1) == expected
        joined += count - len(expected)
    assert joined > 0


def test_in_a_snowfall_the_largest_blobs_are_looked_at_and_the_rest_left_alone() -> None:
    # 150 flakes just large enough for somebody small, far enough apart to stay as they are, and a person.
    flakes = [(x, y, x + 8, y + 12) for y in range(0, 150, 30) for x in range(0, 270, 9)]
    person = (285, 40, 310, 120)
    found = MotionDetector(MotionConfig(min_height=0.06, max_gap=0))._people(blank(*flakes, person))
    assert len(found) == MAX_BLOBS < len(flakes)
    assert person in found


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


def watch_a_room(detector: MotionDetector) -> None:
    for _ in range(15):
        assert len(detector.detect("cam", np.full((180, 320, 3), 120, dtype=np.uint8))) == 0


def person_at(x: int, *, size: tuple[int, int] = (180, 320)) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    image = np.full((*size, 3), 120, dtype=np.uint8)
    image[40:120, x : x + 30] = (20, 30, 200)
    return image


def test_a_camera_that_was_forgotten_begins_with_a_warm_up() -> None:
    # After an outage the chairs stand elsewhere: to the old background they would be people.
    with MotionDetector(MotionConfig()) as detector:
        watch_a_room(detector)
        assert len(detector.detect("cam", person_at(100))) == 1
        detector.forget("cam")
        assert detector._backgrounds == {}
        for _ in range(20):
            assert len(detector.detect("cam", person_at(100))) == 0
        detector.forget("unknown")


def test_a_new_size_of_the_picture_begins_with_a_warm_up() -> None:
    # Who walks meanwhile leaves a hole in the young background, which would be found beside them.
    with MotionDetector(MotionConfig(warmup_frames=10)) as detector:
        watch_a_room(detector)
        for step in range(10):
            assert len(detector.detect("cam", person_at(20 + 20 * step, size=(240, 320)))) == 0
        assert len(detector.detect("cam", person_at(250, size=(240, 320)))) == 1


def test_large_frames_are_searched_small_and_answered_large() -> None:
    empty = np.full((720, 1280, 3), 120, dtype=np.uint8)
    person = empty.copy()
    person[200:500, 600:700] = (20, 30, 200)
    with MotionDetector(MotionConfig(max_rows=180)) as detector:
        for _ in range(15):
            detector.detect("cam", empty)
        boxes_N4 = detector.detect("cam", person).boxes_N4
    assert boxes_N4 == pytest.approx(np.array([[600, 200, 700, 500]]), abs=9)
