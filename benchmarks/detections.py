"""What a detector would find of the people in a simulated scene: the truth with a detector's faults.

Boxes are loose and their errors last a while; hidden people score low or are missed; of two boxes that lie on each
other one is suppressed; some people are found twice, and now and then nobody is found as somebody. No network is run,
so that every tracker and every site gets the same detections, and what is measured is what comes after them.
"""

# N = boxes; 4 = x1, y1, x2, y2 in pixels

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, Field

from reidge.demo.scene import HEIGHT, WIDTH
from reidge.edge.detection import Detections, ious

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from reidge.demo.render import Truth

NOBODY = 0
"""In place of a pid: this detection shows no person."""


class DetectorFaults(BaseModel, frozen=True, extra="forbid"):
    """How good the simulated detector is."""

    looseness: float = Field(0.03, ge=0)
    """Standard deviation of each edge of a box, in sides of the box, for a person in full view."""
    looseness_hidden: float = Field(0.09, ge=0)
    """The same for a person of whom almost nothing is seen."""
    score_visible: float = 2.2
    """Logit of the usual confidence for a person in full view: 0.9."""
    score_slope: float = Field(2.2, ge=0)
    """What the logit loses when the visible share falls to 1/e."""
    score_spread: float = Field(0.8, ge=0)
    """Standard deviation of the logit."""
    min_score: float = Field(0.1, gt=0, lt=1)
    """Detections below are not given; a tenth visible is rarely above."""
    memory: float = Field(0.25, ge=0)
    """Seconds after which errors of box and confidence have forgotten 63 % of themselves."""
    misses: float = Field(0.02, ge=0, le=1)
    """Share of frames in which a person is not found for no reason."""
    duplicates: float = Field(0.03, ge=0, le=1)
    """Share of detections that come with a second, worse box."""
    ghosts: float = Field(0.4, ge=0)
    """Things per second that begin to be taken for a person."""
    ghost_seconds: float = Field(0.4, gt=0)
    """How long such a thing is taken for one, on average."""
    max_overlap: float = Field(0.7, gt=0, le=1)
    """Of two boxes with more IoU than this the less sure one is suppressed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Detections of one frame, and who they really are."""

    detections: Detections
    pids_N: NDArray[np.int64]
    """`NOBODY` where nobody stands."""


@dataclass(slots=True)
class _Error:
    """Slowly changing error of the boxes and confidences of one person, standard normal."""

    values_5: NDArray[np.float64]
    at: float


@dataclass(slots=True)
class _Ghost:
    until: float
    box_4: NDArray[np.float64]
    error: _Error = field(repr=False)


class SimulatedDetector:
    """The detector of one camera; the same faults, seed and truth give the same detections.

    Args:
        faults: How good it is.
        seed: Of its random numbers; give each camera another one.
    """

    def __init__(self, faults: DetectorFaults | None = None, *, seed: int | Sequence[int] = 0) -> None:
        self.faults = faults or DetectorFaults()
        self._rng = np.random.default_rng(seed)
        self._errors: dict[int, _Error] = {}
        self._ghosts: list[_Ghost] = []
        self._at: float | None = None

    def detect(self, truths: Sequence[Truth], at: float) -> Found:
        """Find the people of the next frame, taken at `at` seconds."""
        rows: list[tuple[float, NDArray[np.float64], int]] = []
        for truth in truths:
            rows += self._find(truth, at)
        rows += self._haunt(at)
        self._at = at
        rows = [(score, inside(box_4), pid) for score, box_4, pid in rows if score >= self.faults.min_score]
        detections = Detections.from_arrays([box_4 for _, box_4, _ in rows], [score for score, _, _ in rows])
        kept_N = suppress(detections, self.faults.max_overlap)
        pids_N = np.array([pid for _, _, pid in rows], dtype=np.int64)
        return Found(detections=detections.select(kept_N), pids_N=pids_N[kept_N])

    def _find(self, truth: Truth, at: float) -> list[tuple[float, NDArray[np.float64], int]]:
        """Score, box and pid of a person, once, twice or not at all."""
        faults, rng = self.faults, self._rng
        error_5 = self._error(truth.pid, at)
        missed, doubled = rng.random() < faults.misses, rng.random() < faults.duplicates
        shift_2, less = rng.choice([-1.0, 1.0], 2) * rng.uniform(0.12, 0.25, 2), rng.uniform(0.4, 0.9)
        if missed or truth.visibility <= 0:
            return []
        logit = (
            faults.score_visible + faults.score_slope * math.log(truth.visibility) + faults.score_spread * error_5[4]
        )
        loose = faults.looseness + (1 - truth.visibility) * (faults.looseness_hidden - faults.looseness)
        box_4 = np.array([truth.x1, truth.y1, truth.x2, truth.y2], dtype=np.float64)
        sides_4 = np.tile(box_4[2:] - box_4[:2], 2)
        box_4 += loose * sides_4 * error_5[:4]
        found = [(_sigmoid(logit), box_4, truth.pid)]
        if doubled:
            found.append((less * _sigmoid(logit), box_4 + np.tile(shift_2, 2) * sides_4, truth.pid))
        return found

    def _error(self, pid: int, at: float) -> NDArray[np.float64]:
        """Errors of a person now: what is left of the last ones and as much news as keeps the variance at 1."""
        news_5 = self._rng.normal(size=5)
        error = self._errors.get(pid)
        if error is None:
            self._errors[pid] = error = _Error(news_5, at)
        else:
            _age(error, news_5, at, self.faults.memory)
        return error.values_5

    def _haunt(self, at: float) -> list[tuple[float, NDArray[np.float64], int]]:
        """Things that are taken for a person now."""
        faults, rng = self.faults, self._rng
        seconds = 0.0 if self._at is None else at - self._at
        for _ in range(int(rng.poisson(faults.ghosts * seconds))):
            height = rng.uniform(0.2, 0.6) * HEIGHT
            left, top = rng.uniform(0, WIDTH - 0.4 * height), rng.uniform(0, HEIGHT - height)
            box_4 = np.array([left, top, left + 0.4 * height, top + height])
            until = at + rng.exponential(faults.ghost_seconds)
            self._ghosts.append(_Ghost(until, box_4, _Error(rng.normal(size=5), at)))
        self._ghosts = [ghost for ghost in self._ghosts if at <= ghost.until]
        found = []
        for ghost in self._ghosts:
            _age(ghost.error, rng.normal(size=5), at, faults.memory)
            sides_4 = np.tile(ghost.box_4[2:] - ghost.box_4[:2], 2)
            box_4 = ghost.box_4 + faults.looseness * sides_4 * ghost.error.values_5[:4]
            found.append((_sigmoid(-0.5 + faults.score_spread * float(ghost.error.values_5[4])), box_4, NOBODY))
        return found


def suppress(detections: Detections, max_overlap: float) -> NDArray[np.intp]:
    """Rows that non-maximum suppression leaves, the surest first."""
    order_N = np.argsort(-detections.scores_N, kind="stable")
    overlap_NN = ious(detections.boxes_N4, detections.boxes_N4)
    kept: list[int] = []
    for row in order_N:
        if not kept or overlap_NN[row, kept].max() <= max_overlap:
            kept.append(int(row))
    return np.array(kept, dtype=np.intp)


def inside(box_4: NDArray[np.float64]) -> NDArray[np.float64]:
    """Clip a box to the frame and keep it at least a pixel wide and tall."""
    x1, y1 = np.clip(box_4[:2], 0, (WIDTH - 1, HEIGHT - 1))
    x2, y2 = np.clip(box_4[2:], (x1 + 1, y1 + 1), (WIDTH, HEIGHT))
    return np.array([x1, y1, x2, y2])


def _age(error: _Error, news_5: NDArray[np.float64], at: float, memory: float) -> None:
    kept = math.exp(-(at - error.at) / memory) if memory > 0 else 0.0
    error.values_5 = kept * error.values_5 + math.sqrt(1 - kept**2) * news_5
    error.at = at


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))
