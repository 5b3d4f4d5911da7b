from __future__ import annotations

import cv2
import numpy as np
import pytest

from reidge.edge.region import MASK_COLOUR, inside_region, paint_over

TRIANGLE = ((0.1, 0.2), (0.9, 0.3), (0.4, 0.95))


def test_every_pixel_that_a_mask_touches_is_gone_and_no_other() -> None:
    # Against OpenCV's distance to the outline, at the corners of each pixel: inside is positive.
    height, width = 45, 80
    image_HW3 = np.zeros((height, width, 3), dtype=np.uint8)
    paint_over(image_HW3, [TRIANGLE])
    outline_P2 = (np.array(TRIANGLE) * [width, height]).astype(np.float32)
    painted_HW = (image_HW3 == MASK_COLOUR).all(axis=2)
    for y in range(height):
        for x in range(width):
            corners = [(x, y), (x + 1, y), (x, y + 1), (x + 1, y + 1)]
            distance = max(cv2.pointPolygonTest(outline_P2, (float(a), float(b)), True) for a, b in corners)
            if distance > 0:
                assert painted_HW[y, x], (x, y)
            if distance < -2:
                assert not painted_HW[y, x], (x, y)


def test_a_mask_over_everything_leaves_nothing() -> None:
    image_HW3 = np.zeros((9, 16, 3), dtype=np.uint8)
    paint_over(image_HW3, [((0, 0), (1, 0), (1, 1), (0, 1))])
    assert (image_HW3 == 128).all()


@pytest.mark.parametrize(
    ("feet", "inside"), [((100, 99), True), ((100, 100), True), ((200, 60), True), ((10, 49), False)]
)
def test_feet_on_the_edge_of_the_frame_count(feet: tuple[int, int], inside: bool) -> None:
    # The lower half of a frame 200 wide and 100 high; boxes of people cut off by the edge end on it.
    lower_half = ((0.0, 0.5), (1.0, 0.5), (1.0, 1.0), (0.0, 1.0))
    box_14 = np.array([[feet[0] - 5, 0, feet[0] + 5, feet[1]]], dtype=np.float32)
    assert inside_region(box_14, lower_half, (100, 200, 3)).tolist() == [inside]
