"""One camera as the loop knows it: where its people are, what its clock says, which part of its picture counts."""

# N = detections; 4 = x1, y1, x2, y2

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reidge.edge.detection import Detections, covered
from reidge.edge.region import inside_region
from reidge.edge.sway import CameraMotion
from reidge.edge.tracker import Tracker

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reidge.edge.camera import CameraConfig
    from reidge.edge.frame import Frame
    from reidge.edge.tracker import TrackedBox, TrackerConfig

FARTHEST = 1e6
"""Pixels; a box beyond is no box, and the squares of its numbers would overflow."""
MAX_STEP_BACK = 1.0
"""Seconds by which a camera's clock may step back before its tracks are taken for over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Glance:
    """What one frame of a camera showed."""

    frame: Frame
    at: float
    """`captured_at` of the frame, never before that of the frame ahead of it."""
    boxes: tuple[TrackedBox, ...]
    """Confirmed tracks that were seen."""
    covered_N: NDArray[np.float32]
    """Share of each detection that another one covers; `TrackedBox.detection` is its row."""
    ended: tuple[int, ...]
    """track_ids that are over."""


class View:
    """Tracks the people of one camera through everything that happens to its stream."""

    def __init__(self, config: CameraConfig, tracking: TrackerConfig) -> None:
        self.config = config
        self._tracker = Tracker(tracking)
        self._motion = CameraMotion()
        self._shape: tuple[int, ...] | None = None
        self._clock: float | None = None

    def take(self, frame: Frame, detections: Detections) -> Glance:
        """Follow the people of the next frame."""
        at, ended = self._continue(frame)
        detections = _usable(detections)
        motion_23 = self._motion.estimate(frame.image, detections.boxes_N4) if self.config.moves else None
        if self.config.region is not None:
            detections = detections.select(inside_region(detections.boxes_N4, self.config.region, frame.image.shape))
        update = self._tracker.update(detections, at, motion_23=motion_23)
        return Glance(
            frame=frame,
            at=at,
            boxes=update.live,
            covered_N=covered(detections.boxes_N4),
            ended=ended + update.ended,
        )

    def finish(self) -> tuple[int, ...]:
        """End all tracks; returns their track_ids."""
        self._clock = self._shape = None
        self._motion.forget()
        return self._tracker.finish()

    def _continue(self, frame: Frame) -> tuple[float, tuple[int, ...]]:
        """Judge whether a frame goes on from the last one; returns its time and the tracks that are over if not.

        A new picture size moves every box, and a clock that was set back would make time run backwards.
        """
        ended: tuple[int, ...] = ()
        at, shape = frame.captured_at, frame.image.shape
        set_back = self._clock is not None and at < self._clock - MAX_STEP_BACK
        if set_back or self._shape not in (None, shape):
            ended = self.finish()
        elif self._clock is not None:
            at = max(at, self._clock)
        self._clock, self._shape = at, shape
        return at, ended


def _usable(detections: Detections) -> Detections:
    """Leave out boxes without an area or a number; a network that overflows gives such."""
    boxes_N4, scores_N = detections.boxes_N4, detections.scores_N
    # NaN compares as false.
    near_N = (np.abs(boxes_N4) < FARTHEST).all(axis=1) & np.isfinite(scores_N)
    usable_N = near_N & (boxes_N4[:, 2] > boxes_N4[:, 0]) & (boxes_N4[:, 3] > boxes_N4[:, 1])
    return detections if usable_N.all() else detections.select(usable_N)
