"""Parts of a camera's picture: where people count, and what nobody may see."""

# N = boxes, P = corners of a polygon; 4 = x1, y1, x2, y2; H, W = height and width

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import cv2
import numpy as np
from pydantic import Field

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Share = Annotated[float, Field(ge=0, le=1)]
Polygon = Annotated[tuple[tuple[Share, Share], ...], Field(min_length=3)]
"""Corners x, y as shares (0 to 1) of the frame's width and height."""

MASK_COLOUR = (128, 128, 128)
"""Mid-grey: black would be an edge to most backgrounds, and a dark coat to an encoder."""
SUBPIXEL_BITS = 4


def inside_region(
    boxes_N4: NDArray[np.float32], corners: Sequence[tuple[float, float]], shape: tuple[int, ...]
) -> NDArray[np.bool_]:
    """Tell which boxes stand (middle of the lower edge) inside a polygon.

    Even-odd rule: a ray to the right crosses the outline an odd number of times. Feet on the frame's own edge, where
    boxes are cut off, count as just inside the frame.

    Args:
        boxes_N4: Pixels.
        corners: Shares (0 to 1) of the frame's width and height.
        shape: Of the frame: height, width.
    """
    corners_P2 = np.asarray(corners, dtype=np.float64) * [shape[1], shape[0]]
    ends_P2 = np.roll(corners_P2, -1, axis=0)
    x_N1 = boxes_N4[:, [0, 2]].mean(axis=1, dtype=np.float64)[:, None].clip(1e-3, shape[1] - 1e-3)
    y_N1 = boxes_N4[:, 3].astype(np.float64)[:, None].clip(1e-3, shape[0] - 1e-3)
    spans_NP = (corners_P2[:, 1] > y_N1) != (ends_P2[:, 1] > y_N1)
    rise_P = ends_P2[:, 1] - corners_P2[:, 1]
    share_NP = (y_N1 - corners_P2[:, 1]) / np.where(rise_P == 0, 1.0, rise_P)
    crossing_NP = corners_P2[:, 0] + share_NP * (ends_P2[:, 0] - corners_P2[:, 0])
    return np.asarray(np.count_nonzero(spans_NP & (x_N1 < crossing_NP), axis=1) % 2 == 1)


def paint_over(image_HW3: NDArray[np.uint8], masks: Sequence[Sequence[tuple[float, float]]]) -> None:
    """Paint polygons mid-grey, in place; every pixel that a polygon touches is gone.

    Args:
        image_HW3: BGR.
        masks: Corners of each, as shares (0 to 1) of the frame's width and height.
    """
    height, width = image_HW3.shape[:2]
    for corners in masks:
        # OpenCV counts from the middle of the first pixel, shares count from its corner.
        pixels_P2 = np.asarray(corners, dtype=np.float64) * [width, height] - 0.5
        points_P2 = np.round(pixels_P2 * (1 << SUBPIXEL_BITS)).astype(np.int32)
        cv2.fillPoly(image_HW3, [points_P2], MASK_COLOUR, shift=SUBPIXEL_BITS)
        cv2.polylines(image_HW3, [points_P2], isClosed=True, color=MASK_COLOUR, thickness=2, shift=SUBPIXEL_BITS)
