"""Joins the detections of one camera over time into tracks.

Constant-velocity Kalman filter on the box; two-stage association as in ByteTrack (Zhang et al. 2022): sure
detections first, unsure ones only continue tracks; then lost tracks are looked for nearby. Appearance, when
given, bends the cost of the first stage.
"""

# T = tracks, N = detections, D = embedding; 4 = x1, y1, x2, y2 or centre x, centre y, width, height

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import lap
import numpy as np
from pydantic import BaseModel, Field

from reidge.edge.detection import Detections, ious

if TYPE_CHECKING:
    from numpy.typing import NDArray

IMPOSSIBLE = 1e5


class TrackerConfig(BaseModel, frozen=True, extra="forbid"):
    """Settings of the tracker of each camera."""

    high_score: float = Field(0.5, ge=0, le=1)
    """Detections from this confidence on start tracks and are matched first."""
    low_score: float = Field(0.1, ge=0, le=1)
    """Detections below this confidence are not used at all."""
    min_iou: float = Field(0.25, ge=0, le=1)
    """Smallest overlap of a detection and the predicted box of its track."""
    min_iou_low: float = Field(0.4, ge=0, le=1)
    """The same for detections below `high_score`."""
    max_shift: float = Field(0.4, ge=0)
    """A lost track is found again up to this distance from its predicted centre, in heights of the person."""
    min_hits: int = Field(3, ge=1)
    """Frames in a row with a detection before a track is reported."""
    max_age: float = Field(1.2, gt=0)
    """Seconds without a detection after which a track has ended."""
    min_similarity: float = Field(0.3, ge=-1, le=1)
    """Smallest cosine of a detection and its track where embeddings are given."""
    appearance_weight: float = Field(0.5, ge=0, le=1)
    """Share of appearance in the cost where embeddings are given; the rest is overlap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PastBox:
    """Where a track was before it was confirmed."""

    captured_at: float
    box_4: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedBox:
    """A confirmed track that was seen in this frame."""

    track_id: int
    detection: int
    """Row of the detections that were given."""
    box_4: NDArray[np.float32]
    """x1, y1, x2, y2 of that detection."""
    score: float
    hits: int
    """Detections of this track so far."""
    first_seen: float
    """`captured_at` of the first of them."""
    surprise: float = 0.0
    """Logarithm of how much taller or shorter the box is than was expected; half-hidden people surprise."""
    earlier: tuple[PastBox, ...] = ()
    """In the frame that confirms a track: its boxes before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackUpdate:
    """What one frame changed."""

    live: tuple[TrackedBox, ...]
    """Confirmed tracks seen in this frame."""
    ended: tuple[int, ...]
    """track_ids of confirmed tracks that are over."""


class BoxFilter:
    """Kalman filter of four independent coordinates, each with a position and a velocity.

    Noise is measured in heights of the person, so that one setting serves near and far.
    """

    POSITION_STD = 0.05
    ACCELERATION_STD_4 = np.array([1.5, 0.75, 0.5, 0.5])
    """Of centre x, centre y, width, height; heights per square second."""
    SPEED_STD_4 = np.array([1.5, 0.5, 0.2, 0.2])
    """Before the second detection; heights per second."""

    def __init__(self, centre_4: NDArray[np.float64]) -> None:
        height = centre_4[3]
        self.position_4 = centre_4.copy()
        self.speed_4 = np.zeros(4)
        self._variance_422 = np.zeros((4, 2, 2))
        self._variance_422[:, 0, 0] = (self.POSITION_STD * height) ** 2
        self._variance_422[:, 1, 1] = (self.SPEED_STD_4 * height) ** 2

    def predict(self, seconds: float) -> None:
        """Move on by `seconds`."""
        self.position_4 = self.position_4 + seconds * self.speed_4
        self.position_4[2:] = np.maximum(self.position_4[2:], 4.0)
        step_22 = np.array([[1.0, seconds], [0.0, 1.0]])
        noise_22 = np.array([[seconds**4 / 4, seconds**3 / 2], [seconds**3 / 2, seconds**2]])
        acceleration_4 = (self.ACCELERATION_STD_4 * self.position_4[3]) ** 2
        self._variance_422 = step_22 @ self._variance_422 @ step_22.T + acceleration_4[:, None, None] * noise_22

    def correct(self, centre_4: NDArray[np.float64]) -> None:
        """Take in a detection."""
        measured = (self.POSITION_STD * centre_4[3]) ** 2
        gain_42 = self._variance_422[:, :, 0] / (self._variance_422[:, 0, 0] + measured)[:, None]
        error_4 = centre_4 - self.position_4
        self.position_4 = self.position_4 + gain_42[:, 0] * error_4
        self.speed_4 = self.speed_4 + gain_42[:, 1] * error_4
        self._variance_422 = self._variance_422 - gain_42[:, :, None] * self._variance_422[:, None, 0, :]


class _Track:
    """Live state of one track."""

    def __init__(self, box_4: NDArray[np.float32], captured_at: float, embedding_D: NDArray[np.float32] | None) -> None:
        self.filter = BoxFilter(to_centres(box_4[None])[0])
        self.track_id = 0
        self.hits = 1
        self.first_seen = self.last_seen = captured_at
        self.embedding_D = embedding_D
        self.surprise = 0.0
        self.past = [PastBox(captured_at=captured_at, box_4=box_4)]

    def see(self, box_4: NDArray[np.float32], captured_at: float, embedding_D: NDArray[np.float32] | None) -> None:
        centre_4 = to_centres(box_4[None])[0]
        self.surprise = abs(float(np.log(max(centre_4[3], 1.0) / max(self.filter.position_4[3], 1.0))))
        self.filter.correct(centre_4)
        self.hits += 1
        self.last_seen = captured_at
        if not self.track_id:
            self.past.append(PastBox(captured_at=captured_at, box_4=box_4))
        if embedding_D is not None:
            mixed_D = embedding_D if self.embedding_D is None else 0.9 * self.embedding_D + 0.1 * embedding_D
            unit_D = mixed_D / max(float(np.linalg.norm(mixed_D)), 1e-6)
            self.embedding_D = unit_D.astype(np.float32)


class Tracker:
    """Tracks of one camera; track_ids count from 1 in each instance."""

    def __init__(self, config: TrackerConfig | None = None) -> None:
        self.config = config or TrackerConfig()
        self._tracks: list[_Track] = []
        self._last_id = 0
        self._clock: float | None = None

    def update(
        self, detections: Detections, captured_at: float, embeddings_ND: NDArray[np.float32] | None = None
    ) -> TrackUpdate:
        """Take in the detections of the next frame.

        Args:
            detections: In pixels of the frame.
            captured_at: Seconds; not before the frame of the last call.
            embeddings_ND: Unit appearance vector of each detection, where there are any.
        """
        for track in self._tracks:
            track.filter.predict(captured_at - (self._clock if self._clock is not None else captured_at))
        self._clock = captured_at
        pairs = self._associate(detections, embeddings_ND)
        for track, row in pairs:
            track.see(detections.boxes_N4[row], captured_at, None if embeddings_ND is None else embeddings_ND[row])
        taken = {row for _, row in pairs}
        for row in range(len(detections)):
            if row not in taken and detections.scores_N[row] >= self.config.high_score:
                embedding_D = None if embeddings_ND is None else embeddings_ND[row]
                track = _Track(detections.boxes_N4[row], captured_at, embedding_D)
                self._tracks.append(track)
                pairs.append((track, row))
        ended = self._drop_old(captured_at)
        live = sorted(self._confirmed(pairs, detections), key=lambda box: box.track_id)
        return TrackUpdate(live=tuple(live), ended=ended)

    def finish(self) -> tuple[int, ...]:
        """End all tracks; returns the track_ids of the confirmed ones."""
        ended = tuple(track.track_id for track in self._tracks if track.track_id)
        self._tracks.clear()
        self._clock = None
        return ended

    def _associate(self, detections: Detections, embeddings_ND: NDArray[np.float32] | None) -> list[tuple[_Track, int]]:
        config = self.config
        high = np.flatnonzero(detections.scores_N >= config.high_score)
        low = np.flatnonzero((detections.scores_N >= config.low_score) & (detections.scores_N < config.high_score))
        tracks = list(self._tracks)
        pairs: list[tuple[_Track, int]] = []

        def match(rows_N: NDArray[np.intp], cost_TN: NDArray[np.float64], max_cost: float) -> NDArray[np.intp]:
            """Pair tracks and detections, take them off the lists; returns the detections left over."""
            found = assign(cost_TN, max_cost)
            pairs.extend((tracks[t], int(rows_N[n])) for t, n in found)
            for t in sorted((t for t, _ in found), reverse=True):
                del tracks[t]
            return np.delete(rows_N, [n for _, n in found])

        cost_TN = self._overlap_cost(tracks, detections.boxes_N4[high], config.min_iou)
        if embeddings_ND is not None:
            cost_TN = self._with_appearance(cost_TN, tracks, embeddings_ND[high])
        high = match(high, cost_TN, 1.0)
        match(low, self._overlap_cost(tracks, detections.boxes_N4[low], config.min_iou_low), 1.0)
        match(high, self._shift_cost(tracks, detections.boxes_N4[high]), 1.0)
        return pairs

    def _overlap_cost(self, tracks: list[_Track], boxes_N4: NDArray[np.float32], min_iou: float) -> NDArray[np.float64]:
        iou_TN = ious(_predicted(tracks), boxes_N4).astype(np.float64)
        return np.where(iou_TN >= min_iou, 1.0 - iou_TN, IMPOSSIBLE)

    def _with_appearance(
        self, cost_TN: NDArray[np.float64], tracks: list[_Track], embeddings_ND: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        cost_TN = cost_TN.copy()
        for row, track in enumerate(tracks):
            if track.embedding_D is None:
                continue
            similarity_N = embeddings_ND @ track.embedding_D
            weight = self.config.appearance_weight
            mixed_N = (1 - weight) * cost_TN[row] + weight * np.clip(1.0 - similarity_N, 0.0, 1.0)
            impossible_N = (cost_TN[row] >= IMPOSSIBLE) | (similarity_N < self.config.min_similarity)
            cost_TN[row] = np.where(impossible_N, IMPOSSIBLE, mixed_N)
        return cost_TN

    def _shift_cost(self, tracks: list[_Track], boxes_N4: NDArray[np.float32]) -> NDArray[np.float64]:
        """Distance of centres over `max_shift` heights; sizes must agree within a factor of 1.6."""
        predicted_T4 = to_centres(_predicted(tracks))
        centres_N4 = to_centres(boxes_N4)
        height_T1 = np.maximum(predicted_T4[:, 3:], 1.0)
        offsets_TN2 = predicted_T4[:, None, :2] - centres_N4[None, :, :2]
        shift_TN = np.hypot(offsets_TN2[..., 0], offsets_TN2[..., 1]) / height_T1
        sizes_TN = np.abs(np.log(height_T1 / np.maximum(centres_N4[None, :, 3], 1.0)))
        possible_TN = (shift_TN <= self.config.max_shift) & (sizes_TN <= np.log(1.6))
        return np.where(possible_TN, shift_TN / max(self.config.max_shift, 1e-6), IMPOSSIBLE)

    def _drop_old(self, captured_at: float) -> tuple[int, ...]:
        kept, ended = [], []
        for track in self._tracks:
            # An unconfirmed track must be seen in every frame: a flicker of the detector does not become a person.
            max_age = self.config.max_age if track.track_id else 0.0
            if captured_at - track.last_seen <= max_age:
                kept.append(track)
            elif track.track_id:
                ended.append(track.track_id)
        self._tracks = kept
        return tuple(ended)

    def _confirmed(self, pairs: list[tuple[_Track, int]], detections: Detections) -> list[TrackedBox]:
        live = []
        for track, row in pairs:
            earlier: tuple[PastBox, ...] = ()
            if not track.track_id and track.hits >= self.config.min_hits:
                self._last_id += 1
                track.track_id = self._last_id
                earlier = tuple(track.past[:-1])
                track.past.clear()
            if track.track_id:
                live.append(
                    TrackedBox(
                        track_id=track.track_id,
                        detection=row,
                        box_4=detections.boxes_N4[row],
                        score=float(detections.scores_N[row]),
                        hits=track.hits,
                        first_seen=track.first_seen,
                        surprise=track.surprise,
                        earlier=earlier,
                    )
                )
        return live


def to_centres(boxes_N4: NDArray[np.float32]) -> NDArray[np.float64]:
    """x1, y1, x2, y2 to centre x, centre y, width, height."""
    boxes_N4 = boxes_N4.astype(np.float64)
    return np.concatenate([(boxes_N4[:, :2] + boxes_N4[:, 2:]) / 2, boxes_N4[:, 2:] - boxes_N4[:, :2]], axis=1)


def _predicted(tracks: list[_Track]) -> NDArray[np.float32]:
    if not tracks:
        return np.empty((0, 4), dtype=np.float32)
    centres_T4 = np.stack([track.filter.position_4 for track in tracks])
    half_T2 = centres_T4[:, 2:] / 2
    return np.concatenate([centres_T4[:, :2] - half_T2, centres_T4[:, :2] + half_T2], axis=1).astype(np.float32)


def assign(cost_TN: NDArray[np.float64], max_cost: float) -> list[tuple[int, int]]:
    """Pair rows and columns at the least total cost (Jonker-Volgenant); pairs above `max_cost` stay apart."""
    if 0 in cost_TN.shape:
        return []
    _, column_T, _ = lap.lapjv(np.ascontiguousarray(cost_TN), extend_cost=True, cost_limit=max_cost)
    return [(row, int(column)) for row, column in enumerate(column_T) if column >= 0]
