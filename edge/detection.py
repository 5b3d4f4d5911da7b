"""People found in one frame, and the geometry of their boxes."""

# N, M = boxes; 4 = x1, y1, x2, y2 in pixels

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Detections:
    """Boxes and confidences of the people in one frame."""

    boxes_N4: NDArray[np.float32]
    """x1, y1, x2, y2 in pixels of the frame; x2 and y2 are exclusive."""
    scores_N: NDArray[np.float32]
    """Confidence, 0 to 1."""

    def __post_init__(self) -> None:
        assert self.boxes_N4.shape == (len(self.scores_N), 4), (self.boxes_N4.shape, self.scores_N.shape)

    def __len__(self) -> int:
        return len(self.scores_N)

    @classmethod
    def from_arrays(cls, boxes_N4: object, scores_N: object) -> Detections:
        """Build from anything numpy can read, also empty lists."""
        return cls(
            boxes_N4=np.asarray(boxes_N4, dtype=np.float32).reshape(-1, 4),
            scores_N=np.asarray(scores_N, dtype=np.float32).reshape(-1),
        )

    def select(self, which_N: NDArray[np.bool_] | NDArray[np.intp]) -> Detections:
        """Keep some detections, by mask or by index."""
        return Detections(boxes_N4=self.boxes_N4[which_N], scores_N=self.scores_N[which_N])


def areas(boxes_N4: NDArray[np.float32]) -> NDArray[np.float32]:
    """Area of each box in square pixels; 0 for a box that is inside out."""
    sides_N2 = np.clip(boxes_N4[:, 2:] - boxes_N4[:, :2], 0, None)
    return np.asarray(sides_N2[:, 0] * sides_N2[:, 1])


def intersections(a_N4: NDArray[np.float32], b_M4: NDArray[np.float32]) -> NDArray[np.float32]:
    """Common area of every pair, `(N, M)`, in square pixels."""
    low_NM2 = np.maximum(a_N4[:, None, :2], b_M4[None, :, :2])
    high_NM2 = np.minimum(a_N4[:, None, 2:], b_M4[None, :, 2:])
    sides_NM2 = np.clip(high_NM2 - low_NM2, 0, None)
    return np.asarray(sides_NM2[..., 0] * sides_NM2[..., 1])


def ious(a_N4: NDArray[np.float32], b_M4: NDArray[np.float32]) -> NDArray[np.float32]:
    """Intersection over union of every pair, `(N, M)`, 0 to 1."""
    common_NM = intersections(a_N4, b_M4)
    union_NM = areas(a_N4)[:, None] + areas(b_M4)[None, :] - common_NM
    return np.asarray(common_NM / np.maximum(union_NM, 1e-6))


def covered(boxes_N4: NDArray[np.float32]) -> NDArray[np.float32]:
    """Largest share of each box's own area that one of the other boxes covers, 0 to 1."""
    if len(boxes_N4) < 2:
        return np.zeros(len(boxes_N4), dtype=np.float32)
    common_NN = intersections(boxes_N4, boxes_N4)
    np.fill_diagonal(common_NN, 0)
    return np.asarray(common_NN.max(axis=1) / np.maximum(areas(boxes_N4), 1e-6))
