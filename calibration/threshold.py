"""The match threshold without labels, from pairs of tracklets whose identity footage gives away for free.

Same-person pairs from one camera are easier than those across cameras, so they only show what to expect; the threshold
itself is taken from different people, for a wanted false-match rate.
"""

# N = crops, D = embedding, P = pairs, R = resamples, C = points of a curve

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np

from reidge.calibration.bootstrap import CONFIDENCE, interval, rate_interval, resamples
from reidge.calibration.pairs import PairSimilarities, collect_pairs
from reidge.calibration.tails import Tail, certain_tail, counted_tail, exponential_tail, mixed_tail
from reidge.edge.bundle import ThresholdReport

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from reidge.edge.bundle import Interval
    from reidge.edge.crops import CropRecord

    Estimate = Callable[[PairSimilarities], Tail | None]
    Kind = Literal["different_P", "same_P", "all_P"]

MIN_DIFFERENT_PAIRS = 50
"""Fewer known different pairs say too little about their most similar hundredth."""
ENOUGH_FALSE_MATCHES = 10
"""Known different pairs that may pass, from which on their share is counted rather than estimated."""
MIN_TRACKLETS = 10
"""Fewer tracklets say too little about strangers at large."""
MANY_TRACKLETS = 100
"""From here on the thousands of pairs of all tracklets say more than the hundreds of known ones."""
MIN_SAME_PAIRS = 3
MIN_SAME_SHARE = 0.75
"""Of the same-person pairs that an estimated threshold must let pass."""
FALSE_MATCH_RATE = 0.003
"""Share of pairs of different people that are allowed to match, unless told otherwise: a sighting that is compared with
fifty people is taken for a wrong one of them about once in seven times."""
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
CURVE_POINTS = 101


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What a threshold lets pass, with the ends between which that lies with `CONFIDENCE`; None of no pairs."""

    different: float | None
    """Share of the known different pairs."""
    different_interval: Interval | None
    same: float | None
    """Share of the same-person pairs."""
    same_interval: Interval | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """A rate at each similarity of a curve, and the ends between which it lies with `CONFIDENCE`."""

    rate_C: NDArray[np.float64]
    low_C: NDArray[np.float64]
    high_C: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class RateCurve:
    """What every choice of `min_similarity` would let pass."""

    similarity_C: NDArray[np.float64]
    different: Band | None
    """Share of the known different pairs; None where none are known."""
    same: Band | None
    """Share of the same-person pairs."""


def calibrate_threshold(
    embeddings_ND: NDArray[np.float32],
    records: Sequence[CropRecord],
    *,
    false_match_rate: float = FALSE_MATCH_RATE,
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


def choose_threshold(pairs: PairSimilarities, *, false_match_rate: float, seed: int = 0) -> ThresholdReport:
    """Choose from similarities that were collected; see `calibrate_threshold`.

    Args:
        pairs: What `collect_pairs` found.
        false_match_rate: Share of pairs of different people allowed to match.
        seed: Of the resamples that the intervals are taken from.
    """
    estimate, method = choose_rule(pairs, false_match_rate)
    tail = None if estimate is None else estimate(pairs)
    report = ThresholdReport(
        min_similarity=least_of(tail, false_match_rate),
        false_match_rate=false_match_rate,
        tail_decay=None if tail is None else tail.slope(false_match_rate),
        method=method,
        tracklets=pairs.tracklets,
        different_pairs=len(pairs.different_P),
        same_pairs=len(pairs.same_P),
        different_quantiles=quantiles(pairs.different_P),
        same_quantiles=quantiles(pairs.same_P),
        all_quantiles=quantiles(pairs.all_P),
    )
    if estimate is None or report.min_similarity is None:
        return report
    return with_intervals(report, pairs, estimate, seed=seed)


def choose_rule(pairs: PairSimilarities, rate: float) -> tuple[Estimate | None, str]:
    """How the tail of different people is to be taken from such pairs, and that in words.

    With enough known pairs of different people, exactly the wanted share of them passes. With fewer, but certain ones,
    it is read off their tail. With others, but with `MANY_TRACKLETS`, the share is read off the tail of all pairs,
    those of one person taken out: two lookalikes who were often in view together decide a few hundred known pairs, not
    twenty thousand. With fewer tracklets, it is the exponential tail of the known pairs, which a tracker's occasional
    mistake hardly moves. With fewer than `MIN_DIFFERENT_PAIRS`, the tail of all pairs of tracklets stands in, most of
    which are of different people; the rest make it too high, never too low, so it is held at what `MIN_SAME_SHARE` of
    the same-person pairs reach. With too few tracklets, the least similar same-person pair is taken. With none, none.
    """
    known, every = len(pairs.different_P), len(pairs.all_P)
    if known * rate >= ENOUGH_FALSE_MATCHES:
        method = f"{known} pairs of tracklets in view at the same time"
        return read_off("different_P", partial(counted_tail, rate=rate)), method
    if pairs.certain:
        method = f"tail of {known} pairs of tracklets in two cameras at the same time"
        return read_off("different_P", certain_tail), method
    if known >= MIN_DIFFERENT_PAIRS and pairs.tracklets >= MANY_TRACKLETS:
        method = f"tail of all {every} pairs of tracklets without those of one person"
        return read_off("all_P", partial(mixed_tail, rate=rate)), method
    if known >= MIN_DIFFERENT_PAIRS:
        method = f"tail of {known} pairs of tracklets in view at the same time"
        return read_off("different_P", exponential_tail), method
    if pairs.tracklets >= MIN_TRACKLETS:
        method = (
            f"estimate from the tail of all {every} pairs of tracklets, "
            f"as too few were in view at the same time ({known})"
        )
        return partial(held_tail, rate=rate), method
    if len(pairs.same_P) >= MIN_SAME_PAIRS:
        method = f"least similar halves of one tracklet, as there are too few tracklets ({pairs.tracklets})"
        return read_off("same_P", partial(least_of_same, rate=rate)), method
    return None, f"not calibrated: too few tracklets ({pairs.tracklets})"


def read_off(kind: Kind, tail: Callable[[NDArray[np.float64]], Tail]) -> Estimate:
    """A tail taken from one kind of pair; None where there are none."""

    def estimate(pairs: PairSimilarities) -> Tail | None:
        similarities_P: NDArray[np.float64] = getattr(pairs, kind)
        return tail(similarities_P) if len(similarities_P) else None

    return estimate


def least_of(tail: Tail | None, rate: float) -> float | None:
    """The threshold that a tail gives, as a similarity of the same person can be."""
    return None if tail is None else min(max(tail.similarity(rate), 0.0), 1.0)


def least_of_same(same_P: NDArray[np.float64], *, rate: float) -> Tail:
    """The least similar same-person pair, which says nothing about what lies beyond."""
    return Tail(start=float(same_P.min()), share=rate, decay=None)


def held_tail(pairs: PairSimilarities, *, rate: float) -> Tail | None:
    """The tail of all pairs, but no more than `MIN_SAME_SHARE` of the same-person pairs reach."""
    tail = read_off("all_P", exponential_tail)(pairs)
    if tail is None or len(pairs.same_P) < MIN_SAME_PAIRS:
        return tail
    most = max(float(np.quantile(pairs.same_P, 1 - MIN_SAME_SHARE, method="lower")), 0.0)
    return Tail(start=min(tail.similarity(rate), most), share=rate, decay=tail.decay)


def with_intervals(
    report: ThresholdReport, pairs: PairSimilarities, estimate: Estimate, *, seed: int
) -> ThresholdReport:
    """Add both rates at the threshold, and how sure they and the threshold are."""
    least = report.min_similarity
    rate = report.false_match_rate
    assert least is not None
    assert rate is not None
    rates = judge_rates(pairs, least, seed=seed)
    figures = {
        "confidence": CONFIDENCE,
        "min_similarity_interval": interval(
            least, [least_of(estimate(again), rate) for again in resamples(pairs, seed=seed)]
        ),
        "found_false_match_rate": rates.different,
        "found_false_match_interval": rates.different_interval,
        "same_match_rate": rates.same,
        "same_match_interval": rates.same_interval,
    }
    return report.model_copy(update=figures)


def judge_rates(pairs: PairSimilarities, min_similarity: float, *, seed: int = 0) -> Rates:
    """Say what a threshold lets pass, and how sure that is."""
    again = [
        (match_rate(other.different_P, min_similarity), match_rate(other.same_P, min_similarity))
        for other in resamples(pairs.without_unknown(), seed=seed)
    ]
    different, same = match_rate(pairs.different_P, min_similarity), match_rate(pairs.same_P, min_similarity)
    independent = tracklets_in(pairs) // 2
    return Rates(
        different=different,
        different_interval=rate_interval(different, [rate for rate, _ in again], independent=independent),
        same=same,
        same_interval=rate_interval(same, [rate for _, rate in again], independent=len(pairs.same_P)),
    )


def tracklets_in(pairs: PairSimilarities) -> int:
    """Tracklets that are in a known different pair; 0 where that is not known."""
    return 0 if pairs.ends is None else len(np.unique(pairs.ends.different_P2))


def rate_curve(pairs: PairSimilarities, *, seed: int = 0) -> RateCurve:
    """Both rates at every similarity, with how sure they are, for a plot."""
    lowest = min((float(values.min()) for values in (pairs.different_P, pairs.same_P) if len(values)), default=0.0)
    similarity_C = np.linspace(lowest, 1, CURVE_POINTS)
    again = [
        (shares_reaching(other.different_P, similarity_C), shares_reaching(other.same_P, similarity_C))
        for other in resamples(pairs.without_unknown(), seed=seed)
    ]
    return RateCurve(
        similarity_C=similarity_C,
        different=band(shares_reaching(pairs.different_P, similarity_C), [different for different, _ in again]),
        same=band(shares_reaching(pairs.same_P, similarity_C), [same for _, same in again]),
    )


def band(rate_C: NDArray[np.float64] | None, again: Sequence[NDArray[np.float64] | None]) -> Band | None:
    """A curve and where its resamples lie; the curve alone where there are none."""
    if rate_C is None:
        return None
    curves_RC = np.array([rate_C, *(curve_C for curve_C in again if curve_C is not None)])
    low_C, high_C = np.quantile(curves_RC, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    return Band(rate_C=rate_C, low_C=np.minimum(low_C, rate_C), high_C=np.maximum(high_C, rate_C))


def shares_reaching(
    similarities_P: NDArray[np.float64], similarity_C: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """Share of the pairs that reach each similarity; None of no pairs."""
    if not len(similarities_P):
        return None
    below_C = np.searchsorted(np.sort(similarities_P, kind="stable"), similarity_C)
    shares_C: NDArray[np.float64] = 1 - below_C / len(similarities_P)
    return shares_C


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
