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

INK, GRID, ACCENT, SHADE = "#1f2933", "#e4e7eb", "#0b7285", "#f1f3f5"
CROP_SIZE = (192, 96)
FRAME = 5
GAP = 8
GREEN, RED, NEUTRAL, WHITE = (76, 175, 47), (64, 64, 224), (196, 190, 182), (255, 255, 255)
"""BGR."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One chart: a value over the epochs that have it."""

    title: str
    values: Sequence[float | None]
    """One for each epoch."""


def curves(history: Sequence[EpochRecord]) -> list[Curve]:
    """Pick what is worth drawing; figures nobody has are left out."""
    drawn = [
        Curve(title="loss", values=[r.loss for r in history]),
        Curve(title="clusters", values=[r.clusters for r in history]),
        Curve(title="outliers", values=[r.outliers for r in history]),
        Curve(title="learning rate", values=[r.lr for r in history]),
        Curve(title="images per second", values=[r.images_per_second for r in history]),
        Curve(title="mAP, %", values=[None if r.mAP is None else 100 * r.mAP for r in history]),
    ]
    return [curve for curve in drawn if any(value is not None for value in curve.values)]


def draw_curves(history: Sequence[EpochRecord]) -> str:
    """Draw all curves as one PNG; returns a data URI."""
    charts = curves(history)
    rows = (len(charts) + 2) // 3
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    figure = Figure(figsize=(10.8, 2.7 * rows), layout=layout)
    epochs = [record.epoch for record in history]
    warm = sum(record.phase == "warmup" for record in history)
    axes = figure.subplots(rows, 3, squeeze=False).ravel()
    for ax, curve in zip(axes, charts, strict=False):
        _draw(ax, epochs, curve, warm)
    for ax in axes[len(charts) :]:
        ax.set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return _data_uri(buffer.getvalue())


def _draw(ax: Axes, epochs: list[int], curve: Curve, warm: int) -> None:
    points = [(epoch, value) for epoch, value in zip(epochs, curve.values, strict=True) if value is not None]
    if warm:
        ax.axvspan(0.5, warm + 0.5, color=SHADE, linewidth=0)
        ax.text(0.7, 0.97, "warm-up", fontsize=8, color="#7b8794", va="top", transform=ax.get_xaxis_transform())
    ax.plot(*zip(*points, strict=True), color=ACCENT, linewidth=1.8, marker="o", markersize=3.5)
    ax.set_title(curve.title, loc="left", fontsize=11, color=INK, fontweight="bold")
    ax.set_xlim(0.5, max(epochs) + 0.5)
    low, high = min(value for _, value in points), max(value for _, value in points)
    ax.set_ylim(0 if low >= 0 else low, high * 1.25 or 1)  # room for the word above the curve
    ax.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(nbins=5))
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")
    ax.grid(axis="y", color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(colors="#52606d", labelsize=8.5, length=0)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.spines["bottom"].set_color("#cbd2d9")
    ax.set_xlabel("epoch", fontsize=8.5, color="#52606d")


def crop_row(crops: Sequence[NDArray[np.uint8]], frames: Sequence[tuple[int, int, int]], *, lead: bool = False) -> str:
    """Set crops side by side, each in a frame of its colour; returns a data URI of a PNG.

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
    encoded, data = cv2.imencode(".png", np.hstack(parts))
    assert encoded
    return _data_uri(data.tobytes())


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
