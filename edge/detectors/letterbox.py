"""A frame in a detector's input, and its boxes back in the frame."""

# H, W = height and width; N = boxes; 4 = x1, y1, x2, y2

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from reidge.edge.detection import Detections, ious

if TYPE_CHECKING:
    from numpy.typing import NDArray

GREY = 114
"""What YOLOX and its relatives were trained to see beside the picture."""
MAX_COMPARED = 1000
"""Boxes that are compared with each other, the surest; all pairs of the thousands that a network gives at a
`min_score` of 0 would take gigabytes."""


def letterbox(image_HW3: NDArray[np.uint8], size: tuple[int, int]) -> tuple[NDArray[np.uint8], float]:
    """Scale a frame to fit, grey below and to the right.

    Args:
        image_HW3: BGR.
        size: Height and width of the detector's input.

    Returns:
        The picture, `(*size, 3)` uint8, and the factor by which the frame was scaled.
    """
    height, width = size
    scale = min(height / image_HW3.shape[0], width / image_HW3.shape[1])
    inner = (max(1, int(image_HW3.shape[1] * scale)), max(1, int(image_HW3.shape[0] * scale)))
    canvas_HW3 = np.full((height, width, 3), GREY, dtype=np.uint8)
    canvas_HW3[: inner[1], : inner[0]] = cv2.resize(image_HW3, inner, interpolation=cv2.INTER_LINEAR)
    return canvas_HW3, scale


def stretch(image_HW3: NDArray[np.uint8], size: tuple[int, int]) -> tuple[NDArray[np.uint8], tuple[float, float]]:
    """Scale a frame to fill, whatever that does to its proportions.

    Returns:
        The picture, `(*size, 3)` uint8, and the factors by which its width and its height were scaled.
    """
    height, width = size
    picture_HW3 = cv2.resize(image_HW3, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(picture_HW3, dtype=np.uint8), (width / image_HW3.shape[1], height / image_HW3.shape[0])


def restore(
    boxes_N4: NDArray[np.float32],
    scores_N: NDArray[np.float32],
    *,
    image_HW3: NDArray[np.uint8],
    scale: float | tuple[float, float],
) -> Detections:
    """Put boxes of the detector's input back into the frame it was made from, cut at the frame's edges.

    What is nothing then, because it lay beside the picture, is left out.
    """
    height, width = image_HW3.shape[:2]
    across, down = scale if isinstance(scale, tuple) else (scale, scale)
    cut_N4 = np.clip(boxes_N4 / [across, down, across, down], 0, [width, height, width, height])
    something_N = (cut_N4[:, 2] > cut_N4[:, 0]) & (cut_N4[:, 3] > cut_N4[:, 1])
    return Detections.from_arrays(cut_N4[something_N], scores_N[something_N])


def suppress_overlaps(found: Detections, *, max_iou: float) -> NDArray[np.intp]:
    """Rows that stay when of two boxes that overlap more than `max_iou` only the surer is kept, surest first.

    Of more than `MAX_COMPARED` boxes the less sure are left out.
    """
    order = np.argsort(-found.scores_N, kind="stable")[:MAX_COMPARED]
    iou_NN = ious(found.boxes_N4[order], found.boxes_N4[order])
    kept: list[int] = []
    for row in range(len(order)):
        if not kept or iou_NN[row, kept].max() <= max_iou:
            kept.append(row)
    return order[kept]
