"""The plots of an export's report, as inline SVG: the same bytes for the same figures."""

# N = crops, H, W = input height and width, P = pairs, C = points of a curve

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import cv2
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from reidge.calibration.pairs import PairSimilarities
    from reidge.calibration.threshold import Band, RateCurve
    from reidge.edge.bundle import ThresholdReport
    from reidge.export.parity import Gate

WIDTH = 6.4
"""Inches, of every plot."""
COSTS_SHOWN = 20
COLOURS = {"different": "#b3382c", "same": "#1f7a5a", "all": "#9aa3ad", "none": "#d98a00", "line": "#20262d"}
MIN_RATE = 1e-3
"""Lower end of the axis of rates."""


def plot_cosines(cosines_N: NDArray[np.float64], gate: Gate) -> str:
    """Histogram of INT8 cosines with the gate's lines, as inline SVG."""
    figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
    axes = figure.subplots()
    low = min(float(cosines_N.min()), gate.min_cosine_p1) - 0.002
    axes.hist(cosines_N, bins=np.linspace(low, 1, 60).tolist(), color=COLOURS["same"])
    for value, name, height in ((gate.min_cosine_mean, "mean", 0.98), (gate.min_cosine_p1, "1st percentile", 0.86)):
        axes.axvline(value, color=COLOURS["line"], linestyle="--", linewidth=1)
        side = "right" if value > (low + 1) / 2 else "left"  # towards the middle, where there is room
        axes.annotate(
            f"gate: {name}",
            (value, height),
            xycoords=axes.get_xaxis_transform(),
            xytext=(-4 if side == "right" else 4, 0),
            textcoords="offset points",
            fontsize=8,
            va="top",
            ha=side,
        )
    axes.set(xlabel="cosine of INT8 and trained encoder", ylabel="held-out crops", xlim=(low, 1))
    return to_svg(figure)


def plot_pairs(pairs: PairSimilarities, threshold: ThresholdReport) -> str:
    """Histograms of tracklet similarities with the threshold, as inline SVG."""
    figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
    axes = figure.subplots()
    kinds = (
        ("all", "all pairs", pairs.all_P),
        ("different", "in view at once: different people", pairs.different_P),
        ("same", "halves of one tracklet: same person", pairs.same_P),
    )
    drawn = [similarities_P for _, _, similarities_P in kinds if len(similarities_P)]
    low = min((float(similarities_P.min()) for similarities_P in drawn), default=0.0)
    for colour, label, similarities_P in kinds:
        if len(similarities_P):
            weights_P = np.full(len(similarities_P), 1 / len(similarities_P))
            bins = np.linspace(low, 1, 50).tolist()
            label = f"{label} ({len(similarities_P)})"
            axes.hist(similarities_P, bins=bins, weights=weights_P, alpha=0.6, color=COLOURS[colour], label=label)
    draw_threshold(axes, threshold)
    axes.set(xlabel="similarity of mean embeddings", ylabel="share of pairs")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7, frameon=False)
    return to_svg(figure)


def plot_rates(curve: RateCurve, threshold: ThresholdReport) -> str:
    """Both rates at every threshold, shaded as far as they are sure, as inline SVG."""
    figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
    axes = figure.subplots()
    bands: tuple[tuple[str, str, Band | None], ...] = (
        ("different", "different people that match", curve.different),
        ("same", "same person that matches, in one camera", curve.same),
    )
    for colour, label, band in bands:
        if band is not None:
            low_C, rate_C, high_C = (
                np.maximum(values_C, MIN_RATE) for values_C in (band.low_C, band.rate_C, band.high_C)
            )
            axes.fill_between(curve.similarity_C, low_C, high_C, color=COLOURS[colour], alpha=0.2, linewidth=0)
            axes.plot(curve.similarity_C, rate_C, color=COLOURS[colour], linewidth=1.2, label=label)
    draw_threshold(axes, threshold)
    axes.set(xlabel="min_similarity", ylabel="share of pairs", yscale="log", ylim=(MIN_RATE, 1.2))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7, frameon=False, loc="lower left")
    return to_svg(figure)


def draw_threshold(axes: Axes, threshold: ThresholdReport) -> None:
    """Mark the threshold that was chosen and the interval it lies in."""
    if threshold.min_similarity is None:
        return
    if threshold.min_similarity_interval is not None:
        axes.axvspan(*threshold.min_similarity_interval, color=COLOURS["line"], alpha=0.1, linewidth=0)
    label = f"min_similarity {threshold.min_similarity:.3f}"
    axes.axvline(threshold.min_similarity, color=COLOURS["line"], linestyle="--", linewidth=1, label=label)


def plot_costs(costs: Mapping[str, float], float_blocks: Sequence[str], no_room: Sequence[str], *, passed: bool) -> str:
    """Cosine that each block alone costs in INT8, and what became of the block, as inline SVG."""
    shown = list(costs)[:COSTS_SHOWN]
    figure = Figure(figsize=(WIDTH, 0.9 + 0.2 * len(shown)), layout="constrained")
    axes = figure.subplots()
    fates = (
        ("different", "left in float", set(float_blocks)),
        ("none", "in INT8: would burst --max-float-share", set(no_room)),
        ("all", "in INT8: not needed in float" if passed else "in INT8", set(costs) - set(float_blocks) - set(no_room)),
    )
    for colour, label, names in fates:
        places = [place for place, name in enumerate(shown) if name in names]
        if places:
            lost = [costs[shown[place]] for place in places]
            axes.barh(places, lost, color=COLOURS[colour], label=label)
    axes.set_yticks(range(len(shown)), shown, fontsize=7)
    axes.invert_yaxis()
    axes.set(xlabel="mean cosine lost with this block alone in INT8")
    figure.legend(fontsize=7, frameon=False, loc="outside upper left", ncols=len(fates))
    return to_svg(figure)


def to_svg(figure: Figure) -> str:
    """SVG element of a figure, the same bytes for the same figure."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "reidge", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def picture(crop_HW3: NDArray[np.uint8]) -> str:
    """A crop as a data URL."""
    encoded, data = cv2.imencode(".jpg", crop_HW3, [cv2.IMWRITE_JPEG_QUALITY, 85])
    assert encoded
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()
