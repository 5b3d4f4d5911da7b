from __future__ import annotations

import numpy as np

from reidge.edge.detection import Detections
from reidge.edge.detectors.letterbox import MAX_COMPARED, letterbox, restore, suppress_overlaps


def test_the_letterbox_keeps_the_shape_of_people() -> None:
    picture_HW3, scale = letterbox(np.full((50, 100, 3), 7, dtype=np.uint8), (64, 64))
    assert scale == 0.64
    assert picture_HW3.dtype == np.uint8
    assert (picture_HW3[:32] == 7).all()
    assert (picture_HW3[32:] == 114).all()


def test_boxes_come_back_in_pixels_of_the_frame_and_end_at_its_edges() -> None:
    image_HW3 = np.zeros((50, 100, 3), dtype=np.uint8)
    boxes_14 = np.array([[-2, 8, 32, 40]], dtype=np.float32)
    found = restore(boxes_14, np.array([0.5], dtype=np.float32), image_HW3=image_HW3, scale=0.5)
    assert found.boxes_N4.tolist() == [[0, 16, 64, 50]]


def test_of_overlapping_boxes_the_surest_stays() -> None:
    boxes = [[0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10]]
    found = Detections.from_arrays(boxes, [0.5, 0.9, 0.4])
    assert suppress_overlaps(found, max_iou=0.6).tolist() == [1, 2]
    assert suppress_overlaps(Detections.from_arrays([], []), max_iou=0.6).tolist() == []


def test_of_more_boxes_than_can_be_compared_the_surest_are() -> None:
    # A network of 640 x 640 gives 8400, and all of them at a min_score of 0.
    lefts_N = np.arange(8400, dtype=np.float32)[:, None] * 20
    boxes_N4 = np.hstack([lefts_N, 0 * lefts_N, lefts_N + 10, 0 * lefts_N + 10])
    scores_N = np.random.default_rng(0).random(8400, dtype=np.float32)
    kept = suppress_overlaps(Detections.from_arrays(boxes_N4, scores_N), max_iou=0.6)
    assert kept.tolist() == np.argsort(-scores_N, kind="stable")[:MAX_COMPARED].tolist()
