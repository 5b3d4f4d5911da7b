"""Pairs of tracklets whose identity footage gives away for free.

Two tracklets that are in view of one camera at the same time are different people; the two halves of one tracklet are
the same person. The edge matches tracks by their mean embedding, so that is what is compared here.
"""

# N = crops, D = embedding, T = tracklets, P = pairs

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from reidge.edge.crops import CropRecord

MAX_TRACKLETS = 600
CROPS_EACH = 8
ENOUGH_APART = 200
"""Pairs in two cameras at once, from which on pairs in one camera are left out: where a person is found twice, or a
track changes from one person to the other, these are of one person. Of 450 pairs 16 were."""
TWIN_OVERLAP = 0.5
"""Share of the smaller box that two tracklets cover together above which they may be one person detected twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """Which tracklets the pairs are of, by number, in the order of the similarities."""

    different_P2: NDArray[np.int64]
    same_P: NDArray[np.int64]
    """The tracklet that was cut into two halves."""
    all_P2: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairSimilarities:
    """Cosines between mean embeddings of tracklets."""

    tracklets: int
    different_P: NDArray[np.float64]
    """Pairs in view at the same time, so different people."""
    same_P: NDArray[np.float64]
    """First against second half of each tracklet, so the same person."""
    all_P: NDArray[np.float64]
    """Every pair of tracklets, whoever they are."""
    certain: bool = False
    """The different pairs are all of two cameras that see different places, so none of them is one person."""
    ends: Ends | None = None
    """None where it is not known, which leaves no way to say how sure a figure is."""

    def without_unknown(self) -> PairSimilarities:
        """Only the pairs whose identity is known: far fewer."""
        ends = None if self.ends is None else replace(self.ends, all_P2=self.ends.all_P2[:0])
        return replace(self, all_P=self.all_P[:0], ends=ends)


def collect_pairs(
    embeddings_ND: NDArray[np.float32], records: Sequence[CropRecord], *, separate_views: bool = False
) -> PairSimilarities:
    """Compare tracklets by mean embedding; the arguments are those of `calibrate_threshold`."""
    tracklets = group_by_tracklet(records)
    means_TD = np.stack([unit_mean(embeddings_ND[indices]) for indices in tracklets])
    different_TT = seen_at_once([[records[index] for index in indices] for indices in tracklets], separate_views)
    camids_T = np.array([records[indices[0]].camid for indices in tracklets])
    apart_TT = different_TT & (camids_T[:, None] != camids_T)
    certain = bool(np.triu(apart_TT).sum() >= ENOUGH_APART)
    similarities_TT = means_TD @ means_TD.T
    ends_P2 = np.stack(np.triu_indices(len(tracklets), k=1), axis=1)
    all_P = similarities_TT[ends_P2[:, 0], ends_P2[:, 1]]
    different_P = (apart_TT if certain else different_TT)[ends_P2[:, 0], ends_P2[:, 1]]
    halved = [number for number, indices in enumerate(tracklets) if len(indices) > 1]
    same = [compare_halves(embeddings_ND[tracklets[number]]) for number in halved]
    return PairSimilarities(
        tracklets=len(tracklets),
        different_P=all_P[different_P],
        same_P=np.array(same, dtype=np.float64),
        all_P=all_P,
        certain=certain,
        ends=Ends(different_P2=ends_P2[different_P], same_P=np.array(halved, dtype=np.int64), all_P2=ends_P2),
    )


def compare_halves(embeddings_ND: NDArray[np.float32]) -> float:
    """Cosine between the means of the first and the second half of a tracklet in order of time."""
    middle = len(embeddings_ND) // 2
    return float(unit_mean(embeddings_ND[:middle]) @ unit_mean(embeddings_ND[middle:]))


def group_by_tracklet(records: Sequence[CropRecord]) -> list[list[int]]:
    """Indices of each tracklet's crops in order of time."""
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for index, record in enumerate(records):
        groups[record.tracklet].append(index)
    return [sorted(indices, key=lambda index: records[index].captured_at) for indices in groups.values()]


def sample_records(
    records: Sequence[CropRecord], *, max_tracklets: int = MAX_TRACKLETS, max_crops: int = CROPS_EACH, seed: int
) -> list[int]:
    """Indices of crops enough to calibrate on: of each tracklet a few, evenly in time, of the tracklets some.

    Tracklets are dropped in stretches of time, so that those in view together stay together.
    """
    tracklets = group_by_tracklet(records)
    tracklets.sort(key=lambda indices: records[indices[0]].captured_at)
    if len(tracklets) > max_tracklets:
        start = int(np.random.default_rng(seed).integers(len(tracklets) - max_tracklets + 1))
        tracklets = tracklets[start : start + max_tracklets]
    spread = (np.linspace(0, len(indices) - 1, min(len(indices), max_crops)).round() for indices in tracklets)
    return [indices[int(at)] for indices, places in zip(tracklets, spread, strict=True) for at in places]


def unit_mean(embeddings_ND: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean of unit vectors, brought to unit length again."""
    mean_D = embeddings_ND.mean(axis=0, dtype=np.float64)
    unit_D: NDArray[np.float64] = mean_D / max(float(np.linalg.norm(mean_D)), 1e-12)
    return unit_D


def seen_at_once(tracklets: Sequence[Sequence[CropRecord]], separate_views: bool) -> NDArray[np.bool_]:
    """`(T, T)` whether two tracklets, each in order of time, are in view together and not one person detected twice."""
    starts_T = np.array([tracklet[0].captured_at for tracklet in tracklets])
    ends_T = np.array([tracklet[-1].captured_at for tracklet in tracklets])
    camids_T = np.array([tracklet[0].camid for tracklet in tracklets])
    at_once_TT = (starts_T[:, None] <= ends_T) & (starts_T <= ends_T[:, None])
    if starts_T.min() == ends_T.max():
        at_once_TT[:] = False  # one instant for everything is no clock
    same_camera_TT = camids_T[:, None] == camids_T
    if not separate_views:
        at_once_TT &= same_camera_TT
    for first, second in zip(*np.nonzero(np.triu(at_once_TT & same_camera_TT, k=1)), strict=True):
        if are_twins(tracklets[first], tracklets[second]):
            at_once_TT[first, second] = at_once_TT[second, first] = False
    return at_once_TT


def are_twins(first: Sequence[CropRecord], second: Sequence[CropRecord]) -> bool:
    """Whether two tracklets of one camera ever cover much of the same place at the same time.

    Such a pair may be one person, e.g. the whole and the legs, or two of whom one hides the other; neither teaches
    what different people look like.
    """
    return bool(max(largest_overlap(first, second), largest_overlap(second, first)) > TWIN_OVERLAP)


def largest_overlap(crops: Sequence[CropRecord], track: Sequence[CropRecord]) -> float:
    """Largest share of the smaller box that any of the crops has in common with a track, at the crop's own time.

    Between its own crops, the track's box is taken to move steadily.
    """
    start, end = track[0].captured_at, track[-1].captured_at
    boxes_N4 = np.array([box_of(crop) for crop in crops if start <= crop.captured_at <= end])
    if not len(boxes_N4):
        return 0.0
    times_N = [crop.captured_at for crop in crops if start <= crop.captured_at <= end]
    track_times = [crop.captured_at for crop in track]
    sides = zip(*(box_of(crop) for crop in track), strict=True)
    other_N4 = np.stack([np.interp(times_N, track_times, side) for side in sides], axis=1)
    shared_N2 = np.minimum(boxes_N4[:, 2:], other_N4[:, 2:]) - np.maximum(boxes_N4[:, :2], other_N4[:, :2])
    shared_N = shared_N2.clip(min=0).prod(axis=1)
    smaller_N = np.minimum(*((boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (boxes_N4, other_N4)))
    return float((shared_N / np.maximum(smaller_N, 1e-9)).max())


def box_of(crop: CropRecord) -> tuple[float, float, float, float]:
    """Corners of the crop in its source frame."""
    return crop.x1, crop.y1, crop.x2, crop.y2
