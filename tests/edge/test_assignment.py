from __future__ import annotations

import numpy as np

from reidge.edge.assignment import IMPOSSIBLE, assign


def test_assignment_is_the_cheapest_in_total_and_leaves_the_costly_apart() -> None:
    # Greedy would take 0.1 first and be left with 0.9.
    assert assign(np.array([[0.1, 0.2], [0.2, 0.9]]), 1.0) == [(0, 1), (1, 0)]
    assert assign(np.array([[0.3], [5.0]]), 1.0) == [(0, 0)]
    assert assign(np.empty((0, 3)), 1.0) == []


def test_costs_below_zero_are_as_good_as_any() -> None:
    cost_TN = np.array([[0.1, 0.2], [0.2, 0.9]])
    assert assign(cost_TN - 5, -4.0) == assign(cost_TN, 1.0)
    assert assign(np.array([[-3.0, -1.0], [IMPOSSIBLE, -2.5]]), 1.0) == [(0, 0), (1, 1)]


def test_what_is_impossible_stays_apart() -> None:
    assert assign(np.array([[IMPOSSIBLE, 0.5], [IMPOSSIBLE, IMPOSSIBLE]]), 1.0) == [(0, 1)]
