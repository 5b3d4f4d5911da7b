"""Which pictures of a person are worth looking at: sharp, whole, and cut the same way everywhere."""

# H, W = height and width; 4 = x1, y1, x2, y2

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def cut_out(image_HW3: NDArray[np.uint8], box_4: NDArray[np.float32], *, padding: float = 0.0) -> NDArray[np.uint8]:
    """Cut a box out of a frame, a little wider, clipped to the frame; at least one pixel.

    Args:
        image_HW3: The frame.
        box_4: x1, y1, x2, y2 in pixels.
        padding: Added on every side, as a share of the box's height.

    Returns:
        A view of the frame, not a copy.
    """
    height, width = image_HW3.shape[:2]
    pad = padding * float(box_4[3] - box_4[1])
    x1 = int(np.clip(np.floor(box_4[0] - pad), 0, width - 1))
    y1 = int(np.clip(np.floor(box_4[1] - pad), 0, height - 1))
    x2 = int(np.clip(np.ceil(box_4[2] + pad), x1 + 1, width))
    y2 = int(np.clip(np.ceil(box_4[3] + pad), y1 + 1, height))
    return image_HW3[y1:y2, x1:x2]


def sharpness(crop_HW3: NDArray[np.uint8]) -> float:
    """Variance of the Laplacian of the grey crop; larger is sharper."""
    return float(cv2.Laplacian(cv2.cvtColor(crop_HW3, cv2.COLOR_BGR2GRAY), cv2.CV_64F).var())


def touches_border(box_4: NDArray[np.float32], shape: tuple[int, ...], *, margin: float) -> bool:
    """Tell whether a box comes within `margin` pixels of the edge of a frame of `shape` (height, width)."""
    height, width = shape[:2]
    near = box_4[0] < margin or box_4[1] < margin
    return bool(near or box_4[2] > width - margin or box_4[3] > height - margin)
