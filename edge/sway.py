"""How a camera that is not quite fixed has moved since its last frame, told from the picture itself.

Corners of the last picture, those on people left out, are looked for in this one (pyramidal Lucas-Kanade: Bouguet,
*Pyramidal Implementation of the Lucas Kanade Feature Tracker*, 2001); the shift, turn and scale that most of them agree
on is the camera's.
"""

# H, W = rows and columns of the frame; P = corners; N = people; 4 = x1, y1, x2, y2; 23 = affine transform of (x, y, 1)

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

WORKING_WIDTH = 320
"""Pixels; finer pictures cost more and tell no more."""
MAX_CORNERS = 150
MIN_CONTRAST = 0.003
"""Of a corner, as a share of the best one's: walls and floors are pale."""
MIN_DISTANCE = 8
"""Between corners, pixels of the working picture."""
WINDOW = (15, 15)
LEVELS = 3
MAX_ERROR = 1.0
"""Distance from the common motion up to which a corner agrees with it, pixels of the working picture."""
MIN_AGREEING = 12
MIN_SHARE = 0.4
"""Of the corners that were found again. With fewer nothing can be said: a cut, a flash, a wall of people."""
MAX_SCALE = 1.2
"""Between two frames; more is a mistake."""


class CameraMotion:
    """The motion of one camera from frame to frame."""

    def __init__(self) -> None:
        self._last: NDArray[np.uint8] | None = None
        self._still: NDArray[np.uint8] | None = None

    def estimate(self, image_HW3: NDArray[np.uint8], people_N4: NDArray[np.float32]) -> NDArray[np.float64] | None:
        """Tell where points of the last frame are in this one.

        Args:
            image_HW3: BGR.
            people_N4: Boxes of what moves by itself in this frame.

        Returns:
            The transform in pixels of the frame, `(2, 3)`; None for a first frame, after a change of its size, or
            where too few corners agree.
        """
        grey, scale = _shrink(image_HW3)
        last, self._last = self._last, grey
        still, self._still = self._still, _without(people_N4 / scale, grey.shape)
        if last is None or last.shape != grey.shape:
            return None
        corners_P12 = cv2.goodFeaturesToTrack(last, MAX_CORNERS, MIN_CONTRAST, MIN_DISTANCE, mask=still)
        if corners_P12 is None or len(corners_P12) < MIN_AGREEING:
            return None
        # It wants somewhere to put its answer, and gives it back.
        moved_P12, found_P1, _ = cv2.calcOpticalFlowPyrLK(
            last, grey, corners_P12, np.empty_like(corners_P12), winSize=WINDOW, maxLevel=LEVELS
        )
        found_P = np.asarray(found_P1).reshape(-1) == 1
        return _agreed(np.asarray(corners_P12)[found_P], np.asarray(moved_P12)[found_P], scale)

    def forget(self) -> None:
        """Begin anew, as after a loss of the stream."""
        self._last = self._still = None


def move_points(points_N2: NDArray[np.float64], motion_23: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where points of the last frame are in this one."""
    return np.asarray(points_N2 @ motion_23[:, :2].T + motion_23[:, 2])


def _shrink(image_HW3: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], float]:
    """The grey working picture, and how many pixels of the frame one of its own is."""
    height, width = image_HW3.shape[:2]
    scale = max(width / WORKING_WIDTH, 1.0)
    size = (max(round(width / scale), 1), max(round(height / scale), 1))
    small = image_HW3 if scale == 1.0 else cv2.resize(image_HW3, size, interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY), dtype=np.uint8), scale


def _without(people_N4: NDArray[np.floating], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """A mask of the working picture that leaves people out."""
    mask_HW = np.full(shape, 255, dtype=np.uint8)
    for x1, y1, x2, y2 in people_N4:
        mask_HW[max(int(y1), 0) : max(int(y2) + 1, 0), max(int(x1), 0) : max(int(x2) + 1, 0)] = 0
    return mask_HW


def _agreed(before_P12: NDArray[Any], after_P12: NDArray[Any], scale: float) -> NDArray[np.float64] | None:
    """The motion that most corners share, in pixels of the frame."""
    if len(before_P12) < MIN_AGREEING:
        return None
    found_23, agreeing_P1 = cv2.estimateAffinePartial2D(
        before_P12, after_P12, method=cv2.RANSAC, ransacReprojThreshold=MAX_ERROR
    )
    if found_23 is None or np.sum(agreeing_P1) < max(MIN_AGREEING, MIN_SHARE * len(before_P12)):
        return None
    motion_23 = np.array(found_23, dtype=np.float64)
    motion_23[:, 2] *= scale
    zoom = float(np.hypot(motion_23[0, 0], motion_23[1, 0]))
    return motion_23 if 1 / MAX_SCALE <= zoom <= MAX_SCALE else None
