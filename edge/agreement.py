"""How well two graphs of one detector agree on the people of some frames."""

# N, M = boxes

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, Field

from reidge.edge.detection import Detections, ious

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

SURE = 0.5
"""Score from which a box must be in both; harvest and the edge build on such boxes."""
SLACK = 0.1
"""By how much a box's score may fall before it counts as lost: scores near `SURE` flicker in any arithmetic."""
MIN_IOU = 0.5
"""Overlap from which two boxes show one person."""


class Agreement(BaseModel, frozen=True, extra="forbid"):
    """Boxes of one graph held against those of the float graph, on the same frames."""

    frames: int = Field(ge=0)
    boxes: int = Field(ge=0)
    """Sure boxes of the float graph."""
    recall: float = Field(ge=0, le=1)
    """Share of them that the other graph finds too; 1 where there are none."""
    precision: float = Field(ge=0, le=1)
    """Share of the other graph's sure boxes that the float graph finds too; 1 where there are none."""
    mean_iou: float = Field(ge=0, le=1)
    """Overlap of the boxes that both find; 0 where there are none."""
    score_shift: float
    """Mean change of the scores of boxes that both find."""

    @property
    def f1(self) -> float:
        """Recall and precision in one number."""
        total = self.recall + self.precision
        return 2 * self.recall * self.precision / total if total else 0.0


def compare_detections(reference: Sequence[Detections], found: Sequence[Detections]) -> Agreement:
    """Compare boxes frame by frame; both may hold unsure boxes, which count only as partners.

    Args:
        reference: Of the float graph, one entry a frame.
        found: Of the other graph, on the same frames.
    """
    pairs = list(zip(reference, found, strict=True))
    recalled = np.concatenate([partners(a, b) for a, b in pairs] or [np.zeros((0, 2))])
    confirmed = np.concatenate([partners(b, a) for a, b in pairs] or [np.zeros((0, 2))])
    both = recalled[recalled[:, 0] >= MIN_IOU]
    return Agreement(
        frames=len(pairs),
        boxes=len(recalled),
        recall=len(both) / len(recalled) if len(recalled) else 1.0,
        precision=float((confirmed[:, 0] >= MIN_IOU).mean()) if len(confirmed) else 1.0,
        mean_iou=float(both[:, 0].mean()) if len(both) else 0.0,
        score_shift=float(both[:, 1].mean()) if len(both) else 0.0,
    )


def partners(ours: Detections, theirs: Detections) -> NDArray[np.float64]:
    """For each of our sure boxes the overlap with its best partner and how the score differs there, `(N, 2)`."""
    sure = ours.select(ours.scores_N >= SURE)
    candidates = theirs.select(theirs.scores_N >= SURE - SLACK)
    if len(sure) == 0 or len(candidates) == 0:
        return np.zeros((len(sure), 2))
    iou_NM = ious(sure.boxes_N4, candidates.boxes_N4)
    best_N = iou_NM.argmax(axis=1)
    shift_N = candidates.scores_N[best_N] - sure.scores_N
    return np.stack([iou_NM.max(axis=1), shift_N], axis=1).astype(np.float64)
