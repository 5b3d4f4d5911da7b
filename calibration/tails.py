"""The upper tail of similarities: what few pairs reach, also where there are too few pairs to count that."""

# P = pairs

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

TAIL_SHARE = 0.1
"""Of the pairs, the most similar ones."""
MIXED_TAIL = (0.1, 0.03)
"""Between the similarities that these shares of different people reach, the decay of the tail of all pairs is read."""
MIXED_ROUNDS = 30
MOST_SAME = 0.25
"""Share of all pairs that is taken to be of one person before the first round; later rounds know better."""


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
    ordered_P = np.sort(similarities_P, kind="stable")  # linear in time where they are in order already
    same_share, answer = MOST_SAME, 1.0
    for _ in range(MIXED_ROUNDS):
        start, end = (quantile_of_ordered(ordered_P, (1 - share) * (1 - same_share)) for share in MIXED_TAIL)
        answer = end + (end - start) / float(np.log(near / far)) * float(np.log(far / rate))
        same_share = share_reaching(ordered_P, answer)
    return answer


def quantile_of_ordered(ordered_P: NDArray[np.float64], level: float) -> float:
    """`np.quantile` of values in ascending order, in no time."""
    position = level * (len(ordered_P) - 1)
    below = int(position)
    above = min(below + 1, len(ordered_P) - 1)
    return float(ordered_P[below] + (position - below) * (ordered_P[above] - ordered_P[below]))


def share_reaching(ordered_P: NDArray[np.float64], least: float) -> float:
    """Share of values in ascending order that are at least `least`."""
    return 1 - float(np.searchsorted(ordered_P, least)) / len(ordered_P)
