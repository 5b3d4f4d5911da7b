"""What the plots of a report say in words."""

from __future__ import annotations

import numpy as np

from reidge.export.parity import Gate
from reidge.export.plots import plot_cosines, plot_costs


def test_each_block_shows_what_became_of_it() -> None:
    costs = {"conv4": 0.03, "conv3": 0.02, "conv2": 0.01}
    every = plot_costs(costs, ("conv4",), ("conv3",), passed=True)
    for label in ("left in float", "in INT8: would burst --max-float-share", "in INT8: not needed in float"):
        assert label in every
    forced = plot_costs(costs, ("conv4",), (), passed=False)
    assert "would burst" not in forced
    assert "not needed" not in forced


def test_the_words_at_a_strict_gate_stay_inside_the_plot() -> None:
    cosines_N = np.linspace(0.9, 1, 20)
    strict = plot_cosines(cosines_N, Gate(min_cosine_mean=0.9999, min_cosine_p1=0.91))
    lines = {
        name: line for name in ("mean", "1st percentile") for line in strict.splitlines() if f"gate: {name}" in line
    }
    assert "text-anchor: end" in lines["mean"]
    assert "text-anchor: end" not in lines["1st percentile"]
