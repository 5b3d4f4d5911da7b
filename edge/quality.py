"""Which pictures of a person are worth looking at: sharp, whole, and cut the same way everywhere."""

# H, W = height and width; 4 = x1, y1, x2, y2

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
from pydantic import BaseModel, Field

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reidge.edge.tracker import TrackedBox

COMPARED_SIZE = (64, 128)
"""Width and height at which pictures of one person are compared: nearer is larger, not sharper."""
Flaw = Literal["small", "unsure", "cut", "covered", "surprising", "blurred"]


class QualityConfig(BaseModel, frozen=True, extra="forbid"):
    """Which pictures of a person are good enough to embed."""

    min_height: int = Field(48, ge=8)
    """Smallest person, pixels."""
    min_score: float = Field(0.4, ge=0, le=1)
    """Smallest confidence of the detection."""
    max_covered: float = Field(0.25, ge=0, le=1)
    """Largest share of a person that another's box may cover."""
    max_surprise: float = Field(0.1, gt=0)
    """Largest difference in height from what was expected (as a logarithm): half-hidden people and pairs surprise."""
    min_sharpness: float = Field(0.25, ge=0)
    """Smallest sharpness, as a share of what is usual for this track; 0 takes blurred pictures too."""
    border: int = Field(2, ge=0)
    """A box nearer than this to the edge of the frame is cut off; pixels."""
    padding: float = Field(0.03, ge=0, le=0.5)
    """Added around the box on every side, as a share of its height; as in harvest."""


def find_flaw(box: TrackedBox, shape: tuple[int, ...], *, covered_share: float, config: QualityConfig) -> Flaw | None:
    """Tell why a box does not show one whole person well, from its geometry alone; None when it does.

    Args:
        box: Of a confirmed track.
        shape: Of the frame: height, width.
        covered_share: Of the box, by another one.
        config: What is good enough.
    """
    if box.box_4[3] - box.box_4[1] < config.min_height:
        return "small"
    if box.score < config.min_score:
        return "unsure"
    if touches_border(box.box_4, shape, margin=config.border):
        return "cut"
    if covered_share > config.max_covered:
        return "covered"
    return "surprising" if box.surprise > config.max_surprise else None


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


def comparable_sharpness(crop_HW3: NDArray[np.uint8]) -> float:
    """Sharpness at one size for all, so that pictures of a person who comes nearer can be compared."""
    return sharpness(np.asarray(cv2.resize(crop_HW3, COMPARED_SIZE, interpolation=cv2.INTER_AREA), dtype=np.uint8))


def touches_border(box_4: NDArray[np.float32], shape: tuple[int, ...], *, margin: float) -> bool:
    """Tell whether a box comes within `margin` pixels of the edge of a frame of `shape` (height, width)."""
    height, width = shape[:2]
    near = box_4[0] < margin or box_4[1] < margin
    return bool(near or box_4[2] > width - margin or box_4[3] > height - margin)
