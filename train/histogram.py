"""The baseline every encoder must beat: colour histograms of horizontal stripes."""

# N = crops, H, W = height and width, D = embedding

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZE = (128, 64)
"""Height and width of the crops it is given."""
STRIPES = 6
BINS = (16, 16, 16)
"""Of hue, saturation and value, each on its own."""
RANGES = (180, 256, 256)
"""OpenCV halves the hue to fit 8 bits."""


def embed_histograms(crops_NHW3: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Concatenate hue, saturation and value histograms of six horizontal stripes.

    The square root of each share (the Hellinger map) keeps large plain areas from drowning the rest.

    Args:
        crops_NHW3: uint8 BGR.

    Returns:
        `(N, 288)` float32, unit length.
    """
    embeddings_ND = np.stack([_histograms(crop) for crop in crops_NHW3])
    return np.asarray(embeddings_ND / np.linalg.norm(embeddings_ND, axis=1, keepdims=True), dtype=np.float32)


def _histograms(crop_HW3: NDArray[np.uint8]) -> NDArray[np.float32]:
    hsv_HW3 = cv2.cvtColor(crop_HW3, cv2.COLOR_BGR2HSV)
    parts = [
        np.sqrt(cv2.calcHist([np.ascontiguousarray(stripe)], [channel], None, [bins], [0, top]).ravel())
        for stripe in np.array_split(hsv_HW3, STRIPES)
        for channel, (bins, top) in enumerate(zip(BINS, RANGES, strict=True))
    ]
    return np.concatenate(parts).astype(np.float32)
