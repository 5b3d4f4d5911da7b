"""The upper tail of similarities: what few pairs reach, also where there are too few pairs to count that."""

# P = pairs

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

TAIL_SHARE = 0.1
"""Of the pairs, the most similar ones."""
CERTAIN_POWER = 1.5
COUNTED_PAIRS = 10
"""Of certain pairs, the most similar ones, as few as can be counted."""
MIXED_TAIL = (0.1, 0.03)
"""Between the similarities that these shares of different people reach, the decay of the tail of all pairs is read."""
MIXED_ROUNDS = 30
COUNTED_TAIL = 3.0
"""Where the wanted share is counted, the decay beyond it is read from this many times as many pairs."""
MOST_SAME = 0.25
"""Share of all pairs that is taken to be of one person before the first round; later rounds know better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """An upper tail in which a power of the similarity falls off exponentially, as Weibull's does."""

    start: float
    """Similarity that `share` of the pairs reach; not negative where `power` is not 1."""
    share: float
    decay: float | None
    """By how much larger powers of similarities 1/e as many pairs reach; None where it is not known."""
    power: float = 1.0

    def similarity(self, rate: float) -> float:
        """Similarity that `rate` of the pairs reach."""
        if self.decay is None:
            return self.start
        raised = self.start**self.power + self.decay * float(np.log(self.share / rate))
        return raised if self.power == 1 else float(max(raised, 0.0) ** (1 / self.power))

    def slope(self, rate: float) -> float | None:
        """By how much more similar pairs are 1/e as many, about the similarity that `rate` of them reach."""
        if self.decay is None or self.power == 1:
            return self.decay
        return self.decay / (self.power * float(max(self.similarity(rate), 1e-3) ** (self.power - 1)))


def least_above(similarities_P: NDArray[np.float64], rate: float) -> float:
    """Least threshold that at most `rate` of the similarities reach."""
    allowed = int(rate * len(similarities_P))
    return float(np.nextafter(np.sort(similarities_P)[::-1][allowed], np.inf))


def counted_tail(similarities_P: NDArray[np.float64], rate: float) -> Tail:
    """The tail from where `rate` of the similarities are counted; its decay is that of the pairs about there."""
    near = exponential_tail(similarities_P, min(COUNTED_TAIL * rate, TAIL_SHARE))
    return Tail(start=least_above(similarities_P, rate), share=rate, decay=near.decay)


def exponential_tail(similarities_P: NDArray[np.float64], share: float = TAIL_SHARE) -> Tail:
    """The tail of different people, from the similarity that `share` of them reach.

    The decay is taken from the median of what exceeds the tail's start, not from the mean: pairs that are in truth one
    person lie far out, and would decide a mean, or the largest value, alone.
    """
    start = float(np.quantile(similarities_P, 1 - share))
    excess_P = similarities_P[similarities_P > start] - start
    return Tail(start=start, share=share, decay=float(np.median(excess_P)) / float(np.log(2)) if len(excess_P) else 0.0)


def certain_tail(similarities_P: NDArray[np.float64]) -> Tail:
    """The tail of pairs of which it is certain that none is of one person, from the `COUNTED_PAIRS` most similar on.

    Its decay is that from the similarity that `TAIL_SHARE` reaches to there. Similarities of people who have nothing in
    common fall off nearly as a Gaussian, those of lookalikes prolong that: of the powers between the two kinds of tail,
    `CERTAIN_POWER` came nearest on simulated sites (docs/identity.md). The few most similar pairs are left out, as a
    single pair of lookalikes who are often in view together may be all of them.
    """
    powers_P = np.maximum(similarities_P, 0.0) ** CERTAIN_POWER
    share = min(COUNTED_PAIRS / len(powers_P), TAIL_SHARE / 2)
    near, far = np.quantile(powers_P, [1 - TAIL_SHARE, 1 - share]).tolist()
    decay = (far - near) / float(np.log(TAIL_SHARE / share))
    return Tail(start=far ** (1 / CERTAIN_POWER), share=share, decay=decay, power=CERTAIN_POWER)


def mixed_tail(similarities_P: NDArray[np.float64], rate: float) -> Tail:
    """The tail of different people, read off pairs of which some are of one person.

    The pairs of one person are taken to be those that reach what `rate` of different people do, so both are found
    together, in a few rounds.
    """
    near, far = MIXED_TAIL
    ordered_P = np.sort(similarities_P, kind="stable")  # linear in time where they are in order already
    same_share, tail = MOST_SAME, Tail(start=1.0, share=far, decay=0.0)
    for _ in range(MIXED_ROUNDS):
        start, end = (quantile_of_ordered(ordered_P, (1 - share) * (1 - same_share)) for share in MIXED_TAIL)
        tail = Tail(start=end, share=far, decay=(end - start) / float(np.log(near / far)))
        same_share = share_reaching(ordered_P, tail.similarity(rate))
    return tail


def quantile_of_ordered(ordered_P: NDArray[np.float64], level: float) -> float:
    """`np.quantile` of values in ascending order, in no time."""
    position = level * (len(ordered_P) - 1)
    below = int(position)
    above = min(below + 1, len(ordered_P) - 1)
    return float(ordered_P[below] + (position - below) * (ordered_P[above] - ordered_P[below]))


def share_reaching(ordered_P: NDArray[np.float64], least: float) -> float:
    """Share of values in ascending order that are at least `least`."""
    return 1 - float(np.searchsorted(ordered_P, least)) / len(ordered_P)
