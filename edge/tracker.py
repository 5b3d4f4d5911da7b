"""Joins the detections of one camera over time into tracks.

All detections are paired with all tracks at once, by how well each fits where a Kalman filter expects the track, by
overlap, and by appearance where it is given. Sure and unsure detections compete together: who is half hidden scores
low, and pairing the sure ones first (ByteTrack, Zhang et al. 2022) would let the one behind take the box of the one in
front. Only sure ones begin a track.
"""

# T = tracks, N = detections, D = embedding; 4 = x1, y1, x2, y2 or centre x, centre y, width, height
# 23 = affine transform of (x, y, 1)

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
from pydantic import BaseModel, Field

from reidge.edge.assignment import IMPOSSIBLE, assign
from reidge.edge.detection import Detections, areas, intersections, ious
from reidge.edge.kalman import BoxFilters
from reidge.edge.likeness import Likeness

if TYPE_CHECKING:
    from numpy.typing import NDArray

APPEARANCE_MEMORY = 0.9
"""Weight of what was seen before in the appearance of a track."""
MAX_JUMP_SECONDS = 0.8
"""A track that was lost for longer is not looked for by its place alone: somebody else may have come."""
MAX_GROWTH = math.log(1.6)
"""Largest difference in height (as a logarithm) of a detection and the track that it jumped from."""
MAX_HIDDEN = 0.5
"""Share of a detection that somebody in front may hide for its appearance to count; beyond, it shows the other one."""


class TrackerConfig(BaseModel, frozen=True, extra="forbid"):
    """Settings of the tracker of each camera."""

    high_score: float = Field(0.5, ge=0, le=1)
    """Detections from this confidence on start tracks; the others only continue them."""
    low_score: float = Field(0.1, ge=0, le=1)
    """Detections below this confidence are not used at all."""
    max_misfit: float = Field(13.0, gt=0)
    """How badly a detection may fit the track it continues: the negative logarithm of its likelihood, and with it the
    cost of too little overlap, of having been lost, and of looking different."""
    min_iou: float = Field(0.15, ge=0, le=1)
    """Smallest overlap of a detection and the predicted box of its track."""
    max_shift: float = Field(0.4, ge=0)
    """In the open a detection that fits nobody still continues a track that fits nothing, up to this distance from
    where it was expected, in heights of the person: detectors jump. Not where anybody else is as near to either."""
    overlap_weight: float = Field(6.0, ge=0)
    """Misfit of no overlap at all."""
    lost_weight: float = Field(1.0, ge=0)
    """Misfit of each second in which a track was not seen."""
    unsure_cost: float = Field(0.5, ge=0)
    """How far sure detections go before unsure ones, in misfit; from `max_misfit` on they choose first, as in
    ByteTrack."""
    unsure_weight: float = Field(0.75, ge=0)
    """How much looser the box of an unsure detection is: at confidence 0 its error is 1 + this times as large."""
    appearance_weight: float = Field(1.0, ge=0)
    """Share in the misfit of how a detection looks, where embeddings are given."""
    min_hits: int = Field(3, ge=1)
    """Frames in a row with a detection before a track is reported."""
    max_age: float = Field(1.2, gt=0)
    """Seconds without a detection after which a track has ended."""


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


class FrameTracker(Protocol):
    """What follows the people of one camera; ours, and any other that is to be compared with it."""

    def update(
        self,
        detections: Detections,
        captured_at: float,
        embeddings_ND: NDArray[np.float32] | None = None,
        motion_23: NDArray[np.float64] | None = None,
    ) -> TrackUpdate:
        """Take in the detections of the next frame."""

    def finish(self) -> tuple[int, ...]:
        """End all tracks; returns the track_ids of the confirmed ones."""


@dataclass(slots=True, kw_only=True)
class _Track:
    """What is known of a track beside the state of its filter."""

    first_seen: float
    last_seen: float
    track_id: int = 0
    """0 until it is confirmed."""
    hits: int = 0
    surprise: float = 0.0
    embedding_D: NDArray[np.float32] | None = None
    past: list[PastBox] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Looks:
    """What the detections of a frame look like."""

    embeddings_ND: NDArray[np.float32]
    clear_N: NDArray[np.bool_]
    """Which show the person whom they found."""


class Tracker:
    """Tracks of one camera; track_ids count from 1 in each instance."""

    def __init__(self, config: TrackerConfig | None = None) -> None:
        self.config = config or TrackerConfig()
        self._tracks: list[_Track] = []
        self._filters = BoxFilters()
        """One row for each track, in the same order."""
        self._likeness = Likeness()
        self._last_id = 0
        self._now = math.inf
        """Seconds of the last frame; before the first one nothing moves."""

    def update(
        self,
        detections: Detections,
        captured_at: float,
        embeddings_ND: NDArray[np.float32] | None = None,
        motion_23: NDArray[np.float64] | None = None,
    ) -> TrackUpdate:
        """Take in the detections of the next frame.

        Args:
            detections: In pixels of the frame.
            captured_at: Seconds; not before the frame of the last call.
            embeddings_ND: Unit appearance vector of each detection, where there are any.
            motion_23: Where points of the last frame are in this one, where the camera moves.
        """
        self._filters.predict(max(captured_at - self._now, 0.0))
        self._now = captured_at
        if motion_23 is not None:
            self._filters.move(motion_23)
        centres_N4 = to_centres(detections.boxes_N4)
        looks = None if embeddings_ND is None else _Looks(embeddings_ND, _hidden(detections.boxes_N4) <= MAX_HIDDEN)
        pairs = self._associate(detections, centres_N4, looks)
        self._see(pairs, detections, centres_N4, looks)
        pairs += self._begin(pairs, detections, centres_N4)
        self._remember(pairs, detections, looks)
        live = sorted(self._confirmed(pairs, detections), key=lambda box: box.track_id)
        return TrackUpdate(live=tuple(live), ended=self._drop_old())

    def finish(self) -> tuple[int, ...]:
        """End all tracks; returns the track_ids of the confirmed ones."""
        ended = tuple(track.track_id for track in self._tracks if track.track_id)
        self._tracks.clear()
        self._filters = BoxFilters()
        self._now = math.inf
        return ended

    def _associate(
        self, detections: Detections, centres_N4: NDArray[np.float64], looks: _Looks | None
    ) -> list[tuple[int, int]]:
        """Pair rows of tracks with rows of detections at the least misfit in total."""
        config = self.config
        if not self._tracks or not len(detections):
            return []
        scores_N = detections.scores_N.astype(np.float64)
        overlap_TN = ious(self._filters.boxes(), detections.boxes_N4)
        lost_T1 = np.array([[self._now - track.last_seen] for track in self._tracks])
        misfit_TN = self._filters.misfits(centres_N4, self._doubt(scores_N))
        misfit_TN += config.overlap_weight * (1 - overlap_TN) + config.lost_weight * lost_T1
        odds_TN = np.zeros_like(misfit_TN) if looks is None else config.appearance_weight * self._odds(looks)
        misfit_TN -= odds_TN
        possible_TN = (misfit_TN < config.max_misfit) & (overlap_TN >= config.min_iou) & (scores_N >= config.low_score)
        cost_TN = np.where(possible_TN, misfit_TN + config.unsure_cost * (scores_N < config.high_score), IMPOSSIBLE)
        pairs = assign(cost_TN, config.max_misfit + config.unsure_cost)
        allowed_TN = (odds_TN >= 0) & (scores_N >= config.high_score) & (lost_T1 <= MAX_JUMP_SECONDS)
        return pairs + self._rescue(pairs, centres_N4, allowed_TN)

    def _rescue(
        self, pairs: list[tuple[int, int]], centres_N4: NDArray[np.float64], allowed_TN: NDArray[np.bool_]
    ) -> list[tuple[int, int]]:
        """Pair what is left over where there is nobody else whom it could be."""
        for row, detection in pairs:
            allowed_TN[row] = allowed_TN[:, detection] = False
        rows_K, found_K = np.flatnonzero(allowed_TN.any(axis=1)), np.flatnonzero(allowed_TN.any(axis=0))
        if not len(rows_K) or not self.config.max_shift:
            return []
        expected_T4 = self._filters.position_T4
        rows_K = rows_K[_nearest_other(expected_T4, rows_K) > self.config.max_shift]
        found_K = found_K[_nearest_other(centres_N4, found_K) > self.config.max_shift]
        shift_KK = _distances(expected_T4[rows_K], centres_N4[found_K])
        height_K1 = np.maximum(expected_T4[rows_K, 3:], 1.0)
        growth_KK = np.abs(np.log(height_K1 / np.maximum(centres_N4[found_K, 3], 1.0)))
        possible_KK = allowed_TN[np.ix_(rows_K, found_K)] & (growth_KK <= MAX_GROWTH)
        possible_KK &= shift_KK <= self.config.max_shift
        chosen = assign(np.where(possible_KK, shift_KK, IMPOSSIBLE), 2 * self.config.max_shift)
        return [(int(rows_K[row]), int(found_K[column])) for row, column in chosen]

    def _doubt(self, scores_N: NDArray[np.float64]) -> NDArray[np.float64]:
        """How much looser than a sure one's the box of each detection is."""
        return 1 + self.config.unsure_weight * (1 - scores_N)

    def _odds(self, looks: _Looks) -> NDArray[np.float64]:
        """What appearance says for each pair; nothing where either was never seen clearly."""
        known_T = np.array([track.embedding_D is not None for track in self._tracks])
        odds_TN = np.zeros((len(self._tracks), len(looks.clear_N)))
        if known_T.any():
            mean_KD = np.stack([track.embedding_D for track in self._tracks if track.embedding_D is not None])
            odds_TN[known_T] = self._likeness.odds(mean_KD @ looks.embeddings_ND.T) * looks.clear_N
        return odds_TN

    def _see(
        self,
        pairs: list[tuple[int, int]],
        detections: Detections,
        centres_N4: NDArray[np.float64],
        looks: _Looks | None,
    ) -> None:
        """Correct the filters of the tracks that were found, and learn how alike people look."""
        if not pairs:
            return
        rows_K, seen_K = np.array(pairs).T
        if looks is not None:
            self._learn(rows_K, seen_K, looks)
        expected_K = np.maximum(self._filters.position_T4[rows_K, 3], 1.0)
        surprise_K = np.abs(np.log(np.maximum(centres_N4[seen_K, 3], 1.0) / expected_K))
        for row, surprise in zip(rows_K.tolist(), surprise_K.tolist(), strict=True):
            self._tracks[row].surprise = surprise
        doubt_K = self._doubt(detections.scores_N[seen_K].astype(np.float64))
        self._filters.correct(rows_K, centres_N4[seen_K], doubt_K)

    def _learn(self, rows_K: NDArray[np.intp], seen_K: NDArray[np.intp], looks: _Looks) -> None:
        clear = [(r, n) for r, n in zip(rows_K.tolist(), seen_K.tolist(), strict=True) if looks.clear_N[n]]
        means = [(self._tracks[r].embedding_D, n) for r, n in clear]
        known = [(mean_D, n) for mean_D, n in means if mean_D is not None]
        if known:
            similarity_KK = np.stack([mean_D for mean_D, _ in known]) @ looks.embeddings_ND[[n for _, n in known]].T
            others_KK = ~np.eye(len(known), dtype=bool)
            self._likeness.learn(np.diag(similarity_KK), similarity_KK[others_KK])

    def _begin(
        self, pairs: list[tuple[int, int]], detections: Detections, centres_N4: NDArray[np.float64]
    ) -> list[tuple[int, int]]:
        """Begin a track at every sure detection that is nobody's."""
        taken = {row for _, row in pairs}
        sure = np.flatnonzero(detections.scores_N >= self.config.high_score).tolist()
        rows = [row for row in sure if row not in taken]
        begun = [(len(self._tracks) + turn, row) for turn, row in enumerate(rows)]
        if rows:
            self._filters.add(centres_N4[rows])
            self._tracks += [_Track(first_seen=self._now, last_seen=self._now) for _ in rows]
        return begun

    def _remember(self, pairs: list[tuple[int, int]], detections: Detections, looks: _Looks | None) -> None:
        """Note when and where the tracks of this frame were seen, and how they looked."""
        for index, row in pairs:
            track = self._tracks[index]
            track.hits += 1
            track.last_seen = self._now
            if not track.track_id:
                track.past.append(PastBox(captured_at=self._now, box_4=detections.boxes_N4[row]))
            if looks is not None and looks.clear_N[row]:
                track.embedding_D = _mixed(track.embedding_D, looks.embeddings_ND[row])

    def _drop_old(self) -> tuple[int, ...]:
        # An unconfirmed track must be seen in every frame: a flicker of the detector does not become a person.
        lost = [self._now - track.last_seen for track in self._tracks]
        kept_T = np.array(
            [gap <= (self.config.max_age if t.track_id else 0.0) for t, gap in zip(self._tracks, lost, strict=True)]
        )
        if kept_T.all():
            return ()
        ended = tuple(t.track_id for t, kept in zip(self._tracks, kept_T, strict=True) if not kept and t.track_id)
        self._tracks = [t for t, kept in zip(self._tracks, kept_T, strict=True) if kept]
        self._filters.keep(kept_T)
        return ended

    def _confirmed(self, pairs: list[tuple[int, int]], detections: Detections) -> list[TrackedBox]:
        live = []
        for index, row in pairs:
            track = self._tracks[index]
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


def _distances(from_K4: NDArray[np.float64], to_N4: NDArray[np.float64]) -> NDArray[np.float64]:
    """Between centres, `(K, N)`, in heights of the first."""
    offset_KN2 = from_K4[:, None, :2] - to_N4[None, :, :2]
    return np.asarray(np.hypot(offset_KN2[..., 0], offset_KN2[..., 1]) / np.maximum(from_K4[:, 3:], 1.0))


def _nearest_other(centres_N4: NDArray[np.float64], rows_K: NDArray[np.intp]) -> NDArray[np.float64]:
    """How far the next one of the same kind is from each of some, in heights."""
    distance_KN = _distances(centres_N4[rows_K], centres_N4)
    distance_KN[np.arange(len(rows_K)), rows_K] = np.inf
    return np.asarray(distance_KN.min(axis=1, initial=np.inf))


def _hidden(boxes_N4: NDArray[np.float32]) -> NDArray[np.float32]:
    """Largest share of each box that one in front covers: in front is whose feet are lower in the picture."""
    in_front_NN = boxes_N4[None, :, 3] > boxes_N4[:, None, 3]
    common_NN = intersections(boxes_N4, boxes_N4) * in_front_NN
    return np.asarray(common_NN.max(axis=1, initial=0.0) / np.maximum(areas(boxes_N4), 1e-6))


def _mixed(before_D: NDArray[np.float32] | None, now_D: NDArray[np.float32]) -> NDArray[np.float32]:
    """The appearance of a track after one more look, unit length."""
    if before_D is None:
        return now_D
    mixed_D = APPEARANCE_MEMORY * before_D + (1 - APPEARANCE_MEMORY) * now_D
    return np.asarray(mixed_D / max(float(np.linalg.norm(mixed_D)), 1e-6), dtype=np.float32)
