"""The part of a camera's picture in which people count."""

# N = boxes, P = corners of the polygon; 4 = x1, y1, x2, y2

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def inside_region(
    boxes_N4: NDArray[np.float32], corners: Sequence[tuple[float, float]], shape: tuple[int, ...]
) -> NDArray[np.bool_]:
    """Tell which boxes stand (middle of the lower edge) inside a polygon.

    Even-odd rule: a ray to the right crosses the outline an odd number of times.

    Args:
        boxes_N4: Pixels.
        corners: Shares (0 to 1) of the frame's width and height.
        shape: Of the frame: height, width.
    """
    corners_P2 = np.asarray(corners, dtype=np.float64) * [shape[1], shape[0]]
    ends_P2 = np.roll(corners_P2, -1, axis=0)
    x_N1, y_N1 = boxes_N4[:, [0, 2]].mean(axis=1)[:, None], boxes_N4[:, 3][:, None]
    spans_NP = (corners_P2[:, 1] > y_N1) != (ends_P2[:, 1] > y_N1)
    rise_P = ends_P2[:, 1] - corners_P2[:, 1]
    share_NP = (y_N1 - corners_P2[:, 1]) / np.where(rise_P == 0, 1.0, rise_P)
    crossing_NP = corners_P2[:, 0] + share_NP * (ends_P2[:, 0] - corners_P2[:, 0])
    return np.asarray(np.count_nonzero(spans_NP & (x_N1 < crossing_NP), axis=1) % 2 == 1)
