"""The match threshold without labels, from pairs of tracklets whose identity footage gives away for free.

Two tracklets that are in view of one camera at the same time are different people; the two halves of one tracklet are
the same person. The edge matches tracks by their mean embedding, so that is what is compared here.

Same-person pairs from one camera are easier than those across cameras, so they only show what to expect; the threshold
itself is taken from different people, for a wanted false-match rate.
"""

# N = crops, D = embedding, T = tracklets, P = pairs

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reidge.edge.bundle import ThresholdReport

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from reidge.edge.crops import CropRecord

MIN_DIFFERENT_PAIRS = 50
"""Fewer known different pairs say too little about their most similar hundredth."""
ENOUGH_FALSE_MATCHES = 10
"""Known different pairs that may pass, from which on their share is counted rather than estimated."""
TAIL_SHARE = 0.1
"""Of the pairs, the most similar ones."""
MIN_TRACKLETS = 10
"""Fewer tracklets say too little about strangers at large."""
MANY_TRACKLETS = 100
"""From here on the thousands of pairs of all tracklets say more than the hundreds of known ones."""
MIXED_TAIL = (0.1, 0.03)
"""Between the similarities that these shares of different people reach, the decay of the tail of all pairs is read."""
MIXED_ROUNDS = 30
MOST_SAME = 0.25
"""Share of all pairs that is taken to be of one person before the first round; later rounds know better."""
MIN_SAME_PAIRS = 3
MIN_SAME_SHARE = 0.75
"""Of the same-person pairs that an estimated threshold must let pass."""
TWIN_OVERLAP = 0.5
"""Share of the smaller box that two tracklets cover together above which they may be one person detected twice."""
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


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


def calibrate_threshold(
    embeddings_ND: NDArray[np.float32],
    records: Sequence[CropRecord],
    *,
    false_match_rate: float = 0.01,
    separate_views: bool = False,
) -> ThresholdReport:
    """Find the least similarity at which two tracks shall be taken for one person.

    Args:
        embeddings_ND: Unit embeddings of crops, by the very graph that will run.
        records: Where each crop comes from, in the same order.
        false_match_rate: Share of pairs of different people allowed to match.
        separate_views: Cameras never see the same spot, so that people seen at once in two cameras are different too.

    Returns:
        The threshold, what it was taken from, and what became of the known pairs.
    """
    pairs = collect_pairs(embeddings_ND, records, separate_views=separate_views)
    return choose_threshold(pairs, false_match_rate=false_match_rate)


def choose_threshold(pairs: PairSimilarities, *, false_match_rate: float) -> ThresholdReport:
    """Choose from similarities that were collected; see `calibrate_threshold`.

    With enough known pairs of different people, exactly the wanted share of them passes. With fewer, but with
    `MANY_TRACKLETS`, the share is read off the tail of all pairs, those of one person taken out: two lookalikes who
    were often in view together decide a few hundred known pairs, not twenty thousand. With fewer tracklets, it is the
    exponential tail of the known pairs, which a tracker's occasional mistake hardly moves. With fewer than
    `MIN_DIFFERENT_PAIRS`, the tail of all pairs of tracklets stands in, most of which are of different people; the
    rest make it too high, never too low, so it is held at what `MIN_SAME_SHARE` of the same-person pairs reach. With
    too few tracklets, the least similar same-person pair is taken. With none, nothing.
    """
    known = len(pairs.different_P)
    min_similarity: float | None
    if known * false_match_rate >= ENOUGH_FALSE_MATCHES:
        min_similarity = least_above(pairs.different_P, false_match_rate)
        method = f"{known} pairs of tracklets in view at the same time"
    elif known >= MIN_DIFFERENT_PAIRS and pairs.tracklets >= MANY_TRACKLETS:
        min_similarity = mixed_tail_quantile(pairs.all_P, false_match_rate)
        method = f"tail of all {len(pairs.all_P)} pairs of tracklets without those of one person"
    elif known >= MIN_DIFFERENT_PAIRS:
        min_similarity = tail_quantile(pairs.different_P, false_match_rate)
        method = f"tail of {known} pairs of tracklets in view at the same time"
    elif pairs.tracklets >= MIN_TRACKLETS:
        min_similarity = tail_quantile(pairs.all_P, false_match_rate)
        if len(pairs.same_P) >= MIN_SAME_PAIRS:
            highest = float(np.quantile(pairs.same_P, 1 - MIN_SAME_SHARE, method="lower"))
            min_similarity = min(min_similarity, highest)
        method = (
            f"estimate from the tail of all {len(pairs.all_P)} pairs of tracklets, "
            f"as only {known} pairs were in view at the same time"
        )
    elif len(pairs.same_P) >= MIN_SAME_PAIRS:
        min_similarity = float(pairs.same_P.min())
        method = f"least similar halves of one tracklet, as there are only {pairs.tracklets} tracklets"
    else:
        min_similarity, method = None, f"not calibrated: only {pairs.tracklets} tracklets"
    if min_similarity is not None:
        min_similarity = min(max(min_similarity, 0.0), 1.0)
    return ThresholdReport(
        min_similarity=min_similarity,
        false_match_rate=false_match_rate,
        method=method,
        tracklets=pairs.tracklets,
        different_pairs=len(pairs.different_P),
        same_pairs=len(pairs.same_P),
        different_quantiles=quantiles(pairs.different_P),
        same_quantiles=quantiles(pairs.same_P),
        all_quantiles=quantiles(pairs.all_P),
        same_match_rate=match_rate(pairs.same_P, min_similarity),
    )


def collect_pairs(
    embeddings_ND: NDArray[np.float32], records: Sequence[CropRecord], *, separate_views: bool = False
) -> PairSimilarities:
    """Compare tracklets by mean embedding; see `calibrate_threshold`."""
    tracklets = group_by_tracklet(records)
    means_TD = np.stack([unit_mean(embeddings_ND[indices]) for indices in tracklets])
    different_TT = seen_at_once([[records[index] for index in indices] for indices in tracklets], separate_views)
    similarities_TT = means_TD @ means_TD.T
    first, second = np.triu_indices(len(tracklets), k=1)
    all_P = similarities_TT[first, second]
    halves = [(indices[: len(indices) // 2], indices[len(indices) // 2 :]) for indices in tracklets if len(indices) > 1]
    same = [unit_mean(embeddings_ND[early]) @ unit_mean(embeddings_ND[late]) for early, late in halves]
    return PairSimilarities(
        tracklets=len(tracklets),
        different_P=all_P[different_TT[first, second]],
        same_P=np.array(same, dtype=np.float64),
        all_P=all_P,
    )


def group_by_tracklet(records: Sequence[CropRecord]) -> list[list[int]]:
    """Indices of each tracklet's crops in order of time."""
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for index, record in enumerate(records):
        groups[record.tracklet].append(index)
    return [sorted(indices, key=lambda index: records[index].captured_at) for indices in groups.values()]


def sample_records(records: Sequence[CropRecord], *, max_tracklets: int, max_crops: int, seed: int) -> list[int]:
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


def least_above(similarities_P: NDArray[np.float64], rate: float) -> float:
    """Least threshold that at most `rate` of the similarities reach."""
    allowed = int(rate * len(similarities_P))
    return float(np.nextafter(np.sort(similarities_P)[::-1][allowed], np.inf))


def tail_quantile(similarities_P: NDArray[np.float64], rate: float) -> float:
    """Similarity that `rate` of different people reach, if the upper tail falls off exponentially.

    The decay is taken from the median of what exceeds the tail's start, not from the mean: pairs that are in truth one
    person lie far out, and would decide a mean, or the largest value, alone.
    """
    start = float(np.quantile(similarities_P, 1 - TAIL_SHARE))
    excess_P = similarities_P[similarities_P > start] - start
    decay = float(np.median(excess_P)) / np.log(2) if len(excess_P) else 0.0
    return start + decay * float(np.log(TAIL_SHARE / rate))


def mixed_tail_quantile(similarities_P: NDArray[np.float64], rate: float) -> float:
    """Similarity that `rate` of different people reach, read off pairs of which some are of one person.

    The pairs of one person are taken to be those that reach the answer, so both are found together, in a few rounds.
    """
    near, far = MIXED_TAIL
    same_share, answer = MOST_SAME, 1.0
    for _ in range(MIXED_ROUNDS):
        levels = [(1 - share) * (1 - same_share) for share in MIXED_TAIL]
        start, end = np.quantile(similarities_P, levels)
        answer = float(end + (end - start) / np.log(near / far) * np.log(far / rate))
        same_share = float(np.mean(similarities_P >= answer))
    return answer


def quantiles(similarities_P: NDArray[np.float64]) -> dict[str, float]:
    """Quantiles by name; none of nothing."""
    if not len(similarities_P):
        return {}
    values = np.quantile(similarities_P, QUANTILES)
    return {str(share): round(float(value), 6) for share, value in zip(QUANTILES, values, strict=True)}


def match_rate(similarities_P: NDArray[np.float64], min_similarity: float | None) -> float | None:
    """Share of similarities that reach the threshold; None of nothing."""
    if min_similarity is None or not len(similarities_P):
        return None
    return float(np.mean(similarities_P >= min_similarity))
