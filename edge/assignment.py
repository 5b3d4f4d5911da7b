"""Pairs rows and columns at the least total cost."""

# T = rows (tracks), N = columns (detections)

from __future__ import annotations

from typing import TYPE_CHECKING

import lap
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

IMPOSSIBLE = 1e5
"""A cost that is never paid."""


def assign(cost_TN: NDArray[np.float64], max_cost: float) -> list[tuple[int, int]]:
    """Pair rows and columns at the least total cost, where leaving a row and a column alone costs `max_cost`.

    Jonker and Volgenant, *A Shortest Augmenting Path Algorithm for Dense and Sparse Linear Assignment Problems*, 1987.
    Costs may be negative.
    """
    if 0 in cost_TN.shape:
        return []
    # The solver wants costs from 0 on; the same added to every cost and to the limit changes no pair.
    lift = max(-float(cost_TN.min()), 0.0)
    _, column_T, _ = lap.lapjv(np.ascontiguousarray(cost_TN + lift), extend_cost=True, cost_limit=max_cost + lift)
    return [(row, int(column)) for row, column in enumerate(column_T) if column >= 0]
