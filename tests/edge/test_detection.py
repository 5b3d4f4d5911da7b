from __future__ import annotations

import numpy as np
import pytest

from reidge.edge.detection import Detections, covered, ious

LEFT, RIGHT, FAR = [0, 0, 10, 10], [5, 0, 15, 10], [100, 100, 110, 110]


def boxes(*rows: list[int]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.array(rows, dtype=np.float32)


def test_iou_is_common_area_over_joint_area() -> None:
    # 50 pixels in common, 100 + 100 - 50 in all
    np.testing.assert_allclose(ious(boxes(LEFT), boxes(RIGHT, FAR)), [[50 / 150, 0.0]])


def test_covered_is_the_share_of_the_own_area() -> None:
    small = [0, 0, 5, 10]  # all of it lies in LEFT, which is twice as large
    np.testing.assert_allclose(covered(boxes(LEFT, small, FAR)), [0.5, 1.0, 0.0])


def test_one_box_is_covered_by_nobody() -> None:
    np.testing.assert_array_equal(covered(boxes(LEFT)), [0.0])


def test_no_detections_have_the_shapes_of_many() -> None:
    nothing = Detections.from_arrays([], [])
    assert len(nothing) == 0
    assert nothing.boxes_N4.shape == (0, 4)
    assert ious(nothing.boxes_N4, boxes(LEFT)).shape == (0, 1)


def test_boxes_and_scores_must_agree_in_number() -> None:
    with pytest.raises(AssertionError):
        Detections.from_arrays([LEFT, RIGHT], [0.5])
