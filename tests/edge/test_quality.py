from __future__ import annotations

import cv2
import numpy as np
import pytest

from reidge.edge.quality import QualityConfig, comparable_sharpness, cut_out, find_flaw, sharpness, touches_border
from reidge.edge.region import inside_region
from reidge.edge.tracker import TrackedBox

FRAME = np.zeros((100, 200, 3), dtype=np.uint8)


def box(*corners: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.array(corners, dtype=np.float32)


@pytest.mark.parametrize(
    ("corners", "padding", "shape"),
    [
        ((10, 20, 30, 60), 0.0, (40, 20, 3)),
        ((10, 20, 30, 60), 0.1, (48, 28, 3)),  # 4 pixels on every side
        ((10.4, 20.4, 29.6, 59.6), 0.0, (40, 20, 3)),  # part of a pixel counts as a pixel
        ((-10, -10, 20, 50), 0.0, (50, 20, 3)),
        ((190, 90, 260, 160), 0.0, (10, 10, 3)),
        ((500, 500, 510, 510), 0.0, (1, 1, 3)),  # outside: still an image
    ],
)
def test_a_crop_is_the_padded_box_within_the_frame(
    corners: tuple[float, ...], padding: float, shape: tuple[int, ...]
) -> None:
    assert cut_out(FRAME, box(*corners), padding=padding).shape == shape


def tracked(*corners: float, score: float = 0.9, surprise: float = 0.0) -> TrackedBox:
    return TrackedBox(
        track_id=1, detection=0, box_4=box(*corners), score=score, hits=9, first_seen=0.0, surprise=surprise
    )


@pytest.mark.parametrize(
    ("person", "covered_share", "flaw"),
    [
        (tracked(20, 10, 50, 90), 0.0, None),
        (tracked(20, 10, 35, 50), 0.0, "small"),
        (tracked(20, 10, 50, 90, score=0.3), 0.0, "unsure"),
        (tracked(1, 10, 50, 90), 0.0, "cut"),
        (tracked(20, 10, 50, 90), 0.5, "covered"),
        (tracked(20, 10, 50, 90, surprise=0.2), 0.0, "surprising"),
    ],
)
def test_only_one_whole_person_is_worth_a_look(person: TrackedBox, covered_share: float, flaw: str | None) -> None:
    assert find_flaw(person, FRAME.shape, covered_share=covered_share, config=QualityConfig()) == flaw


def test_whoever_comes_nearer_does_not_look_sharper() -> None:
    far = np.random.default_rng(0).integers(0, 255, (128, 64, 3), dtype=np.uint8)
    near = cv2.resize(far, (192, 384), interpolation=cv2.INTER_NEAREST)
    assert comparable_sharpness(np.asarray(near, dtype=np.uint8)) == pytest.approx(comparable_sharpness(far), rel=0.01)


def test_blur_makes_a_crop_less_sharp() -> None:
    image = np.random.default_rng(0).integers(0, 255, (60, 30, 3), dtype=np.uint8)
    blurred = np.asarray(cv2.GaussianBlur(image, (5, 5), 0), dtype=np.uint8)
    assert sharpness(image) > 5 * sharpness(blurred)
    assert sharpness(np.full((60, 30, 3), 7, dtype=np.uint8)) == 0.0


def test_a_cut_off_person_touches_the_border() -> None:
    assert not touches_border(box(10, 10, 50, 90), FRAME.shape, margin=3)
    for corners in ((2, 10, 50, 90), (10, 2, 50, 90), (150, 10, 198, 90), (10, 10, 50, 98)):
        assert touches_border(box(*corners), FRAME.shape, margin=3)


def test_feet_decide_whether_someone_is_inside_a_region() -> None:
    lower_left = [(0.0, 0.5), (0.5, 0.5), (0.5, 1.0), (0.0, 1.0)]  # 0..100 x 50..100 pixels
    boxes_N4 = np.stack([box(20, 0, 40, 80), box(20, 0, 40, 40), box(120, 0, 140, 80)])
    np.testing.assert_array_equal(inside_region(boxes_N4, lower_left, FRAME.shape), [True, False, False])


def test_a_region_may_be_concave() -> None:
    # A U of full size: its notch is the middle third of the upper half.
    u = [(0.0, 0.0), (0.33, 0.0), (0.33, 0.5), (0.66, 0.5), (0.66, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)]
    boxes_N4 = np.stack([box(90, 10, 110, 30), box(10, 10, 30, 30), box(90, 50, 110, 80)])
    np.testing.assert_array_equal(inside_region(boxes_N4, u, FRAME.shape), [False, True, True])
