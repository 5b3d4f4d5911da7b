"""Pictures for the report: curves over epochs, and rows of crops with coloured frames."""

# H, W = height and width of a picture

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from reidge.edge.crops import resize_crops

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from reidge.train.run_folder import EpochRecord

INK, SOFT, GRID, SHADE = "#1f2933", "#52606d", "#e4e7eb", "#f1f3f5"
COLOURS = ("#0b7285", "#b35c00")
"""Of the first line of a chart and the second."""
COLUMNS = 3
MARKED = {"warmup": "warm-up", "distil": "distillation"}
"""Phases that are shaded, and the word on them; the others contrast clusters."""
MOST_DOTS = 30
"""Epochs beyond which the dots of a line would hide it."""
JPEG_QUALITY = 92
CROP_SIZE = (192, 96)
FRAME = 5
GAP = 8
GREEN, RED, NEUTRAL, WHITE = (76, 175, 47), (64, 64, 224), (196, 190, 182), (255, 255, 255)
"""BGR."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A figure over the epochs."""

    values: Sequence[float | None]
    """One for each epoch; None where it has none."""
    name: str = ""
    """Beside its last point, where a chart has several lines."""

    def points(self) -> list[tuple[int, float]]:
        """Epochs, counted from 1, that have a value, with it."""
        return [(epoch, value) for epoch, value in enumerate(self.values, 1) if value is not None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Lines that share their axes."""

    title: str
    lines: Sequence[Line]
    from_zero: bool = True
    """Whether heights count, not only their changes."""
    whole: bool = False
    """Whether values are whole numbers."""


def charts(history: Sequence[EpochRecord]) -> list[Chart]:
    """Pick what is worth drawing; figures nobody has are left out."""
    # In distillation every crop stands for itself: nothing is clustered or left out.
    clusters = [None if r.phase == "distil" else r.clusters for r in history]
    outliers = [None if r.phase == "distil" else r.outliers for r in history]
    accuracy = [
        Line(name="mAP", values=[None if r.mAP is None else 100 * r.mAP for r in history]),
        Line(name="rank-1", values=[None if r.rank1 is None else 100 * r.rank1 for r in history]),
    ]
    drawn = [
        Chart(title="loss", lines=[Line(values=[r.loss for r in history])]),
        Chart(title="clusters", lines=[Line(values=clusters)], whole=True),
        Chart(title="outliers", lines=[Line(values=outliers)], whole=True),
        Chart(title="eps", lines=[Line(values=[r.eps for r in history])], from_zero=False),
        Chart(title="learning rate", lines=[Line(values=[r.lr for r in history])]),
        Chart(title="mAP and rank-1, %", lines=accuracy),
        Chart(title="agreement with the last clusters", lines=[Line(values=[r.agreement for r in history])]),
        Chart(title="silhouette", lines=[Line(values=[r.silhouette for r in history])], from_zero=False),
        Chart(title="tracklets kept whole", lines=[Line(values=[r.tracklets for r in history])]),
    ]
    return [chart for chart in drawn if any(line.points() for line in chart.lines)]


def draw_curves(history: Sequence[EpochRecord]) -> str:
    """Draw all charts as one PNG; returns a data URI."""
    drawn = charts(history)
    rows = (len(drawn) + COLUMNS - 1) // COLUMNS
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    figure = Figure(figsize=(10.8, 2.7 * rows), layout=layout)
    phases = [record.phase for record in history]
    axes = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for ax, chart in zip(axes, drawn, strict=False):
        _draw(ax, chart, phases)
    for ax in axes[len(drawn) :]:
        ax.set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return _data_uri(buffer.getvalue(), "png")


def _draw(ax: Axes, chart: Chart, phases: Sequence[str]) -> None:
    _mark_phases(ax, phases)
    heights = []
    # The first line's name goes below it, the second's above: rank-1 is rarely below mAP.
    for line, colour, side in zip(chart.lines, COLOURS, (-1, 1), strict=False):
        points = line.points()
        if points:
            dots = 3.5 if len(points) <= MOST_DOTS else 0
            ax.plot(*zip(*points, strict=True), color=colour, linewidth=1.8, marker="o", markersize=dots)
            ax.annotate(
                line.name, points[-1], (0, 9 * side), textcoords="offset points", ha="right", va="center",
                fontsize=8.5, color=colour,
            )  # fmt: skip
        heights += [height for _, height in points]
    _set_limits(ax, min(heights), max(heights), from_zero=chart.from_zero)
    ax.set_title(chart.title, loc="left", fontsize=11, color=INK, fontweight="bold")
    ax.set_xlim(0.5, len(phases) + 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10], integer=chart.whole))
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")
    ax.grid(axis="y", color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(colors=SOFT, labelsize=8.5, length=0)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.spines["bottom"].set_color("#cbd2d9")
    ax.set_xlabel("epoch", fontsize=8.5, color=SOFT)


def _mark_phases(ax: Axes, phases: Sequence[str]) -> None:
    for phase, word in MARKED.items():
        if phase in phases:
            first = phases.index(phase) + 1
            last = first + phases.count(phase) - 1  # a phase is not taken up again
            ax.axvspan(first - 0.5, last + 0.5, color=SHADE, linewidth=0)
            ax.annotate(
                word, (first - 0.5, 1), (4, -4), xycoords=ax.get_xaxis_transform(), textcoords="offset points",
                fontsize=8, color=SOFT, va="top",
            )  # fmt: skip


def _set_limits(ax: Axes, low: float, high: float, *, from_zero: bool) -> None:
    if from_zero:
        low, high = min(low, 0), max(high, 0)
    room = (high - low) or abs(high) or 1
    # Above is room for words; below is none where the line stands on zero.
    ax.set_ylim(low if from_zero and low == 0 else low - 0.1 * room, high + 0.25 * room)


def crop_row(crops: Sequence[NDArray[np.uint8]], frames: Sequence[tuple[int, int, int]], *, lead: bool = False) -> str:
    """Set crops side by side, each in a frame of its colour; returns a data URI of a JPEG.

    Args:
        crops: BGR, any size.
        frames: BGR colour of each frame.
        lead: Set the first one apart, as the query of the others.
    """
    tiles = [
        cv2.copyMakeBorder(crop, FRAME, FRAME, FRAME, FRAME, cv2.BORDER_CONSTANT, value=frame)
        for crop, frame in zip(resize_crops(crops, size=CROP_SIZE, method="cubic"), frames, strict=True)
    ]
    parts = []
    for index, tile in enumerate(tiles):
        width = 0 if index == 0 else 3 * GAP if lead and index == 1 else GAP
        parts += [np.full((tile.shape[0], width, 3), WHITE, dtype=np.uint8), tile]
    encoded, data = cv2.imencode(".jpg", np.hstack(parts), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert encoded
    return _data_uri(data.tobytes(), "jpeg")


def _data_uri(picture: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"
