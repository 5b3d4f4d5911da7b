"""How alike two sightings must be: the calibrated similarity, raised with the number of people they could be of.

A threshold is calibrated for a rate of false matches per comparison. A larger gallery makes more comparisons for every
sighting, so a stranger would be taken for somebody ever more often. The upper tail of the similarities of different
people falls off exponentially, so each e-fold more comparisons ask for one decay of that tail more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reidge.edge.bundle import ThresholdReport

USUAL_DECAY = 0.07
"""Of the tail, where a bundle does not say it; in similarity."""
LEAST_DECAY, MOST_DECAY = 0.02, 0.15
"""A tail of few pairs may look steeper or flatter than any is."""
MOST = 0.97
"""However many people are known, one is still recognised from here on, ..."""
SAME_REACHING = "0.05"
"""... and from where all but this share of the halves of a track reach: a bar that turns away people who were just seen
tells nobody apart any more. Times and the mean over many pairs have to do the rest. It is never below the calibrated
one, for tracks that mix two people make halves look more different than people are."""
ENROLLED_ODDS = 2.0
"""How much rather people the user has enrolled may be recognised than those the site found itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bars:
    """Least similarities."""

    min_similarity: float
    """For one comparison."""
    decay: float = USUAL_DECAY
    """Similarity by which the tail of different people falls to one e-th."""
    false_match_rate: float | None = None
    """Of comparisons of different people, at `min_similarity`; None: the bar is the same for every gallery."""
    stranger_rate: float = 0.02
    """Share of strangers that may be taken for somebody, whoever it is."""
    most: float = MOST
    """The bar is never higher, unless `min_similarity` is."""

    def at(self, people: int) -> float:
        """The bar where there are so many people it could be."""
        if self.false_match_rate is None:
            return self.min_similarity
        wanted = min(self.stranger_rate / max(people, 1), self.false_match_rate)
        raised = self.min_similarity + self.decay * math.log(self.false_match_rate / wanted)
        return max(min(raised, self.most), self.min_similarity)

    @property
    def enrolled_lead(self) -> float:
        """How much lower the bar is for people the user has enrolled."""
        return self.decay * math.log(ENROLLED_ODDS)


def bars_of(report: ThresholdReport | None, *, min_similarity: float, fixed: bool, stranger_rate: float) -> Bars:
    """Take the bars from what a bundle says of different people.

    Args:
        report: Of the bundle; None where it was not calibrated.
        min_similarity: For one comparison.
        fixed: Whether the user set it, so that it holds whatever the size of the gallery.
        stranger_rate: Share of strangers that may be taken for somebody.
    """
    if report is None:
        return Bars(min_similarity=min_similarity)
    return Bars(
        min_similarity=min_similarity,
        decay=tail_decay(report),
        false_match_rate=None if fixed else report.false_match_rate,
        stranger_rate=stranger_rate,
        most=max(min(report.same_quantiles.get(SAME_REACHING, MOST), MOST), min_similarity),
    )


def tail_decay(report: ThresholdReport) -> float:
    """How fast ever fewer different people reach a similarity.

    Bundles that do not say it have the similarities that the most similar twentieth and hundredth of them reach.
    """
    quantiles = report.different_quantiles
    if report.tail_decay is not None:
        return min(max(report.tail_decay, LEAST_DECAY), MOST_DECAY)
    if "0.95" not in quantiles or "0.99" not in quantiles:
        return USUAL_DECAY
    decay = (quantiles["0.99"] - quantiles["0.95"]) / math.log(5)
    return min(max(decay, LEAST_DECAY), MOST_DECAY)
