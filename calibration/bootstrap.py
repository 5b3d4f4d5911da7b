"""How sure a figure about pairs of tracklets is: it is computed again and again on tracklets drawn anew.

Pairs share tracklets: one odd tracklet is in a hundred pairs. So tracklets are drawn with replacement, and a pair
counts as often as the product of how often its two were drawn (the pigeonhole bootstrap: Owen, Annals of Applied
Statistics 2007, which errs to the wide side). Pairs of a tracklet with itself do not exist and are left out.
"""

# P = pairs, T = tracklets, R = resamples

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from reidge.calibration.pairs import PairSimilarities

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from reidge.edge.bundle import Interval

RESAMPLES = 300
CONFIDENCE = 0.95
MIN_USABLE = 0.5
"""Share of resamples on which a figure must exist for an interval to be given."""


def resamples(pairs: PairSimilarities, *, seed: int, count: int = RESAMPLES) -> Iterator[PairSimilarities]:
    """The pairs of tracklets drawn anew, similarities in ascending order; nothing where the ends are unknown."""
    if pairs.ends is None:
        return
    ends = pairs.ends
    rng = np.random.default_rng(seed)
    kinds = []
    for similarities_P, ends_PE in (
        (pairs.different_P, ends.different_P2),
        (pairs.same_P, ends.same_P[:, None]),
        (pairs.all_P, ends.all_P2),
    ):
        order_P = np.argsort(similarities_P)
        kinds.append((similarities_P[order_P], ends_PE[order_P]))
    for _ in range(count):
        drawn_T = rng.multinomial(pairs.tracklets, np.full(pairs.tracklets, 1 / pairs.tracklets))
        different_P, same_P, all_P = (
            np.repeat(similarities_P, drawn_T[ends_PE].prod(axis=1)) for similarities_P, ends_PE in kinds
        )
        yield PairSimilarities(tracklets=pairs.tracklets, different_P=different_P, same_P=same_P, all_P=all_P)


def interval(found: float, again: Sequence[float | None]) -> Interval | None:
    """Ends between which a figure lies with `CONFIDENCE`, the figure itself included.

    Args:
        found: The figure.
        again: The same on each resample; None where it does not exist there.

    Returns:
        None where it exists on too few of them.
    """
    again_R = [value for value in again if value is not None]
    if not again_R or len(again_R) < MIN_USABLE * len(again):
        return None
    low, high = np.quantile(again_R, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return min(float(low), found), max(float(high), found)


def rate_interval(found: float | None, again: Sequence[float | None], *, independent: int) -> Interval | None:
    """Like `interval`, for a share of pairs.

    A share of none or all is the same on every resample, which proves nothing: then the end away from it is the share
    that `independent` pairs would still miss with a chance of 1 - `CONFIDENCE` (the "rule of three").

    Args:
        found: The share; None where there are no pairs.
        again: The same on each resample; None where there are no pairs.
        independent: Pairs that have no tracklet in common.
    """
    ends = None if found is None else interval(found, again)
    if ends is None:
        return None
    missed = 1 - (1 - CONFIDENCE) ** (1 / max(independent, 1))
    low, high = ends
    return min(low, 1 - missed) if found == 1 else low, max(high, missed) if found == 0 else high
