"""People as moving blobs before a learnt background: no network, for cameras that do not move.

The background is a mixture of Gaussians per pixel (MOG2, Zivkovic 2004), which also tells shadows apart.
"""

# H, W = rows and columns of the working picture; N = boxes; 4 = x1, y1, x2, y2

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np
from pydantic import BaseModel, Field

from reidge.edge.detection import Detections

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from numpy.typing import NDArray

    from reidge.edge.frame import Frame

FOREGROUND = 255  # MOG2's mask says 127 for shadow
MAX_BLOBS = 64
"""Blobs of a frame that are looked at, the largest; snow, rain or leaves in the wind make hundreds."""


class MotionConfig(BaseModel, frozen=True, extra="forbid"):
    """Settings of the motion detector; sizes are shares of the frame's height unless said otherwise."""

    kind: Literal["motion"] = "motion"
    max_rows: int = Field(360, ge=64)
    """Frames with more rows are scaled down to this many before anything else."""
    warmup_frames: int = Field(10, ge=0)
    """Frames of a camera that only teach the background."""
    history_frames: int = Field(300, ge=10)
    """Frames over which the background is learnt; whoever stands still that long becomes part of it."""
    max_variance_distance: float = Field(16.0, gt=0)
    """Squared Mahalanobis distance up to which a pixel is background."""
    min_height: float = Field(0.12, gt=0, le=1)
    """Smallest person."""
    max_height: float = Field(1.0, gt=0, le=1)
    """Largest person."""
    min_aspect: float = Field(1.1, gt=0)
    """Smallest height / width of a person."""
    max_aspect: float = Field(5.0, gt=0)
    """Largest height / width of a person."""
    max_gap: float = Field(0.08, ge=0, le=1)
    """Largest vertical gap between two blobs of one person."""
    wide_aspect: float = Field(1.7, gt=0)
    """Below this height / width a blob may be two people and is searched for a valley to cut."""
    typical_fill: float = Field(0.5, gt=0, le=1)
    """Share of its box that a person's blob fills; the score is 1 from there on."""


@dataclass(slots=True)
class _Background:
    """What was learnt of one camera."""

    model: Any
    shape: tuple[int, ...]
    """Of its frames."""
    seen: int = 0
    """Frames it was learnt from."""


class MotionDetector:
    """Keeps one background per camera."""

    def __init__(self, config: MotionConfig) -> None:
        self.config = config
        self._backgrounds: dict[str, _Background] = {}

    def __enter__(self) -> MotionDetector:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._backgrounds.clear()

    def detect(self, camid: str, image_HW3: NDArray[np.uint8]) -> Detections:
        """Find what moves and is shaped like a person; nothing during the warm-up of a camera.

        A new size of its frames begins another one.
        """
        scale = max(1.0, image_HW3.shape[0] / self.config.max_rows)
        background = self._background(camid, image_HW3.shape)
        mask_HW = _foreground(background, _shrink(image_HW3, scale))
        if background.seen <= self.config.warmup_frames:
            return Detections.from_arrays([], [])
        boxes_N4 = self._people(mask_HW)
        fills_N = [mask_HW[y1:y2, x1:x2].mean() / 255 for x1, y1, x2, y2 in boxes_N4]
        return Detections.from_arrays(
            np.asarray(boxes_N4, dtype=np.float32).reshape(-1, 4) * scale,
            np.minimum(np.asarray(fills_N, dtype=np.float32) / self.config.typical_fill, 1.0),
        )

    def detect_many(self, frames: Sequence[Frame]) -> list[Detections]:
        """Find the people in the frames of one moment, one after the other."""
        return [self.detect(frame.camid, frame.image) for frame in frames]

    def forget(self, camid: str) -> None:
        """Forget a camera's background, tens of megabytes; its next frame begins the warm-up of another."""
        self._backgrounds.pop(camid, None)

    def _background(self, camid: str, shape: tuple[int, ...]) -> _Background:
        background = self._backgrounds.get(camid)
        if background is None or background.shape != shape:
            model = cv2.createBackgroundSubtractorMOG2(
                history=self.config.history_frames,
                varThreshold=self.config.max_variance_distance,
                detectShadows=True,
            )
            background = self._backgrounds[camid] = _Background(model=model, shape=shape)
        return background

    def _people(self, mask_HW: NDArray[np.uint8]) -> list[tuple[int, int, int, int]]:
        """Boxes of blobs, fragments joined and crowds cut, that have a person's size and shape."""
        rows = mask_HW.shape[0]
        count, _, stats_K5, _ = cv2.connectedComponentsWithStats(mask_HW, connectivity=8)
        min_area = (0.15 * self.config.min_height * rows) ** 2
        large = [row for row in stats_K5[1:count].tolist() if row[4] >= min_area]
        if len(large) > MAX_BLOBS:
            large = sorted(large, key=lambda row: row[4], reverse=True)[:MAX_BLOBS]
        blobs = [(x, y, x + w, y + h) for x, y, w, h, _ in large]
        boxes = [
            part
            for box in join_fragments(blobs, max_gap=self.config.max_gap * rows, min_aspect=self.config.min_aspect)
            for part in cut_crowd(mask_HW, box, wide_aspect=self.config.wide_aspect)
        ]
        return [box for box in boxes if self._plausible(box, rows)]

    def _plausible(self, box: tuple[int, int, int, int], rows: int) -> bool:
        width, height = box[2] - box[0], box[3] - box[1]
        sized = self.config.min_height * rows <= height <= self.config.max_height * rows
        return sized and self.config.min_aspect <= height / width <= self.config.max_aspect


def _foreground(background: _Background, image_HW3: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Learn from the picture and mark what is neither background nor shadow, 0 or 255."""
    mask_HW = background.model.apply(cv2.GaussianBlur(image_HW3, (3, 3), 0))
    background.seen += 1
    mask_HW = np.where(mask_HW == FOREGROUND, np.uint8(255), np.uint8(0))
    # Opening removes specks of noise; the tall kernel closes gaps within a person, not between neighbours.
    mask_HW = cv2.morphologyEx(mask_HW, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    return np.asarray(cv2.morphologyEx(mask_HW, cv2.MORPH_CLOSE, np.ones((11, 5), np.uint8)))


def _shrink(image_HW3: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    if scale == 1.0:
        return image_HW3
    height, width = image_HW3.shape[:2]
    size = (round(width / scale), round(height / scale))
    return np.asarray(cv2.resize(image_HW3, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def join_fragments(
    blobs: list[tuple[int, int, int, int]], *, max_gap: float, min_aspect: float
) -> list[tuple[int, int, int, int]]:
    """Join blobs that stand above each other (head, body, legs of one person) until none is left to join.

    Args:
        blobs: x1, y1, x2, y2 of each.
        max_gap: Largest vertical gap in pixels.
        min_aspect: A union wider than this height / width is two people beside each other and is not made.
    """
    boxes = sorted(blobs, key=lambda box: box[1])
    row = 0
    while row < len(boxes):
        # Only a box that grew is compared again: going through all pairs after each join takes seconds in a snowfall.
        for other in range(len(boxes)):
            union = _union(boxes[row], boxes[other], max_gap=max_gap, min_aspect=min_aspect) if other != row else None
            if union is not None:
                row, gone = sorted((row, other))
                boxes[row] = union
                del boxes[gone]
                break
        else:
            row += 1
    return boxes


def _union(
    a: tuple[int, int, int, int], b: tuple[int, int, int, int], *, max_gap: float, min_aspect: float
) -> tuple[int, int, int, int] | None:
    """Give the box of two blobs that stand above each other, None of others."""
    common = min(a[2], b[2]) - max(a[0], b[0])
    gap = max(a[1], b[1]) - min(a[3], b[3])
    union = (min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3]))
    upright = union[3] - union[1] >= min_aspect * (union[2] - union[0])
    return union if gap <= max_gap and common >= 0.5 * min(a[2] - a[0], b[2] - b[0]) and upright else None


def cut_crowd(
    mask_HW: NDArray[np.uint8], box: tuple[int, int, int, int], *, wide_aspect: float
) -> list[tuple[int, int, int, int]]:
    """Cut a blob that is too wide for one person at the deepest valley between two of its peaks.

    The profile is the count of foreground pixels per column; a person is a peak, the air between two a valley.
    """
    x1, y1, x2, y2 = box
    width, height = x2 - x1, y2 - y1
    if height >= wide_aspect * width or width < 8:
        return [box]
    profile_W = np.count_nonzero(mask_HW[y1:y2, x1:x2], axis=0).astype(np.float32)
    profile_W = np.convolve(profile_W, np.ones(5) / 5, mode="same")
    left_W = np.maximum.accumulate(profile_W)
    right_W = np.maximum.accumulate(profile_W[::-1])[::-1]
    depth_W = np.minimum(left_W, right_W) - profile_W
    edge = max(3, round(0.15 * height))  # a part narrower than this is an arm, not a person
    if width <= 2 * edge:
        return [box]
    cut = edge + int(np.argmax(depth_W[edge : width - edge]))
    if depth_W[cut] < 0.35 * min(left_W[cut], right_W[cut]):
        return [box]
    parts = [_tight(mask_HW, (x1, y1, x1 + cut, y2)), _tight(mask_HW, (x1 + cut, y1, x2, y2))]
    return [piece for part in parts for piece in cut_crowd(mask_HW, part, wide_aspect=wide_aspect)]


def _tight(mask_HW: NDArray[np.uint8], box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """Shrink a box to the foreground in it."""
    x1, y1, x2, y2 = box
    part = mask_HW[y1:y2, x1:x2]
    rows, columns = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
    return x1 + int(columns[0]), y1 + int(rows[0]), x1 + int(columns[-1]) + 1, y1 + int(rows[-1]) + 1
