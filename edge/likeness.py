"""What a similarity of two pictures says about whether they show one person: odds, learnt while tracking.

Every encoder has its own idea of near and far. A tracker sees both kinds of pairs for free: a track and its next
detection are one person, a track and the other detections of the frame are others.
"""

# T = tracks, N = detections

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MEMORY = 500
"""Pairs of each kind that are remembered, about."""
MIN_VARIANCE = 1e-3
MAX_ODDS = 6.0
"""Natural logarithm: one bad picture must not decide alone."""


@dataclass(slots=True)
class _Spread:
    """Running mean and variance of a kind of similarity."""

    mean: float
    variance: float = 0.15**2
    pairs: float = 20.0
    """What is believed before anything was seen counts as so many."""

    def add(self, values: NDArray[np.float32]) -> None:
        """Take in a few at once."""
        for value in values.tolist():
            self.pairs = min(self.pairs + 1, MEMORY)
            error = value - self.mean
            self.mean += error / self.pairs
            self.variance += (error * (value - self.mean) - self.variance) / self.pairs
        self.variance = max(self.variance, MIN_VARIANCE)


class Likeness:
    """Turns similarities of one camera's pictures into odds."""

    def __init__(self) -> None:
        self._same, self._different = _Spread(0.75), _Spread(0.4)

    def learn(self, same: NDArray[np.float32], different: NDArray[np.float32]) -> None:
        """Take in similarities of pictures that are known to show one person, and two."""
        self._same.add(same)
        self._different.add(different)

    def odds(self, similarity_TN: NDArray[np.float32]) -> NDArray[np.float64]:
        """Logarithm of how much likelier one person is than two, for normal distributions of one width."""
        variance = (self._same.variance + self._different.variance) / 2
        apart = max(self._same.mean - self._different.mean, 0.0)
        middle = (self._same.mean + self._different.mean) / 2
        return np.clip(apart / variance * (similarity_TN.astype(np.float64) - middle), -MAX_ODDS, MAX_ODDS)
