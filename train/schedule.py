"""How eps changes from epoch to epoch: loose clusters while embeddings are poor, strict ones later."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, Field


class ScheduleConfig(BaseModel, frozen=True, extra="forbid"):
    """The course of eps over the epochs that cluster."""

    kind: Literal["fixed", "exponential", "step", "linear", "log"] = "fixed"
    """`fixed`: the same eps always. `exponential`: eps is multiplied by `factor` before every epoch's clustering,
    the first included, until it is at most `floor` (DCPS; He et al., ICASSP 2024). The others go from eps in the
    first epoch to `floor` in the last: `step` by stairs of equal height and length, `linear` evenly, `log` fast at
    first and ever slower."""
    factor: float = Field(0.99, gt=0, lt=1)
    """What `exponential` multiplies eps with."""
    floor: float = Field(0.399, gt=0, lt=1)
    """Where eps stops; an eps that is not above it stays as it is."""
    steps: int = Field(4, ge=2)
    """Stairs of `step`, the first at eps and the last at `floor` included."""

    def eps_at(self, eps: float, epoch: int, epochs: int) -> float:
        """Say which eps to cluster with.

        Args:
            eps: Of the recipe: where the schedule begins.
            epoch: Counted from 0 after the warm-up.
            epochs: How many there are; `exponential` does not depend on it.

        Returns:
            An eps between `eps` and `floor`; `exponential` may end below it by less than one factor.
        """
        if self.kind == "exponential":
            for _ in range(epoch + 1):
                eps = eps * self.factor if eps > self.floor else eps
            return eps
        if self.kind == "fixed" or eps <= self.floor or epochs <= 1:
            return eps
        return eps - (eps - self.floor) * self._progress(min(epoch, epochs - 1), epochs)

    def _progress(self, epoch: int, epochs: int) -> float:
        """Share of the way from eps to the floor: 0 in the first epoch, 1 in the last."""
        if self.kind == "step":
            return (epoch * self.steps // epochs) / (self.steps - 1)
        if self.kind == "linear":
            return epoch / (epochs - 1)
        return math.log(1 + epoch) / math.log(epochs)
