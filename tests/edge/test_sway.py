from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from reidge.edge.sway import CameraMotion, move_points

Picture = NDArray[np.uint8]
NOBODY = np.empty((0, 4), dtype=np.float32)
EDGE = 40


def wall(seed: int = 0, *, height: int = 360, width: int = 640) -> Picture:
    """Something with corners, larger than the picture."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, size=(height // 12, width // 12, 3)).astype(np.uint8)
    large = cv2.resize(coarse, (width + 2 * EDGE, height + 2 * EDGE), interpolation=cv2.INTER_CUBIC)
    return np.asarray(large, dtype=np.uint8)


def seen(scene: Picture, dx: int = 0, dy: int = 0, *, height: int = 360, width: int = 640) -> Picture:
    """The picture of a camera that has swung by (-dx, -dy): what it shows moves by (dx, dy)."""
    return scene[EDGE - dy : EDGE - dy + height, EDGE - dx : EDGE - dx + width].copy()


def test_a_shift_of_the_picture_is_found_to_half_a_pixel() -> None:
    motion, scene = CameraMotion(), wall()
    assert motion.estimate(seen(scene), NOBODY) is None
    found_23 = motion.estimate(seen(scene, 13, -9), NOBODY)
    assert found_23 is not None
    corners_N2 = np.array([[0.0, 0.0], [640.0, 0.0], [320.0, 360.0]])
    assert move_points(corners_N2, found_23) == pytest.approx(corners_N2 + np.array([13, -9]), abs=0.5)


def test_turn_and_scale_are_found() -> None:
    scene = wall()
    turn_23 = np.asarray(cv2.getRotationMatrix2D((320, 180), 2.0, 1.03), dtype=np.float64)
    motion = CameraMotion()
    motion.estimate(seen(scene), NOBODY)
    whole_23 = turn_23.copy()
    whole_23[:, 2] += EDGE - turn_23[:, :2] @ np.array([EDGE, EDGE])
    turned = cv2.warpAffine(scene, whole_23, (scene.shape[1], scene.shape[0]))
    found_23 = motion.estimate(seen(np.asarray(turned, dtype=np.uint8)), NOBODY)
    assert found_23 is not None
    points_N2 = np.array([[100.0, 100.0], [500.0, 300.0]])
    assert move_points(points_N2, found_23) == pytest.approx(move_points(points_N2, turn_23), abs=0.7)


def test_people_who_walk_do_not_move_the_camera() -> None:
    scene, crowd = wall(), wall(1)
    motion = CameraMotion()
    for dx in (0, 20):
        picture = seen(scene)
        picture[100:360, 60 + dx : 560 + dx] = crowd[100:360, 60:560]  # a wall of people before half of the picture
        people_N4 = np.array([[60 + dx, 100, 560 + dx, 360]], dtype=np.float32)
        found_23 = motion.estimate(picture, people_N4)
    assert found_23 is not None
    assert found_23[:, 2] == pytest.approx([0, 0], abs=0.3)


def test_nothing_is_said_where_nothing_can_be_seen() -> None:
    blank, motion = np.full((360, 640, 3), 90, np.uint8), CameraMotion()
    assert [motion.estimate(blank, NOBODY) for _ in range(2)] == [None, None]
    everywhere = np.array([[0, 0, 640, 360]], dtype=np.float32)
    assert [motion.estimate(seen(wall()), everywhere) for _ in range(2)] == [None, None]


def test_a_cut_is_no_motion() -> None:
    motion = CameraMotion()
    motion.estimate(seen(wall(0)), NOBODY)
    assert motion.estimate(seen(wall(1)), NOBODY) is None


def test_a_picture_of_another_size_begins_anew() -> None:
    motion = CameraMotion()
    motion.estimate(seen(wall()), NOBODY)
    assert motion.estimate(seen(wall(height=200, width=200), height=200, width=200), NOBODY) is None
    motion.forget()
    assert motion.estimate(seen(wall(height=200, width=200), height=200, width=200), NOBODY) is None


def test_large_pictures_are_measured_in_their_own_pixels() -> None:
    scene = wall(height=720, width=1280)
    motion = CameraMotion()
    motion.estimate(seen(scene, height=720, width=1280), NOBODY)
    found_23 = motion.estimate(seen(scene, 24, 12, height=720, width=1280), NOBODY)
    assert found_23 is not None
    assert move_points(np.array([[640.0, 360.0]]), found_23) == pytest.approx(np.array([[664.0, 372.0]]), abs=1.0)
